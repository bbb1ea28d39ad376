"""Accuracy, robustness and cost of the builtin spatial engine on real scans.

Usage::

    python benchmarks/spatial.py [--data FOLDER] [--displaced N] [--tissue-affine]

FOLDER (or the variable ``MSLESSEG_TEST_DATA``) holds ``ljubljana-bids`` with the authors'
transforms and brain masks in ``derivatives/reference``. Tables are printed as Markdown.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from scipy import ndimage as ndi
from scipy.spatial.transform import Rotation

from mslesseg_app.spatial import exam_alignment as exams
from mslesseg_app.spatial import pose, search
from mslesseg_app.spatial.affines import apply_affine, compose, invert, read_itk
from mslesseg_app.spatial.bias import correct_bias
from mslesseg_app.spatial.brain import brain_mask
from mslesseg_app.spatial.registration import ImagePair
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, load_template

MODALITIES = ('FLAIR', 'T1w', 'T2w')


@dataclass
class Exam:
    """The images of one session and, where they exist, the authors' results for them."""

    root: Path
    subject: str
    session: str

    @property
    def name(self) -> str:
        return f'{self.subject} {self.session}'

    def images(self) -> dict[str, Any]:
        stem = self.root / self.subject / self.session / 'anat' / f'{self.subject}_{self.session}'
        paths = {name: Path(f'{stem}_{name}.nii.gz') for name in MODALITIES}
        return {name: nb.load(path) for name, path in paths.items() if path.exists()}

    def transform(self, moving: str, target: str) -> np.ndarray:
        """The authors' affine: points of the target to points of the moving image."""
        folder = self.root / 'derivatives' / 'reference' / self.subject / self.session / 'anat'
        stem = f'{self.subject}_{self.session}_from-{moving}_to-{target}'
        return read_itk(folder / f'{stem}_mode-image_xfm.txt')

    def mask(self) -> Any | None:
        """The authors' brain mask, in the common space of both sessions."""
        folder = self.root / 'derivatives' / 'reference' / self.subject / 'anat'
        path = folder / f'{self.subject}_space-common_desc-brain_mask.nii.gz'
        return nb.load(path) if path.exists() else None


def find_exams(root: Path) -> Iterator[Exam]:
    for folder in sorted(root.glob('sub-*/ses-*')):
        yield Exam(root, folder.parent.name, folder.name)


def distance(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(apply_affine(first, points) - apply_affine(second, points), axis=-1)


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f'\n### {title}\n')
    print('| ' + ' | '.join(head) + ' |')
    print('|' + '---|' * len(head))
    for row in rows:
        print('| ' + ' | '.join(row) + ' |', flush=True)


# --------------------------------------------------------------------------- accuracy


def brain_points(exam: Exam) -> np.ndarray | None:
    """Points (mm) of the authors' brain mask in the FLAIR's space."""
    mask = exam.mask()
    if mask is None:
        return None
    voxels = np.argwhere(np.asarray(mask.dataobj) > 0)[::50]
    return apply_affine(exam.transform('FLAIR', 'common'), apply_affine(mask.affine, voxels))


def within_session(exam: Exam, found: exams.ExamAlignment) -> Iterator[tuple[str, list[float]]]:
    """Mean distance from the authors' transform: header, ours, ours at worst."""
    points = brain_points(exam)
    flair_from_mni = found.moving_from_mni.get('FLAIR')
    if points is None or flair_from_mni is None:
        return
    for name in ('T1w', 'T2w'):
        if name in found.moving_from_mni:
            theirs = exam.transform(name, 'FLAIR')
            ours = compose(found.moving_from_mni[name], invert(flair_from_mni))
            off = distance(ours, theirs, points)
            header = distance(np.eye(4), theirs, points)
            yield name, [float(header.mean()), float(off.mean()), float(off.max())]


def surface_distance(first: np.ndarray, second: np.ndarray) -> float:
    """95th percentile of the distances (mm) between the surfaces of two masks, the larger."""
    edges = [mask & ~ndi.binary_erosion(mask) for mask in (first, second)]
    there = ndi.distance_transform_edt(~edges[1])[edges[0]]
    back = ndi.distance_transform_edt(~edges[0])[edges[1]]
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def mask_scores(exam: Exam, flair_from_mni: np.ndarray, ours: np.ndarray) -> list[float] | None:
    """Dice and 95 % Hausdorff distance to the authors' mask, on the template grid."""
    mask = exam.mask()
    if mask is None:
        return None
    common_from_mni = compose(invert(exam.transform('FLAIR', 'common')), flair_from_mni)
    binary = nb.Nifti1Image((np.asarray(mask.dataobj) > 0).astype(np.float32), mask.affine)
    moved = resample(binary, TEMPLATE_SHAPE, TEMPLATE_AFFINE, common_from_mni)
    theirs = np.asarray(moved.dataobj) > 0.5
    dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
    return [float(dice), surface_distance(ours, theirs)]


