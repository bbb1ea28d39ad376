"""Do the images of one session lie on each other? Their alignments are compared in pairs.

Each image may fit the template well enough and still lie some millimetres beside the others. A
rigid registration of an image to the FLAIR, begun where the two alignments put it, says where it
should lie; the distance between the two places, averaged over the brain, is the disagreement.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert
from mslesseg_app.spatial.pose import nearest_rigid
from mslesseg_app.spatial.registration import align
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import load_template

#: Points of the brain at which places are compared: every so many millimetres.
_STEP_MM = 10
#: A point in the middle of the template's brain (mm).
_CENTRE = (0.0, -20.0, 10.0)


def disagreement(
    moving: Any,
    flair: Any,
    moving_from_mni: Affine,
    flair_from_mni: Affine,
    region: Any,
    *,
    seed: int = 1,
) -> float:
    """Return how far apart two alignments put the brain, in mm.

    Parameters
    ----------
    moving, flair : nibabel image, 3D
        Two images of one session.
    moving_from_mni, flair_from_mni : ndarray, (4, 4)
        Their alignments: points of the template to points of the image (RAS+ mm).
    region : nibabel image
        Where images are compared, on the template: the brain and its rim.
    seed : int
        As in `registration.align`.

    Returns
    -------
    float
        Mean over the brain of the distance between where the alignments put a point of the FLAIR
        in the other image, and where a rigid registration of the two puts it.
    """
    claimed = compose(moving_from_mni, invert(flair_from_mni))
    inside = resample(region, flair.shape, flair.affine, invert(flair_from_mni), 'nearest')
    start = nearest_rigid(claimed, apply_affine(flair_from_mni, _CENTRE))
    found = align(
        moving, flair, dof=6, reference_mask=inside, start=start, seed=seed
    ).moving_from_reference
    points = apply_affine(flair_from_mni, _brain_points())
    apart = apply_affine(claimed, points) - apply_affine(found, points)
    return float(np.linalg.norm(apart, axis=1).mean())


def _brain_points() -> npt.NDArray[np.float64]:
    """Return points of the template's brain on a coarse grid, in mm."""
    mask = load_template().mask
    voxels = np.argwhere(np.asarray(mask.dataobj)[::_STEP_MM, ::_STEP_MM, ::_STEP_MM] > 0)
    return apply_affine(mask.affine, voxels * float(_STEP_MM))
