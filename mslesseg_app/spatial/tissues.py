"""Brain tissues of one exam: where the priors lie in it and how bright each tissue is.

Three small fits carry the methods without weights. `fit_priors` moves the tissue maps of the
template onto the brain at hand, so that it need not be aligned well (brains that were only
moved rigidly to the template are 10 to 15 percent smaller than it). `fit_mixture` learns mean
and spread of the three tissues and a smooth intensity offset, by expectation maximisation with
the moved maps as prior (Van Leemput et al., IEEE Transactions on Medical Imaging 2001), outliers
left out. A large lesion load shifts it: lesions are absorbed by a tissue. `tissue_scale` gives
the same numbers from what lesions cannot shift: modes and medians, and the half of the
white-matter distribution that lies away from the lesions.

All sums run over fixed orders without a threaded library, so results do not depend on threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.interpolation import interpolate
from mslesseg_app.spatial.shapes import Box, box_of, reached, whole_box
from mslesseg_app.spatial.template import tissue_prior

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

WM, GM, CSF = 0, 1, 2
_FIT_STEP = 5
_FIT_SIGMA = 1.6
MIX_STEP = 4
"""Of the images of `fit_mixture`, every so many voxels along each axis are used."""
_SMALLEST_SHARE = 0.01
_OUTLIER_CHI2 = 9.0
_ROUNDS = 12
_OFFSET_SIGMA_MM = 25.0
_SCALE_ROUNDS = 6
_CORE = {'white': 0.9, 'grey': 0.7, 'fluid': 0.7}
_FEWEST_IN_CORE = 100


@dataclass(frozen=True)
class PriorFit:
    """Where the template's tissue maps lie in an exam.

    Attributes
    ----------
    matrix, offset : array (3, 3), array (3,)
        ``matrix @ voxel + offset`` is the voxel of the maps for a voxel of the exam.
    explained : float
        Share of the variance of the images that the moved maps explain.
    """

    matrix: Array
    offset: Array
    explained: float

    def move(
        self, volume: npt.NDArray[np.floating] | Bools, box: Box | None = None, step: int = 1
    ) -> npt.NDArray[np.float32]:
        """Resample one map onto the exam (linear; zero outside).

        Only voxels that the map can reach are computed.

        Parameters
        ----------
        volume : array (X, Y, Z)
        box : tuple of slices, optional
            Part of the exam's grid that is wanted; default: all of it.
        step : int
            Only every so many voxels along each axis are computed; the others are zero.
        """
        box = box or whole_box(volume.shape)
        begin = np.array([edge.start for edge in box])
        shape = tuple(edge.stop - edge.start for edge in box)
        offset = self.offset + self.matrix @ begin
        moved = np.zeros(shape, dtype=np.float32)
        wanted = moved[::step, ::step, ::step]
        matrix = self.matrix * step
        part = reached(volume != 0, matrix, offset, wanted.shape)
        index = np.eye(4)
        index[:3, :3], index[:3, 3] = matrix, offset + matrix @ [edge.start for edge in part]
        wanted[part] = interpolate(volume, index, wanted[part].shape)
        return moved


@dataclass(frozen=True)
class SmoothMaps:
    """Tissue maps made ready for `fit_priors`: for many exams this is done once.

    Attributes
    ----------
    values : float32 array (X, Y, Z, 3)
        White matter, grey matter, cerebrospinal fluid, smoothed, in the box that holds them.
    first : array (3,)
        Voxel of the maps' own grid at which the box begins.
    centre, extent : array (3,)
        Mean and standard deviation of the voxel indices of the brain in the maps' own grid.
    """

    values: npt.NDArray[np.float32]
    first: Array
    centre: Array
    extent: Array

    @classmethod
    def of(cls, priors: npt.NDArray[np.float32]) -> SmoothMaps:
        """Make ready maps (3, X, Y, Z)."""
        box = box_of(np.asarray(priors.any(axis=0)), int(4 * _FIT_SIGMA) + 1)
        smooth = [ndimage.gaussian_filter(prior[box], _FIT_SIGMA) for prior in priors]
        centre, extent = _centre_and_extent(priors.sum(axis=0) > 0.5)
        first = np.array([edge.start for edge in box], dtype=float)
        return cls(np.stack(smooth, axis=-1), first, centre, extent)

    def at(self, where: Array) -> tuple[Array, Array]:
        """Return the maps (3, N) and their slopes (3, 3, N) at points (3, N) of their voxels.

        Interpolation is linear, what lies outside is 0. Slopes are by map and then by axis.
        """
        shape = self.values.shape[:3]
        where = where - self.first[:, None]
        last = np.array(shape)[:, None] - 1
        inside = np.asarray(((where >= 0) & (where <= last)).all(axis=0))
        low = np.clip(where.astype(np.intp), 0, last - 1)
        x, y, z = np.where(inside, where - low, 0)[:, :, None].astype(np.float32)
        start = (low[0] * shape[1] + low[1]) * shape[2] + low[2]
        along, across = shape[1] * shape[2], shape[2]
        pairs = self._pairs()
        ends = [
            pairs[start + step].view(np.float32).reshape(-1, 2, 3)
            for step in (0, across, along, along + across)
        ]
        rise = [end[:, 1] - end[:, 0] for end in ends]
        edges = [end[:, 0] + z * up for end, up in zip(ends, rise, strict=True)]
        steps = edges[1] - edges[0], edges[3] - edges[2]
        planes = edges[0] + y * steps[0], edges[2] + y * steps[1]
        step = planes[1] - planes[0]
        slopes = (
            step,
            steps[0] + x * (steps[1] - steps[0]),
            _between(_between(rise[0], rise[1], y), _between(rise[2], rise[3], y), x),
        )
        kept = inside[:, None]
        values = np.where(kept, planes[0] + x * step, 0).T
        return values, np.stack([np.where(kept, slope, 0).T for slope in slopes], axis=1)

    def _pairs(self) -> npt.NDArray[np.void]:
        """Return the values of each voxel and the next one along the last axis as one element."""
        size = self.values[0, 0, 0].nbytes
        count = self.values.nbytes // size - 1
        return np.ndarray((count,), dtype=f'V{2 * size}', buffer=self.values.data, strides=(size,))


def _between(one: Array, two: Array, share: Array) -> Array:
    return one + share * (two - one)


@dataclass(frozen=True)
class Mixture:
    """Intensities of the tissues.

    Attributes
    ----------
    means : array (3, C)
        White matter, grey matter, cerebrospinal fluid; one column a channel.
    white_spread : array (C,)
        Robust standard deviation (1.4826 times the median absolute deviation) where the prior
        of white matter is above 0.9; the same unit whichever other channels there are.
    offsets : float32 array (C, X, Y, Z)
        Smooth intensity offset to subtract from each channel, on the grid of the channels.
    """

    means: Array
    white_spread: Array
    offsets: npt.NDArray[np.float32]


@dataclass(frozen=True)
class TissueScale:
    """Intensities of the tissues in one image, unaffected by the lesion load.

    Attributes
    ----------
    white : float
        Mode of white matter.
    white_spread : float
        Robust standard deviation of white matter, from the side of the mode away from lesions.
    grey : float
        Median of grey matter.
    fluid : float
        Fluid, the lower fifth of what the prior calls cerebrospinal fluid.
    offset : float32 array (X, Y, Z)
        Smooth intensity offset to subtract from the image.
    """

    white: float
    white_spread: float
    grey: float
    fluid: float
    offset: npt.NDArray[np.float32]

    def height(self, image: npt.NDArray[np.floating], grey_units: float) -> Array:
        """Return how far an image lies above white matter, in units of its spread.

        The spread is raised until grey matter lies at `grey_units` at most, and fluid at -10.

        Parameters
        ----------
        image : array (X, Y, Z)
            The image that was measured.
        grey_units : float
        """
        raised = (self.grey - self.white) / grey_units, 0.1 * (self.white - self.fluid)
        return np.asarray((image - self.offset - self.white) / max(self.white_spread, *raised))


@cache
def template_maps() -> SmoothMaps:
    """Return the tissue maps of the template made ready; the same object each time."""
    return SmoothMaps.of(np.stack([tissue_prior(name) for name in ('wm', 'gm', 'csf')]))


def fit_priors(
    channels: npt.NDArray[np.floating] | Sequence[npt.NDArray[np.floating]],
    brain: Bools,
    priors: npt.NDArray[np.float32] | SmoothMaps,
    *,
    step: int = _FIT_STEP,
) -> PriorFit:
    """Move, scale and turn tissue maps so that they explain the images best.

    The images are regressed on the three maps and a constant, on every `step`-th voxel; nine
    parameters are searched (L-BFGS) for the largest share of explained variance, starting from
    centre and extent of the brain. No sign or order of contrasts is assumed.

    Parameters
    ----------
    channels : array (C, X, Y, Z), or sequence of arrays (X, Y, Z)
        Images; at least one.
    brain : bool array (X, Y, Z)
    priors : float32 array (3, X, Y, Z), or SmoothMaps
        White matter, grey matter, cerebrospinal fluid, 0 to 1, on the same grid; or these made
        ready.
    step : int
        Distance of the points along each axis, in voxels.

    Raises
    ------
    DataError
        If the brain is too small to say anything.
    """
    points = _lattice(brain, step)
    images = np.stack([_samples(channel, brain, points, step) for channel in channels])
    maps = priors if isinstance(priors, SmoothMaps) else SmoothMaps.of(priors)
    start = _Start.of(brain, maps)
    across, columns = np.ascontiguousarray(points.T), np.ones((4, len(points)))

    def unexplained(parameters: Array) -> tuple[float, Array]:
        matrix, offset = start.affine(parameters)
        columns[:3], slopes = maps.at(np.einsum('ij,jn->in', matrix, across) + offset[:, None])
        share, by_column = _residual_share(columns, images)
        by_place = np.einsum('kn,kan->an', by_column[:3], slopes)
        by_matrix = np.einsum('an,jn->aj', by_place, across)
        return share, start.derivative(parameters, by_matrix, by_place.sum(axis=1))

    found = optimize.minimize(
        unexplained,
        np.zeros(9),
        jac=True,
        method='L-BFGS-B',
        bounds=[(-20.0, 20.0)] * 9,
        options={'ftol': 1e-6, 'maxiter': 60},
    )
    matrix, offset = start.affine(found.x)
    return PriorFit(matrix, offset, 1 - float(found.fun))


@dataclass(frozen=True)
class _Start:
    """First guess of the prior fit: same centre and same extent as the brain."""

    centre_maps: Array
    centre_brain: Array
    scale: Array

    @classmethod
    def of(cls, brain: Bools, maps: SmoothMaps) -> _Start:
        centre_brain, extent_brain = _centre_and_extent(brain)
        across = extent_brain[:2] / maps.extent[:2]
        # a cut field of view shortens the third axis, so it follows the other two
        scale = np.array([*across, np.sqrt(across.prod())])
        return cls(maps.centre, centre_brain, np.clip(scale, 0.75, 1.3))

    def affine(self, parameters: Array) -> tuple[Array, Array]:
        """Return matrix and offset; parameters are mm, percent and hundredths of a radian."""
        shift, stretch, turn = np.split(np.asarray(parameters, dtype=float), 3)
        rotation = Rotation.from_rotvec(turn / 100).as_matrix()
        matrix = rotation / (self.scale * np.exp(stretch / 100))[:, None]
        return matrix, self.centre_maps - matrix @ (self.centre_brain + shift)

    def derivative(self, parameters: Array, by_matrix: Array, by_offset: Array) -> Array:
        """Return the derivative by the parameters, given those by matrix and offset."""
        slopes = np.empty(9)
        for k, unit in enumerate(1e-4 * np.eye(9)):
            ahead, behind = self.affine(parameters + unit), self.affine(parameters - unit)
            slopes[k] = (by_matrix * (ahead[0] - behind[0])).sum()
            slopes[k] += by_offset @ (ahead[1] - behind[1])
        return slopes / 2e-4


def _centre_and_extent(mask: Bools) -> tuple[Array, Array]:
    """Return mean and standard deviation of the voxel indices of a mask."""
    centre, extent = np.zeros(3), np.zeros(3)
    for axis in range(3):
        counts = mask.sum(axis=tuple(a for a in range(3) if a != axis)).astype(float)
        index = np.arange(counts.size)
        centre[axis] = (counts * index).sum() / counts.sum()
        extent[axis] = np.sqrt((counts * (index - centre[axis]) ** 2).sum() / counts.sum())
    return centre, extent


def _lattice(brain: Bools, step: int) -> Array:
    points = np.argwhere(brain[::step, ::step, ::step]).astype(float) * step
    if len(points) < 1000:
        raise _too_small()
    return points


def _too_small() -> DataError:
    return DataError(
        'The brain is too small, or too little of it was imaged, to find tissues in it.',
        'Review the alignment and the brain mask of this exam.',
    )


def _cores(priors: Sequence[npt.NDArray[np.float32]]) -> list[Bools]:
    """Return where each tissue is all but certain."""
    cores = [prior > least for prior, least in zip(priors, _CORE.values(), strict=True)]
    if min(core.sum() for core in cores) < _FEWEST_IN_CORE:
        raise _no_tissues()
    return cores


def _no_tissues() -> DataError:
    return DataError(
        'White matter, grey matter and fluid cannot be distinguished in this exam.',
        'Review the alignment and the brain mask; images need the contrast of a brain MRI.',
    )


def _samples(channel: npt.NDArray[np.floating], brain: Bools, points: Array, step: int) -> Array:
    """Return the smoothed image at the points, tails cut, mean zero and variance one."""
    low, high = np.percentile(channel[brain].astype(np.float64), (1, 99))
    reach = int(4 * _FIT_SIGMA) + 1  # of the filter; beyond the brain there is one value
    first = np.maximum(points.min(axis=0).astype(int) - reach, 0)
    box = tuple(
        slice(a, b) for a, b in zip(first, points.max(axis=0).astype(int) + reach + 1, strict=True)
    )
    filled = np.where(brain[box], np.clip(channel[box].astype(np.float64), low, high), low)
    values = _smoothed_at(filled, points.astype(int) - first, step, _FIT_SIGMA)
    return np.asarray((values - values.mean()) / max(float(values.std()), 1e-12))


def _smoothed_at(volume: Array, points: npt.NDArray[np.intp], step: int, sigma: float) -> Array:
    """Return what `scipy.ndimage.gaussian_filter` gives at points (N, 3) of a lattice.

    Each axis is filtered in the planes of the lattice only.
    """
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in range(3):
        first, last = points[:, axis].min(), points[:, axis].max()
        edges = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        padded = np.moveaxis(np.pad(volume, edges, mode='symmetric'), axis, 0)
        planes = [padded[first + k : last + k + 1 : step] for k in range(len(weights))]
        found = weights[0] * planes[0]
        for weight, plane in zip(weights[1:], planes[1:], strict=True):
            found += weight * plane
        volume = np.moveaxis(found, 0, axis)
    return np.asarray(volume[tuple((points - points.min(axis=0)).T // step)])


def _residual_share(columns: Array, images: Array) -> tuple[float, Array]:
    """Return the variance of images that columns leave, averaged, and its slope by the columns.

    Parameters
    ----------
    columns : array (K, N)
    images : array (C, N)
        Standardised.
    """
    count = images.size
    normal = np.einsum('in,jn->ij', columns, columns) + 1e-3 * np.eye(len(columns))
    product = np.einsum('in,jn->ij', columns, images)
    weights = np.linalg.solve(normal, product)
    rest = images - np.einsum('kc,kn->cn', weights, columns)
    share = float(1 - (product * weights).sum() / count)
    return share, np.einsum('kc,cn->kn', weights, rest) * (-2 / count)


def fit_mixture(
    channels: Array, seen: Bools, priors: npt.NDArray[np.float32], box: Box | None = None
) -> Mixture:
    """Learn the intensities of white matter, grey matter and fluid.

    Every fourth voxel along each axis is used. Voxels far from all tissues (lesions, vessels,
    remains of the skull) take no part.

    Parameters
    ----------
    channels : array (C, X, Y, Z)
        Images without much noise.
    seen : bool array (X, Y, Z)
        Brain voxels that all channels show.
    priors : float32 array (3, X, Y, Z)
        Tissue maps moved onto the exam.
    box : tuple of slices, optional
        Where channels and priors lie in the grid of `seen`, if they are only the part of it that
        holds the brain; it begins at multiples of four voxels.

    Raises
    ------
    DataError
        If a tissue is not to be found.
    """
    box = box or whole_box(seen.shape)
    lattice = (slice(None, None, MIX_STEP),) * 3
    inside = seen[lattice]
    if inside.sum() < 1000:
        raise _too_small()
    here = seen[box][lattice]
    values = np.stack([channel[lattice][here] for channel in channels], axis=1).astype(float)
    prior = np.clip(np.stack([p[lattice][here] for p in priors]).astype(float), 1e-3, None)
    prior /= prior.sum(axis=0)
    share = prior**2 / (prior**2).sum(axis=0)
    trusted = np.ones(len(values))
    offsets = np.zeros((len(channels), *inside.shape))
    for _ in range(_ROUNDS):
        corrected = values - offsets[:, inside].T
        means, spreads = _moments(corrected, share * trusted)
        share, distance = _expect(corrected, means, spreads, prior)
        trusted = (distance < _OUTLIER_CHI2).astype(float)
        residual = values - share.T @ means
        weight = trusted * (share[WM] + 0.5 * share[GM])
        sigma = _OFFSET_SIGMA_MM / MIX_STEP
        offsets = _smooth_offsets(residual.T, weight, inside, sigma)
    corrected = values - offsets[:, inside].T
    white = corrected[prior[WM] > 0.9] if (prior[WM] > 0.9).any() else corrected
    spread = 1.4826 * np.median(np.abs(white - np.median(white, axis=0)), axis=0)
    return Mixture(means, np.maximum(spread, 1e-3), _enlarge(offsets, box))


def _moments(values: Array, weights: Array) -> tuple[Array, Array]:
    """Return weighted means (3, C) and covariances (3, C, C)."""
    total = weights.sum(axis=1)
    if total.min() < _SMALLEST_SHARE * len(values):
        raise _no_tissues()
    means = np.einsum('kn,nc->kc', weights, values) / total[:, None]
    spreads = np.empty((len(weights), values.shape[1], values.shape[1]))
    for tissue, weight in enumerate(weights):
        centred = values - means[tissue]
        spreads[tissue] = np.einsum('n,nc,nd->cd', weight, centred, centred) / total[tissue]
    # outliers were cut at three deviations and more; give their share of the spread back
    return means, 1.2 * (spreads + 1e-4 * np.eye(values.shape[1]))


def _expect(values: Array, means: Array, spreads: Array, prior: Array) -> tuple[Array, Array]:
    """Return tissue shares (3, N) and the squared distance to the nearest tissue (N)."""
    distances = np.empty((len(means), len(values)))
    likelihood = np.empty_like(distances)
    for tissue, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        centred = values - mean
        distances[tissue] = np.einsum('nc,cd,nd->n', centred, np.linalg.inv(spread), centred)
        likelihood[tissue] = np.exp(-0.5 * distances[tissue]) / np.sqrt(np.linalg.det(spread))
    joint = likelihood * prior
    total = joint.sum(axis=0)
    far = total < 1e-12
    share = np.where(far, prior, joint / np.where(far, 1.0, total))
    return share, distances.min(axis=0)


def _smooth_offsets(residuals: Array, weight: Array, inside: Bools, sigma: float) -> Array:
    """Spread residuals (C, N) smoothly over the part of the lattice around them, weighted."""
    box = box_of(inside, 1)
    here = inside[box]
    sums = np.zeros((len(residuals) + 1, *here.shape))
    sums[:-1, here], sums[-1, here] = weight * residuals, weight
    smooth = [ndimage.gaussian_filter(one, sigma, mode='constant', truncate=3) for one in sums]
    offsets = np.zeros((len(residuals), *inside.shape))
    offsets[:, *box] = np.stack(smooth[:-1]) / np.maximum(smooth[-1], 1e-4)
    return offsets


def _enlarge(offsets: Array, box: Box, step: int = MIX_STEP) -> npt.NDArray[np.float32]:
    """Bring maps of the lattice back to a box of the full grid (linear)."""
    index = np.diag([1 / step, 1 / step, 1 / step, 1.0])
    index[:3, 3] = [edge.start / step + 1 for edge in box]  # one more value on each side
    shape = tuple(edge.stop - edge.start for edge in box)
    edged = np.pad(offsets.astype(np.float32), [(0, 0), *[(1, 1)] * 3], mode='edge')
    return np.stack([interpolate(one, index, shape) for one in edged])


def tissue_scale(
    image: npt.NDArray[np.floating],
    seen: Bools,
    priors: npt.NDArray[np.float32],
    *,
    dark_lesions: bool = False,
    step: int = MIX_STEP,
    voxel_mm: float = 1.0,
) -> TissueScale:
    """Measure the intensities of the tissues so that lesions cannot shift them.

    White matter is described by its mode and by the half of its distribution below the mode
    (above it where lesions are dark), grey matter by its median. The offset is learnt from
    voxels near these values only.

    Parameters
    ----------
    image : array (X, Y, Z)
        Image without much noise.
    seen : bool array (X, Y, Z)
        Brain voxels that the image shows.
    priors : float32 array (3, X, Y, Z)
        Tissue maps moved onto the exam.
    dark_lesions : bool
        Whether lesions are darker than white matter (T1w) instead of brighter (FLAIR).
    step : int
        Every `step`-th voxel along each axis is used.
    voxel_mm : float
        Edge of a voxel.

    Raises
    ------
    DataError
        If a tissue is not to be found.
    """
    lattice = (slice(None, None, step),) * 3
    inside = seen[lattice]
    values = np.asarray(image[lattice][inside], dtype=np.float64)
    white, grey, fluid = _cores([prior[lattice][inside] for prior in priors])
    offset = np.zeros(inside.shape)
    sigma = _OFFSET_SIGMA_MM / (step * voxel_mm)
    side = 1 if dark_lesions else -1
    for _ in range(_SCALE_ROUNDS):
        corrected = values - offset[inside]
        middle, spread = _mode_and_spread(corrected[white], side)
        median = float(np.median(corrected[grey]))
        near_white = white & (np.abs(corrected - middle) < 2.5 * spread)
        near_grey = grey & (np.abs(corrected - median) < 2 * spread)
        residual = np.where(near_white, values - middle, np.where(near_grey, values - median, 0))
        weight = near_white + 0.5 * near_grey
        offset = _smooth_offsets(residual[None], weight, inside, sigma)[0]
    corrected = values - offset[inside]
    middle, spread = _mode_and_spread(corrected[white], side)
    return TissueScale(
        middle,
        spread,
        float(np.median(corrected[grey])),
        float(np.percentile(corrected[fluid], 20)),
        _enlarge(offset[None], whole_box(seen.shape), step)[0],
    )


def _mode_and_spread(values: Array, side: int) -> tuple[float, float]:
    """Return the mode, and the robust standard deviation on one side of it (-1 or 1)."""
    low, middle_low, middle_high, high = np.percentile(values, (0.5, 25, 75, 99.5))
    if not high > low:
        raise _no_tissues()
    bins = 256
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    width = (high - low) / bins
    blur = max(1.0, 0.2 * float(middle_high - middle_low) / width)
    peak = int(np.argmax(ndimage.gaussian_filter1d(counts.astype(np.float64), blur)))
    mode = float(edges[peak] + width / 2)
    away = (values - mode) * side
    return mode, max(1.4826 * float(np.median(away[away >= 0])), 1e-3)
