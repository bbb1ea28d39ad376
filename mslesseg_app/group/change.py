"""Change between sessions, of all subjects in one table."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.change_table import SUMMARY_COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

    from mslesseg_app.core.settings import Settings

_NAME = re.compile(r'sub-([A-Za-z0-9+]+)_desc-[A-Za-z0-9+]+_changes\.tsv')


def gather_changes(settings: Settings) -> list[dict[str, Any]]:
    """Return the rows of all tables of change in the output folder.

    ``--participant-label`` restricts them; ``--session-label`` keeps the pairs of which both
    sessions are named.

    Raises
    ------
    DataError
        If a table cannot be read.
    """
    rows = []
    for path in sorted(settings.out_dir.glob('sub-*/anat/*_changes.tsv')):
        name = _NAME.fullmatch(path.name)
        if name and (not settings.participants or name.group(1) in settings.participants):
            rows += [row for row in _read_changes(path) if _wanted(row, settings)]
    return rows


def _wanted(row: dict[str, Any], settings: Settings) -> bool:
    sessions = {str(row[f'session_{side}']).removeprefix('ses-') for side in ('before', 'after')}
    return not settings.sessions or sessions <= set(settings.sessions)


def _read_changes(path: Path) -> list[dict[str, Any]]:
    hint = 'Delete it and run the participant again.'
    try:
        with path.open(encoding='utf-8', newline='') as file:
            reader = csv.DictReader(file, delimiter='\t')
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'{path} cannot be read: {error}', hint) from error
    if not {'participant_id', 'session_before', 'session_after'} <= set(reader.fieldnames or ()):
        raise DataError(f'{path} is no table of change between sessions.', hint)
    return [{key: row.get(key) for key in SUMMARY_COLUMNS} for row in rows]
