"""Masks and probability maps from files, on one grid: that of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.checks import UNREADABLE, check_header
from mslesseg_app.spatial.grids import describe_geometry
from mslesseg_app.spatial.reading import open_image
from mslesseg_app.spatial.resample import field_of_view, resample
from mslesseg_app.spatial.template import same_grid

Mask = npt.NDArray[np.bool_]

#: A damaged or foreign file may hold very many values; an error names this many.
_SHOWN_VALUES = 6
#: Values that lie this near to a whole number are meant to be it: files that hold labels with a
#: slope give them back with a rounding error.
_ROUNDING = 1e-3
#: Largest cosine between two edges of a voxel that still passes for a right angle.
MAX_SHEAR = 0.01


def read_image(path: Path) -> Any:
    """Read a three-dimensional image of numbers (trailing axes of length one are dropped).

    Raises
    ------
    NoInputError
        If there is no such file, or its content was not fetched.
    DataError
        If it is no image, is damaged, is not three-dimensional or has no place in space.
    """
    image = open_image(path)
    try:
        data = np.asanyarray(image.dataobj)
    except UNREADABLE as error:
        raise DataError(f'{path} is not a readable image: {error}') from error
    if (
        data.ndim < 3
        or any(length != 1 for length in data.shape[3:])
        or data.dtype.kind not in 'iufb'
    ):
        raise DataError(
            f'{path} has the shape {data.shape} and the type {data.dtype}: one '
            'three-dimensional image of numbers is needed.'
        )
    affine = getattr(image, 'affine', None)
    if (
        affine is None
        or not np.isfinite(affine).all()
        or abs(np.linalg.det(affine[:3, :3])) < 1e-9
    ):
        raise DataError(f'{path} does not say where its voxels lie.', 'Convert it to NIfTI again.')
    if isinstance(image, nb.Nifti1Image):
        check_header(image, path)
    return nb.Nifti1Image(_nifti_type(data.reshape(data.shape[:3])), affine)


def _nifti_type(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a type that NIfTI has."""
    if data.dtype == bool:
        return data.view(np.uint8)
    if data.dtype.kind == 'f':
        return data.astype(np.float32 if data.dtype.itemsize <= 4 else np.float64)
    return data.astype(data.dtype.newbyteorder('=')) if data.dtype.itemsize < 8 else _small(data)


