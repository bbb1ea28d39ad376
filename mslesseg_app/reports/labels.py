"""Where to write a number beside a small region, so that numbers do not cover each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Width of a digit as a share of its height.
_DIGIT = 0.6

Rect = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spot:
    """A region to be numbered: its text and bounding box (mm, y downwards)."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


def place_labels(
    spots: list[Spot], size: float, width: float, height: float
) -> list[tuple[float, float]]:
    """Choose the left end of the base line of each text.

    Tries right, left, below and above of the region, then further away; takes the first place
    inside the image that covers neither another text nor another region, or else the one
    that covers least.

    Parameters
    ----------
    size : float
        Height of the letters in mm.
    width, height : float
        Size of the image in mm.

    Returns
    -------
    list of (x, y)
        One for each spot, in its order.
    """
    placed: list[Rect] = []
    starts = []
    regions = [(spot.left, spot.top, spot.right, spot.bottom) for spot in spots]
    for own, spot in enumerate(spots):
        taken = placed + regions[:own] + regions[own + 1 :]
        best = min(
            _candidates(spot, size),
            key=lambda rect: (
                sum(_shared(rect, other) for other in taken) + _outside(rect, width, height)
            ),
        )
        placed.append(best)
        starts.append((best[0], best[3] - 0.15 * size))
    return starts


def _candidates(spot: Spot, size: float) -> Iterator[Rect]:
    """Boxes for the text around the spot, the nearest first."""
    wide = _DIGIT * size * len(spot.text)
    middle_x, middle_y = (spot.left + spot.right) / 2, (spot.top + spot.bottom) / 2
    for far in (0.2, 1.0, 2.0):
        gap = far * size
        for x, y in (
            (spot.right + gap, middle_y - size / 2),
            (spot.left - gap - wide, middle_y - size / 2),
            (middle_x - wide / 2, spot.bottom + gap),
            (middle_x - wide / 2, spot.top - gap - size),
            (spot.right + gap, spot.bottom + gap),
            (spot.left - gap - wide, spot.top - gap - size),
            (spot.right + gap, spot.top - gap - size),
            (spot.left - gap - wide, spot.bottom + gap),
        ):
            yield x, y, x + wide, y + size


def _shared(one: Rect, two: Rect) -> float:
    """Area that two boxes have in common."""
    wide = min(one[2], two[2]) - max(one[0], two[0])
    high = min(one[3], two[3]) - max(one[1], two[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(rect: Rect, width: float, height: float) -> float:
    """Area of a box that lies outside the image, weighted so that it is the last choice."""
    whole = (rect[2] - rect[0]) * (rect[3] - rect[1])
    return 10 * (whole - _shared(rect, (0.0, 0.0, width, height)))
