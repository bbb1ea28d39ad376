"""Every model's mask of every exam against its reference, several exams at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, DiskError, MSLesSegError, NoInputError
from mslesseg_app.group.images import load_whole
from mslesseg_app.group.kept import read_kept, state_of, write_kept
from mslesseg_app.metrics.consensus import METHODS, consensus, experiments
from mslesseg_app.metrics.evaluation import evaluate, evaluation_columns
from mslesseg_app.metrics.exam import voxel_agreement
from mslesseg_app.metrics.reference import read_binary
from mslesseg_app.spatial.checks import UNREADABLE
from mslesseg_app.spatial.masks import check_overlap
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import is_template_grid, same_grid

Mask = npt.NDArray[np.bool_]

#: Names of the joint masks that are evaluated beside the models.
CONSENSUS = {method: f'consensus-{method}' for method in METHODS}
#: Fewer models than this have no consensus.
FEWEST_MODELS = 2
#: Less work than this, in seconds, is not worth the start of more processes.
_WORTH_SECONDS = 10.0


@dataclass(frozen=True)
class EvaluationTask:
    """One exam: its reference and the masks of all models, by space.

    Attributes
    ----------
    row : dict
        Columns that name the exam.
    masks, probabilities : dict
        Of each model, the file by space (``orig``, ``MNI152NLin6Asym``).
    """

    row: dict[str, str]
    reference: Path
    masks: dict[str, dict[str, Path]]
    probabilities: dict[str, dict[str, Path]] = field(default_factory=dict)
    rules: str = 'mslesseg'

    @property
    def name(self) -> str:
        """What is kept of the exam is kept under this name."""
        return '_'.join(self.row.values())

    def state(self) -> str:
        """Return a text that is another when one of the files has changed."""
        sources = (*self.masks.values(), *self.probabilities.values())
        files = [path for found in sources for path in found.values()]
        return state_of([self.reference, *files], self.rules, list(self.masks))


@dataclass(frozen=True)
class EvaluationOutcome:
    """What came of one exam.

    Attributes
    ----------
    rows : list of dict
        One row per model, and one per consensus where there are two models or more.
    raters : list of dict
        One row per model: agreement with the consensus, and the paper's two experiments.
    problems : dict
        Why a model (or, with an empty name, the exam) could not be evaluated, with exit code.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    raters: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[str, tuple[str, int]] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return all of it as text; :meth:`from_json` gives plain numbers back."""
        return json.dumps(vars(self), default=lambda number: number.item()).encode()

    @classmethod
    def from_json(cls, text: bytes) -> EvaluationOutcome:
        """Read what :meth:`to_json` gave."""
        found = json.loads(text)
        problems = {model: (words, code) for model, (words, code) in found['problems'].items()}
        return cls(found['rows'], found['raters'], problems)


def evaluation_dictionary(rules: str) -> dict[str, dict[str, Any]]:
    """Return the columns of ``group_evaluation.tsv``, in order."""
    return {
        'participant_id': {'Description': 'Participant.'},
        'session_id': {'Description': 'Session; n/a where the dataset has none.'},
        'model': {
            'Description': 'Name of the model; consensus-* is the joint mask of all models that '
            'this exam has.'
        },
        'rules': {'Description': 'Rule set of the evaluation.'},
        'reference_grid': {
            'Description': 'Grid on which the masks were compared.',
            'Levels': {
                'orig': "the subject's own FLAIR",
                'MNI152NLin6Asym': 'the 1 mm template',
                'reference': 'the grid of the reference mask, in the space of the FLAIR; the '
                'native mask was resampled to it (nearest)',
            },
        },
        **evaluation_columns(rules),
        'note': {'Description': 'Why a number is n/a or infinite, or an exam was not evaluated.'},
    }


RATER_COLUMNS: dict[str, dict[str, Any]] = {
    'participant_id': {'Description': 'Participant.'},
    'session_id': {'Description': 'Session; n/a where the dataset has none.'},
    'model': {'Description': 'Name of the model; "reference" is the reference mask.'},
    'n_models': {'Description': 'Number of models that have a mask of this exam.'},
    'sensitivity': {
        'Description': 'STAPLE: sensitivity of the model, within a band of one voxel around all '
        'marked voxels.'
    },
    'specificity': {'Description': 'STAPLE: specificity of the model, within the same band.'},
    'DSC_majority': {'Description': 'Dice coefficient with the majority of all models.'},
    'DSC_reference': {'Description': 'Dice coefficient with the reference mask.'},
    'DSC_C1': {'Description': 'Dice coefficient with the STAPLE of all models and the reference.'},
    'DSC_C2': {'Description': 'Dice coefficient with the STAPLE of the best five models.'},
    'in_C2': {'Description': 'Whether the model is one of the best five of this exam.'},
}


def evaluate_all(
    tasks: Sequence[EvaluationTask], nprocs: int, work: Path | None = None
) -> list[EvaluationOutcome]:
    """Evaluate exams, ``nprocs`` at a time where that is worth it.

    The results, and their order, do not depend on ``nprocs``.

    Parameters
    ----------
    work : Path, optional
        Work folder: exams of which no file has changed since an earlier run are not evaluated
        again.

    Raises
    ------
    DiskError
        If a process was ended from outside.
    """
    before = read_kept(work, 'evaluation') if work else {}
    states = [task.state() for task in tasks]
    fresh = [
        task
        for task, state in zip(tasks, states, strict=True)
        if before.get(task.name, ('', b''))[0] != state
    ]
    made = {
        task.name: outcome.to_json()
        for task, outcome in zip(fresh, _evaluate(fresh, nprocs), strict=True)
    }
    texts = [made.get(task.name) or before[task.name][1] for task in tasks]
    outcomes = [EvaluationOutcome.from_json(text) for text in texts]
    found = {
        task.name: (state, text)
        for task, state, text, outcome in zip(tasks, states, texts, outcomes, strict=True)
        if not outcome.problems
    }
    if work and found != before:
        write_kept(work, 'evaluation', found)
    return outcomes


def _evaluate(tasks: Sequence[EvaluationTask], nprocs: int) -> list[EvaluationOutcome]:
    if not tasks:
        return []
    start = time.perf_counter()
    first, rest = evaluate_exam(tasks[0]), tasks[1:]
    expected = (time.perf_counter() - start) * len(rest)
    if nprocs < 2 or len(rest) < 2 or expected < _WORTH_SECONDS:
        return [first, *map(evaluate_exam, rest)]
    context = multiprocessing.get_context('spawn')
    workers = min(nprocs, len(rest))
    try:
        with _one_thread(), ProcessPoolExecutor(workers, mp_context=context) as pool:
            return [first, *pool.map(evaluate_exam, rest)]
    except BrokenProcessPool as error:
        raise DiskError(
            'A process that compares masks was ended from outside.',
            'Probably the memory did not suffice; use fewer with --nprocs.',
        ) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let the processes that start meanwhile use one thread each."""
    names = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS')
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, '1'))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def evaluate_exam(task: EvaluationTask) -> EvaluationOutcome:
    """Evaluate all models of one exam; what cannot be evaluated is reported, nothing is raised."""
    outcome = EvaluationOutcome()
    try:
        image, truth = read_binary(task.reference)
    except MSLesSegError as error:
        outcome.problems[''] = (error.message, error.exit_code)
        return outcome
    found: dict[str, tuple[Mask, str, Any]] = {}
    for model, files in task.masks.items():
        try:
            mask, grid = _on_grid(files, image, task.reference)
            soft = _probability(task.probabilities.get(model, {}), grid, image)
        except MSLesSegError as error:
            outcome.problems[model] = (error.message, error.exit_code)
            continue
        found[model] = (mask, grid, soft)
        outcome.rows.append(_evaluation_row(task, model, grid, (mask, truth, image), soft))
    if len(found) >= FEWEST_MODELS:
        _add_consensus(task, found, truth, image, outcome)
    return outcome


