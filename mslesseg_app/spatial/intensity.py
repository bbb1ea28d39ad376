"""Where an image has its zero: results must not depend on an offset or a unit of its values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: A value that this share of all voxels has is that of the background, such as a removed skull.
_FILLED = 0.4
#: At most this share of the voxels lies below the background, as ringing of an interpolation.
_BELOW = 0.1
#: Magnitudes outside these limits are scaled by a power of two, which rounds nothing.
_MAGNITUDES = (1.0, 1e6)


def zero_based(data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the values of an image with its background at zero.

    Magnitude images have their background, air, near zero, and correction of the bias field and
    others rely on it. Files that were stored with an intercept, or processed, may lie elsewhere.
    The background is the lowest value, or the one that at least 40 % of the voxels share with few
    voxels below it. A single negative value far below an image that is otherwise not negative
    marks what was not measured and becomes zero.

    Very large and very small values are scaled by a power of two.

    Parameters
    ----------
    data : array (X, Y, Z)
        Finite numbers.

    Returns
    -------
    ndarray of float32
        The array itself where it is float32 and nothing is to be done.
    """
    values = np.asarray(data)
    if values.min() < 0:
        values = _without_marks(values)
    level = _background(values)
    if level != 0:
        values = values - values.dtype.type(level)
    top = float(np.abs(values).max())
    if top > 0 and not _MAGNITUDES[0] <= top <= _MAGNITUDES[1]:
        values = np.ldexp(values, 10 - int(np.ceil(np.log2(top))))
    return values.astype(np.float32, copy=False)


def _without_marks(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Set a negative value that marks voxels without measurement to zero."""
    negative = values < 0
    mark = float(values.min())
    if negative.all() or float(values[negative].max()) != mark:
        return values
    if -mark < 0.5 * float(np.percentile(values[~negative], 99)):
        return values
    return np.where(negative, values.dtype.type(0), values)


def _background(values: npt.NDArray[Any]) -> float:
    """Return the value of the background."""
    lowest = float(values.min())
    # A value that 40 % of all voxels share is among the sorted values at one of these places.
    some = values[::2, ::2, ::2]
    for place in np.unique(np.quantile(some, (0.2, 0.45, 0.7), method='nearest')):
        below, same = float(np.mean(some < place)), float(np.mean(some == place))
        if same >= _FILLED and below <= _BELOW:
            return float(place)
    return lowest
