"""Opening image files: what is no image, or not there, is said in the same words everywhere."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from ..errors import DataError, MSLesSegError, NoInputError

#: What nibabel raises for a file that is no image, or only part of one.
UNREADABLE = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    struct.error,
    zlib.error,
    HeaderDataError,
    HeaderTypeError,
    ImageDataError,
    ImageFileError,
    WrapStructError,
)

#: How files begin that only stand for content which is kept elsewhere.
_POINTERS = {b'/annex/objects/': 'git-annex', b'version https://git-lfs': 'Git LFS'}
_GZIP = b'\x1f\x8b'
#: How NIfTI-1 and NIfTI-2 files begin, in both byte orders.
_NIFTI1, _NIFTI2 = ({struct.pack(order + 'i', size) for order in '<>'} for size in (348, 540))
#: DEFLATE cannot compress more than this (RFC 1951: 258 bytes in 2 bits).
_MOST_COMPRESSION = 1032
#: Sizes of a voxel that a header can mean; some programs leave the field empty.
_BITS = (8, 16, 24, 32, 64, 96, 128, 256)
_COPY_AGAIN = 'Copy or convert the image again.'
_QUATERNION = ('quatern_b', 'quatern_c', 'quatern_d')
_OFFSETS = ('qoffset_x', 'qoffset_y', 'qoffset_z')
#: Rounding to single precision makes the square of a unit quaternion this much longer at most.
_ROUNDING = 3 * float(np.finfo(np.float32).eps)


def open_image(path: Path) -> Any:
    """Open an image file without reading its voxels.

    Axes of length one behind the third are dropped. A qform that describes no rotation, because
    its quaternion is longer than one, or that holds values that are not finite, is made anew from
    the sform, where there is one (:func:`damaged_qform` tells so). Without an sform a quaternion
    that is too long is shortened, which is what the NIfTI library of the format's authors does.

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
            f'{path} is not a readable image: {error}', _COPY_AGAIN
        ) from error
    if isinstance(image, nb.Nifti1Image):
        _check_storage(path)
    return three_dimensional(image)


def damaged_qform(path: Path) -> bool:
    """Whether a NIfTI file has a qform that cannot be used, beside an sform that can.

    A file that cannot be read has none.
    """
    try:
        header = raw_header(path)
    except (MSLesSegError, *UNREADABLE):
        return False
    return (
        isinstance(header, nb.Nifti1Header)
        and int(header['qform_code']) > 0
        and _is_damaged(header)
        and _has_sform(header)
    )


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
        return DataError(f'{path} is empty (0 bytes).', _COPY_AGAIN)
    return _wrong_suffix(path, start)


def _wrong_suffix(path: Path, start: bytes) -> DataError | None:
    """Say that a file is not compressed although its name says so, or the other way round."""
    packed, named = start.startswith(_GZIP), path.name.lower().endswith('.gz')
    if named and not packed and start[:4] in _NIFTI1 | _NIFTI2:
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


def _load(path: Path) -> Any:
    try:
        image: Any = nb.load(path)
    except ValueError as error:  # nibabel asks the quaternion for the affine
        if 'w2' not in str(error):
            raise
        image = _Lenient.from_filename(path)
    header = image.header
    if isinstance(header, nb.Nifti1Header):
        _mend_qform(header)
    return image


# -------------------------------------------------------------------- headers as they are stored


def raw_header(path: Path) -> Any:
    """Read the header of a NIfTI file as it is stored: nibabel corrects it while it loads."""
    with ImageOpener(str(path)) as file:
        content = file.read(nb.Nifti2Header.sizeof_hdr)
    if content[:4] not in _NIFTI1 | _NIFTI2:
        raise ImageFileError('it does not begin as NIfTI does')
    kind = nb.Nifti2Header if content[:4] in _NIFTI2 else nb.Nifti1Header
    return kind(content[: kind.sizeof_hdr], check=False)


def _check_storage(path: Path) -> None:
    """Make sure that header and file agree on how voxels are stored (NIfTI in one file).

    Raises
    ------
    DataError
        If the voxels begin within the header, if their type and size disagree, or if there are
        more of them than the file can hold.
    """
    header = raw_header(path)
    hint = 'The header is damaged; convert the image again from DICOM.'
    start, bits = float(header['vox_offset']), int(header['bitpix'])
    if start < header.single_vox_offset:
        raise DataError(f'{path}: its voxels begin at byte {start:g}, within the header.', hint)
    size = header.get_data_dtype().itemsize
    if bits in _BITS and bits != 8 * size:
        raise DataError(f'{path}: its header says {bits} bits a voxel, then {8 * size}.', hint)
    needed = math.prod(map(int, header.get_data_shape())) * size
    if needed > path.stat().st_size * _most_expansion(path.name.lower()):
        raise DataError(f'{path} is truncated: its voxels need {needed} bytes.', _COPY_AGAIN)


def _most_expansion(name: str) -> float:
    """Return how many bytes a byte of a file can stand for at most."""
    if name.endswith('.gz'):
        return _MOST_COMPRESSION
    return 1 if name.endswith('.nii') else math.inf


def _is_damaged(header: Any) -> bool:
    """Whether the quaternion is longer than rounding makes it, or something is not finite."""
    values = np.array([header[name] for name in (*_QUATERNION, *_OFFSETS)], dtype=np.float64)
    with np.errstate(all='ignore'):
        return not (np.isfinite(values).all() and values[:3] @ values[:3] <= 1 + _ROUNDING)


def _has_sform(header: Any) -> bool:
    affine = header.get_sform()
    with np.errstate(all='ignore'):
        volume = abs(np.linalg.det(affine[:3, :3])) if np.isfinite(affine).all() else 0.0
    return int(header['sform_code']) > 0 and 1e-9 < volume < np.inf


def _mend_qform(header: Any) -> None:
    """Make a damaged qform anew from the sform, in place, or shorten its quaternion."""
    if not _is_damaged(header):
        _shorten_quaternion(header)
    elif _has_sform(header):
        header.set_qform(header.get_sform(), int(header['qform_code']), strip_shears=True)
    else:
        _shorten_quaternion(header)


def _shorten_quaternion(header: Any) -> None:
    """Shorten a quaternion that is longer than one to one, in place."""
    vector = np.array([header[name] for name in _QUATERNION], dtype=np.float64)
    length = float(np.linalg.norm(vector))
    if np.isfinite(length) and length > 1:
        for name, value in zip(_QUATERNION, vector / length, strict=True):
            header[name] = value


class _LenientHeader(nb.Nifti1Header):
    def get_qform_quaternion(self) -> Any:
        _mend_qform(self)
        return super().get_qform_quaternion()


class _Lenient(nb.Nifti1Image):
    header_class = _LenientHeader
