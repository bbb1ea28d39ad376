"""Linear registration that needs no good start.

Beside SimpleITK's it was more accurate and took a fifth of the time (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from mslesseg_app.core.errors import AlignmentError
from mslesseg_app.spatial import pose, search
from mslesseg_app.spatial.affines import check_affine
from mslesseg_app.spatial.bias import foreground
from mslesseg_app.spatial.similarity import (
    VOXELS_PER_FWHM,
    Affine,
    Floats,
    Samples,
    SmoothedVolume,
    block_means,
    moving_volume,
    reference_samples,
    shrink,
)

Dof = Literal[6, 12]

#: Voxels are averaged to about this size before anything else (mm).
_WORK_MM = 1.5
#: Resolutions of the search (mm).
_COARSE_MM, _MIDDLE_MM, _FINE_MM, _LAST_MM = 12.0, 8.0, 4.0, 2.0
#: Distance of the sample points (mm) where it is not the resolution: more do not help.
_SPACING_MM = {_FINE_MM: 5.0, _LAST_MM: 3.0}
#: How many candidates go from one stage to the next.
_KEEP_COARSE, _KEEP_FINE = 24, 2
#: Rounds at the middle resolution: how many are kept after how many steps.
_MIDDLE_ROUNDS = ((10, 8), (4, 25))
#: Steps at the fine resolution.
_FINE_STEPS = 20
#: Poses whose cost differs by less than this are both refined to the end.
_RIVAL = 0.01
#: An alignment that is better than wrong ones by so many of their standard deviations needs no
#: further search: rigid ones, and those to a template, where wrong ones
#: reach 12 and right ones have 15 and more (see `mslesseg_app.spatial.quality`).
_CLEAR: dict[Dof, float] = {6: 8.0, 12: 14.0}


@dataclass(frozen=True)
class Alignment:
    """A linear transform and what speaks for it.

    Attributes
    ----------
    moving_from_reference : ndarray, (4, 4)
        RAS+ mm, maps points of the reference to points of the moving image.
    quality : dict of str to float
        ``nmi`` (normalised mutual information, 1 to 2), ``overlap`` (share of the reference
        mask within the moving image's field of view), ``margin`` (how much better than the
        best other place, in units of NMI; 0 when only one start was tried).
    """

    moving_from_reference: Affine
    quality: dict[str, float] = field(default_factory=dict)


class Reference:
    """A reference at several resolutions, each made once for all images that are aligned to it.

    Parameters
    ----------
    image : nibabel image
    mask : nibabel image or None
        Where the image counts; its foreground when not given.
    seed : int
        Of the sample points.
    """

    def __init__(self, image: Any, mask: Any | None = None, seed: int = 1) -> None:
        self._image = _prepare(image, None)
        self._mask = _mask(self._image, mask)
        self._seed = seed
        self._levels: dict[float, Samples] = {}

    def samples(self, size_mm: float) -> Samples:
        """Return the samples at a resolution (mm)."""
        if size_mm not in self._levels:
            spacing = _SPACING_MM.get(size_mm, size_mm)
            data, affine = block_means(*self._image, size_mm / VOXELS_PER_FWHM)
            self._levels[size_mm] = reference_samples(
                data, affine, self._mask, spacing, self._seed, fwhm_mm=size_mm
            )
        return self._levels[size_mm]

    def prepare(self) -> None:
        """Make the levels that every alignment needs."""
        for size_mm in (_MIDDLE_MM, _FINE_MM, _LAST_MM):
            self.samples(size_mm)


class ImagePair:
    """A moving image and a reference at several resolutions, each made once.

    Parameters
    ----------
    moving : nibabel image
    reference : Reference
    moving_mask : nibabel image or None
        Where the moving image counts.
    """

    def __init__(self, moving: Any, reference: Reference, moving_mask: Any | None = None) -> None:
        self._moving = _prepare(moving, moving_mask)
        self._reference = reference
        self._levels: dict[float, SmoothedVolume] = {}

    def level(self, size_mm: float) -> tuple[SmoothedVolume, Samples]:
        """Return volume and samples at a resolution (mm)."""
        if size_mm not in self._levels:
            self._levels[size_mm] = moving_volume(*self._moving, size_mm)
        return self._levels[size_mm], self._reference.samples(size_mm)

    def centre(self) -> npt.NDArray[np.float64]:
        """Return the centre of mass (mm) of the moving image's foreground."""
        data, affine = self._moving
        voxels = np.argwhere(foreground(data))
        if not len(voxels):
            raise AlignmentError('The image has no foreground.', 'Is it empty?')
        middle: npt.NDArray[np.float64] = affine[:3, :3] @ voxels.mean(axis=0) + affine[:3, 3]
        return middle


