"""The default model: its data, its folds, and its figures on exams that a network never saw.

Usage: ``python benchmarks/out_of_fold.py STEP --data DATA --work WORK``, where DATA is the folder
of public scans (`MSLESSEG_TEST_DATA`) and STEP one of

``data``
    Writes one BIDS dataset of links to the exams that lie on the template grid already.
``start``
    Trains the start: lesions planted into exams that nobody segmented, none of them in a fold.
``folds`` (or ``fold-1`` … ``fold-5``)
    Trains from the start on four folds and leaves one out.
``sources`` (or ``source-MS3SEG`` …)
    Trains from the start on two sources and leaves one out.
``long-1``, ``long-2``
    Goes on with fold 1 for 1,600 steps, with fold 2 for 900.
``deep-1``
    Trains from random weights on four folds and the slices that ``benchmarks/slices.py --write
    WORK/slices`` wrote; the result is kept in ``benchmarks/networks``.
``final``
    Goes on from there with all exams for 1,000 steps: the shipped network.
``predict``
    Asks each network for the exams that it never saw, with all images, FLAIR and T1w, and FLAIR.
``planted``
    Plants 40 to 80 ml into each exam and asks the network of the fold that never saw it.
``report``
    Writes ``docs/models/unet-out-of-fold.tsv`` and prints the tables of ``docs/models/unet.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mslesseg_app.metrics.evaluation import evaluate
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.segment import stack_channels
from mslesseg_app.models.prediction.white_matter import only_in_white_matter
from mslesseg_app.models.registry import get_entry, load_predictor
from mslesseg_app.training.augmentation import Patch, make_volume, plant, whole_brain
from mslesseg_app.training.cases import LabelledCase, RawCase, read_case
from mslesseg_app.training.experiments.labelled_exams import find_cases
from mslesseg_app.training.lesion_shapes import LesionShapes
from mslesseg_app.training.random_fields import RandomStream

ROOT = Path(__file__).parents[1]
FOLDS = json.loads((ROOT / 'docs/models/unet-folds.json').read_text('utf-8'))
TABLE = ROOT / 'docs/models/unet-out-of-fold.tsv'
SUBSETS = {
    'all': ('FLAIR', 'T1w', 'T2w'),
    'FLAIR+T1w': ('FLAIR', 'T1w'),
    'FLAIR': ('FLAIR',),
}
START = {'epochs': 30, 'steps_per_epoch': 25, 'warm_up': 2}
RUN = {'epochs': 8, 'steps_per_epoch': 25, 'warm_up': 1, 'learning_rate': 1.5e-3}
LONG = RUN | {
    'epochs': 64, 'seed': 2, 'ema': 0.995, 'augmentation.plant': 0.2,
    'augmentation.negatives': 0.2, 'augmentation.contrast': 0.4,
}  # fmt: skip
DEEP = {
    'epochs': 48, 'steps_per_epoch': 50, 'warm_up': 1, 'seed': 11, 'ema': 0.997,
    'augmentation.plant': 0.3, 'augmentation.negatives': 0.2, 'augmentation.contrast': 0.5,
}  # fmt: skip
FINAL = LONG | {'epochs': 40, 'seed': 3, 'learning_rate': 1e-3}
#: Of each run or kind of run: where it begins, its plan, and the threshold of its masks.
RUNS: dict[str, tuple[str, dict[str, float], float]] = {
    'start': ('', START, 0.5),
    'fold': ('start', RUN, 0.9),
    'source': ('start', RUN, 0.9),
    'long-1': ('fold-1', LONG, 0.6),
    'long-2': ('fold-2', LONG | {'epochs': 36}, 0.6),
    'deep': ('', DEEP, 0.8),
    'final': ('long-1', FINAL, 0.6),
}
LEAST_WHITE_MATTER = get_entry('unet').least_white_matter
SUFFIXES = {'FLAIR': 'FLAIR', 'T1': 'T1w', 'T2': 'T2w'}
METRICS = ('DSC', 'TPR', 'PPV', 'LTPR', 'LFPR', 'AVD', 'ASSD', 'lesion_F1')


# --------------------------------------------------------------------------------------- data


def link(source: Path, target: Path) -> None:
    """Make a link to a scan, where there is none yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file() and not target.exists():
        target.symlink_to(source.resolve())


