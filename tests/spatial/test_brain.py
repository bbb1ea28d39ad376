"""Brain mask, recognition of stripped images, and check, on heads made from the template."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage as ndi
from threadpoolctl import threadpool_limits

from mslesseg_app.core.errors import AlignmentError, DataError
from mslesseg_app.demo import anatomy, contrast
from mslesseg_app.spatial import brain, pose, quality
from mslesseg_app.spatial import exam_alignment as exam
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, load_template, tissue_prior

#: Weaker forms of what was measured.
CUT_DICE, UNION_DICE = 0.95, 0.945
DEMO_DICE = {'FLAIR': 0.97, 'T1w': 0.955, 'T2w': 0.955}


def on_template(data):
    return nb.Nifti1Image(data.astype(np.float32), TEMPLATE_AFFINE)


@pytest.fixture(scope='module')
def truth():
    return np.asarray(load_template().mask.dataobj) > 0


@pytest.fixture(scope='module')
def head(truth):
    """A FLAIR-like head: bright brain, dark fluid and skull, a scalp; lower slices cut."""
    depth = ndi.distance_transform_edt(~truth)
    gm, wm = tissue_prior('gm'), tissue_prior('wm')
    data = 100 * gm + 80 * wm + 12 * (depth < 9) + 70 * ((depth >= 9) & (depth < 14))
    data = ndi.gaussian_filter(data, 0.7) + np.random.default_rng(0).normal(0, 4, data.shape)
    data[:, :, :12] = 0
    return on_template(np.abs(data) * (depth < 40))


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_mask_of_a_head_is_the_brain_and_ends_with_the_image(head, truth):
    mask = brain.brain_mask({'FLAIR': head})
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, TEMPLATE_AFFINE)
    found = np.asarray(mask.dataobj) > 0
    truth = truth.copy()
    truth[:, :, :12] = False
    assert dice(found, truth) > 0.95
    assert not found[:, :, :10].any()
    assert ndi.label(found)[1] == 1
    again = brain.brain_mask({'FLAIR': head})
    np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(mask.dataobj))


def test_mask_follows_a_smaller_brain(head, truth):
    smaller = np.diag([1.06, 1.06, 1.06, 1.0])
    shrunk = resample(head, head.shape, head.affine, smaller)
    expected = (
        resample(on_template(truth), truth.shape, TEMPLATE_AFFINE, smaller, 'nearest').get_fdata()
        > 0
    )
    expected &= np.asarray(shrunk.dataobj) != 0
    found = np.asarray(brain.brain_mask({'FLAIR': shrunk}).dataobj) > 0
    assert dice(found, expected) > dice(truth, expected) + 0.02


def assert_one_piece_without_holes(found):
    assert ndi.label(found)[1] == 1
    np.testing.assert_array_equal(ndi.binary_fill_holes(found), found)


def cut_obliquely(data, low, high):
    """Zero what lies below and above two tilted planes (mm)."""
    z = np.arange(data.shape[2]) + 0.2 * np.arange(data.shape[1])[:, None] - 94
    return np.where((z > low) & (z < high), data, 0)


def test_mask_of_a_cut_head_with_thick_slices_and_large_ventricles(head, truth):
    data = np.asarray(head.dataobj).copy()
    x, y, z = np.ogrid[:182, :218, :182]
    wide = ((x - 90) / 30) ** 2 + ((y - 115) / 45) ** 2 + ((z - 80) / 16) ** 2 < 1
    data[wide] = 12.0
    thick = data[:, :, :180].reshape(182, 218, 36, 5).mean(3).repeat(5, axis=2)
    data[:, :, :180] = thick
    data[80:100, 100:120, 90:100] = 0  # a gap in the data, within the brain
    data = cut_obliquely(data, -60, 48)
    found = np.asarray(brain.brain_mask({'FLAIR': on_template(data)}).dataobj) > 0
    assert_one_piece_without_holes(found)
    field = ndi.binary_dilation(cut_obliquely(np.ones(truth.shape), -60, 48) > 0, iterations=3)
    assert not (found & ~field).any()
    assert found[wide & field].mean() > 0.99
    assert dice(found, cut_obliquely(truth, -60, 48)) > CUT_DICE


def test_mask_covers_all_fields_of_view_whatever_order_and_threads(head, truth):
    data = np.asarray(head.dataobj)
    upper, lower = (on_template(cut_obliquely(data, *ends)) for ends in ((-20, 99), (-99, 20)))
    with threadpool_limits(1):
        mask = brain.brain_mask({'FLAIR': upper, 'T1w': lower})
    with threadpool_limits(2):
        again = brain.brain_mask({'T1w': lower, 'FLAIR': upper})
    found = np.asarray(mask.dataobj) > 0
    np.testing.assert_array_equal(np.asarray(again.dataobj) > 0, found)
    assert_one_piece_without_holes(found)
    assert dice(found, truth & (data != 0)) > UNION_DICE


@pytest.fixture(scope='module')
def demo_head():
    """Volumes of a demo head, and its known brain, carried to the template grid."""
    made = anatomy.make_brain(anatomy.head_grid(2.0), np.random.default_rng([21, 0]))
    volumes = contrast.healthy_volumes(made, np.random.default_rng([21, 2]))
    move = place_by_moments(made.mask, made.grid.affine)
    grid = TEMPLATE_AFFINE.copy()
    moved = {
        name: resample(
            nb.Nifti1Image(one.astype(np.float32), made.grid.affine), (182, 218, 182), grid, move
        )
        for name, one in {**volumes, 'brain': made.mask}.items()
    }
    return moved, np.asarray(moved.pop('brain').dataobj) > 0.5


def place_by_moments(mask, affine):
    """Affine of a brain from the template: same centre and same spread along each axis."""
    points, spread = [], []
    for one, from_voxel in ((mask, affine), (load_template().mask.get_fdata(), TEMPLATE_AFFINE)):
        mm = np.argwhere(one)[::20] @ from_voxel[:3, :3].T + from_voxel[:3, 3]
        points.append(mm.mean(0))
        spread.append(mm.std(0))
    move = np.diag([*(spread[0] / spread[1]), 1.0])
    move[:3, 3] = points[0] - spread[0] / spread[1] * points[1]
    return move


@pytest.mark.parametrize('name', ['FLAIR', 'T1w', 'T2w'])
def test_mask_of_a_demo_head_is_its_known_brain(demo_head, name):
    volumes, known = demo_head
    noise = np.random.default_rng(0).normal(0, 3, known.shape)
    noisy = on_template(np.abs(np.asarray(volumes[name].dataobj) + noise))
    found = np.asarray(brain.brain_mask({name: noisy}).dataobj) > 0
    assert_one_piece_without_holes(found)
    assert dice(found, known) > DEMO_DICE[name]


def test_stripped_image_gives_its_own_mask(truth):
    data = np.where(truth, np.asarray(load_template().brain.dataobj), 0.0)
    data[90, 100, 90] = 0.0  # a hole
    data[truth & ~ndi.binary_erosion(truth)] = -30.0  # as after correction of the bias field
    img = on_template(data)
    assert brain.looks_stripped(img)
    found = np.asarray(brain.brain_mask({'T1w': img}).dataobj) > 0
    assert dice(found, truth) > 0.999
    assert found[90, 100, 90]


def test_heads_and_other_things_do_not_look_stripped(head, truth):
    assert not brain.looks_stripped(head)
    cut = nb.Nifti1Image(np.asarray(head.dataobj)[10:-10, :, 10:], head.affine)
    assert not brain.looks_stripped(cut)
    assert not brain.looks_stripped(on_template(np.zeros(truth.shape)))
    assert not brain.looks_stripped(on_template(np.ones(truth.shape)))
    assert not brain.looks_stripped(nb.Nifti1Image(np.ones((4, 4, 4, 2)), np.eye(4)))


def test_stripped_image_on_another_grid(truth):
    data = np.asarray(load_template().brain.dataobj)
    other = nb.Nifti1Image(data[4:, 6:, 2:], np.diag([1.0, 1.0, 1.0, 1.0]))
    assert brain.looks_stripped(other)


def test_bad_input_of_the_mask(head):
    with pytest.raises(DataError, match='at least one'):
        brain.brain_mask({})
    with pytest.raises(DataError, match='T2w'):
        brain.brain_mask({'T2w': nb.Nifti1Image(np.ones((5, 5, 5)), np.eye(4))})
    with pytest.raises(DataError, match='No brain'):
        brain.brain_mask({'FLAIR': on_template(np.zeros(head.shape))})


CENTRE = np.array([0.0, -20.0, 10.0])
RAD = np.radians(1.0) * pose.RADIUS_MM


def moved(*vector):
    return pose.matrix(np.array(vector, dtype=float), CENTRE, np.eye(4))


def scaled(factor):
    affine = np.diag([factor, factor, factor, 1.0])
    affine[:3, 3] = (1 - factor) * CENTRE
    return affine


PLANTED = {
    'flipped left-right': np.diag([-1.0, 1, 1, 1]),
    'flipped front-back': np.diag([1.0, -1, 1, 1]),
    'upside down': moved(0, 0, 0, 0, 180 * RAD, 0),
    'shifted across': moved(30, 0, 0, 0, 0, 0),
    'shifted along': moved(0, -30, 0, 0, 0, 0),
    'shifted up': moved(0, 0, 30, 0, 0, 0),
    'nodding': moved(0, 0, 0, 25 * RAD, 0, 0),
    'tilted': moved(0, 0, 0, 0, 25 * RAD, 0),
    'turned': moved(0, 0, 0, 0, 0, -25 * RAD),
    'too large': scaled(1.3),
    'too small': scaled(1 / 1.3),
    'elsewhere': moved(0, 0, 200, 0, 0, 0),
}


def test_right_alignment_passes(head):
    check = quality.check_alignment(head, np.eye(4))
    assert check.status == 'pass'
    assert check.reason == ''
    assert check.numbers['z'] > 10
    assert check.numbers['peak'] > 0.15
    assert check.numbers['overlap'] > 0.9


@pytest.mark.parametrize('wrong', PLANTED.values(), ids=PLANTED.keys())
def test_planted_failures_are_caught(head, wrong):
    check = quality.check_alignment(head, wrong)
    assert check.status == 'fail'
    assert check.reason


@pytest.mark.parametrize('smooth', [0.0, 3.0])
def test_noise_is_caught(head, smooth):
    data = np.random.default_rng(0).normal(size=head.shape)
    noise = on_template(ndi.gaussian_filter(data, smooth) if smooth else np.abs(data))
    assert quality.check_alignment(noise, np.eye(4)).status == 'fail'


def test_given_alignments_are_at_worst_suspect(head):
    assert quality.check_alignment(head, PLANTED['shifted up'], given=True).status == 'check'
    registered = exam.check_exam({'FLAIR': head}, None, {'FLAIR': np.eye(4)})
    assert registered.failed == []


def test_exam_without_images_is_refused():
    with pytest.raises(AlignmentError):
        exam.align_exam({})
