"""Marks of the review: reading, joining and writing them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.review import (
    MARKS,
    Mark,
    current_review,
    excluded_exams,
    keep_review,
    marked_exams,
    read_review,
    redone,
    write_review,
)
from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.core.settings import Settings

HEAD = 'participant_id\tsession_id\tmark\tmarked\tnote\n'
EARLY, LATE = '2026-01-01T10:00:00Z', '2026-01-01T11:00:00Z'


def settings_of(tmp_path: Path, review: Path | None = None) -> Settings:
    return Settings(tmp_path / 'bids', tmp_path / 'out', tmp_path / 'work', review=review)


def test_a_table_of_any_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'a.tsv'
    text = (
        HEAD
        + f'01\t1\tExclude\t{EARLY}\tmoved "a lot"\n'
        + 'sub-02\tses-1\tn/a\tn/a\tlater\n'
        + 'sub-03\tn/a\taccept\t\t\n'
        + 'sub-04\tn/a\tn/a\tn/a\tn/a\n'
    )
    path.write_bytes(b'\xef\xbb\xbf' + text.replace('\n', '\r\n').encode())
    assert read_review(path) == {
        ('sub-01', 'ses-1'): Mark('exclude', EARLY, 'moved "a lot"'),
        ('sub-02', 'ses-1'): Mark('', '', 'later'),
        ('sub-03', ''): Mark('accept'),
    }


def test_short_table_without_sessions(tmp_path: Path) -> None:
    path = tmp_path / 'a.tsv'
    path.write_text('participant_id\tmark\nsub-01\tredo\n')
    assert read_review(path) == {('sub-01', ''): Mark('redo')}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'lacks the column'),
        ('participant_id\tstate\nsub-01\tredo\n', 'lacks the column'),
        (HEAD + 'sub-01\tn/a\tbad\t\t\n', 'line 2: "bad" is no mark'),
        (HEAD + 'sub-01\tn/a\tredo\t\t\n01\t\taccept\t\t\n', 'names sub-01 twice'),
        (HEAD + 'n/a\tn/a\tredo\t\t\n', 'line 2 names no participant'),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / 'a.tsv'
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_review(path)
    assert caught.value.hint


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match='does not exist'):
        read_review(tmp_path / 'none.tsv')
    (tmp_path / 'a.tsv').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match='cannot be read'):
        read_review(tmp_path / 'a.tsv')


_LABELS = st.text('abc019', min_size=1, max_size=4)
_REVIEWS = st.dictionaries(
    st.tuples(_LABELS.map('sub-{}'.format), st.one_of(st.just(''), _LABELS.map('ses-{}'.format))),
    st.builds(
        Mark,
        st.sampled_from(sorted(MARKS)),
        st.sampled_from(['', EARLY, LATE]),
        st.text('ab"\'<&ä ', max_size=8).map(lambda text: ' '.join(text.split())),
    ),
)


@given(review=_REVIEWS)
def test_writing_and_reading_gives_the_same(
    tmp_path_factory: pytest.TempPathFactory, review: dict[tuple[str, str], Mark]
) -> None:
    path = tmp_path_factory.mktemp('review') / 'a.tsv'
    write_review(path, review)
    assert read_review(path) == review
    columns = json.loads(path.with_suffix('.json').read_text())
    assert list(columns) == sorted(path.read_text().splitlines()[0].split('\t'))


def test_the_later_mark_holds(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, tmp_path / 'file.tsv')
    keys = [(f'sub-{k}', '') for k in range(4)]
    stored = [Mark('accept', EARLY), Mark('accept', LATE), Mark('redone', EARLY), Mark('accept')]
    given = [Mark('redo', LATE), Mark('redo', EARLY), Mark('redo', EARLY), Mark('exclude', EARLY)]
    keep_review(settings, dict(zip(keys, stored, strict=True)))
    write_review(tmp_path / 'file.tsv', dict(zip(keys, given, strict=True)))
    found = [current_review(settings)[key].mark for key in keys]
    assert found == ['redo', 'accept', 'redone', 'exclude']


def test_no_marks_leave_no_file(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert current_review(settings) == {}
    keep_review(settings, {})
    assert not settings.out_dir.exists()


def test_exams_are_found_by_their_marks() -> None:
    exams = [Exam('01', '1', {}), Exam('01', '2', {}), Exam('02', None, {})]
    review = {
        ('sub-01', 'ses-1'): Mark('redo', EARLY, 'why'),
        ('sub-01', 'ses-2'): Mark('exclude'),
        ('sub-02', ''): Mark('redo'),
    }
    assert marked_exams(exams, review, 'redo') == [exams[0], exams[2]]
    assert excluded_exams(review) == {('sub-01', 'ses-2')}
    after = redone(review, exams[:2])
    assert after['sub-01', 'ses-1'] == Mark('redone', EARLY, 'why')
    assert [mark.mark for mark in after.values()] == ['redone', 'exclude', 'redo']
