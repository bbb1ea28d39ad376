"""Noise, contrast and motion of an image, from the image alone."""

from __future__ import annotations

from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from mslesseg_app.spatial.intensity import zero_based

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

#: Difference of two Laplacians: blind to what changes evenly (Immerkær, Computer Vision and
#: Image Understanding 64(2):300-302, 1996).
_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_KERNEL_NORM = 6.0
#: Median of the absolute value of a normal deviate.
_MEDIAN_ABS = 0.6745
#: Percentile of the brain's intensities that stands for fluid on a FLAIR.
_FLUID = 1.0
#: Ghosts are looked for beyond the head by this much, in mm, where at least that many voxels
#: of air were recorded.
_GAP_MM = 8.0
_FEWEST_AIR = 2000


def contrast_to_noise(flair: Any, brain: Any) -> float | None:
    """Contrast of brain tissue with fluid over the noise, within the brain of a FLAIR.

    Noise is the median absolute response, over slices across the thick axis, to a mask that
    even intensities and edges leave nearly untouched, scaled to a standard deviation.

    Parameters
    ----------
    flair, brain : nibabel image (X, Y, Z)
        On one grid; the brain mask includes the ventricles.

    Returns
    -------
    float or None
        None without a brain, or where nothing varies.
    """
    data, mask, _ = _ordered(flair, brain)
    if not mask.any():
        return None
    response = ndi.convolve(data, _KERNEL[:, :, None], mode='nearest')
    inside = ndi.binary_erosion(mask, np.ones((3, 3, 1), bool))
    if not inside.any():
        return None
    noise = float(np.median(np.abs(response[inside]))) / (_KERNEL_NORM * _MEDIAN_ABS)
    values = data[mask]
    contrast = float(np.median(values) - np.percentile(values, _FLUID))
    return contrast / noise if noise > 0 else None


def ghosting(flair: Any, brain: Any) -> float | None:
    """Signal in the air along one in-plane axis beyond that along the other, over the tissue.

    Motion during the acquisition repeats the head along the direction of phase encoding, which
    the noise does not. Either in-plane axis may be that direction: the difference counts.

    Parameters
    ----------
    flair, brain : nibabel image (X, Y, Z)
        On one grid; the image with its air.

    Returns
    -------
    float or None
        None where the air was masked out or was not recorded.
    """
    data, mask, edges = _ordered(flair, brain)
    if not mask.any():
        return None
    level = 0.15 * float(np.median(data[mask]))
    head = ndi.binary_opening(data > level, iterations=2) | mask
    slabs = []
    for axis in (0, 1):
        gap = int(np.ceil(_GAP_MM / edges[axis]))
        air = _beside(head, mask, axis, gap)
        values = data[air]
        if values.size < _FEWEST_AIR or np.mean(values == 0) > 0.5:
            return None
        slabs.append(float(values.mean()))
    return abs(slabs[0] - slabs[1]) / float(np.median(data[mask]))


def _ordered(flair: Any, brain: Any) -> tuple[Floats, Bools, npt.NDArray[np.float64]]:
    """Return data and mask with the thick axis last, and the edges of a voxel in mm."""
    image, other = nb.as_closest_canonical(flair), nb.as_closest_canonical(brain)
    edges = nb.affines.voxel_sizes(image.affine)
    thick = int(np.argmax(edges)) if edges.max() > 1.5 * np.median(edges) else 2
    order = [axis for axis in range(3) if axis != thick] + [thick]
    data = zero_based(np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32)))
    mask = np.asarray(other.dataobj) > 0
    return data.transpose(order), mask.transpose(order), edges[order]


def _beside(head: Bools, brain: Bools, axis: int, gap: int) -> Bools:
    """Air on both sides of the head along an in-plane axis, in the slices of the brain.

    Only the band that the brain spans along the other in-plane axis is taken, so that the slabs
    of the two axes do not share their corners.
    """
    slices = np.asarray(brain.any(axis=(0, 1)))
    across = np.asarray(brain.any(axis=(axis, 2)))
    rows = head.any(axis=(1 - axis, 2))
    hit = np.flatnonzero(rows)
    outside = np.ones(rows.size, bool)
    outside[max(0, hit[0] - gap) : hit[-1] + gap + 1] = False
    shape = [1, 1, 1]
    shape[axis] = -1
    air = outside.reshape(shape)
    shape = [1, 1, 1]
    shape[1 - axis] = -1
    return np.asarray(air & across.reshape(shape) & slices[None, None, :] & ~head)
