"""What a page says of an exam besides its record."""

from __future__ import annotations

import pytest

from mslesseg_app.lesions.change_record import PairRecord
from mslesseg_app.lesions.dissemination import MET
from mslesseg_app.reports import ExamContent, LesionSummary, QCNumber
from mslesseg_app.reports.sections import Change, Extra, findings, trust

EXAM = ExamContent('1', summary=LesionSummary(3, 1.5, 900.0))


def test_each_lamp_shows_the_worst_of_its_numbers() -> None:
    numbers = (
        QCNumber('alignment_FLAIR', 25.0, 'pass'),
        QCNumber('alignment_T1w', 9.0, 'check'),
        QCNumber('brain_volume_mni_ml', 1500.0, 'pass'),
        QCNumber('flair_cnr', 3.0, 'fail'),
        QCNumber('flair_coverage', 1.0, 'pass'),
        QCNumber('flair_slice_thickness_mm', 6.0, 'check'),
    )
    statuses = {item.title: item.status for item in trust(ExamContent('1', qc=numbers))}
    assert statuses == {
        'Registration': 'check',
        'Brain mask': 'pass',
        'Contrast to noise': 'fail',
        'Motion': 'unknown',
        'Coverage': 'check',
        'Uncertainty': 'unknown',
    }


def test_uncertainty_is_weighted_by_size_and_not_judged() -> None:
    rows = ({'mean_uncertainty': 0.1, 'n_voxels': 90}, {'mean_uncertainty': 0.6, 'n_voxels': 10})
    (item,) = (one for one in trust(ExamContent('1', lesions=rows)) if one.title == 'Uncertainty')
    assert item.status == 'unknown'
    assert item.numbers[0].value == pytest.approx(0.15)


def test_dissemination_says_what_was_not_assessed() -> None:
    (found,) = findings(EXAM, Extra(measures={'dissemination_2017': MET}))
    assert f'2017 criteria: {MET}.' in found
    assert 'Spinal cord and optic nerve: not assessed' in found
    assert findings(EXAM, Extra(measures={'dissemination_2024': None})) == []


def test_change_in_words() -> None:
    rows = tuple({'status': name} for name in ('new', 'stable', 'new', None))
    about = PairRecord(session_before='ses-1', years=2.5, status='pass').to_metadata()
    change = Change(rows, about)
    assert change.words() == 'Since ses-1 (2.5 years): 2 new, 1 stable, 1 not judged.'
    assert change.moved
    assert not Change(({'status': 'stable'}, {'status': 'one-mask'})).moved
    months = PairRecord(years=0.5).to_metadata()
    assert Change((), months).words() == (
        'Since the previous session (6 months): no lesion to compare.'
    )
    failed = PairRecord(session_before='ses-1', status='fail', reason='they do not overlap')
    told = Change((), failed.to_metadata())
    assert not told.compared
    assert 'not compared, because they do not overlap' in told.words()


def test_columns_without_content_are_left_out() -> None:
    rows = (
        {'change_id': 1, 'status': 'one-mask', 'lesions_after': 2.0, 'z_peak': None, 'x': 1.0},
        {'change_id': 2, 'status': None, 'lesions_after': '3,4', 'z_peak': None, 'x': 2.0},
    )
    change = Change(rows)
    assert change.columns == ['change_id', 'status', 'lesions_after']
    assert change.table == [
        {'change_id': 1, 'status': 'in one mask only', 'lesions_after': '2'},
        {'change_id': 2, 'status': None, 'lesions_after': '3, 4'},
    ]
