"""Marks of a reviewer, in a table that later runs honour."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import group_path
from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.core.files import read_any_text, write_json, write_text
from mslesseg_app.core.settings import Settings

#: What a mark means.
MARKS = {
    'accept': 'reviewed and accepted',
    'check': 'to be checked again, for example by a second reader; used in all statistics',
    'redo': 'to be reprocessed by the next run of the participant level',
    'redone': 'reprocessed since; to be reviewed again',
    'exclude': 'skipped by the participant level and left out of all statistics',
}

REVIEW_COLUMNS: dict[str, dict[str, Any]] = {
    'participant_id': {'Description': 'Participant.'},
    'session_id': {'Description': 'Session; n/a where the dataset has none.'},
    'mark': {'Description': 'Result of the review.', 'Levels': MARKS},
    'marked': {'Description': 'When the mark was set, ISO 8601; n/a where it is not known.'},
    'note': {'Description': 'Remark of the reviewer.'},
}

#: Participant and session with ``sub-`` and ``ses-``; the session is empty where there is none.
ExamKey = tuple[str, str]
_HINT = 'Columns: participant_id, session_id (if there are sessions), mark, marked, note.'


@dataclass(frozen=True)
class Mark:
    """One mark.

    Attributes
    ----------
    mark : str
        Key of `MARKS`; empty if there is only a note.
    marked : str
        ISO 8601 in UTC, or empty.
    """

    mark: str
    marked: str = ''
    note: str = ''


Review = dict[ExamKey, Mark]


def read_review(path: Path) -> Review:
    """Read a table of marks.

    Raises
    ------
    NoInputError
        If the file does not exist.
    DataError
        If it cannot be read, lacks a column, has an unknown mark, or names an exam twice.
    """
    try:
        text = read_any_text(path)
    except FileNotFoundError as error:
        raise NoInputError(f'{path} does not exist.', 'Check --review.') from error
    except (OSError, ValueError) as error:
        raise DataError(f'{path} cannot be read: {error}', _HINT) from error
    reader = csv.DictReader(text.splitlines(), delimiter='\t', quoting=csv.QUOTE_NONE)
    if not {'participant_id', 'mark'} <= set(reader.fieldnames or ()):
        raise DataError(f'{path} lacks the column participant_id or mark.', _HINT)
    found: Review = {}
    for number, row in enumerate(reader, start=2):
        key, mark = _read_row(row, f'{path}, line {number}')
        if key in found:
            raise DataError(f'{path} names {" ".join(key).strip()} twice.', 'Remove one line.')
        if mark.mark or mark.note:
            found[key] = mark
    return found


def _read_row(row: Mapping[str, str | None], where: str) -> tuple[ExamKey, Mark]:
    values = {name: (row.get(name) or '').strip() for name in REVIEW_COLUMNS}
    values = {name: '' if value == 'n/a' else value for name, value in values.items()}
    subject, session = values['participant_id'], values['session_id']
    if not subject:
        raise DataError(f'{where} names no participant.', _HINT)
    mark = values['mark'].lower()
    if mark and mark not in MARKS:
        raise DataError(f'{where}: "{mark}" is no mark.', f'Known: {", ".join(MARKS)}.')
    key = (
        'sub-' + subject.removeprefix('sub-'),
        'ses-' + session.removeprefix('ses-') if session else '',
    )
    return key, Mark(mark, values['marked'], values['note'])


def write_review(path: Path, review: Review) -> None:
    """Write a table of marks, sorted, with its dictionary."""
    lines = ['\t'.join(REVIEW_COLUMNS)]
    for (subject, session), mark in sorted(review.items()):
        cells = (subject, session, mark.mark, mark.marked, mark.note)
        lines.append('\t'.join(re.sub(r'\s+', ' ', cell).strip() or 'n/a' for cell in cells))
    write_text(path, '\n'.join(lines) + '\n')
    write_json(path.with_suffix('.json'), REVIEW_COLUMNS)


def current_review(settings: Settings) -> Review:
    """Return the marks that hold: of ``group_review.tsv`` and of ``--review FILE``.

    Where both mark an exam, the later one holds; the file's if one has no time. At the same
    time it is the mark of the output folder, which knows what was redone since.

    Raises
    ------
    NoInputError, DataError
        See :func:`read_review`.
    """
    stored = settings.out_dir / group_path('review')
    review = read_review(stored) if stored.is_file() else {}
    if settings.review is not None:
        for key, mark in read_review(settings.review).items():
            known = review.get(key)
            if known is None or _replaces(mark, known):
                review[key] = mark
    return review


def _replaces(mark: Mark, known: Mark) -> bool:
    if not (mark.marked and known.marked):
        return (mark.mark, mark.note) != (known.mark, known.note)
    return mark.marked > known.marked


def keep_review(settings: Settings, review: Review) -> None:
    """Store the marks in the output folder, if there are any."""
    if review:
        write_review(settings.out_dir / group_path('review'), review)


# ------------------------------------------------------------------ for the participant level


def key_of(exam: Exam) -> ExamKey:
    """Return the key of an exam."""
    return f'sub-{exam.subject}', f'ses-{exam.session}' if exam.session else ''


def marked_exams(exams: Iterable[Exam], review: Review, mark: str) -> list[Exam]:
    """Return the exams that have a mark."""
    return [exam for exam in exams if review.get(key_of(exam), Mark('')).mark == mark]


def excluded_exams(review: Review) -> set[ExamKey]:
    """Return the exams that no statistics may use."""
    return {key for key, mark in review.items() if mark.mark == 'exclude'}


def keep_redone(settings: Settings, exams: Iterable[Exam]) -> None:
    """Note in the output folder that these exams were computed anew, where that was asked for."""
    stored = settings.out_dir / group_path('review')
    if stored.is_file():
        keep_review(settings, redone(read_review(stored), exams))


def redone(review: Review, exams: Iterable[Exam]) -> Review:
    """Return the marks after these exams were computed anew."""
    keys = {key_of(exam) for exam in exams}
    return {
        key: replace(mark, mark='redone') if key in keys and mark.mark == 'redo' else mark
        for key, mark in review.items()
    }