def _evaluation_row(
    task: EvaluationTask, model: str, grid: str, compared: tuple[Mask, Mask, Any], soft: Any
) -> dict[str, Any]:
    mask, truth, image = compared
    result = evaluate(mask, truth, nb.affines.voxel_sizes(image.affine), task.rules, soft)
    named = {**task.row, 'model': model, 'rules': task.rules, 'reference_grid': grid}
    return {**named, **result.values, 'note': result.note or None}


def _on_grid(files: dict[str, Path], reference: Any, path: Path) -> tuple[Mask, str]:
    """Return a model's mask on the grid of the reference mask, and the name of that grid."""
    if is_template_grid(reference):
        native = files.get('orig')
        image = load_whole(native) if native else None
        if image is not None and same_grid(image, reference.shape, reference.affine):
            return voxels_of(image), 'orig'  # the FLAIR itself is on the template grid
        if 'MNI152NLin6Asym' not in files:
            raise NoInputError('There is no mask on the template grid, where the reference is.')
        return voxels_of(load_whole(files['MNI152NLin6Asym'])), 'MNI152NLin6Asym'
    if 'orig' not in files:
        raise NoInputError('There is no mask on the native grid, where the reference is.')
    image = load_whole(files['orig'])
    if same_grid(image, reference.shape, reference.affine):
        return voxels_of(image), 'orig'
    check_overlap(image, reference, path)
    moved = resample(image, reference.shape, reference.affine, np.eye(4), order='nearest')
    return voxels_of(moved), 'reference'


