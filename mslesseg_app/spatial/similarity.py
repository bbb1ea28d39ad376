"""Normalised mutual information between sample points and an image, with its derivative.

The measure is Studholme's (H(a) + H(b)) / H(a, b), from a joint histogram that is smooth in
the moving intensities (cubic B-spline windows), so that it has an exact derivative. All sums
are elementwise NumPy in a fixed order: the same input gives the same bytes on any number of
threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

Floats = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

#: Bins of the histogram; two more on either side of the moving ones hold the window's tails.
_BINS = 32
_PAD = 2
#: Half of the width (in voxels) of the soft border of the moving image's field of view.
_BORDER = 0.5
#: A blurred image needs no more voxels than this within its resolution.
VOXELS_PER_FWHM = 2.5


@dataclass(frozen=True)
class SmoothedVolume:
    """A smoothed image that can be looked up between its voxels.

    Attributes
    ----------
    data : ndarray of float32, (X, Y, Z)
        Intensities scaled to histogram bins.
    voxel_from_mm : ndarray, (4, 4)
        Maps points (RAS+ mm) to voxel indices.
    """

    data: Floats
    voxel_from_mm: Affine


@dataclass(frozen=True)
class Samples:
    """Points of the reference with their intensity.

    Attributes
    ----------
    points : ndarray of float64, (3, N)
        RAS+ mm.
    bins : ndarray of int64, (N,)
        Histogram bin of the reference's intensity.
    centre : ndarray, (3,)
        Mean of the points.
    """

    points: npt.NDArray[np.float64]
    bins: npt.NDArray[np.int64]
    centre: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A similarity and how it changes.

    Attributes
    ----------
    nmi : float
        Normalised mutual information, 1 for independent images.
    overlap : float
        Share of the samples that lie in the moving image's field of view.
    gradient : ndarray, (3, 4)
        Derivative of `nmi` by the elements of ``moving_from_reference`` (zeros when not asked).
    """

    nmi: float
    overlap: float
    gradient: npt.NDArray[np.float64]


def shrink(img: Any, size_mm: float) -> tuple[Floats, Affine]:
    """Average blocks of voxels until they are about `size_mm` large; returns data and affine.

    The axes are put in the order of RAS+ first, so that the result does not depend on how the
    image is stored.
    """
    img = nb.as_closest_canonical(img)
    data = np.asarray(img.dataobj, dtype=np.float32)
    if not np.isfinite(data.sum()):
        data = np.nan_to_num(data, posinf=0.0, neginf=0.0)
    return block_means(data, img.affine, size_mm)


