"""On a private SLURM of one node: throughput, memory, storage, and what the scheduler costs.

    .venv/bin/python benchmarks/hpc.py --data FOLDER [--only tasks noop index] [--noop 1 10 50 200]

FOLDER holds ``ljubljana-bids`` (or is named by MSLESSEG_TEST_DATA). Needs root and Debian's
packages slurm-wlm and munge. Prints Markdown tables:

- ``tasks``: exams one and two at a time, each task on one core, by the scripts that
  ``mslesseg hpc sbatch`` writes; memory of a task, size and number of files of OUT and work;
- ``noop``: arrays whose tasks do nothing;
- ``index``: how long the App looks for one participant among many.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tests' / 'tools'))

from slurm import Cluster, lacking

PARTS = ('tasks', 'noop', 'index')
#: Exams of three images each.
PARTICIPANTS = ('LJ01', 'LJ12')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its tables."""
    options = _parse(argv)
    data = Path(options.data) / 'ljubljana-bids'
    if 'tasks' in options.only and not data.is_dir():
        print(f'{data} does not exist; give --data or set MSLESSEG_TEST_DATA', file=sys.stderr)
        return 66
    if reason := lacking():
        print(reason, file=sys.stderr)
        return 69
    load = os.getloadavg()
    print(
        f'{time.strftime("%Y-%m-%d")}, {platform.machine()}, {os.cpu_count()} CPUs, load average '
        f'{load[0]:.0f} at the start\n'
    )
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        root = Path(folder)
        if 'index' in options.only:
            _index(root, options.index)
        with Cluster(root / 'slurm', cpus=2) as cluster:
            if 'noop' in options.only:
                _noop(cluster, options.noop, root)
            if 'tasks' in options.only:
                _tasks(cluster, data, root)
    print(f'\nload average at the end: {os.getloadavg()[0]:.0f}')
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', default=os.environ.get('MSLESSEG_TEST_DATA', '.'))
    parser.add_argument('--work', help='folder for temporary files (default: the system)')
    parser.add_argument('--only', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--noop', type=int, nargs='+', default=[1, 10, 50, 100, 200])
    parser.add_argument('--index', type=int, nargs='+', default=[1000, 10000])
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------- tasks


def _tasks(cluster: Cluster, data: Path, root: Path) -> None:
    rows = []
    for at_once in (1, 2):
        folder = root / f'at-once-{at_once}'
        job = _submit(cluster, data, folder, at_once)
        with _Watch(cluster) as watch:
            tasks = cluster.wait(job, 3600)
        failed = [task for task in tasks if task['JobState'] != 'COMPLETED']
        if failed:
            raise RuntimeError(f'{failed}\n{_logs(folder)}')
        each = [(_seconds([task]), watch.seconds(task['ArrayTaskId'])) for task in tasks]
        rows.append((at_once, _seconds(tasks), each, watch.peak))
    print(
        '| tasks at once | exams | seconds | of each task | CPU s | exams an hour | GiB a task |'
    )
    print('|---|---|---|---|---|---|---|')
    for at_once, whole, each, peak in rows:
        shown = ', '.join(f'{one:.0f}' for one, _ in each)
        cpu = ', '.join(f'{one:.0f}' for _, one in each)
        words = (f'{whole:.0f}', shown, cpu, f'{3600 * len(each) / whole:.0f}')
        print(f'| {at_once} | {len(each)} | {" | ".join(words)} | {peak / 2**30:.2f} |')
    print(f'\nTwice as many at once: {rows[0][1] / rows[1][1]:.2f} times the throughput.\n')
    print('| folder | MiB an exam | files and folders an exam |\n|---|---|---|')
    for name in ('out', 'work'):
        size, count = _size(root / 'at-once-1' / name)
        print(f'| {name} | {size / 2**20 / 2:.1f} | {count / 2:.0f} |')
    size, count = _size(root / 'at-once-1' / 'out' / 'logs')
    print(f'| of out: logs | {size / 2**20 / 2:.2f} | {count / 2:.0f} |\n')


def _submit(cluster: Cluster, data: Path, folder: Path, at_once: int) -> str:
    """Write the scripts, submit the array; return its number."""
    cluster.run(
        sys.executable, '-m', 'mslesseg_app', 'hpc', 'sbatch', data, folder / 'out', '-q',
        '--scripts', folder / 'scripts', '--skip-bids-validation', '--cpus', '1',
        '--mem', '3000M', '--limit', str(at_once), '-w', folder / 'work',
        '--participant-label', *PARTICIPANTS, '--', '--session-label', '1',
    )  # fmt: skip
    told = cluster.run('bash', folder / 'scripts' / 'submit.sh')
    return re.findall(r'job (\d+)$', told, re.M)[0]


def _seconds(tasks: list[dict[str, str]]) -> float:
    first = min(datetime.fromisoformat(task['StartTime']) for task in tasks)
    last = max(datetime.fromisoformat(task['EndTime']) for task in tasks)
    return (last - first).total_seconds()


def _logs(folder: Path) -> str:
    return '\n'.join(path.read_text() for path in (folder / 'scripts' / 'logs').iterdir())


def _size(folder: Path) -> tuple[int, int]:
    """Return bytes on disk, and files and folders."""
    paths = [folder, *folder.rglob('*')]
    return sum(path.lstat().st_blocks * 512 for path in paths), len(paths)


class _Watch:
    """Watch the memory that the processes of one task hold together, and their CPU time."""

    def __init__(self, cluster: Cluster) -> None:
        self.configuration = cluster.environment['SLURM_CONF']
        self.peak = 0
        self.cpu: dict[tuple[str, int], float] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.5):
            held: dict[str, int] = {}
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    variables = process.environ()
                    if variables.get('SLURM_CONF') == self.configuration:
                        task = variables.get('SLURM_ARRAY_TASK_ID', '')
                        held[task] = held.get(task, 0) + process.memory_full_info().pss
                        times = process.cpu_times()
                        self.cpu[task, process.pid] = times.user + times.system
            held.pop('', None)
            self.peak = max([self.peak, *held.values()])

    def seconds(self, task: str) -> float:
        """Return the CPU seconds of a task, those of its last half second left out."""
        return sum(value for (name, _), value in self.cpu.items() if name == task)


