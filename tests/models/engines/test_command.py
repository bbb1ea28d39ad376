"""A program of its own as a model: what it is given, and what is told when it fails."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from probability import segment_exam

from mslesseg_app.core.errors import DataError, ModelError, UsageError
from mslesseg_app.models.prediction.native import segment_native
from mslesseg_app.models.registry import get_entry, list_entries
from mslesseg_app.models.store import add_command
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

STUB = """
import os, sys
import nibabel as nb
import numpy as np

flair, output, kind = sys.argv[1:4]
assert 'PYTHONPATH' not in os.environ and os.environ['OMP_NUM_THREADS'] == '3'
image = nb.load(flair)
data = np.asarray(image.dataobj)
np.save(os.environ['SEEN'], data)
if kind == 'crash':
    print('no memory for the map')
    sys.exit(9)
result, affine = (data > 1.5) * 0.75, image.affine
if kind == 'labels':
    result = np.where(data > 1.5, 18, 3)
if kind == 'percent':
    result = result * 100
if kind == 'shifted':
    affine = affine + np.eye(4, k=3)
if kind == 'cropped':
    result = result[1:]
if kind == 'text':
    open(output, 'w').write('no image')
elif kind != 'nothing':
    nb.Nifti1Image(result.astype('float32'), affine).to_filename(output)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The words of a stub program; what it was given is kept in ``seen.npy``."""
    (tmp_path / 'stub.py').write_text(STUB)
    monkeypatch.setenv('SEEN', str(tmp_path / 'seen.npy'))
    monkeypatch.setenv('PYTHONPATH', '/nowhere')
    return shlex.join([sys.executable, str(tmp_path / 'stub.py')])


def add(program: str, folder: Path, kind: str = 'plain', **options):
    options = {'space': 'template', **options}
    command = f'{program} {{flair}} {{output}} {kind}'
    overrides = {'name': 'my-stub', 'channels': ('FLAIR',), 'options': options}
    return add_command(command, folder, overrides)


@pytest.fixture
def exam():
    """A bright spot in and one outside of a brain."""
    image = np.ones((6, 7, 8), np.float32)
    image += np.arange(image.size).reshape(image.shape) % 3 / 100
    image[2:4, 3, 4] = 2
    image[0, 0, 0] = 2
    brain = np.zeros(image.shape, bool)
    brain[1:5, 1:6, 1:7] = True
    return {'FLAIR': image}, brain


def test_the_program_sees_the_brain_and_its_map_is_taken(program, exam, tmp_path):
    entry = add(program, tmp_path / 'models')
    images, brain = exam
    prob, info = segment_exam(entry, images, brain, 'cpu', threads=3)
    expected = np.zeros(brain.shape, np.float32)
    expected[2:4, 3, 4] = 0.75
    np.testing.assert_array_equal(prob, expected)
    assert info['model'] == 'mystub'
    np.testing.assert_array_equal(
        np.load(tmp_path / 'seen.npy'), np.where(brain, images['FLAIR'], 0)
    )


def test_the_whole_head_and_labels(program, exam, tmp_path):
    entry = add(program, tmp_path / 'models', 'labels', whole_head=True, labels=[18])
    images, brain = exam
    prob, _ = segment_exam(entry, images, brain, 'cpu', threads=3)
    assert set(np.unique(prob)) == {0, 1}
    assert prob.sum() == 2, 'the spot outside the brain does not count'
    np.testing.assert_array_equal(np.load(tmp_path / 'seen.npy'), images['FLAIR'])


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('crash', 'exit code 9. Its last words: no memory for the map'),
        ('nothing', "left 0 files 'lesions.nii.gz'"),
        ('percent', 'no probability from 0 to 1'),
        ('shifted', 'another grid'),
        ('cropped', 'cannot be used'),
        ('text', 'cannot be used'),
    ],
)
def test_what_goes_wrong_is_told(program, exam, tmp_path, kind, words):
    entry = add(program, tmp_path / 'models', kind)
    with pytest.raises(DataError) as error:
        segment_exam(entry, *exam, 'cpu', threads=3)
    assert words in str(error.value)
    assert "'mystub'" in str(error.value)
    if kind == 'crash':
        assert 'stub.py' in error.value.hint


def test_an_exam_without_a_needed_image_is_refused(program, exam, tmp_path):
    command = f'{program} {{t1w}} {{output}} plain'
    overrides = {'name': 'two', 'channels': ('FLAIR', 'T1w')}
    entry = add_command(command, tmp_path / 'models', overrides)
    with pytest.raises(DataError, match='needs T1w'):
        segment_exam(entry, *exam, 'cpu', threads=3)


def test_native_images_are_given_on_their_grid_and_the_map_goes_both_ways(program, tmp_path):
    """A FLAIR of thick slices, turned and shifted; the T1w is brought to its grid."""
    command = f'{program} {{t1w}} {{output}} plain'
    overrides = {'name': 'native', 'channels': ('FLAIR', 'T1w'), 'options': {'space': 'native'}}
    entry = add_command(command, tmp_path / 'models', overrides)
    affine = np.array([[-1.5, 0, 0, 30], [0, 1, 0, -20], [0, 0, 4, -10], [0, 0, 0, 1]])
    flair = np.ones((30, 24, 8), np.float32) + np.random.default_rng(0).random((30, 24, 8)) / 9
    shift = np.eye(4)
    shift[:3, 3] = 3, -2, 4  # the T1w was taken from a head that had moved
    t1w = flair.astype(np.float32).copy()
    t1w[10:13, 8:13, 3:5] = 2
    t1w_affine = shift @ affine
    images = {
        'FLAIR': nb.Nifti1Image(flair.astype(np.float32), affine),
        'T1w': nb.Nifti1Image(t1w, t1w_affine),
    }
    brain = nb.Nifti1Image(np.ones(TEMPLATE_SHAPE, np.uint8), TEMPLATE_AFFINE)
    done = segment_native(
        entry, images, {'FLAIR': np.eye(4), 'T1w': shift}, brain, device='cpu', threads=3
    )
    found = np.asarray(done.native.dataobj)
    np.testing.assert_array_equal(done.native.header.get_best_affine(), affine)
    np.testing.assert_array_equal(found, (t1w > 1.5) * np.float32(0.75))
    centre = affine @ [11, 10, 3.5, 1]
    voxel = np.rint(np.linalg.inv(TEMPLATE_AFFINE) @ centre).astype(int)[:3]
    assert done.template.prob[tuple(voxel)] == pytest.approx(0.75)
    volume = done.template.prob.sum() / (found.sum() * abs(np.linalg.det(affine[:3, :3])))
    assert volume == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ('command', 'words'),
    [
        ('', 'is empty'),
        ("prog '{flair}", 'No closing quotation'),
        ('prog {flair} {mask}', r'holds \{mask\}'),
        ('prog {flair} {t1w} {output}', r'holds \{t1w\}'),
        ('no-such-program-here {flair} {output}', "no program 'no-such-program-here'"),
    ],
)
def test_a_command_that_cannot_run_is_not_added(tmp_path, command, words):
    with pytest.raises(ModelError, match=words):
        add_command(command, tmp_path / 'models', {'name': 'mine', 'channels': ('FLAIR',)})
    assert list((tmp_path / 'models').iterdir()) == []


def test_a_program_needs_a_name_and_its_images(tmp_path):
    with pytest.raises(UsageError, match='needs a name'):
        add_command('prog {flair} {output}', tmp_path, {'name': 'mine'})


def test_a_recipe_gives_what_is_not_said(tmp_path):
    command = f'{sys.executable} {{t1w}} {{flair}} {{folder}}'
    entry = add_command(command, tmp_path, {'name': 'samseg'})
    recipe = get_entry('samseg')
    assert entry == get_entry('samseg', tmp_path)
    assert (entry.channels, entry.options['labels']) == (('FLAIR', 'T1w'), [99])
    assert entry.options['result'] == recipe.options['result'] == 'seg.mgz'
    assert entry.options['command'] == command
    assert entry.card['citation'] == recipe.card['citation']
    assert not entry.lacks


def test_recipes_say_where_they_come_from_and_what_nobody_verified():
    recipes = [entry for entry in list_entries() if entry.is_engine]
    names = {entry.name for entry in recipes}
    assert names == {'flames', 'aims', 'mslesiontool', 'mindglide', 'lstai', 'samseg'}
    for entry in recipes:
        assert {'source', 'install', 'citation', 'licence', 'not_verified'} <= set(entry.card)
        assert entry.licence != 'NOASSERTION' or 'not verified' in entry.card['licence']
        assert entry.name in entry.card['install'] or 'lst-ai' in entry.card['install']


def test_a_public_model_that_is_not_here_says_how_to_get_it():
    from mslesseg_app.models.check import check_model

    with pytest.raises(ModelError) as error:
        check_model(get_entry('flames'))
    assert 'not on this machine' in str(error.value)
    assert 'zenodo.org/records/17955359' in error.value.hint
    assert 'models add FILE --name flames' in error.value.hint
