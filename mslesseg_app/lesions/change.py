"""What became of lesions between two sessions: new, larger, smaller, gone, or the same.

The images decide, the masks propose. Where the FLAIRs differ is found without the masks
(`mslesseg_app.lesions.difference`); the masks say which lesions of both sessions belong
together, and which lesion a changed region is part of. So a lesion that one mask misses is no
change, and growth within a lesion that both masks have is one. Lesions that share volume form a
group, which is judged as one: those that merge or split are neither new nor gone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.components import structure
from mslesseg_app.lesions.difference import ChangedRegions, Difference
from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert
from mslesseg_app.spatial.resample import resample

Labels = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]
Status = Literal['stable', 'new', 'enlarging', 'shrinking', 'resolved', 'one-mask']

#: Values of the change image; 0 is no lesion, or one outside of the other scan.
STATUS_CODES: dict[Status, int] = {
    'stable': 1,
    'new': 2,
    'enlarging': 3,
    'shrinking': 4,
    'resolved': 5,
    'one-mask': 6,
}

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


@dataclass
class Comparison:
    """Two sessions compared.

    Attributes
    ----------
    groups : list of Group
        Ordered by the lesions of the later session, then those that are gone, then changes
        that neither mask has.
    region_codes : uint8 array (n + 1,)
        Status code of each changed region; 0 for none and for one that does not count.
    """

    groups: list[Group] = field(default_factory=list)
    region_codes: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(1, np.uint8))

    def statuses(self, later: bool = True) -> dict[int, Status | None]:
        """Return the status of each lesion of the later (or the earlier) session."""
        return {
            number: one.status
            for one in self.groups
            for number in (one.after if later else one.before)
        }


def compare_sessions(
    before: Session,
    after: Session,
    difference: Difference,
    regions: ChangedRegions,
    *,
    near_mm: float = 1.0,
    edited: tuple[bool, bool] = (False, False),
) -> Comparison:
    """Say what became of each lesion; the images decide, the masks say what belongs together.

    Parameters
    ----------
    before, after : Session
        The earlier and the later session.
    difference : Difference
        Of their FLAIRs.
    regions : ChangedRegions
        Where these differ.
    near_mm : float
        A lesion that only the later mask has and one that only the earlier has are the same
        lesion, seen at slightly different places, when they come closer than this.
    edited : (bool, bool)
        Whether a person has edited the mask of the earlier and of the later session. An edited
        mask is taken at its word: what it alone has is new or resolved, and nothing is new
        that it lacks.

    Returns
    -------
    Comparison
    """
    pair = difference.pair
    move = compose(pair.after_from_middle, invert(pair.before_from_middle))
    groups = _groups(before, after, move, near_mm)
    measured = Evidence(before, after, difference, regions, edited)
    owners = measured.owners(groups)
    for number in sorted(set(owners.values())):
        own = [region for region, owner in owners.items() if owner == number]
        measured.measure(groups[number], own)
    for group in groups:
        if not group.changed and not group.matched:
            points = _group_points(group, before, after, move)
            if _covered(points, before, after, move) < 0.5:
                group.note = _NOT_SEEN
                continue
        _judge(group, edited)
    return Comparison(groups, _region_codes(groups, owners, regions))


class Evidence:
    """What the images show at the lesions.

    Parameters
    ----------
    before, after, difference, regions, edited
        As in `compare_sessions`.
    """

    def __init__(
        self,
        before: Session,
        after: Session,
        difference: Difference,
        regions: ChangedRegions,
        edited: tuple[bool, bool],
    ) -> None:
        self._difference, self._regions, self._edited = difference, regions, edited
        self._labels = [
            difference.pair.bring(_image(one), later=later, nearest=True)
            for one, later in ((before, False), (after, True))
        ]
        self._boxes = ndimage.find_objects(regions.labels)

    def owners(self, groups: list[Group]) -> dict[int, int]:
        """Return the group of each region; groups are added for what neither mask has."""
        place = [
            {n: k for k, group in enumerate(groups) for n in (group.before, group.after)[side]}
            for side in (0, 1)
        ]
        owners: dict[int, int] = {}
        for region in range(1, self._regions.count + 1):
            met = [self._met(region, side) for side in (0, 1)]
            brighter = bool(self._regions.brighter[region - 1])
            if self._edited[brighter] and not met[brighter]:
                continue
            shares: Counter[int] = Counter()
            for side in (0, 1):
                for lesion, count in met[side].items():
                    shares[place[side][lesion]] += count
            if shares:
                owners[region] = max(shares, key=lambda k: (shares[k], -k))
            else:
                owners[region] = len(groups)
                groups.append(self._unsegmented(region, brighter))
        return owners

    def _met(self, region: int, side: int) -> dict[int, int]:
        """Return how many voxels of each lesion of a session a region meets or touches."""
        box = tuple(
            slice(max(part.start - 1, 0), part.stop + 1) for part in self._boxes[region - 1]
        )
        grown = ndimage.binary_dilation(self._regions.labels[box] == region, structure(18))
        counts = np.bincount(self._labels[side][box][grown])
        return {int(n): int(counts[n]) for n in np.flatnonzero(counts) if n}

    def _unsegmented(self, region: int, brighter: bool) -> Group:
        pair = self._difference.pair
        where = self._where(region)
        volume = len(where[0]) * pair.voxel_mm3
        middle = np.mean(where, axis=1)
        x, y, z = apply_affine(compose(pair.after_from_middle, pair.affine), middle)
        volumes = (0.0, volume) if brighter else (volume, 0.0)
        return Group((), (), *volumes, 0.0, (float(x), float(y), float(z)))

    def _where(self, region: int) -> tuple[npt.NDArray[np.intp], ...]:
        box = self._boxes[region - 1]
        found = np.nonzero(self._regions.labels[box] == region)
        return tuple(one + part.start for one, part in zip(found, box, strict=True))

    def measure(self, group: Group, regions: list[int]) -> None:
        """Fill in what the images show of a group that owns regions."""
        difference = self._difference
        voxel = difference.pair.voxel_mm3
        parts = [self._where(region) for region in regions]
        for region, where in zip(regions, parts, strict=True):
            if self._regions.brighter[region - 1]:
                group.brighter += len(where[0]) * voxel
            else:
                group.darker += len(where[0]) * voxel
        where = tuple(np.concatenate(one) for one in zip(*parts, strict=True))
        z = difference.z[where]
        group.z_peak, group.z_mean = float(z[np.argmax(np.abs(z))]), float(z.mean())
        group.was_lesion = float(difference.lesion_before[where].mean())
        group.is_lesion = float(difference.lesion_after[where].mean())


def _image(session: Session) -> Any:
    return nb.Nifti1Image(np.asarray(session.labels, dtype=np.int32), session.affine)


def _groups(before: Session, after: Session, move: Affine, near_mm: float) -> list[Group]:
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
    numbers = np.arange(1, session.count + 1)
    if not numbers.size:
        return np.zeros((0, 3))
    found = ndimage.center_of_mass(session.labels > 0, session.labels, numbers)
    return apply_affine(compose(move, session.affine), np.array(found))


def _group_points(group: Group, before: Session, after: Session, move: Affine) -> Floats:
    """Return the centres of a group's voxels in the later FLAIR (RAS+ mm)."""
    if group.after:
        where = np.argwhere(np.isin(after.labels, group.after))
        return apply_affine(after.affine, where)
    where = np.argwhere(np.isin(before.labels, group.before))
    return apply_affine(compose(move, before.affine), where)


