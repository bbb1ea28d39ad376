"""Images as the steps of an exam hand them on: without bias field, and on the template grid.

New numbers are rounded to a step far below what a scanner resolves, so that their files take
half the room and time.
"""

from __future__ import annotations

from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.spatial import grids
from mslesseg_app.spatial.affines import Affine
from mslesseg_app.spatial.bias import correct_bias
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, is_template_grid

Floats = npt.NDArray[np.float32]

#: The step is at most the bright end of an image, divided by two to this power.
_STEP_BITS = 14


def rounded(data: Floats) -> Floats:
    """Round an image to multiples of a power of two.

    The step is at most 1/16384 of the value that 99 % of the image do not exceed; integers
    below 32768 stay what they are.
    """
    some = np.abs(data[::4, ::4, ::4])
    bright = float(np.percentile(some[some > 0], 99)) if some.any() else 0.0
    if bright <= 0:
        return data
    step = np.float32(2.0 ** (np.floor(np.log2(bright)) - _STEP_BITS))
    found: Floats = np.rint(data / step)
    found *= step
    return found


def prepare(checked: Any, original: Any, *, correct: bool) -> nb.Nifti1Image:
    """Remove the bias field of an image that was checked.

    Parameters
    ----------
    checked : nibabel image
        From `checks.check_image`.
    original : nibabel image
        The raw one, which gives the grid.
    correct : bool
        Whether N4 runs; without it the values are those of ``checked``.

    Returns
    -------
    nibabel.Nifti1Image
        float32, with the axes and the header of ``original``.
    """
    image = grids.to_ras(checked)  # N4 sees the same voxels however they are stored
    if correct:
        image = correct_bias(image)
        image = nb.Nifti1Image(rounded(np.asarray(image.dataobj)), image.affine)
    return grids.like(original, grids.from_ras(image, original), np.float32)


def to_template(image: Any, mni_to_image: Affine) -> nb.Nifti1Image:
    """Resample an image to the template grid in one linear interpolation.

    An image that lies there already, by the identity, is taken over voxel by voxel.

    Parameters
    ----------
    image : nibabel image
    mni_to_image : array (4, 4)
        Maps points (mm) of the template to points of the image.
    """
    if is_template_grid(image) and np.array_equal(mni_to_image, np.eye(4)):
        data = np.nan_to_num(np.asarray(image.dataobj, dtype=np.float32), posinf=0.0, neginf=0.0)
    else:
        moved = resample(image, TEMPLATE_SHAPE, TEMPLATE_AFFINE, mni_to_image)
        data = rounded(np.asarray(moved.dataobj))
    return grids.on_template(data, np.float32)
