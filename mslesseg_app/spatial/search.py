"""Finding the pose of an image: a coarse search without a start, and its refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from mslesseg_app.spatial import pose
from mslesseg_app.spatial.similarity import Affine, Samples, SmoothedVolume, quick_scores, score

#: Turns that the coarse search tries about x (nodding), y and z, in degrees.
_NODS = (-45, -30, -15, 0, 15, 30, 45)
_TILTS = (-30, -15, 0, 15, 30)
#: Shifts that it tries about each assumed centre, along the head's own axes, in mm.
_ACROSS = (0,)
_ALONG = (-20, 0, 20)
_UP = (-25, -5, 15, 35, 55, 75)
#: Of the shifts of one turn, so many are worth keeping.
_KEEP_SHIFTS = 4
#: A pose that leaves less than this of the samples in the field of view is no candidate.
_LEAST_OVERLAP = 0.2
#: Weight of the prior on size and shear against the similarity.
_PRIOR = 0.004
#: Of the wrong poses that a right one is compared with.
_NULL_SEED = 20250731


@dataclass(frozen=True)
class Candidate:
    """A pose and what speaks for it.

    Attributes
    ----------
    affine : ndarray, (4, 4)
        ``moving_from_reference`` (RAS+ mm).
    nmi : float
    overlap : float
        Share of the samples in the field of view.
    cost : float
        What was minimised: smaller is better.
    """

    affine: Affine
    nmi: float
    overlap: float
    cost: float


def rotations() -> list[Affine]:
    """Return the rotations (3, 3) of the coarse search, the upright one first."""
    angles = sorted(product(_NODS, _TILTS, _TILTS), key=lambda turn: (sum(map(abs, turn)), turn))
    return [Rotation.from_euler('xyz', turn, degrees=True).as_matrix() for turn in angles]


def shifts() -> list[npt.NDArray[np.float64]]:
    """Return the shifts (mm) of the coarse search, along the axes of the turned head."""
    return [np.array(shift, dtype=np.float64) for shift in product(_ACROSS, _ALONG, _UP)]


def coarse(
    volume: SmoothedVolume,
    samples: Samples,
    centres: Sequence[npt.NDArray[np.float64]],
    scale: npt.NDArray[np.float64],
    keep: int,
) -> list[Candidate]:
    """Try every rotation and shift about every centre; return the best that differ.

    Parameters
    ----------
    volume, samples
        Moving image and reference at a coarse level.
    centres : sequence of ndarray, (3,)
        Where in the moving image (mm) the centre of the samples may lie.
    scale : ndarray, (3,)
        Size of the subject in units of the reference, along its axes.
    keep : int
        How many to return.
    """
    found: list[Candidate] = []
    for turn in rotations():
        linear = turn * scale
        offsets = [centre + turn @ shift for centre in centres for shift in shifts()]
        moves = np.array(offsets) - linear @ samples.centre
        nmi, overlap = quick_scores(volume, samples, linear, moves)
        cost = rank(nmi, overlap)
        for k in np.argsort(cost, kind='stable')[:_KEEP_SHIFTS]:
            affine = np.eye(4)
            affine[:3, :3], affine[:3, 3] = linear, moves[k]
            found.append(Candidate(affine, float(nmi[k]), float(overlap[k]), float(cost[k])))
    return distinct(found, samples, keep, apart_mm=15.0)


def evaluate(
    volume: SmoothedVolume, samples: Samples, affine: Affine, prior: bool = False
) -> Candidate:
    """Score one pose as it stands; `prior` adds the cost of an unusual size."""
    result = score(volume, samples, affine, gradient=False)
    extra = size_prior(affine)[0] if prior else 0.0
    cost = float(rank(result.nmi, result.overlap)) + extra
    return Candidate(affine, result.nmi, result.overlap, cost)


def rank(nmi: npt.ArrayLike, overlap: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the cost by which poses of different overlap are compared."""
    gain, share = np.asarray(nmi) - 1.0, np.asarray(overlap)
    return np.where(share > _LEAST_OVERLAP, -gain * np.sqrt(share), 0.0)


