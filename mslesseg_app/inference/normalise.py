"""Intensity scales: what makes images of different scanners comparable."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mslesseg_app.errors import DataError, ModelError

_MAD_TO_SD = 1.4826022185056018
"""Standard deviation of a normal distribution over its median absolute deviation."""


def _zscore(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std())


def _robust(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    centre = float(np.median(values))
    return centre, _MAD_TO_SD * float(np.median(np.abs(values - centre)))


METHODS: dict[str, Callable[[npt.NDArray[np.float64]], tuple[float, float]]] = {
    'zscore': _zscore,
    'robust': _robust,
}


def normalise(
    image: npt.NDArray[np.generic], brain: npt.NDArray[np.bool_], method: str
) -> npt.NDArray[np.float32]:
    """Bring an image to a common intensity scale.

    Voxels of exactly zero count as not seen (outside the field of view, or outside the brain of
    an image that was stripped by itself): they take no part in the statistics and stay zero,
    which is the centre of the new scale. Nothing is clipped, because lesions are the tail.

    Parameters
    ----------
    image : array (X, Y, Z)
        Any intensity scale.
    brain : bool array (X, Y, Z)
        Where statistics are taken; the result is zero elsewhere.
    method : {'zscore', 'robust'}
        ``zscore`` subtracts the mean and divides by the standard deviation; ``robust`` takes the
        median and 1.4826 times the median absolute deviation instead.

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
    seen = brain & (image != 0)
    values = image[seen].astype(np.float64)
    centre, scale = _statistics(values, method)
    result = np.zeros(image.shape, dtype=np.float32)
    result[seen] = (values - centre) / scale
    return result


def _statistics(values: npt.NDArray[np.float64], method: str) -> tuple[float, float]:
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
    centre, scale = METHODS[method](values)
    if not scale > 1e-6 * max(abs(centre), float(np.abs(values).max())):
        raise DataError(
            'The image is constant inside the brain, so it shows no anatomy.',
            'Check that this is the image you meant and that it is not a mask.',
        )
    return centre, scale
