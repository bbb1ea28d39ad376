"""Numbers that exist for a cohort only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mslesseg_app.core.errors import DataError


def volume_correlation(
    predicted_ml: Sequence[float], reference_ml: Sequence[float]
) -> tuple[float, str]:
    """Return Pearson's correlation of predicted and reference lesion volumes.

    Parameters
    ----------
    predicted_ml, reference_ml : sequences of float
        Volumes of the same exams, in the same order and the same unit.

    Returns
    -------
    correlation : float
        NaN with fewer than three exams or when either volume is the same in all exams.
    reason : str
        Why it is NaN; empty otherwise.

    Raises
    ------
    DataError
        For sequences of different lengths or volumes that are not finite.
    """
    volumes = [np.asarray(values, dtype=float) for values in (predicted_ml, reference_ml)]
    predicted, reference = volumes
    if predicted.shape != reference.shape or predicted.ndim != 1:
        raise DataError(
            f'There are {predicted.size} predicted and {reference.size} reference volumes.'
        )
    if not np.isfinite(volumes).all():
        raise DataError('A volume is not a finite number.')
    if predicted.size < 3:
        return math.nan, 'fewer than three exams'
    if np.ptp(predicted) == 0 or np.ptp(reference) == 0:
        return math.nan, 'the volume is the same in all exams'
    return float(np.corrcoef(predicted, reference)[0, 1]), ''


def isbi_score(partial: Sequence[float], correlation: float) -> float:
    """Return the score of the ISBI 2015 challenge, 0 to 1 (before its scaling to a rater).

    Parameters
    ----------
    partial : sequence of float
        ``ISBI_partial`` of each exam: DSC/8 + PPV/8 + (1 - LFPR)/4 + LTPR/4.
    correlation : float
        Volume correlation of the same exams, which has the last quarter of the weight.

    Returns
    -------
    float
        NaN when any of the numbers is.
    """
    if not len(partial):
        return math.nan
    return float(np.mean(np.asarray(partial, dtype=float))) + correlation / 4
