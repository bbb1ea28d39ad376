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
from mslesseg_app.training.loop import Settings, Trainer


def now(device: str) -> float:
    """Return the time once the device has nothing left to do."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(
    data: TrainingData, settings: Settings, device: str, channels_last: bool, steps: int
) -> tuple[float, float, float]:
    """Return median milliseconds of drawing and of the whole step, and peak memory (GiB)."""
    drawing, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(Path(folder), data, settings, device, channels_last)
        trainer.network.train()
        for _ in range(steps + 4):
            start = now(device)
            trainer.draw()
            middle = now(device)
            trainer.train_step()
            drawing.append(1000 * (middle - start))
            whole.append(1000 * (now(device) - middle))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.startswith('cuda') else 0.0
    return statistics.median(drawing[4:]), statistics.median(whole[4:]), peak


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
    print('| batch | memory format | drawing ms | step ms (drawing in it) | peak GiB |')
    print('|---|---|---|---|---|')
    for batch in args.batch:
        for last in (False, True):
            settings = Settings(
                tuple(args.widths), (args.patch[0], args.patch[1], args.patch[2]), batch
            )
            drawing, whole, peak = measure(data, settings, device, last, args.steps)
            name = 'channels last' if last else 'contiguous'
            print(f'| {batch} | {name} | {drawing:.0f} | {whole:.0f} | {peak:.1f} |', flush=True)


if __name__ == '__main__':
    main()
