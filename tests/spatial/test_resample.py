"""Resampling and restoring."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage as ndi

from mslesseg_app.spatial import pose
from mslesseg_app.spatial.affines import write_itk
from mslesseg_app.spatial.resample import field_of_view, resample, restore


def noise(shape=(20, 24, 12), affine=None, seed=0):
    data = np.random.default_rng(seed).random(shape).astype(np.float32)
    data = ndi.gaussian_filter(data, 1.0)
    return nb.Nifti1Image(data, np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine)


@pytest.mark.parametrize('order', [1, 3, 'nearest'])
def test_identity_keeps_the_values(order):
    img = noise()
    same = resample(img, img.shape, img.affine, np.eye(4), order)
    np.testing.assert_allclose(same.get_fdata(), img.get_fdata(), atol=1e-5)
    np.testing.assert_array_equal(same.affine, img.affine)


def test_agrees_with_simpleitk(tmp_path):
    img = noise()
    affine = pose.matrix(
        np.array([2.0, 1, -1, 15, 10, 5, 3, 2, 1, 0, 4, 0]), np.zeros(3), np.eye(4)
    )
    target = np.diag([1.5, 1.5, 1.5, 1.0])
    target[:3, 3] = 4.0
    ours = resample(img, (14, 16, 12), target, affine).get_fdata()
    nb.save(img, tmp_path / 'moving.nii.gz')
    nb.save(nb.Nifti1Image(np.zeros((14, 16, 12)), target), tmp_path / 'reference.nii.gz')
    transform = sitk.ReadTransform(str(write_itk(tmp_path / 'xfm.txt', affine)))
    theirs = sitk.GetArrayFromImage(
        sitk.Resample(
            sitk.ReadImage(str(tmp_path / 'moving.nii.gz'), sitk.sitkFloat32),
            sitk.ReadImage(str(tmp_path / 'reference.nii.gz')),
            transform,
            sitk.sitkLinear,
        )
    ).T
    both = (ours != 0) & (theirs != 0)
    assert both.mean() > 0.5
    np.testing.assert_allclose(ours[both], theirs[both], atol=1e-4)


@pytest.mark.parametrize('order', [1, 'nearest'])
@pytest.mark.parametrize('seed', range(4))
def test_where_an_image_is_empty_nothing_is_lost(order, seed):
    """Only the part of a target that is reached is computed: the same as all of it."""
    data = np.zeros((20, 24, 12), np.float32)
    data[6:9, 0:5, 8:12] = np.random.default_rng(seed).random((3, 5, 4)) + 1
    img = nb.Nifti1Image(data, np.diag([2.0, 2.0, 3.0, 1.0]))
    vector = np.random.default_rng(seed).normal(0, 8, 12)
    affine = pose.matrix(vector, np.array([20.0, 20, 15]), np.eye(4))
    grid = np.diag([1.5, -1.5, 1.5, 1.0])
    grid[:3, 3] = -5, 50, -5
    ours = np.asarray(resample(img, (40, 45, 30), grid, affine, order).dataobj)
    full = np.asarray(resample(img, (40, 45, 30), grid, affine, order, fill=-1.0).dataobj)
    assert (ours != 0).sum() > 20
    np.testing.assert_allclose(ours, np.where(full == -1, 0, full), atol=1e-5)


def test_restored_to_a_larger_grid_nothing_is_lost():
    """A probability at the edge of its grid, seen from a grid that goes beyond it."""
    data = np.zeros((12, 12, 12), np.float32)
    data[0:3, 4:7, 9:12] = 0.8
    prob = nb.Nifti1Image(data, np.eye(4))
    grid = np.diag([0.5, 0.5, 3.0, 1.0])
    grid[:3, 3] = -6, -6, -5
    native = nb.Nifti1Image(np.zeros((48, 48, 8), np.float32), grid)
    shift = np.eye(4)
    shift[:3, 3] = 0.3, -0.2, 0.4
    found = restore(prob, native, shift).get_fdata()
    assert found.sum() * 0.75 == pytest.approx(data.sum(), rel=0.02)


@pytest.mark.parametrize('seed', range(6))
def test_restored_where_it_is_constant_without_sampling(seed):
    """Turned thick slices, odd sizes, shapes at the edge of the grid: the same as sampling all."""
    random = np.random.default_rng(seed)
    data = np.zeros((31, 26, 29), np.float32)
    data[5:20, 0:17, 6:29] = 1
    data[22:28, 20:24, 3:9] = random.random((6, 4, 6))
    grid = np.diag([0.9, 1.1, 4.0, 1.0])
    grid[:3, 3] = random.uniform(-6, 0, 3)
    native = nb.Nifti1Image(np.zeros((38, 34, 10), np.float32), grid)
    affine = pose.matrix(random.normal(0, 6, 12), np.full(3, 14.0), np.eye(4))
    found = restore(nb.Nifti1Image(data, np.eye(4)), native, affine).get_fdata()
    voxels = np.stack(np.meshgrid(*map(np.arange, native.shape), indexing='ij')).reshape(3, -1)
    index = np.linalg.inv(affine) @ grid
    count = round(float(np.linalg.norm(index[:3, 2])))
    samples = [
        ndi.map_coordinates(
            data,
            index[:3, :3] @ voxels + (index[:3, 2] * step + index[:3, 3])[:, None],
            order=1,
            mode='grid-constant',
        )
        for step in (np.arange(count) + 0.5) / count - 0.5
    ]
    expected = np.mean(samples, axis=0).reshape(native.shape)
    assert np.count_nonzero((expected > 0) & (expected < 1)) > 100
    assert np.count_nonzero(expected == 1) > 100
    np.testing.assert_allclose(found, expected, atol=1.1e-5)


def test_outside_the_field_of_view_is_fill():
    img = nb.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    moved = resample(img, (8, 4, 4), np.eye(4), np.eye(4), fill=-7.0).get_fdata()
    assert (moved[:4] == 1).all()
    assert (moved[4:] == -7).all()
    seen = field_of_view(img, (8, 4, 4), np.eye(4), np.eye(4))
    np.testing.assert_array_equal(seen, moved == 1)


def test_labels_keep_type_and_values():
    img = nb.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    shift = np.eye(4)
    shift[0, 3] = 0.4
    moved = resample(img, (3, 4, 5), np.eye(4), shift, 'nearest')
    assert moved.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(moved.dataobj), np.asarray(img.dataobj))


def test_not_finite_counts_as_zero():
    data = np.ones((4, 4, 4), np.float32)
    data[1, 1, 1] = np.nan
    moved = resample(nb.Nifti1Image(data, np.eye(4)), (4, 4, 4), np.eye(4), np.eye(4))
    assert np.isfinite(moved.get_fdata()).all()


@pytest.mark.parametrize('thickness', [1.0, 3.0, 4.0, 6.0])
def test_restore_keeps_volume(thickness):
    blob = np.zeros((60, 60, 60), np.float32)
    blob[20:33, 25:30, 18:41] = 1.0
    blob[40:42, 40:42, 40:42] = 1.0
    prob = nb.Nifti1Image(ndi.gaussian_filter(blob, 1.0), np.diag([-1.0, 1, 1, 1]))
    tilt = pose.matrix(np.array([0.0, 0, 0, 12, -8, 20]), np.array([-30.0, 30, 30]), np.eye(4))
    zooms = np.array([0.7, 0.7, thickness])
    native_affine = np.diag([*zooms, 1.0])
    native_affine[:3, 3] = [-75.0, -15.0, -15.0]
    shape = tuple(np.ceil(90 / zooms).astype(int))
    native = nb.Nifti1Image(np.zeros(shape, np.int16), native_affine)
    back = restore(prob, native, tilt)
    volume = back.get_fdata().sum() * zooms.prod()
    assert volume == pytest.approx(prob.get_fdata().sum(), rel=0.01)
    assert back.get_data_dtype() == np.float32
    assert back.shape == native.shape
    assert back.affine.tobytes() == native.affine.tobytes()


def test_restore_averages_over_thick_slices():
    data = np.zeros((8, 8, 8), np.float32)
    data[:, :, 3] = 1.0
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[2, 3] = 1.5
    native = nb.Nifti1Image(np.zeros((8, 8, 2), np.float32), affine)
    back = restore(nb.Nifti1Image(data, np.eye(4)), native, np.eye(4)).get_fdata()
    np.testing.assert_allclose(back[..., 0], 0.25, atol=1e-6)
    np.testing.assert_allclose(back[..., 1], 0.0, atol=1e-6)


def test_restore_keeps_header_codes():
    native = nb.Nifti1Image(np.zeros((5, 5, 5), np.int16), np.eye(4))
    native.set_sform(np.eye(4), 1)
    native.set_qform(np.eye(4), 1)
    native.header.set_slope_inter(2.0, 1.0)
    prob = nb.Nifti1Image(np.full((5, 5, 5), 0.5, np.float32), np.eye(4))
    back = restore(prob, native, np.eye(4))
    assert int(back.header['sform_code']) == 1
    assert int(back.header['qform_code']) == 1
    np.testing.assert_allclose(back.get_fdata(), 0.5)
