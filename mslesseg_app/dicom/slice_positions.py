"""Where the slices of a series lie, and which are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def heights(places: Iterable[Sequence[float]], orientation: Sequence[float]) -> list[float]:
    """Return positions (x, y, z) as places along the normal of the slices (mm)."""
    normal = np.cross(orientation[:3], orientation[3:])
    return [round(float(normal @ np.array(place)), 3) for place in places]


def missing_slices(positions: Iterable[float | None]) -> int:
    """Count the slices that are missing between others, by their positions (mm).

    Examples
    --------
    >>> missing_slices([0, 3, 6, 15, 18]), missing_slices([0, 0, 3, 3])
    (2, 0)
    """
    places = np.unique(np.round([place for place in positions if place is not None], 2))
    steps = np.diff(places)
    steps = steps[steps > 0.05]
    if len(steps) < 2:
        return 0
    return int(np.sum(np.maximum(np.round(steps / np.median(steps)) - 1, 0)))
