"""Training data: what is kept of an exam, and who may take part in a training.

A prepared folder holds one small file for each exam (``exam-*.npz``) and for each lesion mask
that serves as a pattern (``lesions-*.npz``). Every file names the *subject* it comes from.
Leaving a subject out means that none of the subject's files is opened: neither images, nor mask,
nor tissue maps, nor lesion patterns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mslesseg_app.errors import DataError, NoInputError, UsageError
from mslesseg_app.files import atomic_path

CHANNELS = ('FLAIR', 'T1w', 'T2w')
TISSUES = ('csf', 'gm', 'wm', 'ventricle')
IGNORE = 255
"""Label of voxels of which nobody knows whether they are lesion."""

KINDS = ('exam', 'guide', 'lesions')
"""Beginnings of the names of prepared files."""

BOX = (slice(11, 171), slice(13, 205), slice(0, 160))
"""Part of the template grid that is kept: 160 x 192 x 160 voxels around every brain."""

BOX_SHAPE = (160, 192, 160)
_STEPS = 400
_TOP = 99.9

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Exam:
    """One exam on the box of the template grid.

    Attributes
    ----------
    name, subject : str
        Exam and the person it shows.
    images : uint16 array (3, X, Y, Z)
        FLAIR, T1w, T2w; 400 is the 99.9th percentile of each.
    present : bool array (3,)
        Which of them exist. An exam without any image lends only its anatomy.
    label : uint8 array (X, Y, Z)
        1 for lesion, `IGNORE` where unknown.
    tissues : uint8 array (4, X, Y, Z)
        Probability times 255 of CSF, grey matter, white matter, and of being in a ventricle.
    levels : float32 array (3, 3)
        Median of each channel in CSF, grey and white matter.
    """

    name: str
    subject: str
    images: npt.NDArray[np.uint16]
    present: npt.NDArray[np.bool_]
    label: npt.NDArray[np.uint8]
    tissues: npt.NDArray[np.uint8]
    levels: npt.NDArray[np.float32]


@dataclass(frozen=True)
class GuidedExam:
    """One exam as a guided network sees it, on the box of the template grid.

    Attributes
    ----------
    name, subject : str
    channels : float16 array (8, X, Y, Z)
        `mslesseg_app.models.guide.GUIDES`.
    label : uint8 array (X, Y, Z)
        1 for lesion, `IGNORE` where unknown.
    brain : bool array (X, Y, Z)
    grey : uint8 array (2, X, Y, Z)
        Probability times 255 of the exam's own grey matter, here and in the other hemisphere.
    """

    name: str
    subject: str
    channels: npt.NDArray[np.float16]
    label: npt.NDArray[np.uint8]
    brain: npt.NDArray[np.bool_]
    grey: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pattern:
    """Lesions of one patient as a source of shapes and places.

    Attributes
    ----------
    name, subject : str
        File and person.
    components : int16 array (X, Y, Z)
        Number of the connected lesion at each voxel of the box, 0 outside.
    """

    name: str
    subject: str
    components: npt.NDArray[np.int16]


@dataclass(frozen=True)
class TrainingData:
    """What one training run may see.

    Attributes
    ----------
    exams, patterns : tuple
        Read files.
    left_out : tuple of str
        Subjects of which nothing was read.
    """

    exams: tuple[Exam, ...]
    patterns: tuple[Pattern, ...]
    left_out: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """Names of all that was read, for the model card."""
        exams = [f'exam-{exam.name}' for exam in self.exams]
        return exams + [f'lesions-{pattern.name}' for pattern in self.patterns]


def list_subjects(folder: Path) -> dict[str, list[Path]]:
    """Return the prepared files of each subject.

    Raises
    ------
    NoInputError
        If the folder holds none.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(p for kind in KINDS for p in folder.glob(f'{kind}-*.npz')):
        found.setdefault(_read(path, ('subject',))['subject'], []).append(path)
    if not found:
        raise NoInputError(
            f'{folder} holds no prepared training data.',
            'Make it with: python -m mslesseg_app.training prepare',
        )
    return found


