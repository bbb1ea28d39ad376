"""Models side by side: what each costs and how accurate it is, and how far they agree."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mslesseg_app.bids.exam import named_exam
from mslesseg_app.bids.names import output_path
from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.core.settings import result_name
from mslesseg_app.group.collect import Holdings, Key
from mslesseg_app.group.evaluation import box_of, voxels_of
from mslesseg_app.group.images import load_whole
from mslesseg_app.group.statistics import summarise
from mslesseg_app.metrics.consensus import METHODS
from mslesseg_app.metrics.exam import lesion_agreement, voxel_agreement
from mslesseg_app.metrics.members import member_masks
from mslesseg_app.spatial.template import same_grid

#: Shown of each model; rule sets call the same thing by different names.
SHOWN: dict[str, tuple[str, ...]] = {
    'DSC': ('DSC',),
    'lesion_F1': ('lesion_F1', 'F1'),
    'LTPR': ('LTPR', 'SensL'),
    'LFPR': ('LFPR',),
    'AVD_percent': ('AVD_percent', 'AVD'),
}
_INTERVAL = 'end of the 95 % percentile interval (patients drawn again with all their scans).'
_SECONDS = 'Median over exams of the seconds of inference, as logged by the runs in this folder.'
_MEMORY = 'Highest memory of the inference of an exam; only of runs with --resource-monitor.'

MODEL_COLUMNS: dict[str, dict[str, Any]] = {
    'model': {'Description': 'Model, or consensus of all models.'},
    'n_exams': {'Description': 'Exams with a reference in which the DSC is defined.'},
    'n_patients': {'Description': 'Patients of these exams.'},
    **{
        name + end: {'Description': text}
        for shown in SHOWN
        for name, end, text in (
            (shown, '', f'Mean over exams of {shown}; see group_evaluation.json.'),
            (shown, '_ci_low', f'{shown}: lower {_INTERVAL}'),
            (shown, '_ci_high', f'{shown}: upper {_INTERVAL}'),
        )
    },
    'seconds': {'Description': _SECONDS, 'Units': 's'},
    'memory_gib': {'Description': _MEMORY, 'Units': 'GiB'},
}

PAIR_COLUMNS: dict[str, dict[str, Any]] = {
    'participant_id': {'Description': 'Participant.'},
    'session_id': {'Description': 'Session; n/a where the dataset has none.'},
    'model_a': {'Description': 'First model.'},
    'model_b': {'Description': 'Second model.'},
    'DSC': {'Description': 'Dice coefficient of the two masks on the grid of the FLAIR.'},
    'volume_difference_ml': {'Description': 'Volume of the first minus second.', 'Units': 'ml'},
    'shared_a': {'Description': 'Share of the lesions of the first that the second meets.'},
    'shared_b': {'Description': 'Share of the lesions of the second that the first meets.'},
}
_MEASURED = ('DSC', 'volume_difference_ml', 'shared_a', 'shared_b')

PAIR_SUMMARY_COLUMNS: dict[str, dict[str, Any]] = {
    'model_a': PAIR_COLUMNS['model_a'],
    'model_b': PAIR_COLUMNS['model_b'],
    'measure': {'Description': 'Column of group_model_pairs.tsv.'},
    'n_exams': {'Description': 'Exams that both models have.'},
    'n_patients': {'Description': 'Patients of these exams.'},
    'mean': {'Description': 'Mean over exams.'},
    'sd': {'Description': 'Standard deviation over exams (n - 1).'},
    'median': {'Description': 'Median over exams.'},
    'ci_low': {'Description': f'Mean: lower {_INTERVAL}'},
    'ci_high': {'Description': f'Mean: upper {_INTERVAL}'},
}


# ------------------------------------------------------------------------------ costs


@dataclass
class Cost:
    """What the inference of one model took, by exam: seconds, and memory in GiB."""

    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)


_ROW = re.compile(r'^(?P<exam>\w+_wf)\.\S*\bsegment(?:_(?P<model>\w+))?\t(?P<s>[0-9.]+)$', re.M)


def costs(out_dir: Path) -> dict[str, Cost]:
    """Return what the inference of each model took, from the logs of the runs.

    Of an exam that was computed several times the newest counts; steps that were reused from
    the cache are not logged. The cost of an ensemble is the sum of the seconds of its models and
    the highest memory of one of them.
    """
    found: dict[str, Cost] = {}
    logs = out_dir / 'logs'
    for path in sorted(logs.glob('*_timings.txt'), key=lambda path: path.stat().st_mtime_ns):
        run = path.name.removesuffix('_timings.txt')
        names = _models_of_run(logs / f'{run}.toml')
        text = path.read_text(encoding='utf-8', errors='replace')
        seconds: dict[tuple[str, str], float] = {}
        for row in _ROW.finditer(text):
            for model in _names_counted(row['model'], names):
                key = model, row['exam']
                seconds[key] = seconds.get(key, 0.0) + float(row['s'])
        for (model, exam), value in seconds.items():
            found.setdefault(model, Cost()).seconds[exam] = value
        _add_memory(found, logs, run, names)
    return found


def _names_counted(model: str | None, names: Sequence[str]) -> list[str]:
    """Return what a step counts for: its model and, in an ensemble, the ensemble."""
    if model is None:
        return list(names[:1])
    return [model, *names[:1]]


def _models_of_run(path: Path) -> list[str]:
    """Return the model of a run, or its ensemble; nothing where its settings are not known."""
    try:
        settings = tomllib.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return []
    models = [str(name) for name in settings.get('model', [])]
    return [result_name(models, settings.get('ensemble'))] if models else []


def _add_memory(found: dict[str, Cost], logs: Path, run: str, names: Sequence[str]) -> None:
    for path in logs.glob(f'{run}_*_resources.json'):
        exam = path.name.removeprefix(f'{run}_').removesuffix('_resources.json')
        try:
            watched = json.loads(path.read_text(encoding='utf-8'))
            pairs = zip(watched['name'], watched['rss_GiB'], strict=True)
            steps = [(str(step), float(gib)) for step, gib in pairs]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for step, gib in steps:
            match = re.fullmatch(r'(?:.*\.)?segment(?:_(\w+))?', step)
            for model in _names_counted(match[1], names) if match else ():
                memory = found.setdefault(model, Cost()).memory
                memory[exam] = max(gib, memory.get(exam, 0.0))


def model_rows(
    means: Sequence[Mapping[str, Any]], spent: Mapping[str, Cost]
) -> list[dict[str, Any]]:
    """Return one row per model: accuracy with intervals, seconds and memory.

    Parameters
    ----------
    means : sequence of mapping
        Rows of `mslesseg_app.group.summaries.summary`; empty without references.
    spent : mapping of model to Cost
    """
    by_model: dict[str, dict[str, Mapping[str, Any]]] = {}
    for mean in means:
        by_model.setdefault(str(mean['model']), {})[str(mean['metric'])] = mean
    models = [*by_model, *sorted(set(spent) - set(by_model))]
    return [_model_row(name, by_model.get(name, {}), spent.get(name, Cost())) for name in models]


def _model_row(name: str, means: Mapping[str, Mapping[str, Any]], cost: Cost) -> dict[str, Any]:
    row: dict[str, Any] = {'model': name}
    if 'DSC' in means:
        row |= {key: means['DSC'][key] for key in ('n_exams', 'n_patients')}
    for shown, names in SHOWN.items():
        metric = next((metric for metric in names if metric in means), None)
        if metric is not None:
            ends = {f'{shown}_{key}': means[metric][key] for key in ('ci_low', 'ci_high')}
            row |= {shown: means[metric]['mean'], **ends}
    row['seconds'] = float(np.median(list(cost.seconds.values()))) if cost.seconds else None
    row['memory_gib'] = max(cost.memory.values(), default=None)
    return row


# ------------------------------------------------------------------------------ pairs


def pair_rows(holdings: Holdings) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare the masks of every pair of models of each exam; no reference is needed.

    Masks of ensembles take no part, because they are made of the models; their models do, where
    these were not run alone.

    Returns
    -------
    rows : list of dict
        Keys of `PAIR_COLUMNS`.
    problems : list of str
        Masks that could not be compared, and why.
    """
    exams: dict[Key, dict[str, Path]] = {}
    for key, files in sorted(holdings.masks.items()):
        if 'orig' in files and key in holdings.metrics:
            exams.setdefault(Key(key.subject, key.session), {})[key.model] = files['orig']
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for exam, masks in exams.items():
        try:
            images = _images(exam, masks)
            rows += _pairs_of(exam, images)
        except MSLesSegError as error:
            problems.append(f'{exam.exam}: its models were not compared: {error.message}')
    return rows, problems


