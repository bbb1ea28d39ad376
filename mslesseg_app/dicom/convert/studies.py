"""Which study is which session: by its date, by its order, or none; the same for ever."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mslesseg_app.core.errors import UsageError
from mslesseg_app.dicom.identity import SubjectIdentity

SessionsFrom = Literal['date', 'order', 'none']

#: Studies of one day that begin further apart are sessions of their own (hours).
APART_HOURS = 4


@dataclass(frozen=True)
class Study:
    """A study of one patient.

    Attributes
    ----------
    uid : str
    date, time : str
        ``YYYYMMDD`` and ``HHMMSS``; '' where the headers do not say.
    """

    uid: str
    date: str
    time: str


def label_sessions(
    studies: Iterable[Study],
    subject: SubjectIdentity,
    known: Mapping[str, Mapping[str, Any]],
    how: SessionsFrom,
) -> dict[str, str]:
    """Return the session label of each study, by its UID; '' for no session.

    Parameters
    ----------
    studies : iterable of Study
        Those of one patient.
    subject : SubjectIdentity
        Holds the secret shift of dates.
    known : mapping
        What earlier conversions recorded of the patient's studies, by UID: ``date``, ``time``
        and ``session``. Their labels stay.
    how : {'date', 'order', 'none'}
        ``date``: the shifted date; ``order``: 1, 2, 3 … by date; ``none``: no sessions.

    Raises
    ------
    UsageError
        If there shall be no sessions, and the patient has several.
    """
    new = [study for study in studies if study.uid not in known]
    labels = {
        study.uid: str(known[study.uid]['session']) for study in studies if study.uid in known
    }
    days = _Days(known)
    for study in sorted(new, key=lambda study: (study.date, study.time, study.uid)):
        labels[study.uid] = days.label(study, subject, how)
    if how == 'none' and days.several:
        raise UsageError(
            f'sub-{subject.label} was examined more than once, so that sessions are needed.',
            'Use --session-from date or order, or convert one study only.',
        )
    return labels


class _Days:
    """The sessions that there are: one for all studies of a day that are close in time."""

    def __init__(self, known: Mapping[str, Mapping[str, Any]]) -> None:
        self._sessions: list[tuple[str, str, str]] = [
            (item['date'], item['time'], item['session']) for item in known.values()
        ]

    @property
    def several(self) -> bool:
        return len({(date, label) for date, _, label in self._sessions}) > 1

    def label(self, study: Study, subject: SubjectIdentity, how: SessionsFrom) -> str:
        for date, time, label in self._sessions:
            if study.date and date == study.date and _hours(time, study.time) <= APART_HOURS:
                self._sessions.append((study.date, study.time, label))
                return label
        label = self._new(study, subject, how)
        self._sessions.append((study.date, study.time, label))
        return label

    def _new(self, study: Study, subject: SubjectIdentity, how: SessionsFrom) -> str:
        taken = {label for *_, label in self._sessions}
        if how == 'none':
            return ''
        if how == 'date' and study.date:
            first = shifted(study.date, subject).strftime('%Y%m%d').zfill(8)
            later = (f'{first}{letter}' for letter in ('', *'bcdefghijklmnopqrstuvwxyz'))
            return next(label for label in later if label not in taken)
        return next(str(n) for n in range(1, len(taken) + 2) if str(n) not in taken)


def shifted(date: str, subject: SubjectIdentity) -> dt.date:
    """Return a date ``YYYYMMDD`` shifted by the subject's secret number of days."""
    from mslesseg_app.dicom.deidentify.values import shifted_date

    plain = dt.date(int(date[:4]), int(date[4:6]), int(date[6:]))
    return shifted_date(plain, subject)


def _hours(one: str, other: str) -> float:
    """Hours between two times of a day; 0 where one is not known."""
    if not one or not other:
        return 0.0
    first, second = (int(time[:2]) + int(time[2:4]) / 60 for time in (one, other))
    return abs(first - second)
