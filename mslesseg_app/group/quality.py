"""Outliers among exams: by their quality checks, or by what was found in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

#: Beyond this robust z value an exam is listed (Iglewicz and Hoaglin, 1993).
LIMIT = 3.5
#: Fewer exams than this say nothing of what is usual.
FEWEST = 5


@dataclass(frozen=True)
class OutlierRule:
    """One column of the exam table and how it is judged.

    Attributes
    ----------
    floor : float
        Least spread (standard deviation, on the scale of ``scale``): where exams differ by
        less, none is an outlier.
    scale : callable
        What makes the numbers roughly symmetric: volumes and counts are skewed.
    low_only : bool
        High values are good.
    by_model : bool
        Differs from model to model; otherwise an exam is judged once.
    """

    title: str
    floor: float
    scale: Callable[[Floats], Floats] = np.asarray
    low_only: bool = False
    by_model: bool = False


def _log_volume(millilitres: Floats) -> Floats:
    return np.log10(1000 * millilitres + 1)


OUTLIER_RULES: dict[str, OutlierRule] = {
    'lesion_volume_ml': OutlierRule('lesion volume', 0.05, _log_volume, by_model=True),
    'lesion_count': OutlierRule('number of lesions', 0.1, np.log1p, by_model=True),
    'lesion_load_percent': OutlierRule(
        'lesion load', 0.05, lambda x: np.log10(1e4 * x + 1), by_model=True
    ),
    'model_agreement': OutlierRule('agreement of the models', 0.05, low_only=True),
    'brain_volume_ml': OutlierRule('brain volume', 20.0),
    'brain_volume_mni_ml': OutlierRule('brain volume, template grid', 20.0),
    'flair_slice_thickness_mm': OutlierRule('slice thickness of the FLAIR', 0.5),
    'flair_coverage': OutlierRule('brain coverage of the FLAIR', 0.01, low_only=True),
    'alignment_FLAIR': OutlierRule('registration of the FLAIR', 1.0, low_only=True),
    'alignment_T1w': OutlierRule('registration of the T1w', 1.0, low_only=True),
    'alignment_T2w': OutlierRule('registration of the T2w', 1.0, low_only=True),
}

OUTLIER_COLUMNS: dict[str, dict[str, Any]] = {
    'participant_id': {'Description': 'Participant.'},
    'session_id': {'Description': 'Session; n/a where the dataset has none.'},
    'model': {'Description': 'Model; n/a where the number does not depend on it.'},
    'column': {
        'Description': 'Column of group_volumes.tsv that is an outlier, or model_agreement: '
        'the mean DSC of all pairs of models (group_model_pairs.tsv).'
    },
    'value': {'Description': 'The value in this exam.'},
    'median': {'Description': 'Median of all exams.'},
    'robust_z': {
        'Description': '0.6745 (x - median) / MAD of the transformed values (Iglewicz and Hoaglin '
        '1993; the mean absolute deviation where the MAD is zero), with a least spread for each '
        'column; n/a for statuses.'
    },
    'reason': {'Description': 'In words.'},
}


def outliers(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List the exams that are flagged, with the reason.

    Parameters
    ----------
    table : pandas.DataFrame
        Merged metrics tables (text); columns that older versions lack are passed over.

    Returns
    -------
    list of dict
        Keys of `OUTLIER_COLUMNS`, worst first within each exam. Numbers are judged among at
        least `FEWEST` exams; statuses of the participant level that are not ``pass``, and
        self-checks and agreements of models that did not pass, are always listed.
    """
    rows: list[dict[str, Any]] = []
    for column, judged in OUTLIER_RULES.items():
        if column not in table:
            continue
        for model, part in parts(table, judged.by_model):
            rows += _outside_limits(part, column, judged, model)
    rows += _statuses_of_exams(table) + _statuses_of_models(table)
    order = {'participant_id': '', 'session_id': '', 'model': ''}
    return sorted(rows, key=lambda row: (*(row[key] for key in order), -_size(row['robust_z'])))


