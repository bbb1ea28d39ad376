"""From a release in MSLesSeg's layout to Tables 5 and 6: all verbs, networks and folds.

Synthetic heads, reduced networks, a few steps: the time and the way are real, the figures say
nothing about real exams. 8 training and 4 test patients, some with several timepoints. Example::

    python benchmarks/crossval.py
    python benchmarks/crossval.py --network unetr --fold 1     # one part
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from mslesseg_app.cli.main import main as mslesseg
from mslesseg_app.demo.release import make_release

TRAIN = {1: 3, 5: 2, 11: 1, 14: 2, 23: 1, 26: 1, 36: 1, 46: 1}
"""Patients of all five validation sets of Table 4, and their timepoints."""

TEST = (54, 55, 60, 75)
NETWORKS = ('mssegdiff', 'unetr', 'swinunetr', 'transbts')


def timed(what: str, arguments: list[str]) -> float:
    """Run one command, print its time and return it."""
    start = time.perf_counter()
    code = mslesseg(arguments)
    seconds = time.perf_counter() - start
    if code:
        raise SystemExit(f'{what}: exit code {code}')
    print(f'| {what} | {seconds:.0f} |', flush=True)
    return seconds


def main() -> None:
    """Run everything and print a table of times, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--network', nargs='+', default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument('--fold', nargs='+', default=[str(n) for n in range(1, 6)])
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--out', type=Path, help='Keep everything here.')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        print('| step | seconds |')
        print('|---|---|')
        total = run(folder, args.network, args.fold, args.device)
        print(f'| all | {total:.0f} |')
        for path in sorted(folder.glob('crossval/tables/mslesseg/*.md')):
            print(path.read_text())
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads')


def run(folder: Path, networks: list[str], folds: list[str], device: str) -> float:
    """Make the release and run the verbs; return the seconds of all."""
    start = time.perf_counter()
    release = make_release(folder / 'release', TRAIN, TEST)
    making = time.perf_counter() - start
    print(f'| the synthetic release | {making:.0f} |', flush=True)
    bids, out = folder / 'bids', folder / 'crossval'
    total = making + timed('import', ['import', str(release), str(bids), '--quiet'])
    common = [str(bids), str(out), '--preset', 'reduced', '--device', device, '--quiet']
    for network in networks:
        for fold in folds:
            part = ['crossval', *common, '--network', network, '--fold', fold]
            total += timed(f'{network}, fold {fold}', part)
    if len(set(folds)) == 5:
        total += timed('models, tables', ['crossval', *common, '--network', *networks, '--gather'])
    return total


if __name__ == '__main__':
    main()
