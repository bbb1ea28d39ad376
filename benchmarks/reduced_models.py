"""Reduced relatives of the paper's four networks: training, and their figures on fold 1.

Usage: ``python benchmarks/reduced_models.py STEP --data DATA --work WORK``, where DATA is the
folder of public scans (`MSLESSEG_TEST_DATA`), WORK that of ``benchmarks/out_of_fold.py``, whose
step ``data`` comes first, and STEP one of

``train`` (or ``train-transbts`` …)
    Trains the networks in turn on folds 2 to 5; the same call goes on where it stopped.
``report``
    Asks the shipped entries, and ``hyperintensity``, for the exams of fold 1; writes
    ``docs/models/reduced.tsv`` and the picture of ``docs/models/reduced.md``, and prints its table
    in the form of the paper's Table 5, the paper's values beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nb
import numpy as np
import pandas as pd
from out_of_fold import METRICS, ROOT, TABLE, cases_of, check, left_out, source_of

from mslesseg_app.metrics.evaluation import evaluate
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.segment import stack_channels
from mslesseg_app.models.prediction.white_matter import only_in_white_matter
from mslesseg_app.models.registry import get_entry, load_predictor
from mslesseg_app.paper.figures import models_side_by_side
from mslesseg_app.paper.tables import models_table, read_rows
from mslesseg_app.reports.tabular import to_markdown
from mslesseg_app.spatial.grids import on_template
from mslesseg_app.training.cases import LabelledCase, RawCase, read_case

REDUCED = ROOT / 'docs/models/reduced.tsv'
PICTURE = ROOT / 'docs/images/reduced.svg'

#: Of each network its own settings.
RECIPES: dict[str, dict[str, object]] = {
    'transbts': {
        'options.base': 8,
        'options.groups': 4,
        'options.width': 128,
        'options.heads': 4,
        'options.layers': 2,
        'options.hidden': 256,
        'first_probability': 0.0,
        'epochs': 28,
    },
    'unetr': {
        'options.feature_size': 8,
        'options.hidden_size': 96,
        'options.mlp_dim': 192,
        'options.num_heads': 4,
        'epochs': 6,
    },
    'mssegdiff': {
        'patch': 48,
        'options.features': [8, 16, 32, 64, 8],
        'options.time_width': 32,
        'options.time_hidden': 128,
        'noisiest': 0.6,
        'epochs': 13,
    },
    'swinunetr': {
        'options.feature_size': 12,
        'options.window_size': 4,
        'options.num_heads': [1, 2, 3, 6],
        'epochs': 7,
    },
}
COMMON: dict[str, object] = {
    'patch': 64, 'batch': 2, 'patches': 1, 'steps_per_epoch': 25, 'warm_up': 1, 'ema': 0.99,
    'learning_rate': 2e-3, 'normalisation': 'clipped', 'required': ['FLAIR'], 'augment': 'strong',
    'first_probability': 0.01, 'validate_every': 0, 'keep': 'last', 'least_white_matter': 0.25,
}  # fmt: skip


def entry_name(network: str) -> str:
    """Return the name of a network's entry."""
    return f'{network}small'


def train(network: str, data: Path, work: Path, threads: int, minutes: float) -> None:
    """Train one network; the same call again goes on where it stopped."""
    settings = {**COMMON, **RECIPES[network]}
    plan = [f'{key}={json.dumps(value)}' for key, value in settings.items()]
    command = [
        sys.executable, '-m', 'mslesseg_app', 'train', work / 'registered', data / 'ms3seg-bids',
        work / 'runs' / entry_name(network), '--network', network,
        '--preprocessed', work / 'preprocessed', '--cache', work / 'cache-reduced',
        '--lesion-shapes', data / 'lesion-shapes-mni/shapes.npz',
        '--validation', *left_out('fold-1'),
        '--name', entry_name(network), '--model-dir', work / 'models', '--half',
        '--omp-nthreads', threads, '--minutes', minutes,
        '--set', *plan,
    ]  # fmt: skip
    subprocess.run([str(part) for part in command], check=True)


# --------------------------------------------------------------------------------- prediction


def probability(entry: ModelEntry, raw: RawCase, threads: int) -> np.ndarray:
    """Return the lesion probability of an exam."""
    shown = zip(entry.channels, raw.images, raw.present, strict=True)
    images = {name: image for name, image, here in shown if here}
    channels = stack_channels(entry, images, raw.brain)
    predictor = load_predictor(entry, 'cpu', threads, 1)
    return predictor(channels, raw.brain, raw.present) * raw.brain


