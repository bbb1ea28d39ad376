"""Values of a grid looked up on another one: ITK's filter, which follows whole lines of voxels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mslesseg_app.spatial.affines import Affine


def interpolate(
    data: npt.NDArray[np.generic],
    index: Affine,
    shape: tuple[int, ...],
    *,
    nearest: bool = False,
    outside: float = 0.0,
) -> npt.NDArray[Any]:
    """Look up an array at the voxels of another grid, linearly or at the nearest voxel.

    A voxel is inside where its centre lies within the extent of the array's voxels, half a voxel
    beyond the centres of the first and last, whose values hold there.

    Parameters
    ----------
    data : array (X, Y, Z)
    index : array (4, 4)
        Voxel of the other grid to voxel of the array.
    shape : tuple of int
        Of the other grid.
    nearest : bool
        Keeps the type of the array; otherwise the result is float32.
    outside : float
        Value of the voxels that are not inside.

    Returns
    -------
    array of `shape`
        Laid out in memory as the array is (C or Fortran), which is the fastest.
    """
    import SimpleITK as sitk

    kind = np.uint8 if data.dtype == bool else data.dtype.newbyteorder('=')
    # ITK's first axis is the one whose neighbours are neighbours in memory
    fortran = memory_order(data) == 'F'
    turn = slice(None) if fortran else slice(None, None, -1)
    values = np.ascontiguousarray(data.T if fortran else data, dtype=kind)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(index[:3, :3][turn, turn].ravel().tolist())
    transform.SetTranslation(index[:3, 3][turn].tolist())
    source = sitk.GetImageFromArray(values)
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)
    resampler.SetSize([int(size) for size in shape[turn]])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    resampler.SetOutputPixelType(source.GetPixelID() if nearest else sitk.sitkFloat32)
    resampler.SetDefaultPixelValue(outside)
    found = sitk.GetArrayFromImage(resampler.Execute(source))
    return np.asarray(found.T if fortran else found, dtype=data.dtype if nearest else np.float32)


def memory_order(data: npt.NDArray[np.generic]) -> Literal['C', 'F']:
    """Return how an array is laid out: its last (C) or its first axis runs fastest."""
    return 'F' if data.flags.f_contiguous and not data.flags.c_contiguous else 'C'
