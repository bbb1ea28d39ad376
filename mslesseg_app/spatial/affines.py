"""Affine matrices and their file formats.

In memory a matrix maps points of the reference to points of the moving image in RAS+
millimetres. ITK files hold the same direction in LPS millimetres. FSL's ``.mat`` maps the
other way, between its own scaled voxel coordinates, and needs both images to be read.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nitransforms.io.fsl import FSLLinearTransform

from mslesseg_app.core.errors import DataError, DiskError

Affine = npt.NDArray[np.float64]

#: Flips the first two axes: RAS+ to LPS+ and back.
_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def check_affine(affine: npt.ArrayLike) -> Affine:
    """Return `affine` as a (4, 4) float64 array.

    Raises
    ------
    DataError
        When it is not a finite, invertible 4x4 affine matrix.
    """
    matrix = np.array(affine, dtype=np.float64)
    bottom = [0.0, 0.0, 0.0, 1.0]
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise DataError('An affine must be a finite 4x4 matrix.')
    if not np.allclose(matrix[3], bottom) or abs(np.linalg.det(matrix)) < 1e-9:
        raise DataError('The matrix is not an invertible affine.')
    matrix[3] = bottom
    return matrix


def invert(affine: npt.ArrayLike) -> Affine:
    """Return ``reference_from_moving`` for ``moving_from_reference``."""
    return check_affine(np.linalg.inv(check_affine(affine)))


def compose(*affines: npt.ArrayLike) -> Affine:
    """Chain affines: ``compose(c_from_b, b_from_a)`` is ``c_from_a``."""
    start: Affine = np.eye(4)
    return reduce(np.matmul, (check_affine(one) for one in affines), start)


def apply_affine(affine: npt.ArrayLike, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Map `points` (..., 3) in millimetres."""
    matrix = np.asarray(affine, dtype=np.float64)
    where = np.asarray(points, dtype=np.float64)
    moved: npt.NDArray[np.float64] = where @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def without_shear(affine: npt.ArrayLike) -> Affine:
    """Return the nearest affine whose axes are perpendicular, with the same voxel sizes."""
    matrix = check_affine(affine)
    sizes = np.linalg.norm(matrix[:3, :3], axis=0)
    left, _, right = np.linalg.svd(matrix[:3, :3] / sizes)
    matrix[:3, :3] = left @ right * sizes
    return matrix


def write_itk(path: str | Path, affine: npt.ArrayLike) -> Path:
    """Write ``moving_from_reference`` (RAS+ mm) as an ITK text file with double precision.

    The transform resamples the moving image onto the reference in any ITK tool.

    Parameters
    ----------
    path : str or Path
        Ends in ``.txt`` or ``.tfm``.
    affine : array_like, (4, 4)

    Raises
    ------
    DataError
        When `affine` is not an affine.
    DiskError
        When the file cannot be written.
    """
    lps = _RAS_LPS @ check_affine(affine) @ _RAS_LPS
    numbers = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    text = (
        '#Insight Transform File V1.0\n'
        '#Transform 0\n'
        'Transform: AffineTransform_double_3_3\n'
        f'Parameters: {" ".join(_digits(number) for number in numbers)}\n'
        'FixedParameters: 0 0 0\n'
    )
    target = Path(path)
    try:
        target.write_text(text, encoding='ascii')
    except OSError as error:
        raise DiskError(f'Cannot write {target}: {error.strerror}.') from error
    return target


def _digits(number: float) -> str:
    """Spell a number so that reading gives back the same bits, without a negative zero."""
    return repr(float(number) + 0.0)


def read_itk(path: str | Path) -> Affine:
    """Read a linear ITK transform as ``moving_from_reference`` (RAS+ mm).

    All linear transforms of ITK are understood, with their centre of rotation.

    Parameters
    ----------
    path : str or Path
        Text or HDF5 file.

    Raises
    ------
    DataError
        When the file is no linear 3D transform.
    """
    import SimpleITK as sitk

    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise DataError(
            f'{path} is not a readable ITK transform.', 'It must be an affine as ITK writes it.'
        ) from error
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise DataError(f'{path} is not a linear transform of three dimensions.')
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    units = (tuple(row) for row in np.eye(3))
    columns = [np.array(transform.TransformPoint(unit)) - origin for unit in units]
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack(columns)
    lps[:3, 3] = origin
    return check_affine(_RAS_LPS @ lps @ _RAS_LPS)


def fsl_to_ras(mat: npt.ArrayLike, moving_img: Any, reference_img: Any) -> Affine:
    """Convert FLIRT's matrix to ``moving_from_reference`` (RAS+ mm).

    Parameters
    ----------
    mat : array_like, (4, 4)
        What FLIRT writes with ``-omat``: from the input to the reference.
    moving_img, reference_img : nibabel images
        FLIRT's ``-in`` and ``-ref``.
    """
    fsl = FSLLinearTransform()
    fsl.structarr['parameters'] = check_affine(mat)
    return check_affine(fsl.to_ras(moving=moving_img, reference=reference_img))


def ras_to_fsl(affine: npt.ArrayLike, moving_img: Any, reference_img: Any) -> Affine:
    """Convert ``moving_from_reference`` (RAS+ mm) to the matrix that FLIRT would write."""
    fsl = FSLLinearTransform.from_ras(
        check_affine(affine), moving=moving_img, reference=reference_img
    )
    return check_affine(fsl.structarr['parameters'])
