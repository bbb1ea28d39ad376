"""What the group level has made so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslesseg_app.bids.names import group_path
from mslesseg_app.core.settings import Settings
from mslesseg_app.reports.group_report import Section
from mslesseg_app.reports.tabular import write_records

if TYPE_CHECKING:
    pass


@dataclass
class ReportParts:
    """What has been made so far."""

    settings: Settings
    sections: list[Section] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def path(self, key: str) -> Path:
        """Return where a file of the group level goes."""
        return self.settings.out_dir / group_path(key)

    def records(
        self, key: str, rows: Sequence[dict[str, Any]], columns: dict[str, dict[str, Any]]
    ) -> None:
        """Write rows and the dictionary of their columns."""
        write_records(self.path(key), rows, columns)
