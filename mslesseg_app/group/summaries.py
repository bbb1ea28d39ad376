"""From a row per exam to a row per model: means, comparisons, volumes, lesion sizes, cohort."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mslesseg_app.group.quality import numbers
from mslesseg_app.group.statistics import (
    PatientBootstrap,
    bland_altman,
    compare,
    holm,
    regression,
    summarise,
)

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

#: Columns of the evaluation that are sums or counts of one exam, not measures of a model.
_COUNTS = re.compile(r'^(n_|volume_)')

_STRATA = ('LTPR_', 'LFPR_')

_EXAMS = {'Description': 'Number of exams (scans).'}
_PATIENTS = {'Description': 'Number of patients.'}
_INTERVAL = ' end of the 95 % percentile interval (patients drawn again with all their scans).'

SUMMARY_COLUMNS: dict[str, dict[str, Any]] = {
    'model': {'Description': 'Model, or consensus of all models.'},
    'rules': {'Description': 'Rule set of the evaluation.'},
    'metric': {'Description': 'Column of group_evaluation.tsv.'},
    'n_exams': {'Description': 'Number of exams in which the metric is defined.'},
    'n_patients': {'Description': 'Number of patients of these exams.'},
    'n_undefined': {'Description': 'Number of exams in which it is not defined or infinite.'},
    'mean': {'Description': 'Mean over exams.'},
    'sd': {'Description': 'Standard deviation over exams (n - 1).'},
    'median': {'Description': 'Median over exams.'},
    'q1': {'Description': 'First quartile.'},
    'q3': {'Description': 'Third quartile.'},
    'ci_low': {'Description': 'Mean: lower' + _INTERVAL},
    'ci_high': {'Description': 'Mean: upper' + _INTERVAL},
}

COMPARISON_COLUMNS: dict[str, dict[str, Any]] = {
    'metric': {'Description': 'Column of group_evaluation.tsv.'},
    'model_a': {'Description': 'First model.'},
    'model_b': {'Description': 'Second model.'},
    'n_exams': {'Description': 'Exams in which the metric is defined for both.'},
    'n_patients': {'Description': 'Patients of these exams.'},
    'mean_difference': {'Description': 'Mean over exams of first minus second.'},
    'ci_low': {'Description': 'Mean difference: lower' + _INTERVAL},
    'ci_high': {'Description': 'Mean difference: upper' + _INTERVAL},
    'median_difference': {'Description': "Median over patients of the patients' mean difference."},
    'p_wilcoxon': {'Description': "Wilcoxon's signed-rank test over patients, two-sided."},
    'p_permutation': {
        'Description': 'Sign-flip permutation test of the mean over patients, two-sided.'
    },
    'p_holm': {
        'Description': 'p_wilcoxon corrected by Holm over all pairs of models of this metric.'
    },
    'p_holm_all': {'Description': 'p_wilcoxon corrected by Holm over all rows of this table.'},
}

AGREEMENT_COLUMNS: dict[str, dict[str, Any]] = {
    'model': {'Description': 'Model, or consensus of all models.'},
    'n_exams': _EXAMS,
    'n_patients': _PATIENTS,
    'bias': {'Description': 'Mean of predicted minus reference volume.', 'Units': 'ml'},
    'bias_ci_low': {'Description': 'Bias: lower' + _INTERVAL, 'Units': 'ml'},
    'bias_ci_high': {'Description': 'Bias: upper' + _INTERVAL, 'Units': 'ml'},
    'difference_sd': {'Description': 'SD of the differences (n - 1).', 'Units': 'ml'},
    'limit_low': {
        'Description': 'Lower limit of agreement: bias - 1.96 SD; scans taken as independent.',
        'Units': 'ml',
    },
    'limit_high': {'Description': 'Upper limit of agreement: bias + 1.96 SD.', 'Units': 'ml'},
    'trend': {'Description': 'Slope of the difference on the mean of both volumes.'},
    'trend_p': {'Description': 'p of that slope (t test, scans taken as independent).'},
    'intercept': {
        'Description': 'Least squares of predicted on reference volume: intercept.',
        'Units': 'ml',
    },
    'slope': {'Description': 'Its slope.'},
    'slope_ci_low': {'Description': 'Slope: lower' + _INTERVAL},
    'slope_ci_high': {'Description': 'Slope: upper' + _INTERVAL},
    'r': {'Description': "Pearson's correlation of the volumes."},
    'r_squared': {'Description': 'Its square.'},
    'rho': {'Description': "Spearman's rank correlation of the volumes."},
    'ccc': {'Description': "Lin's concordance correlation of the volumes."},
}

SIZE_COLUMNS: dict[str, dict[str, Any]] = {
    'model': {'Description': 'Model, or consensus of all models.'},
    'size': {'Description': 'Class of reference lesions by volume; see group_evaluation.json.'},
    'n_exams': {'Description': 'Exams with a reference lesion of this size.'},
    'n_patients': _PATIENTS,
    'n_lesions': {'Description': 'Reference lesions of this size in all exams.'},
    'n_found': {'Description': 'Of these, found by the rules of the evaluation.'},
    'share': {'Description': 'Found lesions over all of this size, exams pooled.'},
    'ci_low': {'Description': 'Share: lower' + _INTERVAL},
    'ci_high': {'Description': 'Share: upper' + _INTERVAL},
}

COHORT_COLUMNS: dict[str, dict[str, Any]] = {
    'part': {'Description': 'All, or the exams whose participants.tsv says so.'},
    'variable': {'Description': 'What is described.'},
    'model': {'Description': 'Model of lesion volumes and counts; n/a for the rest.'},
    'n': {'Description': 'Exams (volumes, counts) or participants (the rest) with a value.'},
    'mean': {'Description': 'Mean.'},
    'sd': {'Description': 'Standard deviation (n - 1).'},
    'median': {'Description': 'Median.'},
    'minimum': {'Description': 'Smallest value.'},
    'maximum': {'Description': 'Largest value.'},
    'levels': {'Description': 'Number of participants by value, where values are words.'},
}


def measures(table: pd.DataFrame) -> list[str]:
    """Return the columns of an evaluation that measure a model, in order."""
    named = {'participant_id', 'session_id', 'model', 'rules', 'reference_grid', 'note'}
    return [str(c) for c in table if c not in named and not _COUNTS.match(str(c))]


def compared(metrics: Iterable[str]) -> list[str]:
    """Leave out strata, calibration and other scales of the same number."""
    same = {'AVD', 'AVD_ml', 'ECE', 'Brier'}
    return [name for name in metrics if name not in same and not name.startswith(_STRATA)]


def by_model(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split a table by model; joint masks come last."""
    parts = {str(model): part for model, part in table.groupby('model', sort=True)}
    return sorted(parts.items(), key=lambda item: (item[0].startswith('consensus-'), item[0]))