def describe(folder: Path, kind: str = 'raw') -> None:
    """Write the description of a BIDS dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {'Name': folder.name, 'BIDSVersion': '1.10.0', 'DatasetType': kind}
    if kind == 'derivative':
        content['GeneratedBy'] = [{'Name': 'manual'}]
    else:
        content['License'] = 'CC-BY-4.0'
    (folder / 'dataset_description.json').write_text(json.dumps(content))


def assemble(data: Path, work: Path) -> None:
    """Write the exams of Ljubljana and MSLesSeg as one BIDS dataset, and one without masks."""
    labelled, other = work / 'registered', work / 'registered-unlabelled'
    describe(labelled)
    describe(other)
    describe(labelled / 'derivatives/manual', 'derivative')
    for folder in sorted((data / 'ljubljana-mni').glob('patient*')):
        one_exam(labelled, f'sub-{folder.name}', '', folder, '')
    for name in ('mslesseg', 'mslesseg-p14'):
        for visit in sorted((data / name / 'train').glob('P*/T*')):
            person = visit.parent.name
            one_exam(
                labelled, f'sub-{person}', f'ses-{visit.name}', visit, f'{person}_{visit.name}_'
            )
    for folder in sorted((data / 'mslesseg-more').glob('sub-*')):
        masks = data / 'mslesseg-more/derivatives/manual' / folder.name
        target = labelled if masks.is_dir() else other
        for path in (folder / 'anat').glob('*.nii.gz'):
            link(path, target / folder.name / 'anat' / path.name)
        for path in masks.glob('anat/*.nii.gz'):
            link(path, labelled / 'derivatives/manual' / folder.name / 'anat' / path.name)


def one_exam(dataset: Path, subject: str, session: str, folder: Path, before: str) -> None:
    """Link the images and the mask of one exam (``FLAIR``, ``T1``, ``T2`` and ``MASK``)."""
    place = Path(subject, session, 'anat')
    stem = '_'.join(part for part in (subject, session) if part)
    for name, suffix in SUFFIXES.items():
        link(folder / f'{before}{name}.nii.gz', dataset / place / f'{stem}_{suffix}.nii.gz')
    mask = dataset / 'derivatives/manual' / place / f'{stem}_space-orig_label-lesion_mask.nii.gz'
    link(folder / f'{before}MASK.nii.gz', mask)


# ----------------------------------------------------------------------------------- training


def left_out(name: str) -> list[str]:
    """Return the participants that a run never sees."""
    kind, _, which = name.partition('-')
    if kind in ('fold', 'long', 'deep'):
        return FOLDS['folds'][int(which) - 1]
    return FOLDS['sources'][which] if kind == 'source' else []


def runs_of(step: str) -> list[str]:
    """Return the runs that a step names."""
    if step == 'folds':
        return [f'fold-{k}' for k in range(1, len(FOLDS['folds']) + 1)]
    if step == 'sources':
        return [f'source-{name}' for name in FOLDS['sources']]
    return [step]


def kind_of(run: str) -> str:
    """Return the kind of a run."""
    return run.partition('-')[0]


def settings_of(run: str) -> tuple[str, dict[str, float], float]:
    """Return where a run begins, its plan, and the threshold of its masks."""
    return RUNS[run] if run in RUNS else RUNS[kind_of(run)]


def entry_name(run: str) -> str:
    """Return the name of a run's entry."""
    return f'unet{run.replace("-", "").lower()}'


