"""What a run costs besides its work, and how that grows with the number of exams.

    .venv/bin/python benchmarks/scale.py [--exams 10 100 1000] [--steps 60] [--work FOLDER]

For each number of exams a dataset is made of hard links to one small exam, and looked at in a
process of its own. Prints a Markdown table of processor seconds of the main process, which other
work on the machine changes little, and of its memory:

- ``index``: finding the exams, as in ``--dry-run``;
- ``first step``: from the found exams to the first step that is given to a worker;
- ``a step``: mean over the steps of a run, which is broken off after ``--steps`` of them;
- ``look again``: the second run over exams that are finished, per exam;
- ``memory``: the most that the main process held.

The steps are those of the App with ``--model hyperintensity``. For ``look again`` each exam is
given a note and files of the right names instead of results: only their state is looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mslesseg_app.bids.exam import Exam
    from mslesseg_app.core.settings import Settings
    from mslesseg_app.models.prediction.ensemble import AnyModel

MODEL = 'hyperintensity'
COLUMNS = ('index', 'first step', 'a step', 'look again', 'memory')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    options = _parse(argv)
    if options.inside:
        print(json.dumps(_measure(Path(options.inside), options.steps)))
        return 0
    load = os.getloadavg()[0]
    print(
        f'{time.strftime("%Y-%m-%d")}, {platform.machine()}, {os.cpu_count()} CPUs, '
        f'load average {load:.0f}\n'
    )
    print('| exams | index (s) | first step (s) | a step (s) | look again (s) | memory (GiB) |')
    print('|---|---|---|---|---|---|', flush=True)
    with tempfile.TemporaryDirectory(dir=options.work) as text:
        source = _small_exam(Path(text) / 'source')
        for number in options.exams:
            root = Path(text) / str(number)
            _link(source, root / 'bids', number)
            words = ['--inside', str(root), '--steps', str(options.steps)]
            done = subprocess.run(
                [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            shown = ' | '.join(f'{found[name]:.3f}' for name in COLUMNS)
            print(f'| {number} | {shown} |', flush=True)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--exams', type=int, nargs='+', default=[10, 100, 1000])
    parser.add_argument('--steps', type=int, default=60, help='0 leaves the steps out')
    parser.add_argument('--work', help='folder for temporary files (default: the system)')
    parser.add_argument('--inside', help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _small_exam(root: Path) -> Path:
    """Make one coarse synthetic exam of three images; return the folder of its images."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tests' / 'tools'))
    from phantom_dataset import make_dataset

    make_dataset(root, n_sessions=1, resolution=3.0)
    return next(root.glob('sub-*/ses-1/anat'))


def _link(source: Path, bids: Path, number: int) -> None:
    """Make a dataset of ``number`` participants out of hard links to one exam."""
    bids.mkdir(parents=True)
    description = {'Name': 'Links', 'BIDSVersion': '1.10.0', 'DatasetType': 'raw'}
    (bids / 'dataset_description.json').write_text(json.dumps(description))
    for k in range(number):
        folder = bids / f'sub-{k:05}' / 'anat'
        folder.mkdir(parents=True)
        for path in source.glob('*_*.nii.gz'):
            suffix = path.name.rsplit('_', 1)[-1]
            os.link(path, folder / f'sub-{k:05}_{suffix}')


def _measure(root: Path, steps: int) -> Mapping[str, float]:
    """Measure one number of exams; this process does nothing else."""
    from mslesseg_app.bids.exams import find_exams
    from mslesseg_app.core.settings import Settings
    from mslesseg_app.models.registry import get_entry

    settings = Settings(
        root / 'bids', root / 'out', root / 'work', model=MODEL, nprocs=2, run_uuid='scale'
    )
    for folder in (settings.out_dir, settings.work_dir):
        folder.mkdir()
    begin = time.process_time()
    exams = find_exams(settings)
    index = time.process_time() - begin
    entry = get_entry(MODEL)
    first, each = _steps(exams, settings, entry, steps) if steps else (float('nan'),) * 2
    again = _look_again(exams, settings, entry)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return dict(zip(COLUMNS, (index, first, each, again, memory), strict=True))


class _Enough(Exception):
    """So many steps were run as were asked for."""


def _steps(
    exams: list[Exam], settings: Settings, entry: AnyModel, steps: int
) -> tuple[float, float]:
    """Return the seconds to the first step of a run, and those of each step after it."""
    from mslesseg_app.participant.batch import Batch

    marks: list[float] = []
    begin = time.process_time()
    batch = Batch(exams, settings, 'builtin', entry, quiet=True)
    told = batch.progress

    class Counting(type(told)):
        def __call__(self, exam: str, node: str, status: str) -> None:
            super().__call__(exam, node, status)
            if status == 'end' or not marks:
                marks.append(time.process_time())
            if len(marks) > steps:
                raise _Enough

    told.__class__ = Counting
    with suppress(_Enough):
        batch.run()
    return marks[0] - begin, (marks[-1] - marks[0]) / (len(marks) - 1)


def _look_again(exams: list[Exam], settings: Settings, entry: AnyModel) -> float:
    """Return the seconds of an exam that was finished before."""
    from mslesseg_app.bids.names import expected_outputs
    from mslesseg_app.participant.batch import Batch
    from mslesseg_app.participant.subjects import SubjectRun
    from mslesseg_app.reports.writing import report_path

    batch = Batch(exams, settings, 'builtin', entry, quiet=True)
    for exam in exams:
        for name in expected_outputs(exam, entry.name):
            path = settings.out_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('')
        report_path(settings, exam.subject).write_text('')
        subject = SubjectRun(batch, exam.subject, [exam], ExitStack())
        subject.note_exams([exam])
        subject.note_report()
    begin = time.process_time()
    outcome = batch.run()
    if outcome.problems or outcome.others or batch.progress.unfinished():
        raise RuntimeError(f'not all exams were taken for finished: {outcome}')
    return (time.process_time() - begin) / len(exams)


if __name__ == '__main__':
    sys.exit(main())
