"""Intensity scales: what makes images of different scanners comparable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, ModelError

_MAD_TO_SD = 1.4826022185056018
"""Standard deviation of a normal distribution over its median absolute deviation."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """A linear intensity scale, and where it is clipped.

    Attributes
    ----------
    centre, spread : float
        Become 0 and 1.
    low, high : float
        Values beyond these are set to these before.
    """

    centre: float
    spread: float
    low: float = -np.inf
    high: float = np.inf


def _zscore(values: Values) -> Scale:
    return Scale(float(values.mean()), float(values.std()))


def _robust(values: Values) -> Scale:
    centre = float(np.median(values))
    return Scale(centre, _MAD_TO_SD * float(np.median(np.abs(values - centre))))


def _clipped(values: Values) -> Scale:
    low, centre, high = (float(v) for v in np.percentile(values, [0.5, 50, 99.8]))
    return Scale(centre, float(values.clip(low, high).std()), low, high)


JOINT = 'zscore-joint'
"""The z-score over all voxels that any of the images shows."""

METHODS: dict[str, Callable[[Values], Scale]] = {
    'zscore': _zscore,
    JOINT: _zscore,
    'robust': _robust,
    'clipped': _clipped,
}


def scale_of(values: Values, method: str) -> Scale:
    """Return the scale of the values of a brain; see `normalise`."""
    return METHODS[method](values)


def normalise(
    image: npt.NDArray[np.generic], brain: npt.NDArray[np.bool_], method: str
) -> npt.NDArray[np.float32]:
    """Bring an image to a common intensity scale.

    Voxels of exactly zero count as not seen (outside the field of view, or outside the brain of
    an image that was stripped by itself): they take no part in the statistics and stay zero,
    which is the centre of the new scale.

    Parameters
    ----------
    image : array (X, Y, Z)
        Any intensity scale.
    brain : bool array (X, Y, Z)
        Where statistics are taken; the result is zero elsewhere.
    method : {'zscore', 'zscore-joint', 'robust', 'clipped'}
        ``zscore`` subtracts the mean and divides by the standard deviation; ``robust`` takes the
        median and 1.4826 times the median absolute deviation instead; ``clipped`` clips at the
        percentiles 0.5 and 99.8, subtracts the median and divides by the standard deviation.
        ``zscore-joint`` counts zeros too: `brain` is then where any image of the exam shows
        something.

    Returns
    -------
    float32 array (X, Y, Z)
        Computed in float64.

    Raises
    ------
    DataError
        For an empty brain mask, different grids, values that are not finite inside the brain, or
        an image that is constant there.
    ModelError
        For an unknown method (it comes from a model's description).
    """
    if method not in METHODS:
        raise ModelError(
            f'There is no normalisation {method!r}.', f'Known: {", ".join(sorted(METHODS))}.'
        )
    image, brain = np.asarray(image), np.asarray(brain, dtype=bool)
    if image.shape != brain.shape:
        raise DataError(f'Image {image.shape} and brain mask {brain.shape} differ in shape.')
    shown = brain & (image != 0)
    seen = brain if method == JOINT and shown.any() else shown
    values = image[seen].astype(np.float64)
    scale = _checked_scale(values, method)
    result = np.zeros(image.shape, dtype=np.float32)
    result[seen] = (values.clip(scale.low, scale.high) - scale.centre) / scale.spread
    return result


def check_shown(image: npt.NDArray[np.generic], brain: npt.NDArray[np.bool_]) -> None:
    """Make sure that an image shows something in the brain.

    Raises
    ------
    DataError
        As `normalise`.
    """
    if image.shape != brain.shape:
        raise DataError(f'Image {image.shape} and brain mask {brain.shape} differ in shape.')
    _checked_scale(image[brain & (image != 0)].astype(np.float64), 'zscore')


def _checked_scale(values: Values, method: str) -> Scale:
    if values.size == 0:
        raise DataError(
            'The image holds nothing inside the brain mask.',
            'Check that the image is not empty and that it was aligned well.',
        )
    if not np.isfinite(values).all():
        raise DataError(
            'The image holds values inside the brain that are not numbers (NaN or infinite).',
            'Convert or reconstruct the image again.',
        )
    scale = scale_of(values, method)
    if not scale.spread > 1e-6 * max(abs(scale.centre), float(np.abs(values).max())):
        raise DataError(
            'The image is constant inside the brain, so it shows no anatomy.',
            'Check that this is the image you meant and that it is not a mask.',
        )
    return scale