def robust_z(values: Floats, floor: float = 0.0) -> Floats:
    """Return the modified z score of each value; zeros where nothing varies.

    The spread is the median absolute deviation, or, where more than half of the values are
    equal, the mean absolute deviation, as a standard deviation; at least ``floor``.
    """
    distance = values - np.median(values)
    mad = float(np.median(np.abs(distance)))
    mean = float(np.mean(np.abs(distance)))
    spread = max(mad / 0.6745 if mad > 0 else 1.253314 * mean, floor)
    return np.asarray(distance / spread) if spread > 0 else np.zeros_like(values)


def numbers(table: pd.DataFrame, column: str) -> Floats:
    """Return a column of text as numbers, NaN where there is none."""
    import pandas as pd

    if column not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[column], errors='coerce').to_numpy(dtype=np.float64, copy=True)


def parts(table: pd.DataFrame, by_model: bool) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows that are judged together: those of each model, or each exam once."""
    if by_model:
        return [(str(model), part) for model, part in table.groupby('model', sort=True)]
    return [('n/a', table.drop_duplicates(['participant_id', 'session_id']))]


def _outside_limits(
    part: pd.DataFrame, column: str, judged: OutlierRule, model: str
) -> list[dict[str, Any]]:
    values = numbers(part, column)
    known = np.isfinite(values)
    if known.sum() < FEWEST:
        return []
    part, values = part[known], values[known]
    scores = robust_z(np.asarray(judged.scale(values)), judged.floor)
    far = scores < -LIMIT if judged.low_only else np.abs(scores) > LIMIT
    middle = float(np.median(values))
    rows = []
    for place in np.flatnonzero(far):
        word = 'low' if scores[place] < 0 else 'high'
        exam = part.iloc[place]
        rows.append(
            {
                'participant_id': exam['participant_id'],
                'session_id': exam['session_id'],
                'model': model,
                'column': column,
                'value': float(values[place]),
                'median': middle,
                'robust_z': float(scores[place]),
                'reason': f'{judged.title} is unusually {word}',
            }
        )
    return rows


def _statuses_of_exams(table: pd.DataFrame) -> list[dict[str, Any]]:
    names = [str(name) for name in table]
    columns = [
        name for name in names if name.startswith('alignment_') and name.endswith('_status')
    ]
    rows = []
    for _, exam in table.drop_duplicates(['participant_id', 'session_id']).iterrows():
        found = {name: exam[name] for name in columns if exam[name] in ('check', 'fail')}
        if not found and exam.get('qc_status') in ('check', 'fail'):
            found = {'qc_status': exam['qc_status']}
        for name, status in found.items():
            rows.append(
                {
                    'participant_id': exam['participant_id'],
                    'session_id': exam['session_id'],
                    'model': 'n/a',
                    'column': name,
                    'value': status,
                    'median': None,
                    'robust_z': math.nan,
                    'reason': f'status at the participant level: {status}',
                }
            )
    return rows


def _statuses_of_models(table: pd.DataFrame) -> list[dict[str, Any]]:
    """List what did not pass and belongs to a model: self-check, agreement of an ensemble."""
    said: dict[str, Callable[[Any], str]] = {
        'selfcheck_status': _selfcheck_in_words,
        'model_agreement_status': lambda exam: 'the models of the ensemble disagree',
    }
    return [
        {
            'participant_id': exam['participant_id'],
            'session_id': exam['session_id'],
            'model': exam['model'],
            'column': column,
            'value': exam[column],
            'median': None,
            'robust_z': math.nan,
            'reason': in_words(exam),
        }
        for column, in_words in said.items()
        if column in table
        for _, exam in table[table[column].isin(('check', 'fail'))].iterrows()
    ]


def _selfcheck_in_words(exam: Any) -> str:
    """Say why a mask did not pass, from the columns of its table."""
    said = f'self-check of the segmentation: {exam["selfcheck_status"]}'
    if str(exam.get('lesion_count')) in ('0', '0.0'):
        said += ', no lesion detected'
    try:
        outside = float(exam.get('selfcheck_outside_ml', 'n/a'))
    except ValueError:
        return said
    return f'{said}, {outside:.1f} ml of hyperintense tissue outside the mask'


def _size(value: float) -> float:
    return abs(value) if math.isfinite(value) else math.inf