def _images(key: Key, masks: Mapping[str, Path]) -> dict[str, Any]:
    """Return the masks of the models of one exam, from ensembles where not run alone."""
    exam = named_exam(key.exam)
    images: dict[str, Any] = {}
    for method in METHODS:
        if method in masks:
            path = masks[method].with_name(output_path(exam, 'models_native', desc=method).name)
            images |= member_masks(path) if path.is_file() else {}
    alone = {name: path for name, path in masks.items() if name not in METHODS}
    if len(images | alone) > 1:
        images |= {name: load_whole(path) for name, path in alone.items()}
    return dict(sorted(images.items()))


def _pairs_of(exam: Key, images: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    masks = {name: voxels_of(image) for name, image in images.items()}
    named = {key: value for key, value in exam.row().items() if key != 'model'}
    for one, two in itertools.combinations(masks, 2):
        if not same_grid(images[one], images[two].shape, images[two].affine):
            continue  # the FLAIR was replaced between the runs
        box = box_of([masks[one], masks[two]])
        first, second = masks[one][box], masks[two][box]
        voxel_ml = float(abs(np.linalg.det(images[one].affine[:3, :3]))) / 1000
        lesions = lesion_agreement(first, second)
        yield {
            **named,
            'model_a': one,
            'model_b': two,
            'DSC': voxel_agreement(first, second)['DSC'],
            'volume_difference_ml': (int(first.sum()) - int(second.sum())) * voxel_ml,
            'shared_a': 1 - lesions['LFPR'],
            'shared_b': lesions['LTPR'],
        }


def pair_summary(rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return one row for each pair of models and measure, with patient-bootstrap intervals."""
    pairs: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        pairs.setdefault((row['model_a'], row['model_b']), []).append(row)
    kept = set(PAIR_SUMMARY_COLUMNS)
    summary = []
    for (one, two), part in sorted(pairs.items()):
        patients = [str(row['participant_id']) for row in part]
        for measure in _MEASURED:
            found = summarise([row[measure] for row in part], patients, seed)
            named = {'model_a': one, 'model_b': two, 'measure': measure}
            summary.append(named | {key: value for key, value in found.items() if key in kept})
    return summary


def exam_agreement(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Return the mean DSC of all pairs of models, by participant and session."""
    by_exam: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        by_exam.setdefault((row['participant_id'], row['session_id']), []).append(row['DSC'])
    return {exam: float(np.mean(values)) for exam, values in by_exam.items()}