@dataclass
class Result:
    exam: Exam
    images: dict[str, Any]
    found: exams.ExamAlignment
    masks: dict[str, np.ndarray]
    seconds: dict[str, float]


def process(exam: Exam) -> Result:
    """Run the engine on an exam as the App does; mask from all images and from FLAIR alone."""
    seconds: dict[str, float] = {}
    clock, cpu = time.perf_counter(), time.process_time()
    images = {name: correct_bias(img) for name, img in exam.images().items()}
    seconds['bias'] = time.perf_counter() - clock
    clock = time.perf_counter()
    found = exams.align_exam(images)
    seconds['align'] = time.perf_counter() - clock
    clock = time.perf_counter()
    moved = {
        name: resample(img, TEMPLATE_SHAPE, TEMPLATE_AFFINE, found.moving_from_mni[name])
        for name, img in images.items()
    }
    masks = {'all': np.asarray(brain_mask(moved).dataobj) > 0}
    seconds['mask'] = time.perf_counter() - clock
    seconds['cpu'] = time.process_time() - cpu
    for name, img in moved.items():
        masks[name] = np.asarray(brain_mask({name: img}).dataobj) > 0
    return Result(exam, images, found, masks, seconds)


def print_results(results: list[Result]) -> None:
    rows, ours = [], []
    for one in results:
        for name, numbers in within_session(one.exam, one.found):
            rows.append([one.exam.name, name, *(f'{value:.2f}' for value in numbers)])
            ours.append(numbers[1])
    rows.append(['median', '', '', f'**{np.median(ours):.2f}**', ''])
    rows.append(['worst', '', '', f'**{max(ours):.2f}**', ''])
    head = ['exam', 'to FLAIR', 'header (mm)', 'ours, mean (mm)', 'ours, largest (mm)']
    table("Within a session: distance from the authors' affine over their brain mask", head, rows)
    table(
        "Brain mask against the authors': Dice / 95 % Hausdorff distance (mm)",
        ['exam', 'all images', *(f'{name} only' for name in MODALITIES)],
        [row for one in results if (row := _mask_row(one))],
    )
    rows = []
    for one in results:
        times = [f'{one.seconds[key]:.1f}' for key in ('bias', 'align', 'mask', 'cpu')]
        rows.append([one.exam.name, str(len(one.found.moving_from_mni)), *times])
    head = ['exam', 'images', 'N4 (s)', 'alignment (s)', 'resampling and mask (s)', 'CPU, all (s)']
    table('Time per exam', head, rows)


def _mask_row(one: Result) -> list[str] | None:
    row = [one.exam.name]
    for name in ('all', *MODALITIES):
        scores = name in one.masks and mask_scores(
            one.exam, one.found.moving_from_mni['FLAIR'], one.masks[name]
        )
        if scores is None:
            return None
        row.append(f'{scores[0]:.3f} / {scores[1]:.1f}' if scores else '')
    return row


def print_quality(results: list[Result]) -> None:
    keys = ('z', 'peak', 'nmi', 'overlap', 'scale_x', 'scale_y', 'scale_z', 'shear')
    rows = []
    for one in results:
        for name, numbers in one.found.quality.items():
            status = 'fail' if name in one.found.failed else one.found.reasons.get(name, 'pass')
            anchor = ' (anchor)' if name == one.found.anchor else ''
            rows.append(
                [one.exam.name, name + anchor, *(f'{numbers[key]:.2f}' for key in keys), status]
            )
    table('Alignment check', ['exam', 'image', *keys, 'status'], rows)


