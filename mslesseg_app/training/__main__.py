"""Prepared files for training on synthetic exams, and judging weights on them.

``prepare`` turns public data into prepared files, ``train`` trains the residual U-Net on
them (``mslesseg train PREPARED RUN --preset synthesis`` does the same and ends in an entry of the
registry), ``judge`` compares exported weights with the masks of exams. Run
``python -m mslesseg_app.training COMMAND --help``.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mslesseg_app.errors import MSLesSegError
from mslesseg_app.training.plan import Plan, changed
from mslesseg_app.training.presets import preset


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m mslesseg_app.training', description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    _add_prepare(commands.add_parser('prepare', help='Make prepared files of registered data.'))
    _add_train(commands.add_parser('train', help='Train one network.'))
    _add_judge(commands.add_parser('judge', help='Compare weights with masks.'))
    return parser


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('folder', type=Path, help='Where prepared files go.')
    parser.add_argument('--ljubljana', type=Path, help='patientNN/{FLAIR,T1,T2,MASK}.nii.gz')
    parser.add_argument('--ljubljana-masks', type=Path, help='patientNN.nii.gz, lesion masks')
    parser.add_argument('--bids', type=Path, help='Raw exams without masks, as background.')
    parser.add_argument(
        '--registered', type=Path, help='Where exams of --bids are registered to, or lie already.'
    )
    parser.add_argument('--mslesseg', type=Path, help='train/P<i>/T<k>/P<i>_T<k>_FLAIR.nii.gz')


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('data', type=Path, help='Prepared folder.')
    add('run', type=Path, help='Folder of this run: checkpoint, log, run.json.')
    add('--leave-out', nargs='*', default=[], metavar='SUBJECT', help='Subjects never read.')
    add('--steps', type=int, default=4000, help='Length of the schedule (%(default)s).')
    add('--minutes', type=float, default=math.inf, help='Stop after this; go on next time.')
    add('--batch', type=int, default=1, help='Exams in a step (%(default)s).')
    add('--patches', type=int, default=2, help='Patches of each exam (%(default)s).')
    add('--patch', type=int, nargs=3, default=(96, 96, 96), help='Edges (%(default)s).')
    add('--widths', type=int, nargs='+', default=(16, 32, 64, 128, 192), help='(%(default)s)')
    add('--learning-rate', type=float, default=1e-3, help='Peak (%(default)s).')
    add('--warm-up', type=int, default=100, help='Steps of rising rate (%(default)s).')
    add('--recall', type=float, default=0.5, help='Weight of misses in the loss (%(default)s).')
    add(
        '--recipe',
        type=float,
        nargs=3,
        default=(0.4, 0.35, 0.25),
        help='Shares of real, planted and painted exams (%(default)s).',
    )
    add('--seed', type=int, default=1)
    add('--device', default='auto')
    add('--start-from', type=Path, help='Weights (safetensors) to start from.')
    add('--export', type=Path, help='Where the weights go (default: RUN/weights.safetensors).')
    add('--save-every', type=int, default=500, help='Steps between checkpoints (%(default)s).')


def _add_judge(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('data', type=Path, help='Prepared folder.')
    add('weights', type=Path, help='Safetensors file.')
    add('exams', nargs='+', help='Names of exams.')
    add('--widths', type=int, nargs='+', default=(16, 32, 64, 128, 192))
    add('--device', default='auto')
    add('--out', type=Path, help='Folder for figures (JSON lines) and probabilities (npz).')


def _prepare(args: argparse.Namespace) -> None:
    from mslesseg_app.training import prepare as make
    from mslesseg_app.training.guided import prepare_guide

    args.folder.mkdir(parents=True, exist_ok=True)
    sources = make.find_ljubljana(args.ljubljana) if args.ljubljana else []
    sources += make.find_mslesseg(args.mslesseg) if args.mslesseg else []
    registered = args.registered or (args.folder / 'registered' if args.bids else None)
    if args.bids and registered:
        make.register_bids(args.bids, registered)
    sources += make.find_unlabelled(registered) if registered else []
    for source in sources:
        path = make.prepare_exam(source, args.folder)
        logging.info('%s, %s', path, prepare_guide(path, args.folder))
    for source in make.find_ljubljana_masks(args.ljubljana_masks) if args.ljubljana_masks else []:
        logging.info('%s', make.prepare_pattern(source, args.folder))
    logging.info('%s', make.prepare_anatomy('template', make.template_tissues(), args.folder))


def _train(args: argparse.Namespace) -> None:
    import torch

    from mslesseg_app.inference.device import choose_device
    from mslesseg_app.models.networks import read_tensors
    from mslesseg_app.training.data import load_data
    from mslesseg_app.training.loop import Trainer
    from mslesseg_app.training.patches import SynthesisFeed
    from mslesseg_app.training.tracking import Tracker
    from mslesseg_app.training.workers import World

    device, note = choose_device(args.device)
    logging.info(note)
    torch.backends.cudnn.benchmark = True
    plan = _plan(args)
    feed = SynthesisFeed(load_data(args.data, args.leave_out), plan, device)
    start = read_tensors(args.start_from) if args.start_from else None
    world = World(device=device)
    trainer = Trainer(args.run, plan, feed, world=world, start=start, identity=_identity(args))
    with Tracker(args.run) as tracker:
        trainer.train(tracker, args.minutes)
    trainer.export(args.export or args.run / 'weights.safetensors', half=True)
    done = trainer.progress
    logging.info('%d of %d steps in %.0f s', done.step, args.steps, done.seconds)


def _identity(args: argparse.Namespace) -> dict[str, Any]:
    return {'left_out': list(args.leave_out)}


def _plan(args: argparse.Namespace) -> Plan:
    """Return the plan of the options; an epoch is what lies between two checkpoints."""
    epochs = max(1, round(args.steps / args.save_every))
    steps = max(1, round(args.steps / epochs))
    values = {
        'options': {'channels': list(args.widths)},
        'patch': tuple(args.patch),
        'batch': args.batch,
        'patches': args.patches,
        'epochs': epochs,
        'steps_per_epoch': steps,
        'learning_rate': args.learning_rate,
        'warm_up': args.warm_up / steps,
        'first_rate': 1 / max(1, args.warm_up),
        'recall': args.recall,
        'seed': args.seed,
        'recipe': dict(zip(('real', 'planted', 'painted'), args.recipe, strict=True)),
    }
    return changed(preset('synthesis', 'unet'), values)


def _judge(args: argparse.Namespace) -> None:
    import numpy as np

    from mslesseg_app.inference.device import choose_device
    from mslesseg_app.models.networks import build, fill
    from mslesseg_app.training.data import read_exam
    from mslesseg_app.training.trial import judge

    device, _ = choose_device(args.device)
    network = build('unet', 3, {'channels': tuple(args.widths)})
    fill(network, args.weights)
    network.to(device)
    for name in args.exams:
        exam = read_exam(args.data / f'exam-{name}.npz')
        for use in (('FLAIR', 'T1w', 'T2w'), ('FLAIR',)):
            prob, figures = judge(network, exam, use, device)
            figures['weights'] = args.weights.name
            line = json.dumps(figures)
            print(line, flush=True)
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                with (args.out / 'figures.jsonl').open('a', encoding='utf-8') as stream:
                    stream.write(line + '\n')
                stem = f'{args.weights.stem}_{name}_{len(figures["channels"])}.npz'
                small = np.rint(prob * 50).astype(np.uint8)
                np.savez_compressed(args.out / stem, prob=small)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    args = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s')
    try:
        {'prepare': _prepare, 'train': _train, 'judge': _judge}[args.command](args)
    except MSLesSegError as error:
        print(f'{error}\n{error.hint}', file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == '__main__':
    sys.exit(main())
