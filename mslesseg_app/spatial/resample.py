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
    moved = np.zeros(tuple(shape), dtype=data.dtype)
    part = whole_box(moved.shape)
    if fill == 0 and order != 3:  # a cubic spline has no end
        part = reached(data != 0, index[:3, :3], index[:3, 3], moved.shape)
    if moved[part].size:
        index = index @ _shift([edge.start for edge in part])
        moved[part] = ndi.affine_transform(
            data,
            index[:3, :3],
            index[:3, 3],
            output_shape=moved[part].shape,
            output=data.dtype,
            order=0 if nearest else int(order),
            mode='nearest',
        )
        moved[part][~_inside(index, moved[part].shape, data.shape)] = fill
    return nb.Nifti1Image(moved, target)


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
) -> npt.NDArray[np.bool_]:
    """Return which voxels of a target grid lie within the extent of an image.

    Takes the arguments of `resample`; the result has the shape of the target.
    """
    target = np.asarray(affine, dtype=np.float64)
    index = np.linalg.inv(img.affine) @ check_affine(moving_from_reference) @ target
    return _inside(index, tuple(shape), tuple(img.shape[:3]))


def _inside(
    index: npt.NDArray[np.float64], shape: tuple[int, ...], limits: tuple[int, ...]
) -> npt.NDArray[np.bool_]:
    """Return where the voxel of `shape`, mapped by `index`, falls into ``limits`` voxels."""
    inside = np.ones(shape, dtype=bool)
    axes = [np.arange(size, dtype=np.float64) for size in shape]
    for row, limit in zip(index[:3], limits, strict=True):
        i, j, k = (axis * step for axis, step in zip(axes, row[:3], strict=True))
        where = i[:, None, None] + j[None, :, None] + (k + row[3])[None, None, :]
        inside &= (where >= -0.5) & (where <= limit - 0.5)
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
    offsets = list(product(*(_offsets(size) for size in _voxel_sizes(index))))
    for offset in offsets if total[part].size else []:
        start = (index @ _shift([edge.start for edge in part]) @ _shift(offset))[:3, 3]
        total[part] += ndi.affine_transform(
            data,
            index[:3, :3],
            start,
            output_shape=total[part].shape,
            order=1,
            mode='grid-constant',
        )
    total /= np.float32(len(offsets))
    header = native.header.copy()
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1.0, 0.0)
    return nb.Nifti1Image(np.clip(total, 0.0, 1.0), native.affine, header)


def _voxel_sizes(index: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the length of a native voxel's edges in template voxels (1 mm)."""
    sizes: npt.NDArray[np.float64] = np.linalg.norm(index[:3, :3], axis=0)
    return sizes


def _offsets(size: float) -> npt.NDArray[np.float64]:
    """Return sample positions along an edge of `size` mm, as fractions of the voxel."""
    count = max(1, round(size / _SAMPLE_MM))
    return (np.arange(count) + 0.5) / count - 0.5
