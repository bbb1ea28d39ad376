"""One training, from its split to its entry in the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.training.cases import LabelledCase, Split, check_leaks
from mslesseg_app.training.description import entry_of
from mslesseg_app.training.experiments.labelled_exams import scan_digests
from mslesseg_app.training.experiments.publish import (
    check_name,
    identity_digest,
    make_card,
    publish,
)
from mslesseg_app.training.plan import Plan

if TYPE_CHECKING:
    from mslesseg_app.training.distributed import World
    from mslesseg_app.training.loop import Trainer
    from mslesseg_app.training.patches import TrainingDataset
    from mslesseg_app.training.tracking import Tracker


@dataclass(frozen=True)
class TrainingJob:
    """How a training is run; none of it changes what comes out beyond rounding.

    Attributes
    ----------
    folder : Path
        Of the run.
    cache : Path
        Of exams that were read; may be shared.
    model_dir : Path
        Where the entry goes.
    name : str
        Of the entry.
    preset : str
        Name of the preset, for the card.
    dataset : str
        Name of the data, for the card.
    licence : str
        SPDX name for the weights.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads : int
        CPU threads of this process.
    loaders : int
        Worker processes that read batches.
    minutes : float
        Begin no epoch that would end after this time.
    start_from : Path or None
        Weights to start from.
    lesion_shapes : Path or None
        Lesions on the template grid that are planted (`augmentation.LesionShapes`).
    half : bool
        Write the weights in half precision.
    force : bool
        Replace another entry of this name.
    tensorboard, quiet : bool
    allowed : tuple of str
        Persons who are in training and validation because the published folds have them so.
    """

    folder: Path
    cache: Path
    model_dir: Path
    name: str
    preset: str = ''
    dataset: str = ''
    licence: str = 'NOASSERTION'
    device: str = 'auto'
    threads: int = 1
    loaders: int = 0
    minutes: float = math.inf
    start_from: Path | None = None
    lesion_shapes: Path | None = None
    half: bool = False
    force: bool = False
    tensorboard: bool = False
    quiet: bool = False
    allowed: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes
    ----------
    complete : bool
        Whether the plan, or the patience, is over; else the same command goes on.
    entry : ModelEntry or None
        Of a complete training, on the process that writes.
    first : bool
        Whether this process is the one that writes and speaks.
    history : list of dict
        Rows of the log.
    """

    complete: bool
    entry: ModelEntry | None
    first: bool
    history: list[dict[str, Any]]


def train_cases(plan: Plan, split: Split, job: TrainingJob) -> Trained:
    """Train on the exams of a split; the same call again goes on where it stopped.

    Raises
    ------
    UsageError, DataError
        If plan and exams do not fit, an exam is unfit, or somebody is on two sides.
    MSLesSegError
        If the training cannot go on.
    """
    everyone = (*split.train, *split.validation, *split.test)
    check_leaks(split, scan_digests(everyone, job.cache), job.allowed)
    identity: dict[str, Any] = {
        'dataset': job.dataset,
        'validation': [case.name for case in split.validation],
        'test': [case.name for case in split.test],
        'notes': list(split.notes),
        'lesion_shapes': job.lesion_shapes.name if job.lesion_shapes else '',
    }
    if len(split.train) < 1:
        raise UsageError('Nobody is left to train on.', 'Validate on fewer, or exclude fewer.')

    def datasets(entry: ModelEntry) -> tuple[TrainingDataset, Any]:
        from mslesseg_app.training.patches import CaseDataset
        from mslesseg_app.training.validation import CaseValidator

        store = job.cache / 'exams'
        exams = split.validation if plan.validate_every else ()
        judged = CaseDataset(exams, plan, entry, store, judged=True)
        return _dataset(plan, split, entry, job), CaseValidator(judged, entry, job.threads)

    return _train(plan, job, identity, datasets)


def _dataset(plan: Plan, split: Split, entry: ModelEntry, job: TrainingJob) -> TrainingDataset:
    """Return where patches come from."""
    if plan.augment == 'strong':
        from mslesseg_app.training.augmentation import AugmentedDataset
        from mslesseg_app.training.lesion_shapes import LesionShapes

        shapes = None if job.lesion_shapes is None else LesionShapes(job.lesion_shapes)
        return AugmentedDataset(split.train, plan, entry, shapes)
    from mslesseg_app.training.patches import CaseDataset

    if any(case.mask is None for case in split.train):
        raise UsageError(
            'Exams without masks need a plan that plants lesions.', 'Use --set augment=strong.'
        )
    return CaseDataset(split.train, plan, entry, job.cache / 'exams')


