"""Similarity, search and registration on synthetic images."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage as ndi
from scipy.interpolate import BSpline
from scipy.stats import entropy
from threadpoolctl import threadpool_limits

from mslesseg_app.core.errors import AlignmentError
from mslesseg_app.spatial import pose, search, similarity
from mslesseg_app.spatial.affines import apply_affine, compose, invert
from mslesseg_app.spatial.registration import align


def texture(seed=0):
    """A lumpy ellipsoid of 120 x 150 x 110 mm on a 2 mm grid."""
    shape, zoom = (80, 96, 72), 2.0
    affine = np.diag([zoom, zoom, zoom, 1.0])
    affine[:3, 3] = -zoom * (np.array(shape) - 1) / 2
    random = np.random.default_rng(seed).normal(size=shape)
    lumps = ndi.gaussian_filter(random, 4.0)
    x, y, z = np.moveaxis(np.indices(shape), 0, 0) * zoom + affine[:3, 3][:, None, None, None]
    inside = (x / 60) ** 2 + (y / 75) ** 2 + (z / 55) ** 2 < 1
    data = np.where(inside, 100 + 40 * lumps / lumps.std(), 0).clip(0)
    return nb.Nifti1Image(data.astype(np.float32), affine), inside


def seen_through(img, moving_from_reference, zooms, shape):
    """Acquire the image again, elsewhere, with thick slices and another contrast."""
    affine = np.diag([*zooms, 1.0])
    affine[:3, 3] = -np.array(zooms) * (np.array(shape) - 1) / 2
    blurred = ndi.gaussian_filter(img.get_fdata(), [0, 0, 0.6])
    index = np.linalg.inv(img.affine) @ invert(moving_from_reference) @ affine
    data = ndi.affine_transform(blurred, index[:3, :3], index[:3, 3], shape, order=1)
    noise = np.random.default_rng(1).normal(0, 1.5, shape)
    contrast = np.where(data > 5, 180 - data + 0.002 * data**2, 0)
    return nb.Nifti1Image(np.abs(contrast + noise).astype(np.float32), affine)


def error_mm(found, true):
    points = np.random.default_rng(0).uniform([-55, -70, -50], [55, 70, 50], (200, 3))
    return np.linalg.norm(apply_affine(found, points) - apply_affine(true, points), axis=1).mean()


@pytest.fixture(scope='module')
def pair():
    img, inside = texture()
    true = pose.matrix(np.array([4.0, -3, 5, 6, -4, 7]), np.zeros(3), np.eye(4))
    moving = seen_through(img, true, (1.0, 1.0, 4.0), (180, 200, 40))
    mask = nb.Nifti1Image(ndi.binary_dilation(inside, iterations=3).astype(np.uint8), img.affine)
    return moving, img, mask, true


def test_rigid_recovery_across_contrasts(pair):
    moving, reference, mask, true = pair
    found = align(moving, reference, dof=6, reference_mask=mask)
    assert error_mm(found.moving_from_reference, true) < 0.4
    linear = found.moving_from_reference[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-9)
    assert found.quality['nmi'] > 1.1
    assert found.quality['overlap'] > 0.9


def test_lost_header_is_searched(pair):
    moving, reference, mask, true = pair
    away = pose.matrix(np.array([90.0, -60, 120, 40, -25, 20]), np.zeros(3), np.eye(4))
    lost = nb.Nifti1Image(moving.get_fdata(dtype=np.float32), away @ moving.affine)
    found = align(lost, reference, dof=6, reference_mask=mask)
    assert error_mm(compose(invert(away), found.moving_from_reference), true) < 0.5


def test_same_bytes_on_any_number_of_threads(pair):
    moving, reference, mask, _ = pair
    results = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found = align(moving, reference, dof=6, reference_mask=mask)
        results.append(found.moving_from_reference.tobytes())
    assert results[0] == results[1]


def test_never_worse_than_the_start(pair):
    moving, reference, mask, true = pair
    found = align(moving, reference, dof=6, reference_mask=mask, start=true)
    start = align(moving, reference, dof=6, reference_mask=mask, start=[true, np.eye(4)])
    assert error_mm(found.moving_from_reference, true) < 0.4
    assert error_mm(start.moving_from_reference, true) < 0.4


@pytest.mark.parametrize(
    'data', [np.zeros((20, 20, 20)), np.full((20, 20, 20), 3.0), np.ones((4, 20, 20, 20))]
)
def test_images_that_cannot_be_aligned_are_named(pair, data):
    _, reference, mask, _ = pair
    with pytest.raises(AlignmentError):
        align(nb.Nifti1Image(data, np.eye(4)), reference, dof=6, reference_mask=mask)


def test_empty_mask_is_named(pair):
    moving, reference, mask, _ = pair
    empty = nb.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine)
    with pytest.raises(AlignmentError, match='empty'):
        align(moving, reference, dof=6, reference_mask=empty)


@pytest.fixture(scope='module')
def level(pair):
    moving, reference, mask, _ = pair
    volume = similarity.moving_volume(*similarity.shrink(moving, 2.0), 8.0)
    region = np.asarray(mask.dataobj, dtype=np.float32), mask.affine
    data = np.asarray(reference.dataobj, dtype=np.float32)
    samples = similarity.reference_samples(data, reference.affine, region, 6.0, 1)
    return volume, samples


def test_gradient_of_the_similarity(level, pair):
    volume, samples = level
    affine = pair[3]
    exact = similarity.score(volume, samples, affine).gradient
    for row in range(3):
        for column in range(4):
            step = np.zeros((4, 4))
            step[row, column] = 1e-6 if column < 3 else 1e-4
            ahead = similarity.score(volume, samples, affine + step, gradient=False).nmi
            behind = similarity.score(volume, samples, affine - step, gradient=False).nmi
            slope = (ahead - behind) / (2 * step[row, column])
            assert slope == pytest.approx(exact[row, column], rel=0.05, abs=2e-3)


def test_similarity_agrees_with_an_independent_histogram(level, pair):
    volume, samples = level
    where = similarity._apply(volume.voxel_from_mm @ pair[3], samples.points)
    limits = np.array(volume.data.shape)[:, None] - 2
    inner = ((where > 1) & (where < limits)).all(axis=0)
    samples = similarity.Samples(samples.points[:, inner], samples.bins[inner], samples.centre)
    values = ndi.map_coordinates(volume.data, where[:, inner], order=1)
    window = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    weights = np.nan_to_num(window(values[:, None] - np.arange(-2, 34)))
    joint = np.eye(32)[samples.bins].T @ weights
    joint /= joint.sum()

    def bits(p):
        return entropy(p.ravel())

    expected = (bits(joint.sum(0)) + bits(joint.sum(1))) / bits(joint)
    found = similarity.score(volume, samples, pair[3], gradient=False)
    assert found.nmi == pytest.approx(expected, abs=1e-6)
    assert found.overlap == 1.0


def test_right_pose_stands_out(level, pair):
    right, mean, spread = search.stands_out(*level, pair[3])
    assert (right - mean) / spread > 8
    off = pose.matrix(np.array([20.0, 0, 0, 40, 0, 0]), np.zeros(3), pair[3])
    wrong, mean, spread = search.stands_out(*level, off)
    assert (wrong - mean) / spread < 6


def test_size_prior_has_the_right_slope():
    affine = pose.matrix(
        np.array([0.0, 0, 0, 9, 5, -8, -6, 4, -9, 2, -3, 1]), np.zeros(3), np.eye(4)
    )
    value, slope = search.size_prior(affine)
    assert value > 0
    for i, j in np.ndindex(3, 3):
        step = np.zeros((4, 4))
        step[i, j] = 1e-6
        ahead, behind = search.size_prior(affine + step)[0], search.size_prior(affine - step)[0]
        assert (ahead - behind) / 2e-6 == pytest.approx(slope[i, j], abs=1e-6)


def test_samples_depend_on_the_seed_alone(pair):
    _, reference, mask, _ = pair
    data = np.asarray(reference.dataobj, dtype=np.float32)
    region = np.asarray(mask.dataobj, dtype=np.float32), mask.affine
    draw = [
        similarity.reference_samples(data, reference.affine, region, 10.0, seed).points
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert not np.array_equal(draw[0], draw[2])
    inside = ndi.map_coordinates(
        region[0], similarity._apply(np.linalg.inv(mask.affine), draw[0]), order=0
    )
    assert (inside > 0).all()


def test_shrink_keeps_the_mean_and_the_place():
    data = np.arange(8 * 16 * 24, dtype=np.float32).reshape(8, 16, 24)
    small, affine = similarity.shrink(nb.Nifti1Image(data, np.diag([3.0, 0.75, 0.5, 1])), 1.5)
    assert small.shape == (8, 8, 8)
    assert small.mean() == pytest.approx(data.mean())
    np.testing.assert_allclose(affine[:3, 3], [0, 0.375, 0.5])
    np.testing.assert_allclose(np.diag(affine), [3, 1.5, 1.5, 1])