def summary(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Return one row for each model and metric that any exam defines."""
    rows = []
    for model, part in by_model(table):
        patients = list(part['participant_id'])
        for metric in measures(table):
            found = summarise(numbers(part, metric), patients, seed)
            if found['n_exams'] or found['n_undefined'] < len(table):
                named = {'model': model, 'rules': part['rules'].iloc[0], 'metric': metric}
                rows.append({**named, **found})
    defined = {row['metric'] for row in rows if row['n_exams']}
    return [row for row in rows if row['metric'] in defined]


def comparison(table: pd.DataFrame, metrics: Iterable[str], seed: int) -> list[dict[str, Any]]:
    """Compare every pair of models on the exams that both have, metric by metric."""
    models = [model for model, _ in by_model(table) if not model.startswith('consensus-')]
    wide = table.set_index(['participant_id', 'session_id', 'model'])
    rows: list[dict[str, Any]] = []
    for metric in metrics:
        values = wide[metric].unstack('model').astype(float).replace([np.inf, -np.inf], np.nan)
        patients = [str(name) for name in values.index.get_level_values('participant_id')]
        found = [
            {
                'metric': metric,
                'model_a': one,
                'model_b': two,
                **compare(values[one].to_numpy(), values[two].to_numpy(), patients, seed),
            }
            for one, two in itertools.combinations(models, 2)
        ]
        for row, p in zip(found, holm([row['p_wilcoxon'] for row in found]), strict=True):
            row['p_holm'] = p
        rows += [row for row in found if row['n_exams']]
    for row, p in zip(rows, holm([row['p_wilcoxon'] for row in rows]), strict=True):
        row['p_holm_all'] = p
    return rows


def agreement(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Return Bland-Altman numbers and the regression of volumes for each model."""
    rows = []
    for model, part in by_model(table):
        one, two = numbers(part, 'volume_predicted_ml'), numbers(part, 'volume_reference_ml')
        known = np.isfinite(one) & np.isfinite(two)
        if known.any():
            patients = [str(name) for name in part['participant_id'][known]]
            found = bland_altman(one[known], two[known], patients, seed)
            found |= regression(one[known], two[known], patients, seed)
            rows.append({'model': model, **found})
    return rows


def sizes(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Return the share of reference lesions found, for each model and class of size."""
    names = [str(c).removeprefix('LTPR_') for c in table if str(c).startswith('LTPR_')]
    rows = []
    for model, part in by_model(table):
        patients = [str(name) for name in part['participant_id']]
        draws = PatientBootstrap.draw(patients, seed)
        for name in names:
            count = np.nan_to_num(numbers(part, f'n_reference_{name}'))
            found = np.round(np.nan_to_num(numbers(part, f'LTPR_{name}')) * count)
            rows.append({'model': model, 'size': name, **_share(count, found, patients, draws)})
    return rows


def _share(
    count: Floats, found: Floats, patients: Sequence[str], draws: PatientBootstrap
) -> dict[str, Any]:
    total = float(count.sum())
    having = count > 0
    low = high = math.nan
    if np.unique(draws.patients[having]).size >= 2:
        low, high = draws.interval(lambda weights: (weights @ found) / (weights @ count))
    return {
        'n_exams': int(having.sum()),
        'n_patients': len({p for p, has in zip(patients, having, strict=True) if has}),
        'n_lesions': int(total),
        'n_found': int(found.sum()),
        'share': float(found.sum()) / total if total else math.nan,
        'ci_low': low,
        'ci_high': high,
    }


# ----------------------------------------------------------------------------- cohort

_EXAM_NUMBERS = ('lesion_volume_ml', 'lesion_count', 'lesion_load_percent')
_ONCE = ('brain_volume_ml',)
_SPLITS = ('split', 'group', 'cohort')


def cohort(table: pd.DataFrame, people: Sequence[str]) -> list[dict[str, Any]]:
    """Describe the exams, and the participants by the columns of ``participants.tsv``.

    Parameters
    ----------
    table : pandas.DataFrame
        Merged metrics tables (text) with the columns of participants.
    people : sequence of str
        Names of those columns.
    """
    rows = _cohort_part(table, people, 'all')
    column = next((name for name in _SPLITS if name in people), None)
    if column is not None:
        for value, part in table.groupby(column, sort=True):
            rows += _cohort_part(part, people, f'{column} {value}')
    return rows


def _cohort_part(table: pd.DataFrame, people: Sequence[str], name: str) -> list[dict[str, Any]]:
    once = table.drop_duplicates(['participant_id', 'session_id'])
    persons = table.drop_duplicates('participant_id')
    counts = {'participants': len(persons), 'exams': len(once)}
    rows = [{'part': name, 'variable': variable, 'n': count} for variable, count in counts.items()]
    rows += [_described(persons[column].tolist(), column, name) for column in people]
    for column in _ONCE:
        rows.append(_numbers_of(numbers(once, column), column, name))
    for column in _EXAM_NUMBERS:
        for model, part in table.groupby('model', sort=True):
            found = _numbers_of(numbers(part, column), column, name)
            rows.append({**found, 'model': model})
    return [row for row in rows if row['n']]


def _described(values: list[str], column: str, part: str) -> dict[str, Any]:
    known = [value.strip() for value in values if value.strip().lower() not in {'n/a', '', 'nan'}]
    try:
        return _numbers_of(np.array([float(value) for value in known]), column, part)
    except ValueError:
        pass
    levels = sorted(set(known))
    words = ', '.join(f'{known.count(level)} {level}' for level in levels)
    if len(levels) > 10:
        words = f'{len(levels)} different values'
    return {'part': part, 'variable': column, 'n': len(known), 'levels': words or None}


def _numbers_of(values: Floats, column: str, part: str) -> dict[str, Any]:
    found = values[np.isfinite(values)]
    row: dict[str, Any] = {'part': part, 'variable': column, 'n': int(found.size)}
    if found.size:
        row |= {
            'mean': float(found.mean()),
            'sd': float(found.std(ddof=1)) if found.size > 1 else math.nan,
            'median': float(np.median(found)),
            'minimum': float(found.min()),
            'maximum': float(found.max()),
        }
    return row
