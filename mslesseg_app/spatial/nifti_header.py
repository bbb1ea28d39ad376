"""Headers of NIfTI files as they are stored: what contradicts the file, and a damaged qform."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, HeaderTypeError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from mslesseg_app.core.errors import DataError

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
#: qform and sform may differ by this much, in mm, at the corners of the image.
MAX_HEADER_DISAGREEMENT = 1.0
COPY_AGAIN = 'Copy or convert the image again.'

#: How NIfTI-1 and NIfTI-2 files begin, in both byte orders.
_NIFTI1, _NIFTI2 = ({struct.pack(order + 'i', size) for order in '<>'} for size in (348, 540))
#: DEFLATE cannot compress more than this (RFC 1951: 258 bytes in 2 bits).
_MOST_COMPRESSION = 1032
#: Sizes of a voxel that a header can mean; some programs leave the field empty.
_BITS = (8, 16, 24, 32, 64, 96, 128, 256)
_QUATERNION = ('quatern_b', 'quatern_c', 'quatern_d')
_OFFSETS = ('qoffset_x', 'qoffset_y', 'qoffset_z')
#: Rounding to single precision makes the square of a unit quaternion this much longer at most.
_ROUNDING = 3 * float(np.finfo(np.float32).eps)


def begins_as_nifti(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a NIfTI header."""
    return start[:4] in _NIFTI1 | _NIFTI2


def raw_header(path: Path) -> Any:
    """Read the header of a NIfTI file as it is stored: nibabel corrects it while it loads."""
    with ImageOpener(str(path)) as file:
        content = file.read(nb.Nifti2Header.sizeof_hdr)
    if not begins_as_nifti(content):
        raise ImageFileError('it does not begin as NIfTI does')
    kind = nb.Nifti2Header if content[:4] in _NIFTI2 else nb.Nifti1Header
    return kind(content[: kind.sizeof_hdr], check=False)


def check_storage(path: Path) -> None:
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
        raise DataError(f'{path} is truncated: its voxels need {needed} bytes.', COPY_AGAIN)


def _most_expansion(name: str) -> float:
    """Return how many bytes a byte of a file can stand for at most."""
    if name.endswith('.gz'):
        return _MOST_COMPRESSION
    return 1 if name.endswith('.nii') else math.inf


def damaged_qform(path: Path) -> bool:
    """Whether a NIfTI file has a qform that is no rotation, and an sform that was taken for it.

    One that shortening would bring to the place of the sform does not count, nor does a file
    that cannot be read.
    """
    try:
        header = raw_header(path)
        set_both = int(header['qform_code']) > 0 and _has_sform(header)
        if not (set_both and _is_damaged(header)):
            return False
        _shorten_quaternion(header)
        if _is_damaged(header):  # still: something is not finite
            return True
        shape = header.get_data_shape()
        distance = corner_distance(shape, header.get_qform(), header.get_sform())
    except UNREADABLE:
        return False
    return not distance <= MAX_HEADER_DISAGREEMENT


def corner_distance(
    shape: Sequence[int], first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> float:
    """Return how far apart two affines put a corner of a grid, in mm."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.asarray(shape[:3], dtype=float) - 1
    with np.errstate(all='ignore'):
        moved = ((first - second) @ corners.T)[:3]
    return float(np.linalg.norm(moved, axis=0).max())


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


def mend_qform(header: Any) -> None:
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