# -------------------------------------------------------------------------------- noop


def _noop(cluster: Cluster, counts: list[int], root: Path) -> None:
    print('| tasks that do nothing | seconds to submit | seconds until all ended | ms a task |')
    print('|---|---|---|---|')
    for count in counts:
        start = time.perf_counter()
        job = cluster.submit(
            f'--array=1-{count}', '--mem=100M', '--output=/dev/null', '--wrap', 'true', cwd=root
        )
        submitted = time.perf_counter() - start
        cluster.until(lambda job=job: not _queued(cluster, job), 1800, 'the array to end')
        whole = time.perf_counter() - start
        print(f'| {count} | {submitted:.2f} | {whole:.1f} | {1000 * whole / count:.0f} |')
    print()


def _queued(cluster: Cluster, job: str) -> bool:
    return bool(cluster.run('squeue', '-h', '-j', job).strip())


# ------------------------------------------------------------------------------- index

LOOK = """
import resource, sys, time
from pathlib import Path
from mslesseg_app.bids.exams import open_layout
open_layout(Path(sys.argv[2]))
start = time.process_time()
assert open_layout(Path(sys.argv[1]), subjects=sys.argv[3:]).get_subjects()
print(time.process_time() - start)
"""


def _index(root: Path, counts: list[int]) -> None:
    print(
        '| participants | images | CPU s, one participant | CPU s, everybody |\n|---|---|---|---|'
    )
    few = _dataset(root / 'few', 1)
    for count in counts:
        many = _dataset(root / f'many-{count}', count)
        one, everybody = (
            float(
                subprocess.run(
                    [sys.executable, '-c', LOOK, many, few, *words],
                    capture_output=True, text=True, check=True,
                ).stdout
            )
            for words in (['00000'], [])
        )  # fmt: skip
        print(f'| {count} | {3 * count} | {one:.2f} | {everybody:.1f} |')
    print()


def _dataset(root: Path, count: int) -> Path:
    """Make a dataset of empty files."""
    root.mkdir()
    (root / 'dataset_description.json').write_text('{"Name": "Many", "BIDSVersion": "1.10.0"}')
    for number in range(count):
        folder = root / f'sub-{number:05}' / 'ses-1' / 'anat'
        folder.mkdir(parents=True)
        for modality in ('FLAIR', 'T1w', 'T2w'):
            for ending in ('nii.gz', 'json'):
                (folder / f'sub-{number:05}_ses-1_{modality}.{ending}').touch()
    return root


if __name__ == '__main__':
    sys.exit(main())
