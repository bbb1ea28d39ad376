"""Whether probabilities mean what they say: expected calibration error and Brier score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mslesseg_app.metrics.exam import bounding_box

#: Equally wide bins of probability of the expected calibration error.
BINS = 10
#: Calibration is judged in the box around both masks and this much more on each side: the
#: empty space around a head would make any map look calibrated.
MARGIN_MM = 10.0


def calibration_box(
    union: npt.NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[slice, ...]:
    """Return the box in which calibration is judged; the whole grid when the masks are empty.

    Parameters
    ----------
    union : bool array (X, Y, Z)
        Voxels of the prediction or the reference.
    spacing_mm : three floats
    """
    tight = bounding_box(union)
    if not tight[0].stop:
        return (slice(None),) * 3
    margins = [math.ceil(MARGIN_MM / spacing * (1 - 1e-6)) for spacing in spacing_mm]
    return tuple(
        slice(max(0, edge.start - margin), edge.stop + margin)
        for edge, margin in zip(tight, margins, strict=True)
    )


def calibration(
    probability: npt.NDArray[np.floating[Any]], true: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Return ECE and Brier score of all voxels given.

    Parameters
    ----------
    probability : float array
        0 to 1.
    true : bool array
        Reference, of the same shape.

    Returns
    -------
    dict
        ``ECE``: mean over the voxels of the difference between the mean probability and the
        share of lesion in their bin (10 bins of equal width; a bound belongs to the upper bin,
        1 to the last). ``Brier``: mean squared difference of probability and reference.
    """
    values, truth = probability.ravel().astype(np.float64), true.ravel()
    brier = float(np.mean((values - truth) ** 2))
    place = np.minimum((values * BINS).astype(np.intp), BINS - 1)
    promised = np.bincount(place, weights=values, minlength=BINS)
    found = np.bincount(place, weights=truth, minlength=BINS)
    return {'ECE': float(np.abs(promised - found).sum() / values.size), 'Brier': brier}
