"""Findings that lie where white matter is not: cortex, hippocampus, skull, fluid.

Networks trained on few exams mark bright cortex, above all in exams with few lesions. The white
matter of the template tells these findings from lesions, which lie in or next to white matter.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.components import structure
from mslesseg_app.spatial.template import TEMPLATE_SHAPE, tissue_prior

Floats = npt.NDArray[np.float32]

_SIGMA = 1.0
_FRINGE = 0.1


def only_in_white_matter(prob: Floats, threshold: float, least: float) -> Floats:
    """Return a probability without the findings that lie outside white matter.

    A finding is a 26-connected piece at and above the threshold. Where the mean of the template's
    white matter over it is too low, the finding becomes 0, and so does the fringe around it down
    to a probability of 0.1, unless that fringe also belongs to another finding.

    Parameters
    ----------
    prob : float32 array (182, 218, 182)
        Lesion probability on the template grid.
    threshold : float
        Probability from which a voxel is lesion.
    least : float
        Least mean of the tissue map of white matter (0 to 1, smoothed by 1 mm) over a finding.
        0 keeps all.

    Returns
    -------
    float32 array (182, 218, 182)
        The same array if nothing is left out.

    Raises
    ------
    DataError
        If the array does not lie on the template grid.
    """
    if least <= 0 or not prob.size:
        return prob
    if prob.shape != TEMPLATE_SHAPE:
        raise DataError(
            f'The probability has the shape {prob.shape}, not that of the template '
            f'{TEMPLATE_SHAPE}, so its findings cannot be placed.',
            'Align and resample the images to the template first.',
        )
    labels, count = ndimage.label(prob >= threshold, structure(26))
    numbers = np.arange(1, count + 1)
    outside = np.zeros(count + 1, dtype=bool)
    outside[1:] = ndimage.mean(_white_matter(), labels, numbers) < least
    if not outside.any():
        return prob
    wide, wide_count = ndimage.label(prob >= min(_FRINGE, threshold), structure(26))
    gone = np.zeros(wide_count + 1, dtype=bool)
    gone[wide[outside[labels]]] = True
    gone[wide[(labels > 0) & ~outside[labels]]] = False
    return np.where(outside[labels] | gone[wide], np.float32(0), prob)


@cache
def _white_matter() -> Floats:
    white = ndimage.gaussian_filter(tissue_prior('wm').astype(np.float32), _SIGMA)
    white.setflags(write=False)
    return np.asarray(white)
