"""Correction of the slow intensity drift of receiver coils (N4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from mslesseg_app.errors import DataError

#: The field is estimated on voxels of about this size (mm).
_WORK_MM = 5.0
#: Iterations on each of the nested grids of control points.
_ITERATIONS = (30, 25, 20)
#: N4 splits its sums by the number of threads: fixed, so that their rounding never differs.
_PARTS = 2


def foreground(data: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return the voxels that are brighter than the background (Otsu on the lower range)."""
    from skimage.filters import threshold_otsu

    positive = data[data > 0]
    if positive.size < 2 or positive.min() == positive.max():
        return np.asarray(data > 0)
    top = np.percentile(positive, 98)
    limit = threshold_otsu(np.clip(positive, None, top), nbins=128)
    return np.asarray(data > 0.6 * limit)


def correct_bias(img: Any, mask: Any | None = None, threads: int = 1) -> nib.Nifti1Image:
    """Divide an image by the smooth bias field that N4 estimates.

    Method: Tustison et al., N4ITK, IEEE Trans Med Imaging 29 (2010), as in SimpleITK.

    Parameters
    ----------
    img : nibabel image, 3D
        Values that are not finite count as zero; negative ones are left alone.
    mask : nibabel image or None
        Where the field is estimated, on the image's grid; the foreground when not given.
    threads : int
        Taken for the sake of the other functions: N4 always runs in the same two parts, so
        that the result has the same bytes whatever the machine and its load.

    Returns
    -------
    nibabel.Nifti1Image
        float32, on the image's grid.

    Raises
    ------
    DataError
        When the image holds nothing but one value.
    """
    data = np.nan_to_num(np.asarray(img.dataobj, dtype=np.float32), posinf=0.0, neginf=0.0)
    if data.max() <= 0 or data.min() == data.max():
        raise DataError('The image is constant: its bias field cannot be estimated.')
    inside = foreground(data) if mask is None else np.asarray(mask.dataobj) > 0
    inside &= data > 0
    zooms = [float(size) for size in nib.affines.voxel_sizes(img.affine)]
    del threads
    corrected = data / _bias_field(data, inside, zooms)
    return nib.Nifti1Image(corrected.astype(np.float32), img.affine, _float_header(img))


def _float_header(img: Any) -> Any:
    header = img.header.copy()
    header.set_data_dtype(np.float32)
    if hasattr(header, 'set_slope_inter'):
        header.set_slope_inter(1.0, 0.0)
    return header


def _bias_field(
    data: npt.NDArray[np.float32],
    inside: npt.NDArray[np.bool_],
    zooms: list[float],
) -> npt.NDArray[np.float32]:
    """Estimate the field on a coarse grid and evaluate it on the full one."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(data)
    image.SetSpacing(zooms[::-1])
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(image)
    shrink = [
        max(1, min(round(_WORK_MM / size), count // 4))
        for size, count in zip(zooms[::-1], data.shape[::-1], strict=True)
    ]
    with _fixed_parts(sitk.ProcessObject):
        n4 = sitk.N4BiasFieldCorrectionImageFilter()
        n4.SetMaximumNumberOfIterations(_ITERATIONS)
        n4.SetConvergenceThreshold(1e-4)
        n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(mask, shrink))
        field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))
    return np.exp(field).astype(np.float32)


@contextmanager
def _fixed_parts(process: Any) -> Iterator[None]:
    """Let SimpleITK split its work into a fixed number of parts for a while."""
    before = process.GetGlobalDefaultNumberOfThreads()
    process.SetGlobalDefaultNumberOfThreads(_PARTS)
    try:
        yield
    finally:
        process.SetGlobalDefaultNumberOfThreads(before)
