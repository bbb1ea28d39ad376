"""The status of a check: ``pass``, ``check`` (a person should review it) or ``fail``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

CheckStatus = Literal['pass', 'check', 'fail']
#: Status as reports show it: ``unknown`` for what was not measured or has no limit.
ShownStatus = Literal['unknown', 'pass', 'check', 'fail']
#: From best to worst.
STATUSES: tuple[ShownStatus, ...] = ('unknown', 'pass', 'check', 'fail')

Status = TypeVar('Status', CheckStatus, ShownStatus)


def severity(status: ShownStatus) -> int:
    """Return 0 for ``unknown`` up to 3 for ``fail``."""
    return STATUSES.index(status)


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst of at least one status."""
    return max(statuses, key=STATUSES.index)
