"""Labelled exams as a raw dataset of nnU-Net v2, with the folds by person of this package.

The images are those that an external engine is given by the App on the same grid, so that a model
trained on them meets the same input when it comes back through ``mslesseg models add``.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mslesseg_app import __version__
from mslesseg_app.core.errors import DataError, OutputError, UsageError
from mslesseg_app.core.files import explain_os_error, write_bytes, write_text
from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.models.nnunet_plans import EXPORT_KEY
from mslesseg_app.spatial.grids import compressed, like
from mslesseg_app.spatial.reading import open_image
from mslesseg_app.spatial.template import is_template_grid
from mslesseg_app.training.cases import (
    LabelledCase,
    Split,
    check_leaks,
    read_channels,
    scan_digest,
)
from mslesseg_app.training.folds import make_folds

NAME = re.compile(r'Dataset(\d{3})_[A-Za-z0-9][A-Za-z0-9_-]*')
Say = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Export:
    """How a dataset is written.

    Attributes
    ----------
    target : Path
        ``nnUNet_raw/DatasetXXX_NAME``.
    whole_head : bool
        Keep what lies outside the brain.
    channels : tuple of str
        Modalities; empty takes those that all exams have.
    scheme, count, seed
        Of the folds, see `mslesseg_app.training.folds.make_folds`.
    licence : str
        Of the images, for the record.
    """

    target: Path
    whole_head: bool = False
    channels: tuple[str, ...] = ()
    scheme: str = 'even'
    count: int = 5
    seed: int = 1
    licence: str = 'NOASSERTION'


@dataclass(frozen=True)
class Exported:
    """What was written: channels in their order, cases for training and test, notes on folds."""

    channels: tuple[str, ...]
    training: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...]


def check_target(target: Path) -> None:
    """Make sure that nnU-Net would accept a dataset of this name.

    Raises
    ------
    UsageError
        For another name than ``DatasetXXX_NAME``, or a number that another dataset has.
    OutputError
        If the folder exists and is not empty.
    """
    match = NAME.fullmatch(target.name)
    if match is None:
        raise UsageError(
            f'{target.name} is no name of a dataset of nnU-Net.',
            'Name the folder Dataset, three digits and a name: nnUNet_raw/Dataset501_MSLesions',
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(
            f'{target} is there already.', 'Remove it, or choose another number and name.'
        )
    others = sorted(target.parent.glob(f'Dataset{match[1]}_*')) if target.parent.is_dir() else []
    taken = [path.name for path in others if path.name != target.name]
    if taken:
        raise UsageError(
            f'nnU-Net knows datasets by their number, and {taken[0]} has the number {match[1]}.',
            'Choose another number.',
        )


def export_nnunet(
    cases: Sequence[LabelledCase], export: Export, say: Say = lambda *_: None
) -> Exported:
    """Write labelled exams as nnU-Net v2 reads them; the folder appears when it is complete.

    Parameters
    ----------
    cases : sequence of LabelledCase
        Each on one grid. Those of the test set go to ``imagesTs`` and ``labelsTs``.
    export : Export
    say : callable
        Told number, count and name of each exam that is written.

    Raises
    ------
    DataError
        If an exam cannot be used, lacks a modality that was asked for, or is in two folds.
    UsageError
        If the folds cannot be made, or the target has no name of nnU-Net.
    OutputError, DiskError
        If the folder cannot be written.
    """
    check_target(export.target)
    folds = tuple(make_folds(cases, export.scheme, export.count, export.seed))
    channels = _channels(cases, export.channels)
    digests = {case.name: scan_digest(case) for case in cases}
    for fold in folds:
        check_leaks(fold.split, digests, fold.leaking)
    split = folds[0].split
    notes = tuple(dict.fromkeys(note for fold in folds for note in fold.split.notes))
    test = {case.name for case in split.test}
    training = tuple(case.name for case in cases if case.name not in test)
    with _staging(export.target) as folder:
        for number, case in enumerate(cases, 1):
            _write_case(case, channels, export.whole_head, folder, case.name in test)
            say(number, len(cases), case.name)
        dataset = _dataset(export, channels, cases, len(training), notes)
        _write_json(folder / 'dataset.json', dataset)
        _write_json(folder / 'splits_final.json', [_names_of(fold.split) for fold in folds])
    return Exported(channels, training, tuple(case.name for case in split.test), notes)


def _channels(cases: Sequence[LabelledCase], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the modalities: nnU-Net needs every one of them in every exam."""
    if not wanted:
        return tuple(n for n in MODALITIES if all(n in case.images for case in cases))
    if len(set(wanted)) < len(wanted):
        raise UsageError('A modality stands twice in --channels.', 'Name each once.')
    for case in cases:
        absent = [name for name in wanted if name not in case.images]
        if absent:
            raise DataError(
                f'{case.name} has no {absent[0]}, and nnU-Net needs all channels of every exam.',
                f'Leave it out (--exclude {case.name}), or {absent[0]} (--channels).',
            )
    return wanted


def _write_case(
    case: LabelledCase, channels: tuple[str, ...], whole_head: bool, folder: Path, test: bool
) -> None:
    """Write the images and the mask of one exam."""
    raw = read_channels(case, channels)
    flair = open_image(case.images['FLAIR'])
    end = 'Ts' if test else 'Tr'
    for number, image in enumerate(raw.images):
        data = image if whole_head else np.where(raw.brain, image, 0)
        _save(flair, data, np.float32, folder / f'images{end}' / f'{case.name}_{number:04d}')
    _save(flair, raw.mask, np.uint8, folder / f'labels{end}' / case.name)


def _save(flair: Any, data: npt.NDArray[Any], kind: npt.DTypeLike, path: Path) -> None:
    write_bytes(path.with_name(f'{path.name}.nii.gz'), compressed(like(flair, data, kind)))


def _on_template(case: LabelledCase) -> bool:
    return is_template_grid(open_image(case.images['FLAIR']))


def _dataset(
    export: Export,
    channels: tuple[str, ...],
    cases: Sequence[LabelledCase],
    training: int,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return ``dataset.json``."""
    return {
        'name': export.target.name,
        'channel_names': {str(number): name for number, name in enumerate(channels)},
        'labels': {'background': 0, 'lesion': 1},
        'numTraining': training,
        'file_ending': '.nii.gz',
        'licence': export.licence,
        EXPORT_KEY: {
            'version': __version__,
            'space': 'template' if all(map(_on_template, cases)) else 'native',
            'whole_head': export.whole_head,
            'folds': {'scheme': export.scheme, 'seed': export.seed},
            'notes': list(notes),
        },
    }


def _write_json(path: Path, content: Any) -> None:
    """Write JSON in the order of its keys: labels stand in the order of their values."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + '\n')


def _names_of(split: Split) -> dict[str, list[str]]:
    sides = {'train': split.train, 'val': split.validation}
    return {side: [case.name for case in cases] for side, cases in sides.items()}


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """Give a folder beside the target; it takes its name when all went well."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix='.tmp-', dir=target.parent) as staging:
            folder = Path(staging) / target.name
            folder.mkdir()
            yield folder
            folder.replace(target)
    except OSError as error:
        raise explain_os_error(error, target) from error
