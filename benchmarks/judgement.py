"""Does the check tell right alignments from wrong ones? Every scan, with planted failures.

Usage::

    python benchmarks/judgement.py [--data FOLDER] [--only TEXT] [--noise] [--out FILE]

The right alignments are those of the engine without displacement (each session ``anchored``).
Each is spoilt by a known move about the middle of the brain and judged again: mirrored, turned
by 180 and by 25 degrees, shifted by 30 mm, scaled by 1.3 and its inverse; and each image is
judged with the matrices of all other images of its kind, which are wrong by a known distance.
``--noise`` aligns images that hold no head. Rows go to FILE (tab-separated); the tables are
printed from it.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from _scans import Scans, all_scans
from failures import Study, align, brain_points, prepared, table
from scipy import ndimage as ndi

from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.spatial import exam_alignment as exam
from mslesseg_app.spatial import pose, quality
from mslesseg_app.spatial.affines import apply_affine
from mslesseg_app.spatial.exam_alignment import BRAIN_CENTRE
from mslesseg_app.spatial.similarity import shrink

COLUMNS = ('group', 'kind', 'scan', 'image', 'what', 'distance_mm', 'status', 'reason')
NUMBERS = ('z', 'peak', 'nmi', 'overlap', 'scale_x', 'scale_y', 'scale_z', 'shear')
#: Matrices of other images are wrong when they are further off than this (mm).
WRONG_MM = 10.0


def about_centre(vector: list[float]) -> np.ndarray:
    return pose.matrix(np.array(vector, dtype=float), np.array(BRAIN_CENTRE), np.eye(4))


def planted() -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield group, name, and the move that spoils an alignment."""
    yield 'mirrored', 'x', np.diag([-1.0, 1.0, 1.0, 1.0])
    for axis, name in enumerate('xyz'):
        turn, shift = np.zeros(6), np.zeros(6)
        turn[3 + axis] = np.pi * pose.RADIUS_MM
        yield 'turned by 180°', name, about_centre(list(turn))
        for sign in (1, -1):
            turn, shift = np.zeros(6), np.zeros(6)
            shift[axis] = 30.0 * sign
            turn[3 + axis] = np.radians(25.0) * pose.RADIUS_MM * sign
            yield 'shifted by 30 mm', f'{name} {sign:+d}', about_centre(list(shift))
            yield 'turned by 25°', f'{name} {sign:+d}', about_centre(list(turn))
    for scale in (1.3, 1 / 1.3):
        size = np.log(scale) * pose.RADIUS_MM
        yield 'scaled by 1.3 or 1/1.3', f'{scale:.2f}', about_centre([0.0] * 6 + [size])


