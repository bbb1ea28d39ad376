"""When a session took place: ``acq_time`` of ``sessions.tsv`` or ``scans.tsv``."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from pathlib import Path

from mslesseg_app.core.files import read_any_text
from mslesseg_app.core.text import natural_key

_DAYS_OF_A_YEAR = 365.25


def session_date(bids_dir: Path, subject: str, session: str | None, flair: str) -> datetime | None:
    """Return when a session took place, as far as the raw dataset tells.

    Parameters
    ----------
    bids_dir : Path
        Raw dataset.
    subject, session : str
        Labels without ``sub-`` and ``ses-``.
    flair : str
        Path of its FLAIR, relative to the dataset.

    Returns
    -------
    datetime or None
        ``acq_time`` of ``sub-…_sessions.tsv``, else of the FLAIR (or of the first file with a
        time) in ``sub-…_ses-…_scans.tsv``. Dates that de-identification has shifted count as
        they are: shifted alike, their differences are right.
    """
    folder = bids_dir / f'sub-{subject}'
    for row in _read_rows(folder / f'sub-{subject}_sessions.tsv'):
        named = session and row.get('session_id') in (f'ses-{session}', session)
        if named and (found := _time(row.get('acq_time'))):
            return found
    name = f'sub-{subject}' + (f'_ses-{session}' if session else '')
    folder = folder / f'ses-{session}' if session else folder
    rows = _read_rows(folder / f'{name}_scans.tsv')
    own = [row for row in rows if Path(row.get('filename') or '').name == Path(flair).name]
    return next((when for row in own + rows if (when := _time(row.get('acq_time')))), None)


def years_between(before: datetime | None, after: datetime | None) -> float | None:
    """Return the time between two sessions in years; None unless it is positive and known."""
    if before is None or after is None:
        return None
    days = (after - before).total_seconds() / 86400
    return days / _DAYS_OF_A_YEAR if days > 0 else None


def in_order(dates: dict[str, datetime | None]) -> list[str]:
    """Return sessions in the order of time; by their labels unless all dates are known."""
    names = sorted(dates, key=natural_key)
    known = {name: when for name, when in dates.items() if when is not None}
    return sorted(names, key=known.__getitem__) if len(known) == len(names) else names


def _time(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat((text or '').strip())
    except ValueError:
        return None
    return found.replace(tzinfo=None)


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        text = io.StringIO(read_any_text(path), newline='')
        return list(csv.DictReader(text, delimiter='\t'))
    except (OSError, ValueError, csv.Error):
        return []
