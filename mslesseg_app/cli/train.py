"""``mslesseg train DATA RUN_DIR``: train a network and describe it for the registry."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mslesseg_app.cli import parsing
from mslesseg_app.models.networks import NETWORKS

if TYPE_CHECKING:
    from mslesseg_app.training.experiments.train import Trained, TrainingJob
    from mslesseg_app.training.plan import Plan

#: A test holds them to `mslesseg_app.training.presets.PRESETS`.
PRESETS = ('paper', 'default', 'reduced')
UNFINISHED = 75


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``train``."""
    parser = parsing.Parser(
        prog='mslesseg train',
        description='Train a network on exams with manual masks. Repeating the command continues '
        'an interrupted training, to the same result. Several GPUs or machines: torchrun … -m '
        'mslesseg_app train …',
        allow_abbrev=False,
    )
    add_datasets(parser)
    parser.add_argument('run_dir', type=Path, metavar='RUN_DIR', help='Folder of this run.')
    parser.add_argument(
        '--validation',
        nargs='+',
        default=['0.2'],
        metavar='WHO',
        help='Participants that choose the epoch: their labels, a share (default: 0.2), or none.',
    )
    parser.add_argument('--name', metavar='NAME', help='Of the entry (default: the network).')
    parser.add_argument(
        '--network', choices=tuple(NETWORKS), default='unet', help='What to train (default: unet).'
    )
    parser.add_argument(
        '--start-from', type=Path, metavar='FILE', help='Weights (safetensors) to start from.'
    )
    parser.add_argument(
        '--unlabelled',
        action='store_true',
        help='Train on the exams without masks, into which lesions are planted.',
    )
    parser.add_argument('--half', action='store_true', help='Write the weights in half precision.')
    add_common(parser)
    return parser


def add_datasets(parser: argparse.ArgumentParser) -> None:
    """Add the datasets of labelled exams, as the first argument."""
    parser.add_argument(
        'data',
        type=Path,
        nargs='+',
        metavar='BIDS_DIR',
        help='BIDS datasets with manual masks in derivatives. With several, --masks and '
        '--preprocessed hold one folder for each, named as the dataset.',
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what ``train`` and ``crossval`` share."""
    add = parser.add_argument
    add(
        '--preset',
        choices=PRESETS,
        default='default',
        help="paper: settings of the paper's public code; default: ours, with its faults "
        'corrected; reduced: the same, small enough for two CPU cores (default: default).',
    )
    add(
        '--set',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        dest='settings',
        help='Change settings of the preset: --set epochs=100 batch=4 patch=64 options.edge=64',
    )
    add(
        '--lesion-shapes',
        type=Path,
        metavar='FILE',
        help='Lesions on the template grid (.npz) that are planted into exams.',
    )
    add_cases(parser)
    add('--cache', type=Path, metavar='DIR', help='Exams that were read (default: in the output).')
    add(
        '--model-dir',
        type=Path,
        default=parsing.environment_path('MSLESSEG_MODEL_DIR'),
        metavar='DIR',
        help='Folder of your models, where the entry goes (default: MSLESSEG_MODEL_DIR, else '
        '"models" in the output).',
    )
    add('--licence', metavar='SPDX', help="For the weights (default: the dataset's).")
    add('--random-seed', type=parsing.seed, metavar='N', help='Of the training (default: 1).')
    add('--device', type=parsing.device, default='auto', help='auto, cpu, cuda or cuda:N.')
    add('--omp-nthreads', type=parsing.count, metavar='N', help='CPU threads (default: all).')
    add('--loaders', type=int, default=0, metavar='N', help='Processes that read (default: 0).')
    add(
        '--minutes',
        type=parsing.number(0),
        default=math.inf,
        metavar='N',
        help='Begin no epoch that would end later; then the exit code is 75.',
    )
    add('--tensorboard', action='store_true', help='Write TensorBoard files too.')
    add('--force', action='store_true', help='Replace another entry of the same name.')
    add('-q', '--quiet', action='store_true', help='Print nothing but errors.')


def add_cases(parser: argparse.ArgumentParser) -> None:
    """Add which labelled exams of the datasets are used."""
    add = parser.add_argument
    add('--masks', type=Path, metavar='DIR', help='Derivative dataset of the masks.')
    add(
        '--preprocessed',
        type=Path,
        metavar='DIR',
        help='Output folder of the App for raw exams; what it lacks is computed (default: in the '
        'cache).',
    )
    add('--exclude', nargs='+', default=[], metavar='EXAM', help='Exams or participants to leave.')


def main(arguments: list[str]) -> int:
    """Train, and say what came out."""
    options = build_parser().parse_args(arguments)
    from mslesseg_app.training.experiments.labelled_exams import dataset_licence, find_cases
    from mslesseg_app.training.experiments.train import hold_out, train_cases

    plan = make_plan(options, options.network)
    job = make_job(options, options.run_dir, options.name or options.network)
    cases = find_cases(
        options.data,
        job.cache,
        masks=options.masks,
        preprocessed=options.preprocessed,
        exclude=options.exclude,
        unlabelled=options.unlabelled,
        threads=job.threads,
    )
    split = hold_out(cases, options.validation, plan.seed)
    if not options.licence:
        from dataclasses import replace

        licences = {dataset_licence(path) for path in options.data}
        if len(licences) == 1:
            job = replace(job, licence=licences.pop())
    return _report(train_cases(plan, split, job), job, options.quiet)


def make_plan(options: argparse.Namespace, network: str) -> Plan:
    """Return the plan that the options ask for."""
    from mslesseg_app.training.plan import changed, read_settings
    from mslesseg_app.training.presets import preset

    plan = changed(preset(options.preset, network), read_settings(options.settings))
    return plan if options.random_seed is None else changed(plan, {'seed': options.random_seed})


def make_job(options: argparse.Namespace, folder: Path, name: str) -> TrainingJob:
    """Return how it is run."""
    from mslesseg_app.training.experiments.train import TrainingJob

    beside = int(os.environ.get('LOCAL_WORLD_SIZE', '1'))
    cores = max(1, len(os.sched_getaffinity(0)) // beside)
    return TrainingJob(
        folder=folder,
        cache=options.cache or folder / 'cache',
        model_dir=options.model_dir or folder / 'models',
        name=name,
        preset=' '.join([options.preset, *options.settings]),
        dataset=', '.join(path.resolve().name for path in _datasets(options, folder)),
        licence=options.licence or 'NOASSERTION',
        device=options.device,
        threads=options.omp_nthreads or cores,
        loaders=options.loaders,
        minutes=options.minutes,
        start_from=getattr(options, 'start_from', None),
        lesion_shapes=options.lesion_shapes,
        half=getattr(options, 'half', False),
        force=options.force,
        tensorboard=options.tensorboard,
        quiet=options.quiet,
    )


def _datasets(options: argparse.Namespace, folder: Path) -> list[Path]:
    data = getattr(options, 'data', folder)
    return data if isinstance(data, list) else [data]


def _report(done: Trained, job: TrainingJob, quiet: bool) -> int:
    if not done.first:
        return 0
    if not done.complete:
        print('Not finished; run the same command again to go on.', file=sys.stderr)
        return UNFINISHED
    if not quiet and done.entry is not None:
        folder = shlex.quote(str(job.model_dir))
        print(f'The model {done.entry.name} {done.entry.version} is in {job.model_dir}.')
        print(
            f'  mslesseg BIDS_DIR OUT_DIR participant --model {done.entry.name} '
            f'--model-dir {folder}'
        )
    return 0
