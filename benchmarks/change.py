"""Change between two sessions: against experts' masks, on pairs without change, and planted.

Usage: ``python benchmarks/change.py [--data DIR] [--out DIR] [--model NAME] [--only PART ...]``

DIR (or the variable ``MSLESSEG_TEST_DATA``) holds ``ljubljana-bids`` with the authors' masks of
lesion change and their transforms in ``derivatives/reference``, and ``ms3seg-bids``. The App is
run on both data sets into ``--out``, unless its results are there. Parts:

- ``real``: the limits are chosen for each patient on the other one (two folds), and the map of
  change is compared with the authors' mask in their common space;
- ``rescan``: pairs made of one exam, the second one moved, on other slice positions, of other
  contrast and with noise; and two sessions of one person, where the data hold them. All change
  is false;
- ``planted``: the same with lesions of 30 to 100 mm³ planted in white matter of the second one,
  at the contrast of real ones.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mslesseg_app.cli.main import main as mslesseg
from mslesseg_app.lesions.difference import (
    ChangeLimits,
    Difference,
    compute_difference,
    find_changes,
)
from mslesseg_app.metrics.change import evaluate_change
from mslesseg_app.spatial.affines import compose, invert, read_itk
from mslesseg_app.spatial.matching import HalfWay, of_other_images, to_half_way
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.subject_alignment import align_pair

SUBJECTS = ('LJ01', 'LJ12')
#: Limits that are tried: extent, seed (standard deviations), smallest volume (mm³).
GRID = tuple(ChangeLimits(s, e, v) for e, s, v in product((3, 4, 5), (5, 6, 7), (15, 24)))
#: Move, slice shift (voxels), exponent of the contrast and noise (share of the median).
RESCANS = (
    ((2.0, 1.0, -1.0), 2.0, 0.5, 1.0, 0.02),
    ((-1.0, 2.0, 1.5), -3.0, 0.25, 0.8, 0.03),
    ((0.5, -2.0, 2.0), 1.0, 0.0, 1.2, 0.04),
)
LESION_CONTRAST = 0.25


class Exam:
    """What the App left of an exam."""

    def __init__(self, out: Path, subject: str, session: str) -> None:
        self.folder = out / f'sub-{subject}' / f'ses-{session}' / 'anat'
        self.stem = f'sub-{subject}_ses-{session}'

    def file(self, name: str) -> Path:
        return self.folder / f'{self.stem}_{name}.nii.gz'

    def load(self, name: str) -> Any:
        return nb.load(self.file(name))

    @property
    def flair(self) -> Any:
        return self.load('desc-preproc_FLAIR')

    @property
    def brain(self) -> Any:
        return self.load('desc-brain_mask')

    def from_mni(self, image: str) -> np.ndarray:
        name = f'{self.stem}_from-{image}_to-MNI152NLin6Asym_mode-image_xfm.txt'
        return read_itk(self.folder / name)


def prepare(data: Path, out: Path, model: str, subjects: tuple[str, ...]) -> None:
    """Run the App on subjects whose results are missing."""
    if all((out / f'sub-{one}' / 'ses-2' / 'anat').is_dir() for one in subjects):
        return
    command = [str(data), str(out), 'participant', '-w', str(out.with_name('work'))]
    command += ['--model', model, '--skip-bids-validation', '-q']
    code = mslesseg([*command, '--participant-label', *subjects])
    if code:
        raise SystemExit(code)


def compare(before: Exam, after: Exam, t2w: bool = True) -> tuple[Difference, float]:
    """Align two sessions and compute their difference; returns the seconds too."""
    clock = time.perf_counter()
    flairs = [before.flair, after.flair]
    move = align_pair(flairs, [one.from_mni('FLAIR') for one in (before, after)])
    pair = to_half_way(*flairs, before.brain, after.brain, move)
    others = {}
    if t2w and all(one.file('desc-preproc_T2w').is_file() for one in (before, after)):
        from_flair = [
            compose(one.from_mni('T2w'), invert(one.from_mni('FLAIR'))) for one in (before, after)
        ]
        images = [one.load('desc-preproc_T2w') for one in (before, after)]
        others['T2w'] = of_other_images(pair, images, from_flair)
    return compute_difference(pair, others), time.perf_counter() - clock


def reference_of(root: Path, subject: str, pair: HalfWay) -> np.ndarray:
    """Return the authors' mask of change on the half-way grid."""
    folder = root / f'sub-{subject}'
    name = f'sub-{subject}_space-common_desc-lesionchange_mask.nii.gz'
    image = nb.load(folder / 'anat' / name)
    mask = nb.Nifti1Image((np.asarray(image.dataobj) > 0).astype(np.float32), image.affine)
    name = f'sub-{subject}_ses-2_from-FLAIR_to-common_mode-image_xfm.txt'
    flair_from_common = read_itk(folder / 'ses-2' / 'anat' / name)
    common_from_middle = compose(invert(flair_from_common), pair.after_from_middle)
    moved = resample(mask, pair.brain.shape, pair.affine, common_from_middle, 1)
    return np.asarray(moved.dataobj) >= 0.5


