"""Accuracy of one mask against its reference: the seven numbers of the MSLesSeg paper.

The definitions are those of Guarnera et al., Scientific Data 2025 (equations 1 to 5), as the
rule set ``mslesseg``: lesions are 6-connected components of any size, one shared voxel is
enough for two lesions to meet, volumes differ as a ratio, and surfaces are the voxels of a mask
with a face towards the outside.

A number without a denominator is NaN (``n/a`` in tables), never a flattering zero or one. Two
empty masks are identical, so what measures their difference is defined:

======  ==========================  ==============  ===============  ================
metric  definition                  both empty      reference empty  prediction empty
======  ==========================  ==============  ===============  ================
DSC     2 TP / (2 TP + FP + FN)     1               0                0
TPR     TP / (TP + FN)              NaN             NaN              0
PPV     TP / (TP + FP)              NaN             0                NaN
LTPR    reference lesions met       NaN             NaN              0
LFPR    predicted lesions not met   NaN             1                NaN
AVD     \\|Vp - Vr\\| / Vr            0               NaN              1
ASSD    equation 5                  0 mm            NaN              NaN
======  ==========================  ==============  ===============  ================
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.components import structure
from mslesseg_app.spatial.surfaces import surface, surface_distances

Mask = npt.NDArray[np.bool_]

METRIC_COLUMNS: dict[str, dict[str, str]] = {
    'DSC': {
        'Description': 'Dice similarity coefficient of the voxels, 0 to 1; 1 when both masks are '
        'empty.',
    },
    'TPR': {
        'Description': 'Share of the reference voxels that were found (sensitivity), 0 to 1; n/a '
        'when the reference is empty.',
    },
    'PPV': {
        'Description': 'Share of the predicted voxels that are in the reference (precision), 0 to '
        '1; n/a when the prediction is empty.',
    },
    'LTPR': {
        'Description': 'Share of the reference lesions (6-connected) that the prediction meets in '
        'at least one voxel, 0 to 1; n/a when the reference is empty.',
    },
    'LFPR': {
        'Description': 'Share of the predicted lesions (6-connected) that meet no reference '
        'voxel, 0 to 1; n/a when the prediction is empty.',
    },
    'AVD': {
        'Description': 'Absolute difference of the volumes divided by the reference volume (a '
        'ratio: 0.25 is 25 percent); 0 when both masks are empty, n/a when only the reference is.',
    },
    'ASSD': {
        'Description': 'Average symmetric surface distance: all distances from the voxels of each '
        'surface to the other surface, pooled; 0 when both masks are empty, n/a when one is.',
        'Units': 'mm',
    },
}


def unknown() -> dict[str, float]:
    """Return every accuracy column as NaN, for an exam without a reference mask."""
    return dict.fromkeys(METRIC_COLUMNS, math.nan)


def accuracy(
    prediction: npt.NDArray[np.generic],
    reference: npt.NDArray[np.generic],
    spacing_mm: Sequence[float],
) -> dict[str, float]:
    """Compare a lesion mask with its reference by the rule set ``mslesseg``.

    Parameters
    ----------
    prediction, reference : bool array (X, Y, Z)
        Masks on the same grid; other types are taken if they hold 0 and 1 only.
    spacing_mm : three floats
        Voxel sizes along the axes, in mm.

    Returns
    -------
    dict
        The keys of `METRIC_COLUMNS`. The table at the top of this module says what empty masks
        give.

    Raises
    ------
    DataError
        For different grids, masks that are not binary or not three-dimensional, or voxel sizes
        that are not positive.
    """
    predicted, true = binary_pair(prediction, reference)
    spacing = checked_spacing(spacing_mm)
    predicted, true = crop_to_union(predicted, true)
    return {
        **voxel_agreement(predicted, true),
        **lesion_agreement(predicted, true),
        'AVD': volume_difference(int(predicted.sum()), int(true.sum())),
        'ASSD': surface_distance(predicted, true, spacing),
    }


def crop_to_union(first: Mask, second: Mask) -> tuple[Mask, Mask]:
    """Cut two masks to the smallest box that holds both; empty masks give empty arrays."""
    box = bounding_box(first | second)
    return np.ascontiguousarray(first[box]), np.ascontiguousarray(second[box])


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Return the smallest box that holds all voxels of a mask (X, Y, Z); an empty one for none.

    The slowest axis in memory is searched first, then the projection along it.
    """
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:
        return bounding_box(mask.T)[::-1]
    first = _extent(np.logical_or.reduce(mask, axis=(1, 2)))
    plane = np.logical_or.reduce(mask[first], axis=0)
    return (
        first,
        _extent(np.logical_or.reduce(plane, axis=1)),
        _extent(np.logical_or.reduce(plane, axis=0)),
    )