def train(name: str, data: Path, work: Path, threads: int) -> None:
    """Train one run; the same call again goes on where it stopped."""
    start = name == 'start'
    sets = (
        [work / 'registered-unlabelled', data / 'unlabelled-bids']
        if start
        else [work / 'registered', data / 'ms3seg-bids']
    )
    if kind_of(name) == 'deep':
        sets.append(work / 'slices')
    first, plan, _ = settings_of(name)
    weights = work / 'runs' / first / 'weights.safetensors'
    more = ['--unlabelled'] if start else ['--start-from', weights] if first else []
    command = [
        sys.executable, '-m', 'mslesseg_app', 'train', *sets, work / 'runs' / name,
        '--preprocessed', work / 'preprocessed', '--cache', work / f'cache-{name}',
        '--lesion-shapes', data / 'lesion-shapes-mni/shapes.npz', *more,
        '--validation', *(left_out(name) or ['none']),
        '--name', entry_name(name), '--model-dir', work / 'models', '--half',
        '--omp-nthreads', threads, '--set', *(f'{key}={value}' for key, value in plan.items()),
    ]  # fmt: skip
    subprocess.run([str(part) for part in command], check=True)


# --------------------------------------------------------------------------------- prediction


def cases_of(data: Path, work: Path) -> list[LabelledCase]:
    """Return the 20 labelled exams on the template grid."""
    return find_cases(
        [work / 'registered', data / 'ms3seg-bids'],
        work / 'cache-predict',
        preprocessed=work / 'preprocessed',
    )


def predict(run: str, cases: Sequence[LabelledCase], work: Path, threads: int) -> None:
    """Write the probability of a run on each exam that it never saw, for each set of images."""
    people = {f'sub-{name}' for name in left_out(run)}
    entry = get_entry(entry_name(run), work / 'models')
    check(entry, people)
    predictor = load_predictor(entry, 'cpu', threads, 1)
    folder = work / 'predictions' / run
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        if case.subject not in people:
            continue
        raw = read_case(case, entry)
        for subset, used in SUBSETS.items():
            path = folder / f'{case.name}_{subset}.npz'
            images = {
                name: image
                for name, image, there in zip(entry.channels, raw.images, raw.present, strict=True)
                if there and name in used
            }
            if path.is_file() or (subset != 'all' and not set(used) <= set(case.images)):
                continue
            channels = stack_channels(entry, images, raw.brain)
            prob = predictor(channels, raw.brain, tuple(n in images for n in entry.channels))
            np.savez_compressed(path, prob=(prob * raw.brain).astype(np.float16))
            print(run, case.name, subset, flush=True)


def check(entry: ModelEntry, people: set[str]) -> None:
    """Refuse a network whose card does not say that it never saw these people."""
    kept = {name.split('_')[0] for name in entry.card.get('not_trained_on', ())}
    seen = {name.split('_')[0] for name in entry.card.get('training_data', ())}
    if not people <= kept or people & seen:
        raise SystemExit(f'{entry.name} does not say that it was trained without {people}')


def planted(run: str, cases: Sequence[LabelledCase], work: Path, data: Path, threads: int) -> None:
    """Print the accuracy of a run on exams that it never saw, with 40 to 80 ml more."""
    people = {f'sub-{name}' for name in left_out(run)}
    entry = get_entry(entry_name(run), work / 'models')
    check(entry, people)
    predictor = load_predictor(entry, 'cpu', threads, 1)
    shapes = LesionShapes(data / 'lesion-shapes-mni/shapes.npz')
    for number, case in enumerate(cases):
        if case.subject not in people:
            continue
        stream = RandomStream(number)
        images, label, brain, present = with_lesions(
            read_case(case, entry), shapes, stream.uniform(40, 80), stream
        )
        used = {n: i for n, i, p in zip(entry.channels, images, present, strict=True) if p}
        prob = predictor(stack_channels(entry, used, brain), brain, present) * brain
        prob = only_in_white_matter(prob, entry.threshold, LEAST_WHITE_MATTER)
        found = evaluate(prob >= entry.threshold, label, (1, 1, 1)).values
        print(
            f'{run}\t{case.name}\t{label.sum() / 1000:.1f} ml\tDSC {found["DSC"]:.3f}', flush=True
        )


