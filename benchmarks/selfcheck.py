"""Alarm rates of the self-check on good masks and on masks damaged on purpose, as Markdown.

Usage: ``python benchmarks/selfcheck.py FOLDER [FOLDER ...]``. Each folder is one exam on the 1 mm
template grid: FLAIR, brain mask (without one: where the FLAIR is positive), manual mask, and, if
there is one, the mask of a model. Names of the files are patterns, see ``--help``. Predicted masks
count as good ones: give out-of-fold predictions only.

Planted exams: ``--plant MASK [MASK ...]`` adds, for each folder, an exam with the lesions of these
masks (template grid) planted into its white matter in image space, up to ``--load`` ml.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nb
import numpy as np
from scipy import ndimage

from mslesseg_app.lesions.selfcheck import (
    EDGE_MM,
    SelfCheck,
    TissueSignal,
    compare,
    tissue_signal,
)

SMALL_ML = 0.1
REAL_LOAD_ML = 2.0
SHIFTS = {'shifted 6 mm': (6, 0, 0), 'shifted 8 mm': (0, 8, 0)}
HALVES = ('largest removed', 'left only', 'right only')
HALF = (0.35, 0.65)
"""Shares of the volume between which a mask counts as halved."""


@dataclass(frozen=True)
class Exam:
    name: str
    flair: np.ndarray
    brain: np.ndarray
    mask: np.ndarray
    prediction: np.ndarray | None = None


def read(folder: Path, pattern: str, needed: bool = True) -> np.ndarray | None:
    found = sorted(folder.glob(pattern))
    if not found and not needed:
        return None
    if len(found) != 1:
        raise SystemExit(f'{folder}: {len(found)} files match {pattern}; one is needed.')
    return np.asarray(nb.load(found[0]).dataobj)


def read_exam(folder: Path, names: argparse.Namespace) -> Exam:
    flair, mask = read(folder, names.flair), read(folder, names.mask)
    assert flair is not None
    assert mask is not None
    brain = read(folder, names.brain, needed=False)
    prediction = read(folder, names.prediction, needed=False)
    return Exam(
        folder.name,
        np.asarray(flair, np.float32),
        flair > 0 if brain is None else brain > 0,
        mask > 0,
        None if prediction is None else prediction > 0,
    )


def planted(exam: Exam, sources: list[np.ndarray], load_ml: float) -> Exam:
    """Return an exam with lesions of others in its white matter: soft edges, own texture."""
    from mslesseg_app.spatial.template import tissue_prior

    rng = np.random.default_rng(1)
    white = exam.brain & (tissue_prior('wm') > 0.5) & (exam.flair > 0)
    values = exam.flair[white]
    dark = 0.6 * np.median(values)
    room = white & (exam.flair > dark) & ~ndimage.binary_dilation(exam.mask)
    labels, count = ndimage.label(np.any(sources, axis=0) & room)
    order = np.argsort(-np.bincount(labels.ravel(), minlength=count + 1)[1:]) + 1
    volumes = np.cumsum([(labels == n).sum() / 1000 for n in order[:200]])
    chosen = order[: int(np.searchsorted(volumes, load_ml)) + 1]
    spread = np.subtract(*np.percentile(exam.flair[exam.brain], (84, 16))) / 2
    height = np.zeros(count + 1)
    height[chosen] = rng.uniform(0.9, 2.4, len(chosen)) * spread
    texture = ndimage.gaussian_filter(rng.normal(size=labels.shape), 2)
    edge = ndimage.gaussian_filter(height[labels], 0.8)
    image = exam.flair + exam.brain * edge * (1 + 0.2 * texture / texture.std())
    mask = exam.mask | np.isin(labels, chosen)
    return Exam(f'{exam.name}, planted', image.astype(np.float32), exam.brain, mask)


def without_small(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1) / 1000
    sizes[0] = 0
    return (sizes >= SMALL_ML)[labels]


def without_largest(mask: np.ndarray) -> np.ndarray:
    """Remove the largest lesions until half of the volume is gone."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    gone, kept = 0, mask.copy()
    for number in np.argsort(-sizes):
        if gone >= 0.5 * mask.sum():
            break
        kept &= labels != number
        gone += sizes[number]
    return kept


def good_masks(exam: Exam) -> Iterator[tuple[str, np.ndarray]]:
    yield 'manual', exam.mask
    yield 'eroded 1 voxel', ndimage.binary_erosion(exam.mask)
    yield 'dilated 1 voxel', ndimage.binary_dilation(exam.mask)
    yield 'small lesions missing', without_small(exam.mask)
    if exam.prediction is not None:
        yield 'predicted', exam.prediction


def bad_masks(exam: Exam, signal: TissueSignal) -> Iterator[tuple[str, np.ndarray]]:
    mask = exam.mask
    yield 'empty', np.zeros_like(mask)
    left = np.arange(mask.shape[0])[:, None, None] > 90
    for name, half in zip(HALVES, (without_largest(mask), mask & left, mask & ~left), strict=True):
        if HALF[0] <= half.sum() / max(mask.sum(), 1) <= HALF[1] or name == HALVES[0]:
            yield name, half
    for name, shift in SHIFTS.items():
        yield name, np.roll(mask, shift, axis=(0, 1, 2))
    bright = (signal.z > 1) & signal.seen
    yield 'threshold too low', np.kron(bright, np.ones((int(EDGE_MM),) * 3, bool))


def results(exam: Exam) -> Iterator[tuple[str, str, SelfCheck]]:
    signal = tissue_signal(exam.flair, exam.brain)
    for kind, masks in (('good', good_masks(exam)), ('bad', bad_masks(exam, signal))):
        for name, mask in masks:
            yield kind, name, compare(signal, mask)


def row(*cells: object) -> None:
    print('| ' + ' | '.join(map(str, cells)) + ' |', flush=True)


def number(value: float | None) -> str:
    return 'n/a' if value is None else f'{value:.2f}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folders', nargs='+', type=Path)
    parser.add_argument('--flair', default='*FLAIR.nii*')
    parser.add_argument('--brain', default='*brain*.nii*')
    parser.add_argument('--mask', default='*MASK.nii*')
    parser.add_argument('--prediction', default='*prediction*.nii*')
    parser.add_argument('--plant', nargs='*', type=Path, default=[])
    parser.add_argument('--load', type=float, default=60.0)
    options = parser.parse_args()
    sources = [np.asarray(nb.load(path).dataobj) > 0 for path in options.plant]
    alarms: dict[tuple[str, str], list[tuple[float, str]]] = {}
    row('exam', 'ml', 'mask', 'hyperintense ml', 'outside ml', 'share', 'status')
    row(*['---'] * 7)
    for folder in options.folders:
        exam = read_exam(folder, options)
        exams = [exam, planted(exam, sources, options.load)] if sources else [exam]
        for each in exams:
            load = float(each.mask.sum()) / 1000
            for kind, name, found in results(each):
                numbers = (found.hyperintense_ml, found.outside_ml, found.share)
                row(each.name, f'{load:.1f}', name, *map(number, numbers), found.status)
                alarms.setdefault((kind, name), []).append((load, found.status))
    print()
    row('kind', 'mask', f'alarms, {REAL_LOAD_ML:g} ml and more', 'alarms, below')
    row(*['---'] * 4)
    for (kind, name), found_all in alarms.items():
        parts = []
        for real in (True, False):
            status = [s for load, s in found_all if (load >= REAL_LOAD_ML) == real]
            parts.append(f'{sum(s != "pass" for s in status)} of {len(status)}')
        row(kind, name, *parts)
    return 0


if __name__ == '__main__':
    sys.exit(main())
