"""One within-subject template for all sessions of a subject, privileging none of them.

The sessions' anchors are brought rigidly into the space half-way between them (the mean of
their poses), their average there is aligned to the template by 12 degrees of freedom, and each
session's transform is that one affine preceded by the session's own rigid move. Whatever the
affine gets wrong it gets wrong in every session alike, so that change between sessions is not
change of alignment. The idea is that of the robust within-subject template (Reuter et al.,
NeuroImage 61, 2012); the registration is this package's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from mslesseg_app.core.errors import AlignmentError
from mslesseg_app.spatial import quality
from mslesseg_app.spatial.affines import Affine, apply_affine, compose, invert
from mslesseg_app.spatial.exam_alignment import (
    BRAIN_CENTRE,
    search_region,
    to_template,
    via_anchor,
)
from mslesseg_app.spatial.pose import nearest_rigid
from mslesseg_app.spatial.registration import align
from mslesseg_app.spatial.resample import field_of_view, resample
from mslesseg_app.spatial.template import load_template

#: Voxels (mm) of the average image, and what is added around the brain's region (mm).
_GRID_MM, _MARGIN_MM = 1.5, 12.0
#: The sessions are registered to the others' average until none moves by more than this (mm),
#: but not more often than that.
_STILL_MM, _ROUNDS = 0.02, 5


@dataclass(frozen=True)
class SubjectAlignment:
    """The alignment of the sessions that share a within-subject template.

    Attributes
    ----------
    session_from_middle : dict of str to ndarray (4, 4)
        Rigid, RAS+ mm: points of the middle space to points of each session's anchor.
    middle_from_mni : ndarray, (4, 4)
        The affine of 12 degrees of freedom that all sessions share.
    left_out : dict of str to str
        Sessions that do not share the template, and why.
    """

    session_from_middle: dict[str, Affine]
    middle_from_mni: Affine
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def session_from_mni(self) -> dict[str, Affine]:
        """Points of the template (mm) to points of each session's anchor."""
        return {
            name: compose(rigid, self.middle_from_mni)
            for name, rigid in self.session_from_middle.items()
        }


@dataclass(frozen=True)
class _Grid:
    """A grid of the middle space with the brain's region on it."""

    shape: tuple[int, int, int]
    affine: Affine
    region: nb.Nifti1Image

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.region.dataobj) > 0


def align_subject(anchors: Mapping[str, Any], *, seed: int = 1) -> SubjectAlignment:
    """Align the sessions of a subject to the template through their common middle.

    Parameters
    ----------
    anchors : mapping of session to nibabel image
        The same modality (FLAIR) of each session. Neither order nor names of the sessions
        change the result.
    seed : int
        Of the sample points.

    Returns
    -------
    SubjectAlignment
        A session that cannot be brought to the others, or whose result is judged as failed, is
        left out; with fewer than two that are left, all are.

    Raises
    ------
    AlignmentError
        When an image is empty, constant, or not three-dimensional.
    """
    if not anchors:
        raise AlignmentError('The subject has no session to align.')
    starts, left_out = _starts(anchors, seed)
    while len(starts) > 1:
        # The images decide the order of all sums, so that the names cannot.
        order = sorted(starts, key=lambda name: tuple(starts[name].ravel()))
        images = [anchors[name] for name in order]
        poses, middle_from_mni = _to_middle(images, [starts[name] for name in order], seed)
        found = SubjectAlignment(
            dict(sorted(zip(order, poses, strict=True))), middle_from_mni, left_out
        )
        failed = _failed(anchors, found)
        if not failed:
            return found
        left_out |= failed
        starts = {name: affine for name, affine in starts.items() if name not in failed}
    left_out |= dict.fromkeys(starts, 'no other session could share a template with it')
    return SubjectAlignment({}, np.eye(4), left_out)


def _starts(anchors: Mapping[str, Any], seed: int) -> tuple[dict[str, Affine], dict[str, str]]:
    """Align each session on its own; one that fails gets a second try through the best one."""
    found = {name: to_template(img, seed).moving_from_reference for name, img in anchors.items()}
    judged = {name: quality.check_alignment(anchors[name], found[name]) for name in found}
    best = max(judged, key=lambda name: judged[name].confidence)
    starts, left_out = {}, {}
    for name, img in anchors.items():
        check, affine = judged[name], found[name]
        if check.status == 'fail' and name != best:
            affine = via_anchor(img, anchors[best], found[best], seed)
            check = quality.check_alignment(img, affine)
        if check.status == 'fail':
            left_out[name] = check.reason
        else:
            starts[name] = affine
    return starts, left_out


