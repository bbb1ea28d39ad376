"""Is this file an image that can be worked on? Each way in which it may not be is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.affines import without_shear
from mslesseg_app.spatial.intensity import zero_based
from mslesseg_app.spatial.nifti_header import MAX_HEADER_DISAGREEMENT as MAX_HEADER_DISAGREEMENT
from mslesseg_app.spatial.nifti_header import UNREADABLE as UNREADABLE
from mslesseg_app.spatial.nifti_header import corner_distance, raw_header
from mslesseg_app.spatial.reading import open_image, three_dimensional

#: Fewer slices than this cannot be aligned to the template.
MIN_SLICES = 8

#: Codes of units that are no millimetres; without a unit, millimetres are meant.
_UNITS = {1: 'metres', 3: 'micrometres'}
_KINDS = {'c': 'complex numbers', 'V': 'colours'}


def check_image(path: Path) -> nb.Nifti1Image:
    """Load an image and make sure that it can be worked on.

    Parameters
    ----------
    path : Path
        NIfTI file.

    Returns
    -------
    nibabel.Nifti1Image
        The image, three-dimensional (a trailing axis of length one is dropped), its data in
        memory as float32 with the background at zero
        (:func:`mslesseg_app.spatial.intensity.zero_based`), its header as it is on disk.

    Raises
    ------
    NoInputError
        If there is no such file, or its content was not fetched.
    DataError
        If the file is truncated or no NIfTI, is not three-dimensional, has too few slices,
        voxels without extent or with edges that are not perpendicular, a unit of length other
        than the millimetre, no orientation, a qform and an sform that disagree, values that are
        not finite, or the same value everywhere.
    """
    return check_loaded(open_image(path), path)


def check_loaded(image: nb.Nifti1Image, path: Path) -> nb.Nifti1Image:
    """Make sure that an image in memory can be worked on; see :func:`check_image`.

    Parameters
    ----------
    image : nibabel.Nifti1Image
    path : Path
        What messages call it.
    """
    if not isinstance(image, nb.Nifti1Image):
        raise DataError(f'{path} is not a NIfTI image but {type(image).__name__}.')
    image = three_dimensional(image)
    _check_shape(image, path)
    check_header(image, path)
    data = _read_values(image, path)
    if not np.isfinite(data).all():
        count = int((~np.isfinite(data)).sum())
        raise DataError(
            f'{path} holds {count} voxels that are not a number (NaN or infinite).',
            'Export the image again, or replace these voxels, for example by zero.',
        )
    if float(data.min()) == float(data.max()):
        raise DataError(
            f'{path} is constant: every voxel is {float(data.flat[0]):g}.',
            'The file holds no image; export it again from the scanner or the archive.',
        )
    return nb.Nifti1Image(zero_based(data), image.affine, image.header)


def check_header(image: nb.Nifti1Image, path: Path) -> None:
    """Make sure that the header of a NIfTI image says where the voxels lie.

    The affine decides. The voxel sizes of ``pixdim`` count only as part of the qform.

    Raises
    ------
    DataError
        If a voxel has no extent, if lengths are not in millimetres, if there is no orientation,
        or two that disagree, or if the edges of the voxels are not perpendicular.
    """
    codes = int(image.header['qform_code']), int(image.header['sform_code'])
    _check_unit(image, path)
    _check_extent(image, path, with_pixdim=codes[0] > 0 or codes[1] <= 0)
    if codes == (0, 0):
        raise DataError(
            f'{path} has neither qform nor sform: left and right are unknown.',
            'Convert the image again from DICOM, for example with dcm2niix.',
        )
    if all(codes):
        _check_forms_agree(image, path)
    _check_shear(image, path)


def _check_unit(image: nb.Nifti1Image, path: Path) -> None:
    unit = _UNITS.get(int(image.header['xyzt_units']) % 8)
    if unit:
        raise DataError(
            f'{path} gives lengths in {unit}; millimetres are needed.',
            'Convert the image again, or correct the field xyzt_units and the affine.',
        )


def _check_extent(image: nb.Nifti1Image, path: Path, with_pixdim: bool) -> None:
    edges = _edges(image) if with_pixdim else np.ones(3)
    extents = np.linalg.norm(image.affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(image.affine[:3, :3]))
    if (
        not np.isfinite([*edges, *image.affine.ravel()]).all()
        or min(edges.min(), extents.min()) <= 1e-4
        or volume <= 1e-3 * extents.prod()
    ):
        shown = edges if with_pixdim else extents
        raise DataError(
            f'{path} has voxels without extent: {shown.tolist()} mm, {volume:g} mm³.',
            'The header is damaged; convert the image again from DICOM.',
        )


def _edges(image: nb.Nifti1Image) -> npt.NDArray[np.float64]:
    """Return the voxel edges as the file has them; nibabel loads a zero as one."""
    header: Any = image.header
    name = image.get_filename()
    if name:
        header = raw_header(Path(name))
    return np.asarray(header['pixdim'][1:4], dtype=np.float64)


def _check_shape(image: nb.Nifti1Image, path: Path) -> None:
    shape = image.shape
    kind = image.get_data_dtype()
    if kind.kind not in 'iuf':
        raise DataError(
            f'{path} holds {_KINDS.get(kind.kind, "no numbers")}: a grey-scale image is needed.',
            'Convert the image again; is it a screenshot, or a magnitude and phase in one?',
        )
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise DataError(
            f'{path} has shape {shape}: one three-dimensional image is needed.',
            'Keep one volume of a series, and leave the others out of the dataset.',
        )
    if min(shape[:3]) < MIN_SLICES:
        raise DataError(
            f'{path} has only {min(shape[:3])} slices; at least {MIN_SLICES} are needed.',
            'The scan covers too little of the brain to be aligned; a localiser perhaps?',
        )


def _read_values(image: nb.Nifti1Image, path: Path) -> np.ndarray:
    try:
        with np.errstate(all='ignore'):
            # Single precision would round an offset and what lies on it.
            kind = image.get_data_dtype()
            wide = kind.itemsize > (4 if kind.kind == 'f' else 2) or _inter(image) != 0
            data = np.asanyarray(image.dataobj, dtype=np.float64 if wide else np.float32)
    except UNREADABLE as error:
        raise DataError(
            f'{path} is truncated or damaged: {error}', 'Copy or convert the image again.'
        ) from error
    return data


def _inter(image: nb.Nifti1Image) -> float:
    """Return the intercept of the scaling of stored values."""
    return float(getattr(image.dataobj, 'inter', 0.0))


def _check_forms_agree(image: nb.Nifti1Image, path: Path) -> None:
    qform = image.get_qform()
    distance = corner_distance(image.shape, qform, image.get_sform())
    if not distance <= MAX_HEADER_DISAGREEMENT:
        raise DataError(
            f'{path}: qform and sform disagree by {distance:.1f} mm.',
            'Find out which is right (overlay the image on another of the session), then set '
            'both to it, for example with "fslorient -copysform2qform".',
        )


def _check_shear(image: nb.Nifti1Image, path: Path) -> None:
    """Refuse edges that are not perpendicular: programs read such an affine in different ways."""
    distance = corner_distance(image.shape, image.affine, without_shear(image.affine))
    if distance > MAX_HEADER_DISAGREEMENT:
        raise DataError(
            f'{path} has voxels whose edges are not perpendicular: its affine holds a shear, '
            f'which moves its corners by {distance:.1f} mm.',
            'Give the image as it was scanned, or resample it to a grid without shear, for '
            'example with "nilearn.image.resample_img" or "flirt -applyxfm".',
        )
