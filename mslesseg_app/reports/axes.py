"""Scales of charts: their ends, and round values at their ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A scale from values to places between ``start`` and ``stop``."""

    low: float
    high: float
    start: float
    stop: float
    label: str = ''
    log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value; values beyond the ends stay beyond."""
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Return round values within the ends."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most ``most`` round values from low to high.

    Examples
    --------
    >>> ticks(0, 1), ticks(-3, 17)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 5.0, 10.0, 15.0])
    """
    rough = (high - low) / max(1, most - 1)
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * k for k in (1, 2, 2.5, 5, 10, 20) if _count(low, high, base * k) <= most)
    first = math.ceil(low / step - 1e-9)
    found = [round(k * step, 12) for k in range(first, first + _count(low, high, step))]
    return [value + 0.0 for value in found]


def _count(low: float, high: float, step: float) -> int:
    return math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten within the ends, with 2 and 5 times them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**k for k in range(first, last + 1)]
    within = [p for p in powers if low * 0.999 <= p <= high * 1.001]
    if len(within) >= 3:
        return within
    more = [p * k for p in powers for k in (1, 2, 5)]
    return [p for p in more if low * 0.999 <= p <= high * 1.001]


def span(
    values: Iterable[float], *, log: bool = False, keep: Iterable[float] = ()
) -> tuple[float, float]:
    """Return the ends of an axis that holds all finite values and those to ``keep``."""
    found = [float(v) for v in (*values, *keep) if math.isfinite(v) and (v > 0 or not log)]
    if not found:
        return (0.1, 10.0) if log else (0.0, 1.0)
    low, high = min(found), max(found)
    if log:
        return (low / 1.3, high * 1.3) if low < high else (low / 3, high * 3)
    room = 0.05 * (high - low) or max(0.5, 0.1 * abs(high))
    fixed = set(keep)
    ends = low - room * (low not in fixed), high + room * (high not in fixed)
    return ends if ends[0] < ends[1] else (low - room, high + room)


def tick_text(value: float) -> str:
    """Write the number at a tick."""
    text = f'{value:.0e}' if value and not 1e-3 <= abs(value) < 1e6 else f'{value:.6g}'
    return text.replace('-', '−')
