"""Lesions of two sessions that belong together: those that share volume, or come close."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert

Labels = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]
Status = Literal['stable', 'new', 'enlarging', 'shrinking', 'resolved', 'one-mask']

#: Distance of the points that stand for a voxel, mm.
_POINT_MM = 0.7


@dataclass(frozen=True)
class Session:
    """What is compared of one session.

    Attributes
    ----------
    labels : int array (X, Y, Z)
        Lesion instances, 1 to n, on the grid of the session's FLAIR.
    affine : array (4, 4)
        Voxel indices to RAS+ millimetres of that grid.
    """

    labels: Labels
    affine: Affine

    def __post_init__(self) -> None:
        if np.ndim(self.labels) != 3:
            raise DataError(f'Lesion labels have {np.ndim(self.labels)} dimensions, not three.')

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def edges(self) -> Floats:
        """Edges of a voxel, mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def count(self) -> int:
        """Number of the last lesion."""
        return int(np.max(self.labels, initial=0))

    def volumes(self) -> Floats:
        """Volume of each lesion, mm³; the first is that of lesion 1."""
        sizes = np.bincount(np.ravel(self.labels), minlength=self.count + 1)[1:]
        return np.asarray(sizes * self.voxel_mm3, dtype=float)


@dataclass
class Group:
    """Lesions of two sessions that belong together, or a change that neither mask has.

    Attributes
    ----------
    before, after : tuple of int
        Numbers of the lesions in the earlier and in the later session.
    volume_before, volume_after, shared : float
        Volumes in mm³ by the masks; ``shared`` is the volume that both sessions have.
    centroid : tuple of float
        Centre in the later session's FLAIR (RAS+ mm); of what is gone, where it was.
    brighter, darker : float
        Volume (mm³) of the regions where the FLAIR became brighter and darker.
    z_peak, z_mean : float
        Largest and mean difference of the FLAIRs in these regions, in standard deviations,
        negative where it became darker; NaN without change.
    was_lesion, is_lesion : float
        Share of these regions that the earlier and the later FLAIR show as lesion tissue.
    status : str or None
        None for what lies outside of the other scan.
    note : str
        What a reader should know of it.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    volume_before: float
    volume_after: float
    shared: float
    centroid: tuple[float, float, float]
    brighter: float = 0.0
    darker: float = 0.0
    z_peak: float = float('nan')
    z_mean: float = float('nan')
    was_lesion: float = 0.0
    is_lesion: float = 0.0
    status: Status | None = None
    note: str = ''

    @property
    def difference(self) -> float:
        """Change of volume by the masks, mm³."""
        return self.volume_after - self.volume_before

    @property
    def matched(self) -> bool:
        """Whether both masks have it."""
        return bool(self.before and self.after)

    @property
    def changed(self) -> bool:
        """Whether the FLAIRs differ there."""
        return self.brighter + self.darker > 0


def form_groups(before: Session, after: Session, move: Affine, near_mm: float) -> list[Group]:
    """Form the groups and measure them."""
    shared = overlaps(before, after, move)
    meets = shared > 0
    meets |= _near(before, after, move, meets, near_mm)
    sizes = before.volumes(), after.volumes()
    centres = _centres(before, move), _centres(after, np.eye(4))
    groups = []
    for olds, news in _components(meets):
        index = (np.array(olds, dtype=int) - 1, np.array(news, dtype=int) - 1)
        volumes = [sizes[k][index[k]] for k in (0, 1)]
        side = 1 if news else 0
        centre = np.average(centres[side][index[side]], axis=0, weights=volumes[side])
        groups.append(
            Group(
                olds,
                news,
                float(volumes[0].sum()),
                float(volumes[1].sum()),
                float(shared[np.ix_(*index)].sum()),
                (float(centre[0]), float(centre[1]), float(centre[2])),
            )
        )
    return sorted(groups, key=lambda g: (not g.after, *(g.after or g.before)))


def voxel_points(session: Session, where: npt.NDArray[np.intp]) -> Floats:
    """Return the points that stand for voxels, shape (n, k, 3), RAS+ mm.

    Parameters
    ----------
    where : array (n, 3)
        Indices of the voxels.
    """
    counts = np.maximum(np.ceil(session.edges / _POINT_MM).astype(int), 1)
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    offsets = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1).reshape(-1, 3)
    return apply_affine(session.affine, where[:, None, :] + offsets)


def labels_at(session: Session, points: Floats) -> npt.NDArray[np.int64]:
    """Return the lesion that each point (RAS+ mm) of a session lies in; 0 for none."""
    index = np.rint(apply_affine(invert(session.affine), points)).astype(int)
    inside = np.all((index >= 0) & (index < session.labels.shape), axis=-1)
    found = np.zeros(points.shape[:-1], dtype=np.int64)
    found[inside] = session.labels[tuple(index[inside].T)]
    return found


def overlaps(before: Session, after: Session, move: Affine) -> Floats:
    """Return the volume (mm³) that each lesion of one session shares with each of the other.

    Returns
    -------
    float array (lesions before, lesions after)
        The mean of what is counted from either side.
    """
    shape = (before.count + 1, after.count + 1)
    there = _count_pairs(before, after, move, shape)
    back = _count_pairs(after, before, invert(move), shape[::-1])
    return np.asarray((there + back.T) / 2)[1:, 1:]


def _count_pairs(
    source: Session, other: Session, other_from_source: Affine, shape: tuple[int, ...]
) -> Floats:
    where = np.argwhere(source.labels > 0)
    table = np.zeros(shape)
    if not len(where):
        return table
    points = apply_affine(other_from_source, voxel_points(source, where))
    met = labels_at(other, points)
    own = np.broadcast_to(source.labels[tuple(where.T)][:, None], met.shape)
    np.add.at(table, (own.ravel(), met.ravel()), source.voxel_mm3 / met.shape[1])
    return table


def _near(
    before: Session, after: Session, move: Affine, meets: npt.NDArray[np.bool_], near_mm: float
) -> npt.NDArray[np.bool_]:
    """Return which lesions that nothing meets come close to each other."""
    close = np.zeros_like(meets)
    lonely = np.flatnonzero(~meets.any(axis=1)) + 1
    others = np.flatnonzero(~meets.any(axis=0)) + 1
    if near_mm <= 0 or not (lonely.size and others.size):
        return close
    from scipy.spatial import cKDTree

    moved = {
        int(k): apply_affine(move, voxel_points(before, np.argwhere(before.labels == k)))
        for k in lonely
    }
    trees = {k: cKDTree(points.reshape(-1, 3)) for k, points in moved.items()}
    for other in others:
        points = voxel_points(after, np.argwhere(after.labels == other)).reshape(-1, 3)
        for k, tree in trees.items():
            distance, _ = tree.query(points, distance_upper_bound=near_mm + _POINT_MM)
            close[k - 1, other - 1] = distance.min() <= near_mm + _POINT_MM / 2
    return close


def _components(meets: npt.NDArray[np.bool_]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the numbers of lesions, before and after, of each group."""
    n_before, n_after = meets.shape
    rows, columns = np.nonzero(meets)
    total = n_before + n_after
    graph = coo_array((np.ones(rows.size), (rows, columns + n_before)), shape=(total, total))
    count, member = connected_components(graph, directed=False)
    groups: list[tuple[list[int], list[int]]] = [([], []) for _ in range(count)]
    for place, group in enumerate(member):
        side, number = (0, place + 1) if place < n_before else (1, place - n_before + 1)
        groups[group][side].append(number)
    return [(tuple(olds), tuple(news)) for olds, news in groups]


def _centres(session: Session, move: Affine) -> Floats:
    if not session.count:
        return np.zeros((0, 3))
    where = np.nonzero(session.labels)
    of = session.labels[where]
    sizes = np.bincount(of, minlength=session.count + 1)[1:]
    sums = [np.bincount(of, weights=axis, minlength=session.count + 1)[1:] for axis in where]
    return apply_affine(compose(move, session.affine), (np.array(sums) / sizes).T)
