"""Two scans of one head made comparable: one space, one resolution, one intensity scale.

Both images are resampled once, into the space half-way between them, so that interpolation
blurs neither more than the other. The sharper one is then smoothed to the resolution of the
other, and the intensities are matched locally: gain and offset are those of the standardised
major axis, which treats both images alike (an ordinary regression would take the noise of one
of them for a smaller gain), in wide windows and with weights that ignore what has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert
from mslesseg_app.spatial.interpolation import interpolate
from mslesseg_app.spatial.resample import field_of_view, resample
from mslesseg_app.spatial.subject_alignment import part_of_move

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

#: Smallest and largest edge of a voxel of the half-way grid, mm.
_EDGES_MM = (1.0, 3.0)
#: The outermost slices of a scan are not compared, nor what is interpolated from them (voxels).
_OUTER_SLICES = 1.5
#: Margin of the grid around the brain, mm.
_MARGIN_MM = 5.0
#: Standard deviation of the windows in which intensities are matched, mm.
MATCH_WINDOW_MM = 45.0
#: Edge of the blocks in which the sums of such a window are kept, mm.
_BLOCK_MM = 3.0
_ROUNDS = 3
#: Residuals beyond this many robust standard deviations get no weight (Tukey's biweight).
_TUKEY = 4.0
#: Gains beyond these bounds are no contrast of the same sequence.
_GAINS = (0.3, 3.0)
#: Candidate widths of the smoothing (standard deviations), mm.
_WIDTHS_MM = (0.0, 0.4, 0.6, 0.8, 1.0, 1.3, 1.7)
#: Structures wider than this (mm) say nothing about resolution.
_FINE_MM = 4.0


@dataclass(frozen=True)
class HalfWay:
    """Two images of one head on a common grid, half-way between them.

    Attributes
    ----------
    before, after : float32 array (X, Y, Z)
        Earlier and later image, each divided by its median within the brain.
    brain : bool array (X, Y, Z)
        Brain of both, within the field of view of both.
    affine : array (4, 4)
        Voxel indices to millimetres of the half-way space.
    before_from_middle, after_from_middle : array (4, 4)
        Rigid moves: points of the half-way space to points of each image (RAS+ mm).
    """

    before: Floats
    after: Floats
    brain: Bools
    affine: Affine
    before_from_middle: Affine
    after_from_middle: Affine

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Edges of a voxel, mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.edges))

    def bring(self, image: Any, *, later: bool, nearest: bool = False) -> npt.NDArray[Any]:
        """Return an image of the earlier or later session on the common grid."""
        pose = self.after_from_middle if later else self.before_from_middle
        order: Any = 'nearest' if nearest else 1
        shape: Any = self.brain.shape
        return np.asarray(resample(image, shape, self.affine, pose, order).dataobj)


@dataclass(frozen=True)
class Matched:
    """The earlier image on the intensity scale of the later one.

    Attributes
    ----------
    expected : float32 array (X, Y, Z)
        What the later image would show if nothing had changed.
    later : float32 array (X, Y, Z)
        What it shows, at the same resolution.
    correlation : float
        Pearson correlation of both within the brain.
    smoothed : {'before', 'after', ''}
        The image that was smoothed.
    width_mm : float
        Standard deviation of that smoothing, in the planes of the slices.
    """

    expected: Floats
    later: Floats
    correlation: float
    smoothed: str
    width_mm: float


def to_half_way(
    before: Any, after: Any, before_brain: Any, after_brain: Any, after_from_before: Affine
) -> HalfWay:
    """Resample two images once, into the space half-way between them.

    Parameters
    ----------
    before, after : nibabel images
        Earlier and later image of one sequence, without bias field.
    before_brain, after_brain : nibabel images
        Brain mask of each, on the grid of its image.
    after_from_before : array (4, 4)
        Rigid move, RAS+ mm: points of the earlier image to points of the later one.

    Raises
    ------
    DataError
        If the brains do not overlap, or an image is empty there.
    """
    before_from_middle = invert(part_of_move(after_from_before, 0.5, _centre(before_brain)))
    poses = before_from_middle, compose(after_from_before, before_from_middle)
    shape, affine = _common_grid(after, after_brain, before, poses)
    masks = [
        np.asarray(resample(one, shape, affine, pose, 'nearest').dataobj) > 0
        for one, pose in ((before_brain, poses[0]), (after_brain, poses[1]))
    ]
    brain = masks[0] & masks[1]
    for image, pose in ((before, poses[0]), (after, poses[1])):
        brain &= field_of_view(image, shape, affine, pose, _OUTER_SLICES)
    if np.count_nonzero(brain) < 1000:
        raise DataError('The brains of the two sessions hardly overlap.')
    data = [
        _scaled(np.asarray(resample(one, shape, affine, pose, 3).dataobj), brain)
        for one, pose in ((before, poses[0]), (after, poses[1]))
    ]
    return HalfWay(data[0], data[1], brain, affine, poses[0], poses[1])


def of_other_images(pair: HalfWay, images: Sequence[Any], from_flair: Sequence[Affine]) -> HalfWay:
    """Resample another sequence of both sessions once, onto the grid of their FLAIRs.

    Parameters
    ----------
    pair : HalfWay
        Of the FLAIRs.
    images : two nibabel images
        Of the earlier and the later session, without bias field.
    from_flair : two arrays (4, 4)
        Points of the FLAIR of each session to points of its image (RAS+ mm).

    Returns
    -------
    HalfWay
        Its brain ends where the field of view of the images does.

    Raises
    ------
    DataError
        If an image is empty within the brain.
    """
    shape, brain, data = pair.brain.shape, pair.brain.copy(), []
    flairs = pair.before_from_middle, pair.after_from_middle
    poses = [compose(own, flair) for own, flair in zip(from_flair, flairs, strict=True)]
    for image, pose in zip(images, poses, strict=True):
        brain &= field_of_view(image, shape, pair.affine, pose, _OUTER_SLICES)
        data.append(np.asarray(resample(image, shape, pair.affine, pose, 3).dataobj))
    if not brain.any():
        raise DataError('An image does not show the brain of both sessions.')
    before, after = (_scaled(one, brain) for one in data)
    return replace(pair, before=before, after=after, brain=brain)


def _centre(brain: Any) -> npt.NDArray[np.float64]:
    where = np.argwhere(np.asanyarray(brain.dataobj) > 0)
    if not len(where):
        raise DataError('A brain mask is empty.')
    return np.asarray(apply_affine(brain.affine, where.mean(axis=0)))


def _scaled(data: Floats, brain: Bools) -> Floats:
    level = float(np.median(data[brain]))
    if not level > 0:
        raise DataError('An image holds no signal within the brain.')
    return np.asarray(data / np.float32(level), dtype=np.float32)


def _common_grid(
    after: Any, after_brain: Any, before: Any, poses: tuple[Affine, Affine]
) -> tuple[tuple[int, int, int], Affine]:
    """Lay a grid around the brain, its axes along those of the later image.

    The voxels are as long as the longer of both images', along each axis, within bounds.
    """
    axes = compose(invert(poses[1]), after.affine)[:3, :3]
    own = np.linalg.norm(axes, axis=0)
    axes = axes / own
    other = compose(invert(poses[0]), before.affine)[:3, :3]
    size = np.linalg.norm(other, axis=0)
    closest = np.abs(axes.T @ (other / size)).argmax(axis=1)
    edges = np.clip(np.maximum(own, size[closest]), *_EDGES_MM)
    turned = np.eye(4)
    turned[:3, :3] = axes
    where = np.argwhere(np.asanyarray(after_brain.dataobj) > 0)
    ends = np.array(np.meshgrid(*zip(where.min(0), where.max(0), strict=True))).reshape(3, -1).T
    corners = apply_affine(compose(invert(turned), invert(poses[1]), after.affine), ends)
    low, high = corners.min(axis=0) - _MARGIN_MM, corners.max(axis=0) + _MARGIN_MM
    x, y, z = (int(n) for n in np.ceil((high - low) / edges) + 1)
    affine = np.eye(4)
    affine[:3, :3] = axes * edges
    affine[:3, 3] = axes @ low
    return (x, y, z), affine


def match(pair: HalfWay) -> Matched:
    """Bring two images to one resolution and one intensity scale.

    Returns
    -------
    Matched
    """
    images = {'before': pair.before, 'after': pair.after}
    smoothed, width = _softer(pair)
    if smoothed:
        images[smoothed] = _in_plane(images[smoothed], width, pair.edges)
    gain, offset = match_intensity(images['before'], images['after'], pair.brain, pair.edges)
    expected = np.asarray(gain * images['before'] + offset, dtype=np.float32)
    inside = pair.brain
    both = expected[inside], images['after'][inside]
    flat = min(float(np.std(one)) for one in both) <= 0
    correlation = float('nan') if flat else float(np.corrcoef(*both)[0, 1])
    return Matched(expected, images['after'], correlation, smoothed, width)


def _softer(pair: HalfWay) -> tuple[str, float]:
    """Return which image has to be smoothed, and how much, until both correlate best.

    Only fine structures count; a few planes tell as much as all of them.
    """
    keep = _planes(pair)
    images = {name: getattr(pair, name)[keep] for name in ('before', 'after')}
    inner = pair.brain[keep]
    fine = {
        name: {w: _fine(_in_plane(data, w, pair.edges), pair.edges)[inner] for w in _WIDTHS_MM}
        for name, data in images.items()
    }
    best = (_similar(fine['before'][0.0], fine['after'][0.0]), '', 0.0)
    for width in _WIDTHS_MM[1:]:
        for name, other in (('before', 'after'), ('after', 'before')):
            found = _similar(fine[name][width], fine[other][0.0])
            if found > best[0] + 1e-3:
                best = (found, name, width)
    return best[1], best[2]


def _planes(pair: HalfWay) -> tuple[Any, ...]:
    """Return every few planes of the axis of the thickest voxels."""
    axis = int(np.argmax(pair.edges))
    step = max(1, pair.brain.shape[axis] // 12)
    return tuple(slice(None, None, step) if k == axis else slice(None) for k in range(3))


def _in_plane(data: Floats, width_mm: float, edges: npt.NDArray[np.float64]) -> Floats:
    if width_mm == 0:
        return data
    widths = width_mm / edges
    widths[int(np.argmax(edges))] = 0.0
    return np.asarray(ndi.gaussian_filter(data, widths, truncate=3), dtype=np.float32)


def _fine(data: Floats, edges: npt.NDArray[np.float64]) -> Floats:
    return data - _in_plane(data, _FINE_MM, edges)


def _similar(one: Floats, two: Floats) -> float:
    if min(float(np.std(one)), float(np.std(two))) <= 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


def match_intensity(
    before: Floats, after: Floats, brain: Bools, edges: npt.NDArray[np.float64]
) -> tuple[Floats, Floats]:
    """Return gain and offset that bring the earlier image to the scale of the later one.

    Parameters
    ----------
    before, after : float32 array (X, Y, Z)
    brain : bool array (X, Y, Z)
        Where images are matched.
    edges : array (3,)
        Edges of a voxel, mm.

    Returns
    -------
    gain, offset : float32 array (X, Y, Z)
        Smooth maps: ratio of the local standard deviations (standardised major axis), and
        what brings the local means together.
    """
    window = Window(brain.shape, edges, MATCH_WINDOW_MM)
    weight = brain.astype(np.float32)
    for turn in range(_ROUNDS):
        total = window.sums(weight) + np.float32(1e-4)
        means = [window.sums(weight * one) / total for one in (before, after)]
        spreads = [
            np.sqrt(np.maximum(window.sums(weight * one * one) / total - mean**2, 1e-8))
            for one, mean in zip((before, after), means, strict=True)
        ]
        gain = np.clip(spreads[1] / spreads[0], *_GAINS)
        offset = window.grow(means[1] - gain * means[0])
        gain = window.grow(gain)
        if turn < _ROUNDS - 1:
            weight = brain * _weight(after - gain * before - offset, brain)
    return gain, offset


def _weight(residual: Floats, brain: Bools) -> Floats:
    spread = robust_spread(residual[brain])
    share = residual / np.float32(_TUKEY * spread)
    return np.asarray(np.clip(1 - share * share, 0, None) ** 2, dtype=np.float32)


def robust_spread(values: npt.NDArray[Any]) -> float:
    """Return the standard deviation by the median of absolute values, never zero."""
    return max(1.4826 * float(np.median(np.abs(values))), 1e-6)


class Window:
    """Sums of images in wide Gaussian windows, kept in blocks, which costs little.

    Parameters
    ----------
    shape : tuple of int
    edges : array (3,)
        Edges of a voxel, mm.
    width_mm : float
        Standard deviation of the window.
    """

    def __init__(
        self, shape: tuple[int, ...], edges: npt.NDArray[np.float64], width_mm: float
    ) -> None:
        self._shape = shape
        self._block = tuple(max(1, round(_BLOCK_MM / float(edge))) for edge in edges)
        self._width = width_mm / (edges * self._block)

    def sums(self, data: Floats) -> Floats:
        """Return the weighted mean in the window around each block."""
        pad = [(0, -n % k) for n, k in zip(data.shape, self._block, strict=True)]
        data = np.pad(data, pad)
        split = [
            part for n, k in zip(data.shape, self._block, strict=True) for part in (n // k, k)
        ]
        blocks = data.reshape(split).mean(axis=(1, 3, 5), dtype=np.float32)
        found = ndi.gaussian_filter(blocks, self._width, mode='constant', truncate=3)
        return np.asarray(found, dtype=np.float32)

    def grow(self, blocks: Floats) -> Floats:
        """Return values of blocks at each voxel, by linear interpolation."""
        index = np.diag([*(1 / np.array(self._block)), 1.0])
        index[:3, 3] = (index.diagonal()[:3] - 1) / 2
        return interpolate(blocks, index, self._shape)