def _probability(files: dict[str, Path], grid: str, reference: Any) -> Any:
    """Return the probability on the grid, or None where there is none without resampling."""
    if grid not in files:
        return None
    image = load_whole(files[grid])
    if not same_grid(image, reference.shape, reference.affine):
        return None
    return np.clip(_data(image).astype(np.float32), 0, 1)


def voxels_of(image: Any) -> Mask:
    """Return where a mask is; DataError if its file is damaged."""
    return np.asarray(_data(image) > 0)


def _data(image: Any) -> npt.NDArray[Any]:
    try:
        return np.asanyarray(image.dataobj)
    except UNREADABLE as error:
        raise DataError(f'{image.get_filename()} cannot be read: {error}') from error


# ------------------------------------------------------------------------- consensus


def _add_consensus(
    task: EvaluationTask,
    found: dict[str, tuple[Mask, str, Any]],
    truth: Mask,
    image: Any,
    outcome: EvaluationOutcome,
) -> None:
    """Evaluate the joint masks of all models, and each model against them."""
    masks = {model: mask for model, (mask, _, _) in found.items()}
    grid = min(grid for _, grid, _ in found.values())
    box = box_of([truth, *masks.values()])
    cut = {model: mask[box] for model, mask in masks.items()}
    joint = {method: consensus(list(cut.values()), method) for method in METHODS}
    for method, result in joint.items():
        compared = (result.mask, truth[box], image)
        row = _evaluation_row(task, CONSENSUS[method], grid, compared, None)
        row['note'] = '; '.join(filter(None, (row['note'], result.note))) or None
        outcome.rows.append(row)
    scores = {row['rater']: row for row in experiments(cut, truth[box])}
    staple, majority = joint['staple'], joint['majority'].mask
    for place, (model, mask) in enumerate(cut.items()):
        outcome.raters.append(
            {
                **task.row,
                'model': model,
                'n_models': len(cut),
                'sensitivity': staple.sensitivity[place],
                'specificity': staple.specificity[place],
                'DSC_majority': voxel_agreement(mask, majority)['DSC'],
                **_experiment(scores[model]),
            }
        )
    row = {**task.row, 'model': 'reference', 'n_models': len(cut)}
    row['DSC_majority'] = voxel_agreement(truth[box], majority)['DSC']
    outcome.raters.append({**row, **_experiment(scores['reference'])})


def _experiment(scores: dict[str, Any]) -> dict[str, Any]:
    numbers = {key: scores[key] for key in ('DSC_reference', 'DSC_C1', 'DSC_C2')}
    return {**numbers, 'in_C2': 'yes' if scores['in_C2'] else 'no'}


def box_of(masks: Iterable[Mask], margin: int = 3) -> tuple[slice, ...]:
    """Return the box that holds all masks and a margin: nothing outside it can matter."""
    union = np.logical_or.reduce(list(masks))
    box = []
    for axis in range(3):
        used = np.flatnonzero(union.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(used[0]), int(used[-1])) if used.size else (0, 0)
        box.append(slice(max(0, first - margin), last + margin + 1))
    return tuple(box)
