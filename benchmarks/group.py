"""Time and memory of the group level on many exams, first run and second.

    .venv/bin/python benchmarks/group.py [--exams 40] [--models 2] [--nprocs 2] [--grid template]
    .venv/bin/python benchmarks/group.py --like OUT_DIR --exams 200 1000 2000 [--reference MASK]

Without ``--like`` an output folder of synthetic exams with references is made (balls as lesions,
masks changed as models of different quality would); ``--grid template`` has 182 × 218 × 182
voxels of 1 mm, ``--grid flair`` 256 × 256 × 48. With ``--like`` it holds hard links of the first
exam of a real output folder, under other names and with lesion volumes that differ;
``--reference`` gives each a reference mask. ``mslesseg BIDS OUT group`` is run on it twice, as a
command of its own: what has not changed since the first run need not be read in the second.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _processes import run_watched

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tests' / 'tools'))

from grouptree import make_tree, write_participants

GRIDS = {'template': (182, 218, 182), 'flair': (256, 256, 48)}
_HEAD = (
    '| exams | models | processes | run | seconds | processor seconds | memory (GiB) | report (MB) |'  # noqa: E501
    '\n|---|---|---|---|---|---|---|---|'
)


@dataclass
class Study:
    """Folders of a study, and its number of models."""

    bids: Path
    out: Path
    manual: Path
    models: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    options = _parse(argv)
    load = os.getloadavg()[0]
    print(f'{time.strftime("%Y-%m-%d")}, {platform.machine()}, {os.cpu_count()} CPUs, ', end='')
    print(f'load average {load:.0f}\n\n{_HEAD}', flush=True)
    for number in options.exams:
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            root = Path(folder)
            study = (
                _copies(root, number, options) if options.like else _made(root, number, options)
            )
            for run in range(1, options.repeats + 1):
                _measure(study, number, run, options.nprocs)
    return 0


def _measure(study: Study, number: int, run: int, nprocs: int) -> None:
    """Run the group level once and print its row."""
    command = [sys.executable, '-m', 'mslesseg_app', str(study.bids), str(study.out), 'group']
    command += ['-w', str(study.out.parent / 'work'), '--nprocs', str(nprocs)]
    command += ['-d', f'manual={study.manual}'] if study.manual.is_dir() else []
    before = _cpu_seconds()
    wall, peak = run_watched(command)
    cpu = _cpu_seconds() - before
    size = (study.out / 'group_lesions.html').stat().st_size / 1e6
    print(
        f'| {number} | {study.models} | {nprocs} | {run} | {wall:.0f} | {cpu:.0f} | '
        f'{peak / 2**30:.2f} | {size:.1f} |',
        flush=True,
    )


def _made(root: Path, number: int, options: argparse.Namespace) -> Study:
    """Make synthetic exams with references."""
    names = [f'model{place}' for place in range(1, options.models + 1)]
    tree = make_tree(root, number, models=names, shape=GRIDS[options.grid])
    write_participants(tree.bids, number)
    (root / 'work').mkdir()
    return Study(tree.bids, tree.out, tree.manual, options.models)


def _copies(root: Path, number: int, options: argparse.Namespace) -> Study:
    """Make hard links of one real exam."""
    study = Study(root / 'bids', root / 'out', root / 'manual', 1)
    study.out.mkdir()
    (root / 'work').mkdir()
    os.link(options.like / 'dataset_description.json', study.out / 'dataset_description.json')
    table = min(options.like.glob('sub-*/**/anat/*_metrics.tsv'))
    subject = table.relative_to(options.like).parts[0]
    files = [path for path in (options.like / subject).rglob('*') if path.is_file()]
    for place in range(number):
        name = f'sub-{place:05}'
        for path in files:
            copy = study.out / path.relative_to(options.like).as_posix().replace(subject, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.name.endswith('_metrics.tsv'):
                _rename(path, copy, name, place)
            else:
                os.link(path, copy)
        if options.reference:
            _refer(options.reference, study.manual / name / table.parts[-3] / 'anat', name)
    return study


def _rename(table: Path, copy: Path, name: str, place: int) -> None:
    """Write a metrics table of another participant, with a lesion volume of its own."""
    with table.open(newline='') as file:
        rows = list(csv.DictReader(file, delimiter='\t'))
    for row in rows:
        row['participant_id'] = name
        row['lesion_volume_ml'] = f'{float(row["lesion_volume_ml"]) * (1 + place % 97 / 50):.6g}'
    with copy.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter='\t', lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def _refer(mask: Path, folder: Path, name: str) -> None:
    session = f'_{folder.parent.name}' if folder.parent.name.startswith('ses-') else ''
    folder = folder if session else folder.parent.parent / name / 'anat'
    folder.mkdir(parents=True)
    os.link(mask, folder / f'{name}{session}_label-lesion_mask.nii.gz')


def _cpu_seconds() -> float:
    """Return the CPU seconds of all commands that have ended, their own processes included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--exams', type=int, nargs='+', default=[40])
    parser.add_argument('--models', type=int, default=2)
    parser.add_argument('--nprocs', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--grid', choices=list(GRIDS), default='template')
    parser.add_argument('--like', type=Path, help='output folder of a real exam')
    parser.add_argument('--reference', type=Path, help='reference mask of that exam')
    parser.add_argument('--work', help='folder for temporary files (default: the system)')
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
