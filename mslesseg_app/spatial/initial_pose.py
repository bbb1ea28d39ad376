"""A rough pose for another program to start from: our search without its refinement."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mslesseg_app.spatial import pose, search
from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert
from mslesseg_app.spatial.exam_alignment import BRAIN_CENTRE, template_reference
from mslesseg_app.spatial.pose import nearest_rigid
from mslesseg_app.spatial.registration import ImagePair, Reference, search_poses

#: Resolution (mm) at which the search ends.
_LEVEL_MM = 4.0
#: A header's pose that is better than wrong ones by so many of their standard deviations is
#: accepted.
_CLEAR = 8.0


def rough_to_template(moving: Any, *, seed: int = 1) -> Affine:
    """Find about where a head lies on the template's brain, from any header.

    Parameters
    ----------
    moving : nibabel image, 3D
    seed : int
        Of the sample points.

    Returns
    -------
    ndarray, (4, 4)
        ``moving_from_mni`` (RAS+ mm), as good as a resolution of 4 mm makes it.

    Raises
    ------
    AlignmentError
        When the image is empty, constant, or not three-dimensional.
    """
    with threadpool_limits(limits=1, user_api='blas'):
        pair = ImagePair(moving, template_reference(seed))
        return search_poses(pair, pose.SIZE_MEAN, 12, keep=1)[0]


def rough_to_anchor(
    moving: Any, anchor: Any, anchor_mask: Any, anchor_from_mni: Affine, *, seed: int = 1
) -> Affine:
    """Find about how an image lies to the anchor of its session.

    The headers' pose is refined. Where it does not stand out, it competes with a search and
    with the way through the template.

    Parameters
    ----------
    moving, anchor : nibabel images, 3D
    anchor_mask : nibabel image
        Where the anchor counts, on its grid.
    anchor_from_mni : ndarray, (4, 4)
        About where the anchor lies (RAS+ mm).
    seed : int

    Returns
    -------
    ndarray, (4, 4)
        ``moving_from_anchor``, rigid (RAS+ mm).
    """
    with threadpool_limits(limits=1, user_api='blas'):
        pair = ImagePair(moving, Reference(anchor, anchor_mask, seed))
        level = pair.level(_LEVEL_MM)
        near = search.refine(*level, np.eye(4), 6)
        nmi, mean, spread = search.stands_out(*level, near.affine)
        if (nmi - mean) / spread >= _CLEAR:
            return near.affine
        starts = search_poses(pair, np.zeros(3), 6)
        own = compose(rough_to_template(moving, seed=seed), invert(anchor_from_mni))
        starts.append(nearest_rigid(own, apply_affine(anchor_from_mni, BRAIN_CENTRE)))
        found = [near, *(search.refine(*level, one, 6) for one in starts)]
        return min(found, key=lambda one: one.cost).affine
