"""How lesions are distributed over the regions of the McDonald criteria."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mslesseg_app.group.charts import exam_names
from mslesseg_app.group.quality import numbers
from mslesseg_app.group.summaries import by_model
from mslesseg_app.reports.charts import Chart, ChartSeries, strips

if TYPE_CHECKING:
    import pandas as pd

#: Regions by their names in tables, and in words.
REGIONS = {
    'periventricular': 'periventricular',
    'juxtacortical': 'juxtacortical or cortical',
    'infratentorial': 'infratentorial',
    'deep_white_matter': 'deep white matter',
}

REGION_COLUMNS: dict[str, dict[str, Any]] = {
    'model': {'Description': 'Model.'},
    'region': {'Description': 'Region of the lesions.', 'Levels': REGIONS},
    'n_exams': {'Description': 'Exams in which lesions were assigned to regions.'},
    'n_with': {'Description': 'Exams with a lesion there.'},
    'n_lesions': {'Description': 'Lesions there, all exams.'},
    'share_lesions': {'Description': 'Share of all lesions, 0 to 1.'},
    'volume_ml': {'Description': 'Lesion volume there, all exams.', 'Units': 'ml'},
    'share_volume': {'Description': 'Share of the volume of all lesions, 0 to 1.'},
    'mean_volume_ml': {'Description': 'Mean volume of an exam.', 'Units': 'ml'},
    'median_volume_ml': {'Description': 'Median volume of an exam.', 'Units': 'ml'},
}


def region_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Sum lesions and volumes by model and region.

    Parameters
    ----------
    table : pandas.DataFrame
        Merged metrics tables (text) with the columns ``<region>_lesions`` and
        ``<region>_volume_ml``.

    Returns
    -------
    list of dict
        Keys of `REGION_COLUMNS`; empty where no exam has these columns.
    """
    rows = []
    for model, part in by_model(table):
        counts = {name: numbers(part, f'{name}_lesions') for name in REGIONS}
        volumes = {name: numbers(part, f'{name}_volume_ml') for name in REGIONS}
        known = np.isfinite([*counts.values(), *volumes.values()]).all(axis=0)
        if not known.any():
            continue
        lesions = sum(float(values[known].sum()) for values in counts.values())
        millilitres = sum(float(values[known].sum()) for values in volumes.values())
        for name in REGIONS:
            count, volume = counts[name][known], volumes[name][known]
            rows.append(
                {
                    'model': model,
                    'region': name,
                    'n_exams': int(known.sum()),
                    'n_with': int((count > 0).sum()),
                    'n_lesions': int(count.sum()),
                    'share_lesions': float(count.sum()) / lesions if lesions else None,
                    'volume_ml': float(volume.sum()),
                    'share_volume': float(volume.sum()) / millilitres if millilitres else None,
                    'mean_volume_ml': float(volume.mean()),
                    'median_volume_ml': float(np.median(volume)),
                }
            )
    return rows


def region_charts(table: pd.DataFrame, colours: dict[str, int]) -> list[Chart]:
    """Draw lesions by region, one chart a model."""
    charts = []
    for model, part in by_model(table):
        series = [
            ChartSeries(words, numbers(part, f'{name}_lesions'), labels=exam_names(part))
            for name, words in REGIONS.items()
        ]
        if any(np.isfinite(one.x).any() for one in series):
            charts.append(
                strips(
                    f'regions_{model}',
                    f'Lesions by region, {model}',
                    'lesions of an exam',
                    series,
                    caption='One point per exam; box: median and quartiles.',
                    keep=(0,),
                    colours=[colours[model]] * len(series),
                )
            )
    return charts


def dissemination(table: pd.DataFrame) -> list[str]:
    """Say how many exams meet dissemination in space, for each model and version of the rule."""
    words = []
    for model, part in by_model(table):
        for year in ('2017', '2024'):
            if (column := f'dissemination_{year}') not in part:
                continue
            values = [str(value) for value in part[column] if str(value) != 'n/a']
            if values:
                counts = ', '.join(f'{values.count(one)} {one}' for one in sorted(set(values)))
                words.append(
                    f'Dissemination in space by the criteria of {year}, {model}, {len(values)} '
                    f'exams: {counts}. Spinal cord and optic nerve are not assessed.'
                )
    return words
