"""When sessions took place."""

from __future__ import annotations

from datetime import datetime

import pytest

from mslesseg_app.bids.dates import in_order, session_date, years_between

FLAIR = 'sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz'
DAY = datetime.fromisoformat('2020-05-01T09:30:00')


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join('\t'.join(line) for line in lines) + '\n')


def test_sessions_table(tmp_path):
    write(
        tmp_path / 'sub-01/sub-01_sessions.tsv',
        ('session_id', 'acq_time'),
        ('ses-2', '2021-05-01T00:00:00'),
        ('ses-1', '2020-05-01T09:30:00'),
    )
    assert session_date(tmp_path, '01', '1', FLAIR) == DAY


def test_scans_table_where_the_sessions_table_is_silent(tmp_path):
    write(tmp_path / 'sub-01/sub-01_sessions.tsv', ('session_id', 'acq_time'), ('ses-1', 'n/a'))
    write(
        tmp_path / 'sub-01/ses-1/sub-01_ses-1_scans.tsv',
        ('filename', 'acq_time'),
        ('anat/sub-01_ses-1_T1w.nii.gz', '2020-05-01T09:00:00'),
        ('anat/sub-01_ses-1_FLAIR.nii.gz', '2020-05-01T09:30:00.000000'),
    )
    assert session_date(tmp_path, '01', '1', FLAIR) == DAY


def test_no_date(tmp_path):
    assert session_date(tmp_path, '01', '1', FLAIR) is None
    write(tmp_path / 'sub-01/sub-01_sessions.tsv', ('session_id',), ('ses-1',))
    assert session_date(tmp_path, '01', '1', FLAIR) is None
    (tmp_path / 'sub-01/sub-01_sessions.tsv').write_bytes(b'\xff\xfe\x00')
    assert session_date(tmp_path, '01', '1', FLAIR) is None


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'latin-1', 'utf-16'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_tables_of_other_programs(tmp_path, encoding, end):
    path = tmp_path / 'sub-01/sub-01_sessions.tsv'
    path.parent.mkdir()
    rows = ['session_id\tacq_time\tsite', 'ses-1\t2020-05-01T09:30:00\tK\u00f6ln', '']
    path.write_bytes(end.join(rows).encode(encoding))
    assert session_date(tmp_path, '01', '1', FLAIR) == DAY


def test_years():
    later = datetime.fromisoformat('2022-05-01T09:30:00')
    assert years_between(DAY, later) == pytest.approx(2, abs=0.002)
    assert years_between(later, DAY) is None
    assert years_between(DAY, DAY) is None
    assert years_between(None, DAY) is None


def test_order_is_that_of_time_if_all_dates_are_known():
    later = datetime.fromisoformat('2022-01-01')
    assert in_order({'a': later, 'b': DAY}) == ['b', 'a']
    assert in_order({'b': DAY, 'a': None}) == ['a', 'b']
    assert in_order({'10': None, '2': None, 'M1': None}) == ['2', '10', 'M1']
