"""Session labels: shifted dates or numbers, and they stay."""

from __future__ import annotations

import datetime as dt

import pytest

from mslesseg_app.core.errors import UsageError
from mslesseg_app.dicom.convert.studies import Study, label_sessions
from mslesseg_app.dicom.identity import SubjectIdentity

SUBJECT = SubjectIdentity('001', -40_000, bytes(32))
A = Study('1.1', '20210506', '090000')
B = Study('1.2', '20220708', '100000')
SAME_DAY = Study('1.3', '20210506', '110000')
EVENING = Study('1.4', '20210506', '190000')


def shifted(study: Study) -> str:
    date = dt.datetime.strptime(study.date, '%Y%m%d').replace(tzinfo=dt.UTC)
    return f'{date - dt.timedelta(days=40_000):%Y%m%d}'


def record(studies: list[Study], labels: dict[str, str]) -> dict[str, dict[str, str]]:
    return {s.uid: {'date': s.date, 'time': s.time, 'session': labels[s.uid]} for s in studies}


def test_sessions_by_date() -> None:
    labels = label_sessions([B, A], SUBJECT, {}, 'date')
    assert labels == {'1.1': shifted(A), '1.2': shifted(B)}


def test_sessions_by_order() -> None:
    assert label_sessions([B, A], SUBJECT, {}, 'order') == {'1.1': '1', '1.2': '2'}


def test_studies_of_one_day_are_one_session_unless_far_apart() -> None:
    labels = label_sessions([A, SAME_DAY, EVENING], SUBJECT, {}, 'date')
    assert labels['1.1'] == labels['1.3'] == shifted(A)
    assert labels['1.4'] == f'{shifted(A)}b'
    assert label_sessions([A, SAME_DAY, EVENING], SUBJECT, {}, 'order')['1.4'] == '2'
    assert label_sessions([A, SAME_DAY], SUBJECT, {}, 'none') == {'1.1': '', '1.3': ''}


def test_a_later_study_leaves_known_labels_alone() -> None:
    known = record([B], label_sessions([B], SUBJECT, {}, 'order'))
    labels = label_sessions([A, B], SUBJECT, known, 'order')
    assert labels == {'1.2': '1', '1.1': '2'}  # in the order of arrival
    known = record([A], label_sessions([A], SUBJECT, {}, 'date'))
    assert label_sessions([SAME_DAY], SUBJECT, known, 'date') == {'1.3': shifted(A)}


def test_several_studies_cannot_be_without_sessions() -> None:
    with pytest.raises(UsageError, match='more than once'):
        label_sessions([A, B], SUBJECT, {}, 'none')
    known = record([A], label_sessions([A], SUBJECT, {}, 'none'))
    with pytest.raises(UsageError, match='more than once'):
        label_sessions([B], SUBJECT, known, 'none')


def test_studies_without_a_date_are_numbered() -> None:
    nameless = [Study('2.1', '', ''), Study('2.2', '', '')]
    labels = label_sessions([A, *nameless], SUBJECT, {}, 'date')
    assert labels == {'2.1': '1', '2.2': '2', '1.1': shifted(A)}