def quality(difference: Difference, limits: ChangeLimits, truth: np.ndarray) -> dict[str, Any]:
    """Compare the changes with the truth; numbers of all change, and of 30 mm³ and more."""
    changed = find_changes(difference, limits).labels > 0
    rows = evaluate_change(changed.astype(int), truth.astype(int), difference.pair.voxel_mm3)
    whole, large = (next(r for r in rows if r['size'] == size) for size in ('all', '30-'))
    return {
        'dsc': whole['dsc'],
        'false': whole['n_untouched'],
        'predicted': whole['n_predicted_26'],
        'touched': large['n_touched'],
        'reference': large['n_reference_26'],
        'found': large['n_found'],
        'of': large['n_reference'],
        'ml': whole['volume_predicted_ml'],
    }


def worth(found: dict[str, Any]) -> float:
    """Weigh Dice, lesions found and false discoveries, as the choice of limits does."""
    missed = 1 - found['touched'] / max(1, found['reference'])
    return float(found['dsc'] - 0.5 * missed - 0.5 * found['false'] / max(1, found['predicted']))


def shown(difference: Difference, truth: np.ndarray) -> int:
    """Count reference lesions of 30 mm³ and more that differ by 2 SD or more on average."""
    labels, count = ndimage.label(truth, np.ones((3, 3, 3)))
    numbers = np.arange(1, count + 1)
    size = np.bincount(labels.ravel(), minlength=count + 1)[1:] * difference.pair.voxel_mm3
    mean = np.abs(ndimage.mean(difference.z, labels, numbers))
    return int(np.count_nonzero((size >= 30) & (mean >= 2)))


def real(data: Path, out: Path, model: str) -> Iterator[list[Any]]:
    """Yield rows a patient: FLAIR alone and with T2w, default limits and the other's best."""
    bids = data / 'ljubljana-bids'
    prepare(bids, out, model, SUBJECTS)
    for t2w in (False, True):
        done = {}
        for subject in SUBJECTS:
            exams = (Exam(out, subject, session) for session in ('1', '2'))
            difference, seconds = compare(*exams, t2w=t2w)
            truth = reference_of(bids / 'derivatives' / 'reference', subject, difference.pair)
            found = [quality(difference, limits, truth) for limits in GRID]
            done[subject] = found, shown(difference, truth), difference.images, seconds
        for subject in SUBJECTS:
            (other,) = set(SUBJECTS) - {subject}
            place = int(np.argmax([worth(one) for one in done[other][0]]))
            rows, visible, images, seconds = done[subject]
            for name, number in (('chosen on the other', place), ('default', default_place())):
                one, limits = rows[number], GRID[number]
                yield [
                    subject, ', '.join(images), name,
                    f'{limits.extent:g}/{limits.seed:g}/{limits.min_volume:g}',
                    one['dsc'], f'{one["touched"]}/{one["reference"]}', visible,
                    f'{one["found"]}/{one["of"]}', f'{one["false"]}/{one["predicted"]}',
                    one['ml'], seconds,
                ]  # fmt: skip


def default_place() -> int:
    return GRID.index(ChangeLimits())


def scanned_again(
    exam: Exam, number: int, rng: np.random.Generator, plant: np.ndarray | None = None
) -> tuple[HalfWay, np.ndarray]:
    """Return an exam and the same moved, on other slices, of other contrast, with noise."""
    shift, degrees, slices, power, noise = RESCANS[number]
    flair, brain = exam.flair, exam.brain
    data = np.asarray(flair.dataobj, dtype=np.float32)
    level = float(np.median(data[np.asarray(brain.dataobj) > 0]))
    if plant is not None:
        data = data + LESION_CONTRAST * level * plant
    move = np.eye(4)
    centre = nb.affines.apply_affine(flair.affine, np.array(flair.shape) / 2)
    move[:3, :3] = Rotation.from_euler('xyz', np.array([1, -0.5, 1]) * degrees, True).as_matrix()
    move[:3, 3] = centre - move[:3, :3] @ centre + shift
    affine = flair.affine.copy()
    affine[:3, 3] += slices * affine[:3, 2]
    moved = nb.Nifti1Image(data, flair.affine)
    after = np.asarray(resample(moved, flair.shape, affine, invert(move), 3).dataobj)
    bent = level * np.clip(after / level, 0, None) ** power
    real_part = bent + noise * level * rng.standard_normal(after.shape)
    imaginary = noise * level * rng.standard_normal(after.shape)
    image = nb.Nifti1Image(np.hypot(real_part, imaginary).astype(np.float32), affine)
    mask = resample(brain, flair.shape, affine, invert(move), 'nearest')
    return to_half_way(flair, image, brain, mask, move), move


def false_change(difference: Difference) -> list[Any]:
    regions = find_changes(difference, ChangeLimits())
    volume = np.count_nonzero(regions.labels) * difference.pair.voxel_mm3 / 1000
    matched = difference.matched
    return [regions.count, float(volume), matched.correlation, matched.width_mm]