def block_means(data: Floats, affine: Affine, size_mm: float) -> tuple[Floats, Affine]:
    """Average blocks of voxels until they are about `size_mm` large; at least 8 stay."""
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    steps = [
        max(1, min(int(size_mm / zoom + 0.01), count // 8))
        for zoom, count in zip(zooms, data.shape, strict=True)
    ]
    for axis, step in enumerate(steps):
        if step > 1:
            count = data.shape[axis] // step
            whole = data[(slice(None),) * axis + (slice(0, count * step),)]
            split = (*data.shape[:axis], count, step, *data.shape[axis + 1 :])
            data = whole.reshape(split).mean(axis=axis + 1, dtype=np.float32)
    affine = np.array(affine, dtype=np.float64)
    affine[:3, 3] += affine[:3, :3] @ ((np.array(steps) - 1) / 2)
    affine[:3, :3] = affine[:3, :3] * np.array(steps)
    return data, affine


def smooth(data: Floats, affine: Affine, fwhm_mm: float) -> Floats:
    """Blur to a resolution of `fwhm_mm`, taking the voxels' own extent into account."""
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    sigma = np.sqrt(np.maximum(fwhm_mm**2 - zooms**2, 0.0)) / 2.3548 / zooms
    return np.asarray(ndi.gaussian_filter(data, sigma, mode='nearest', truncate=3.0))


def to_bins(values: Floats, low: float, high: float) -> Floats:
    """Scale intensities so that `low` and `high` fall on the first and last bin."""
    scaled = (values - np.float32(low)) * np.float32((_BINS - 1) / max(high - low, 1e-6))
    return np.clip(scaled, np.float32(0), np.float32(_BINS - 1)).astype(np.float32)


def intensity_range(data: Floats) -> tuple[float, float]:
    """Return robust ends of the intensities: background and the brighter tissues."""
    bright = data[data > data.mean(dtype=np.float64)]
    if bright.size == 0:
        return float(data.min()), float(data.max())
    return min(0.0, float(np.percentile(data, 1))), float(np.percentile(bright, 98))


def moving_volume(data: Floats, affine: Affine, fwhm_mm: float) -> SmoothedVolume:
    """Prepare a moving image for one level of resolution: fewer voxels where it is coarse."""
    data, affine = block_means(data, affine, fwhm_mm / VOXELS_PER_FWHM)
    blurred = smooth(data, affine, fwhm_mm)
    low, high = intensity_range(blurred)
    return SmoothedVolume(np.ascontiguousarray(to_bins(blurred, low, high)), _inverse(affine))


def reference_samples(
    data: Floats,
    affine: Affine,
    mask: tuple[Floats, Affine],
    spacing_mm: float,
    seed: int,
    fwhm_mm: float | None = None,
) -> Samples:
    """Draw sample points from the reference, inside a mask.

    The points lie on a regular lattice of `spacing_mm`, each moved at random within its cell
    (which avoids the artefacts of matching lattices); the draw depends on `seed` alone.

    Parameters
    ----------
    data, affine
        Reference image and its affine.
    mask
        Mask (positive inside) and its affine.
    spacing_mm : float
    seed : int
    fwhm_mm : float or None
        Resolution to which the reference is blurred; that of the lattice when not given.
    """
    points = _jittered(mask, spacing_mm, seed)
    blurred = smooth(data, affine, fwhm_mm or spacing_mm)
    where = _apply(_inverse(affine), points)
    values = ndi.map_coordinates(blurred, where, order=1, mode='nearest')
    seen = _within(where, data.shape)
    points, values = points[:, seen], values[seen]
    low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 1.0)
    bins = np.rint(to_bins(values, float(low), float(high))).astype(np.int64)
    return Samples(points, bins, points.mean(axis=1))


def _jittered(
    mask: tuple[Floats, Affine], spacing_mm: float, seed: int
) -> npt.NDArray[np.float64]:
    """Return the points (3, N) of a disturbed lattice that fall into a mask."""
    data, affine = mask
    corners = np.argwhere(data > 0)
    box = np.array([corners.min(axis=0) - 0.5, corners.max(axis=0) + 0.5])
    ends = np.array([[box[i, 0], box[j, 1], box[k, 2]] for i, j, k in np.ndindex(2, 2, 2)])
    ends_mm = ends @ affine[:3, :3].T + affine[:3, 3]
    low, high = ends_mm.min(axis=0), ends_mm.max(axis=0)
    counts = np.maximum(np.ceil((high - low) / spacing_mm).astype(int), 1)
    cells = np.indices(counts).reshape(3, -1).astype(np.float64)
    cells += np.random.default_rng(seed).random(cells.shape)
    points = low[:, None] + cells * spacing_mm
    where = _apply(_inverse(affine), points)
    inside = ndi.map_coordinates(data, where, order=0, mode='constant', cval=0.0) > 0
    chosen: npt.NDArray[np.float64] = points[:, inside]
    return chosen


def _inverse(affine: Affine) -> Affine:
    inverse: Affine = np.asarray(np.linalg.inv(affine), dtype=np.float64)
    return inverse


def _apply(affine: Affine, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Map points (3, N), element by element (no BLAS: its rounding depends on threads)."""
    x, y, z = points
    return np.stack([row[0] * x + row[1] * y + row[2] * z + row[3] for row in affine[:3]])


def _within(where: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    limits = np.array(shape)[:, None] - 0.5
    return np.asarray(((where >= -0.5) & (where <= limits)).all(axis=0))


def score(
    volume: SmoothedVolume, samples: Samples, moving_from_reference: Affine, gradient: bool = True
) -> Score:
    """Return the similarity of a volume to the samples under an affine."""
    voxel_from_reference = volume.voxel_from_mm @ moving_from_reference
    where = _apply(voxel_from_reference, samples.points)
    weight = _border_weight(where, volume.data.shape)
    seen = np.flatnonzero(weight > 0)
    overlap = float(weight.sum() / max(weight.size, 1))
    if seen.size < 50:
        return Score(1.0, overlap, np.zeros((3, 4)))
    values, slopes = _look_up(volume.data, where[:, seen], gradient)
    bins, weight = samples.bins[seen], weight[seen]
    joint = _joint_histogram(bins, values, weight)
    nmi, change = _nmi(joint)
    if not gradient:
        return Score(nmi, overlap, np.zeros((3, 4)))
    slope = _window_slope(bins, values, change) * weight / weight.sum()
    by_voxel = slopes * slope
    points = samples.points[:, seen]
    by_matrix = np.empty((3, 4))
    for axis in range(3):
        by_matrix[axis, :3] = [(by_voxel[axis] * point).sum() for point in points]
        by_matrix[axis, 3] = by_voxel[axis].sum()
    return Score(nmi, overlap, volume.voxel_from_mm[:3, :3].T @ by_matrix)


def quick_scores(
    volume: SmoothedVolume,
    samples: Samples,
    linear: npt.NDArray[np.float64],
    shifts: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return similarity and overlap for one linear map and many shifts, roughly.

    As `score`, but from the nearest voxels and without a soft border: meant for coarse levels,
    where the volume is much smoother than its voxels.

    Parameters
    ----------
    volume, samples
    linear : ndarray, (3, 3)
        Of ``moving_from_reference``.
    shifts : ndarray, (n, 3)
        Its translations (mm).

    Returns
    -------
    tuple of ndarray, (n,) each
    """
    index = volume.voxel_from_mm
    turned = np.eye(4)
    turned[:3, :3] = index[:3, :3] @ linear
    where = _apply(turned, samples.points)
    moves = (index[:3, :3] @ shifts.T).T + index[:3, 3]
    voxels = np.rint(where[None] + moves[:, :, None]).astype(np.int32)
    shape = np.array(volume.data.shape, dtype=np.int32)[None, :, None]
    seen = np.asarray(((voxels >= 0) & (voxels < shape)).all(axis=1))
    ny, nz = volume.data.shape[1:]
    flat = np.where(seen, (voxels[:, 0] * ny + voxels[:, 1]) * nz + voxels[:, 2], 0)
    values = np.rint(volume.data.ravel()[flat]).astype(np.int64)
    return _rough_nmi(samples.bins, values, seen), seen.mean(axis=1)


def _rough_nmi(
    bins: npt.NDArray[np.int64], values: npt.NDArray[np.int64], seen: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the similarity of each row of moving bins; the histograms are smoothed."""
    count, width = len(values), _BINS + 2 * _PAD
    rows = np.arange(count)[:, None] * (_BINS * width)
    place = (rows + bins[None] * width + values + _PAD)[seen]
    joint = np.bincount(place, minlength=count * _BINS * width).reshape(count, _BINS, width)
    soft = joint * (4 / 6)
    soft[:, :, 1:] += joint[:, :, :-1] / 6
    soft[:, :, :-1] += joint[:, :, 1:] / 6
    soft /= np.maximum(soft.sum(axis=(1, 2), keepdims=True), 1e-12)
    both = _entropy(soft.reshape(count, -1))
    apart = _entropy(soft.sum(axis=1)) + _entropy(soft.sum(axis=2))
    nmi: npt.NDArray[np.float64] = np.where(seen.sum(axis=1) < 50, 1.0, apart / both)
    return nmi


def _entropy(shares: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    entropy: npt.NDArray[np.float64] = -(shares * np.log(shares + 1e-12)).sum(axis=1)
    return np.maximum(entropy, 1e-12)


def _border_weight(
    where: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Return 1 inside the image, 0 outside, a ramp of one voxel in between."""
    weight = np.ones(where.shape[1])
    for row, count in zip(where, shape, strict=True):
        inside = np.minimum(row, (count - 1) - row) + _BORDER
        weight *= np.clip(inside / (2 * _BORDER), 0.0, 1.0)
    return weight


def _look_up(
    data: Floats, where: npt.NDArray[np.float64], slopes: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Interpolate linearly; returns values (N,) and slopes by voxel (3, N)."""
    limits = np.array(data.shape)[:, None] - 1
    where = np.clip(where, 0.0, limits)
    low = np.minimum(where.astype(np.int64), np.maximum(limits - 1, 0))
    fx, fy, fz = where - low
    ny, nz = data.shape[1:]
    flat = data.ravel()
    start = (low[0] * ny + low[1]) * nz + low[2]
    sx, sy, sz = (
        step if count > 1 else 0 for step, count in zip((ny * nz, nz, 1), data.shape, strict=True)
    )
    c000, c001 = flat[start], flat[start + sz]
    c010, c011 = flat[start + sy], flat[start + sy + sz]
    start = start + sx
    c100, c101 = flat[start], flat[start + sz]
    c110, c111 = flat[start + sy], flat[start + sy + sz]
    z00, z01 = c000 + fz * (c001 - c000), c010 + fz * (c011 - c010)
    z10, z11 = c100 + fz * (c101 - c100), c110 + fz * (c111 - c110)
    y0, y1 = z00 + fy * (z01 - z00), z10 + fy * (z11 - z10)
    values = y0 + fx * (y1 - y0)
    if not slopes:
        return values, np.zeros((3, 0))
    by_y = (z01 - z00) + fx * ((z11 - z10) - (z01 - z00))
    low_z = (c001 - c000) + fy * ((c011 - c010) - (c001 - c000))
    high_z = (c101 - c100) + fy * ((c111 - c110) - (c101 - c100))
    return values, np.stack([y1 - y0, by_y, low_z + fx * (high_z - low_z)])


def _windows(fraction: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the weights of the four bins around a value (cubic B-spline)."""
    t, u = fraction, 1.0 - fraction
    t2, u2 = t * t, u * u  # a third power would cost ten times as much
    return (
        u2 * u / 6,
        (4 - t2 * (6 - 3 * t)) / 6,
        (4 - u2 * (6 - 3 * u)) / 6,
        t2 * t / 6,
    )


def _window_slopes(fraction: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
    t, u = fraction, 1.0 - fraction
    return (-(u**2) / 2, (3 * t**2 - 4 * t) / 2, -(3 * u**2 - 4 * u) / 2, t**2 / 2)


def _first_bin(
    bins: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the flat index of the first of the four bins, and the place between bins."""
    low = np.minimum(values.astype(np.int64), _BINS - 1)
    return bins * (_BINS + 2 * _PAD) + low + (_PAD - 1), values - low


def _joint_histogram(
    bins: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    weight: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the joint probability, (reference bins, moving bins)."""
    size = _BINS * (_BINS + 2 * _PAD)
    first, fraction = _first_bin(bins, values)
    joint = np.zeros(size)
    for shift, window in enumerate(_windows(fraction)):
        joint += np.bincount(first + shift, weights=window * weight, minlength=size)[:size]
    return joint.reshape(_BINS, -1) / joint.sum()


def _nmi(joint: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    """Return the normalised mutual information and its derivative by each bin."""
    tiny = 1e-12
    log_joint = np.log(joint + tiny)
    reference, moving = joint.sum(axis=1), joint.sum(axis=0)
    log_reference, log_moving = np.log(reference + tiny), np.log(moving + tiny)
    both = -(joint * log_joint).sum()
    apart = -(reference * log_reference).sum() - (moving * log_moving).sum()
    nmi = apart / max(both, tiny)
    change = (nmi * log_joint - log_moving[None, :]) / max(both, tiny)
    return float(nmi), change


def _window_slope(
    bins: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    change: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the derivative of the similarity by each sample's moving intensity."""
    first, fraction = _first_bin(bins, values)
    flat = change.ravel()
    total = np.zeros(values.size)
    for shift, slope in enumerate(_window_slopes(fraction)):
        total += slope * flat[first + shift]
    return total
