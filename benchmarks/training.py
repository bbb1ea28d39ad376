"""Where the time of a training step goes: drawing exams, or the network.

Prints one Markdown table. Example::

    python benchmarks/training.py PREPARED_FOLDER --device cuda --steps 20
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from mslesseg_app.inference.device import choose_device
from mslesseg_app.training.data import TrainingData, load_data
from mslesseg_app.training.loop import Trainer
from mslesseg_app.training.patches import SynthesisFeed, collate
from mslesseg_app.training.plan import Plan, changed
from mslesseg_app.training.presets import preset
from mslesseg_app.training.workers import World


def now(device: str) -> float:
    """Return the time once the device has nothing left to do."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(data: TrainingData, plan: Plan, device: str, steps: int) -> tuple[float, float, float]:
    """Return median milliseconds of drawing and of the rest of a step, and peak memory (GiB)."""
    drawing, rest = [], []
    feed = SynthesisFeed(data, plan, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(Path(folder), plan, feed, world=World(device=device))
        trainer.network.train()
        for number in range(steps + 4):
            start = now(device)
            draws = [feed[0, number * plan.batch + place, 0] for place in range(plan.batch)]
            batch = {name: tensor.to(device) for name, tensor in collate(draws).items()}
            middle = now(device)
            trainer.train_step(batch)
            drawing.append(1000 * (middle - start))
            rest.append(1000 * (now(device) - middle))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.startswith('cuda') else 0.0
    return statistics.median(drawing[4:]), statistics.median(rest[4:]), peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', type=Path)
    parser.add_argument('--steps', type=int, default=20)
    parser.add_argument('--batch', type=int, nargs='+', default=[1])
    parser.add_argument('--patch', type=int, nargs=3, default=[96, 96, 96])
    parser.add_argument('--widths', type=int, nargs='+', default=[16, 32, 64, 128, 192])
    parser.add_argument('--device', default='auto')
    args = parser.parse_args()
    device, _ = choose_device(args.device)
    torch.backends.cudnn.benchmark = True
    data = load_data(args.data)
    print('| batch | drawing ms | rest of the step ms | peak GiB on the GPU |')
    print('|---|---|---|---|')
    for batch in args.batch:
        sizes = {'options': {'channels': args.widths}, 'patch': args.patch, 'batch': batch}
        plan = changed(preset('synthesis', 'unet'), sizes)
        drawing, rest, peak = measure(data, plan, device, args.steps)
        print(f'| {batch} | {drawing:.0f} | {rest:.0f} | {peak:.1f} |', flush=True)


if __name__ == '__main__':
    main()
