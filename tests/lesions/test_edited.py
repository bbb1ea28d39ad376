"""Masks as editors write them."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
import SimpleITK as sitk

from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.lesions.edited import describe_edit, read_edited

SHAPE = (12, 14, 10)


@pytest.fixture
def flair() -> nb.Nifti1Image:
    affine = np.array([[-0.9, 0, 0, 5], [0, 1, 0.1, -3], [0, -0.1, 3, 8], [0, 0, 0, 1.0]])
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] @ np.diag([0.9, 1.0, 3.0])
    return nb.Nifti1Image(np.zeros(SHAPE, np.float32), affine)


@pytest.fixture
def mask() -> np.ndarray:
    data = np.zeros(SHAPE, bool)
    data[1:4, 5:9, 7:9] = data[8, 2, 2] = True
    return data


def test_as_it_is(flair, mask, tmp_path):
    path = tmp_path / 'mask.nii.gz'
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        nb.Nifti1Image(mask.astype(dtype), flair.affine).to_filename(path)
        assert np.array_equal(read_edited(path, flair), mask)


def test_as_itk_writes_it(flair, mask, tmp_path):
    """ITK-SNAP, 3D Slicer and others go through ITK, which writes the header anew."""
    source, path = tmp_path / 'source.nii.gz', tmp_path / 'mask.nii.gz'
    nb.Nifti1Image(mask.astype(np.uint8), flair.affine).to_filename(source)
    sitk.WriteImage(sitk.ReadImage(str(source)), str(path))
    assert np.array_equal(read_edited(path, flair), mask)


@pytest.mark.parametrize('axes', ['LPI', 'RAS', 'SAR', 'PIR'])
def test_in_another_order_of_axes(flair, mask, tmp_path, axes):
    path = tmp_path / 'mask.nii.gz'
    turned = sitk.GetImageFromArray(mask.astype(np.uint8).transpose(2, 1, 0))
    nb.Nifti1Image(mask.astype(np.uint8), flair.affine).to_filename(path)
    turned = sitk.DICOMOrient(sitk.ReadImage(str(path)), axes)
    sitk.WriteImage(turned, str(path))
    assert np.array_equal(read_edited(path, flair), mask)


def test_rounded_affine(flair, mask, tmp_path):
    path = tmp_path / 'mask.nii.gz'
    nb.Nifti1Image(mask.astype(np.uint8), np.round(flair.affine, 3)).to_filename(path)
    assert np.array_equal(read_edited(path, flair), mask)


def test_mirrored_is_another_place(flair, mask, tmp_path):
    path = tmp_path / 'mask.nii.gz'
    affine = flair.affine @ np.diag([-1.0, 1, 1, 1])
    nb.Nifti1Image(mask.astype(np.uint8), affine).to_filename(path)
    with pytest.raises(DataError, match='another grid'):
        read_edited(path, flair)


def test_no_file(flair, tmp_path):
    with pytest.raises(NoInputError):
        read_edited(tmp_path / 'mask.nii.gz', flair)


def test_what_was_edited(mask):
    other = mask.copy()
    other[8, 2, 2] = False
    other[0, 0, :4] = True
    assert describe_edit(other, mask, 2.5) == {
        'AddedVolume_mm3': 10.0,
        'RemovedVolume_mm3': 2.5,
    }
    assert describe_edit(mask, mask, 2.5) == {}
