"""``mslesseg_app.segment``: what it takes, gives and refuses.

That its results are the App's, bit by bit, is tested in ``tests/integration/test_networks.py``.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from tiny_models import add_tiny

import mslesseg_app
from mslesseg_app.core.errors import DataError, ModelError, NoInputError, UsageError
from mslesseg_app.lesions.table import LESION_COLUMNS
from mslesseg_app.models.store import add_command
from mslesseg_app.participant import api
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, load_template


@pytest.fixture(scope='module')
def brain() -> np.ndarray:
    return np.asarray(load_template().mask.dataobj) > 0


@pytest.fixture(scope='module')
def flair(tmp_path_factory, brain) -> Path:
    """A stripped image on the template grid with one very bright ball in white matter."""
    data = np.asarray(load_template().brain.dataobj, dtype=np.float32)
    data = np.where(brain, 400 + data / data.max() * 100, 0).astype(np.float32)
    x, y, z = np.ogrid[:182, :218, :182]
    data[((x - 62) ** 2 + (y - 120) ** 2 + (z - 96) ** 2 < 25) & brain] = 900
    path = tmp_path_factory.mktemp('image') / 'flair.nii.gz'
    image = nb.Nifti1Image(data, TEMPLATE_AFFINE)
    image.set_sform(TEMPLATE_AFFINE, 4)
    image.set_qform(TEMPLATE_AFFINE, 4)
    image.to_filename(path)
    return path


@pytest.fixture(scope='module')
def models(tmp_path_factory) -> Path:
    """A folder with two tiny networks that need the FLAIR only, and scale it differently."""
    folder = tmp_path_factory.mktemp('models')
    more = {'patch': (96, 96, 96), 'sampler': {'overlap': 0.0}}
    add_tiny('unet', folder, name='tiny', required=('FLAIR',), missing='zero', **more)
    more['normalisation'] = 'clipped'
    add_tiny('unet', folder, name='other', required=('FLAIR',), missing='zero', **more)
    return folder


@pytest.fixture(scope='module')
def ball(brain) -> nb.Nifti1Image:
    """A brain mask that one window covers."""
    x, y, z = np.ogrid[:182, :218, :182]
    near = (x - 62) ** 2 + (y - 120) ** 2 + (z - 96) ** 2 < 900
    return nb.Nifti1Image((near & brain).astype(np.uint8), TEMPLATE_AFFINE)


@pytest.fixture(scope='module')
def found(flair, models, ball):
    return mslesseg_app.segment(
        flair, model='tiny', model_dir=models, threads=1, uncertainty='entropy', brain_mask=ball
    )


def test_images_lie_on_the_grid_of_the_flair(found, flair):
    raw = nb.load(flair)
    for image in (found.mask, found.probability, found.instances, found.brain, found.uncertainty):
        assert image.shape == raw.shape
        assert np.array_equal(image.affine, raw.affine)
    assert found.mask.get_data_dtype() == np.uint8
    assert found.probability.get_data_dtype() == np.float32
    assert set(np.unique(found.mask.dataobj)) <= {0, 1}
    assert 0 < np.max(found.probability.dataobj) <= 1
    assert 0 < np.max(found.uncertainty.dataobj) <= 1


def test_a_brain_mask_of_the_user_is_taken(found, ball):
    assert np.array_equal(found.brain.dataobj, ball.dataobj)
    assert not np.any(np.asarray(found.probability.dataobj)[np.asarray(ball.dataobj) == 0])


def test_mask_instances_table_and_volumes_agree(found):
    labels = np.asarray(found.instances.dataobj)
    assert np.array_equal(labels > 0, np.asarray(found.mask.dataobj) > 0)
    assert list(found.lesions.columns) == list(LESION_COLUMNS)
    assert len(found.lesions) == found.volumes['lesion_count'] == labels.max()
    total = found.lesions['volume_mm3'].sum() / 1000
    assert found.volumes['lesion_volume_ml'] == pytest.approx(total)
    assert found.volumes['brain_volume_ml'] == pytest.approx(np.sum(found.brain.dataobj) / 1000)


def test_several_models_are_combined(found, flair, models, ball):
    """The mean of both, and which of them mark a voxel."""
    how = {'model_dir': models, 'threads': 1, 'brain_mask': ball}
    both = mslesseg_app.segment(flair, model=['tiny', 'other'], threshold=0.5, **how)
    other = mslesseg_app.segment(flair, model='other', threshold=0.5, **how)
    alone = [np.asarray(one.probability.dataobj) for one in (found, other)]
    assert not np.array_equal(*alone)
    assert np.allclose(both.probability.dataobj, np.mean(alone, axis=0), atol=1 / 65536)
    bits = np.asarray(both.models.dataobj)
    assert np.array_equal(bits, (alone[0] >= 0.5) + 2 * (alone[1] >= 0.5))
    assert [member['Name'] for member in both.info['members']] == ['tiny', 'other']
    assert both.lesions['n_models_agree'].notna().all()
    assert found.models is None


def test_an_edited_mask_takes_the_place_of_what_was_found(found, flair, models, ball, tmp_path):
    edited = np.asarray(found.mask.dataobj).copy()
    edited[60:64, 118:122, 94:98] = 1
    path = tmp_path / 'edited.nii.gz'
    nb.Nifti1Image(edited, found.mask.affine).to_filename(path)
    again = mslesseg_app.segment(
        flair,
        model='tiny',
        model_dir=models,
        threads=1,
        threshold=0.999,
        brain_mask=ball,
        edited_mask=path,
    )
    assert np.array_equal(again.mask.dataobj, edited)
    assert again.edit['EditedMask']['Name'] == 'edited.nii.gz'
    assert again.volumes['lesion_volume_ml'] == pytest.approx(edited.sum() / 1000)
    assert found.edit == {}


def test_an_image_in_mni_space_is_not_registered(found):
    assert list(found.transforms) == ['FLAIR']
    assert np.array_equal(found.transforms['FLAIR'], np.eye(4))
    assert {number['name'] for number in found.quality} >= {'alignment_FLAIR', 'flair_coverage'}
    assert found.info['model'] == 'tiny'
    assert found.info['missing'] == ['T1w', 'T2w']


def test_an_image_in_memory_and_settings(found, flair, models, monkeypatch):
    """The same bits from memory; the folder from the environment; a stricter rule."""
    monkeypatch.setenv('MSLESSEG_MODEL_DIR', str(models))
    again = mslesseg_app.segment(
        nb.load(flair),
        model='tiny',
        threads=1,
        threshold=0.999,
        min_lesion_volume=1e6,
        brain_mask=found.brain,
    )
    assert np.array_equal(again.probability.dataobj, found.probability.dataobj)
    assert again.volumes['lesion_count'] == 0
    assert again.uncertainty is None
    assert len(again.lesions) == 0


@pytest.mark.parametrize(
    ('change', 'error', 'words'),
    [
        ({'flair': 'no.nii.gz'}, NoInputError, 'does not exist'),
        ({'flair': 3}, UsageError, 'neither a path'),
        ({'t1w': 'no.nii.gz'}, NoInputError, 'does not exist'),
        ({'model': 'nothing'}, UsageError, 'no model'),
        ({'model': 'swinunetr'}, DataError, 'needs T1w and T2w'),
        ({'model_dir': 'nowhere'}, UsageError, 'does not exist'),
        ({'device': 'tpu'}, UsageError, 'no device'),
        ({'preset': 'slow'}, UsageError, 'no preset'),
    ],
)
def test_what_cannot_be_done_is_explained(flair, models, brain, change, error, words):
    mask = nb.Nifti1Image(brain.astype(np.uint8), TEMPLATE_AFFINE)
    asked = {'flair': flair, 'model': 'tiny', 'model_dir': models, 'brain_mask': mask} | change
    with pytest.raises(error, match=words):
        mslesseg_app.segment(**asked)


def test_a_program_gets_the_flair_and_its_answer_stays_on_that_grid(flair, ball, tmp_path):
    """No interpolation on the way: the map is what the program wrote, within the brain."""
    (tmp_path / 'program.py').write_text(
        'import sys, nibabel as nb, numpy as np\n'
        'image = nb.load(sys.argv[1])\n'
        'prob = np.clip(np.asarray(image.dataobj) / 1000, 0, 1).astype("float32")\n'
        'nb.Nifti1Image(prob, image.affine).to_filename(sys.argv[2])\n'
    )
    command = shlex.join([sys.executable, str(tmp_path / 'program.py')]) + ' {flair} {output}'
    add_command(command, tmp_path, {'name': 'program', 'channels': ('FLAIR',)})
    done = mslesseg_app.segment(
        flair, model='program', model_dir=tmp_path, threads=1, brain_mask=ball
    )
    inside, values = np.asarray(ball.dataobj) > 0, np.asarray(nb.load(flair).dataobj)
    expected = np.where(inside, values / np.float32(1000), 0)
    np.testing.assert_allclose(np.asarray(done.probability.dataobj), expected, atol=2**-16)
    assert np.array_equal(np.asarray(done.mask.dataobj) > 0, expected >= 0.5)
    assert done.info['model'] == 'program'
    np.testing.assert_allclose(np.asarray(done.probability_mni.dataobj), expected, atol=2**-16)


def test_prepared_images_keep_the_axes_they_were_given_in():
    affine = np.array([[0, 0, -2.0, 30], [-1, 0, 0, 20], [0, -1.5, 0, 10], [0, 0, 0, 1]])
    data = np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10)
    raw = api._load_image(nb.Nifti1Image(data, affine), 'FLAIR')
    raw.header.set_xyzt_units('mm')
    prepared = api._prepare(raw, 'FLAIR', correct=False)
    assert np.array_equal(prepared.affine, raw.affine)
    assert np.array_equal(prepared.dataobj, data)


def test_a_network_without_weights_does_not_run(flair):
    with pytest.raises(ModelError, match='no trained weights'):
        mslesseg_app.segment(flair, flair, flair, model='unetr')


@pytest.mark.parametrize('kind', ['empty', 'elsewhere'])
def test_brain_masks_that_do_not_fit(flair, models, kind):
    empty = nb.Nifti1Image(np.zeros((182, 218, 182), np.uint8), TEMPLATE_AFFINE)
    elsewhere = nb.Nifti1Image(np.ones((10, 11, 12), np.uint8), np.eye(4))
    mask = {'empty': empty, 'elsewhere': elsewhere}[kind]
    with pytest.raises(DataError, match='brain mask'):
        mslesseg_app.segment(flair, model='tiny', model_dir=models, brain_mask=mask)


def test_the_package_is_light_and_the_function_needs_no_nipype():
    code = (
        'import sys, mslesseg_app\n'
        'assert "nibabel" not in sys.modules\n'
        'mslesseg_app.segment\n'
        'import mslesseg_app.participant.api, mslesseg_app.models.prediction.segment\n'
        'heavy = {"nipype", "niworkflows", "bids", "torch"} & set(sys.modules)\n'
        'assert not heavy, heavy\n'
        'try:\n    mslesseg_app.nothing\nexcept AttributeError as error:\n    print(error)\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'nothing' in done.stdout