def _device(job: TrainingJob) -> str:
    import os

    from mslesseg_app.models.prediction.device import choose_device

    device, _ = choose_device(job.device)
    local = os.environ.get('LOCAL_RANK', '')
    return f'cuda:{local}' if device != 'cpu' and local else device


def _train(plan: Plan, job: TrainingJob, identity: Mapping[str, Any], datasets: Any) -> Trained:
    import torch

    from mslesseg_app.models.prediction.windows import torch_threads
    from mslesseg_app.training.distributed import open_world
    from mslesseg_app.training.loop import Trainer
    from mslesseg_app.training.tracking import Tracker

    entry = entry_of(plan, job.name)
    with ExitStack() as stack:
        stack.enter_context(torch_threads(job.threads))
        world = stack.enter_context(open_world(_device(job)))
        torch.backends.cudnn.benchmark = True
        quiet = job.quiet or not world.first
        tracker = stack.enter_context(Tracker(job.folder, quiet, job.tensorboard and world.first))
        dataset, validator = datasets(entry)
        _read_all(dataset, validator, tracker, world)
        trainer = Trainer(
            job.folder, plan, dataset, validator, world, job.loaders, _start(job), identity
        )
        check_name(job.name, job.model_dir, identity_digest(trainer.identity), job.force)
        complete = trainer.train(tracker, job.minutes)
        made = _finish(trainer, plan, job) if complete and world.first else None
        world.wait()
        return Trained(complete, made, world.first, trainer.progress.history)


def _start(job: TrainingJob) -> Any:
    if job.start_from is None:
        return None
    from mslesseg_app.models.networks import read_tensors

    return read_tensors(job.start_from)


def _read_all(dataset: Any, validator: Any, tracker: Tracker, world: World) -> None:
    """Read every exam once, before the first step: an unfit one is found now, not at night."""
    if world.first and hasattr(dataset, 'prepare'):
        read = [*dataset.prepare(), *validator.dataset.prepare()]
        tracker.say(f'{len(read)} exams are read and normalised.')
    world.wait()


def _finish(trainer: Trainer, plan: Plan, job: TrainingJob) -> ModelEntry:
    progress = trainer.progress
    facts: dict[str, Any] = {
        'epochs': progress.epoch,
        'steps': progress.step,
        'hours': round(progress.seconds / 3600, 3),
        'device': trainer.device,
    }
    if progress.best_epoch:
        facts['kept_epoch'] = progress.best_epoch if plan.keep == 'best' else progress.epoch
        facts['figures'] = [
            {
                'source': 'validation exams, of which the epoch was chosen: flatters',
                'exams': len(trainer.validator) if trainer.validator else 0,
                'DSC': round(progress.best, 4),
            }
        ]
    weights = trainer.export(job.folder / 'weights.safetensors', job.half)
    card = make_card(plan, job.preset, trainer.identity, facts)
    return publish(weights, job.model_dir, job.name, plan, card, job.licence)


def hold_out(cases: Sequence[LabelledCase], wanted: Sequence[str], seed: int) -> Split:
    """Divide cases into training and validation; test cases of the dataset are kept out.

    Parameters
    ----------
    cases : sequence of LabelledCase
    wanted : sequence of str
        ``none``; a share of the participants (``0.2``), drawn by `seed`; or participants.
    seed : int

    Raises
    ------
    UsageError
        For a participant that does not exist or is kept for the test, or a share that is none.
    """
    test = tuple(case for case in cases if case.split == 'test')
    rest = [case for case in cases if case.split != 'test']
    people = sorted({case.subject for case in rest})
    chosen = _chosen(people, list(wanted), seed)
    return Split(
        tuple(case for case in rest if case.subject not in chosen),
        tuple(case for case in rest if case.subject in chosen),
        test,
    )


def _chosen(people: list[str], wanted: list[str], seed: int) -> set[str]:
    if wanted == ['none']:
        return set()
    try:
        share = float(wanted[0]) if len(wanted) == 1 else math.nan
    except ValueError:
        share = math.nan
    if math.isfinite(share) and 0 <= share < 1:
        count = round(share * len(people))
        order = np.random.default_rng(seed).permutation(len(people))
        return {people[place] for place in order[:count]}
    named = {f'sub-{name.removeprefix("sub-")}' for name in wanted}
    if unknown := sorted(named - set(people)):
        raise UsageError(
            f'{unknown[0]} is no participant that could be validated on.',
            'Name participants outside the test set, a share such as 0.2, or none.',
        )
    return named
