"""The part of the group report where exams are reviewed and marked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mslesseg_app.core.text import natural_key


@dataclass(frozen=True)
class ReviewRow:
    """One exam.

    Attributes
    ----------
    participant, session : str
        With ``sub-`` and ``ses-``; the session is empty where there is none.
    report : str
        Address of the report of the subject, relative; empty without one.
    image : Path or None
        JPEG of some slices.
    status : str
        ``pass``, ``check``, ``fail`` or ``unknown``.
    selfcheck : str
        Status of the self-check of the mask: ``pass``, ``check``, ``fail`` or ``n/a``.
    flags : tuple of str
        Why it should be reviewed.
    mark, marked, note : str
        What the last review says.
    """

    participant: str
    session: str
    report: str = ''
    image: Path | None = None
    volume_ml: float | None = None
    lesions: int | None = None
    status: str = 'unknown'
    selfcheck: str = 'n/a'
    flags: tuple[str, ...] = ()
    mark: str = ''
    marked: str = ''
    note: str = ''

    @property
    def name(self) -> str:
        """``sub-01 ses-1``."""
        return f'{self.participant} {self.session}'.strip()

    @property
    def flagged(self) -> bool:
        """Whether image checks, self-check or numbers say that it should be reviewed."""
        return bool(self.flags) or not {'check', 'fail'}.isdisjoint((self.status, self.selfcheck))

    @property
    def source(self) -> str:
        """The image as a data URI, or nothing."""
        return embedded(self.image) if self.image is not None else ''

    @property
    def alt(self) -> str:
        """What the image shows, in words."""
        return f'Slices of {self.name}, lesions outlined.'


@dataclass(frozen=True)
class SectionImage:
    """An image for a section.

    Attributes
    ----------
    path : Path
        JPEG or PNG; it is embedded.
    """

    path: Path
    title: str
    caption: str
    alt: str

    @property
    def source(self) -> str:
        """The image as a data URI."""
        return embedded(self.path)


def embedded(path: Path) -> str:
    """Return a JPEG or PNG as a data URI."""
    kind = 'png' if path.suffix == '.png' else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode("ascii")}'


def in_order(rows: Sequence[ReviewRow]) -> list[ReviewRow]:
    """Sort by what has to be reviewed first, then by severity, then naturally by name.

    Reprocessed exams come first, then those without a mark, the failed and flagged ones leading,
    then those with one.
    """

    def rank(row: ReviewRow) -> tuple[int, int]:
        if row.mark == 'redone':
            return 0, 0
        return (1, -_severity(row)) if not row.mark else (2, 0)

    return sorted(
        rows, key=lambda row: (rank(row), natural_key(row.participant), natural_key(row.session))
    )


def _severity(row: ReviewRow) -> int:
    """Return 3 for ``fail``, 2 for ``check``, 1 for any flag, else 0."""
    if row.status == 'fail' or row.selfcheck == 'fail':
        return 3
    if row.status == 'check' or row.selfcheck == 'check':
        return 2
    return 1 if row.flagged else 0
