"""Conventions of affines, against numbers from other tools and from the formula by hand."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from mslesseg_app.core.errors import DataError, DiskError
from mslesseg_app.spatial import affines, pose

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SMALL = st.floats(-30, 30)
VECTORS = st.lists(SMALL, min_size=12, max_size=12).map(np.array)


def an_affine(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return pose.matrix(random.normal(0, 15, 12), np.zeros(3), np.eye(4))


def an_image(affine: np.ndarray, shape: tuple[int, int, int] = (20, 24, 10)) -> nb.Nifti1Image:
    return nb.Nifti1Image(np.zeros(shape, np.float32), affine)


def test_written_transform_moves_points_as_in_memory(tmp_path):
    affine = an_affine()
    path = affines.write_itk(tmp_path / 'xfm.txt', affine)
    transform = sitk.ReadTransform(str(path))
    for point in np.random.default_rng(1).uniform(-80, 80, (20, 3)):
        lps = np.array(transform.TransformPoint(LPS[:3, :3] @ point))
        np.testing.assert_allclose(LPS[:3, :3] @ lps, affines.apply_affine(affine, point))


def test_itk_round_trip_keeps_the_digits(tmp_path):
    affine = an_affine(3)
    path = affines.write_itk(tmp_path / 'xfm.txt', affine)
    np.testing.assert_allclose(affines.read_itk(path), affine, rtol=0, atol=1e-12)
    again = affines.write_itk(tmp_path / 'again.txt', affine)
    assert again.read_bytes() == path.read_bytes()


def test_centre_of_rotation_is_honoured(tmp_path):
    transform = sitk.Euler3DTransform((10.0, -4.0, 7.0), 0.3, -0.2, 0.1, (1.0, 2.0, 3.0))
    sitk.WriteTransform(transform, str(tmp_path / 'euler.tfm'))
    affine = affines.read_itk(tmp_path / 'euler.tfm')
    point = np.array([11.0, -35.0, 60.0])
    expected = LPS[:3, :3] @ np.array(transform.TransformPoint(LPS[:3, :3] @ point))
    np.testing.assert_allclose(affines.apply_affine(affine, point), expected, atol=1e-9)


def fsl_coordinates(img: nb.Nifti1Image, mm: np.ndarray) -> np.ndarray:
    """FSL's own coordinates: voxel times size, first axis flipped for neurological images."""
    voxel = np.linalg.inv(img.affine) @ np.append(mm, 1.0)
    if np.linalg.det(img.affine[:3, :3]) > 0:
        voxel[0] = img.shape[0] - 1 - voxel[0]
    return voxel[:3] * nb.affines.voxel_sizes(img.affine)


@pytest.mark.parametrize('moving_sign', [1, -1])
@pytest.mark.parametrize('reference_sign', [1, -1])
def test_fsl_matrix_by_hand(moving_sign, reference_sign):
    tilt = pose.matrix(np.array([5.0, 1, 2, 10, 20, 5]), np.zeros(3), np.eye(4))
    moving = an_image(tilt @ np.diag([moving_sign * 0.7, 0.7, 4.0, 1.0]))
    reference = an_image(
        np.array([[reference_sign * 2.0, 0, 0, 9], [0, 2, 0, -12], [0, 0, 2, 3], [0, 0, 0, 1]])
    )
    affine = an_affine(5)
    mat = affines.ras_to_fsl(affine, moving, reference)
    for point in np.random.default_rng(2).uniform(-20, 20, (10, 3)):
        there = affines.apply_affine(affine, point)
        got = mat @ np.append(fsl_coordinates(moving, there), 1.0)
        np.testing.assert_allclose(got[:3], fsl_coordinates(reference, point), atol=1e-6)
    np.testing.assert_allclose(affines.fsl_to_ras(mat, moving, reference), affine, atol=1e-9)


@given(VECTORS, VECTORS)
def test_compose_and_invert(first, second):
    b_from_a = pose.matrix(first, np.array([1.0, 2.0, 3.0]), np.eye(4))
    c_from_b = pose.matrix(second, np.zeros(3), np.eye(4))
    point = np.array([10.0, -20.0, 30.0])
    both = affines.compose(c_from_b, b_from_a)
    step = affines.apply_affine(c_from_b, affines.apply_affine(b_from_a, point))
    np.testing.assert_allclose(affines.apply_affine(both, point), step, atol=1e-8)
    np.testing.assert_allclose(affines.compose(affines.invert(both), both), np.eye(4), atol=1e-8)


@pytest.mark.parametrize(
    'matrix', [np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan), np.ones((4, 4))]
)
def test_no_affine_is_refused(matrix, tmp_path):
    with pytest.raises(DataError):
        affines.check_affine(matrix)


def test_unreadable_and_nonlinear_files_are_named(tmp_path):
    (tmp_path / 'junk.txt').write_text('no transform')
    with pytest.raises(DataError, match=r'junk\.txt'):
        affines.read_itk(tmp_path / 'junk.txt')
    spline = sitk.BSplineTransformInitializer(sitk.Image(8, 8, 8, sitk.sitkFloat32), [2, 2, 2])
    sitk.WriteTransform(spline, str(tmp_path / 'spline.tfm'))
    with pytest.raises(DataError, match='not a linear'):
        affines.read_itk(tmp_path / 'spline.tfm')
    with pytest.raises(DiskError):
        affines.write_itk(tmp_path / 'nowhere' / 'xfm.txt', np.eye(4))


@given(VECTORS)
def test_pose_derivative_is_that_of_the_matrix(vector):
    centre = np.array([3.0, -2.0, 8.0])
    slopes = pose.derivative(vector, centre, np.eye(4))
    step = np.random.default_rng(0).normal(size=12) * 1e-3
    change = pose.matrix(vector + step, centre, np.eye(4)) - pose.matrix(
        vector - step, centre, np.eye(4)
    )
    expected = 2 * np.tensordot(step, slopes, 1)
    np.testing.assert_allclose(change[:3], expected, atol=1e-7)


@given(st.lists(st.floats(-60, 60), min_size=6, max_size=6).map(np.array))
def test_rigid_pose_keeps_lengths_and_its_centre(vector):
    centre = np.array([5.0, 6.0, 7.0])
    matrix = pose.matrix(vector, centre, np.eye(4))
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(affines.apply_affine(matrix, centre), centre + vector[:3])
    np.testing.assert_allclose(pose.nearest_rigid(matrix, centre), matrix, atol=1e-9)


def test_describe_tells_scale_shear_and_mirror():
    shape = pose.describe(np.diag([-1.2, 1.0, 0.9, 1.0]))
    assert shape.mirrored
    np.testing.assert_allclose(shape.scales, (1.2, 1.0, 0.9))
    assert shape.shear == pytest.approx(0.0)
    sheared = np.eye(4)
    sheared[0, 1] = 1.0
    assert pose.describe(sheared).shear == pytest.approx(np.sqrt(0.5))
