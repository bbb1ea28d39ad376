"""Exams with manual masks: read, checked, and kept apart.

All images of a case, its mask and its brain lie on one grid (the template's, where they come from
the App). What makes a case unfit is an error that names it; nothing is repaired in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, MSLesSegError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.segment import check_modalities, stack_channels
from mslesseg_app.spatial.brain import brain_mask
from mslesseg_app.spatial.checks import check_image
from mslesseg_app.spatial.masks import on_grid_of, read_mask


@dataclass(frozen=True)
class LabelledCase:
    """Where one exam with a manual mask lies.

    Attributes
    ----------
    name : str
        ``sub-01_ses-1``.
    subject : str
        The person; all exams of a person stay on one side of a split.
    images : mapping of modality to Path
        On one grid.
    mask : Path or None
        On the same grid; only zeros and ones. None for an exam that nobody segmented.
    brain : Path or None
        On the same grid; None has it computed from images on the template grid.
    split : str
        ``train``, ``test`` or nothing.
    negatives : Path or None
        On the same grid: bright tissue that the raters call normal.
    """

    name: str
    subject: str
    images: Mapping[str, Path]
    mask: Path | None
    brain: Path | None = None
    split: str = ''
    negatives: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All its files."""
        others = (self.mask, self.brain, self.negatives)
        return [*self.images.values(), *(path for path in others if path is not None)]


@dataclass(frozen=True)
class Loaded:
    """A case in memory.

    Attributes
    ----------
    channels : float32 array (C, X, Y, Z)
        Normalised as the App does it; a missing channel is zero.
    present : tuple of bool
    brain, mask : bool array (X, Y, Z)
    spacing : tuple of float
        Edges of a voxel (mm).
    """

    channels: npt.NDArray[np.float32]
    present: tuple[bool, ...]
    brain: npt.NDArray[np.bool_]
    mask: npt.NDArray[np.bool_]
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class RawCase:
    """A case in memory, its images as they are.

    Attributes
    ----------
    images : sequence of float32 array (X, Y, Z)
        One for each channel of the model; zeros where one is absent.
    present : tuple of bool
    brain, mask, negatives : bool array (X, Y, Z)
    labelled : bool
        Whether somebody segmented it; else the mask is empty.
    spacing : tuple of float
        Edges of a voxel (mm).
    """

    images: Sequence[npt.NDArray[np.float32]]
    present: tuple[bool, ...]
    brain: npt.NDArray[np.bool_]
    mask: npt.NDArray[np.bool_]
    negatives: npt.NDArray[np.bool_]
    labelled: bool
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)


def read_case(case: LabelledCase, entry: ModelEntry) -> RawCase:
    """Read a case with the channels of a model, not normalised.

    Raises
    ------
    DataError
        If a file is damaged, the mask is none, is empty or lies on another grid, or a modality
        is missing that the model needs. The message names the case.
    """
    try:
        check_modalities(entry, case.images)
    except MSLesSegError as error:
        raise DataError(f'{case.name}: {error.message}', error.hint or _LEAVE_OUT) from error
    return read_channels(case, entry.channels)


def read_channels(case: LabelledCase, channels: Sequence[str]) -> RawCase:
    """Read a case with these modalities, zeros where one is absent; see `read_case`."""
    try:
        images = {name: check_image(path) for name, path in case.images.items()}
        _check_grids(case, images)
        flair: Any = images['FLAIR']
        brain = _brain(case, images)
        mask, negatives = (_marks(path, flair) for path in (case.mask, case.negatives))
        if case.mask is not None and not mask.any():
            raise DataError(f'{case.mask} is empty: it marks no lesion.', _LEAVE_OUT)
    except MSLesSegError as error:
        raise DataError(f'{case.name}: {error.message}', error.hint or _LEAVE_OUT) from error
    present = tuple(name in case.images for name in channels)
    empty = np.zeros(brain.shape, np.float32)
    arrays = [
        np.asanyarray(images[name].dataobj, dtype=np.float32) if name in images else empty
        for name in channels
    ]
    spacing = tuple(float(v) for v in nb.affines.voxel_sizes(flair.affine))
    labelled = case.mask is not None
    return RawCase(arrays, present, brain, mask, negatives, labelled, spacing)


