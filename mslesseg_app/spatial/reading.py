"""Opening image files: what is no image, or not there, is reported alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from mslesseg_app.core.errors import DataError, MSLesSegError, NoInputError
from mslesseg_app.spatial.nifti_header import (
    COPY_AGAIN,
    begins_as_nifti,
    check_storage,
    mend_qform,
    raw_header,
)
from mslesseg_app.spatial.nifti_header import UNREADABLE as UNREADABLE

#: How files begin that only stand for content which is kept elsewhere.
_POINTERS = {b'/annex/objects/': 'git-annex', b'version https://git-lfs': 'Git LFS'}
_GZIP = b'\x1f\x8b'


def open_image(path: Path) -> Any:
    """Open an image file without reading its voxels.

    Axes of length one behind the third are dropped. A qform that describes no rotation, because
    its quaternion is longer than one, or that holds values that are not finite, is made anew from
    the sform, where there is one (see :func:`mslesseg_app.spatial.nifti_header.damaged_qform`).
    Without an sform a quaternion that is too long is shortened, which is what the NIfTI library
    of the format's authors does.

    Parameters
    ----------
    path : Path

    Returns
    -------
    nibabel image
        Its file name is that of ``path``.

    Raises
    ------
    NoInputError
        If there is no such file, or only a link or a pointer to content that was not fetched.
    DataError
        If the file is no image, or only part of one.
    """
    if problem := lacking(path):
        raise problem
    try:
        image = _load_nifti(path)
        if isinstance(image, nb.Nifti1Image):
            check_storage(path)
    except UNREADABLE as error:
        raise DataError(f'{path} is not a readable image: {error}', COPY_AGAIN) from error
    return three_dimensional(image)


def lacking(path: Path) -> MSLesSegError | None:
    """Say why the content of a file is not there, or None if it seems to be there."""
    fetch = f'Fetch it with "datalad get {path}" or "git annex get {path}", then run again.'
    if not path.is_file():
        if path.is_symlink():
            return NoInputError(f'{path} is a link to content that is not here.', fetch)
        if path.is_dir():
            return DataError(f'{path} is a folder, not an image.')
        if path.exists():
            return DataError(f'{path} is no regular file.')
        return NoInputError(f'{path} does not exist.')
    try:
        with path.open('rb') as file:
            start = file.read(64)
    except OSError as error:
        return DataError(f'{path} cannot be read: {error.strerror}.', 'Check its permissions.')
    for begin, system in _POINTERS.items():
        if start.startswith(begin):
            hint = fetch if system == 'git-annex' else 'Fetch it with "git lfs pull".'
            return NoInputError(f'{path} is a pointer of {system}; its content is not here.', hint)
    if not start:
        return DataError(f'{path} is empty (0 bytes).', COPY_AGAIN)
    return _wrong_suffix(path, start)


def _wrong_suffix(path: Path, start: bytes) -> DataError | None:
    """Say that a file is not compressed although its name says so, or the other way round."""
    packed, named = start.startswith(_GZIP), path.name.lower().endswith('.gz')
    if named and not packed and begins_as_nifti(start):
        return DataError(
            f'{path} is not compressed, although its name ends in ".gz".',
            'Compress it with gzip, or name it ".nii".',
        )
    if packed and path.name.lower().endswith('.nii'):
        return DataError(
            f'{path} is compressed, although its name does not end in ".gz".',
            'Name it ".nii.gz", or unpack it with gunzip.',
        )
    return None


def three_dimensional(image: Any) -> Any:
    """Drop the axes of length one behind the third; other images are returned as they are.

    Nothing is read where there is nothing to drop.
    """
    shape = image.shape
    if len(shape) <= 3 or any(length != 1 for length in shape[3:]):
        return image
    header = image.header.copy()
    header.set_data_shape(shape[:3])
    data = _Flat(image.dataobj, shape[:3])
    return type(image)(data, image.affine, header, file_map=image.file_map)


class _Flat:
    """The voxels of an image in fewer axes, read when they are asked for."""

    def __init__(self, data: Any, shape: tuple[int, ...]) -> None:
        self._data, self.shape, self.ndim = data, tuple(shape), len(shape)
        self.dtype = data.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return np.asanyarray(self._data, dtype=dtype).reshape(self.shape)

    def __getitem__(self, place: Any) -> Any:
        return np.asanyarray(self)[place]


def _load_nifti(path: Path) -> Any:
    try:
        image: Any = nb.load(path)
    except ValueError as error:  # nibabel asks the quaternion for the affine
        if 'w2' not in str(error):
            raise
        second = isinstance(raw_header(path), nb.Nifti2Header)
        image = (_LenientNifti2 if second else _LenientNifti1).from_filename(path)
    header = image.header
    if isinstance(header, nb.Nifti1Header):
        mend_qform(header)
    return image


class _LenientHeader1(nb.Nifti1Header):
    def get_qform_quaternion(self) -> Any:
        mend_qform(self)
        return super().get_qform_quaternion()


class _LenientHeader2(nb.Nifti2Header):
    def get_qform_quaternion(self) -> Any:
        mend_qform(self)
        return super().get_qform_quaternion()


class _LenientNifti1(nb.Nifti1Image):
    header_class = _LenientHeader1


class _LenientNifti2(nb.Nifti2Image):
    header_class = _LenientHeader2
