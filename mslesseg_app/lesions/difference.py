"""Where the images of two sessions differ, in units of what they differ by for no reason.

The images decide: change is a standardised difference of matched images (Lemieux et al.,
NeuroImage 1998, and others after it) where at least one session shows lesion tissue and the
other tissue at all, so that moving fluid, vessels and the edge of the brain do not count. The
noise is measured in each pair, and by location: near the skull base, or where sessions are
aligned less well, a larger difference is needed. At edges that both images show, the difference
that a small misalignment makes is added to it. Where both sessions have a T2w image, it adds its
evidence: what one sequence shows by chance, the other rarely shows too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from mslesseg_app.lesions.agreement import CORRELATION_CHECK
from mslesseg_app.lesions.components import structure
from mslesseg_app.spatial.matching import HalfWay, Matched, Window, match, robust_spread

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]

#: Smoothing of the difference (standard deviation), mm.
_SMOOTH_MM = 1.2
#: Window of the local noise, and of normal tissue, mm (standard deviations).
_NOISE_MM, _TISSUE_MM = 15.0, 15.0
#: Differences beyond this many standard deviations count as this many in the local noise.
_CAP = 3.0
#: The noise is nowhere taken to be smaller than this share of that of the whole brain.
_LEAST_NOISE = 0.5
#: Nor smaller than this share of the median FLAIR of the brain, which is what remains between
#: two real scans (0.033 to 0.035 in LJ01 and LJ12; 0.008 in a moved copy of one scan).
_NOISE_FLOOR = 0.03
#: Misalignment that is left between the images, mm.
_MISALIGNED_MM = 0.4
#: Gradients are those of the image smoothed by 1 mm, and by less across thick slices (voxels).
_GRADIENT_MM, _THICK_MM, _THICK_WIDTH = 1.0, 2.0, 0.4
#: Normal tissue, as a share of the commonest intensity of the brain.
_NORMAL = (0.7, 1.3)
#: Lesion tissue is brighter than normal tissue around it by this factor in one session, and
#: the other session shows at least this share of it: fluid is darker.
LESION_FACTOR, TISSUE_FACTOR = 1.1, 0.8


#: A change has at least so many voxels: one or two of a coarse grid are no evidence.
_LEAST_VOXELS = 3


@dataclass(frozen=True)
class ChangeLimits:
    """When a difference is a change.

    Attributes
    ----------
    seed : float
        Standard deviations that a change reaches somewhere.
    extent : float
        Standard deviations down to which it extends from there.
    min_volume : float
        Smallest change, mm³; in any case three voxels of the half-way grid.
    """

    seed: float = 5.0
    extent: float = 3.0
    min_volume: float = 15.0


@dataclass(frozen=True)
class Difference:
    """The standardised difference of two sessions, in their half-way space.

    Attributes
    ----------
    pair : HalfWay
    matched : Matched
    z : float32 array (X, Y, Z)
        Later less expected image in standard deviations, of all images together; 0 outside of
        the brain.
    noise : float
        Standard deviation of the difference over the brain, as a share of its median FLAIR.
    normal : float32 array (X, Y, Z)
        FLAIR of normal tissue around each location.
    images : tuple of str
        Sequences that `z` is made of.
    """

    pair: HalfWay
    matched: Matched
    z: Floats
    noise: float
    normal: Floats
    images: tuple[str, ...] = ('FLAIR',)

    @property
    def lesion_before(self) -> Bools:
        """Where the earlier FLAIR shows lesion tissue."""
        return np.asarray(self.matched.expected > LESION_FACTOR * self.normal)

    @property
    def lesion_after(self) -> Bools:
        """Where the later FLAIR shows lesion tissue."""
        return np.asarray(self.matched.later > LESION_FACTOR * self.normal)

    @property
    def tissue(self) -> Bools:
        """Where both FLAIRs show tissue, not fluid."""
        darker = np.minimum(self.matched.expected, self.matched.later)
        return np.asarray((darker > TISSUE_FACTOR * self.normal) & self.pair.brain)


def compute_difference(
    pair: HalfWay, others: Mapping[str, HalfWay] = MappingProxyType({})
) -> Difference:
    """Compute the standardised difference of two sessions.

    Parameters
    ----------
    pair : HalfWay
        FLAIRs.
    others : mapping of sequence to HalfWay
        Other images on which lesions are bright (T2w), on the same grid. One that can be compared
        adds its difference to that of the FLAIRs; the sum is divided by the square root of the
        number of images (Stouffer's method). That asks for independent noise: the correlation
        of FLAIR and T2w is -0.05 in LJ01 and 0.12 in LJ12. A difference counts at most as much
        as that of the FLAIRs there, so that no other image makes a change by itself.

    Returns
    -------
    Difference
    """
    matched = match(pair)
    z, noise = _standardised(matched, pair)
    most, total = np.abs(z), z
    count, images = pair.brain.astype(np.float32), ['FLAIR']
    for name, other in others.items():
        found = match(other)
        if found.correlation >= CORRELATION_CHECK:
            more, _ = _standardised(found, other)
            total, count = total + np.clip(more, -most, most), count + other.brain
            images.append(name)
    z = (total / np.sqrt(np.maximum(count, 1))).astype(np.float32)
    normal = _normal_tissue(matched.later, pair)
    return Difference(pair, matched, z, noise, normal, tuple(images))


def _standardised(matched: Matched, pair: HalfWay) -> tuple[Floats, float]:
    """Return the difference in standard deviations, and its noise over the brain."""
    widths = _SMOOTH_MM / pair.edges
    residual = matched.later - matched.expected
    smooth = np.asarray(ndi.gaussian_filter(residual, widths, truncate=3), dtype=np.float32)
    overall = robust_spread(smooth[pair.brain])
    noise = np.hypot(_local_noise(smooth, pair, overall), _edge_noise(matched, pair.edges))
    return np.where(pair.brain, smooth / noise, 0).astype(np.float32), overall


def _local_noise(smooth: Floats, pair: HalfWay, overall: float) -> Floats:
    window = Window(pair.brain.shape, pair.edges, _NOISE_MM)
    inside = pair.brain.astype(np.float32)
    capped = np.clip(smooth, -_CAP * overall, _CAP * overall) * inside
    variance = window.sums(capped * capped) / (window.sums(inside) + np.float32(1e-3))
    local = np.sqrt(window.grow(variance))
    return np.maximum(local, np.float32(max(_LEAST_NOISE * overall, _NOISE_FLOOR)))


def _edge_noise(matched: Matched, edges: npt.NDArray[np.float64]) -> Floats:
    """Return what a small misalignment changes at the edges that both images show.

    The smaller of both gradients counts: the edge of a new lesion is in one image only.
    """
    gradient = np.minimum(_gradient(matched.expected, edges), _gradient(matched.later, edges))
    return np.float32(_MISALIGNED_MM) * gradient


def _gradient(image: Floats, edges: npt.NDArray[np.float64]) -> Floats:
    """Return the length of the gradient of an image, per mm."""
    squares = np.zeros(image.shape, dtype=np.float32)
    for axis, edge in enumerate(edges):
        width = _GRADIENT_MM / edge if edge < _THICK_MM else _THICK_WIDTH
        squares += (ndi.gaussian_filter1d(image, width, axis=axis, order=1) / edge) ** 2
    return np.sqrt(squares)


def _normal_tissue(flair: Floats, pair: HalfWay) -> Floats:
    """Return the local mean of the FLAIR over what is neither fluid nor lesion."""
    counts, edges = np.histogram(flair[pair.brain], bins=200, range=(0, 2))
    peak = int(np.argmax(ndi.gaussian_filter1d(counts.astype(float), 3)))
    mode = float(edges[peak] + edges[1] / 2)
    normal = pair.brain & (flair > _NORMAL[0] * mode) & (flair < _NORMAL[1] * mode)
    window = Window(pair.brain.shape, pair.edges, _TISSUE_MM)
    weight = normal.astype(np.float32)
    total = window.sums(weight) + np.float32(1e-3)
    level = (window.sums(weight * flair) + np.float32(1e-3 * mode)) / total
    return window.grow(np.asarray(level, dtype=np.float32))


@dataclass(frozen=True)
class ChangedRegions:
    """Connected regions of change.

    Attributes
    ----------
    labels : int32 array (X, Y, Z)
        Regions 1 to n on the half-way grid.
    brighter : bool array (n,)
        Whether the FLAIR became brighter there.
    """

    labels: Labels
    brighter: Bools

    @property
    def count(self) -> int:
        """Number of regions."""
        return int(self.brighter.size)


def find_changes(difference: Difference, limits: ChangeLimits) -> ChangedRegions:
    """Find the regions that changed, in both directions.

    Parameters
    ----------
    difference : Difference
    limits : ChangeLimits

    Returns
    -------
    ChangedRegions
        Ordered by direction, brighter first, and then by place.
    """
    gate = difference.tissue & (difference.lesion_before | difference.lesion_after)
    labels = np.zeros(difference.z.shape, dtype=np.int32)
    brighter: list[bool] = []
    for sign in (1, -1):
        found, count = _connected(sign * difference.z, gate, limits, difference.pair.voxel_mm3)
        labels[found > 0] = found[found > 0] + len(brighter)
        brighter += [sign > 0] * count
    return ChangedRegions(labels, np.array(brighter, dtype=bool))


def _connected(
    z: Floats, gate: Bools, limits: ChangeLimits, voxel_mm3: float
) -> tuple[Labels, int]:
    """Return the components above the lower limit that reach the upper one."""
    found, count = ndi.label((z > limits.extent) & gate, structure(18))
    if not count:
        return found, 0
    numbers = np.arange(1, count + 1)
    highest = ndi.maximum(z, found, numbers)
    sizes = np.bincount(found.ravel(), minlength=count + 1)[1:]
    least = max(limits.min_volume / voxel_mm3 * (1 - 1e-6), _LEAST_VOXELS)
    keep = (highest >= limits.seed) & (sizes >= least)
    lookup = np.zeros(count + 1, dtype=np.int32)
    lookup[1:][keep] = np.arange(1, np.count_nonzero(keep) + 1)
    return lookup[found], int(np.count_nonzero(keep))
