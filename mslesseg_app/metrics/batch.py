"""Many pairs of masks at once, several at a time, into one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mslesseg_app.core.errors import DiskError, MSLesSegError
from mslesseg_app.core.files import atomic_path, explain_os_error, write_json
from mslesseg_app.core.text import aligned
from mslesseg_app.metrics.cohort import isbi_score, volume_correlation
from mslesseg_app.metrics.evaluation import Evaluation, evaluate, evaluation_columns
from mslesseg_app.metrics.pairs import MaskPair
from mslesseg_app.metrics.rules import RULES, get_rules
from mslesseg_app.spatial.masks import on_grid_of, read_mask, read_probability, voxel_sizes

if TYPE_CHECKING:
    import pandas as pd

_OWN_COLUMNS: dict[str, dict[str, Any]] = {
    'name': {'Description': 'Whose mask it is: the entities or the name of the file.'},
    'prediction': {'Description': 'File of the predicted mask, as it was given.'},
    'reference': {'Description': 'File of the reference mask, as it was given.'},
    'rules': {
        'Description': 'Rule set of the numbers.',
        'Levels': {name: rules.title for name, rules in RULES.items()},
    },
}
_NOTE: dict[str, dict[str, Any]] = {
    'note': {
        'Description': 'Why a value is n/a or inf, or why the pair could not be compared; n/a '
        'when every value is a number.'
    }
}


@dataclass(frozen=True)
class Options:
    """How files are read and compared.

    Attributes
    ----------
    rules : tuple of str
        Rule sets; one row each.
    resample : bool
        Bring other grids to that of the reference.
    label, reference_label : int or None
        Value of the lesions in label images.
    """

    rules: tuple[str, ...] = ('mslesseg',)
    resample: bool = False
    label: int | None = None
    reference_label: int | None = None


@dataclass(frozen=True)
class PairOutcome:
    """What one pair gave: an evaluation a rule set, or the error that stopped it."""

    pair: MaskPair
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    error: MSLesSegError | None = None


def evaluate_pair(pair: MaskPair, options: Options) -> dict[str, Evaluation]:
    """Read one pair of masks and compare it under each rule set.

    The grid of the reference decides.

    Raises
    ------
    NoInputError, DataError
        If a file is missing, is damaged, is no mask or lies on another grid.
    """
    reference = read_mask(pair.reference, options.reference_label)
    prediction = on_grid_of(
        reference,
        read_mask(pair.prediction, options.label),
        pair.prediction,
        options.resample,
        linear=False,
    )
    probability = None
    if pair.probability is not None:
        image = read_probability(pair.probability)
        image = on_grid_of(reference, image, pair.probability, options.resample, linear=True)
        probability = np.clip(np.asanyarray(image.dataobj), 0, 1)
    masks = [np.asanyarray(image.dataobj) > 0 for image in (prediction, reference)]
    spacing = voxel_sizes(reference, pair.reference)
    return {
        rules: evaluate(masks[0], masks[1], spacing, rules, probability) for rules in options.rules
    }


def evaluate_pairs(
    pairs: Sequence[MaskPair], options: Options, nprocs: int = 1
) -> list[PairOutcome]:
    """Compare all pairs, in their order; one that fails does not stop the others.

    Parameters
    ----------
    pairs : sequence of MaskPair
    options : Options
    nprocs : int
        Processes; the results do not depend on it.

    Raises
    ------
    UsageError
        For an unknown rule set.
    """
    for rules in options.rules:
        get_rules(rules)
    work = [(pair, options) for pair in pairs]
    workers = min(nprocs, len(pairs))
    if workers < 2:
        return [_guarded(item) for item in work]
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context('spawn')) as pool:
            return list(pool.map(_guarded, work))
    except BrokenProcessPool as error:
        raise DiskError(
            'A process that compares masks was ended from outside.',
            'Probably the memory did not suffice; use fewer with --nprocs.',
        ) from error


def _guarded(work: tuple[MaskPair, Options]) -> PairOutcome:
    pair, options = work
    try:
        return PairOutcome(pair, evaluate_pair(pair, options))
    except MSLesSegError as error:
        return PairOutcome(pair, error=error)
    except OSError as error:
        return PairOutcome(pair, error=explain_os_error(error, pair.prediction))


# ---------------------------------------------------------------------------- table


def table_columns(rules: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the columns of the table of some rule sets and their descriptions, in order.

    What the rule sets do not describe alike is described for each.
    """
    described: dict[str, dict[str, dict[str, str]]] = {}
    for name in _merged_order(rules):
        described[name] = {
            chosen: evaluation_columns(chosen)[name]
            for chosen in rules
            if name in evaluation_columns(chosen)
        }
    return {
        **_OWN_COLUMNS,
        **{name: _merged_column(by_rules, len(rules)) for name, by_rules in described.items()},
        **_NOTE,
    }


def _merged_order(rules: Sequence[str]) -> list[str]:
    """Return all columns; those that one rule set adds follow what precedes them there."""
    order: list[str] = []
    for chosen in rules:
        place = 0
        for name in evaluation_columns(chosen):
            if name in order:
                place = order.index(name) + 1
            else:
                order.insert(place, name)
                place += 1
    return order


