"""Joint segmentation: where the images of two sessions agree, their masks agree.

A model that is asked twice gives two answers, also where nothing changed. Where the FLAIRs do
not differ, the probabilities of the sessions are therefore averaged; where they do, each session
keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from mslesseg_app.lesions.components import label_lesions, structure
from mslesseg_app.lesions.difference import ChangedRegions, Difference

Floats = npt.NDArray[np.float32]

#: Differences up to the first are none, beyond the second a session keeps its own probability
#: (standard deviations).
_SAME, _OTHER = 2.0, 4.0


def agreement_weight(difference: Difference, regions: ChangedRegions) -> Floats:
    """Return how far the images agree: 1 where they do not differ, 0 where they do.

    Parameters
    ----------
    difference : Difference
    regions : ChangedRegions
        Weigh nothing, and neither do the voxels beside them.

    Returns
    -------
    float32 array (X, Y, Z)
        On the half-way grid; 0 outside of the brain.
    """
    weight = np.clip((_OTHER - np.abs(difference.z)) / (_OTHER - _SAME), 0, 1)
    weight[ndi.binary_dilation(regions.labels > 0, structure(18))] = 0
    return np.asarray(weight * difference.pair.brain, dtype=np.float32)


def pull(own: Floats, other: Floats, weight: Floats) -> Floats:
    """Return what a session's probability gains when the other one counts as much.

    Parameters
    ----------
    own, other : float32 array (X, Y, Z)
        Probabilities on the half-way grid.
    weight : float32 array (X, Y, Z)
        From `agreement_weight`.
    """
    return weight * (other - own)


def combine(own: Floats, pulls: Sequence[Floats]) -> Floats:
    """Return the joint probability of a session.

    Parameters
    ----------
    own : float32 array (X, Y, Z)
        Probability on the grid of its FLAIR.
    pulls : sequence of float32 array
        Of each session that it was compared with, on the same grid. All count alike, so that
        two sessions that agree get their mean.
    """
    total = np.zeros(own.shape, dtype=np.float32)
    for one in pulls:
        total += one
    return np.clip(own + total / np.float32(len(pulls) + 1), 0, 1)


def joint_mask(
    probability: Floats,
    voxel_mm3: float,
    *,
    threshold: float,
    connectivity: int,
    min_volume_mm3: float,
) -> npt.NDArray[np.bool_]:
    """Return the lesions of a joint probability, by the rules of the session's own mask."""
    labels = label_lesions(probability >= threshold, voxel_mm3, connectivity, min_volume_mm3)
    return np.asarray(labels > 0)
