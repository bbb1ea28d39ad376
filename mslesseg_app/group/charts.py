"""The charts of the group report, from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mslesseg_app.group.quality import LIMIT, numbers
from mslesseg_app.group.summaries import by_model, measures
from mslesseg_app.reports.charts import Chart, ChartSeries, Line, rates, scatter, strips

if TYPE_CHECKING:
    import pandas as pd

#: Axis ends and words of the numbers that are shown; other columns are in the table alone.
_SHOWN: dict[str, tuple[str, tuple[float, ...]]] = {
    'DSC': ('Dice coefficient (DSC)', (0, 1)),
    'TPR': ('share of reference voxels found (TPR)', (0, 1)),
    'PPV': ('share of predicted voxels that are right (PPV)', (0, 1)),
    'LTPR': ('share of reference lesions found (LTPR)', (0, 1)),
    'LFPR': ('share of predicted lesions that are false (LFPR)', (0, 1)),
    'lesion_F1': ('lesion-wise F1', (0, 1)),
    'AVD_percent': ('absolute volume difference (%)', (0,)),
    'ASSD': ('average surface distance (mm)', (0,)),
    'HD95': ('95 % Hausdorff distance (mm)', (0,)),
    'NSD_1mm': ('normalised surface Dice at 1 mm', (0, 1)),
}
_STRIP = (
    'One point per exam; box: median and quartiles; diamond: mean with 95 % CI (bootstrap over '
    'patients).'
)


def exam_names(table: pd.DataFrame) -> list[str]:
    """Return ``sub-01 ses-1`` for each row."""
    pairs = zip(table['participant_id'], table['session_id'], strict=True)
    return [str(one) if two == 'n/a' else f'{one} {two}' for one, two in pairs]


def palette(models: Sequence[str]) -> dict[str, int]:
    """Give each model its colour, the same in all charts."""
    return {model: place for place, model in enumerate(models)}


def cohort_charts(table: pd.DataFrame, colours: dict[str, int]) -> list[Chart]:
    """Draw lesion volumes and counts by model, and one against the other."""
    parts = by_model(table)
    used = [colours[model] for model, _ in parts]
    charts = []
    for column, title, label in (
        ('lesion_volume_ml', 'Lesion volume', 'lesion volume (ml)'),
        ('lesion_count', 'Number of lesions', 'lesions'),
    ):
        series = [ChartSeries(m, numbers(p, column), labels=exam_names(p)) for m, p in parts]
        caption = 'One point per exam; box: median and quartiles.'
        if any(np.isfinite(one.x).any() for one in series):
            key = column.removesuffix('_ml')
            charts.append(
                strips(key, title, label, series, caption=caption, keep=(0,), colours=used)
            )
    series = [
        ChartSeries(m, numbers(p, 'lesion_volume_ml'), numbers(p, 'lesion_count'), exam_names(p))
        for m, p in parts
    ]
    if any((one.x > 0).any() for one in series):
        words = 'One point per exam; logarithmic volume scale, exams without lesions left out.'
        charts.append(
            scatter(
                'lesion_count_by_volume',
                'Number of lesions by volume',
                ('lesion volume (ml)', 'lesions'),
                series,
                caption=words,
                log=(True, False),
                keep=((), (0,)),
                colours=used,
            )
        )
    return charts


def outlier_chart(rows: Sequence[dict[str, Any]], scores: dict[str, ChartSeries]) -> Chart | None:
    """Draw the robust z values of all exams, one row a judged column."""
    series = [one for one in scores.values() if np.isfinite(one.x).any()]
    if not series:
        return None
    listed = len({(row['participant_id'], row['session_id']) for row in rows})
    return strips(
        'quality',
        'How far exams are from the usual',
        'robust z',
        series,
        caption=f'One point per exam; beyond ±{LIMIT} it is listed (alignment and coverage: below '
        f'−{LIMIT} only). {listed} {"exam is" if listed == 1 else "exams are"} listed in all.',
        marks=(-LIMIT, LIMIT),
        colours=[6] * len(series),
    )


def metric_charts(
    table: pd.DataFrame, summary: Sequence[dict[str, Any]], colours: dict[str, int]
) -> list[Chart]:
    """Draw one strip chart a metric."""
    found = {(row['model'], row['metric']): row for row in summary}
    parts = by_model(table)
    charts = []
    for metric in measures(table):
        if metric not in _SHOWN or not any((m, metric) in found for m, _ in parts):
            continue
        label, keep = _SHOWN[metric]
        series = []
        for model, part in parts:
            row = found.get((model, metric), {})
            mean, low, high = (row.get(key, math.nan) for key in ('mean', 'ci_low', 'ci_high'))
            values = numbers(part, metric)
            values[~np.isfinite(values)] = np.nan
            series.append(
                ChartSeries(
                    model, values, labels=exam_names(part), mean=float(mean), low=low, high=high
                )
            )
        charts.append(
            strips(
                f'metric_{metric}',
                metric,
                label,
                series,
                caption=_STRIP,
                keep=keep,
                colours=[colours[model] for model, _ in parts],
            )
        )
    return charts


def volume_charts(
    table: pd.DataFrame, agreement: Sequence[dict[str, Any]], colours: dict[str, int]
) -> list[Chart]:
    """Draw Bland-Altman and regression of each model."""
    parts = dict(by_model(table))
    charts = []
    for row in agreement:
        part = parts[row['model']]
        one, two = numbers(part, 'volume_predicted_ml'), numbers(part, 'volume_reference_ml')
        names, colour = exam_names(part), colours[row['model']]
        charts.append(_bland_altman(row, one, two, names, colour))
        charts.append(_regression(row, one, two, names, colour))
    return charts


def _bland_altman(
    row: dict[str, Any], one: np.ndarray, two: np.ndarray, names: list[str], colour: int
) -> Chart:
    middle, difference = (one + two) / 2, one - two
    ends = (float(np.nanmin(middle)) - 1e6, float(np.nanmax(middle)) + 1e6)
    lines = [Line(ends, (0, 0), 'no difference', dashed=False)]
    for key, words in (('bias', 'bias'), ('limit_low', 'lower'), ('limit_high', 'upper')):
        if math.isfinite(row[key]):
            dashed = key != 'bias'
            name = words if key == 'bias' else f'{words} limit of agreement'
            lines.append(Line(ends, (row[key], row[key]), name, colour, dashed))
    words = f'Bias {row["bias"]:.3g} ml (coloured line).'
    if math.isfinite(row['limit_low']):
        limits = f'{row["limit_low"]:.3g} to {row["limit_high"]:.3g} ml (dashed)'
        words = f'{words[:-1]}, limits of agreement {limits}.'
    return scatter(
        f'bland_altman_{row["model"]}',
        f'Volumes of {row["model"]}: difference',
        ('mean of both volumes (ml)', 'predicted − reference (ml)'),
        [ChartSeries(row['model'], middle, difference, names)],
        lines=lines,
        caption=words,
        keep=((), (0.0,)),
        colours=[colour],
    )


def _regression(
    row: dict[str, Any], one: np.ndarray, two: np.ndarray, names: list[str], colour: int
) -> Chart:
    high = float(np.nanmax(np.concatenate([one, two]))) * 1.2 + 1
    lines = [Line((0.0, high), (0.0, high), 'identity', dashed=True)]
    words = 'Dashed: identity.'
    if math.isfinite(row['slope']):
        ends = (row['intercept'], row['intercept'] + row['slope'] * high)
        lines.append(Line((0.0, high), ends, 'least squares', colour))
        words = (
            f'Line: predicted = {row["intercept"]:.3g} ml + {row["slope"]:.3g} × reference, '
            f'r² = {row["r_squared"]:.3f}. {words}'
        )
    return scatter(
        f'regression_{row["model"]}',
        f'Volumes of {row["model"]}: regression',
        ('reference volume (ml)', 'predicted volume (ml)'),
        [ChartSeries(row['model'], two, one, names)],
        lines=lines,
        caption=words,
        square=True,
        keep=((0.0,), (0.0,)),
        colours=[colour],
    )


def size_charts(
    table: pd.DataFrame, sizes: Sequence[dict[str, Any]], colours: dict[str, int]
) -> list[Chart]:
    """Draw the share of lesions found by their size, and Dice against the lesion load."""
    models = [model for model, _ in by_model(table)]
    classes = list(dict.fromkeys(str(row['size']) for row in sizes))
    charts = []
    if classes and any(row['n_lesions'] for row in sizes):
        rows = {(row['model'], row['size']): row for row in sizes}
        chosen = [[rows[model, size] for size in classes] for model in models]
        charts.append(
            rates(
                'lesions_found_by_size',
                'Reference lesions found, by their size',
                ('size of the reference lesion', 'share found'),
                classes,
                [
                    ChartSeries(
                        model,
                        np.zeros(0),
                        np.array([row['share'] for row in part]),
                        [f'{row["n_lesions"]} lesions' for row in part],
                    )
                    for model, part in zip(models, chosen, strict=True)
                ],
                lows=[np.array([row['ci_low'] for row in part]) for part in chosen],
                highs=[np.array([row['ci_high'] for row in part]) for part in chosen],
                caption='Lesions of all exams pooled; bars: 95 % interval (patients drawn again).',
                colours=[colours[model] for model in models],
            )
        )
    parts = by_model(table)
    series = [
        ChartSeries(m, numbers(p, 'volume_reference_ml'), numbers(p, 'DSC'), exam_names(p))
        for m, p in parts
    ]
    if any(((one.x > 0) & np.isfinite(one.y)).any() for one in series):
        charts.append(
            scatter(
                'DSC_by_volume',
                'Dice coefficient by lesion load',
                ('reference volume (ml)', 'DSC'),
                series,
                caption='One point per exam; volume on a logarithmic scale, empty references left '
                'out.',
                log=(True, False),
                keep=((), (0.0, 1.0)),
                colours=[colours[model] for model, _ in parts],
            )
        )
    return charts