def _covered(points: Floats, before: Session, after: Session, move: Affine) -> float:
    """Return the share of points (later FLAIR) that lie in the field of view of both sessions."""
    inside = np.ones(len(points), dtype=bool)
    for one, back in ((after, np.eye(4)), (before, invert(move))):
        index = apply_affine(compose(invert(one.affine), back), points)
        inside &= np.all((index > -0.5) & (index < np.array(one.labels.shape) - 0.5), axis=1)
    return float(inside.mean())


_NOT_SEEN = 'outside of the other scan'
_ONE_MASK = 'in one mask only; the FLAIRs do not differ there'
_NO_MASK = 'in neither mask'
_MASKS_DIFFER = 'the masks differ in volume, the FLAIRs do not'
_OPPOSITE = 'a part of it changed the other way'
#: Masks of a stable lesion that differ in volume by a larger share than this are worth a note.
_DIFFERENT = 0.5


def _judge(group: Group, edited: tuple[bool, bool]) -> None:
    """Give a group its status."""
    if group.changed:
        group.status = _direction(group)
        group.note = _notes(group)
    elif group.matched:
        group.status = 'stable'
        larger = max(group.volume_before, group.volume_after)
        differ = abs(group.difference) > _DIFFERENT * larger
        group.note = '; '.join(filter(None, [_kinship(group), _MASKS_DIFFER if differ else '']))
    elif any(edited):
        group.status = 'new' if group.after else 'resolved'
    else:
        group.status, group.note = 'one-mask', _ONE_MASK


