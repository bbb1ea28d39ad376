"""Whether the image that was made of a series holds its slices, in their places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError
from mslesseg_app.dicom.convert.series import read_dataset
from mslesseg_app.dicom.stack import make_stack, turned

#: The stored values of a slice and those of the image correlate at least this much; they differ
#: by the scaling of the slice only.
_SAME_SLICE = 0.99
#: Every so many rows and columns are compared.
_EVERY = 3


def verify_image(image: Path, files: Sequence[str]) -> None:
    """Compare an image with the DICOM files that it was made from.

    Parameters
    ----------
    image : Path
        NIfTI file, before anything is taken out of it.
    files : sequence of str
        The files of the series, classic or multi-frame.

    Raises
    ------
    DataError
        If the files do not fill one regular grid; if the grid of the image is another one (number
        of slices, or corners more than `MAX_CORNER_MM` apart); or if slices are in other places.
    """
    stack = make_stack([read_dataset(path, pixels=True) for path in files])
    loaded: Any = nb.load(image)
    try:
        values = turned(np.asanyarray(loaded.dataobj), loaded.affine, stack)
    except DataError as error:
        raise DataError(f'dcm2niix made an image that is not the series: {error}') from error
    try:
        stored = stack.pixels()
    except DataError:
        return  # compressed in a way that is not unpacked here; the grid is right
    wrong = _moved(stored, values)
    if wrong:
        raise DataError(
            f'dcm2niix made an image that is not the series: {wrong} slices lie elsewhere'
        )


def _moved(stored: npt.NDArray[Any], values: npt.NDArray[Any]) -> int:
    """Count the slices whose values are not those that were stored; both (X, Y, Z)."""
    if stored.shape != values.shape:
        return 0
    count = 0
    for number in range(stored.shape[2]):
        one, other = (a[::_EVERY, ::_EVERY, number].astype(float) for a in (stored, values))
        if one.std() > 0:
            same = other.std() > 0 and np.corrcoef(one.ravel(), other.ravel())[0, 1]
            count += bool(same < _SAME_SLICE)
    return count
