"""Two scans of a synthetic head: matched, subtracted, and what is found in the difference."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.difference import ChangeLimits, compute_difference, find_changes
from mslesseg_app.spatial.affines import apply_affine, compose, invert
from mslesseg_app.spatial.matching import (
    Window,
    match,
    of_other_images,
    robust_spread,
    to_half_way,
)
from mslesseg_app.spatial.resample import resample

SHAPE = (56, 60, 26)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
AFFINE[:3, 3] = (28, 30, -26)
OLD, NEW = (12.0, 3.0, 0.0), (-10.0, -6.0, 4.0)


def ball(centre, radius, affine=AFFINE) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing='ij'), axis=-1)
    return np.linalg.norm(apply_affine(affine, index) - centre, axis=-1) <= radius


BRAIN = ball((0, 0, 0), 23)


def head(lesions, seed, noise=2.0) -> np.ndarray:
    """Tissue with a texture that both scans share, lesions 40 % brighter, and noise."""
    texture = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(SHAPE), (2, 2, 1))
    tissue = 100 + 8 * texture / texture.std()
    for centre in lesions:
        tissue = tissue + 40 * ball(centre, 3.2)
    data = np.where(BRAIN, tissue, 5.0)
    return data + noise * np.random.default_rng(seed).standard_normal(SHAPE)


def image(data, affine=AFFINE) -> nb.Nifti1Image:
    return nb.Nifti1Image(data.astype(np.float32), affine)


def difference_of(before, after, move=None, after_brain=None):
    brain = image(BRAIN)
    move = np.eye(4) if move is None else move
    pair = to_half_way(image(before), after, brain, after_brain or brain, move)
    return compute_difference(pair)


def ramp() -> np.ndarray:
    x = np.linspace(-1, 1, SHAPE[0])[:, None, None]
    return 1.5 + 0.2 * x


def test_gain_offset_and_slow_changes_of_both_are_no_difference():
    later = ramp() * head([OLD], 3) + 30
    difference = difference_of(head([OLD], 2), image(later))
    assert find_changes(difference, ChangeLimits()).count == 0
    inner = ndimage.binary_erosion(difference.pair.brain, iterations=3)
    z = difference.z[inner]
    assert abs(np.median(z)) < 0.3
    assert robust_spread(z) == pytest.approx(1, abs=0.25)
    assert difference.matched.correlation > 0.9


@pytest.mark.parametrize('direction', ['brighter', 'darker'])
def test_the_one_lesion_that_appeared_or_went(direction):
    first, second = head([OLD], 2), ramp() * head([OLD, NEW], 3)
    if direction == 'darker':
        first, second = second, first
    difference = difference_of(first, image(second))
    regions = find_changes(difference, ChangeLimits())
    assert regions.brighter.tolist() == [direction == 'brighter']
    where = np.argwhere(regions.labels > 0)
    points = apply_affine(difference.pair.affine, where)
    assert np.linalg.norm(points.mean(axis=0) - NEW) < 1.0
    # The difference is smoothed, so that a strong change seems wider: by 0.6 mm at most.
    size = len(where) * difference.pair.voxel_mm3
    assert 4 / 3 * np.pi * 3.0**3 < size < 4 / 3 * np.pi * 3.8**3


def test_moved_heads_are_compared_in_the_middle():
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler('z', 6, degrees=True).as_matrix()
    move[:3, 3] = (3.0, -2.0, 1.0)
    before, after = head([OLD], 2, noise=0), image(head([OLD, NEW], 3, noise=0))
    moved, brain = (resample(one, SHAPE, AFFINE, invert(move), 3) for one in (after, image(BRAIN)))
    noisy = np.asarray(moved.dataobj) + np.random.default_rng(5).standard_normal(SHAPE)
    mask = image(np.asarray(brain.dataobj) > 0.5)
    difference = difference_of(before + 0.0, image(noisy), move, mask)
    pair = difference.pair
    assert np.allclose(compose(pair.after_from_middle, invert(pair.before_from_middle)), move)
    regions = find_changes(difference, ChangeLimits())
    place = apply_affine(
        compose(pair.before_from_middle, pair.affine), np.argwhere(regions.labels == 1)
    )
    # where the moved head ends, a few voxels may differ too; the new lesion is the largest region
    assert regions.brighter[0]
    assert np.argmax(np.bincount(regions.labels.ravel())[1:]) == 0
    assert np.linalg.norm(place.mean(axis=0) - NEW) < 1.0


def test_the_sharper_image_is_smoothed():
    sharp = head([OLD], 2, noise=0.5)
    soft = ndimage.gaussian_filter(head([OLD], 3, noise=0.5), (1.0, 1.0, 0))
    brain = image(BRAIN)
    pair = to_half_way(image(sharp), image(soft), brain, brain, np.eye(4))
    matched = match(pair)
    assert matched.smoothed == 'before'
    assert matched.width_mm == pytest.approx(1.0, abs=0.35)
    swapped = match(to_half_way(image(soft), image(sharp), brain, brain, np.eye(4)))
    assert swapped.smoothed == 'after'


def test_the_same_image_twice_is_no_difference_at_all():
    data = head([OLD], 2)
    difference = difference_of(data, image(data))
    assert np.abs(difference.z).max() < 0.1
    assert difference.matched.smoothed == ''


def t2w_of(pair, before, after, from_flair=None):
    return of_other_images(pair, [image(before), image(after)], from_flair or [np.eye(4)] * 2)


def flairs(before, after):
    brain = image(BRAIN)
    return to_half_way(image(before), image(after), brain, brain, np.eye(4))


def test_t2w_adds_its_evidence():
    """The sum over the square root of two, T2w no more than FLAIR; FLAIR alone where T2w ends."""
    pair = flairs(head([OLD], 2), head([OLD, NEW], 3))
    other = t2w_of(pair, head([OLD], 4), head([OLD, NEW], 5))
    covered = np.arange(pair.brain.shape[2]) < 14
    other = replace(other, brain=other.brain & covered)
    alone, second = compute_difference(pair), compute_difference(other)
    both = compute_difference(pair, {'T2w': other})
    assert alone.images == ('FLAIR',)
    assert both.images == ('FLAIR', 'T2w')
    weaker = np.sign(second.z) * np.minimum(np.abs(second.z), np.abs(alone.z))
    expected = np.where(other.brain, (alone.z + weaker) / np.sqrt(2), alone.z)
    np.testing.assert_allclose(both.z, expected, rtol=1e-5, atol=1e-6)
    assert (~other.brain & pair.brain).any()
    assert both.matched is not second.matched
    assert both.noise == alone.noise


def test_what_one_image_shows_by_chance_is_no_change_and_what_both_show_faintly_is():
    faint = head([OLD], 3) + 14 * ball(NEW, 3.2)
    spot = head([OLD], 3) + 20 * ball(NEW, 3.2)
    first = head([OLD], 2)

    def count(flair, t2w=None):
        pair = flairs(first, flair)
        others = {} if t2w is None else {'T2w': t2w_of(pair, head([OLD], 4), t2w)}
        return find_changes(compute_difference(pair, others), ChangeLimits()).count

    assert count(spot) == 1
    assert count(spot, head([OLD], 5)) == 0
    assert count(head([OLD], 3), head([OLD, NEW], 5)) == 0, 'T2w alone makes no change'
    assert count(faint) == 0
    assert count(faint, head([OLD], 5) + 14 * ball(NEW, 3.2)) == 1


def test_t2w_of_another_contrast_is_left_out_and_one_that_lies_elsewhere_is_found():
    first, second = head([OLD], 2), head([OLD, NEW], 3)
    pair = flairs(first, second)
    noise = 100 + 20 * np.random.default_rng(0).standard_normal(SHAPE)
    assert compute_difference(pair, {'T2w': t2w_of(pair, first, noise)}).images == ('FLAIR',)
    move = np.eye(4)
    move[:3, 3] = (4.0, -2.0, 2.0)
    there = resample(image(second), SHAPE, AFFINE, invert(move), 1)
    brought = of_other_images(pair, [image(first), there], [np.eye(4), move])
    inner = ndimage.binary_erosion(brought.brain, iterations=3)
    assert np.corrcoef(brought.after[inner], pair.after[inner])[0, 1] > 0.95
    with pytest.raises(DataError, match='does not show the brain'):
        far = move + np.eye(4, k=3) * 500
        of_other_images(pair, [image(first), there], [np.eye(4), far])


def test_thick_and_thin_slices_share_a_grid():
    brain = image(BRAIN)
    thin = image(head([OLD], 2))
    affine = AFFINE.copy()
    affine[:3, 2] *= 2
    thick = nb.Nifti1Image(np.asarray(thin.dataobj)[:, :, ::2], affine)
    mask = nb.Nifti1Image(np.asarray(brain.dataobj)[:, :, ::2], affine)
    pair = to_half_way(thin, thick, brain, mask, np.eye(4))
    assert pair.edges == pytest.approx((1, 1, 3)), 'no longer than 3 mm'
    assert pair.brain.any()


def test_brains_that_do_not_meet_are_an_error():
    brain = image(BRAIN)
    far = np.eye(4)
    far[:3, 3] = (80.0, 0, 0)
    with pytest.raises(DataError, match='overlap'):
        to_half_way(brain, brain, brain, brain, far)
    empty = image(np.zeros(SHAPE))
    with pytest.raises(DataError, match='empty'):
        to_half_way(brain, brain, empty, brain, np.eye(4))
    with pytest.raises(DataError, match='no signal'):
        to_half_way(empty, brain, brain, brain, np.eye(4))


def test_window_means_are_those_of_a_gaussian():
    rng = np.random.default_rng(0)
    data = ndimage.gaussian_filter(rng.standard_normal((60, 60, 30)), 3).astype(np.float32)
    window = Window(data.shape, np.array([1.0, 1.0, 2.0]), 8.0)
    found = window.grow(window.sums(data))
    expected = ndimage.gaussian_filter(data, (8, 8, 4), mode='constant')
    inner = (slice(12, -12), slice(12, -12), slice(8, -8))
    assert found[inner] == pytest.approx(expected[inner], abs=float(0.15 * expected.std()))