def _direction(group: Group) -> Status:
    """Name a change: a lesion is new where there was no lesion tissue, by mask or image."""
    if group.brighter >= group.darker:
        return 'enlarging' if group.before or group.was_lesion >= 0.5 else 'new'
    return 'shrinking' if group.after or group.is_lesion >= 0.5 else 'resolved'


def _notes(group: Group) -> str:
    notes = [_kinship(group)]
    if not (group.before or group.after):
        notes.append(_NO_MASK)
    if group.brighter and group.darker:
        notes.append(_OPPOSITE)
    return '; '.join(filter(None, notes))


def _kinship(group: Group) -> str:
    if len(group.before) > 1 and len(group.after) > 1:
        return 'merged and split'
    if len(group.before) > 1:
        return 'merged'
    return 'split' if len(group.after) > 1 else ''


def _region_codes(
    groups: list[Group], owners: dict[int, int], regions: ChangedRegions
) -> npt.NDArray[np.uint8]:
    """Return the code of each region: its direction, and whether its lesion is new or gone."""
    codes = np.zeros(regions.count + 1, dtype=np.uint8)
    for region, owner in owners.items():
        status = groups[owner].status
        if regions.brighter[region - 1]:
            codes[region] = STATUS_CODES['new' if status == 'new' else 'enlarging']
        else:
            codes[region] = STATUS_CODES['resolved' if status == 'resolved' else 'shrinking']
    return codes


def change_image(
    comparison: Comparison,
    session: Session,
    difference: Difference,
    regions: ChangedRegions,
    *,
    later: bool,
) -> npt.NDArray[np.uint8]:
    """Paint what became of the lesions on the grid of one session's FLAIR.

    Parameters
    ----------
    session : Session
        The later session, or with ``later=False`` the earlier one.

    Returns
    -------
    uint8 array (X, Y, Z)
        The values of `STATUS_CODES`: lesions that did not change, and each changed part by its
        direction, also where the mask of this session has no lesion.
    """
    codes = np.zeros(session.count + 1, dtype=np.uint8)
    for number, status in comparison.statuses(later).items():
        kept = {'one-mask', 'new'} if later else {'one-mask', 'resolved'}
        if status is not None:
            codes[number] = STATUS_CODES[status if status in kept else 'stable']
    painted = codes[np.asarray(session.labels)]
    changed = native_map(comparison.region_codes[regions.labels], session, difference, later, True)
    return np.where(changed > 0, changed, painted).astype(np.uint8)


def native_map(
    data: npt.NDArray[Any],
    session: Session,
    difference: Difference,
    later: bool,
    nearest: bool = False,
) -> npt.NDArray[Any]:
    """Carry a map of the half-way space to the grid of one session's FLAIR."""
    pair = difference.pair
    pose = pair.after_from_middle if later else pair.before_from_middle
    order: Any = 'nearest' if nearest else 1
    shape: Any = session.labels.shape
    image = nb.Nifti1Image(data, pair.affine)
    found = resample(image, shape, session.affine, invert(pose), order)
    return np.asarray(found.dataobj)
