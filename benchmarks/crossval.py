"""From a release in MSLesSeg's layout to Tables 5 and 6: all verbs, networks and folds.

Synthetic heads, reduced networks, a few steps: the time and the way are real, the figures say
nothing about real exams. 8 training and 4 test patients, some with several timepoints. Example::

    python benchmarks/crossval.py
    python benchmarks/crossval.py --network unetr --fold 1     # one part

Folds run as jobs of their own, as on a cluster: two beside each other, with one thread each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tests' / 'tools'))

from phantom_release import make_release

TRAIN = {1: 3, 5: 2, 11: 1, 14: 2, 23: 1, 26: 1, 36: 1, 46: 1}
"""Patients of all five validation sets of Table 4, and their timepoints."""

TEST = (54, 55, 60, 75)
NETWORKS = ('mssegdiff', 'unetr', 'swinunetr', 'transbts')


def timed(what: str, arguments: list[str]) -> None:
    """Run one command in a process of its own and print its time."""
    start = time.perf_counter()
    command = [sys.executable, '-m', 'mslesseg_app', *arguments]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise SystemExit(f'{what}: exit code {code}')
    print(f'| {what} | {time.perf_counter() - start:.0f} |', flush=True)


def main() -> None:
    """Run everything and print a table of times, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--network', nargs='+', default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument('--fold', nargs='+', default=[str(n) for n in range(1, 6)])
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--jobs', type=int, default=2, help='Folds beside each other.')
    parser.add_argument('--out', type=Path, help='Keep everything here.')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        print('| step | seconds |')
        print('|---|---|')
        total = run(folder, args)
        print(f'| all | {total:.0f} |')
        for path in sorted(folder.glob('crossval/tables/mslesseg/*.md')):
            print(path.read_text())
    print(f'torch {torch.__version__}, {torch.get_num_threads()} threads')


def run(folder: Path, args: argparse.Namespace) -> float:
    """Make the release and run the verbs; return the seconds of all."""
    start = time.perf_counter()
    release = make_release(folder / 'release', TRAIN, TEST)
    print(f'| the synthetic release | {time.perf_counter() - start:.0f} |', flush=True)
    bids, out = folder / 'bids', folder / 'crossval'
    timed('import', ['import', str(release), str(bids), '--quiet'])
    common = [str(bids), str(out), '--preset', 'reduced', '--device', args.device, '--quiet']
    alone = ['crossval', *common, '--omp-nthreads', '1']
    parts = {
        f'{network}, fold {fold}': [*alone, '--network', network, '--fold', fold]
        for network in args.network
        for fold in args.fold
    }
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(timed, parts, parts.values()))
    if len(set(args.fold)) == 5:
        timed('models, tables', ['crossval', *common, '--network', *args.network, '--gather'])
    return time.perf_counter() - start


if __name__ == '__main__':
    main()
