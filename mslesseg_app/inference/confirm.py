"""A second opinion on each lesion of a network that has learnt from few people."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.lesions.components import structure

_BELOW = 0.01


def confirmed(
    prob: npt.NDArray[np.float32], second: npt.NDArray[np.float32], threshold: float
) -> npt.NDArray[np.float32]:
    """Join two probabilities of lesion: both must see a lesion, either says how far it reaches.

    Parameters
    ----------
    prob, second : float32 array (X, Y, Z)
    threshold : float
        Probability at and above which a voxel is lesion, in both.

    Returns
    -------
    float32 array (X, Y, Z)
        Regions (26 neighbours) of voxels that one of the two takes for lesion: where both take
        part, the larger probability; where one does not, `prob`, but 0.01 below the threshold at
        most. Elsewhere `prob`.
    """
    here, there = prob >= threshold, second >= threshold
    regions, _ = ndimage.label(here | there, structure(26))
    both = np.isin(regions, np.intersect1d(regions[here], regions[there]))
    joined = np.where(both, np.maximum(prob, second), np.minimum(prob, threshold - _BELOW))
    return np.where(regions > 0, joined, prob).astype(np.float32)