def load_data(folder: Path, leave_out: Sequence[str] = ()) -> TrainingData:
    """Read all subjects but those left out.

    Parameters
    ----------
    folder : Path
        From `prepare`.
    leave_out : sequence of str
        Subjects; each must exist, so that a misspelt name cannot leak a test case.

    Raises
    ------
    UsageError
        For a subject that the folder does not know.
    NoInputError
        If nothing is left to train on.
    """
    kept = kept_paths(folder, leave_out)
    exams = tuple(read_exam(p) for p in kept if p.name.startswith('exam-'))
    patterns = tuple(read_pattern(p) for p in kept if p.name.startswith('lesions-'))
    if not exams:
        raise NoInputError('No exam is left to train on.', 'Leave out fewer subjects.')
    return TrainingData(exams, patterns, tuple(leave_out))


def kept_paths(folder: Path, leave_out: Sequence[str] = ()) -> list[Path]:
    """Return the prepared files of all subjects but those left out, sorted.

    Raises
    ------
    UsageError
        For a subject that the folder does not know.
    """
    subjects = list_subjects(folder)
    unknown = sorted(set(leave_out) - set(subjects))
    if unknown:
        raise UsageError(
            f'There is no subject {unknown[0]!r} to leave out.',
            f'Known: {", ".join(sorted(subjects))}.',
        )
    kept = [path for name, paths in subjects.items() if name not in leave_out for path in paths]
    return sorted(kept)


def read_exam(path: Path) -> Exam:
    """Read one exam file; DataError where it is damaged."""
    values = _read(path, ('name', 'subject', 'images', 'present', 'label', 'tissues', 'levels'))
    return Exam(**values)


def read_pattern(path: Path) -> Pattern:
    """Read one lesion pattern; DataError where it is damaged."""
    return Pattern(**_read(path, ('name', 'subject', 'components')))


def read_guided(path: Path) -> GuidedExam:
    """Read the channels of a guided network for an exam; DataError where the file is damaged."""
    return GuidedExam(**_read(path, ('name', 'subject', 'channels', 'label', 'brain', 'grey')))


def write_guided(folder: Path, exam: GuidedExam) -> Path:
    """Write the channels of a guided network for an exam and return their file."""
    return _write(folder / f'guide-{exam.name}.npz', vars(exam))


def write_exam(folder: Path, exam: Exam) -> Path:
    """Write an exam into a prepared folder and return its file."""
    return _write(folder / f'exam-{exam.name}.npz', vars(exam))


def write_pattern(folder: Path, pattern: Pattern) -> Path:
    """Write a lesion pattern into a prepared folder and return its file."""
    return _write(folder / f'lesions-{pattern.name}.npz', vars(pattern))


def quantise(image: Array) -> npt.NDArray[np.uint16]:
    """Return an image in steps of 1/400 of its 99.9th percentile, zero only for zero."""
    seen = image > 0
    if not seen.any():
        return np.zeros(image.shape, np.uint16)
    top = float(np.percentile(image[seen], _TOP))
    steps = np.clip(np.rint(image / top * _STEPS), 1, 2 * _STEPS)
    return np.where(seen, steps, 0).astype(np.uint16)


def to_box(volume: Array) -> Array:
    """Cut the box out of a volume on the template grid.

    Raises
    ------
    DataError
        If something but zero lies outside.
    """
    inside = volume[BOX]
    if np.count_nonzero(inside) != np.count_nonzero(volume):
        lost = np.count_nonzero(volume) - np.count_nonzero(inside)
        if lost > 0.002 * np.count_nonzero(volume):
            raise DataError(f'{lost} voxels of the brain lie outside the box kept for training.')
    return np.ascontiguousarray(inside)


def from_box(volume: Array, shape: Iterable[int] = (182, 218, 182)) -> Array:
    """Put a volume of the box back onto the template grid, zero outside."""
    whole = np.zeros(tuple(shape), dtype=volume.dtype)
    whole[BOX] = volume
    return whole


def _write(path: Path, values: dict[str, Any]) -> Path:
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **values)
        # numpy adds its suffix unless it is there already
    return path


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {key: file[key] for key in keys}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f'{path} is no prepared training file: {error}', 'Prepare it again.'
        ) from error
    return {key: str(v) if v.dtype.kind == 'U' else v for key, v in values.items()}
