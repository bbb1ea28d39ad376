"""Time and memory of the whole App on real exams, first run and second.

    .venv/bin/python benchmarks/app.py --data FOLDER [--work FOLDER] [-- OPTIONS OF THE APP]

FOLDER holds ``ljubljana-bids`` (or is named by MSLESSEG_TEST_DATA). Prints a Markdown table: the
seconds of each exam's nodes added up, those of the whole command, those of the same command run
again, and the most memory that all processes of the run held together.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _processes import run_watched


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    options = _parse(argv)
    data = Path(options.data) / 'ljubljana-bids'
    if not data.is_dir():
        print(f'{data} does not exist; give --data or set MSLESSEG_TEST_DATA', file=sys.stderr)
        return 66
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        command = [sys.executable, '-m', 'mslesseg_app', str(data), f'{folder}/out']
        command += ['participant', '-w', f'{folder}/work', '--model', 'hyperintensity']
        command += options.options
        (first, peak), (second, _) = run_watched(command), run_watched(command)
        exams = _exam_seconds(Path(folder) / 'out')
    print(f'{time.strftime("%Y-%m-%d")}, {platform.machine()}, {os.cpu_count()} CPUs\n')
    print('| what | seconds |\n|---|---|')
    for exam, seconds in sorted(exams.items()):
        print(f'| nodes of {exam}, summed | {seconds:.0f} |')
    print(f'| all exams, first run | {first:.0f} |')
    print(f'| all exams, second run | {second:.1f} |')
    print(f'\nMost memory of all processes together: {peak / 2**30:.2f} GiB')
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', default=os.environ.get('MSLESSEG_TEST_DATA', '.'))
    parser.add_argument('--work', help='folder for temporary files (default: the system)')
    parser.add_argument('options', nargs='*', help='options of the App, after "--"')
    return parser.parse_args(argv)


def _exam_seconds(out: Path) -> dict[str, float]:
    """Sum the seconds of each exam's nodes, from the timings that the first run kept."""
    totals: dict[str, float] = {}
    for path in (out / 'logs').glob('*_timings.txt'):
        for line in path.read_text().splitlines()[1:]:
            node, seconds = line.split('\t')
            exam = node.split('.')[0]
            totals[exam] = totals.get(exam, 0.0) + float(seconds)
    return totals


if __name__ == '__main__':
    sys.exit(main())
