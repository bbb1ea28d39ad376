"""Shapes of masks, and the boxes that hold them.

What SciPy does too is done exactly, in a fraction of its time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

Bools = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]


def whole_box(shape: tuple[int, ...]) -> Box:
    """Return the slices of a whole grid."""
    x, y, z = (slice(0, size) for size in shape)
    return x, y, z


def box_of(mask: Bools, margin: int, multiple: int = 1) -> Box:
    """Return the slices of the box around a mask; of the whole grid if it is empty.

    Parameters
    ----------
    mask : bool array (X, Y, Z)
    margin : int
        Voxels around it, where the grid has them.
    multiple : int
        The box begins at multiples of this number.
    """
    if not mask.any():
        return whole_box(mask.shape)
    edges = []
    for axis, size in enumerate(mask.shape):
        where = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        first = max(0, int(where[0]) - margin) // multiple * multiple
        edges.append(slice(first, min(size, int(where[-1]) + 1 + margin)))
    return edges[0], edges[1], edges[2]


def reached(
    filled: Bools,
    matrix: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    shape: tuple[int, ...],
) -> Box:
    """Return the part of a target grid in which an interpolated image may differ from zero.

    Parameters
    ----------
    filled : bool array (X, Y, Z)
        Where the image is not zero.
    matrix, offset : array (3, 3), array (3,)
        ``matrix @ voxel + offset`` is the voxel of the image for a voxel of the target.
    shape : tuple of int
        Of the target.

    Returns
    -------
    tuple of slices
        Empty ones where nothing is reached. Holds for nearest and linear interpolation.
    """
    if not filled.any():
        return slice(0, 0), slice(0, 0), slice(0, 0)
    ends = [(edge.start - 1.0, float(edge.stop)) for edge in box_of(filled, 0)]
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1) - np.reshape(offset, (3, 1))
    where = np.linalg.solve(matrix, corners)
    first = np.clip(np.floor(where.min(axis=1)).astype(int) - 1, 0, shape)
    last = np.clip(np.ceil(where.max(axis=1)).astype(int) + 2, first, shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return x, y, z


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
