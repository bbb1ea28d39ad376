"""Whether the slices of a series fill one regular grid.

Slices are put in order by their positions (Image Position and Orientation of PS3.3, C.7.6.2),
never by file name or instance number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError

Floats = npt.NDArray[np.float64]

#: A slice may lie this far (mm) from its place on the regular grid; scanners round positions.
MAX_OFF_MM = 0.15
#: Slices that are closer than this (mm) are at one position.
SAME_MM = 0.01
#: Direction cosines may deviate this much from unit length and a right angle.
_COSINES = 0.01


def check_orientation(cosines: Sequence[float]) -> None:
    """Make sure that six direction cosines are two perpendicular directions.

    Raises
    ------
    DataError
        If there are none, or they are not.
    """
    if len(cosines) != 6:
        raise DataError(
            'it has no Image Orientation (Patient), so that its position in space is not known'
        )
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    off = (np.linalg.norm(row) - 1, np.linalg.norm(column) - 1, row @ column)
    if max(map(abs, off)) > _COSINES:
        raise DataError('its Image Orientation (Patient) is not two perpendicular directions')


def order_slices(places: Floats, cosines: Sequence[float]) -> tuple[npt.NDArray[np.intp], Floats]:
    """Return the order of slices along their normal, and the step between neighbours.

    Parameters
    ----------
    places : array (N, 3)
        Positions (x, y, z; mm) of the slices, any order.
    cosines : sequence of 6 float
        Directions of rows and columns.

    Returns
    -------
    order : array (N,)
        Indices of the slices from the lowest to the highest.
    step : array (3,)
        From one slice to the next (mm).

    Raises
    ------
    DataError
        If the slices do not fill one regular grid: fewer than two, several at one position,
        missing or unevenly spaced, or not along a straight line.
    """
    check_orientation(cosines)
    if len(places) < 2:
        raise DataError('it is a single slice')
    heights = places @ np.cross(cosines[:3], cosines[3:])
    order = np.argsort(heights, kind='stable')
    gaps = np.diff(heights[order])
    if gaps.min() < SAME_MM:
        raise DataError(f'several images are at one position ({_at_one(gaps)})')
    step = (places[order[-1]] - places[order[0]]) / (len(places) - 1)
    regular = places[order[0]] + np.arange(len(places))[:, None] * step
    if np.linalg.norm(places[order] - regular, axis=1).max() > MAX_OFF_MM:
        raise DataError(_irregular(gaps))
    return order, step


def _at_one(gaps: Floats) -> str:
    count = int(np.sum(gaps < SAME_MM))
    return f'{count} image{"s" if count > 1 else ""} too many'


def _irregular(gaps: Floats) -> str:
    """Say what is wrong with slices by the distances between them."""
    usual = float(np.median(gaps))
    counts = gaps / usual
    lacking = int(np.sum(np.round(counts) - 1))
    if lacking > 0 and np.abs(counts - np.round(counts)).max() < 0.1:
        are = 'slices are' if lacking > 1 else 'slice is'
        return f'{lacking} {are} missing between the others'
    if np.ptp(gaps) > MAX_OFF_MM:
        return f'slices are unevenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm apart)'
    return 'slices do not lie along one straight line'


def fault_of(
    places: Sequence[Sequence[float]], cosines: Sequence[float], frames: int, times: int = 1
) -> str:
    """Say why frames do not fill one regular grid; '' where they do.

    Parameters
    ----------
    places : sequence of (x, y, z)
        Positions (mm) of all frames that have one.
    cosines : sequence of 6 float
    frames : int
        How many frames there are.
    times : int
        How often each position occurs: the number of echoes.
    """
    try:
        check_orientation(cosines)
        if len(places) < frames:
            raise DataError(
                f'{frames - len(places)} of its {frames} images have no Image Position (Patient)'
            )
        table = np.array(places, dtype=np.float64)
        if times > 1:
            table = _each_once(table, times)
        order_slices(table, cosines)
    except DataError as error:
        return error.message
    return ''


def _each_once(places: Floats, times: int) -> Floats:
    """Return each position once.

    Raises
    ------
    DataError
        If not all occur equally often.
    """
    counts = Counter(tuple(place) for place in np.round(places, 2))
    if set(counts.values()) != {times}:
        raise DataError(f'not every slice has all of its {times} echoes')
    return np.array(list(counts), dtype=np.float64)