def _failed(anchors: Mapping[str, Any], found: SubjectAlignment) -> dict[str, str]:
    judged = {
        name: quality.check_alignment(anchors[name], affine)
        for name, affine in found.session_from_mni.items()
    }
    return {name: one.reason for name, one in judged.items() if one.status == 'fail'}


def _to_middle(
    images: Sequence[Any], starts: Sequence[Affine], seed: int
) -> tuple[list[Affine], Affine]:
    """Return each session's rigid ``session_from_middle``, and the common ``middle_from_mni``."""
    poses = [nearest_rigid(one, np.array(BRAIN_CENTRE)) for one in starts]
    poses, centre = recentre(poses, np.array(BRAIN_CENTRE))
    shared = [compose(invert(p), one) for p, one in zip(poses, starts, strict=True)]
    grid = _grid(_confident(images, starts, shared))
    poses = _settle(images, poses, grid, centre, seed)
    average = average_image(images, poses, grid.shape, grid.affine, grid.inside)
    shared = [compose(invert(p), one) for p, one in zip(poses, starts, strict=True)]
    middle_from_mni = align(
        average,
        load_template().brain,
        dof=12,
        reference_mask=search_region(),
        start=shared,
        seed=seed,
    ).moving_from_reference
    return poses, middle_from_mni


def align_pair(images: Sequence[Any], starts: Sequence[Affine], *, seed: int = 1) -> Affine:
    """Align two sessions of a subject rigidly to each other, in the space half-way between them.

    Parameters
    ----------
    images : two nibabel images
        The same modality (FLAIR) of the earlier and of the later session.
    starts : two ndarrays, (4, 4)
        Where each lies by its own alignment: points of the template to points of the image
        (RAS+ mm). Only their rigid part is used.
    seed : int
        As in `align_subject`.

    Returns
    -------
    ndarray, (4, 4)
        Rigid, RAS+ mm: points of the earlier image to points of the later one.

    Raises
    ------
    AlignmentError
        When an image is empty, constant, or not three-dimensional.
    """
    poses = [nearest_rigid(one, np.array(BRAIN_CENTRE)) for one in starts]
    poses, centre = recentre(poses, np.array(BRAIN_CENTRE))
    grid = _grid(compose(invert(poses[0]), starts[0]))
    first, second = _settle(images, poses, grid, centre, seed)
    return compose(second, invert(first))


def _settle(
    images: Sequence[Any],
    poses: list[Affine],
    grid: _Grid,
    centre: npt.NDArray[np.float64],
    seed: int,
) -> list[Affine]:
    """Register the sessions to each other's averages until none moves any more."""
    points = apply_affine(grid.affine, np.argwhere(grid.inside)[::997])
    for _ in range(_ROUNDS):
        before = poses
        poses = _register_round(images, poses, grid, centre, seed)
        poses, centre = recentre(poses, centre)
        moved = [
            np.linalg.norm(apply_affine(a, points) - apply_affine(b, points), axis=1).mean()
            for a, b in zip(poses, before, strict=True)
        ]
        if max(moved) < _STILL_MM:
            break
    return poses


def _confident(
    images: Sequence[Any], starts: Sequence[Affine], shared: Sequence[Affine]
) -> Affine:
    """Return the ``middle_from_mni`` of the session whose own alignment stands out most."""
    confidences = [
        quality.check_alignment(img, one).confidence
        for img, one in zip(images, starts, strict=True)
    ]
    return shared[int(np.argmax(confidences))]


