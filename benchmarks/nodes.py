"""Processor seconds of each step of one exam, with one, two and three images.

    .venv/bin/python benchmarks/nodes.py --data FOLDER [--model NAME] [--work FOLDER]

FOLDER holds ``ljubljana-bids`` (or is named by MSLESSEG_TEST_DATA). Each exam is done in a process
of its own that runs its steps one after the other, as a single worker would: first once to load
what a process loads once (template, model, libraries), then again from the start. Prints a
Markdown table of the second run, the first one summed below it, and the size of the work folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Options for the exam sub-LJ01 ses-1 with one, two and three images.
CASES = {
    'FLAIR': ('--ignore', 't1w', 't2w'),
    'FLAIR, T1w': ('--ignore', 't2w'),
    'FLAIR, T1w, T2w': (),
}
#: Rows of the table, and how the names of their nodes begin.
ROWS = {
    'reading and bias field': ('conform_',),
    'alignment': ('align',),
    'resampling': ('resample_', 'labels_'),
    'brain mask': ('brain',),
    'model': ('segment',),
    'back to the FLAIR': ('restore_',),
    'lesions': ('find',),
    'regions': ('regions',),
    'check and numbers': ('selfcheck', 'measure'),
    'pictures': ('figure',),
    'record and files': ('describe', 'ds_', 'native_xfm'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    options = _parse(argv)
    data = Path(options.data) / 'ljubljana-bids'
    if not data.is_dir():
        print(f'{data} does not exist; give --data or set MSLESSEG_TEST_DATA', file=sys.stderr)
        return 66
    if options.inside:
        print(json.dumps(_measure(data, options)))
        return 0
    columns: dict[str, dict[str, float]] = {}
    for name in CASES:
        words = [sys.executable, __file__, '--data', options.data, '--model', options.model]
        words += ['--inside', name] + (['--work', options.work] if options.work else [])
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        columns[name] = json.loads(done.stdout.splitlines()[-1])
    load = os.getloadavg()[0]
    print(
        f'{time.strftime("%Y-%m-%d")}, {platform.machine()}, {os.cpu_count()} CPUs, '
        f'load average {load:.0f}, model {options.model}\n'
    )
    print('| step | ' + ' | '.join(CASES) + ' |\n|---|' + '---|' * len(CASES))
    for row in columns['FLAIR']:
        print(f'| {row} | ' + ' | '.join(f'{one[row]:.1f}' for one in columns.values()) + ' |')
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', default=os.environ.get('MSLESSEG_TEST_DATA', '.'))
    parser.add_argument('--model', default='unet')
    parser.add_argument('--work', help='folder for temporary files (default: the system)')
    parser.add_argument('--inside', choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument('--detail', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _measure(data: Path, options: argparse.Namespace) -> Mapping[str, float]:
    """Do an exam twice in this process; return the seconds of its steps."""
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        first, _ = _do(data, Path(folder) / 'first', options)
        again, size = _do(data, Path(folder) / 'again', options)
    if options.detail:
        for name, seconds in sorted(again.items(), key=lambda item: -item[1]):
            print(f'{name:30} {first[name]:7.2f} {seconds:7.2f}', file=sys.stderr)
    rows = dict.fromkeys(ROWS, 0.0)
    for name, seconds in again.items():
        rows[_row(name)] += seconds
    rows['all'] = sum(again.values())
    rows['all, the first time in a process'] = sum(first.values())
    rows['work folder (MB)'] = size / 1e6
    return rows


def _row(node: str) -> str:
    return next(row for row, starts in ROWS.items() if node.startswith(starts))


def _do(data: Path, root: Path, options: argparse.Namespace) -> tuple[Mapping[str, float], int]:
    """Run all steps of the exam; return the seconds of each, and the size of the work folder."""
    import networkx as nx

    from mslesseg_app.bids.exams import find_exams
    from mslesseg_app.core.settings import Settings
    from mslesseg_app.models.registry import get_entry
    from mslesseg_app.participant.workflows import base

    words = CASES[options.inside]
    settings = Settings(
        data,
        root / 'out',
        root / 'work',
        participants=('LJ01',),
        sessions=('1',),
        model=(options.model,),
        engine='builtin',
        ignore=words[1:],
        run_uuid='nodes',
    )
    for folder in (settings.out_dir, settings.out_dir / 'logs', settings.work_dir):
        folder.mkdir(parents=True, exist_ok=True)
    exams = find_exams(settings)
    seconds: dict[str, float] = defaultdict(float)
    with base.configured_nipype(settings):
        workflow = base.init_run_wf(
            exams=exams, settings=settings, engine='builtin', entry=get_entry(options.model)
        )
        for node in nx.topological_sort(base.take_graph(workflow)):
            begin = time.process_time()
            node.run()
            seconds[node.name] += time.process_time() - begin
    files = (path for path in settings.work_dir.rglob('*') if path.is_file())
    return seconds, sum(path.stat().st_size for path in files)


if __name__ == '__main__':
    sys.exit(main())