def _extent(used: npt.NDArray[np.bool_]) -> slice:
    places = np.flatnonzero(used)
    return slice(int(places[0]), int(places[-1]) + 1) if places.size else slice(0, 0)


def voxel_agreement(predicted: Mask, true: Mask) -> dict[str, float]:
    """Return DSC, TPR and PPV of two boolean masks of one shape."""
    both = int(np.count_nonzero(predicted & true))
    n_predicted, n_true = int(predicted.sum()), int(true.sum())
    return {
        'DSC': ratio(2 * both, n_predicted + n_true, otherwise=1.0),
        'TPR': ratio(both, n_true),
        'PPV': ratio(both, n_predicted),
    }


def lesion_agreement(predicted: Mask, true: Mask) -> dict[str, float]:
    """Return LTPR and LFPR: 6-connected lesions of any size, met by one voxel."""
    n_true, found = _lesions_met(true, predicted)
    n_predicted, confirmed = _lesions_met(predicted, true)
    return {
        'LTPR': ratio(found, n_true),
        'LFPR': ratio(n_predicted - confirmed, n_predicted),
    }


def volume_difference(n_predicted: int, n_true: int) -> float:
    """Return the absolute difference of two volumes over the reference volume, a ratio."""
    if n_predicted == n_true:
        return 0.0
    return ratio(abs(n_predicted - n_true), n_true)


def surface_distance(predicted: Mask, true: Mask, spacing_mm: Sequence[float]) -> float:
    """Return the average symmetric surface distance in mm (equation 5, pooled).

    The surface of a mask is its voxels with at least one face towards the outside (the edge of
    the image counts as outside). For each surface voxel of either mask the distance to the
    nearest surface voxel of the other is taken between voxel centres; the sum of all is divided
    by their number.
    """
    if not predicted.any() or not true.any():
        return math.nan if predicted.any() or true.any() else 0.0
    return surface_distances(surface(predicted), surface(true), spacing_mm).mean()


def _lesions_met(lesions: Mask, other: Mask) -> tuple[int, int]:
    components, count = ndimage.label(lesions, structure=structure(6))
    return count, int(np.unique(components[lesions & other]).size)


def ratio(part: float, whole: float, otherwise: float = math.nan) -> float:
    """Divide; without a denominator return `otherwise`."""
    return float(part / whole) if whole else otherwise


def binary(mask: npt.NDArray[np.generic], name: str) -> Mask:
    """Return a three-dimensional array of zeros and ones as booleans, or raise `DataError`."""
    array = np.asarray(mask)
    if array.ndim != 3:
        raise DataError(f'The {name} has {array.ndim} dimensions; three are needed.')
    if array.dtype == bool:
        return array
    binary = array != 0
    if not np.array_equal(array, binary):
        raise DataError(
            f'The {name} is not a mask: it holds values other than 0 and 1.',
            'Threshold it, or choose one label, before comparing.',
        )
    return np.asarray(binary, dtype=bool)


def binary_pair(
    prediction: npt.NDArray[np.generic], reference: npt.NDArray[np.generic]
) -> tuple[Mask, Mask]:
    """Return two masks of one shape as booleans, or raise `DataError`."""
    predicted, true = binary(prediction, 'prediction'), binary(reference, 'reference')
    if predicted.shape != true.shape:
        raise DataError(
            f'The prediction has the shape {predicted.shape}, the reference {true.shape}.',
            'Bring both masks to the same grid before comparing them.',
        )
    return predicted, true


def checked_spacing(spacing_mm: Sequence[float]) -> tuple[float, ...]:
    """Return three positive voxel sizes in mm, or raise `DataError`."""
    spacing = tuple(float(size) for size in spacing_mm)
    if len(spacing) != 3 or not all(math.isfinite(size) and size > 0 for size in spacing):
        raise DataError(f'Voxel sizes {spacing} are not three positive numbers of millimetres.')
    return spacing
