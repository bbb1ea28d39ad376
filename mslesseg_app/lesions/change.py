"""Change of lesions between two sessions: which are new, larger, smaller, gone.

The sessions are compared through a rigid move between their images. No image is resampled: each
lesion voxel is taken as a set of points that are moved into the other session's labels, in both
directions, so that neither session is privileged and no lesion is lost between two grids.
Lesions of both sessions that share volume form a group, which is judged as one: so lesions that
merge or split are neither new nor gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mslesseg_app.errors import DataError
from mslesseg_app.lesions.change_rules import STATUS_CODES, ChangeRules, Status
from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert

Labels = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]
Contrast = Callable[[Floats, Floats, bool], tuple[float, float]]

#: Distance of the points that stand for a voxel, mm.
_POINT_MM = 0.7
#: Voxels this far from a lesion (mm) are its surroundings.
_AROUND_MM = (2.0, 5.0)
#: Surface of a staircase of voxels over that of the smooth body within (mean over directions).
_STAIRCASE = 1.5


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
    """Lesions of two sessions that belong together.

    Attributes
    ----------
    before, after : tuple of int
        Numbers of the lesions in the earlier and in the later session.
    volume_before, volume_after, shared : float
        Volumes in mm³; ``shared`` is the volume that both sessions have.
    surface : float
        Surface, mm², mean of both sessions.
    centroid : tuple of float
        Centre in the later session's FLAIR (RAS+ mm); of what is gone, where it was.
    status : str or None
        None for what is too small to be judged.
    note : str
        What a reader should know of it.
    contrast : float
        How much brighter it is on the later FLAIR than on the earlier one, in standard
        deviations of the difference of both (NaN if unknown).
    contrast_share : float
        The same as a share of how much brighter than its surroundings it is in the session
        that has it: 1 for a lesion that appeared, -1 for one that is gone, 0 for no change.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    volume_before: float
    volume_after: float
    shared: float
    surface: float
    centroid: tuple[float, float, float]
    status: Status | None = None
    note: str = ''
    contrast: float = float('nan')
    contrast_share: float = float('nan')

    @property
    def difference(self) -> float:
        """Change of volume, mm³."""
        return self.volume_after - self.volume_before

    @property
    def matched(self) -> bool:
        """Whether both sessions have it."""
        return bool(self.before and self.after)

    @property
    def displacement(self) -> float:
        """Mean outward move of the boundary, mm."""
        return self.difference / self.surface if self.surface else 0.0


@dataclass(frozen=True)
class BoundaryShift:
    """How the boundaries of the lesions that both sessions have moved as a whole.

    A difference of contrast or threshold moves the boundaries of all lesions alike; what is
    left are the lesions that move on their own.

    Attributes
    ----------
    shift_mm : float
        Median move of the boundary over the lesions that both sessions have; 0 for fewer than
        five of them.
    tolerance_mm : float
        A boundary that moves by less than this beyond the shift has not moved.
    count : int
        Number of lesions that both sessions have.
    """

    shift_mm: float
    tolerance_mm: float
    count: int


@dataclass
class Comparison:
    """Two sessions compared.

    Attributes
    ----------
    groups : list of Group
        Ordered by the lesions of the later session, what is gone last.
    boundary : BoundaryShift
    """

    groups: list[Group] = field(default_factory=list)
    boundary: BoundaryShift = BoundaryShift(0.0, 0.0, 0)

    def statuses(self) -> dict[int, Status | None]:
        """Return the status of each lesion of the later session."""
        return {number: one.status for one in self.groups for number in one.after}


def compare_sessions(
    before: Session,
    after: Session,
    after_from_before: npt.ArrayLike,
    rules: ChangeRules,
    *,
    near_mm: float = 1.0,
    contrast: Contrast | None = None,
    trust_contrast: bool = True,
) -> Comparison:
    """Compare the lesions of two sessions.

    Parameters
    ----------
    before, after : Session
        The earlier and the later session.
    after_from_before : array_like, (4, 4)
        Rigid move, RAS+ mm: points of the earlier FLAIR to points of the later one.
    rules : ChangeRules
    near_mm : float
        A lesion that only the later session has and one that only the earlier has are the same
        lesion, seen at slightly different places, when they come closer than this.
    contrast : callable, optional
        Given points of a lesion and of its surroundings, shape (n, 3), RAS+ mm in the later
        FLAIR, and whether the later session has it, returns ``contrast`` and
        ``contrast_share`` of `Group`; see `mslesseg_app.lesions.change_guard.ContrastChange`.
    trust_contrast : bool
        Whether a lesion is new (resolved) only where the FLAIR became brighter (darker). Masks
        that a person has edited are taken at their word.

    Returns
    -------
    Comparison
        Sessions without change give only ``stable``.
    """
    move = np.asarray(after_from_before, dtype=float)
    groups = _groups(before, after, move, near_mm)
    boundary = boundary_shift([g for g in groups if g.matched], before, after)
    for group in groups:
        if not group.matched:
            points = _group_points(group, before, after, move)
            if _covered(points, before, after, move) < 0.5:
                group.note = _NOT_SEEN
                continue
            if contrast is not None:
                around = _surroundings(group, before, after, move)
                group.contrast, group.contrast_share = contrast(points, around, bool(group.after))
        _judge(group, rules, boundary, trust_contrast)
    return Comparison(groups, boundary)