def _prepare(img: Any, mask: Any | None) -> tuple[Floats, Affine]:
    if len(img.shape) != 3:
        raise AlignmentError(f'A 3D image is needed, not one of shape {tuple(img.shape)}.')
    data, affine = shrink(img, _WORK_MM)
    if mask is not None:
        data = data * (shrink(mask, _WORK_MM)[0] > 0)
    if data.min() == data.max():
        raise AlignmentError('The image is constant: there is nothing to align.')
    return data, affine


def _mask(reference: tuple[Floats, Affine], mask: Any | None) -> tuple[Floats, Affine]:
    if mask is None:
        data, affine = reference
        return foreground(data).astype(np.float32), affine
    data, affine = shrink(mask, 2.0)
    if not (data > 0).any():
        raise AlignmentError('The mask of the reference is empty.')
    return data, affine


def align(
    moving: Any,
    reference: Any,
    *,
    dof: Dof,
    moving_mask: Any | None = None,
    reference_mask: Any | None = None,
    start: npt.ArrayLike | None = None,
    seed: int = 1,
) -> Alignment:
    """Find the affine that brings a moving image onto a reference.

    Without a start the header's pose is tried first. Where that does not stand out from wrong
    poses, the whole range of poses is searched. With 12 degrees of freedom the reference is a
    template brain, and the moving image any head. Never worse than the start: poses are
    compared by their similarity at the finest level.

    Parameters
    ----------
    moving : nibabel image, 3D
    reference : nibabel image, 3D, or Reference
        A `Reference` has its own mask and seed.
    dof : {6, 12}
        Rigid or affine. With 12 the size is drawn weakly to that of an adult head.
    moving_mask, reference_mask : nibabel images or None
        Where the images count, each on its own image's grid.
    start : array_like, (4, 4) or (n, 4, 4), or None
        One or several first guesses of ``moving_from_reference``; no search then.
    seed : int
        Of the sample points.

    Returns
    -------
    Alignment

    Raises
    ------
    AlignmentError
        When an image is empty, constant, or not three-dimensional.
    """
    with threadpool_limits(limits=1, user_api='blas'):
        if not isinstance(reference, Reference):
            reference = Reference(reference, reference_mask, seed)
        return _align(ImagePair(moving, reference, moving_mask), dof, start)


def _align(pair: ImagePair, dof: Dof, start: npt.ArrayLike | None) -> Alignment:
    """Choose among the ways to a result."""
    if start is not None:
        starts = [check_affine(one) for one in np.asarray(start, dtype=float).reshape(-1, 4, 4)]
        return finish(pair, starts, dof)
    return _affine_search(pair) if dof == 12 else _rigid_from_header(pair)


def _rigid_from_header(pair: ImagePair) -> Alignment:
    """Refine the header's pose; search only when that stands out too little."""
    near = finish(pair, [np.eye(4)], 6)
    if _is_clear(pair, near.moving_from_reference, 6):
        return near
    others = search_poses(pair, np.zeros(3), 6)
    return finish(pair, [near.moving_from_reference, *others], 6)


