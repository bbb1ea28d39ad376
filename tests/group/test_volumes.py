"""The table of all exams, from tables of exams that may be of different versions."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mslesseg_app import group
from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.core.settings import Settings


def run_group(out: Path, *, quiet: bool = False) -> int:
    """Run the group level where there are no raw data."""
    return group.run_group(Settings(out / 'nowhere', out, out / 'work'), quiet=quiet)


def write_exam(out: Path, label: str, model: str = 'unet', **columns: object) -> Path:
    """Write the metrics of one exam, which has these columns."""
    subject, _, session = label.partition('_')
    folder = out / subject / session / 'anat'
    folder.mkdir(parents=True, exist_ok=True)
    row = {'participant_id': subject, 'session_id': session or 'n/a', 'model': model, **columns}
    path = folder / f'{label}_desc-{model}_metrics.tsv'
    path.write_text('\t'.join(row) + '\n' + '\t'.join(map(str, row.values())) + '\n')
    return path


def write_failure(out: Path, label: str, model: str = 'unet') -> None:
    subject, _, session = label.partition('_')
    folder = out / subject / session / 'log'
    folder.mkdir(parents=True, exist_ok=True)
    record = {'session': session or None, 'status': 'failed'}
    (folder / f'{label}_desc-{model}_exam.json').write_text(json.dumps(record))


def rows(out: Path) -> list[dict[str, str]]:
    with (out / 'group_volumes.tsv').open(newline='') as file:
        return list(csv.DictReader(file, delimiter='\t'))


def test_exams_are_sorted_and_numbers_keep_their_digits(tmp_path):
    write_exam(tmp_path, 'sub-02', lesion_count=3, lesion_volume_ml='0.100000')
    write_exam(tmp_path, 'sub-01_ses-2', lesion_count=0, lesion_volume_ml='0')
    write_exam(tmp_path, 'sub-01_ses-1', 'hyper', lesion_count=1, lesion_volume_ml='1e-05')
    write_exam(tmp_path, 'sub-01_ses-1', 'unet', lesion_count=2, lesion_volume_ml='2')
    assert run_group(tmp_path, quiet=True) == 0
    found = [(r['participant_id'], r['session_id'], r['model']) for r in rows(tmp_path)]
    assert found == [
        ('sub-01', 'ses-1', 'hyper'),
        ('sub-01', 'ses-1', 'unet'),
        ('sub-01', 'ses-2', 'unet'),
        ('sub-02', 'n/a', 'unet'),
    ]
    assert [r['lesion_volume_ml'] for r in rows(tmp_path)] == ['1e-05', '2', '0', '0.100000']


def test_columns_that_only_some_have(tmp_path):
    write_exam(tmp_path, 'sub-01', lesion_count=1, another='x')
    write_exam(tmp_path, 'sub-02', DSC='0.5', lesion_count=1)
    run_group(tmp_path, quiet=True)
    first, second = rows(tmp_path)
    assert (first['DSC'], first['another']) == ('n/a', 'x')
    assert (second['DSC'], second['another']) == ('0.5', 'n/a')
    assert list(first)[-1] == 'another', 'known columns come first'


def test_dictionary(tmp_path):
    write_exam(tmp_path, 'sub-01', lesion_count=1)
    run_group(tmp_path, quiet=True)
    dictionary = json.loads((tmp_path / 'group_volumes.json').read_text())
    assert all(name in dictionary for name in rows(tmp_path)[0])


def test_same_input_gives_the_same_bytes(tmp_path):
    write_exam(tmp_path, 'sub-01', lesion_count=1)
    run_group(tmp_path, quiet=True)
    before = (tmp_path / 'group_volumes.tsv').read_bytes()
    run_group(tmp_path, quiet=True)
    assert (tmp_path / 'group_volumes.tsv').read_bytes() == before


def test_failed_exams_are_named(tmp_path, capsys):
    write_exam(tmp_path, 'sub-01', lesion_count=1)
    write_failure(tmp_path, 'sub-01')
    write_failure(tmp_path, 'sub-02_ses-1')
    run_group(tmp_path)
    text = capsys.readouterr().out
    assert '1 exams of 1 participants' in text
    assert 'sub-02_ses-1 (unet) failed in the last run; not included in the table' in text
    assert 'sub-01 (unet) failed in the last run: an earlier result is in the table' in text


def test_quiet(tmp_path, capsys):
    write_exam(tmp_path, 'sub-01', lesion_count=1)
    run_group(tmp_path, quiet=True)
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('content', [b'', b'\xff\xfe', b'a\tb\n1\t2\n', b'a\tb\n1\t2\t3\n4\n'])
def test_damaged_tables(tmp_path, content):
    write_exam(tmp_path, 'sub-01', lesion_count=1).write_bytes(content)
    with pytest.raises(DataError, match='_metrics') as caught:
        run_group(tmp_path, quiet=True)
    assert 'run the exam again' in caught.value.hint
    assert not (tmp_path / 'group_volumes.tsv').exists()


def test_nothing_to_gather(tmp_path):
    with pytest.raises(NoInputError) as caught:
        run_group(tmp_path)
    assert caught.value.exit_code == 66
