"""Change between sessions over the cohort, from ``group_change.tsv``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mslesseg_app.core.errors import DataError
from mslesseg_app.group.quality import numbers
from mslesseg_app.group.summaries import by_model
from mslesseg_app.reports.charts import Chart, ChartSeries, strips

if TYPE_CHECKING:
    import pandas as pd

_STATES = ('new', 'enlarging', 'shrinking', 'resolved', 'stable')
_ENDS = ('session_before', 'session_after')
_SPLITS = ('split', 'group', 'cohort')

PROGRESS_COLUMNS: dict[str, dict[str, Any]] = {
    'part': {'Description': 'All participants, or those of one value of split, group or cohort.'},
    'model': {'Description': 'Model.'},
    'n_pairs': {'Description': 'Pairs of consecutive sessions that can be compared.'},
    'n_left_out': {'Description': 'Pairs that cannot be compared; not in the numbers.'},
    'n_participants': {'Description': 'Participants of the pairs.'},
    'years': {'Description': 'Sum of the intervals; n/a without dates.', 'Units': 'year'},
    **{f'n_{state}': {'Description': f'Lesions that are {state}.'} for state in _STATES},
    'new_per_year': {'Description': 'New lesions of pairs with dates over their years.'},
    'n_active': {'Description': 'Pairs with a new or enlarging lesion.'},
    'mean_difference_ml': {
        'Description': 'Mean of later less earlier lesion volume.',
        'Units': 'ml',
    },
}


def read_changes(path: Path) -> pd.DataFrame | None:
    """Read the table of changes; None where there is none.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    import pandas as pd

    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path, sep='\t', dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f'{path} cannot be read: {error}', 'Remove it.') from error
    missing = {'participant_id', 'model', 'n_new'} - set(table)
    if missing:
        raise DataError(f'{path} lacks {", ".join(sorted(missing))}.', 'Remove it.')
    if 'pair' in table:
        table = table[table['pair'] == 'consecutive']
    return table.reset_index(drop=True)


def progress_rows(table: pd.DataFrame, people: pd.DataFrame) -> list[dict[str, Any]]:
    """Sum the changes of comparable pairs of consecutive sessions.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per pair and model.
    people : pandas.DataFrame
        Merged metrics tables with the columns of participants.
    """
    parts = [('all', table)]
    if column := next((name for name in _SPLITS if name in people), None):
        groups = dict(zip(people['participant_id'], people[column], strict=True))
        values = table['participant_id'].map(groups)
        parts += [(f'{column} {v}', table[values == v]) for v in sorted(set(values.dropna()))]
    return [
        _participant_row(name, model, part)
        for name, chosen in parts
        if len(chosen)
        for model, part in by_model(chosen)
    ]


def without(table: pd.DataFrame, exams: set[tuple[str, str]]) -> pd.DataFrame:
    """Leave out the pairs of which a session is excluded."""
    keep = [
        not any((row['participant_id'], row.get(name, '')) in exams for name in _ENDS)
        for row in table.to_dict('records')
    ]
    return table[keep].reset_index(drop=True)


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs that were judged to be comparable."""
    if 'status' not in table:
        return table
    return table[~table['status'].isin(['fail', 'not comparable'])]


def _participant_row(name: str, model: str, part: pd.DataFrame) -> dict[str, Any]:
    good = comparable(part)
    years, new = numbers(good, 'years'), numbers(good, 'n_new')
    dated = np.isfinite(years) & (years > 0)
    total = float(years[dated].sum())
    active = (new > 0) | (numbers(good, 'n_enlarging') > 0)
    difference = numbers(good, 'difference_ml')
    known = difference[np.isfinite(difference)]
    return {
        'part': name,
        'model': model,
        'n_pairs': len(good),
        'n_left_out': len(part) - len(good),
        'n_participants': int(good['participant_id'].nunique()),
        'years': total if dated.any() else None,
        **{f'n_{state}': _total(good, f'n_{state}') for state in _STATES},
        'new_per_year': float(np.nansum(new[dated])) / total if dated.any() else None,
        'n_active': int(active.sum()),
        'mean_difference_ml': float(known.mean()) if known.size else math.nan,
    }


def _total(part: pd.DataFrame, column: str) -> int | None:
    values = numbers(part, column)
    return int(np.nansum(values)) if np.isfinite(values).any() else None


def progress_charts(table: pd.DataFrame, colours: dict[str, int]) -> list[Chart]:
    """Draw new lesions and change of volume of each pair, by model."""
    parts = [(model, comparable(part)) for model, part in by_model(table)]
    charts = []
    for column, key, title, label in (
        ('n_new', 'change_new', 'New lesions between sessions', 'new lesions of a pair'),
        ('difference_ml', 'change_volume', 'Change of lesion volume', 'later − earlier (ml)'),
    ):
        series = [
            ChartSeries(model, numbers(part, column), labels=_pair_names(part))
            for model, part in parts
        ]
        if any(np.isfinite(one.x).any() for one in series):
            words = 'One point per pair of consecutive sessions; box: quartiles, with the median.'
            used = [colours.get(model, 6) for model, _ in parts]
            charts.append(
                strips(key, title, label, series, caption=words, keep=(0,), colours=used)
            )
    return charts


def _pair_names(table: pd.DataFrame) -> list[str]:
    ends = [table[name].tolist() if name in table else [''] * len(table) for name in _ENDS]
    rows = zip(table['participant_id'], *ends, strict=True)
    return [f'{who} {one} to {two}'.strip() for who, one, two in rows]
