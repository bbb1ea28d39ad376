"""Evaluation against a reference mask, on the grid of that mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from mslesseg_app.core.errors import DataError, MSLesSegError
from mslesseg_app.metrics.exam import accuracy
from mslesseg_app.spatial.masks import check_overlap, read_image, whole_numbers
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import is_template_grid, same_grid


def read_binary(path: Path) -> tuple[Any, np.ndarray]:
    """Read a binary mask.

    Returns
    -------
    image : nibabel image
    mask : bool array (X, Y, Z)

    Raises
    ------
    DataError
        If the file cannot be read, is not three-dimensional, has no place in space or has values
        besides 0 and one other positive one.
    NoInputError
        If there is no such file, or its content was not fetched.
    """
    try:
        image = read_image(path)
    except MSLesSegError as error:
        raise type(error)(f'The reference mask {error.message}', error.hint) from error
    data = whole_numbers(np.asanyarray(image.dataobj))
    values = np.unique(data)
    if len(values) > 2 or values.min() < 0 or (len(values) == 2 and values[0] != 0):
        raise DataError(
            f'The reference mask {path} is not binary: it has {len(values)} different values.',
            'Give a mask of zeros and ones.',
        )
    return image, data > 0


def evaluate(reference: Path, native: Any, mni: Any) -> tuple[dict[str, float], str]:
    """Compare a prediction with a reference mask.

    The reference's grid decides: the subject's own FLAIR, the template, or any other grid in
    the space of the FLAIR, to which the native prediction is then resampled (nearest).

    Parameters
    ----------
    reference : Path
        Binary mask.
    native, mni : nibabel image
        Predicted mask on the FLAIR's grid and on the template grid.

    Returns
    -------
    numbers : dict
        DSC, TPR, PPV, LTPR, LFPR, AVD and ASSD.
    grid : str
        ``orig``, ``MNI152NLin6Asym`` or ``reference``.
    """
    image, truth = read_binary(reference)
    if same_grid(image, native.shape, native.affine):
        chosen, grid = native, 'orig'
    elif is_template_grid(image):
        chosen, grid = mni, 'MNI152NLin6Asym'
    else:
        check_overlap(native, image, reference)
        chosen = resample(native, image.shape, image.affine, np.eye(4), order='nearest')
        grid = 'reference'
    prediction = np.asanyarray(chosen.dataobj) > 0
    return accuracy(prediction, truth, nb.affines.voxel_sizes(image.affine)), grid
