"""Does the alignment come back whatever the header says? Every scan, displaced in many ways.

Usage::

    python benchmarks/failures.py [--data FOLDER] [--rigid 12] [--storage 6] [--origin 4]
                                  [--strategies anchored]
                                  [--only TEXT] [--out FILE] [--report]

Each image of each session is displaced on its own: turned by up to 40 degrees about each axis
and shifted by up to 60 mm along each (``rigid``); stored with other axes and flips, its header
telling the truth (``storage``); its origin moved by 200 mm (``origin``). The session is aligned
as the App does it (``anchored``), and each image alone (``independent``). A result is lost when
it is more than 2 mm (mean over the template's brain) from the one without displacement. The
check should say so. Rows go to FILE (tab-separated) at once; what is there is not done
again. ``--report`` prints the tables of what FILE holds. Without ``--data`` (or the variable
``MSLESSEG_TEST_DATA``) only the synthetic heads are tried.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from _scans import Scans, all_scans
from scipy.spatial.transform import Rotation

from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.spatial.affines import apply_affine, compose, invert
from mslesseg_app.spatial.bias import correct_bias
from mslesseg_app.spatial.exam_alignment import ExamAlignment, align_exam
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, load_template

#: Further than this (mm) from the result without displacement is lost.
LOST_MM = 2.0
STRATEGIES = ('anchored', 'independent')
COLUMNS = (
    'kind', 'scan', 'image', 'strategy', 'displacement', 'number', 'distance_mm', 'status',
    'z', 'peak', 'seconds', 'reason', 'moving_from_mni',
)  # fmt: skip

Displaced = tuple[Any, np.ndarray]


def brain_points() -> np.ndarray:
    voxels = np.argwhere(np.asarray(load_template().mask.dataobj) > 0)[::800]
    return apply_affine(TEMPLATE_AFFINE, voxels)


def _random(scan: str, displacement: str, number: int, image: str) -> np.random.Generator:
    return np.random.default_rng([number, *f'{scan} {displacement} {image}'.encode()])


def rigid(img: Any, random: np.random.Generator, _: int) -> Displaced:
    """Turn by up to 40 degrees about each axis and shift by up to 60 mm along each."""
    move = np.eye(4)
    turn = Rotation.from_euler('xyz', random.uniform(-40, 40, 3), degrees=True)
    centre = apply_affine(img.affine, np.array(img.shape) / 2)
    move[:3, :3] = turn.as_matrix()
    move[:3, 3] = centre - move[:3, :3] @ centre + random.uniform(-60, 60, 3)
    return nb.Nifti1Image(img.dataobj, move @ img.affine), move


def storage(img: Any, random: np.random.Generator, _: int) -> Displaced:
    """Store the same image with its axes in another order and direction."""
    orders = list(product(permutations(range(3)), product((1, -1), repeat=3)))
    order, signs = orders[int(random.integers(1, len(orders)))]
    return img.as_reoriented(np.array([order, signs]).T), np.eye(4)


def origin(img: Any, _: np.random.Generator, number: int) -> Displaced:
    """Move the origin by 200 mm, to another side for each number."""
    move = np.eye(4)
    sides = ([0, 0, 1], [1, 0, 0], [0, -1, 0], [-1, 1, -1], [0, 0, -1], [0, 1, 0])
    move[:3, 3] = 200.0 * np.array(sides[number % len(sides)])
    return nb.Nifti1Image(img.dataobj, move @ img.affine), move


DISPLACEMENTS: dict[str, Callable[[Any, np.random.Generator, int], Displaced]] = {
    'rigid': rigid,
    'storage': storage,
    'origin': origin,
}


@dataclass
class Study:
    """The rows that exist, and where new ones go."""

    path: Path
    rows: list[dict[str, str]]

    @classmethod
    def open(cls, path: Path) -> Study:
        rows = []
        if path.exists():
            with path.open(newline='') as file:
                rows = list(csv.DictReader(file, delimiter='\t'))
        return cls(path, rows)

    def done(self, scan: str, strategy: str, displacement: str, number: int) -> bool:
        wanted = (scan, strategy, displacement, str(number))
        keys = ('scan', 'strategy', 'displacement', 'number')
        return any(tuple(row[key] for key in keys) == wanted for row in self.rows)

    def plain(self, scan: str, strategy: str) -> dict[str, np.ndarray]:
        """Return the affines without displacement."""
        wanted = (scan, strategy, 'none')
        return {
            row['image']: np.array(row['moving_from_mni'].split(), dtype=float).reshape(4, 4)
            for row in self.rows
            if (row['scan'], row['strategy'], row['displacement']) == wanted
            and row['moving_from_mni']
        }

    def add(self, rows: list[dict[str, str]]) -> None:
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open('a', newline='') as file:
            writer = csv.DictWriter(file, COLUMNS, delimiter='\t', lineterminator='\n')
            if new:
                writer.writeheader()
            writer.writerows(rows)
        self.rows += rows


def prepared(scans: Scans, folder: Path) -> dict[str, Any]:
    """Return the images after N4, from a cache."""
    images = {}
    for name in scans.images:
        path = folder / f'{scans.name}_{name}.nii'
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for other, img in scans.load().items():
                nb.save(correct_bias(img), folder / f'{scans.name}_{other}.nii')
        img = nb.load(path)
        images[name] = nb.Nifti1Image(img.get_fdata(dtype=np.float32), img.affine)
    return images


def align(images: dict[str, Any], strategy: str) -> tuple[ExamAlignment | None, float]:
    """Align as the App does; None when that is refused."""
    clock = time.perf_counter()
    try:
        found = align_exam(images, strategy=strategy)  # type: ignore[arg-type]
    except MSLesSegError:
        found = None
    return found, time.perf_counter() - clock


class Trial:
    """One session and its results without displacement."""

    def __init__(self, scans: Scans, study: Study, cache: Path) -> None:
        self.scans, self.study = scans, study
        self.images = prepared(scans, cache)
        self.points = brain_points()
        self.plain: dict[str, dict[str, np.ndarray]] = {}

    def _rows(
        self, found: ExamAlignment | None, moves: dict[str, np.ndarray], key: dict[str, str]
    ) -> Iterator[dict[str, str]]:
        for name, move in moves.items():
            row = {'kind': self.scans.kind, 'scan': self.scans.name, 'image': name, **key}
            if found is None:
                yield row | {'distance_mm': 'nan', 'status': 'error'}
                continue
            affine = found.moving_from_mni[name]
            plain = self.plain[key['strategy']].get(name, affine)
            back = apply_affine(compose(invert(move), affine), self.points)
            before = apply_affine(plain, self.points)
            off = np.linalg.norm(back - before, axis=1).mean()
            status = 'fail' if name in found.failed else 'check'
            quality = found.quality[name]
            yield row | {
                'distance_mm': f'{off:.3f}',
                'status': status if name in found.reasons else 'pass',
                'z': f'{quality["z"]:.2f}',
                'peak': f'{quality["peak"]:.3f}',
                'reason': found.reasons.get(name, ''),
                'moving_from_mni': ' '.join(f'{value:.9g}' for value in affine.ravel()),
            }

    def run(self, strategy: str, displacement: str, number: int) -> None:
        """Displace, align, and write the rows."""
        if strategy not in self.plain:
            if not self.study.done(self.scans.name, strategy, 'none', 0):
                self.plain[strategy] = {}
                self._write(*align(self.images, strategy), {}, strategy, 'none', 0)
            self.plain[strategy] = self.study.plain(self.scans.name, strategy)
        if self.study.done(self.scans.name, strategy, displacement, number):
            return
        images, moves = {}, {}
        for name, img in self.images.items():
            random = _random(self.scans.name, displacement, number, name)
            images[name], moves[name] = DISPLACEMENTS[displacement](img, random, number)
        self._write(*align(images, strategy), moves, strategy, displacement, number)

    def _write(
        self,
        found: ExamAlignment | None,
        seconds: float,
        moves: dict[str, np.ndarray],
        strategy: str,
        displacement: str,
        number: int,
    ) -> None:
        moves = moves or dict.fromkeys(self.images, np.eye(4))
        key = {'strategy': strategy, 'displacement': displacement, 'number': str(number)}
        rows = list(self._rows(found, moves, key))
        for row in rows:
            row['seconds'] = f'{seconds / len(rows):.2f}'
        self.study.add(rows)


def plan(counts: dict[str, int]) -> Iterator[list[tuple[str, int]]]:
    """Yield rounds of displacements: all scans see a few of each kind early."""
    rounds = min(max(counts.values()), 6)
    for part in range(rounds):
        yield [
            (name, number)
            for name, count in counts.items()
            for number in range(count * part // rounds, count * (part + 1) // rounds)
        ]


def run(scans: list[Scans], study: Study, counts: dict[str, int], strategies: list[str]) -> None:
    cache = study.path.parent / 'cache'
    for chosen, strategy, one in product(plan(counts), strategies, scans):
        left = [
            (strategy, name, number)
            for name, number in (chosen[:1] if one.kind == 'phantoms' else chosen)
            if not study.done(one.name, strategy, name, number)
        ]
        if left and (strategy == 'anchored' or len(one.images) > 1):
            trial = Trial(one, study, cache)
            for step in left:
                trial.run(*step)
            print(f'{time.strftime("%H:%M:%S")} {one.kind}: {one.name}, {strategy}', flush=True)


# ----------------------------------------------------------------------------- report


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f'\n### {title}\n')
    print('| ' + ' | '.join(head) + ' |')
    print('|' + '---|' * len(head))
    for row in rows:
        print('| ' + ' | '.join(row) + ' |', flush=True)


def _counts(rows: list[dict[str, str]]) -> list[str]:
    """Return n, lost and silent, lost and flagged, right but flagged, worst, seconds."""
    off = np.array([float(row['distance_mm']) for row in rows])
    lost = ~(off <= LOST_MM)
    flagged = np.array([row['status'] != 'pass' for row in rows])
    seconds = np.median([float(row['seconds']) for row in rows])
    counts = [len(rows), (lost & ~flagged).sum(), (lost & flagged).sum(), (~lost & flagged).sum()]
    right = off[~lost]
    return [
        *(str(count) for count in counts),
        f'{np.median(off):.2f}',
        f'{right.max():.2f}' if right.size else '',
        f'{np.nanmax(off):.2f}' if np.isfinite(off).any() else '',
        f'{seconds:.1f}',
    ]


def report(study: Study) -> None:
    """Print how often an image was lost, by kind of scan and of displacement."""
    head = [
        'scans', 'displacement', 'images', 'lost, not flagged', 'lost, flagged',
        'right, flagged', 'median (mm)', 'worst right (mm)', 'worst (mm)', 'seconds an image',
    ]  # fmt: skip
    for strategy in STRATEGIES:
        rows = []
        mine = [row for row in study.rows if _belongs(row, strategy)]
        for kind in dict.fromkeys(row['kind'] for row in mine):
            for name in DISPLACEMENTS:
                chosen = [r for r in mine if r['kind'] == kind and r['displacement'] == name]
                if chosen:
                    rows.append([kind, name, *_counts(chosen)])
        if rows:
            rows.append(['all', '', *_counts(mine)])
            table(f'Displaced images, {strategy}', head, rows)
    _report_plain(study)
    _report_lost(study)


def _belongs(row: dict[str, str], strategy: str) -> bool:
    wanted = row['strategy'] == strategy and row['displacement'] != 'none'
    return wanted and row['kind'] != 'phantoms'


def _report_plain(study: Study) -> None:
    """Print the statuses without displacement, and those on bottles."""
    rows = []
    for strategy in STRATEGIES:
        mine = [r for r in study.rows if r['strategy'] == strategy]
        for kind in dict.fromkeys(row['kind'] for row in mine):
            chosen = [r for r in mine if r['kind'] == kind]
            if kind != 'phantoms':
                chosen = [r for r in chosen if r['displacement'] == 'none']
            statuses = [row['status'] for row in chosen]
            count = [str(statuses.count(one)) for one in ('pass', 'check', 'fail', 'error')]
            rows.append([strategy, kind, str(len(chosen)), *count])
    head = ['strategy', 'scans', 'images', 'pass', 'check', 'fail', 'refused']
    table('Statuses without displacement (phantoms: with any)', head, rows)


def _report_lost(study: Study) -> None:
    keys = ('scan', 'image', 'strategy', 'displacement', 'number', 'distance_mm', 'status', 'z')
    lost = [
        [row[key] for key in keys]
        for row in study.rows
        if row['kind'] != 'phantoms' and not float(row['distance_mm']) <= LOST_MM
    ]
    table('Each image that was lost', list(keys), lost)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    for name, count in (('rigid', 12), ('storage', 6), ('origin', 4)):
        parser.add_argument(f'--{name}', type=int, default=count, metavar='N')
    parser.add_argument('--only', default='', help='scans whose kind or name holds this text')
    parser.add_argument('--strategies', nargs='+', choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/failures.tsv'))
    parser.add_argument('--report', action='store_true', help='print what is there, do nothing')
    options = parser.parse_args()
    study = Study.open(options.out)
    if not options.report:
        counts = {name: getattr(options, name) for name in DISPLACEMENTS}
        scans = [
            one for one in all_scans(options.data) if options.only in f'{one.kind} {one.name}'
        ]
        run(scans, study, counts, options.strategies)
    report(study)
    return 0


if __name__ == '__main__':
    sys.exit(main())
