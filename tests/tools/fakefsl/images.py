"""Files as FSL names them, and its coordinates."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import SimpleITK as sitk

_ENDINGS = {'NIFTI': '.nii', 'NIFTI_GZ': '.nii.gz'}
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def stem(name: str) -> str:
    """Return a file name without what FSL takes for its ending."""
    return name.removesuffix('.gz').removesuffix('.nii')


def output(name: str, suffix: str = '') -> Path:
    """Return the file that FSL would write: ``FSLOUTPUTTYPE`` decides its ending."""
    return Path(stem(name) + suffix + _ENDINGS[os.environ['FSLOUTPUTTYPE']])


def fsl_from_voxel(image: Any) -> np.ndarray:
    """Return the matrix from voxel indices to FSL's coordinates.

    These are millimetres along the axes of the array, from the centre of the first voxel; the
    first axis runs backwards where the voxels run from left to right in space, because FSL wants
    its coordinates left-handed (radiological).
    """
    spacing = [float(edge) for edge in image.header.get_zooms()[:3]]
    matrix = np.diag([*spacing, 1.0])
    if np.linalg.det(image.affine[:3, :3]) > 0:
        matrix[0] = [-spacing[0], 0, 0, (image.shape[0] - 1) * spacing[0]]
    return matrix


def flirt_matrix(moving: Any, reference: Any, moving_from_reference: np.ndarray) -> np.ndarray:
    """Return what FLIRT's ``-omat`` holds: FSL coordinates of the input to the reference's."""
    voxel_from_voxel = (
        np.linalg.inv(reference.affine) @ np.linalg.inv(moving_from_reference) @ moving.affine
    )
    return fsl_from_voxel(reference) @ voxel_from_voxel @ np.linalg.inv(fsl_from_voxel(moving))


def from_flirt_matrix(moving: Any, reference: Any, matrix: np.ndarray) -> np.ndarray:
    """Return ``moving_from_reference`` (RAS+ mm) for a matrix of FLIRT's: undo `flirt_matrix`."""
    voxel_from_voxel = np.linalg.inv(fsl_from_voxel(reference)) @ matrix @ fsl_from_voxel(moving)
    return moving.affine @ np.linalg.inv(voxel_from_voxel) @ np.linalg.inv(reference.affine)


def resample(
    moving: Any, reference: Any, moving_from_reference: np.ndarray, nearest: bool = False
) -> np.ndarray:
    """Resample with ITK; zero outside."""
    lps = _LPS @ moving_from_reference @ _LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    method = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    moved = sitk.Resample(_to_itk(moving), _to_itk(reference), transform, method, 0.0)
    return sitk.GetArrayFromImage(moved).T


def _to_itk(image: Any) -> Any:
    lps = _LPS @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    data = np.asarray(image.dataobj, dtype=np.float32)
    made = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    made.SetSpacing(spacing.tolist())
    made.SetOrigin(lps[:3, 3].tolist())
    made.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return made


def save(data: np.ndarray, like: Any, path: Path, dtype: type = np.float32) -> None:
    """Write an image with the header of another."""
    header = like.header.copy()
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    nb.Nifti1Image(data.astype(dtype), None, header).to_filename(path)
