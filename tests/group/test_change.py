"""The table of change of all subjects."""

from __future__ import annotations

import pytest
from grouptree import make_tree

from mslesseg_app.core.errors import DataError
from mslesseg_app.core.settings import Settings
from mslesseg_app.group import run_group
from mslesseg_app.lesions.change_table import SUMMARY_COLUMNS


def write(out, subject, sessions, count, columns=SUMMARY_COLUMNS):
    known = {
        'participant_id': f'sub-{subject}',
        'model': 'mine',
        'session_before': f'ses-{sessions[0]}',
        'session_after': f'ses-{sessions[1]}',
        'n_new': str(count),
    }
    path = out / f'sub-{subject}' / 'anat' / f'sub-{subject}_desc-mine_changes.tsv'
    path.parent.mkdir(parents=True, exist_ok=True)
    row = '\t'.join(known.get(name, 'n/a') for name in columns)
    path.write_text('\t'.join(columns) + '\n' + row + '\n')
    return path


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path, 2)


def run(tree, **options):
    settings = Settings(tree.bids, tree.out, tree.out.parent / 'work', **options)
    assert run_group(settings, quiet=True) == 0
    return tree.out / 'group_change.tsv'


def test_no_change_no_table(tree):
    assert not run(tree).exists()


def test_all_subjects_in_one_table(tree, read):
    write(tree.out, '02', '12', 3)
    write(tree.out, '01', '12', 0)
    table = read(run(tree))
    assert list(table[0]) == list(SUMMARY_COLUMNS)
    assert [(row['participant_id'], row['n_new']) for row in table] == [
        ('sub-01', '0'), ('sub-02', '3'),
    ]  # fmt: skip
    assert (tree.out / 'group_change.json').is_file()


def test_participants_restrict_it(tree, read):
    write(tree.out, '01', '12', 0)
    write(tree.out, '02', '12', 3)
    assert [row['n_new'] for row in read(run(tree, participants=('02',)))] == ['3']


def test_a_damaged_table_is_named(tree):
    path = write(tree.out, '01', '12', 0, ['participant_id', 'model'])
    with pytest.raises(DataError, match=path.name):
        run(tree)