def _grid(middle_from_mni: Affine) -> _Grid:
    """Lay a grid around the brain in the middle space."""
    region = search_region()
    box = np.argwhere(np.asarray(region.dataobj) > 0)
    ends = np.array(list(product(*zip(box.min(axis=0), box.max(axis=0), strict=True))))
    corners = apply_affine(middle_from_mni, apply_affine(region.affine, ends))
    low, high = corners.min(axis=0) - _MARGIN_MM, corners.max(axis=0) + _MARGIN_MM
    x, y, z = (int(count) for count in np.ceil((high - low) / _GRID_MM) + 1)
    affine = np.diag([_GRID_MM, _GRID_MM, _GRID_MM, 1.0])
    affine[:3, 3] = low
    moved = resample(region, (x, y, z), affine, invert(middle_from_mni), 'nearest')
    return _Grid((x, y, z), affine, moved)


def _register_round(
    images: Sequence[Any],
    poses: Sequence[Affine],
    grid: _Grid,
    centre: npt.NDArray[np.float64],
    seed: int,
) -> list[Affine]:
    """Register every session to the average of the others, all at the same time.

    A session that lies off the mean of all n by d lies off that of the others by d n / (n - 1):
    it goes the (n - 1) / n-th part of the way.
    """
    share = (len(images) - 1) / len(images)
    moved = []
    for number, (img, pose) in enumerate(zip(images, poses, strict=True)):
        others = [k for k in range(len(images)) if k != number]
        average = average_image(
            [images[k] for k in others],
            [poses[k] for k in others],
            grid.shape,
            grid.affine,
            grid.inside,
        )
        found = align(
            img,
            average,
            dof=6,
            reference_mask=grid.region,
            start=pose,
            seed=seed,
        )
        step = compose(invert(pose), found.moving_from_reference)
        moved.append(compose(pose, part_of_move(step, share, centre)))
    return moved


def average_image(
    images: Sequence[Any],
    poses: Sequence[Affine],
    shape: tuple[int, int, int],
    affine: Affine,
    inside: npt.NDArray[np.bool_],
) -> nb.Nifti1Image:
    """Average images in a common space; each counts where it was acquired.

    Parameters
    ----------
    images : sequence of nibabel images
    poses : sequence of ndarray, (4, 4)
        ``image_from_common`` of each (RAS+ mm).
    shape, affine
        Grid of the result.
    inside : ndarray of bool, same shape
        Where the median is made the same for all images.
    """
    total = np.zeros(shape, dtype=np.float32)
    count = np.zeros(shape, dtype=np.float32)
    for img, pose in zip(images, poses, strict=True):
        seen = field_of_view(img, shape, affine, pose)
        data = np.asarray(resample(img, shape, affine, pose).dataobj)
        values = data[inside & seen & (data > 0)]
        level = float(np.median(values)) if values.size else 1.0
        total += data / np.float32(level)
        count += seen
    return nb.Nifti1Image(total / np.maximum(count, 1), affine)


def recentre(
    poses: Sequence[Affine], centre: npt.NDArray[np.float64]
) -> tuple[list[Affine], npt.NDArray[np.float64]]:
    """Move the common space so that the mean of all rigid poses is the identity.

    Parameters
    ----------
    poses : sequence of ndarray, (4, 4)
        ``session_from_common``, rigid.
    centre : ndarray, (3,)
        Point of the common space (mm) whose places are averaged, such as the brain's middle.

    Returns
    -------
    poses : list of ndarray, (4, 4)
        ``session_from_middle``.
    centre : ndarray, (3,)
        The same point of the head in the middle space.
    """
    places = np.array([apply_affine(pose, centre) for pose in poses])
    middle = places.mean(axis=0)
    turn = Rotation.from_matrix(np.array([pose[:3, :3] for pose in poses])).mean()
    middle_from_common = np.eye(4)
    middle_from_common[:3, :3] = turn.as_matrix()
    middle_from_common[:3, 3] = middle - turn.as_matrix() @ centre
    back = invert(middle_from_common)
    return [nearest_rigid(compose(pose, back), middle) for pose in poses], middle


def part_of_move(move: Affine, share: float, centre: npt.NDArray[np.float64]) -> Affine:
    """Return the ``share``-th part of a rigid move: of its turn, and of its shift of `centre`."""
    turn = Rotation.from_rotvec(share * Rotation.from_matrix(move[:3, :3]).as_rotvec())
    shift = share * (apply_affine(move, centre) - centre)
    part = np.eye(4)
    part[:3, :3] = turn.as_matrix()
    part[:3, 3] = centre + shift - turn.as_matrix() @ centre
    return part
