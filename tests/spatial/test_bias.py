"""Bias-field correction."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
import SimpleITK as sitk
from threadpoolctl import threadpool_limits

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.bias import correct_bias, foreground


@pytest.fixture(scope='module')
def shaded():
    """Two tissues in a ball, under a bias field; returns image, tissues and mask."""
    x, y, z = (np.mgrid[:48, :48, :24] - np.array([24, 24, 12])[:, None, None, None]) / 24.0
    radius = np.sqrt(x**2 + y**2 + (2 * z) ** 2)
    mask = radius < 0.9
    tissue = np.where(np.sin(20 * x) * np.sin(20 * y) > 0, 100.0, 60.0) * mask
    noise = np.random.default_rng(0).normal(0, 2, mask.shape) * mask
    field = np.exp(0.4 * x - 0.3 * y**2)
    data = (np.maximum(tissue + noise, 0) * field).astype(np.float32)
    return nb.Nifti1Image(data, np.diag([3.0, 3.0, 6.0, 1.0])), tissue, mask


def spread(data, tissue, mask):
    return max(
        data[mask & (tissue == level)].std() / data[mask & (tissue == level)].mean()
        for level in (60.0, 100.0)
    )


def test_shading_is_removed(shaded):
    img, tissue, mask = shaded
    fixed = correct_bias(img)
    assert spread(fixed.get_fdata(), tissue, mask) < 0.5 * spread(img.get_fdata(), tissue, mask)
    assert fixed.get_data_dtype() == np.float32
    np.testing.assert_array_equal(fixed.affine, img.affine)


def test_the_field_is_that_of_itk(shaded):
    """On voxels of 6 mm, which are not thinned out before."""
    img, _, mask = shaded
    img = nb.Nifti1Image(np.asarray(img.dataobj), np.diag([6.0, 6.0, 6.0, 1.0]))
    mask = mask & (np.asarray(img.dataobj) > 0)
    fixed = correct_bias(img, nb.Nifti1Image(mask.astype(np.uint8), img.affine))
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([30, 25, 20])
    n4.SetConvergenceThreshold(1e-4)
    n4.Execute(
        sitk.GetImageFromArray(np.asarray(img.dataobj)),
        sitk.GetImageFromArray(mask.astype(np.uint8)),
    )
    like = sitk.GetImageFromArray(np.asarray(img.dataobj))
    expected = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(like)))
    field = np.asarray(img.dataobj)[mask] / fixed.get_fdata()[mask]
    np.testing.assert_allclose(field, expected[mask], rtol=1e-3)


def test_same_bytes_whatever_the_threads(shaded):
    img = shaded[0]
    results = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            results.append(correct_bias(img).get_fdata().tobytes())
    assert results[0] == results[1]


def test_mask_is_used(shaded):
    img, _, mask = shaded
    given = correct_bias(img, nb.Nifti1Image(mask.astype(np.uint8), img.affine))
    assert np.isfinite(given.get_fdata()).all()


def test_constant_image_is_refused():
    flat = nb.Nifti1Image(np.full((10, 10, 10), 5.0, np.float32), np.eye(4))
    with pytest.raises(DataError, match='constant'):
        correct_bias(flat)


def test_foreground_of_degenerate_images():
    assert not foreground(np.zeros((3, 3, 3))).any()
    assert foreground(np.ones((3, 3, 3))).all()
