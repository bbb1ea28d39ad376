"""Channels that tell a small network what a handful of labelled exams cannot teach it.

Each image is brought to the scale of its own tissues, and the tissue maps of the template are
moved onto the exam, by the two fits of the method without weights (`mslesseg_app.models.tissues`).
FLAIR of the other hemisphere lies beside it: what is bright on both sides alike, such as the caps
of the frontal horns, insula and operculum, is seldom a lesion.
Where the maps lie follows from FLAIR alone, and each image is scaled by itself, so that an exam
without T1w or T2w looks to the network like one whose channels were emptied in training.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.errors import ModelError
from mslesseg_app.models.hyperintensity import (
    MIDPLANE,
    Constants,
    brightness,
    midline,
    template_priors,
)
from mslesseg_app.models.tissues import (
    CSF,
    GM,
    WM,
    Array,
    Bools,
    PriorFit,
    fit_mixture,
    fit_priors,
)

FLAIR, T1W, T2W = range(3)
MODALITIES = ('FLAIR', 'T1w', 'T2w')
GUIDES = ('FLAIR', 'T1w', 'T2w', 'white', 'grey', 'elsewhere', 'midline', 'mirrored')
"""Names of the channels, in order; the first three are the images."""

MIRRORED = GUIDES.index('mirrored')

_UNIT = 4.0
_LARGEST = 3.0


def guide_fit(flair: npt.NDArray[np.float32], brain: Bools) -> PriorFit:
    """Return where the template lies in an exam; it follows from FLAIR alone.

    Raises
    ------
    DataError
        If the brain is too small, or the grid is not that of the template.
    """
    return fit_priors(flair[None].astype(np.float64), brain, template_priors(brain.shape))


def guide_channels(
    channels: npt.NDArray[np.float32],
    brain: Bools,
    present: tuple[bool, ...],
    fit: PriorFit | None = None,
) -> npt.NDArray[np.float32]:
    """Return the channels of a guided network.

    Parameters
    ----------
    channels : float32 array (3, X, Y, Z)
        FLAIR, T1w and T2w on the template grid, any linear scale, zero where not seen.
    brain : bool array (X, Y, Z)
    present : tuple of bool
        Which of them hold an image; FLAIR must.
    fit : PriorFit, optional
        What `guide_fit` found.

    Returns
    -------
    float32 array (8, X, Y, Z)
        `GUIDES`: FLAIR with white matter at 0, in units of four of its deviations; T1w and T2w
        with white matter at 0 and fluid at -1 and 1; all three clipped at 3. The moved maps of
        white matter, grey matter and what is neither, and the plane between the hemispheres, 0
        to 1. FLAIR of the other hemisphere. Zero outside the brain, and in a missing image.

    Raises
    ------
    ModelError
        Without FLAIR.
    DataError
        If no tissues can be found in the brain.
    """
    if not present[FLAIR]:
        raise ModelError('A guided network needs FLAIR.', 'Name it among the required channels.')
    fit = fit or guide_fit(channels[FLAIR], brain)
    moved = np.stack([fit.move(prior) for prior in template_priors(brain.shape)])
    result = np.zeros((len(GUIDES), *brain.shape), np.float32)
    result[FLAIR] = _flair(channels[FLAIR], brain, moved)
    for number, sign in ((T1W, -1.0), (T2W, 1.0)):
        if present[number]:
            result[number] = sign * _towards_fluid(channels[number], brain, moved)
    result[3], result[4] = moved[WM], moved[GM]
    result[5] = np.clip(1 - moved[WM] - moved[GM], 0, 1)
    result[6] = midline(brain.shape, fit)
    result[MIRRORED] = mirrored(result[FLAIR] * brain, fit)
    return np.asarray(result * brain)


def mirrored(volume: npt.NDArray[np.float32], fit: PriorFit) -> npt.NDArray[np.float32]:
    """Return a volume as seen from the other side of the plane between the hemispheres.

    Parameters
    ----------
    volume : float32 array (X, Y, Z)
    fit : PriorFit
        It says where the plane of the template lies in the exam.
    """
    back = np.linalg.inv(fit.matrix)
    flip = np.diag([-1.0, 1.0, 1.0])
    offset = flip @ fit.offset + [2 * MIDPLANE, 0, 0] - fit.offset
    return np.asarray(
        ndimage.affine_transform(
            volume, back @ flip @ fit.matrix, back @ offset, order=1, output=np.float32
        )
    )


def _flair(image: npt.NDArray[np.float32], brain: Bools, priors: npt.NDArray[np.float32]) -> Array:
    """Return FLAIR above white matter, in units of four of its deviations."""
    seen = brain & (image != 0)
    smooth = ndimage.gaussian_filter(image.astype(np.float64), Constants.noise_sigma)[None]
    mixture = fit_mixture(smooth, seen, priors)
    above = brightness(image[None].astype(np.float64), mixture) / _UNIT
    return np.where(seen, np.clip(above, -_LARGEST, _LARGEST), 0)


def _towards_fluid(
    image: npt.NDArray[np.float32], brain: Bools, priors: npt.NDArray[np.float32]
) -> Array:
    """Return an image with white matter at 0 and fluid at 1 (whichever is brighter)."""
    values = image[None].astype(np.float64)
    seen = brain & (image != 0)
    mixture = fit_mixture(values, seen, priors)
    white, fluid = mixture.means[WM, 0], mixture.means[CSF, 0]
    contrast = fluid - white
    if abs(contrast) < 1e-3:
        return np.zeros(image.shape)
    scaled = (image - mixture.offsets[0] - white) / contrast
    return np.where(seen, np.clip(scaled, -_LARGEST, _LARGEST), 0)
