"""Where the time of a training goes, its memory, and whether it goes on exactly.

Trains on a BIDS dataset with masks twice with the same seed: in one go, and stopped after each
epoch and resumed by a new trainer. Prints a Markdown table, and the largest difference between the
losses of the two. Example::

    python benchmarks/training.py BIDS_DIR CACHE --loaders 0 1
    python benchmarks/training.py BIDS_DIR CACHE --network unetr --device cuda
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from typing import Any

import torch

from mslesseg_app.models.prediction.device import choose_device
from mslesseg_app.training.description import entry_of
from mslesseg_app.training.distributed import World
from mslesseg_app.training.experiments.labelled_exams import find_cases
from mslesseg_app.training.loop import Trainer
from mslesseg_app.training.patches import CaseDataset, TrainingDataset
from mslesseg_app.training.plan import Plan, changed
from mslesseg_app.training.presets import preset

EPOCHS = 3
AN_EPOCH = 1e-4
"""Minutes after which no further epoch begins."""


def make_dataset(folder: Path, cache: Path, plan: Plan) -> TrainingDataset:
    """Return a dataset of all labelled exams, every one of them read already."""
    dataset = CaseDataset(find_cases(folder, cache), plan, entry_of(plan), cache / 'exams')
    list(dataset.prepare())
    return dataset


def train(
    dataset: TrainingDataset, plan: Plan, device: str, loaders: int, stops: bool
) -> list[dict[str, Any]]:
    """Return the log of a training in one go, or of one that stops after each epoch."""
    with tempfile.TemporaryDirectory() as folder:
        complete = False
        while not complete:
            world = World(device=device)
            trainer = Trainer(Path(folder), plan, dataset, world=world, loaders=loaders)
            complete = trainer.train(minutes=AN_EPOCH if stops else float('inf'))
        return trainer.progress.history


def gibibytes() -> float:
    """Return the peak of this process and of the largest of its children."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(w).ru_maxrss for w in who) / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('data', type=Path, metavar='BIDS_DIR')
    parser.add_argument('cache', type=Path, help='Folder of exams that were read.')
    parser.add_argument('--network', default='unet')
    parser.add_argument('--preset', default='default')
    parser.add_argument('--steps', type=int, default=20, help='Of each of three epochs.')
    parser.add_argument('--loaders', type=int, nargs='+', default=[1])
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--device', default='auto')
    args = parser.parse_args()
    device, _ = choose_device(args.device)
    torch.set_num_threads(args.threads)
    plan = preset(args.preset, args.network)
    plan = changed(plan, {'epochs': EPOCHS, 'steps_per_epoch': args.steps})
    dataset = make_dataset(args.data, args.cache, plan)
    print('| loaders | seconds a step | waiting for data | peak memory GiB |')
    print('|---|---|---|---|')
    for loaders in args.loaders:
        log = train(dataset, plan, device, loaders, stops=False)
        # the first epoch warms up
        seconds = float(log[-1]['seconds']) - float(log[0]['seconds'])
        waiting = sum(float(row['waiting']) for row in log[1:])
        each = seconds / (args.steps * (EPOCHS - 1))
        share = f'{100 * waiting / seconds:.1f} %'
        print(f'| {loaders} | {each:.2f} | {share} | {gibibytes():.1f} |', flush=True)
    again = train(dataset, plan, device, args.loaders[-1], stops=True)
    apart = [abs(float(a['loss']) - float(b['loss'])) for a, b in zip(log, again, strict=True)]
    print(f'\nlargest difference of losses, stopped after each epoch: {max(apart):g}')
    print(f'losses: {", ".join(row["loss"] for row in again)}')


if __name__ == '__main__':
    main()
