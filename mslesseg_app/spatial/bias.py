"""Correction of the slow intensity drift of receiver coils (N4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline

from mslesseg_app.core.errors import DataError

#: The field is estimated on voxels of about this size (mm).
_WORK_MM = 5.0
#: Iterations on each of the nested grids of control points.
_ITERATIONS = (30, 25, 20)
#: A grid is done when the change of the field varies by less than this share of it.
_CONVERGED = 1e-4
#: Bins of the histogram that is sharpened, also with room on both sides for the blur.
_BINS, _PADDED = 200, 512
#: Width of the blur by the field (of logarithms), and the noise of Wiener's filter against it.
_BLUR_FWHM, _NOISE = 0.15, 0.01

Floats = npt.NDArray[np.floating]


def foreground(data: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return the voxels that are brighter than the background (Otsu on the lower range)."""
    from skimage.filters import threshold_otsu

    positive = data[data > 0]
    if positive.size < 2 or positive.min() == positive.max():
        return np.asarray(data > 0)
    top = np.percentile(positive, 98)
    limit = threshold_otsu(np.clip(positive, None, top), nbins=128)
    return np.asarray(data > 0.6 * limit)


def correct_bias(img: Any, mask: Any | None = None) -> nb.Nifti1Image:
    """Divide an image by the smooth bias field that N4 estimates.

    Method: Tustison et al., N4ITK, IEEE Trans Med Imaging 29 (2010). From the same
    voxels it gives the field of ITK's filter (to 1e-4), in less time: the voxels lie on a grid,
    so the splines are fitted along one axis after the other.

    Parameters
    ----------
    img : nibabel image, 3D
        Values that are not finite count as zero; negative ones are left alone.
    mask : nibabel image or None
        Where the field is estimated, on the image's grid; the foreground when not given.

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
    zooms = [float(size) for size in nb.affines.voxel_sizes(img.affine)]
    corrected = data / _bias_field(data, inside, zooms)
    return nb.Nifti1Image(corrected.astype(np.float32), img.affine, _float_header(img))


def _float_header(img: Any) -> Any:
    header = img.header.copy()
    header.set_data_dtype(np.float32)
    if hasattr(header, 'set_slope_inter'):
        header.set_slope_inter(1.0, 0.0)
    return header


def _bias_field(
    data: Floats, inside: npt.NDArray[np.bool_], zooms: list[float]
) -> npt.NDArray[np.float32]:
    """Estimate the field on a coarse grid and evaluate it on the full one."""
    steps = [
        max(1, min(round(_WORK_MM / size), count // 4))
        for size, count in zip(zooms, data.shape, strict=True)
    ]
    coarse = tuple(
        slice((count - (count // step - 1) * step) // 2, None, step)
        for count, step in zip(data.shape, steps, strict=True)
    )
    seen = inside[coarse]
    values = np.log(data[coarse][seen].astype(np.float64))
    field = np.zeros(data.shape, dtype=np.float32)
    for spans, lattice in _n4(values, seen) if seen.any() else ():
        bases = [_basis(count, spans).astype(np.float32) for count in data.shape]
        field += _along_axes(lattice.astype(np.float32), bases)
    return np.exp(field)


def _n4(values: Floats, seen: npt.NDArray[np.bool_]) -> Iterator[tuple[int, Floats]]:
    """Yield the splines whose sum is the logarithm of the field: spans along an axis, weights.

    Parameters
    ----------
    values : ndarray (N,)
        Logarithms of the image, where it is seen.
    seen : ndarray of bool, (X, Y, Z)
    """
    field = np.zeros_like(values)
    for level, iterations in enumerate(_ITERATIONS):
        bases = [_basis(count, 2**level) for count in seen.shape]
        fit = _Fit(bases, seen)
        total = np.zeros([basis.shape[1] for basis in bases])
        for _ in range(iterations):
            rest = values - field
            lattice = fit(rest - _sharpened(rest))
            change = _along_axes(lattice, bases)[seen]
            field += change
            total += lattice
            ratio = np.exp(change)
            if ratio.std() <= _CONVERGED * ratio.mean():
                break
        yield 2**level, total


class _Fit:
    """Approximation of scattered values by cubic B-splines (Lee et al. 1997)."""

    def __init__(self, bases: list[Floats], seen: npt.NDArray[np.bool_]) -> None:
        self._seen = seen
        squares = [(basis**2).sum(axis=1) for basis in bases]
        self._norm = (squares[0][:, None, None] * squares[1][:, None] * squares[2])[seen]
        self._cubes = [(basis**3).T for basis in bases]
        self._total = _along_axes(seen.astype(np.float64), [(basis**2).T for basis in bases])

    def __call__(self, values: Floats) -> Floats:
        """Return the weights of the splines for the values of the voxels that are seen."""
        grid = np.zeros(self._seen.shape)
        grid[self._seen] = values / self._norm
        found = _along_axes(grid, self._cubes)
        return np.divide(found, self._total, out=np.zeros_like(found), where=self._total > 0)


def _basis(count: int, spans: int) -> Floats:
    """Return the cubic B-splines of so many spans from edge to edge, (voxels, spans + 3)."""
    knots = np.arange(-3.0, spans + 4)
    return BSpline.design_matrix(np.linspace(0, spans, count), knots, 3).toarray()


def _along_axes(values: Floats, matrices: list[Floats]) -> Floats:
    """Multiply each axis by a matrix (new, old), in a fixed order of sums (no BLAS)."""
    for matrix in matrices:
        values = np.einsum('na,a...->...n', matrix, values)
    return values


def _sharpened(values: Floats) -> Floats:
    """Return the values that a histogram without the field's blur would have given them."""
    low, high = values.min(), values.max()
    if not high > low:
        return values
    width = (high - low) / (_BINS - 1)
    place = (values - low) / width
    index = np.minimum(place.astype(int), _BINS - 2)
    share = place - index
    counts = np.bincount(index, 1 - share, _PADDED) + np.bincount(index + 1, share, _PADDED)
    far = np.minimum(np.arange(_PADDED), _PADDED - np.arange(_PADDED)) * width / _BLUR_FWHM
    blur = np.fft.rfft(np.exp(-4 * np.log(2) * far**2)).real
    blur *= 2 * np.sqrt(np.log(2) / np.pi) * width / _BLUR_FWHM
    sharp = np.fft.irfft(np.fft.rfft(counts) * blur / (blur**2 + _NOISE)).clip(0)
    room = (_PADDED - _BINS) // 2  # below the first bin, at the end of the circle
    centres = low + width * ((np.arange(_PADDED) + room) % _PADDED - room)
    weighted, weights = (np.fft.irfft(np.fft.rfft(one) * blur) for one in (centres * sharp, sharp))
    expected = weighted[:_BINS] / np.maximum(weights[:_BINS], 1e-12)
    return np.interp(place, np.arange(_BINS), expected)
