"""Can two sessions be compared? Alignment of the brains' edges, and contrast of the FLAIRs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Verdict = Literal['ok', 'suspect', 'failed']

#: Mean distance of the brains' edges (mm) from which the comparison is suspect, and failed.
EDGE_SUSPECT_MM, EDGE_FAILED_MM = 1.5, 4.0
#: Correlation of the two FLAIRs within the brain below which it is suspect, and failed.
CORRELATION_SUSPECT, CORRELATION_FAILED = 0.6, 0.2
_QUANTILES = np.linspace(0, 1, 65)[1:-1]
_MOST_POINTS = 60_000
#: Samples that lie this close to the edge of the brain (mm) say nothing of the contrast.
_INNER_MM = 3.0


@dataclass(frozen=True)
class Agreement:
    """How well two sessions agree once they are aligned.

    Attributes
    ----------
    edge_mm : float
        Mean distance between the edges of the two brain masks, both ways.
    correlation : float
        Pearson correlation of the two FLAIRs within the brain, after the intensities of the
        earlier one were matched to those of the later one.
    verdict : {'ok', 'suspect', 'failed'}
    reason : str
        Why it is not ``ok``.
    """

    edge_mm: float
    correlation: float
    verdict: Verdict
    reason: str = ''


def judge_agreement(edge_mm: float, correlation: float) -> Agreement:
    """Judge the numbers by their limits."""
    edge = _verdict(edge_mm, EDGE_SUSPECT_MM, EDGE_FAILED_MM)
    similar = _verdict(-correlation, -CORRELATION_SUSPECT, -CORRELATION_FAILED)
    reasons = []
    if edge != 'ok':
        reasons.append(f'the edges of the brains lie {edge_mm:.1f} mm apart')
    if similar != 'ok':
        reasons.append(f'the FLAIRs differ (correlation {correlation:.2f})')
    worst: Verdict = 'ok'
    for verdict in (edge, similar):
        if verdict == 'failed' or (verdict == 'suspect' and worst == 'ok'):
            worst = verdict
    return Agreement(edge_mm, correlation, worst, '; '.join(reasons))


def _verdict(value: float, suspect: float, failed: float) -> Verdict:
    if not np.isfinite(value) or value > failed:
        return 'failed'
    return 'suspect' if value > suspect else 'ok'


def edge_distance(before: Any, after: Any, after_from_before: Affine) -> float:
    """Return the mean distance (mm) between the edges of two brain masks, both ways.

    Edges at the border of the other image's field of view are left out: there the mask ends
    because the scan ends.

    Parameters
    ----------
    before, after : nibabel images
        Brain masks, each on its session's FLAIR.
    """
    there = _one_way(before, after, after_from_before)
    back = _one_way(after, before, invert(after_from_before))
    found = np.concatenate([there, back])
    return float(found.mean()) if found.size else float('nan')


def _one_way(source: Any, other: Any, other_from_source: Affine) -> Floats:
    mask, target = (np.asanyarray(one.dataobj) > 0 for one in (source, other))
    if not mask.any() or not target.any():
        return np.zeros(0)
    border = _edge(mask)
    border[[0, -1]] = border[:, [0, -1]] = border[:, :, [0, -1]] = False
    where = np.argwhere(border)
    where = where[:: max(1, len(where) // _MOST_POINTS)]
    index = apply_affine(compose(invert(other.affine), other_from_source, source.affine), where)
    inside = np.all((index >= 1) & (index <= np.array(target.shape) - 2), axis=1)
    size = np.linalg.norm(other.affine[:3, :3], axis=0)
    distance = ndimage.distance_transform_edt(~_edge(target), sampling=size)
    return np.asarray(ndimage.map_coordinates(distance, index[inside].T, order=1, mode='nearest'))


def _edge(mask: Bools) -> Bools:
    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=bool)


class ContrastChange:
    """How much brighter the brain became between two FLAIRs, place by place.

    The intensities of the earlier FLAIR are matched to those of the later one by their
    quantiles within the brain (lesions left out), so that gain, offset and any other change of
    contrast that keeps the order of the tissues cancels. What is left is divided by its robust
    standard deviation over the brain, which holds noise and what interpolation and alignment
    leave.

    Parameters
    ----------
    before, after : nibabel images
        FLAIRs without bias field.
    brain : nibabel image
        Brain mask on the later FLAIR.
    lesions : bool array
        Lesions of the later session on the same grid, left out of the statistics.
    after_from_before : array (4, 4)
        Points of the earlier FLAIR to points of the later one (RAS+ mm).

    Attributes
    ----------
    correlation : float
        Pearson correlation of matched intensities within the brain.
    """

    def __init__(
        self, before: Any, after: Any, brain: Any, lesions: Bools, after_from_before: Affine
    ) -> None:
        self._images = (before, after)
        self._data = [np.asanyarray(one.dataobj, dtype=np.float32) for one in (before, after)]
        self._before_from_after = invert(after_from_before)
        inner = _inner(brain, lesions)
        where = np.argwhere(inner)
        where = where[:: max(1, len(where) // _MOST_POINTS)]
        old, new = self._sample(apply_affine(after.affine, where))
        known = np.isfinite(old) & np.isfinite(new)
        old, new = old[known], new[known]
        self._known = old.size > 100
        self.correlation = float('nan')
        self._old = self._new = np.zeros(1)
        self._middle, self._sigma = 0.0, 1.0
        if self._known:
            self._old, self._new = np.quantile(old, _QUANTILES), np.quantile(new, _QUANTILES)
            self._fit(old, new)

    def _fit(self, old: Floats, new: Floats) -> None:
        matched = self._match(old)
        off = new - matched
        self._middle = float(np.median(off))
        self._sigma = max(1.4826 * float(np.median(np.abs(off - self._middle))), 1e-6)
        if np.std(matched) > 0 and np.std(new) > 0:
            self.correlation = float(np.corrcoef(matched, new)[0, 1])

    def at(self, points: Floats) -> Floats:
        """Return the change at points (n, 3) of the later FLAIR, in standard deviations.

        NaN outside of either image.
        """
        if not self._known:
            return np.full(len(points), np.nan)
        old, new = self._sample(points)
        return np.asarray((new - self._match(old) - self._middle) / self._sigma)

    def __call__(self, points: Floats, around: Floats, later: bool) -> tuple[float, float]:
        """Return the change of a lesion: in standard deviations, and as a share of its contrast.

        Parameters
        ----------
        points, around : arrays (n, 3)
            Of the lesion and of its surroundings, in the later FLAIR (RAS+ mm).
        later : bool
            The later session has it; otherwise the earlier one.

        Returns
        -------
        deviations, share : float
            Positive where it became brighter; NaN where that is unknown. A lesion that is no
            brighter than its surroundings where its mask is has a share of 0.
        """
        if not self._known:
            return float('nan'), float('nan')
        (old, new), (far_old, far_new) = self._sample(points), self._sample(around)
        off = _mean(new - self._match(old)) - self._middle
        own, far = (new, far_new) if later else (self._match(old), self._match(far_old))
        excess = _mean(own) - _mean(far)
        if np.isnan(off) or np.isnan(excess):
            return off / self._sigma, float('nan')
        return off / self._sigma, off / excess if excess > 0 else 0.0

    def _match(self, old: Floats) -> Floats:
        """Map intensities of the earlier FLAIR; beyond the quantiles by the overall scale."""
        matched = np.interp(old, self._old, self._new)
        spread = self._old[-1] - self._old[0]
        scale = (self._new[-1] - self._new[0]) / spread if spread > 0 else 1.0
        beyond = np.clip(old - self._old[-1], 0, None) + np.clip(old - self._old[0], None, 0)
        return np.asarray(matched + scale * beyond)

    def _sample(self, points: Floats) -> tuple[Floats, Floats]:
        moved = apply_affine(self._before_from_after, points)
        old, new = (
            ndimage.map_coordinates(
                data,
                apply_affine(invert(image.affine), places).T,
                order=1,
                mode='constant',
                cval=np.nan,
            )
            for data, image, places in zip(self._data, self._images, (moved, points), strict=True)
        )
        return old.astype(np.float64), new.astype(np.float64)


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float('nan')


def _inner(brain: Any, lesions: Bools) -> Bools:
    """Return the inner part of the brain without lesions."""
    mask = np.asanyarray(brain.dataobj) > 0
    size = np.linalg.norm(brain.affine[:3, :3], axis=0)
    inner = ndimage.distance_transform_edt(mask, sampling=size) > _INNER_MM
    if not inner.any():
        inner = mask
    return np.asarray(inner & ~ndimage.binary_dilation(lesions, iterations=2), dtype=bool)
