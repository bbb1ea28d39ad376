"""Shapes of masks: what SciPy does too, exactly, in a fraction of its time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

Bools = npt.NDArray[np.bool_]


def largest_piece(mask: Bools) -> Bools:
    """Return the largest 6-connected piece."""
    labels, count = ndi.label(mask)
    if count < 2:
        return mask
    return np.asarray(labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1)


def fill_holes(mask: Bools) -> Bools:
    """Fill what is not 6-connected with the outside: `scipy.ndimage.binary_fill_holes`."""
    box = ndi.find_objects(mask.astype(np.int8))
    filled = np.zeros_like(mask)
    if box:
        outside, _ = ndi.label(np.pad(~mask[box[0]], 1, constant_values=True))
        filled[box[0]] = outside[1:-1, 1:-1, 1:-1] != outside[0, 0, 0]
    return filled


def dilate(mask: Bools, times: int = 1) -> Bools:
    """Add the 6-neighbours, so many times: `scipy.ndimage.binary_dilation`."""
    for _ in range(times):
        before, mask = mask, mask.copy()
        for axis in range(3):
            here, source = np.moveaxis(mask, axis, 0), np.moveaxis(before, axis, 0)
            here[1:] |= source[:-1]
            here[:-1] |= source[1:]
    return mask


def grow(mask: Bools, radius: float) -> Bools:
    """Return the voxels that are not farther than a radius (voxels) from a mask.

    A ball is put on each voxel of the surface, of which a brain has few.
    """
    reach = int(radius)
    padded = np.pad(mask, reach)
    edge = np.flatnonzero(np.pad(mask & dilate(~mask), reach))
    grown = padded.ravel()
    _, rows, columns = padded.shape
    axis = np.arange(-reach, reach + 1)
    x, y, z = (one.ravel() for one in np.meshgrid(axis, axis, axis, indexing='ij'))
    near = x**2 + y**2 + z**2 <= radius**2
    for step in ((x * rows + y) * columns + z)[near]:
        grown[edge + step] = True
    inner = (slice(reach, -reach),) * 3 if reach else (slice(None),) * 3
    return padded[inner]
