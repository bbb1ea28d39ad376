"""Can two sessions be compared? Alignment of the brains' edges, contrast and resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.core.status import CheckStatus, worst
from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert
from mslesseg_app.spatial.shapes import box_of
from mslesseg_app.spatial.surfaces import surface

Floats = npt.NDArray[np.float64]

#: Mean distance of the brains' edges (mm) from which the comparison needs a check, and fails.
EDGE_CHECK_MM, EDGE_FAIL_MM = 1.5, 4.0
#: Correlation of the two FLAIRs within the brain below which it needs a check, and fails.
CORRELATION_CHECK, CORRELATION_FAIL = 0.6, 0.2
#: Smoothing of the sharper FLAIR (mm) from which it needs a check: the widest that is tried.
#: Less than a voxel says nothing: interpolation between coarse voxels blurs as much.
SMOOTHING_CHECK_MM = 1.7
_MOST_POINTS = 60_000


@dataclass(frozen=True)
class Agreement:
    """How well two sessions agree once they are aligned.

    Attributes
    ----------
    edge_mm : float
        Mean distance between the edges of the two brain masks, both ways.
    correlation : float
        Pearson correlation of the two FLAIRs within the brain, matched in resolution and
        intensity.
    smoothing_mm : float
        How much the sharper FLAIR was smoothed.
    status : {'pass', 'check', 'fail'}
    reason : str
        Why it is not ``pass``.
    """

    edge_mm: float
    correlation: float
    smoothing_mm: float
    status: CheckStatus
    reason: str = ''


def check_agreement(
    edge_mm: float, correlation: float, smoothing_mm: float = 0.0, voxel_mm: float = 1.0
) -> Agreement:
    """Compare the numbers with their limits; ``voxel_mm`` is the edge of a voxel in plane."""
    edge = _status(edge_mm, EDGE_CHECK_MM, EDGE_FAIL_MM)
    similar = _status(-correlation, -CORRELATION_CHECK, -CORRELATION_FAIL)
    reasons = []
    if edge != 'pass':
        reasons.append(f'the edges of the brains lie {edge_mm:.1f} mm apart')
    if similar != 'pass':
        reasons.append(f'the FLAIRs differ (correlation {correlation:.2f})')
    least = max(SMOOTHING_CHECK_MM, voxel_mm)
    blurred: CheckStatus = 'check' if smoothing_mm >= least else 'pass'
    if blurred != 'pass':
        reasons.append('the FLAIRs differ in resolution')
    status = worst((edge, similar, blurred))
    return Agreement(edge_mm, correlation, smoothing_mm, status, '; '.join(reasons))


def _status(value: float, check: float, fail: float) -> CheckStatus:
    if not np.isfinite(value) or value > fail:
        return 'fail'
    return 'check' if value > check else 'pass'


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
    border = surface(mask)
    border[[0, -1]] = border[:, [0, -1]] = border[:, :, [0, -1]] = False
    where = np.argwhere(border)
    where = where[:: max(1, len(where) // _MOST_POINTS)]
    index = apply_affine(compose(invert(other.affine), other_from_source, source.affine), where)
    inside = np.all((index >= 1) & (index <= np.array(target.shape) - 2), axis=1)
    index = index[inside]
    if not len(index):
        return np.zeros(0)
    goal = surface(target)
    low, high = np.floor(index.min(axis=0)).astype(int), np.ceil(index.max(axis=0)).astype(int)
    for axis, edge in enumerate(box_of(goal, 0)):
        low[axis], high[axis] = min(low[axis], edge.start), max(high[axis] + 1, edge.stop)
    part = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    size = np.linalg.norm(other.affine[:3, :3], axis=0)
    distance = ndimage.distance_transform_edt(~goal[part], sampling=size)
    return np.asarray(ndimage.map_coordinates(distance, (index - low).T, order=1, mode='nearest'))