def distinct(
    found: Sequence[Candidate], samples: Samples, keep: int, apart_mm: float
) -> list[Candidate]:
    """Return the best candidates of which no two are closer than `apart_mm` to each other."""
    spread = samples.points[:, :: max(1, samples.points.shape[1] // 30)]
    chosen: list[Candidate] = []
    for one in sorted(found, key=lambda candidate: candidate.cost):
        if all(distance(one.affine, other.affine, spread) > apart_mm for other in chosen):
            chosen.append(one)
        if len(chosen) == keep:
            break
    return chosen


def distance(first: Affine, second: Affine, points: npt.NDArray[np.float64]) -> float:
    """Return the mean distance (mm) between where two affines send points (3, N)."""
    change = first - second
    moved = change[:3, :3] @ points + change[:3, 3:]
    return float(np.sqrt((moved**2).sum(axis=0)).mean())


def refine(
    volume: SmoothedVolume,
    samples: Samples,
    start: Affine,
    dof: int,
    prior: bool = False,
    iterations: int = 40,
) -> Candidate:
    """Climb from a pose to the nearest best one.

    Parameters
    ----------
    volume, samples
        Moving image and reference at one level.
    start : ndarray, (4, 4)
        ``moving_from_reference``; what the pose cannot express (``dof`` 6 cannot scale) is kept.
    dof : {6, 7, 9, 12}
    prior : bool
        Whether the size and shear of the whole affine are drawn to those of people.
    iterations : int
        Largest number of steps.
    """
    centre = samples.centre

    def cost(vector: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        affine = pose.matrix(vector, centre, start)
        result = score(volume, samples, affine)
        slopes = pose.derivative(vector, centre, start)
        gradient = -(slopes * result.gradient).sum(axis=(1, 2))
        value = -result.nmi
        if prior:
            extra, by_matrix = size_prior(affine)
            value += extra
            gradient = gradient + (slopes[:, :, :3] * by_matrix).sum(axis=(1, 2))
        return value, gradient

    options = {'maxiter': iterations, 'ftol': 1e-7, 'gtol': 1e-7, 'maxcor': 12}
    first = pose.no_move(dof)
    found = minimize(cost, first, jac=True, method='L-BFGS-B', options=options)
    return evaluate(volume, samples, pose.matrix(found.x, centre, start), prior)


def stands_out(
    volume: SmoothedVolume, samples: Samples, affine: Affine, count: int = 40
) -> tuple[float, float, float]:
    """Compare the similarity of a pose with that of poses that are surely wrong.

    Returns
    -------
    tuple of float
        The similarity, and mean and standard deviation over `count` poses that are off by
        15-35 mm and 15-40 degrees (the same ones each time).
    """
    right = score(volume, samples, affine, gradient=False).nmi
    wrong = np.array(
        [
            score(volume, samples, affine @ move, gradient=False).nmi
            for move in _displacements(samples.centre, count)
        ]
    )
    return right, float(wrong.mean()), max(float(wrong.std()), 1e-6)


def _displacements(centre: npt.NDArray[np.float64], count: int) -> Affine:
    """Return rigid moves (count, 4, 4) about a centre."""
    random = np.random.default_rng(_NULL_SEED)
    axes = random.normal(size=(2, count, 3))
    axes /= np.linalg.norm(axes, axis=2, keepdims=True)
    shift = axes[0] * random.uniform(15, 35, size=(count, 1))
    turn = axes[1] * np.radians(random.uniform(15, 40, size=(count, 1))) * pose.RADIUS_MM
    return pose.matrix(np.concatenate([shift, turn], axis=1), centre, np.eye(4))


def size_prior(affine: Affine) -> tuple[float, npt.NDArray[np.float64]]:
    """Return the cost of an unusual size or shear, and its derivative by the matrix (3, 3).

    Size and shear come from the matrix of squared lengths and inner products of the columns,
    which no rotation changes.
    """
    linear = affine[:3, :3]
    squares = (linear**2).sum(axis=0)
    off = (0.5 * np.log(squares) - pose.SIZE_MEAN) / pose.SIZE_SPREAD
    value = float((off**2).sum())
    slope = 2 * off / pose.SIZE_SPREAD / squares * linear
    for i, j in ((0, 1), (0, 2), (1, 2)):
        inner = float(linear[:, i] @ linear[:, j]) / pose.SHEAR_SPREAD
        value += inner**2
        slope[:, i] += 2 * inner / pose.SHEAR_SPREAD * linear[:, j]
        slope[:, j] += 2 * inner / pose.SHEAR_SPREAD * linear[:, i]
    return _PRIOR * value, _PRIOR * slope
