"""Is this file an image that can be worked on? Each way in which it may not be is named."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener

from ..errors import DataError

#: What nibabel raises for a file that is no image, or only part of one.
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError)

#: Fewer slices than this cannot be aligned to the template.
MIN_SLICES = 8
#: qform and sform may differ by this much, in mm, at the corners of the image.
MAX_HEADER_DISAGREEMENT = 1.0

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
        memory as float32, its header as it is on disk.

    Raises
    ------
    DataError
        If the file is truncated or no NIfTI, is not three-dimensional, has too few slices,
        voxels without extent, no orientation, a qform and an sform that disagree, values that
        are not finite, or the same value everywhere.
    """
    return check_loaded(load_image(path), path)


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
    _check_shape(image, path)
    check_header(image, path)
    data = _read(image, path)
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
    return nb.Nifti1Image(data, image.affine, image.header)


def check_header(image: nb.Nifti1Image, path: Path) -> None:
    """Make sure that the header says where the voxels lie.

    Raises
    ------
    DataError
        If a voxel has no extent, if there is no orientation, or two that disagree.
    """
    edges = _edges(image)
    extents = np.linalg.norm(image.affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(image.affine[:3, :3]))
    if (
        not np.isfinite([*edges, *image.affine.ravel()]).all()
        or min(edges.min(), extents.min()) <= 1e-4
        or volume <= 1e-3 * extents.prod()
    ):
        raise DataError(
            f'{path} has voxels without extent: {edges.tolist()} mm, {volume:g} mm³.',
            'The header is damaged; convert the image again from DICOM.',
        )
    codes = int(image.header['qform_code']), int(image.header['sform_code'])
    if codes == (0, 0):
        raise DataError(
            f'{path} has neither qform nor sform: left and right are unknown.',
            'Convert the image again from DICOM, for example with dcm2niix.',
        )
    if all(codes):
        _check_forms_agree(image, path)


def _edges(image: nb.Nifti1Image) -> npt.NDArray[np.float64]:
    """Return the voxel edges as the file has them; nibabel loads a zero as one."""
    header: Any = image.header
    name = image.get_filename()
    if name:
        with ImageOpener(name) as file:
            header = type(image.header).from_fileobj(file, check=False)
    return np.asarray(header['pixdim'][1:4], dtype=np.float64)


def load_image(path: Path) -> nb.Nifti1Image:
    """Open an image without reading its data.

    Raises
    ------
    DataError
        If the file does not exist or is no readable image.
    """
    try:
        return nb.load(path)
    except FileNotFoundError as error:
        raise DataError(f'{path} does not exist.') from error
    except UNREADABLE as error:
        raise DataError(
            f'{path} is not a readable NIfTI image: {error}', 'Copy or convert the image again.'
        ) from error


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


def _read(image: nb.Nifti1Image, path: Path) -> np.ndarray:
    try:
        with np.errstate(all='ignore'):
            data = np.asanyarray(image.dataobj, dtype=np.float32)
    except UNREADABLE as error:
        raise DataError(
            f'{path} is truncated or damaged: {error}', 'Copy or convert the image again.'
        ) from error
    return data.reshape(image.shape[:3])


def _check_forms_agree(image: nb.Nifti1Image, path: Path) -> None:
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.asarray(image.shape[:3], dtype=float) - 1
    difference = (image.get_qform() - image.get_sform()) @ corners.T
    distance = float(np.linalg.norm(difference[:3], axis=0).max())
    if distance > MAX_HEADER_DISAGREEMENT:
        raise DataError(
            f'{path}: qform and sform disagree by {distance:.1f} mm.',
            'Find out which is right (overlay the image on another of the session), then set '
            'both to it, for example with "fslorient -copysform2qform".',
        )