def of_people(cases: Sequence[LabelledCase], people: Sequence[str]) -> list[LabelledCase]:
    """Return the exams of some people."""
    return [case for case in cases if case.subject.removeprefix('sub-') in people]


def kept(entry: ModelEntry, case: LabelledCase, raw: RawCase, work: Path, threads: int) -> Path:
    """Return the file of an exam's probability and the seconds it took, made where it is not."""
    what = hashlib.sha256(repr((entry.sha256, entry.sampler)).encode()).hexdigest()[:12]
    path = work / 'predictions-reduced' / f'{entry.name}-{what}_{case.name}.npz'
    if not path.is_file():
        began = time.monotonic()
        prob = probability(entry, raw, threads)
        path.parent.mkdir(exist_ok=True)
        seconds = time.monotonic() - began
        np.savez_compressed(path, prob=prob.astype(np.float16), seconds=seconds)
        print(entry.name, case.name, f'{seconds:.0f} s', flush=True)
    return path


# ------------------------------------------------------------------------------------- report


def row(entry: ModelEntry, case: LabelledCase, raw: RawCase, path: Path) -> dict[str, object]:
    """Return the figures of one model on one exam."""
    with np.load(path) as file:
        prob, seconds = file['prob'].astype(np.float32), float(file['seconds'])
    prob = only_in_white_matter(prob, entry.threshold, entry.least_white_matter)
    mask = prob >= entry.threshold
    found = evaluate(mask, raw.mask, raw.spacing, 'mslesseg', prob).values
    return {
        'model': entry.name, 'threshold': entry.threshold, 'exam': case.name,
        'source': source_of(case), 'reference_ml': raw.mask.sum() / 1000,
        'predicted_ml': mask.sum() / 1000, **{key: found[key] for key in METRICS},
        'AVD_percent': 100 * found['AVD'], 'seconds': seconds, 'mask': mask,
    }  # fmt: skip


def report(cases: Sequence[LabelledCase], work: Path, threads: int) -> None:
    """Write table and picture of fold 1."""
    rows = []
    for name in [*map(entry_name, sorted(RECIPES)), 'hyperintensity']:
        entry = get_entry(name)
        if entry.needs_weights:
            check(entry, {case.subject for case in cases})
        for case in cases:
            raw = read_case(case, entry)
            rows.append(row(entry, case, raw, kept(entry, case, raw, work, threads)))
    table = pd.DataFrame(rows)
    table.drop(columns='mask').to_csv(
        REDUCED, sep='\t', index=False, float_format='%.4f', na_rep='n/a'
    )
    print(to_markdown(models_table([*of_default_model(), *read_rows(REDUCED)], beside=True)))
    shown = table[table['exam'] == cases[0].name]
    picture(cases[0], dict(zip(shown['model'], shown['mask'], strict=True)))


def of_default_model() -> list[dict[str, str]]:
    """Return the rows of the network that the default model was on fold 1, all images."""
    rows = [row for row in read_rows(TABLE) if (row['run'], row['images']) == ('long-1', 'all')]
    return [
        {**row, 'model': 'unet (run long-1)', 'AVD_percent': str(100 * float(row['AVD']))}
        for row in rows
    ]


def picture(case: LabelledCase, masks: dict[str, np.ndarray]) -> None:
    """Draw FLAIR, reference and masks on one slice, in the form of the paper's Figure 4."""
    reference = read_case(case, get_entry('hyperintensity')).mask
    images = {name: on_template(mask, np.uint8) for name, mask in masks.items()}
    flair = nb.load(case.images['FLAIR'])
    models_side_by_side(flair, on_template(reference, np.uint8), images, PICTURE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('step')
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--minutes', type=float, default=120, help='of a training')
    args = parser.parse_args()
    if args.data is None:
        parser.error('--data, or MSLESSEG_TEST_DATA, names the folder of public scans')
    data, work = Path(args.data).resolve(), args.work.resolve()
    step, _, one = args.step.partition('-')
    networks = [one] if one else list(RECIPES)
    if step == 'train':
        for network in networks:
            train(network, data, work, args.threads, args.minutes)
    elif step == 'report':
        report(of_people(cases_of(data, work), left_out('fold-1')), work, args.threads)
    else:
        parser.error(f'there is no step {args.step}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