def distance(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> float:
    off = apply_affine(first, points) - apply_affine(second, points)
    return float(np.linalg.norm(off, axis=1).mean())


def row_of(group: str, what: str, off: float, judged: quality.AlignmentCheck) -> dict[str, Any]:
    numbers = {key: f'{judged.numbers[key]:.4f}' for key in NUMBERS}
    status = {'status': judged.status, 'reason': judged.reason}
    return {'group': group, 'what': what, 'distance_mm': f'{off:.1f}', **status, **numbers}


def right_affines(scans: Scans, images: dict[str, Any], study: Study) -> dict[str, np.ndarray]:
    """Return the alignments without displacement, from the failure study where it has them."""
    found = study.plain(scans.name, 'anchored')
    if not found:
        result, _ = align(images, 'anchored')
        found = result.moving_from_mni if result else {}
    return found


def small(images: dict[str, Any]) -> dict[str, Any]:
    """Shrink the images as the check does first, so that it is done once."""
    return {name: nb.Nifti1Image(*shrink(img, 2.0)) for name, img in images.items()}


def judge_scans(scans: Scans, images: dict[str, Any], right: dict[str, Any]) -> Iterator[dict]:
    """Judge the right alignments of a session and the spoilt ones."""
    points = brain_points()
    for name, affine in right.items():
        key = {'kind': scans.kind, 'scan': scans.name, 'image': name}
        yield key | row_of('right', '', 0.0, quality.check_alignment(images[name], affine))
        for group, what, move in planted():
            off = distance(affine @ move, affine, points)
            yield key | row_of(
                group, what, off, quality.check_alignment(images[name], affine @ move)
            )


def others(scans: Scans, images: dict[str, Any], every: dict[tuple, np.ndarray]) -> Iterator[dict]:
    """Judge each image with the matrices of all other images of its kind."""
    points = brain_points()
    for name, img in images.items():
        right = every.get((scans.kind, scans.name, name))
        for (kind, other, image), affine in every.items():
            if right is None or kind != scans.kind or (other, image) == (scans.name, name):
                continue
            off = distance(affine, right, points)
            key = {'kind': kind, 'scan': scans.name, 'image': name}
            group = 'matrix of another image'
            yield key | row_of(
                group, f'{other} {image}', off, quality.check_alignment(img, affine)
            )


def headless() -> Iterator[tuple[str, nb.Nifti1Image]]:
    """Yield images that hold no head: noise, blurred noise, a ball, a ball in a shell."""
    random = np.random.default_rng(1)
    shape, affine = (120, 140, 110), np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = -0.75 * np.array(shape)
    noise = random.normal(size=shape).astype(np.float32)
    yield 'white noise', nb.Nifti1Image(np.abs(noise), affine)
    for width in (3, 6, 12):
        blurred = ndi.gaussian_filter(noise, width / 1.5)
        yield f'noise blurred by {width} mm', nb.Nifti1Image(blurred - blurred.min(), affine)
    grid = (np.indices(shape) - np.array(shape)[:, None, None, None] / 2) * 1.5
    for name, size in (('ball', (80, 80, 80)), ('egg', (68, 88, 66))):
        radius = np.sqrt(sum((axis / one) ** 2 for axis, one in zip(grid, size, strict=True)))
        solid = (radius < 0.9).astype(np.float32)
        yield name, nb.Nifti1Image(100 * solid + 2 * np.abs(noise), affine)
        shell = ((radius > 0.97) & (radius < 1.05)).astype(np.float32)
        data = 100 * solid + 140 * shell + 2 * np.abs(noise)
        yield f'{name} in a shell', nb.Nifti1Image(data.astype(np.float32), affine)
        lumps = ndi.gaussian_filter(noise, 4) * 60
        data = (100 + 12 * lumps / lumps.std()) * solid + 140 * shell
        yield f'{name} of lumps in a shell', nb.Nifti1Image(data.astype(np.float32), affine)


def judge_headless() -> Iterator[dict]:
    for name, img in headless():
        key = {'kind': 'no head', 'scan': name, 'image': ''}
        try:
            affine = exam.to_template(img, 1).moving_from_reference
        except MSLesSegError as error:
            yield key | {'group': 'no head', 'what': name, 'status': 'refused', 'reason': error}
            continue
        yield key | row_of('no head', name, np.nan, quality.check_alignment(img, affine))


# ------------------------------------------------------------------------------ tables


def print_tables(rows: list[dict[str, str]]) -> None:
    """Print statuses and the range of the numbers by group, and every miss."""
    lines = []
    for group, mine in groups(rows).items():
        statuses = [row['status'] for row in mine]
        count = [str(statuses.count(one)) for one in ('pass', 'check', 'fail')]
        lines.append([group, str(len(mine)), *count, *(span(mine, key) for key in NUMBERS[:2])])
        lines[-1] += [span(mine, 'overlap'), scales(mine)]
    head = ['alignments', 'n', 'pass', 'check', 'fail', 'z', 'peak', 'overlap', 'scales']
    table(
        'Alignment check: right alignments and planted failures (smallest to largest)', head, lines
    )
    keys = ('group', 'kind', 'scan', 'image', 'what', 'distance_mm', 'status', 'z', 'peak')
    missed = [row for group, mine in groups(rows).items() for row in mine if is_wrong(group, row)]
    table('Right ones that are flagged, wrong ones that are ok', list(keys), _cells(missed, keys))


def _cells(rows: list[dict[str, str]], keys: tuple[str, ...]) -> list[list[str]]:
    return [[row[key] for key in keys] for row in rows]


def groups(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Sort the rows; bottles and grids, and matrices that are nearly right, on their own."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        group = row['group']
        if row['kind'] == 'phantoms':
            group = 'scanned phantoms' if group == 'right' else ''
        elif group == 'right':
            group = f'right, {row["kind"]}'
        elif group == 'matrix of another image':
            close = float(row['distance_mm']) < WRONG_MM
            group += f', off by {"less" if close else "more"} than {WRONG_MM:g} mm'
        if group:
            found.setdefault(group, []).append(row)
    return dict(sorted(found.items(), key=lambda one: not one[0].startswith('right')))


def is_wrong(group: str, row: dict[str, str]) -> bool:
    if 'less than' in group:
        return False
    return (row['status'] == 'pass') != group.startswith('right')


def span(rows: list[dict[str, str]], key: str) -> str:
    values = [float(row[key]) for row in rows if row[key]]
    return f'{min(values):.2f} to {max(values):.2f}' if values else ''


def scales(rows: list[dict[str, str]]) -> str:
    values = [float(row[f'scale_{axis}']) for row in rows for axis in 'xyz' if row['scale_x']]
    return f'{min(values):.2f} to {max(values):.2f}' if values else ''


def collect(options: argparse.Namespace) -> Iterator[dict]:
    folder = Path('benchmarks/results')
    study, every = Study.open(options.alignments), {}
    chosen = [one for one in all_scans(options.data) if options.only in f'{one.kind} {one.name}']
    for one in chosen:
        images = prepared(one, folder / 'cache')
        right = right_affines(one, images, study)
        images = small(images)
        every |= {(one.kind, one.name, name): affine for name, affine in right.items()}
        yield from judge_scans(one, images, right)
    for one in chosen:
        if one.kind != 'phantoms':
            yield from others(one, small(prepared(one, folder / 'cache')), every)
    if options.noise:
        yield from judge_headless()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--only', default='', help='scans whose kind or name holds this text')
    parser.add_argument('--noise', action='store_true', help='also align images without a head')
    parser.add_argument('--report', action='store_true', help='print what is there, do nothing')
    results = Path('benchmarks/results')
    parser.add_argument('--alignments', type=Path, default=results / 'failures.tsv')
    parser.add_argument('--out', type=Path, default=results / 'judgement.tsv')
    options = parser.parse_args()
    if not options.report:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open('w', newline='') as file:
            writer = csv.DictWriter(
                file, COLUMNS + NUMBERS, delimiter='\t', lineterminator='\n', restval=''
            )
            writer.writeheader()
            for row in collect(options):
                writer.writerow(row)
                file.flush()
    with options.out.open(newline='') as file:
        print_tables(list(csv.DictReader(file, delimiter='\t')))
    return 0


if __name__ == '__main__':
    sys.exit(main())