def _groups(before: Session, after: Session, move: Affine, near_mm: float) -> list[Group]:
    """Form the groups and measure them."""
    shared = overlaps(before, after, move)
    meets = shared > 0
    meets |= _near(before, after, move, meets, near_mm)
    sizes = before.volumes(), after.volumes()
    areas = surfaces(before), surfaces(after)
    centres = _centres(before, move), _centres(after, np.eye(4))
    groups = []
    for olds, news in _components(meets):
        index = (np.array(olds, dtype=int) - 1, np.array(news, dtype=int) - 1)
        volumes = [sizes[k][index[k]] for k in (0, 1)]
        present = [areas[k][index[k]].sum() for k in (0, 1) if index[k].size]
        side = 1 if news else 0
        centre = np.average(centres[side][index[side]], axis=0, weights=volumes[side])
        groups.append(
            Group(
                olds,
                news,
                float(volumes[0].sum()),
                float(volumes[1].sum()),
                float(shared[np.ix_(*index)].sum()),
                float(np.mean(present)),
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


def surfaces(session: Session) -> Floats:
    """Return the surface of each lesion, mm²: that of its voxels, less the staircase."""
    labels = np.pad(np.asarray(session.labels), 1)
    count = session.count
    total = np.zeros(count + 1)
    edges = session.affine[:3, :3]
    for axis in range(3):
        one, two = (np.delete(edges, axis, axis=1)[:, k] for k in (0, 1))
        area = float(np.linalg.norm(np.cross(one, two)))
        first = np.take(labels, range(labels.shape[axis] - 1), axis=axis)
        second = np.take(labels, range(1, labels.shape[axis]), axis=axis)
        differ = first != second
        for side in (first, second):
            total += area * np.bincount(side[differ], minlength=count + 1)
    return np.asarray(total[1:] / _STAIRCASE)


def _centres(session: Session, move: Affine) -> Floats:
    numbers = np.arange(1, session.count + 1)
    if not numbers.size:
        return np.zeros((0, 3))
    found = ndimage.center_of_mass(session.labels > 0, session.labels, numbers)
    return apply_affine(compose(move, session.affine), np.array(found))


def boundary_shift(matched: list[Group], before: Session, after: Session) -> BoundaryShift:
    """Measure how the boundaries moved as a whole, and how much they differ by chance.

    The tolerance is three robust standard deviations of the moves, at least a quarter and at
    most three quarters of a voxel's edge (the geometric mean of both sessions' voxels).
    """
    edge = float((before.voxel_mm3 * after.voxel_mm3) ** (1 / 6))
    moves = np.array([group.displacement for group in matched])
    if moves.size < 5:
        return BoundaryShift(0.0, edge / 4, moves.size)
    shift = float(np.median(moves))
    spread = 3 * 1.4826 * float(np.median(np.abs(moves - shift)))
    return BoundaryShift(shift, float(np.clip(spread, edge / 4, 3 * edge / 4)), moves.size)


def _group_points(group: Group, before: Session, after: Session, move: Affine) -> Floats:
    """Return the centres of a group's voxels in the later FLAIR (RAS+ mm)."""
    if group.after:
        where = np.argwhere(np.isin(after.labels, group.after))
        return apply_affine(after.affine, where)
    where = np.argwhere(np.isin(before.labels, group.before))
    return apply_affine(compose(move, before.affine), where)


def _surroundings(group: Group, before: Session, after: Session, move: Affine) -> Floats:
    """Return the centres of voxels around a group, lesions left out, in the later FLAIR."""
    one, numbers, back = (
        (after, group.after, np.eye(4)) if group.after else (before, group.before, move)
    )
    mask = np.isin(one.labels, numbers)
    reach = np.ceil(_AROUND_MM[1] / one.edges).astype(int) + 1
    where = np.argwhere(mask)
    low = np.maximum(where.min(axis=0) - reach, 0)
    box = tuple(slice(a, b) for a, b in zip(low, where.max(axis=0) + reach + 1, strict=True))
    distance = ndimage.distance_transform_edt(~mask[box], sampling=one.edges)
    ring = (distance > _AROUND_MM[0]) & (distance <= _AROUND_MM[1]) & (one.labels[box] == 0)
    return apply_affine(compose(back, one.affine), np.argwhere(ring) + low)


def _covered(points: Floats, before: Session, after: Session, move: Affine) -> float:
    """Return the share of points (later FLAIR) that lie in the field of view of both sessions."""
    inside = np.ones(len(points), dtype=bool)
    for one, back in ((after, np.eye(4)), (before, invert(move))):
        index = apply_affine(compose(invert(one.affine), back), points)
        inside &= np.all((index > -0.5) & (index < np.array(one.labels.shape) - 0.5), axis=1)
    return float(inside.mean())


#: How many standard deviations brighter (darker) a new (resolved) lesion must have become, and
#: which share of what sets it off from its surroundings.
CONTRAST_LIMIT, CONTRAST_SHARE_LIMIT = 2.0, 0.5

_NOT_SEEN = 'outside of the other scan'
_TOO_SMALL = 'too small to be judged'
_SAME_CONTRAST = 'in one mask only; the FLAIR does not differ there'


def _judge(
    group: Group, rules: ChangeRules, boundary: BoundaryShift, trust_contrast: bool
) -> None:
    """Give a group its status."""
    if not group.matched or _without_past(group, rules):
        _judge_lonely(group, rules, trust_contrast)
        return
    net = group.difference - boundary.shift_mm * group.surface
    moved = abs(group.displacement - boundary.shift_mm) > boundary.tolerance_mm
    size = abs(net)
    if not (moved and size >= rules.min_volume and size > rules.beta * group.shared):
        group.status = 'stable'
    elif net < 0:
        group.status = 'shrinking'
    else:
        outgrown = size > rules.gamma_abs and size > rules.gamma * group.shared
        group.status = rules.outgrown if outgrown else 'enlarging'
    group.note = _kinship(group)


def _without_past(group: Group, rules: ChangeRules) -> bool:
    """Whether so little of a lesion lies on earlier ones that it counts as new."""
    return rules.alpha > 0 and group.shared <= rules.alpha * group.volume_after


def _judge_lonely(group: Group, rules: ChangeRules, trust_contrast: bool) -> None:
    volume = group.volume_after if group.after else group.volume_before
    sign = 1 if group.after else -1
    if volume < rules.min_volume * (1 - 1e-6):
        group.note = _TOO_SMALL
    elif trust_contrast and (
        sign * group.contrast < CONTRAST_LIMIT
        or sign * group.contrast_share < CONTRAST_SHARE_LIMIT
    ):
        group.status, group.note = 'stable', _SAME_CONTRAST
    else:
        group.status = 'new' if group.after else 'resolved'


def _kinship(group: Group) -> str:
    if len(group.before) > 1 and len(group.after) > 1:
        return 'merged and split'
    if len(group.before) > 1:
        return 'merged'
    return 'split' if len(group.after) > 1 else ''


def _landing(before: Session, after: Session, move: Affine, number: int) -> npt.NDArray[np.int64]:
    """Return the voxels of the later grid whose centres lie in an earlier lesion, shape (n, 3).

    Where a lesion is too small to hold a centre, they are those that it touches.
    """
    where = np.argwhere(before.labels == number)
    points = apply_affine(move, voxel_points(before, where)).reshape(-1, 3)
    index = np.rint(apply_affine(invert(after.affine), points)).astype(np.int64)
    index = np.unique(index, axis=0)
    index = index[np.all((index >= 0) & (index < after.labels.shape), axis=1)]
    centres = apply_affine(compose(invert(move), after.affine), index)
    held = labels_at(before, centres) == number
    return index[held] if held.any() else index


def change_image(comparison: Comparison, before: Session, after: Session, move: Affine) -> Any:
    """Paint the status of each lesion on the grid of the later FLAIR.

    Returns
    -------
    uint8 array (X, Y, Z)
        The values of `STATUS_CODES`; of lesions that are gone, where they were,
        unless another lesion is there now.
    """
    painted = np.zeros(after.labels.shape, dtype=np.uint8)
    codes = np.zeros(after.count + 1, dtype=np.uint8)
    for number, status in comparison.statuses().items():
        codes[number] = STATUS_CODES[status] if status else 0
    gone = [n for g in comparison.groups if g.status == 'resolved' for n in g.before]
    for number in gone:
        painted[tuple(_landing(before, after, move, number).T)] = STATUS_CODES['resolved']
    lesion = after.labels > 0
    painted[lesion] = codes[after.labels[lesion]]
    return painted
