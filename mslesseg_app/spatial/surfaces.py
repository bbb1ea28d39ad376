"""Distances between the surfaces of two masks, without a distance image.

A search tree over the surface voxels answers exactly what a distance transform does, and only
where it is asked: lesions fill little of the box that holds them all. Voxels that lie on both
surfaces are at distance zero and are not looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Mask = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm from each surface voxel of one mask to the nearest of the other.

    Attributes
    ----------
    to_true : float array (n,)
        From the surface of the prediction; voxels on both surfaces are the zeros at the front.
    to_predicted : float array (m,)
        From the surface of the reference.
    """

    to_true: Distances
    to_predicted: Distances

    def mean(self) -> float:
        """Return the average symmetric surface distance, pooled (equation 5 of the paper)."""
        total = float(self.to_true.sum()) + float(self.to_predicted.sum())
        return total / (self.to_true.size + self.to_predicted.size)

    def mean_of_means(self) -> float:
        """Return the mean of the two directed mean distances."""
        return (float(self.to_true.mean()) + float(self.to_predicted.mean())) / 2

    def percentile(self, percent: float) -> float:
        """Return the larger of the two directed percentiles (linear interpolation)."""
        return max(float(np.percentile(d, percent)) for d in (self.to_true, self.to_predicted))

    def pooled_percentile(self, percent: float) -> float:
        """Return the percentile of all distances together."""
        return float(np.percentile(np.concatenate([self.to_true, self.to_predicted]), percent))

    def within(self, tolerance_mm: float) -> float:
        """Return the share of all surface voxels within a tolerance of the other surface.

        A relative 1e-9 absorbs the rounding of voxel sizes such as 0.1 mm.
        """
        limit = tolerance_mm * (1 + 1e-9)
        near = sum(int(np.count_nonzero(d <= limit)) for d in (self.to_true, self.to_predicted))
        return near / (self.to_true.size + self.to_predicted.size)


def surface(mask: Mask) -> Mask:
    """Return the voxels of a mask (X, Y, Z) that have a face towards the outside.

    The edge of the image counts as outside.
    """
    enclosed = mask.copy()
    for axis in range(3):
        ahead, behind = np.moveaxis(enclosed, axis, 0), np.moveaxis(mask, axis, 0)
        ahead[:-1] &= behind[1:]
        ahead[1:] &= behind[:-1]
        ahead[:1] = False
        ahead[-1:] = False
    return mask & ~enclosed


def surface_distances(
    edge_predicted: Mask, edge_true: Mask, spacing_mm: Sequence[float]
) -> SurfaceDistances:
    """Measure between the centres of the voxels of two surfaces.

    Parameters
    ----------
    edge_predicted, edge_true : bool array (X, Y, Z)
        Voxels to measure between, as `surface` gives them; none of them empty.
    spacing_mm : three floats
        Voxel sizes, in mm.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    tree, points, shared = {}, {}, {}
    for name, edge, other in (
        ('predicted', edge_predicted, edge_true),
        ('true', edge_true, edge_predicted),
    ):
        flat = np.flatnonzero(edge)
        shared[name] = other.ravel()[flat]
        points[name] = np.stack(np.unravel_index(flat, edge.shape), axis=1) * spacing
        tree[name] = cKDTree(points[name], leafsize=32, balanced_tree=False, compact_nodes=False)
    common = int(np.count_nonzero(shared['true']))
    return SurfaceDistances(
        _with_zeros(common, tree['true'], points['predicted'][~shared['predicted']]),
        _with_zeros(common, tree['predicted'], points['true'][~shared['true']]),
    )


def _with_zeros(count: int, tree: cKDTree, points: npt.NDArray[np.float64]) -> Distances:
    found = tree.query(points)[0] if len(points) else np.zeros(0)
    return np.concatenate([np.zeros(count), found])
