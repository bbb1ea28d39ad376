"""Bringing images and probabilities from one grid to another with one interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from mslesseg_app.spatial.affines import check_affine
from mslesseg_app.spatial.grids import rounded_share
from mslesseg_app.spatial.interpolation import interpolate, memory_order
from mslesseg_app.spatial.shapes import reached, whole_box

Order = Literal[1, 3, 'nearest']

#: Distance between the samples that `restore` takes within a native voxel, in mm.
_SAMPLE_MM = 1.0


def resample(
    img: Any,
    shape: tuple[int, int, int],
    affine: npt.ArrayLike,
    moving_from_reference: npt.ArrayLike,
    order: Order = 1,
    fill: float = 0.0,
) -> nb.Nifti1Image:
    """Resample an image onto the grid of `shape` and `affine` in one interpolation.

    A voxel of the target is inside the field of view when its centre lies within the extent
    of the image's voxels (half a voxel beyond the centres of the first and last).

    Parameters
    ----------
    img : nibabel image, 3D
        Moving image. Values that are not finite count as zero.
    shape : tuple of int
        Target shape (X, Y, Z).
    affine : array_like, (4, 4)
        Target affine (RAS+ mm).
    moving_from_reference : array_like, (4, 4)
        Maps points (mm) of the target's space to points of the image's space.
    order : {1, 3, 'nearest'}
        Linear, cubic B-spline, or nearest neighbour (keeps the image's type: for labels).
    fill : float
        Value outside the field of view.

    Returns
    -------
    nibabel.Nifti1Image
        float32, or the image's own type with ``'nearest'``.
    """
    target = np.asarray(affine, dtype=np.float64)
    index = np.linalg.inv(img.affine) @ check_affine(moving_from_reference) @ target
    nearest = order == 'nearest'
    data = np.asanyarray(img.dataobj)
    if not nearest:
        data = np.nan_to_num(data.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if order == 3:
        moved = _cubic(data, index, tuple(shape), fill)
    else:
        moved = np.full(shape, fill, dtype=data.dtype, order=memory_order(data))
        part = whole_box(moved.shape)
        if fill == 0:
            part = reached(data != 0, index[:3, :3], index[:3, 3], moved.shape)
        if moved[part].size:
            index = index @ _shift([edge.start for edge in part])
            shape = moved[part].shape
            moved[part] = interpolate(data, index, shape, nearest=nearest, outside=fill)
    return nb.Nifti1Image(moved, target)


def _cubic(
    data: npt.NDArray[np.float32],
    index: npt.NDArray[np.float64],
    shape: tuple[int, ...],
    fill: float,
) -> npt.NDArray[np.float32]:
    """Look up an array at the voxels of another grid by cubic B-splines."""
    moved: npt.NDArray[np.float32] = ndi.affine_transform(
        data, index[:3, :3], index[:3, 3], output_shape=shape, order=3, mode='nearest'
    )
    moved[~_inside(index, shape, data.shape)] = fill
    return moved


def _shift(voxels: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the affine (4, 4) that moves by so many voxels."""
    affine = np.eye(4)
    affine[:3, 3] = voxels
    return affine


def field_of_view(
    img: Any,
    shape: tuple[int, int, int],
    affine: npt.ArrayLike,
    moving_from_reference: npt.ArrayLike,
    margin: float = 0.0,
) -> npt.NDArray[np.bool_]:
    """Return which voxels of a target grid lie within the extent of an image.

    Takes the arguments of `resample`, and the width (voxels of the image) of a margin within its
    faces that does not count; the result has the shape of the target.
    """
    target = np.asarray(affine, dtype=np.float64)
    index = np.linalg.inv(img.affine) @ check_affine(moving_from_reference) @ target
    return _inside(index, tuple(shape), tuple(img.shape[:3]), margin)


def _inside(
    index: npt.NDArray[np.float64],
    shape: tuple[int, ...],
    limits: tuple[int, ...],
    margin: float = 0.0,
) -> npt.NDArray[np.bool_]:
    """Return where the voxel of `shape`, mapped by `index`, falls into ``limits`` voxels."""
    inside = np.ones(shape, dtype=bool)
    axes = [np.arange(size, dtype=np.float64) for size in shape]
    for row, limit in zip(index[:3], limits, strict=True):
        first, last = margin - 0.5, limit - 0.5 - margin
        i, j, k = (axis * step for axis, step in zip(axes, row[:3], strict=True))
        lowest = row[3] + i.min() + j.min() + k.min()
        highest = row[3] + i.max() + j.max() + k.max()
        if lowest >= first and highest <= last:
            continue
        where = i[:, None, None] + j[None, :, None] + (k + row[3])[None, None, :]
        inside &= (where >= first) & (where <= last)
    return inside


def restore(prob_on_template: Any, native: Any, native_from_mni: npt.ArrayLike) -> nb.Nifti1Image:
    """Carry a probability map from the template grid back to a subject's own grid.

    Each native voxel receives the mean over its extent, sampled about every millimetre
    along each of its axes, so that thick slices integrate instead of picking their centre;
    volumes are kept.

    Parameters
    ----------
    prob_on_template : nibabel image, 3D
        Probability in [0, 1]; zero outside its grid.
    native : nibabel image, 3D
        The image whose grid is wanted.
    native_from_mni : array_like, (4, 4)
        Maps template points (mm) to native points.

    Returns
    -------
    nibabel.Nifti1Image
        float32 with the shape, affine and header codes of `native`.
    """
    data = np.nan_to_num(np.asarray(prob_on_template.dataobj, dtype=np.float32))
    mni_from_native = np.linalg.inv(check_affine(native_from_mni))
    index = np.linalg.inv(prob_on_template.affine) @ mni_from_native @ native.affine
    shape = tuple(native.shape[:3])
    total = np.zeros(shape, dtype=np.float32)
    part = reached(data != 0, index[:3, :3], index[:3, 3], shape)
    if total[part].size:
        index = index @ _shift([edge.start for edge in part])
        total[part] = _mean_in_voxels(data, index, total[part].shape)
    header = native.header.copy()
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1.0, 0.0)
    return nb.Nifti1Image(rounded_share(np.clip(total, 0.0, 1.0)), native.affine, header)


def _mean_in_voxels(
    data: npt.NDArray[np.float32], index: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Return the mean of an image in each voxel of a grid; beyond its edges it falls to zero."""
    offsets = list(product(*(_offsets(size) for size in _voxel_sizes(index))))
    padded = np.pad(data, 1)
    total = np.zeros(shape, dtype=np.float32, order=memory_order(padded))
    for offset in offsets:
        total += interpolate(padded, _shift([1, 1, 1]) @ index @ _shift(offset), shape)
    total /= np.float32(len(offsets))
    return total


def _voxel_sizes(index: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the length of a native voxel's edges in template voxels (1 mm)."""
    sizes: npt.NDArray[np.float64] = np.linalg.norm(index[:3, :3], axis=0)
    return sizes


def _offsets(size: float) -> npt.NDArray[np.float64]:
    """Return sample positions along an edge of `size` mm, as fractions of the voxel."""
    count = max(1, round(size / _SAMPLE_MM))
    return (np.arange(count) + 0.5) / count - 0.5