def with_lesions(
    case: RawCase, shapes: LesionShapes, load_ml: float, stream: RandomStream
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[bool, ...]]:
    """Return images, lesions, brain and present channels of an exam with planted lesions."""
    volume = make_volume(case)
    places = shapes.draw(volume.marks.shape[1:], volume.corner, load_ml, stream)[None].float()
    lesion, negative, unknown, brain = (mark[None] for mark in volume.marks)
    patch = Patch(volume.images.clone(), lesion.clone(), negative, unknown, brain)
    _, spread = whole_brain(volume)
    plant(patch, places * brain, spread, volume.present, stream, contrast=(1.2, 2.5))
    inside = brain[0].numpy() > 0
    return patch.images.numpy(), (patch.label[0].numpy() > 0.5) & inside, inside, volume.present


# ------------------------------------------------------------------------------------- report


def source_of(case: LabelledCase) -> str:
    """Return the source of an exam."""
    person = case.subject.removeprefix('sub-')
    return next(name for name, people in FOLDS['sources'].items() if person in people)


def figures(cases: Sequence[LabelledCase], work: Path) -> Iterator[dict[str, object]]:
    """Yield one row for each prediction."""
    for path in sorted(work.glob('predictions/*/*.npz')):
        name, _, subset = path.name.removesuffix('.npz').rpartition('_')
        case = next(c for c in cases if c.name == name)
        run = path.parent.name
        threshold = settings_of(run)[2]
        raw = read_case(case, get_entry(entry_name(run), work / 'models'))
        with np.load(path) as file:
            prob = file['prob'].astype(np.float32)
        prob = only_in_white_matter(prob, threshold, LEAST_WHITE_MATTER)
        found = evaluate(prob >= threshold, raw.mask, raw.spacing, 'mslesseg', prob).values
        yield {
            'run': run,
            'threshold': threshold,
            'exam': name,
            'source': source_of(case),
            'images': subset,
            'reference_ml': raw.mask.sum() / 1000,
            'predicted_ml': (prob >= threshold).sum() / 1000,
            **{key: found[key] for key in (*METRICS, 'ECE') if key in found},
        }


def report(cases: Sequence[LabelledCase], work: Path) -> None:
    """Write the table of all predictions, and print its means."""
    table = pd.DataFrame(figures(cases, work))
    table.to_csv(TABLE, sep='\t', index=False, float_format='%.4f', na_rep='n/a')
    print(table.to_string())
    for kind, rows in table.groupby(table['run'].map(kind_of)):
        for columns in (['images'], ['images', 'source']):
            means = rows.groupby(columns)[list(METRICS)].agg('mean').round(3)
            print(f'{kind}: mean by {" and ".join(columns)}', means.to_string(), sep='\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('step')
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    if args.data is None:
        parser.error('--data, or MSLESSEG_TEST_DATA, names the folder of public scans')
    data, work = Path(args.data).resolve(), args.work.resolve()
    if args.step == 'data':
        assemble(data, work)
    elif args.step in ('predict', 'planted'):
        cases = cases_of(data, work)
        for run in [*runs_of('folds'), *runs_of('sources'), 'long-1', 'long-2', 'deep-1']:
            if not (work / 'models' / f'{entry_name(run)}.toml').is_file():
                continue
            if args.step == 'predict':
                predict(run, cases, work, args.threads)
            elif kind_of(run) != 'source':
                planted(run, cases, work, data, args.threads)
    elif args.step == 'report':
        report(cases_of(data, work), work)
    else:
        for run in runs_of(args.step):
            train(run, data, work, args.threads)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
