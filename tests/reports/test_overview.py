"""The first screen of a report: regions, change, and reasons to check."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mslesseg_app.lesions.change_record import PairRecord
from mslesseg_app.reports import ExamContent, ImageUsed, LesionSummary, QCNumber
from mslesseg_app.reports.overview import overview, region_rows
from mslesseg_app.reports.sections import Change, Extra

FLAIR = ImageUsed('FLAIR', 'f.nii.gz', '150 × 230 × 224 voxels of 1.2 × 1 × 1 mm')
THICK = ImageUsed('FLAIR', 'f.nii.gz', '256 × 256 × 48 voxels of 0.9 × 0.9 × 3 mm')
T1W = ImageUsed('T1w', 't.nii.gz', '192 × 256 × 256 voxels of 1 × 1 × 1 mm')
GOOD = (QCNumber('flair_cnr', 21.0, 'pass'),)
PASS = {'status': 'pass', 'reasons': ()}


def exam(session: str, *lesions: tuple[str, float], **more: Any) -> ExamContent:
    rows = tuple(
        {'lesion_id': number, 'region': region, 'volume_mm3': volume}
        for number, (region, volume) in enumerate(lesions, 1)
    )
    summary = LesionSummary(len(rows), sum(volume for _, volume in lesions) / 1000)
    known = {'images': (FLAIR, T1W), 'qc': GOOD, 'selfcheck': PASS} | more
    return ExamContent(session, summary=summary, lesions=rows, **known)


def change(*rows: dict[str, Any], **pair: Any) -> Extra:
    known = {'session_before': 'ses-1', 'status': 'pass', 'years': 1.0} | pair
    return Extra(change=Change(rows, PairRecord(**known).to_metadata()))


BEFORE = exam('1', ('periventricular', 1000.0), ('infratentorial', 100.0))
NOW = exam('2', ('periventricular', 1250.0), ('juxtacortical', 60.0))
ROWS = (
    {'status': 'enlarging', 'lesions_before': 1.0, 'lesions_after': 1, 'difference_mm3': 250.0},
    {'status': 'new', 'lesions_before': None, 'lesions_after': '2', 'difference_mm3': 60.0},
    {'status': 'resolved', 'lesions_before': '2', 'lesions_after': None, 'difference_mm3': -100.0},
)


def test_regions_hold_count_volume_and_change() -> None:
    extra = change(*ROWS)
    found = {row.title: row for row in region_rows(NOW, extra.change, BEFORE)}
    assert found['periventricular'].count == 1
    assert found['periventricular'].volume_ml == pytest.approx(1.25)
    assert found['periventricular'].difference_ml == pytest.approx(0.25)
    assert found['juxtacortical or cortical'].changes == '1 new'
    gone = found['infratentorial']
    assert (gone.count, gone.volume_ml, gone.changes) == (0, 0, '1 resolved')
    assert gone.difference_ml == pytest.approx(-0.1), 'by the region of the earlier lesion'
    assert [row.difference_ml for row in region_rows(NOW, None, None)] == [None, None]
    assert region_rows(exam('3', ('', 5.0)), None, None) == (), 'no table without regions'


def test_the_change_since_the_previous_session() -> None:
    seen = overview(NOW, change(*ROWS, volume_before_ml=1.1, volume_after_ml=1.31), [NOW, BEFORE])
    assert (seen.previous, seen.interval) == ('ses-1', '12 months')
    assert seen.difference_ml == pytest.approx(0.21)
    assert seen.changes == '1 new, 1 enlarging, 1 resolved'
    assert seen.sequences == ('FLAIR 1.2 × 1 × 1 mm', 'T1w 1 × 1 × 1 mm')
    assert (seen.status, seen.reasons) == ('pass', ())
    still = overview(NOW, change({'status': 'stable'}), [NOW, BEFORE])
    assert still.changes == 'no lesion changed'


@pytest.mark.parametrize(
    ('now', 'extra', 'words'),
    [
        (exam('2', selfcheck=None), Extra(), 'No lesion detected'),
        (exam('2', ('periventricular', 9.0), missing=('T2w',)), Extra(), 'No T2w image'),
        (
            exam('2', ('periventricular', 9.0), images=(FLAIR,)),
            change(),
            'T1w is present in the previous session only',
        ),
        (
            exam('2', ('periventricular', 9.0), images=(THICK, T1W)),
            change(),
            'The FLAIR of the two sessions differ: 0.9 × 0.9 × 3 mm and 1.2 × 1 × 1 mm before',
        ),
        (
            exam('2', ('periventricular', 9.0), selfcheck={'status': 'check', 'reasons': ('A.',)}),
            Extra(),
            'A.',
        ),
        (exam('2', reasons_to_check=('The models disagree.',)), Extra(), 'The models disagree.'),
        (NOW, change({'status': 'one-mask'}), '1 lesion is in the mask of one session only'),
        (NOW, change(status='check', reason='blurred'), 'with care: blurred.'),
        (NOW, change(status='fail', reason='far apart'), 'Not compared with the previous'),
    ],
)
def test_reasons_make_the_card_amber(now: ExamContent, extra: Extra, words: str) -> None:
    seen = overview(now, extra, [now, BEFORE])
    assert any(words in reason for reason in seen.reasons), seen.reasons
    assert seen.status == 'check'


def test_a_missing_sequence_is_stated_once() -> None:
    warning = 'No T2w image in this exam; its channel is empty.'
    seen = overview(exam('2', ('', 1.0), missing=('T2w',), warnings=(warning,)), Extra())
    assert seen.reasons == (warning,)


def test_reasons_do_not_hide_a_failed_check() -> None:
    bad = dataclasses.replace(NOW, qc=(QCNumber('flair_cnr', 1.0, 'fail'),), missing=('T2w',))
    assert overview(bad, Extra()).status == 'fail'
