"""A trained model on exams with masks: one row per exam and rule set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mslesseg_app.core.files import write_text
from mslesseg_app.metrics.evaluation import evaluate
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.presets import DEFAULT, resolve
from mslesseg_app.models.prediction.white_matter import only_in_white_matter
from mslesseg_app.models.registry import load_predictor
from mslesseg_app.paper.published import METRICS
from mslesseg_app.training.cases import LabelledCase, load_case

RULES = ('mslesseg', 'mslesseg-official')
"""Our metrics and those of the published code, faults included."""

COLUMNS = ('model', 'fold', 'name', 'rules', *METRICS)


def evaluate_cases(
    entry: ModelEntry,
    cases: Sequence[LabelledCase],
    *,
    model: str,
    fold: str = '',
    device: str = 'cpu',
    threads: int = 1,
    seed: int = 1,
    preset: str = DEFAULT,
) -> Iterator[dict[str, str]]:
    """Yield the rows of each exam.

    Masks are the probability at and above the threshold of the model within the brain; no lesion
    is too small, as in the paper.

    Parameters
    ----------
    entry : ModelEntry
    cases : sequence of LabelledCase
    model, fold : str
        For the columns of these names.
    device : str
    threads, seed : int
    preset : {'fast', 'exact'}
        How the weights are asked; see `mslesseg_app.models.prediction.presets`.
    """
    predictor = load_predictor(resolve(entry, preset), device, threads, seed)
    for case in cases:
        loaded = load_case(case, entry)
        prob = predictor(loaded.channels, loaded.brain, loaded.present)
        prob = only_in_white_matter(prob * loaded.brain, entry.threshold, entry.least_white_matter)
        found = prob >= entry.threshold
        for rules in RULES:
            values = evaluate(found, loaded.mask, loaded.spacing, rules).values
            yield {
                'model': model,
                'fold': fold or 'n/a',
                'name': case.name,
                'rules': rules,
                **{name: _number_or_na(_metric(values, name)) for name in METRICS},
            }


def _metric(values: Mapping[str, float], name: str) -> float:
    if name == 'AVD_percent' and name not in values:
        return 100 * values.get('AVD', math.nan)
    return values.get(name, math.nan)


def _number_or_na(value: float) -> str:
    return 'n/a' if math.isnan(value) else f'{value:.10g}'


def write_rows(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Write rows as a TSV."""
    lines = ['\t'.join(COLUMNS), *('\t'.join(row[c] for c in COLUMNS) for row in rows)]
    write_text(path, '\n'.join(lines) + '\n')
