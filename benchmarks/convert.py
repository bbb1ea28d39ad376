"""What ``mslesseg convert`` costs beside plain dcm2niix, and its memory against the files.

    python benchmarks/convert.py [--data DATA] [--files 500 2000 10000]

Times are processor seconds (user and system) of a whole run in a process of its own, children
included, and wall seconds; the smallest of the repetitions. dcm2niix runs once for each series,
as HeuDiConv runs it. Faces are left in, because dcm2niix does not remove them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nb
import numpy as np

from mslesseg_app.demo.dicom import DemoStudy, Patient, write_series

FLAIR = {
    'RepetitionTime': 5.0,
    'EchoTime': 0.39,
    'InversionTime': 1.8,
    'FlipAngle': 120.0,
    'ScanningSequence': 'SE\\IR',
    'MRAcquisitionType': '3D',
    'MagneticFieldStrength': 3.0,
    'ImageType': 'ORIGINAL\\PRIMARY\\M',
}


DCM2NIIX = shutil.which(
    'dcm2niix', path=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
)


class Cost(NamedTuple):
    """Processor seconds, wall seconds and largest resident size (MiB) of a run."""

    cpu: float
    wall: float
    memory: float


def measure(command: Sequence[str], folder: Path) -> Cost:
    """Run a command and wait for it and its children."""
    environment = {**os.environ, 'NO_ET': '1', 'OMP_NUM_THREADS': '1'}
    begin = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f'{command[:4]} failed')
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(cpu, time.monotonic() - begin, usage.ru_maxrss / 1024)


def convert(source: Path, nprocs: int = 1) -> Cost:
    """Convert everything below a folder into a new dataset."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, '-m', 'mslesseg_app', 'convert', str(source), 'bids', '-q']
        return measure([*command, '--no-deface', '--nprocs', str(nprocs)], Path(scratch))


def plain(source: Path) -> Cost:
    """Convert each folder of files by dcm2niix."""
    folders = {path.parent for path in source.rglob('*') if path.is_file()}
    with tempfile.TemporaryDirectory() as scratch:
        lines = [
            f'{DCM2NIIX} -z y -b y -ba y -o {scratch} "{folder}"' for folder in sorted(folders)
        ]
        return measure(['bash', '-ec', '\n'.join(lines)], Path(scratch))


def best(costs: list[Cost]) -> Cost:
    """Return the smallest of each kind of cost, the largest of memory."""
    return Cost(
        min(c.cpu for c in costs), min(c.wall for c in costs), max(c.memory for c in costs)
    )


# ------------------------------------------------------------------------------------ data


def head(shape: tuple[int, int, int], seed: int) -> nb.Nifti1Image:
    """Return a ball in noise: an image that compresses as heads do."""
    rng = np.random.default_rng(seed)
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    ball = sum(axis**2 for axis in axes) < 0.7
    noise = rng.rayleigh(12.0, shape)
    data = noise + ball * (400 + 60 * np.sin(9 * axes[0]) + 40 * axes[1])
    affine = np.diag([1.0, 1.0, 1.2, 1.0])
    affine[:3, 3] = (-90, -120, -80)
    return nb.Nifti1Image(data.astype(np.int16), affine)


def scanner(folder: Path, series: int, shape: tuple[int, int, int]) -> int:
    """Write series of several patients; return the number of files."""
    images = [head(shape, seed) for seed in range(4)]
    for number in range(series):
        patient = Patient(f'Test^P{number // 4:04d}', f'{number // 4:06d}')
        write_series(
            images[number % 4],
            folder / f'{number:04d}',
            vendor=('siemens', 'ge', 'philips')[number % 3],
            patient=patient,
            study=DemoStudy(dt.date(2020, 1, 1) + dt.timedelta(days=number)),
            number=2,
            description='3D FLAIR',
            sidecar=FLAIR,
        )
    return series * shape[2]


def unpack(data: Path, folder: Path) -> None:
    """Unpack the real series."""
    for archive in sorted((data / 'dicom-t1').glob('*.tgz')):
        with tarfile.open(archive) as tar:
            tar.extractall(folder / archive.stem, filter='data')
    for path in folder.rglob('*.json'):
        path.unlink()


# -------------------------------------------------------------------------------- the tables


def compare(name: str, source: Path, repeats: int) -> None:
    """Print a row of the table of times."""
    files = sum(path.is_file() for path in source.rglob('*'))
    alone = best([plain(source) for _ in range(repeats)])
    ours = best([convert(source) for _ in range(repeats)])
    both = best([convert(source, 2) for _ in range(repeats)])
    print(
        f'| {name} | {files} | {alone.cpu:.1f} | {ours.cpu:.1f} | {ours.cpu / alone.cpu:.2f} '
        f'| {alone.wall:.1f} | {ours.wall:.1f} | {both.wall:.1f} |',
        flush=True,
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', type=Path, help='folder that holds dicom-t1')
    parser.add_argument('--files', type=int, nargs='*', default=[500, 2000, 10000])
    parser.add_argument('--series', type=int, default=12, help='series of the synthetic set')
    parser.add_argument('--repeats', type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        times(options, Path(scratch))
        memory(options.files, Path(scratch))


def times(options: argparse.Namespace, scratch: Path) -> None:
    """Print the table of times."""
    columns = ('data', 'files', 'dcm2niix CPU (s)', 'ours CPU (s)', 'ratio', 'dcm2niix wall (s)')
    columns += ('ours wall (s)', 'two processes wall (s)')
    print('| ' + ' | '.join(columns) + ' |\n' + '|---' * len(columns) + '|')
    if options.data is not None:
        unpack(options.data, scratch / 'real')
        compare('real T1w', scratch / 'real', options.repeats)
    if options.series:
        scanner(scratch / 'large', options.series, (256, 256, 160))
        compare('synthetic 256 × 256 × 160', scratch / 'large', options.repeats)
        shutil.rmtree(scratch / 'large')


def memory(sizes: list[int], scratch: Path) -> None:
    """Print the table of memory."""
    print('\n| files | series | peak memory (MiB) | CPU (s) | ms a file |\n|---|---|---|---|---|')
    for size in sizes:
        files = scanner(scratch / 'many', size // 100, (48, 48, 100))
        cost = convert(scratch / 'many')
        each = 1000 * cost.cpu / files
        print(f'| {files} | {size // 100} | {cost.memory:.0f} | {cost.cpu:.1f} | {each:.1f} |')
        shutil.rmtree(scratch / 'many')


if __name__ == '__main__':
    main()