def rescan(data: Path, out: Path, model: str) -> Iterator[list[Any]]:
    """Yield one row per pair without change."""
    prepare(data / 'ljubljana-bids', out, model, SUBJECTS)
    for subject, number in product(SUBJECTS, range(len(RESCANS))):
        rng = np.random.default_rng(number)
        pair, _ = scanned_again(Exam(out, subject, '1'), number, rng)
        yield [f'{subject}, made {number + 1}', *false_change(compute_difference(pair))]
    if (data / 'ms3seg-bids').is_dir():
        prepare(data / 'ms3seg-bids', out, model, ('T112776',))
        difference, _ = compare(Exam(out, 'T112776', '1'), Exam(out, 'T112776', '2'))
        yield ['T112776, two sessions', *false_change(difference)]


def planted(data: Path, out: Path, model: str) -> Iterator[list[Any]]:
    """Yield one row per exam: how many planted lesions are found."""
    prepare(data / 'ljubljana-bids', out, model, SUBJECTS)
    for subject in SUBJECTS:
        exam, rng = Exam(out, subject, '1'), np.random.default_rng(11)
        plant, centres = draw_lesions(exam, rng)
        pair, _ = scanned_again(exam, 0, rng, plant)
        regions = find_changes(compute_difference(pair), ChangeLimits())
        middle_from_flair = invert(compose(pair.before_from_middle, pair.affine))
        places = np.rint(nb.affines.apply_affine(middle_from_flair, centres)).astype(int)
        near = ndimage.maximum_filter(regions.labels, 3)
        found = sum(near[tuple(place)] > 0 for place in places)
        yield [subject, len(centres), int(found), found / len(centres), regions.count]


def draw_lesions(exam: Exam, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return ellipsoids of 30 to 100 mm³ in white matter, edges blurred by a voxel, and centres.

    White matter is what lies 12 mm within the brain at the commonest intensity of the FLAIR.
    """
    flair, mask = exam.flair, np.asarray(exam.brain.dataobj) > 0
    data = np.asarray(flair.dataobj, dtype=np.float32)
    size = np.linalg.norm(flair.affine[:3, :3], axis=0)
    deep = ndimage.distance_transform_edt(mask, sampling=size) > 12
    smooth = ndimage.gaussian_filter(data, 2 / size)
    level = float(np.median(data[mask]))
    places = np.argwhere(deep & (smooth > 0.85 * level) & (smooth < 1.08 * level))
    points = nb.affines.apply_affine(flair.affine, places)
    plant = np.zeros(flair.shape, np.float32)
    centres: list[np.ndarray] = []
    while len(centres) < 20:
        centre = points[rng.integers(len(points))]
        if any(np.linalg.norm(centre - one) < 15 for one in centres):
            continue
        radius = (3 * rng.uniform(30, 100) / (4 * np.pi)) ** (1 / 3)
        axes = radius * np.array([1.2, 1 / 1.2, 1.0])
        plant[_inside(flair, centre, axes)] = 1
        centres.append(centre)
    return ndimage.gaussian_filter(plant, 0.7 / size), np.array(centres)


def _inside(flair: Any, centre: np.ndarray, axes: np.ndarray) -> tuple[np.ndarray, ...]:
    middle = np.rint(nb.affines.apply_affine(invert(flair.affine), centre)).astype(int)
    offsets = np.argwhere(np.ones((17, 17, 7))) - (8, 8, 3)
    index = middle + offsets
    index = index[np.all((index >= 0) & (index < flair.shape), axis=1)]
    points = nb.affines.apply_affine(flair.affine, index) - centre
    return tuple(index[np.sum((points / axes) ** 2, axis=1) <= 1].T)


HEADS = {
    'real': ['patient', 'images', 'limits', 'extent/seed/mm³', 'DSC', 'lesions ≥ 30 mm³ touched',
             'differ by 2 SD', "found (MSSEG-2's rules)", 'false', 'change (ml)', 'time (s)'],
    'rescan': ['pair', 'false lesions', 'false change (ml)', 'correlation', 'smoothing (mm)'],
    'planted': ['patient', 'planted', 'found', 'share', 'regions in all'],
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--out', type=Path, default=Path('change-benchmark/out'))
    parser.add_argument('--model', default='hyperintensity')
    parser.add_argument('--only', nargs='+', choices=list(HEADS), default=list(HEADS))
    options = parser.parse_args()
    if options.data is None or not (Path(options.data) / 'ljubljana-bids').is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    parts = {'real': real, 'rescan': rescan, 'planted': planted}
    for name in options.only:
        head = HEADS[name]
        print('| ' + ' | '.join(head) + ' |\n|' + '---|' * len(head), flush=True)
        for row in parts[name](Path(options.data), options.out.absolute(), options.model):
            shown = [f'{v:.2f}' if isinstance(v, float) else str(v) for v in row]
            print('| ' + ' | '.join(shown) + ' |', flush=True)
        print()
    return 0


if __name__ == '__main__':
    sys.exit(main())
