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
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.lesions.components import structure
from mslesseg_app.lesions.difference import ChangedRegions, Difference
from mslesseg_app.lesions.groups import (
    Floats,
    Group,
    Session,
    Status,
    form_groups,
)
from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert
from mslesseg_app.spatial.resample import resample

#: Values of the change image; 0 is no lesion, or one outside of the other scan.
STATUS_CODES: dict[Status, int] = {
    'stable': 1,
    'new': 2,
    'enlarging': 3,
    'shrinking': 4,
    'resolved': 5,
    'one-mask': 6,
}


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
        lesion, seen at slightly different locations, when they come closer than this.
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
    groups = form_groups(before, after, move, near_mm)
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
        _classify(group, edited)
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


def _classify(group: Group, edited: tuple[bool, bool]) -> None:
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
