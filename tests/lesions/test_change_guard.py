"""Guards against misalignment and change of contrast."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage

from mslesseg_app.lesions.change_guard import ContrastChange, edge_distance, judge_agreement

SHAPE = (60, 60, 60)
STILL = np.eye(4)


def ball(centre, radius) -> np.ndarray:
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing='ij'), axis=-1)
    return np.linalg.norm(places - np.array(centre), axis=-1) <= radius


def image(data, affine=None) -> nb.Nifti1Image:
    return nb.Nifti1Image(data.astype(np.float32), np.eye(4) if affine is None else affine)


def shift(x: float) -> np.ndarray:
    move = np.eye(4)
    move[0, 3] = x
    return move


def test_edges_that_agree_and_edges_that_do_not():
    one, two = image(ball((30, 30, 30), 20)), image(ball((30, 30, 30), 22))
    assert edge_distance(one, one, STILL) == 0
    assert edge_distance(one, two, STILL) == pytest.approx(2, abs=0.3)
    # a sphere moved by d lies d / 2 from itself on average over its surface
    assert edge_distance(one, one, shift(4)) == pytest.approx(2, abs=0.4)
    moved = nb.Nifti1Image(one.dataobj, shift(7.0) @ one.affine)
    assert edge_distance(one, moved, shift(7.0)) == pytest.approx(0, abs=1e-6)


def test_a_scan_that_covers_less_is_not_misaligned():
    mask = ball((30, 30, 30), 20)
    whole = image(mask)
    part = nb.Nifti1Image(mask[:, :, :35].astype(np.float32), np.eye(4))
    assert edge_distance(whole, part, STILL) < 0.5


def test_masks_without_a_voxel_cannot_be_compared():
    assert np.isnan(edge_distance(image(np.zeros(SHAPE)), image(np.zeros(SHAPE)), STILL))
    assert judge_agreement(np.nan, 0.9).verdict == 'failed'
    assert judge_agreement(0.5, np.nan).verdict == 'failed'


@pytest.mark.parametrize(
    ('edge', 'correlation', 'verdict', 'words'),
    [
        (0.5, 0.9, 'ok', ''),
        (2.0, 0.9, 'suspect', '2.0 mm apart'),
        (5.0, 0.9, 'failed', '5.0 mm apart'),
        (0.5, 0.5, 'suspect', 'correlation 0.50'),
        (5.0, 0.5, 'failed', 'mm apart; the FLAIRs differ'),
        (0.5, 0.1, 'failed', 'correlation 0.10'),
    ],
)
def test_verdicts(edge, correlation, verdict, words):
    found = judge_agreement(edge, correlation)
    assert found.verdict == verdict
    assert words in found.reason


@pytest.fixture(scope='module')
def heads():
    """Two scans of one brain: the later has a new lesion, more gain, and bent intensities."""
    rng = np.random.default_rng(5)
    brain = ball((30, 30, 30), 25)
    tissue = 60 + 40 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3) * 6
    lesion, old = ball((30, 25, 30), 3), ball((20, 35, 30), 3)
    first = np.where(brain, tissue + 60 * old, 5.0)
    second = np.where(brain, tissue + 60 * (old | lesion), 5.0)
    noise = rng.standard_normal((2, *SHAPE))
    one = np.clip(first + 2 * noise[0], 0, None)
    two = 12 * np.clip(second + 2 * noise[1], 0, None) ** 1.2 + 100
    return image(one), image(two), image(brain), lesion, old


def test_only_the_new_lesion_became_brighter(heads):
    one, two, brain, lesion, old = heads
    change = ContrastChange(one, two, brain, lesion | old, STILL)
    assert change.correlation > 0.9
    around = np.argwhere(ndimage.binary_dilation(lesion, iterations=5) & ~lesion).astype(float)
    deviations, share = change(np.argwhere(lesion).astype(float), around, True)
    assert deviations > 5
    assert share == pytest.approx(1, abs=0.3)
    around = np.argwhere(ndimage.binary_dilation(old, iterations=5) & ~old).astype(float)
    deviations, share = change(np.argwhere(old).astype(float), around, True)
    assert abs(deviations) < 2
    assert abs(share) < 0.2
    inner = np.argwhere(ball((30, 30, 30), 20) & ~lesion & ~old).astype(float)
    spread = change.at(inner)
    assert abs(np.median(spread)) < 0.2
    assert 1.4826 * np.median(np.abs(spread)) == pytest.approx(1, abs=0.2)


def test_swapped_it_became_darker(heads):
    one, two, brain, lesion, old = heads
    change = ContrastChange(two, one, brain, old, STILL)
    around = np.argwhere(ndimage.binary_dilation(lesion, iterations=5) & ~lesion).astype(float)
    deviations, share = change(np.argwhere(lesion).astype(float), around, False)
    assert deviations < -5
    assert share == pytest.approx(-1, abs=0.3)


def test_a_little_less_contrast_is_not_gone(heads):
    """Noise that both scans share would make any difference look large."""
    one, _, brain, _, old = heads
    data = np.asarray(one.dataobj)
    later = image(np.where(old, data - 8, data))
    change = ContrastChange(one, later, brain, np.zeros(SHAPE, bool), STILL)
    around = np.argwhere(ndimage.binary_dilation(old, iterations=5) & ~old).astype(float)
    deviations, share = change(np.argwhere(old).astype(float), around, False)
    assert deviations < -2
    assert -0.5 < share < 0


def test_a_lesion_that_is_not_bright_is_not_confirmed(heads):
    one, two, brain, lesion, _ = heads
    change = ContrastChange(one, two, brain, lesion, STILL)
    dark, bright = np.argwhere(ball((30, 40, 30), 3)), np.argwhere(lesion)
    assert change(dark.astype(float), bright.astype(float), True)[1] == 0


def test_a_brain_that_is_not_there_says_nothing(heads):
    one, two, _, lesion, _ = heads
    change = ContrastChange(one, two, image(np.zeros(SHAPE)), lesion, STILL)
    assert np.isnan(change.correlation)
    point = np.array([[30.0, 30, 30]])
    assert np.isnan(change(point, point, True)).all()
    assert np.isnan(change.at(point)).all()


def test_places_outside_are_unknown(heads):
    one, two, brain, lesion, _ = heads
    change = ContrastChange(one, two, brain, lesion, STILL)
    point = np.array([[-100.0, 0, 0]])
    assert np.isnan(change(point, point, True)).all()
