"""Lesion instances: the connected components of a lesion mask."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.core.errors import DataError, UsageError

_RANK = {6: 1, 18: 2, 26: 3}


def structure(connectivity: int) -> npt.NDArray[np.bool_]:
    """Return the 3x3x3 neighbourhood of a connectivity.

    Parameters
    ----------
    connectivity : {6, 18, 26}
        Neighbours of a voxel: across faces, also across edges, also across corners.

    Raises
    ------
    UsageError
        For any other number.
    """
    if connectivity not in _RANK:
        raise UsageError(
            f'Connectivity {connectivity} does not exist in three dimensions.',
            'Choose 6 (faces), 18 (faces and edges) or 26 (faces, edges and corners).',
        )
    return np.asarray(ndimage.generate_binary_structure(3, _RANK[connectivity]), dtype=bool)


def smallest_size(voxel_volume_mm3: float, min_volume_mm3: float) -> int:
    """Return the number of voxels that a component needs to be kept, at least one.

    A relative tolerance of 1e-6 absorbs the rounding of voxel sizes stored as float32,
    so that four voxels of 0.75 mm3 do reach 3 mm3.
    """
    if not (math.isfinite(voxel_volume_mm3) and voxel_volume_mm3 > 0):
        raise DataError(
            f'A voxel volume of {voxel_volume_mm3} mm3 is not possible.',
            'Check the voxel sizes in the header of the image.',
        )
    if not (math.isfinite(min_volume_mm3) and min_volume_mm3 >= 0):
        raise UsageError(
            f'A smallest lesion volume of {min_volume_mm3} mm3 is not possible.',
            'Give a number of cubic millimetres, 0 or larger.',
        )
    return max(1, math.ceil(min_volume_mm3 / voxel_volume_mm3 * (1 - 1e-6)))


def label_lesions(
    mask: npt.NDArray[np.bool_],
    voxel_volume_mm3: float,
    connectivity: int = 6,
    min_volume_mm3: float = 0.0,
) -> npt.NDArray[np.int32]:
    """Number the lesions of a mask, the largest first.

    Parameters
    ----------
    mask : bool array (X, Y, Z)
        Lesion voxels.
    voxel_volume_mm3 : float
        Volume of one voxel of this grid.
    connectivity : {6, 18, 26}
        Neighbourhood that joins voxels into one lesion.
    min_volume_mm3 : float
        Components below this volume are dropped; one of exactly this volume stays.

    Returns
    -------
    int32 array (X, Y, Z)
        0 outside lesions, 1..n inside. Lesions of the same size are numbered in the order of
        their first voxel (last axis fastest), so the numbers depend on the mask alone.

    Raises
    ------
    DataError
        For an array that is not three-dimensional or a voxel volume that is not positive.
    UsageError
        For an unknown connectivity or a negative smallest volume.
    """
    neighbours = structure(connectivity)
    smallest = smallest_size(voxel_volume_mm3, min_volume_mm3)
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 3:
        raise DataError(
            f'A lesion mask of {mask.ndim} dimensions cannot be divided into lesions.',
            'Give a mask of three dimensions.',
        )
    components, count = ndimage.label(mask, structure=neighbours)
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind='stable')
    order = order[sizes[order] >= smallest]
    numbers = np.zeros(count + 1, dtype=np.int32)
    numbers[order + 1] = np.arange(1, order.size + 1, dtype=np.int32)
    return np.asarray(numbers[components], dtype=np.int32)
