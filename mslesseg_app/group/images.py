"""Reading whole images quickly: a group level opens thousands and needs every voxel of them."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel as nb
import numpy as np

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.checks import UNREADABLE


def load_whole(path: Path) -> nb.spatialimages.SpatialImage:
    """Load an image with all of its data, decompressed in one go.

    That is twice as fast as nibabel, which reads compressed files piece by piece.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    try:
        if not path.name.endswith('.nii.gz'):
            return nb.load(path)
        return nb.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
    except (*UNREADABLE, zlib.error) as error:
        raise DataError(f'{path} cannot be read: {error}') from error


def load_slices(path: Path, axis: int, indices: Sequence[int]) -> nb.spatialimages.SpatialImage:
    """Load an image of which only some slices are wanted; others may be left at zero.

    A compressed file is read no further than to the last of these slices.

    Parameters
    ----------
    axis, indices
        The slices, by the axis and the numbers that they have after the axes were put closest
        to right, anterior, superior.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    try:
        head = _Unpacker(path)
        header = nb.Nifti1Header.from_fileobj(io.BytesIO(head.read(1024)))
        shape, size = header.get_data_shape(), header.get_data_dtype().itemsize
        start = int(header.get_data_offset())
        wanted = start + size * shape[0] * shape[1] * _last(header, axis, indices)
        data = head.read(wanted)
        if len(shape) == 3 and len(data) >= wanted:
            whole = data.ljust(start + size * int(np.prod(shape)), b'\0')
            return nb.Nifti1Image.from_bytes(whole)
    except (*UNREADABLE, zlib.error, IndexError):
        pass  # read as others are, it says what is wrong
    return load_whole(path)


class _Unpacker:
    """A gzip file of which only the beginning is unpacked."""

    def __init__(self, path: Path) -> None:
        self._packed = path.read_bytes()
        self._unpacker = zlib.decompressobj(31)
        self._done = b''

    def read(self, length: int) -> bytes:
        """Return so many bytes from the beginning, fewer where there are no more."""
        more = length - len(self._done)
        if more > 0:
            self._done += self._unpacker.decompress(self._packed, more)
            self._packed = self._unpacker.unconsumed_tail
        return self._done


def _last(header: nb.Nifti1Header, axis: int, indices: Sequence[int]) -> int:
    """Return how many planes of the last stored axis hold some slices."""
    count = int(header.get_data_shape()[2])
    turned, flip = nb.io_orientation(header.get_best_affine())[2]
    if turned != axis:
        return count
    return 1 + max(indices if flip > 0 else [count - 1 - index for index in indices])