def load_case(case: LabelledCase, entry: ModelEntry) -> Loaded:
    """Read a case as a model of this description would get it; see `read_case`."""
    raw = read_case(case, entry)
    here = [name for name, there in zip(entry.channels, raw.present, strict=True) if there]
    arrays = {n: i for n, i in zip(entry.channels, raw.images, strict=True) if n in here}
    try:
        channels = stack_channels(entry, arrays, raw.brain)
    except MSLesSegError as error:
        raise DataError(f'{case.name}: {error.message}', error.hint or _LEAVE_OUT) from error
    return Loaded(channels, raw.present, raw.brain, raw.mask, raw.spacing)


_LEAVE_OUT = 'Mend the file, or leave the exam out with --exclude.'


def _check_grids(case: LabelledCase, images: Mapping[str, Any]) -> None:
    for name, image in images.items():
        on_grid_of(images['FLAIR'], image, case.images[name], resampling=False, linear=False)


def _marks(path: Path | None, flair: Any) -> npt.NDArray[np.bool_]:
    """Return a mask on the grid of the FLAIR; empty where there is none."""
    if path is None:
        return np.zeros(flair.shape[:3], bool)
    mask = on_grid_of(flair, read_mask(path), path, resampling=False, linear=False)
    return np.ascontiguousarray(np.asanyarray(mask.dataobj) > 0)


def _brain(case: LabelledCase, images: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    if case.brain is None:
        return np.asanyarray(brain_mask(images).dataobj) > 0
    return _marks(case.brain, images['FLAIR'])


def scan_digest(case: LabelledCase) -> str:
    """Return the SHA256 of the voxels of the FLAIR: equal scans have equal digests."""
    data = np.ascontiguousarray(check_image(case.images['FLAIR']).dataobj, dtype=np.float32)
    return hashlib.sha256(data.tobytes()).hexdigest()


@dataclass(frozen=True)
class Split:
    """Who is trained on, who is validated on, and who is kept for the test.

    Attributes
    ----------
    train, validation, test : tuple of LabelledCase
    notes : tuple of str
        What a reader should know of the split.
    """

    train: tuple[LabelledCase, ...]
    validation: tuple[LabelledCase, ...] = ()
    test: tuple[LabelledCase, ...] = ()
    notes: tuple[str, ...] = field(default=())


def check_leaks(
    split: Split, digests: Mapping[str, str] | None = None, allowed: Iterable[str] = ()
) -> None:
    """Make sure that nobody, and no scan, is on two sides of a split, nor any scan twice.

    Parameters
    ----------
    split : Split
    digests : mapping of case name to SHA256, optional
        From `scan_digest`.
    allowed : iterable of str
        Persons who may be in training and validation, because the published split has them so.

    Raises
    ------
    DataError
        With the first leak.
    """
    sides = {'training': split.train, 'validation': split.validation, 'test': split.test}
    seen: dict[str, str] = {}
    for side, cases in sides.items():
        for case in cases:
            other = seen.setdefault(case.subject, side)
            printed = case.subject in allowed and {other, side} == {'training', 'validation'}
            if other != side and not printed:
                raise DataError(
                    f'{case.subject} is in {other} and in {side}: the figures would be wrong.',
                    'All exams of a person belong to one side; correct the folds.',
                )
    _check_scans([case for cases in sides.values() for case in cases], digests or {})


def _check_scans(cases: Sequence[LabelledCase], digests: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for case in cases:
        digest = digests.get(case.name)
        if digest is None:
            continue
        other = first.setdefault(digest, case.name)
        if other != case.name:
            raise DataError(
                f'{case.name} and {other} hold the same FLAIR scan.',
                f'Leave one of them out: --exclude {case.name}',
            )
