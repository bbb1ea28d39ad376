"""Opening image files: what is no image, or not there, is said in the same words everywhere."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nibabel.filebasedimages import ImageFileError

from ..errors import DataError, MSLesSegError, NoInputError

#: What nibabel raises for a file that is no image, or only part of one.
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError)

#: How files begin that only stand for content which is kept elsewhere.
_POINTERS = {b'/annex/objects/': 'git-annex', b'version https://git-lfs': 'Git LFS'}
_QUATERNION = ('quatern_b', 'quatern_c', 'quatern_d')


def open_image(path: Path) -> Any:
    """Open an image file without reading its voxels.

    Axes of length one behind the third are dropped. A quaternion that is longer than one, as
    rounding leaves it, is shortened to one, which is what the NIfTI library of the format's
    authors does.

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
        image = _load(path)
    except UNREADABLE as error:
        raise DataError(
            f'{path} is not a readable image: {error}', 'Copy or convert the image again.'
        ) from error
    return three_dimensional(image)


def lacking(path: Path) -> MSLesSegError | None:
    """Say why the content of a file is not there, or None if it seems to be there."""
    fetch = f'Fetch it with "datalad get {path}" or "git annex get {path}", then run again.'
    if not path.is_file():
        if path.is_symlink():
            return NoInputError(f'{path} is a link to content that is not here.', fetch)
        if path.is_dir():
            return DataError(f'{path} is a folder, not an image.')
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
        return DataError(f'{path} is empty (0 bytes).', 'Copy or convert the image again.')
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


def _load(path: Path) -> Any:
    try:
        image: Any = nb.load(path)
    except ValueError as error:  # nibabel asks the quaternion for the affine
        if 'w2' not in str(error):
            raise
        image = _Lenient.from_filename(path)
    header = image.header
    if isinstance(header, nb.Nifti1Header):
        _shorten_quaternion(header)
    return image


def _shorten_quaternion(header: Any) -> None:
    """Shorten a quaternion that is longer than one to one, in place."""
    vector = np.array([header[name] for name in _QUATERNION], dtype=np.float64)
    length = float(np.linalg.norm(vector))
    if np.isfinite(length) and length > 1:
        for name, value in zip(_QUATERNION, vector / length, strict=True):
            header[name] = value


class _LenientHeader(nb.Nifti1Header):
    def get_qform_quaternion(self) -> Any:
        _shorten_quaternion(self)
        return super().get_qform_quaternion()


class _Lenient(nb.Nifti1Image):
    header_class = _LenientHeader
