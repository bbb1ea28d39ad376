"""Tables and cells of the group report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mslesseg_app.bids.names import group_path
from mslesseg_app.group import summaries
from mslesseg_app.group.statistics import RESAMPLES
from mslesseg_app.reports.tabular import Cell, Column, Interval, Spread, Table

if TYPE_CHECKING:
    pass

INTERVALS = (
    f'Intervals are 95 % percentile intervals of {RESAMPLES} resamples of the patients, each with '
    'all scans: they say how the mean would vary with other patients of the same kind, not how '
    'single exams vary.'
)


TITLES = {
    'participant_id': 'participant',
    'session_id': 'session',
    'n_exams': 'exams',
    'n_patients': 'patients',
    'n_models': 'models',
    'n_lesions': 'lesions',
    'n_found': 'found',
    'robust_z': 'robust z',
    'p_holm': 'p (Holm)',
    'p_wilcoxon': 'p (Wilcoxon)',
    'p_permutation': 'p (permutation)',
    'DSC_majority': 'DSC: majority',
    'DSC_reference': 'DSC: reference',
    'DSC_C1': 'DSC: C1',
    'DSC_C2': 'DSC: C2',
    'in_C2': 'in C2',
    'n_with': 'exams with ≥ 1 lesion',
    'share_lesions': 'share of lesions',
    'share_volume': 'share of volume',
    'volume_ml': 'volume',
    'mean_volume_ml': 'mean volume',
    'median_volume_ml': 'median volume',
    'n_pairs': 'pairs',
    'n_left_out': 'left out',
    'n_participants': 'participants',
    'n_active': 'pairs with activity',
    'mean_difference_ml': 'mean difference',
    **{f'n_{name}': name for name in ('new', 'enlarging', 'shrinking', 'resolved', 'stable')},
}


def plain_table(
    key: str,
    title: str,
    rows: Sequence[dict[str, Any]],
    columns: dict[str, dict[str, Any]],
    chosen: Iterable[str] = (),
) -> Table:
    """Show rows as they are, all columns or those chosen."""
    names = list(chosen) or list(columns)
    heads = tuple(
        Column(
            name,
            TITLES.get(name, name.replace('_', ' ') if name.islower() else name),
            str(columns[name].get('Description', '')),
            str(columns[name].get('Units', '')),
        )
        for name in names
    )
    cells = tuple(tuple(cell(row.get(name)) for name in names) for row in rows)
    return Table(key, title, heads, cells)


def cell(value: Any) -> Cell:
    if value is None or value == 'n/a' or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | str | int | float):
        return value
    return str(value)


def data_file(key: str) -> str:
    return group_path(key).as_posix()


def metrics_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return models × metrics: mean ± SD over exams."""
    metrics = summaries.compared(dict.fromkeys(row['metric'] for row in rows))
    models = list(dict.fromkeys(row['model'] for row in rows))
    found = {(row['model'], row['metric']): row for row in rows}
    heads = (Column('model', 'model'), *(Column(name, name) for name in metrics))
    cells = []
    for model in models:
        known = [found.get((model, metric)) for metric in metrics]
        spreads = [None if row is None else Spread(row['mean'], row['sd']) for row in known]
        cells.append((model, *spreads))
    notes = ('Mean ± SD over exams; AVD in percent, distances in mm.',)
    return Table('models', 'Models and metrics', heads, tuple(cells), notes)


def interval_cell(row: dict[str, Any] | None) -> Cell:
    return None if row is None else Interval(row['mean'], row['ci_low'], row['ci_high'])


def summary_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return one row per model and metric: mean, interval, SD and median."""
    heads = (
        Column('metric', 'metric'),
        Column('model', 'model'),
        Column('mean', 'mean (95 % interval)'),
        Column('sd', 'SD'),
        Column('median', 'median'),
        Column('quartiles', 'quartiles'),
        Column('n_exams', 'exams'),
        Column('n_patients', 'patients'),
        Column('n_undefined', 'not defined'),
    )
    order = {name: place for place, name in enumerate(dict.fromkeys(r['metric'] for r in rows))}
    cells = tuple(
        (
            row['metric'],
            row['model'],
            interval_cell(row),
            cell(row['sd']),
            cell(row['median']),
            f'{row["q1"]:.4g} to {row["q3"]:.4g}' if row['n_exams'] else None,
            row['n_exams'],
            row['n_patients'],
            row['n_undefined'],
        )
        for row in sorted(rows, key=lambda row: order[row['metric']])
    )
    return Table('summary', 'Accuracy by model', heads, cells, (INTERVALS,))


def mean_of(values: Sequence[Any]) -> float | None:
    known = [float(v) for v in values if v is not None and math.isfinite(v)]
    return sum(known) / len(known) if known else None
