"""Tables of a dataset are added to; what people wrote there stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mslesseg_app.core.errors import OutputError
from mslesseg_app.dicom.convert import bids_files as tree


def test_rows_are_added_and_own_columns_kept(tmp_path: Path) -> None:
    path = tmp_path / 'participants.tsv'
    path.write_text('participant_id\tgroup\tage\nsub-09\tMS\t33\nsub-001\tHC\t20\n')
    (tmp_path / 'participants.json').write_text('{"group": {"Description": "mine"}}')
    rows = [
        {'participant_id': 'sub-001', 'age': '41', 'sex': 'F'},
        {'participant_id': 'sub-002', 'age': '42', 'sex': 'M'},
    ]
    for _ in range(2):
        tree.add_participants(tmp_path, rows)
    assert path.read_text().splitlines() == [
        'participant_id\tgroup\tage\tsex',
        'sub-001\tHC\t20\tn/a',
        'sub-002\tn/a\t42\tM',
        'sub-09\tMS\t33\tn/a',
    ]
    columns = json.loads((tmp_path / 'participants.json').read_text())
    assert columns['group'] == {'Description': 'mine'}
    assert set(columns) == {'participant_id', 'group', 'age', 'sex'}


def test_series_are_renewed_and_twins_kept(tmp_path: Path) -> None:
    row = {
        'participant_id': 'sub-1',
        'series_number': '3',
        'description': 'a',
        'decision': 'failed',
    }
    tree.add_series(tmp_path, [row, row, row | {'series_number': '12'}])
    tree.add_series(tmp_path, [row | {'decision': 'converted'}])
    lines = [line.split('\t') for line in (tmp_path / 'series.tsv').read_text().splitlines()]
    decision = lines[0].index('decision')
    assert [(line[2], line[decision]) for line in lines[1:]] == [
        ('3', 'converted'),
        ('3', 'failed'),
        ('12', 'failed'),
    ]


def test_cells_hold_neither_tabs_nor_lines() -> None:
    assert tree.format_table(['a'], [{'a': 'x\ty\nz'}, {}]) == 'a\nx y z\nn/a\n'


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / 'README').write_text('mine')
    (tmp_path / '.bidsignore').write_text('extra/\n')
    (tmp_path / 'dataset_description.json').write_text('{"Name": "mine", "BIDSVersion": "1.9.0"}')
    tree.check_dataset(tmp_path)
    tree.write_top(tmp_path)
    tree.write_readme(tmp_path)
    assert (tmp_path / 'README').read_text() == 'mine'
    assert not (tmp_path / 'README.md').exists()
    assert json.loads((tmp_path / 'dataset_description.json').read_text())['Name'] == 'mine'
    assert (tmp_path / '.bidsignore').read_text().split() == ['extra/', *tree.IGNORED]


@pytest.mark.parametrize(
    'content', ['{"DatasetType": "derivative"}', 'no json', '[]', b'\xff\xfe'.decode('latin-1')]
)
def test_other_datasets_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / 'dataset_description.json').write_bytes(content.encode('latin-1'))
    with pytest.raises(OutputError) as caught:
        tree.check_dataset(tmp_path)
    assert caught.value.hint


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'thesis.txt').touch()
    with pytest.raises(OutputError, match='neither empty'):
        tree.check_dataset(tmp_path)
    tree.check_dataset(tmp_path / 'new')