def _small(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return labels that programs store as 64-bit integers as 32-bit ones, or as floats."""
    small = data.astype(np.int32)
    return small if np.array_equal(small, data) else data.astype(np.float64)


def read_mask(path: Path, label: int | None = None) -> Any:
    """Read a mask of zeros and ones, or one label of a label image.

    Parameters
    ----------
    path : Path
    label : int, optional
        Voxels of this value are the mask; without it the image has to be binary. An image
        without any label is an empty mask.

    Returns
    -------
    nibabel.Nifti1Image
        uint8, 0 and 1.

    Raises
    ------
    NoInputError, DataError
        As `read_image`, for an image that is no mask, and for a label that it does not hold.
    """
    image = read_image(path)
    data = whole_numbers(np.asanyarray(image.dataobj))
    if label is not None:
        mask = data == label
        if data.any() and not mask.any():
            raise DataError(
                f'{path} does not hold the label {label}: it holds {_values(data)}.',
                'Say which value is lesion: --label N for a prediction, --reference-label N.',
            )
        return nb.Nifti1Image(mask.astype(np.uint8), image.affine)
    binary = data != 0
    if not np.array_equal(data, binary):
        raise DataError(f'{path} is not a mask: it holds {_values(data)}.', _mask_hint(data))
    return nb.Nifti1Image(binary.astype(np.uint8), image.affine)


def whole_numbers(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Round values that are whole numbers but for a rounding error; leave others as they are."""
    if data.dtype.kind != 'f' or not np.isfinite(data).all():
        return data
    rounded = np.rint(data)
    return rounded if np.abs(data - rounded).max(initial=0) < _ROUNDING else data


def _values(data: npt.NDArray[Any]) -> str:
    values = np.unique(data)
    shown = ', '.join(f'{value:g}' for value in values[:_SHOWN_VALUES])
    return f'{len(values)} values ({shown}{", …" if len(values) > _SHOWN_VALUES else ""})'


def _mask_hint(data: npt.NDArray[Any]) -> str:
    if not np.isfinite(data).all():
        return 'Replace the voxels that are not a number by zero.'
    if np.array_equal(data, np.round(data)):
        return 'Say which value is lesion: --label N for a prediction, --reference-label N.'
    if data.min() >= 0 and data.max() <= 1:
        return 'It looks like probabilities: threshold it, and give the map to --probability.'
    return 'Give a mask of zeros and ones.'


def read_probability(path: Path) -> Any:
    """Read a probability map.

    Raises
    ------
    NoInputError, DataError
        As `read_image`, and for values outside 0 to 1.
    """
    image = read_image(path)
    data = np.asanyarray(image.dataobj)
    if data.size and not (data.min() >= -_ROUNDING and data.max() <= 1 + _ROUNDING):
        raise DataError(
            f'{path} is not a probability map: it holds {_values(data)}.',
            'Probabilities lie between 0 and 1.',
        )
    return nb.Nifti1Image(np.clip(data, 0, 1), image.affine)


def on_grid_of(reference: Any, image: Any, path: Path, resampling: bool, linear: bool) -> Any:
    """Bring an image to the grid of the reference.

    An image that only stores the same voxels in another order of axes is turned, which loses
    nothing. Any other grid is an error, or is resampled when asked for.

    Parameters
    ----------
    reference, image : nibabel image
    path : Path
        File of the image, for the error.
    resampling : bool
        Resample another grid, assuming that both lie in the same space (mm).
    linear : bool
        Interpolate linearly (probabilities) instead of taking the nearest voxel (masks).

    Raises
    ------
    DataError
        For another grid that may not be resampled, or that lies elsewhere.
    """
    shape, affine = reference.shape, reference.affine
    if same_grid(image, shape, affine):
        return image
    turned = _turned_like(reference, image)
    if same_grid(turned, shape, affine):
        return turned
    if resampling:
        check_overlap(reference, image, path)
        return resample(image, shape, affine, np.eye(4), order=1 if linear else 'nearest')
    raise DataError(
        f'{path} lies on another grid than its reference: {_difference(reference, image)}.',
        'If both lie in the same space, --resample brings the image to the grid of the '
        'reference; otherwise align them first.',
    )


def check_overlap(reference: Any, image: Any, path: Path) -> None:
    """Make sure that an image lies where its reference does, before it is resampled to it.

    Raises
    ------
    DataError
        If the fields of view do not overlap, or all that the image marks lies outside that of
        the reference: it would be read as empty.
    """
    inside = field_of_view(reference, image.shape, image.affine, np.eye(4))
    marked = np.asanyarray(image.dataobj) > 0
    if not inside.any() or (marked.any() and not (inside & marked).any()):
        what = 'what it marks' if inside.any() else 'it'
        raise DataError(
            f'{path} lies elsewhere than the image that it is compared with: {what} is outside '
            'the field of view of that image.',
            'Are both of the same exam and in the same space? Align them first.',
        )


def _turned_like(reference: Any, image: Any) -> Any:
    orientation = nb.orientations
    turn = orientation.ornt_transform(
        orientation.io_orientation(image.affine), orientation.io_orientation(reference.affine)
    )
    return image.as_reoriented(turn)


def _difference(reference: Any, image: Any) -> str:
    here, there = describe_geometry(image), describe_geometry(reference)
    if here != there:
        return f'{here} instead of {there}'
    shift = np.linalg.norm(image.affine[:3, 3] - reference.affine[:3, 3])
    turned = not np.allclose(image.affine[:3, :3], reference.affine[:3, :3], atol=1e-3)
    return f'its first voxel is {shift:.3g} mm away' + (', and its axes are turned' * turned)


def voxel_sizes(image: Any, path: Path) -> tuple[float, ...]:
    """Return the lengths of the edges of a voxel, in mm.

    Raises
    ------
    DataError
        If the edges are not perpendicular: distances along them would be wrong.
    """
    edges = np.asarray(image.affine)[:3, :3]
    sizes = np.linalg.norm(edges, axis=0)
    cosines = (edges / sizes).T @ (edges / sizes) - np.eye(3)
    if np.abs(cosines).max() > MAX_SHEAR:
        raise DataError(
            f'{path} has voxels whose edges are not perpendicular.',
            'Its affine holds a shear; resample the image to a grid without one.',
        )
    return tuple(float(size) for size in sizes)
