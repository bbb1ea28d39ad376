"""Nodes that compare two sessions, on small synthetic brains."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from mslesseg_app.core.errors import AlignmentError
from mslesseg_app.lesions.change_table import lesion_statuses
from mslesseg_app.participant.interfaces.change import AlignPair, CompareSessions, WriteChanges
from mslesseg_app.spatial.affines import write_itk

SHAPE = (56, 60, 40)
AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])
PAIR = {
    'participant_id': 'sub-01',
    'model': 'mine',
    'session_before': 'ses-1',
    'session_after': 'ses-2',
    'pair': 'consecutive',
    'years': 0.5,
    'edited': [],
}


def ball(centre, radius) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing='ij'), axis=-1)
    return np.linalg.norm((index - np.array(centre)) * [1, 1, 1.5], axis=-1) <= radius


BRAIN = ball((28, 30, 20), 24)
OLD, NEW, GONE = ball((20, 30, 20), 4), ball((36, 30, 20), 4), ball((28, 42, 20), 3)


def save(data, path: Path, dtype=np.float32) -> str:
    nb.Nifti1Image(data.astype(dtype), AFFINE).to_filename(path)
    return str(path)


def write_session(folder: Path, name: str, lesions: list[np.ndarray], seed: int) -> dict[str, str]:
    rng = np.random.default_rng(7)
    tissue = 100 + 100 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3)
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    labels = np.zeros(SHAPE, np.int16)
    for number, one in enumerate(lesions, start=1):
        labels[one] = number
    flair = np.where(BRAIN, tissue + 50 * (labels > 0) + noise, 3.0)
    return {
        f'{name}_flair': save(flair, folder / f'{name}_flair.nii.gz'),
        f'{name}_brain': save(BRAIN, folder / f'{name}_brain.nii.gz', np.uint8),
        f'{name}_labels': save(labels, folder / f'{name}_labels.nii.gz', np.int16),
    }


@pytest.fixture
def inputs(tmp_path):
    """A session with a lesion and one that will be gone; then with that one and a new one."""
    files = write_session(tmp_path, 'before', [OLD, GONE], 1)
    files |= write_session(tmp_path, 'after', [OLD, NEW], 2)
    move = tmp_path / 'move.json'
    move.write_text(json.dumps({'after_from_before': np.eye(4).tolist()}))
    return files | {
        'move': str(move),
        'pair': PAIR,
    }


def compare(inputs, cwd, **changes):
    cwd.mkdir(exist_ok=True)
    return CompareSessions(**(inputs | changes)).run(cwd=str(cwd)).outputs


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file, delimiter='\t'))


def test_everything_that_follows(inputs, tmp_path):
    found = compare(inputs, tmp_path / 'a')
    table = rows(found.table)
    assert [row['status'] for row in table] == ['stable', 'new', 'resolved']
    assert [row['lesions_before'] for row in table] == ['1', 'n/a', '2']
    read = pd.read_csv(found.table, sep='\t', na_values='n/a', keep_default_na=False)
    assert lesion_statuses(read) == {1: 'stable', 2: 'new'}
    new = float(table[1]['volume_after_mm3'])
    assert new == pytest.approx(NEW.sum() * 1.5)
    assert float(table[1]['rate_mm3_per_year']) == pytest.approx(2 * new, rel=1e-5)
    image = np.asarray(nb.load(found.image).dataobj)
    assert image.dtype == np.uint8
    assert set(image[OLD]) == {1}
    assert set(image[NEW]) == {2}
    assert (image[GONE] == 5).mean() > 0.7
    assert not image[~ndimage.binary_dilation(OLD | NEW | GONE, iterations=2)].any()
    earlier = np.asarray(nb.load(found.before_image).dataobj)
    assert set(earlier[GONE]) == {5}
    assert (earlier[NEW] == 2).mean() > 0.7
    z = np.asarray(nb.load(found.difference).dataobj)
    assert z[NEW].mean() > 4
    assert z[GONE].mean() < -4
    assert abs(z[OLD].mean()) < 2
    assert np.asarray(nb.load(found.before_difference).dataobj)[NEW].mean() > 4
    assert found.metadata['Guard']['Status'] == 'pass'
    assert found.metadata['PreviousSession'] == 'ses-1'
    assert found.metadata['IntervalYears'] == 0.5
    assert found.metadata['Counts']['new'] == 1
    assert found.summary['n_resolved'] == 1
    json.dumps(found.metadata, allow_nan=False)


def test_t2w_of_both_sessions_counts_too(inputs, tmp_path):
    """A new lesion that T2w does not show is no change; T2w of another field of view is left."""
    xfm = tmp_path / 'xfm.txt'
    write_itk(xfm, np.eye(4))
    t2w = {}
    for seed, shown in ((3, [OLD, GONE]), (4, [OLD])):
        t2w[seed] = write_session(tmp_path, f't{seed}', shown, seed)[f't{seed}_flair']
    found = compare(inputs, tmp_path / 'a', t2w=[t2w[3], t2w[4]], t2w_xfms=[str(xfm)] * 4)
    assert found.metadata['ComparedImages'] == found.summary['images'] == 'FLAIR, T2w'
    one, two = (
        np.asarray(nb.load(f.difference).dataobj) for f in (compare(inputs, tmp_path / 'b'), found)
    )
    assert two[NEW].mean() == pytest.approx(one[NEW].mean() / np.sqrt(2), rel=0.15)
    assert two[GONE].mean() < 1.2 * one[GONE].mean()
    far = tmp_path / 'far.txt'
    write_itk(far, np.eye(4) + 500 * np.eye(4, k=3))
    xfms = [str(xfm), str(xfm), str(xfm), str(far)]
    left = compare(inputs, tmp_path / 'c', t2w=[t2w[3], t2w[4]], t2w_xfms=xfms)
    assert left.summary['images'] == 'FLAIR'


def test_the_same_session_twice(inputs, tmp_path):
    same = {key.replace('after', 'before'): inputs[key] for key in inputs if 'after' in key}
    found = compare(inputs, tmp_path / 'a', **same)
    assert {row['status'] for row in rows(found.table)} == {'stable'}
    assert set(np.unique(nb.load(found.image).dataobj)) == {0, 1}
    assert np.abs(nb.load(found.difference).dataobj).max() < 0.5


def test_a_lesion_of_one_mask_only_is_not_new_where_the_flair_is_the_same(inputs, tmp_path):
    """The earlier mask lacks a lesion that the earlier FLAIR shows as the later one does."""
    labels = np.where(OLD, 1, 0)
    missed = write_session(tmp_path, 'before', [OLD, NEW], 1)
    missed['before_labels'] = save(labels, tmp_path / 'missed.nii.gz', np.int16)
    found = compare(inputs, tmp_path / 'a', **missed)
    (row,) = [row for row in rows(found.table) if row['lesions_before'] == 'n/a']
    assert row['status'] == 'one-mask'
    assert 'do not differ' in row['note']
    edited = compare(inputs, tmp_path / 'b', **missed, pair=PAIR | {'edited': ['ses-2']})
    (row,) = [row for row in rows(edited.table) if row['lesions_before'] == 'n/a']
    assert row['status'] == 'new', 'a person is taken at their word'
    assert edited.metadata['EditedSessions'] == 'ses-2'


@pytest.mark.parametrize('kind', ['not aligned', 'far off'])
def test_sessions_that_cannot_be_compared(inputs, tmp_path, kind):
    move = np.eye(4)
    move[0, 3] = 15.0
    content = {'reason': 'no image'} if kind == 'not aligned' else {
        'after_from_before': move.tolist()
    }  # fmt: skip
    Path(inputs['move']).write_text(json.dumps(content))
    found = compare(inputs, tmp_path / 'a')
    assert rows(found.table) == []
    assert not np.asarray(nb.load(found.image).dataobj).any()
    assert found.metadata['Guard']['Status'] == 'fail'
    assert found.metadata['Guard']['Reason']
    assert found.metadata['Counts']['new'] == 'n/a'


def test_without_dates_there_are_no_rates(inputs, tmp_path):
    found = compare(inputs, tmp_path / 'a', pair=PAIR | {'years': None})
    assert {row['rate_mm3_per_year'] for row in rows(found.table)} == {'n/a'}
    assert found.metadata['IntervalYears'] == 'n/a'


def test_same_bytes(inputs, tmp_path):
    one, two = (compare(inputs, tmp_path / name) for name in 'ab')
    for field in ('image', 'before_image', 'difference', 'table'):
        first, second = (Path(getattr(found, field)).read_bytes() for found in (one, two))
        assert first == second


def test_table_of_pairs(inputs, tmp_path):
    found = compare(inputs, tmp_path / 'a')
    out = WriteChanges(rows=[found.summary, found.summary]).run(cwd=str(tmp_path)).outputs.out_file
    table = rows(out)
    assert len(table) == 2
    assert (table[0]['n_new'], table[0]['status'], table[0]['reason']) == ('1', 'pass', 'n/a')


def test_what_cannot_be_aligned_is_told(inputs, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AlignmentError('The image is empty.')

    monkeypatch.setattr('mslesseg_app.spatial.subject_alignment.align_pair', fail)
    xfm = str(write_itk(tmp_path / 'xfm.txt', np.eye(4)))
    node = AlignPair(
        before_flair=inputs['before_flair'],
        after_flair=inputs['after_flair'],
        before_xfm=xfm,
        after_xfm=xfm,
    )
    out = node.run(cwd=str(tmp_path)).outputs.out_file
    assert json.loads(Path(out).read_text()) == {'reason': 'The image is empty.'}