def print_between(results: list[Result]) -> None:
    """FLAIR of one session to FLAIR of the other, against the authors' common space."""
    rows = []
    by_subject: dict[str, list[Result]] = {}
    for one in results:
        by_subject.setdefault(one.exam.subject, []).append(one)
    for subject, pair in by_subject.items():
        if len(pair) == 2 and pair[0].exam.mask() is not None:
            points = brain_points(pair[0].exam)
            ours, theirs = (
                compose(second, invert(first))
                for first, second in (
                    [one.found.moving_from_mni['FLAIR'] for one in pair],
                    [one.exam.transform('FLAIR', 'common') for one in pair],
                )
            )
            off = distance(ours, theirs, points)
            rows.append([subject, *(f'{value:.2f}' for value in (off.mean(), off.max()))])
    table('Between studies: FLAIR to FLAIR', ['subject', 'mean (mm)', 'largest (mm)'], rows)


# ------------------------------------------------------------------------- robustness


def displace(
    img: Any, random: np.random.Generator, degrees: float = 40, mm: float = 60
) -> tuple[Any, np.ndarray]:
    """Turn by up to so many degrees about each axis and shift by up to so many mm along each."""
    move = np.eye(4)
    turn = Rotation.from_euler('xyz', random.uniform(-degrees, degrees, 3), degrees=True)
    centre = apply_affine(img.affine, np.array(img.shape) / 2)
    move[:3, :3] = turn.as_matrix()
    move[:3, 3] = centre - move[:3, :3] @ centre + random.uniform(-mm, mm, 3)
    return nb.Nifti1Image(np.asarray(img.dataobj, dtype=np.float32), move @ img.affine), move


def print_displaced(results: list[Result], count: int, seed: int) -> None:
    """Displace every image on its own and compare with the undisplaced result."""
    random = np.random.default_rng(seed)
    brain = np.argwhere(np.asarray(load_template().mask.dataobj) > 0)[::800]
    points = apply_affine(TEMPLATE_AFFINE, brain)
    rows = []
    for one in results:
        offs, lost, silent = [], 0, 0
        for _ in range(count):
            moved = {name: displace(img, random) for name, img in one.images.items()}
            found = exams.align_exam({name: img for name, (img, _) in moved.items()})
            for name, (_, move) in moved.items():
                back = compose(invert(move), found.moving_from_mni[name])
                off = float(distance(back, one.found.moving_from_mni[name], points).mean())
                offs.append(off)
                lost += off > 2
                silent += off > 2 and name not in found.reasons
        numbers = [f'{np.median(offs):.2f}', f'{max(offs):.2f}', str(lost), str(silent)]
        rows.append([one.exam.name, str(len(offs)), *numbers])
    head = ['exam', 'displaced images', 'median (mm)', 'worst (mm)', 'off by > 2 mm', 'unflagged']
    table(f'Displaced headers (±40°, ±60 mm, each image on its own, seed {seed})', head, rows)


# ------------------------------------------------------------------ the tissue maps' affine


def print_tissue_affine() -> None:
    """Find ``ICBM2009A_FROM_TEMPLATE`` again."""
    from nilearn import datasets

    brain = datasets.load_mni152_template(resolution=1)
    template = load_template()
    pair = ImagePair(brain, exams.template_reference(1))
    affine = np.eye(4)
    for size in (4.0, 2.5, 2.0):
        affine = search.refine(*pair.level(size), affine, 12, iterations=80).affine
    inside = np.asarray(template.mask.dataobj) > 0
    print('\n### Affine of the tissue maps from the template\n')
    print(np.array2string(affine, precision=6, suppress_small=True, separator=', '))
    for name, one in (('identity', np.eye(4)), ('affine', affine)):
        moved = resample(brain, TEMPLATE_SHAPE, TEMPLATE_AFFINE, one).get_fdata()
        mask = moved > 0.01 * moved.max()
        correlation = np.corrcoef(moved[inside], template.brain.get_fdata()[inside])[0, 1]
        dice = 2 * (mask & inside).sum() / (mask.sum() + inside.sum())
        print(f'{name}: correlation {correlation:.3f}, Dice of the masks {dice:.3f}')
    print(f'scales {np.round(pose.describe(affine).scales, 3).tolist()}')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--displaced', type=int, default=0, metavar='N', help='N times an exam')
    parser.add_argument('--seed', type=int, default=1, help='of the displacements')
    parser.add_argument('--tissue-affine', action='store_true')
    options = parser.parse_args()
    if options.tissue_affine:
        print_tissue_affine()
        return 0
    if options.data is None or not (options.data / 'ljubljana-bids').is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    results = [process(exam) for exam in find_exams(options.data / 'ljubljana-bids')]
    print_results(results)
    print_between(results)
    print_quality(results)
    if options.displaced:
        print_displaced(results, options.displaced, options.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f'\nPeak memory {peak:.1f} GiB.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
