"""Time of the group level on many exams with reference masks.

    .venv/bin/python benchmarks/group.py [--exams 40] [--models 2] [--nprocs 2] [--grid template]

Makes an output folder of synthetic exams (balls as lesions, masks changed as models of different
quality would), runs ``mslesseg BIDS OUT group`` on it as a command of its own, and prints a
Markdown table of the seconds. ``--grid template`` has 182 × 218 × 182 voxels of 1 mm,
``--grid flair`` 256 × 256 × 48.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tests' / 'tools'))

from grouptree import make_tree, write_participants

GRIDS = {'template': (182, 218, 182), 'flair': (256, 256, 48)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    options = _parse(argv)
    names = [f'model{number}' for number in range(1, options.models + 1)]
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        root = Path(folder)
        print(f'making {options.exams} exams …', file=sys.stderr)
        tree = make_tree(root, options.exams, models=names, shape=GRIDS[options.grid])
        write_participants(tree.bids, options.exams)
        command = [sys.executable, '-m', 'mslesseg_app', str(tree.bids), str(tree.out), 'group']
        command += ['-d', f'manual={tree.manual}', '-w', f'{root}/work']
        command += ['--nprocs', str(options.nprocs)]
        seconds, cpu = [], []
        for _ in range(options.repeats):
            start, before = time.perf_counter(), _cpu_seconds()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
            cpu.append(_cpu_seconds() - before)
        size = (tree.out / 'group_lesions.html').stat().st_size / 1024
    print(f'{time.strftime("%Y-%m-%d")}, {platform.machine()}, {os.cpu_count()} CPUs\n')
    print(
        '| exams | models | grid | processes | seconds, fastest | all runs | CPU s | page, KiB |'
    )
    print('|---|---|---|---|---|---|---|---|')
    every = ', '.join(f'{value:.1f}' for value in seconds)
    print(
        f'| {options.exams} | {options.models} | {options.grid} | {options.nprocs} | '
        f'{min(seconds):.1f} | {every} | {min(cpu):.1f} | {size:.0f} |'
    )
    return 0


def _cpu_seconds() -> float:
    """Return the CPU seconds of all commands that have ended, their own processes included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--exams', type=int, default=40)
    parser.add_argument('--models', type=int, default=2)
    parser.add_argument('--nprocs', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--grid', choices=list(GRIDS), default='template')
    parser.add_argument('--work', help='folder for temporary files (default: the system)')
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
