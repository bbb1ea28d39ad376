"""Group level: tables, statistics and a report of all exams, from the output folder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mslesseg_app.core.settings import Settings


def run_group(settings: Settings, *, quiet: bool = False) -> int:
    """Run the group level; see :func:`mslesseg_app.group.run.run_group`."""
    from mslesseg_app.group import run

    return run.run_group(settings, quiet=quiet)
