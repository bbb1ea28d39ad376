"""The records behind a page survive JSON and refuse nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mslesseg_app.core.errors import DataError
from mslesseg_app.reports import (
    ExamContent,
    Figure,
    LesionSummary,
    QCNumber,
    RunProvenance,
    SubjectContent,
)


def test_round_trip_through_json(content: SubjectContent) -> None:
    text = json.dumps(content.to_dict(), allow_nan=False)
    assert SubjectContent.from_dict(json.loads(text)) == content


def test_round_trip_of_one_exam(content: SubjectContent) -> None:
    for exam in content.exams:
        assert ExamContent.from_dict(json.loads(json.dumps(exam.to_dict()))) == exam


def test_tables_and_numpy_values_become_plain() -> None:
    table = pd.DataFrame({'lesion_id': np.array([1], np.int32), 'mean_prob': [np.nan]})
    exam = ExamContent('1', lesions=table, metrics={'DSC': np.float32(0.5), 'ASSD': np.inf})
    assert exam.lesions == ({'lesion_id': 1, 'mean_prob': None},)
    assert type(exam.lesions[0]['lesion_id']) is int
    assert exam.metrics == {'DSC': 0.5, 'ASSD': None}
    assert Figure('brain', Path('a/b.svg'), '', '', '').path == 'a/b.svg'
    assert ExamContent('1', missing=['T1w']).missing == ('T1w',)


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=8,
        ),
    )
)
def test_any_settings_survive(chosen: dict[str, object]) -> None:
    made = RunProvenance(settings=chosen)
    text = json.dumps(made.to_dict(), allow_nan=False)
    assert RunProvenance.from_dict(json.loads(text)) == made


def test_newer_keys_are_left_out_and_missing_ones_named() -> None:
    assert ExamContent.from_dict({'session': '1', 'from_the_future': 3}).session == '1'
    with pytest.raises(DataError, match='ExamContent'):
        ExamContent.from_dict({'status': 'ok'})
    with pytest.raises(DataError, match='QCNumber'):
        ExamContent.from_dict({'session': '1', 'qc': [{'name': 'x', 'value': 1, 'status': '?'}]})


@pytest.mark.parametrize(
    ('statuses', 'worst'),
    [
        ((), 'unknown'),
        (('pass', 'unknown'), 'pass'),
        (('pass', 'check'), 'check'),
        (('fail', 'check', 'pass'), 'fail'),
    ],
)
def test_the_worst_status_counts(statuses: tuple[str, ...], worst: str) -> None:
    numbers = tuple(QCNumber(f'n{place}', 1.0, word) for place, word in enumerate(statuses))
    exam = ExamContent('1', qc=numbers)
    assert exam.qc_status == worst
    assert all(number.status in ('check', 'fail') for number in exam.flagged)


def test_a_failed_exam_is_never_green() -> None:
    assert ExamContent('1', status='failed', qc=(QCNumber('n', 1, 'pass'),)).qc_status == 'fail'


def test_an_empty_mask_is_never_green() -> None:
    fine = (QCNumber('n', 1, 'pass'),)
    empty = ExamContent('1', qc=fine, summary=LesionSummary(0, 0.0))
    assert (empty.qc_status, empty.selfcheck_status, empty.worst) == ('pass', 'check', 'check')
    assert empty.checked is not None
    assert empty.checked.reasons == ('No lesion detected: confirm.',)
    assert ExamContent('1', qc=fine, summary=LesionSummary(3, 1.0)).selfcheck_status == 'unknown'


@pytest.mark.parametrize(
    ('status', 'worst'), [('pass', 'pass'), ('check', 'check'), ('fail', 'fail')]
)
def test_the_self_check_is_a_statement_of_its_own(status: str, worst: str) -> None:
    check = {'status': status, 'outside_ml': 48.2, 'reasons': ['About 48 ml.']}
    exam = ExamContent('1', qc=(QCNumber('n', 1, 'pass'),), selfcheck=check)
    again = ExamContent.from_dict(json.loads(json.dumps(exam.to_dict())))
    assert again == exam
    assert again.qc_status == 'pass'
    assert again.worst == again.selfcheck_status == worst
    assert again.checked is not None
    assert again.checked.outside_ml == 48.2