def _merged_column(by_rules: dict[str, dict[str, str]], wanted: int) -> dict[str, str]:
    """Merge the descriptions of a column; a rule set without the column has ``n/a`` there."""
    first = next(iter(by_rules.values()))
    if len(by_rules) == wanted and all(column == first for column in by_rules.values()):
        return first
    texts: dict[str, list[str]] = {}
    for rules, column in by_rules.items():
        texts.setdefault(column['Description'], []).append(rules)
    lines = [f'{", ".join(rules)}: {text}' for text, rules in texts.items()]
    if len(by_rules) < wanted:
        lines.append('other rule sets have no such number (n/a)')
    units = {column.get('Units', '') for column in by_rules.values()}
    joined = {'Description': ' | '.join(lines)}
    return joined | ({'Units': ' or '.join(sorted(units))} if units != {''} else {})


def to_table(outcomes: Sequence[PairOutcome], rules: Sequence[str]) -> pd.DataFrame:
    """Return one row per pair and rule set; a pair that failed has its reason in ``note``."""
    import pandas as pd

    rows = [row for outcome in outcomes for row in _outcome_rows(outcome, rules)]
    return pd.DataFrame(rows, columns=list(table_columns(rules)))


def _outcome_rows(outcome: PairOutcome, rules: Sequence[str]) -> Iterator[dict[str, Any]]:
    pair = outcome.pair
    for name in rules:
        row: dict[str, Any] = {
            'name': pair.name,
            'prediction': str(pair.prediction),
            'reference': str(pair.reference),
            'rules': name,
        }
        if outcome.error is not None:
            yield row | {'note': str(outcome.error)}
        else:
            result = outcome.evaluations[name]
            yield row | result.values | {'note': result.note or None}


def write_table(table: pd.DataFrame, path: Path, columns: dict[str, dict[str, Any]]) -> None:
    """Write a TSV and, beside it, the dictionary of its columns."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep='\t', index=False, na_rep='n/a', float_format='%.10g')
    write_json(path.with_suffix('.json'), columns)


#: Columns that are printed, of those that a rule set has; at most so many rows.
_PRINTED = (
    'DSC', 'TPR', 'PPV', 'LTPR', 'LFPR', 'F1', 'ISBI_partial', 'volume_reference_ml',
    'volume_predicted_ml',
)  # fmt: skip
_MOST_PRINTED = 20


def result_in_words(outcomes: Sequence[PairOutcome], rules: Sequence[str]) -> str:
    """Return the main columns of the table as aligned text, with the mean of several pairs."""
    rows: list[list[str]] = []
    columns = [name for name in _PRINTED if name in table_columns(rules)]
    for chosen in rules:
        done = [one for one in outcomes if one.error is None]
        found = [(one.pair.name, one.evaluations[chosen].values) for one in done]
        shown = found[:_MOST_PRINTED]
        rows += [[name, chosen, *_shown(values, columns)] for name, values in shown]
        if len(found) > len(shown):
            rows.append([f'… {len(found) - len(shown)} more', chosen, *[''] * len(columns)])
        if len(found) > 1:
            means = {name: _mean([values.get(name) for _, values in found]) for name in columns}
            rows.append([f'mean of {len(found)}', chosen, *_shown(means, columns)])
    return aligned(['exam', 'rules', *columns], rows) if rows else ''


def _shown(values: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    numbers = [values.get(name) for name in columns]
    return [f'{value:.3f}' if _is_known(value) else '' for value in numbers]


def _mean(values: list[Any]) -> float:
    known = [float(value) for value in values if _is_known(value)]
    return sum(known) / len(known) if known else math.nan


def _is_known(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


# --------------------------------------------------------------------------- cohort

COHORT_COLUMNS: dict[str, dict[str, Any]] = {
    'rules': _OWN_COLUMNS['rules'],
    'n_pairs': {'Description': 'Number of pairs that could be compared.'},
    'volume_correlation': {
        'Description': "Pearson's correlation of the volumes of prediction and reference over "
        'all pairs; n/a with fewer than three or with constant volumes.',
    },
    'ISBI_score': {
        'Description': 'Score of the ISBI 2015 challenge, 0 to 1: mean ISBI_partial and a '
        'quarter of the volume correlation; only of the rule set isbi2015.',
    },
    **_NOTE,
}


def cohort_table(outcomes: Sequence[PairOutcome], rules: Sequence[str]) -> pd.DataFrame:
    """Return what only several pairs together have, one row a rule set."""
    import pandas as pd

    done = [outcome.evaluations for outcome in outcomes if outcome.error is None]
    rows = [_cohort_row([by_rules[name] for by_rules in done], name) for name in rules]
    return pd.DataFrame(rows, columns=list(COHORT_COLUMNS))


def _cohort_row(results: list[Evaluation], rules: str) -> dict[str, Any]:
    volumes = [
        [result.values[f'volume_{which}_ml'] for result in results]
        for which in ('predicted', 'reference')
    ]
    correlation, reason = volume_correlation(*volumes)
    notes = [f'volume_correlation: {reason}'] if reason else []
    score = math.nan
    if get_rules(rules).isbi_score:
        score = isbi_score([result.values['ISBI_partial'] for result in results], correlation)
        if math.isnan(score):
            notes.append('ISBI_score: a term of it is not defined')
    return {
        'rules': rules,
        'n_pairs': len(results),
        'volume_correlation': correlation,
        'ISBI_score': score,
        'note': '; '.join(notes) or None,
    }
