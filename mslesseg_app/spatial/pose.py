"""Rigid and affine poses as short vectors, so that an optimiser can walk among them.

A vector holds translations (3), rotations (3), logarithms of scales (3) and shears (3), all
in units that move a point at the edge of a brain by about a millimetre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

Vector = npt.NDArray[np.float64]
Affine = npt.NDArray[np.float64]

#: Radius (mm) that turns radians, log-scales and shears into millimetres.
RADIUS_MM = 80.0

#: Typical size of an adult head in units of the template (logarithm, axes x, y, z), which is
#: larger than most heads, and the spread among people; used as a weak prior.
SIZE_MEAN: Vector = np.array([-0.065, -0.04, -0.09])
SIZE_SPREAD = 0.07
SHEAR_SPREAD = 0.05


def no_move(dof: int) -> Vector:
    """Return the vector of the identity."""
    return np.zeros(dof)


def matrix(vector: Vector, centre: Vector, base: Affine) -> Affine:
    """Return ``base`` preceded by the pose: scale and shear, turn, then shift, about `centre`.

    Parameters
    ----------
    vector : ndarray, (n, 6), (n, 7), (n, 9), (n, 12) or one of its rows
        Six parameters are rigid, the seventh alone is a common scale.
    centre : ndarray, (3,)
        Point of the reference (mm) about which is turned.
    base : ndarray, (4, 4)
        Affine that is applied afterwards.

    Returns
    -------
    ndarray, (n, 4, 4) or (4, 4)
    """
    dof = vector.shape[-1]
    linear = _rotation(vector[..., 3:6] / RADIUS_MM)
    if dof == 7:
        linear = linear * np.exp(vector[..., 6] / RADIUS_MM)[..., None, None]
    elif dof > 7:
        linear = linear * np.exp(vector[..., 6:9] / RADIUS_MM)[..., None, :]
    if dof == 12:
        linear = linear @ _shear(vector[..., 9:12] / RADIUS_MM)
    pose = np.zeros((*vector.shape[:-1], 4, 4))
    pose[..., :3, :3] = linear
    pose[..., :3, 3] = centre + vector[..., :3] - linear @ centre
    pose[..., 3, 3] = 1.0
    return base @ pose


def _rotation(turns: Vector) -> Affine:
    """Return the rotations (n, 3, 3) of rotation vectors (n, 3), by Rodrigues' formula."""
    angle = np.linalg.norm(turns, axis=-1)[..., None, None]
    cross = np.zeros((*turns.shape[:-1], 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cross[..., k, j], cross[..., j, k] = turns[..., i], -turns[..., i]
    # sinc(t) is sin(pi t) / (pi t)
    sine, half = np.sinc(angle / np.pi), np.sinc(angle / (2 * np.pi))
    return np.eye(3) + sine * cross + 0.5 * half**2 * (cross @ cross)


def _shear(values: Vector) -> Affine:
    shear = np.broadcast_to(np.eye(3), (*values.shape[:-1], 3, 3)).copy()
    shear[..., 0, 1], shear[..., 0, 2] = values[..., 0], values[..., 1]
    shear[..., 1, 2] = values[..., 2]
    return shear


def derivative(vector: Vector, centre: Vector, base: Affine) -> npt.NDArray[np.float64]:
    """Return the derivative of `matrix` by each parameter, (n, 3, 4), by central differences."""
    step = 1e-4
    units = np.eye(vector.size) * step
    ahead, behind = matrix(vector + units, centre, base), matrix(vector - units, centre, base)
    slopes: npt.NDArray[np.float64] = (ahead - behind)[:, :3] / (2 * step)
    return slopes


@dataclass(frozen=True)
class Shape:
    """What an affine does to lengths and angles.

    Attributes
    ----------
    scales : tuple of float
        Factors along the reference's axes (x, y, z).
    shear : float
        Largest cosine between the images of two axes: 0 when angles are kept.
    rotation_deg : float
        Angle of the rotation that is closest to the affine.
    mirrored : bool
        Whether left and right are exchanged.
    """

    scales: tuple[float, float, float]
    shear: float
    rotation_deg: float
    mirrored: bool


def describe(affine: Affine) -> Shape:
    """Return scale, shear, rotation and handedness of an affine."""
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    scales = np.linalg.norm(linear, axis=0)
    cosines = (linear / scales).T @ (linear / scales)
    shear = float(np.abs(cosines - np.eye(3)).max())
    left, _, right = np.linalg.svd(linear)
    mirrored = bool(np.linalg.det(linear) < 0)
    turn = left @ np.diag([1.0, 1.0, -1.0 if mirrored else 1.0]) @ right
    angle = float(np.degrees(Rotation.from_matrix(turn).magnitude()))
    return Shape((float(scales[0]), float(scales[1]), float(scales[2])), shear, angle, mirrored)


def nearest_rigid(affine: Affine, centre: Vector) -> Affine:
    """Return the rigid matrix closest to `affine` that moves `centre` to the same place."""
    left, _, right = np.linalg.svd(affine[:3, :3])
    turn = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
    rigid = np.eye(4)
    rigid[:3, :3] = turn
    rigid[:3, 3] = affine[:3, :3] @ centre + affine[:3, 3] - turn @ centre
    return rigid


def start_at_header(log_size: Vector) -> Affine:
    """Return the pose that the headers claim, at a typical size."""
    return np.diag([*np.exp(log_size), 1.0])