def _affine_search(pair: ImagePair) -> Alignment:
    """Take the header's pose or the best one of the coarse search if it stands out.

    Otherwise what is found from many poses of the coarse search competes.
    """
    header = pose.start_at_header(pose.SIZE_MEAN)
    if near := _clear_near(pair, header):
        return near
    rough = _rough_poses(pair, pose.SIZE_MEAN)
    if near := _clear_near(pair, rough[0].affine):
        return near
    return finish(pair, search_poses(pair, pose.SIZE_MEAN, 12, rough=rough), 12)


def _clear_near(pair: ImagePair, start: Affine) -> Alignment | None:
    """Refine a pose of 12 degrees of freedom to the end, if it stands out on the way."""
    _, steps = _MIDDLE_ROUNDS[-1]
    near = search.refine(*pair.level(_MIDDLE_MM), start, 7, True, steps)
    near = search.refine(*pair.level(_FINE_MM), near.affine, 12, True, _FINE_STEPS)
    return finish(pair, [near.affine], 12) if _is_clear(pair, near.affine, 12) else None


def _is_clear(pair: ImagePair, affine: Affine, dof: Dof) -> bool:
    """Return whether a pose is so much better than wrong ones that no other is looked for."""
    nmi, mean, spread = search.stands_out(*pair.level(_FINE_MM), affine)
    return (nmi - mean) / spread >= _CLEAR[dof]


def _rough_poses(pair: ImagePair, log_size: npt.NDArray[np.float64]) -> list[search.Candidate]:
    """Return the best poses of the coarse search, best first, and that of the header."""
    volume, samples = pair.level(_COARSE_MM)
    rough = search.coarse(volume, samples, [pair.centre()], np.exp(log_size), _KEEP_COARSE)
    return [*rough, search.evaluate(volume, samples, pose.start_at_header(log_size))]


def search_poses(
    pair: ImagePair,
    log_size: npt.NDArray[np.float64],
    dof: int,
    keep: int = _KEEP_FINE,
    rough: list[search.Candidate] | None = None,
) -> list[Affine]:
    """Search the whole range of poses; return the best few that differ, best first.

    Parameters
    ----------
    pair : ImagePair
    log_size : ndarray, (3,)
        Logarithm of the head's size in units of the reference.
    dof : {6, 12}
    keep : int
        How many to return.
    rough : list of Candidate, optional
        What the coarse search found, if it was done.
    """
    rough = rough or _rough_poses(pair, log_size)
    volume, samples = pair.level(_MIDDLE_MM)
    middle_dof, middle = 7 if dof == 12 else 6, rough
    for most, steps in _MIDDLE_ROUNDS:
        middle = [
            search.refine(volume, samples, one.affine, middle_dof, dof == 12, steps)
            for one in middle
        ]
        middle = search.distinct(middle, samples, most, apart_mm=8.0)
    volume, samples = pair.level(_FINE_MM)
    fine = [
        search.refine(volume, samples, one.affine, dof, dof == 12, _FINE_STEPS) for one in middle
    ]
    return [one.affine for one in search.distinct(fine, samples, keep, apart_mm=5.0)]


def finish(pair: ImagePair, starts: list[Affine], dof: Dof) -> Alignment:
    """Refine each start through the fine levels and return the best result.

    Only results that rival the best at the fine level go on to the last one.
    """
    volume, samples = pair.level(_FINE_MM)
    fine = [search.refine(volume, samples, start, dof, dof == 12) for start in starts]
    fine = search.distinct(fine, samples, len(fine), apart_mm=1.0)
    rivals = [one for one in fine if one.cost < fine[0].cost + _RIVAL]
    volume, samples = pair.level(_LAST_MM)
    last = [search.refine(volume, samples, one.affine, dof, dof == 12) for one in rivals]
    kept = [search.evaluate(volume, samples, start, dof == 12) for start in starts]
    best = min([*last, *kept], key=lambda one: one.cost)
    others = search.distinct([fine[0], *fine], samples, 2, apart_mm=8.0)[1:]
    margin = others[0].cost - fine[0].cost if others else 0.0
    quality = {'nmi': best.nmi, 'overlap': best.overlap, 'margin': margin}
    return Alignment(best.affine, quality)
