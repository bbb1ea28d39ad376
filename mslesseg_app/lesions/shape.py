"""Width and elongation of a lesion."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

Array = npt.NDArray[np.float64]


def min_feret_diameter(mask: npt.NDArray[np.bool_], affine: Array) -> float:
    """Return the smallest width of the outline of a mask, in mm.

    It is the smallest distance of two parallel planes with the lesion between them, one of which
    lies on a face of its convex hull. Voxels are boxes, as in
    `mslesseg_app.lesions.table.feret_diameter`: one voxel is as wide as its shortest edge.

    Parameters
    ----------
    mask : bool array (X, Y, Z)
        At least one voxel.
    affine : array (4, 4)
        Voxel indices to millimetres; shears and rotations count.
    """
    points = outer_corners(mask) @ np.asarray(affine, dtype=float)[:3, :3].T
    hull = ConvexHull(points)
    normals = np.unique(np.round(hull.equations[:, :3], 9), axis=0)
    heights = points[hull.vertices] @ normals.T
    return float((heights.max(axis=0) - heights.min(axis=0)).min())


def elongation(mask: npt.NDArray[np.bool_], affine: Array) -> float:
    """Return how many times longer than wide a mask is; 1 for a ball or a cube.

    It is the ratio of the longest to the shortest axis of the ellipsoid that has the second
    moments of the mask. Voxels are boxes, so that flat lesions keep a thickness.

    Parameters
    ----------
    mask : bool array (X, Y, Z)
        At least one voxel.
    affine : array (4, 4)
        Voxel indices to millimetres; shears and rotations count.
    """
    matrix = np.asarray(affine, dtype=float)[:3, :3]
    voxels = np.argwhere(mask).astype(float)
    voxels -= voxels.mean(axis=0)
    moments = np.einsum('ni,nj->ij', voxels, voxels) / len(voxels) + np.eye(3) / 12
    axes = np.linalg.eigvalsh(matrix @ moments @ matrix.T)
    return float(np.sqrt(axes[-1] / axes[0]))


def outer_corners(mask: npt.NDArray[np.bool_]) -> Array:
    """Return the corners (N, 3), in voxels, of the first and last voxel of each column."""
    first = mask.argmax(axis=2)
    last = mask.shape[2] - 1 - mask[:, :, ::-1].argmax(axis=2)
    x, y = np.nonzero(mask.any(axis=2))
    ends = np.concatenate(
        [np.stack([x, y, first[x, y]], axis=1), np.stack([x, y, last[x, y]], axis=1)]
    )
    offsets = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    corners = np.unique((ends[:, None, :] + offsets).reshape(-1, 3), axis=0)
    return np.asarray(corners, dtype=float)
