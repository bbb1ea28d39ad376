"""The spatial engine on real scans: weaker forms of the figures of ``benchmarks/spatial.py``."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage as ndi

from mslesseg_app.spatial import exam_alignment as exam
from mslesseg_app.spatial import pose
from mslesseg_app.spatial.affines import apply_affine, compose, invert, read_itk
from mslesseg_app.spatial.brain import brain_mask, looks_stripped
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

pytestmark = pytest.mark.realdata
STEM = 'sub-LJ12_ses-1'


@pytest.fixture(scope='module')
def bids(real_data):
    return real_data / 'ljubljana-bids'


@pytest.fixture(scope='module')
def images(bids):
    folder = bids / 'sub-LJ12' / 'ses-1' / 'anat'
    return {name: nb.load(folder / f'{STEM}_{name}.nii.gz') for name in ('FLAIR', 'T1w', 'T2w')}


@pytest.fixture(scope='module')
def aligned(images):
    return exam.align_exam(images)


def reference(bids, name, target):
    folder = bids / 'derivatives' / 'reference' / 'sub-LJ12' / 'ses-1' / 'anat'
    return read_itk(folder / f'{STEM}_from-{name}_to-{target}_mode-image_xfm.txt')


@pytest.fixture(scope='module')
def reference_mask(bids):
    folder = bids / 'derivatives' / 'reference' / 'sub-LJ12' / 'anat'
    return nb.load(folder / 'sub-LJ12_space-common_desc-brain_mask.nii.gz')


def test_all_images_pass_with_the_flair_as_anchor(aligned):
    assert aligned.anchor == 'FLAIR'
    assert aligned.failed == []
    assert aligned.reasons == {}


def test_sessions_images_agree_with_the_authors(aligned, bids, reference_mask):
    voxels = np.argwhere(np.asarray(reference_mask.dataobj) > 0)[::200]
    common = apply_affine(reference_mask.affine, voxels)
    points = apply_affine(reference(bids, 'FLAIR', 'common'), common)
    for name in ('T1w', 'T2w'):
        theirs = apply_affine(reference(bids, name, 'FLAIR'), points)
        ours = compose(aligned.moving_from_mni[name], invert(aligned.moving_from_mni['FLAIR']))
        error = np.linalg.norm(apply_affine(ours, points) - theirs, axis=1).mean()
        header = np.linalg.norm(points - theirs, axis=1).mean()
        assert error < min(0.7, header + 0.05)


def test_brain_mask_agrees_with_the_authors(aligned, images, bids, reference_mask):
    on_template = {
        name: resample(img, TEMPLATE_SHAPE, TEMPLATE_AFFINE, aligned.moving_from_mni[name])
        for name, img in images.items()
    }
    common = compose(invert(reference(bids, 'FLAIR', 'common')), aligned.moving_from_mni['FLAIR'])
    theirs = (
        np.asarray(
            resample(reference_mask, TEMPLATE_SHAPE, TEMPLATE_AFFINE, common, 'nearest').dataobj
        )
        > 0
    )
    for chosen in (on_template, {'FLAIR': on_template['FLAIR']}):
        ours = np.asarray(brain_mask(chosen).dataobj) > 0
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.945
        far = ndi.distance_transform_edt(~theirs)[ours & ~ndi.binary_erosion(ours)]
        assert np.percentile(far, 95) < 8


def test_studies_agree_with_the_authors(aligned, bids, reference_mask):
    """FLAIR of one study to FLAIR of the other, through the template."""
    folder = bids / 'sub-LJ12' / 'ses-2' / 'anat'
    second = nb.load(folder / 'sub-LJ12_ses-2_FLAIR.nii.gz')
    second_from_mni = exam.align_exam({'FLAIR': second}).moving_from_mni['FLAIR']
    second_from_common = read_itk(
        bids / 'derivatives' / 'reference' / 'sub-LJ12' / 'ses-2' / 'anat'
        / 'sub-LJ12_ses-2_from-FLAIR_to-common_mode-image_xfm.txt'
    )  # fmt: skip
    voxels = np.argwhere(np.asarray(reference_mask.dataobj) > 0)[::200]
    common = apply_affine(reference_mask.affine, voxels)
    points = apply_affine(reference(bids, 'FLAIR', 'common'), common)
    ours = compose(second_from_mni, invert(aligned.moving_from_mni['FLAIR']))
    theirs = apply_affine(second_from_common, common)
    assert np.linalg.norm(apply_affine(ours, points) - theirs, axis=1).mean() < 1.0


def test_displaced_header_changes_nothing(images, aligned):
    away = pose.matrix(np.array([50.0, -40, 200, 45, 30, -30]), np.zeros(3), np.eye(4))
    flair = images['FLAIR']
    lost = nb.Nifti1Image(flair.get_fdata(dtype=np.float32), away @ flair.affine)
    found = exam.align_exam({'FLAIR': lost})
    points = np.random.default_rng(0).uniform([-60, -90, -40], [60, 60, 70], (100, 3))
    back = compose(invert(away), found.moving_from_mni['FLAIR'])
    before = apply_affine(aligned.moving_from_mni['FLAIR'], points)
    assert np.linalg.norm(apply_affine(back, points) - before, axis=1).mean() < 0.5
    assert found.failed == []


def test_cut_t1w_alone_is_aligned(bids):
    path = bids / 'sub-LJ01' / 'ses-1' / 'anat' / 'sub-LJ01_ses-1_T1w.nii.gz'
    found = exam.align_exam({'T1w': nb.load(path)})
    assert found.failed == []
    assert 0.8 < found.quality['T1w']['scale_z'] < 0.95


def test_stripped_scans_are_told_from_heads(real_data, images):
    stripped = [
        real_data / 'mslesseg' / 'train' / 'P18' / 'T1' / 'P18_T1_FLAIR.nii.gz',
        real_data / 'ljubljana-mni' / 'patient07' / 'T2.nii.gz',
    ]
    for path in stripped:
        img = nb.load(path)
        assert looks_stripped(img)
        mask = np.asarray(brain_mask({'FLAIR': img}).dataobj) > 0
        data = np.asarray(img.dataobj)
        assert (mask & (data != 0)).sum() > 0.999 * (data != 0).sum()
    assert not any(looks_stripped(img) for img in images.values())
