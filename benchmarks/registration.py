"""The package's registration beside SimpleITK's, as it is usually set up, on the same images.

Usage::

    python benchmarks/registration.py [--data FOLDER] [--only TEXT]

SimpleITK: Mattes mutual information (32 bins), linear interpolation, three resolutions (8, 4 and
2 mm, each axis by its own factor), regular steps down the gradient, scales from the physical
shift; Euler3D from the headers within a session, without a mask, which helped it in a trial;
Euler3D from the centres of mass (8 and 4 mm) and then affine to the template, within the region
that the package uses, too. Both methods see the same images, without bias correction,
and use one thread.

Within a session: T1w and T2w to the FLAIR. Of ``ljubljana-bids`` the authors' affines are known;
the images of ``ms3seg-bids`` lie on the grid of the FLAIR: each is displaced by a rigid move of
up to 10 mm and 10 degrees, which is to be found again. To the template: FLAIRs, judged by two
numbers that neither method optimises: Dice of the people's brain mask with the template's, and
the correlation of the T1w with the template's brain.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import SimpleITK as sitk
from beside import LPS, at_level, to_affine, to_itk
from spatial import Exam, displace, distance, table

from mslesseg_app.spatial import exam_alignment as exams
from mslesseg_app.spatial.affines import apply_affine, compose
from mslesseg_app.spatial.registration import align
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, load_template

METHODS = ('package', 'SimpleITK')
LEVELS_MM = (8.0, 4.0, 2.0)
#: Farther off than this (mm), or worse than the other by so much, an alignment is lost.
LOST_MM, LOST_DICE = 3.0, 0.05


@dataclass
class Subject:
    """The images of one exam, and what its dataset knows of them."""

    name: str
    images: dict[str, Any]
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    brain: Any | None = None


def subjects(data: Path) -> Iterator[Subject]:
    for folder in sorted((data / 'ljubljana-bids').glob('sub-*/ses-*')):
        exam = Exam(data / 'ljubljana-bids', folder.parent.name, folder.name)
        truth = {name: exam.transform(name, 'FLAIR') for name in exam.images() if name != 'FLAIR'}
        yield Subject(exam.name, exam.images(), truth, _common_mask(exam))
    random = np.random.default_rng(1)
    for flair in sorted((data / 'ms3seg-bids').glob('sub-*/**/anat/*_FLAIR.nii.gz')):
        stem = flair.name.removesuffix('_FLAIR.nii.gz')
        images, truth = {'FLAIR': nb.load(flair)}, {}
        for name in ('T1w', 'T2w'):
            path = flair.with_name(f'{stem}_{name}.nii.gz')
            if path.is_file():
                images[name], truth[name] = displace(nb.load(path), random, 10, 10)
        place = flair.parent.relative_to(data / 'ms3seg-bids')
        mask = data / 'ms3seg-bids/derivatives/manual' / place
        mask /= f'{stem}_space-orig_desc-brain_mask.nii.gz'
        brain = nb.load(mask) if mask.is_file() else None
        yield Subject(stem.replace('_', ' '), images, truth, brain)


def _common_mask(exam: Exam) -> Any | None:
    """Return the authors' brain mask in the space of the FLAIR, by the header alone."""
    mask = exam.mask()
    if mask is None:
        return None
    return nb.Nifti1Image(
        np.asarray(mask.dataobj, dtype=np.float32),
        exam.transform('FLAIR', 'common') @ mask.affine,
    )


# -------------------------------------------------------------------------- SimpleITK


def improved(
    fixed: Any, moving: Any, mask: Any | None, transform: Any, levels: Sequence[float] = LEVELS_MM
) -> Any:
    """Improve a transform in place, from coarse to fine."""
    for size_mm in levels:
        one = sitk.ImageRegistrationMethod()
        one.SetMetricAsMattesMutualInformation(32)
        if mask is not None:
            one.SetMetricFixedMask(mask)
        one.SetMetricSamplingStrategy(one.REGULAR)
        one.SetMetricSamplingPercentage(min(1.0, 0.02 * size_mm**2))
        one.SetInterpolator(sitk.sitkLinear)
        one.SetOptimizerAsRegularStepGradientDescent(size_mm / 4, 0.01, 100)
        one.SetOptimizerScalesFromPhysicalShift()
        one.SetInitialTransform(transform, inPlace=True)
        one.Execute(at_level(fixed, size_mm), at_level(moving, size_mm))
    return transform


def itk_rigid(fixed: Any, moving: Any) -> Any:
    """Start from where the headers say the images are."""
    images = to_itk(fixed), to_itk(moving)
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(apply_affine(LPS @ fixed.affine, np.array(fixed.shape) / 2).tolist())
    return improved(*images, None, rigid)


def itk_affine(fixed: Any, moving: Any, region: Any) -> Any:
    """Start from the centres of mass; rigidly first."""
    images, mask = (to_itk(fixed), to_itk(moving)), sitk.Cast(to_itk(region), sitk.sitkUInt8)
    start = sitk.CenteredTransformInitializer(
        *images, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    rigid = improved(*images, mask, sitk.Euler3DTransform(start), LEVELS_MM[:2])
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return improved(*images, mask, affine)


# --------------------------------------------------------------------------- measuring


def timed(call: Callable[[], Any]) -> tuple[np.ndarray | None, float]:
    """Return what a call finds, None where it fails, and its processor seconds."""
    began = time.process_time()
    try:
        found = call()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        found = None
    seconds = time.process_time() - began
    return (to_affine(found) if isinstance(found, sitk.Transform) else found), seconds


def to_template(one: Subject) -> dict[str, tuple[np.ndarray | None, float]]:
    """Return the FLAIR's affine from the template by each method."""
    flair = exams.in_memory(one.images['FLAIR'])
    brain, region = load_template().brain, exams.search_region()
    return {
        'package': timed(lambda: exams.to_template(flair, 1).moving_from_reference),
        'SimpleITK': timed(lambda: itk_affine(brain, flair, region)),
    }


def within(
    one: Subject, flair_from_mni: np.ndarray, names: Sequence[str]
) -> Iterator[tuple[str, dict[str, tuple[np.ndarray | None, float]]]]:
    flair = exams.in_memory(one.images['FLAIR'])
    for name in (name for name in one.truth if name in names):
        image = exams.in_memory(one.images[name])
        yield (
            name,
            {
                'package': timed(
                    lambda image=image: (
                        align(
                            image, exams.anchor_reference(flair, flair_from_mni, 1), dof=6
                        ).moving_from_reference
                    )
                ),
                'SimpleITK': timed(lambda image=image: itk_rigid(flair, image)),
            },
        )


def scores(one: Subject, flair_from_mni: np.ndarray | None) -> tuple[float, float]:
    """Return Dice of the brain masks and correlation of the T1w with the template's brain."""
    if flair_from_mni is None:
        return np.nan, np.nan
    template = load_template()
    inside = np.asarray(template.mask.dataobj) > 0
    dice = correlation = np.nan
    if one.brain is not None:
        binary = nb.Nifti1Image(
            (np.asarray(one.brain.dataobj) > 0).astype(np.float32), one.brain.affine
        )
        moved = resample(binary, TEMPLATE_SHAPE, TEMPLATE_AFFINE, flair_from_mni)
        mask = np.asarray(moved.dataobj) > 0.5
        dice = 2 * float((mask & inside).sum()) / float(mask.sum() + inside.sum())
    if 'T1w' in one.images:
        affine = compose(one.truth['T1w'], flair_from_mni)
        moved = resample(one.images['T1w'], TEMPLATE_SHAPE, TEMPLATE_AFFINE, affine)
        pair = moved.get_fdata()[inside], template.brain.get_fdata()[inside]
        correlation = float(np.corrcoef(*pair)[0, 1])
    return dice, correlation


def measure(everyone: Iterator[Subject], minutes: float, names: Sequence[str]) -> None:
    brain = np.argwhere(np.asarray(load_template().mask.dataobj) > 0)[::500]
    points = apply_affine(TEMPLATE_AFFINE, brain)
    rigid: list[list[Any]] = []
    affine: list[list[Any]] = []
    began = time.monotonic()
    for one in everyone:
        if time.monotonic() - began > 60 * minutes:
            break
        found = to_template(one)
        both = [scores(one, found[name][0]) for name in METHODS]
        affine.append([one.name, *both[0], *both[1], *(found[name][1] for name in METHODS)])
        print(affine[-1], file=sys.stderr, flush=True)
        flair_from_mni = found['package'][0]
        there = apply_affine(flair_from_mni, points)
        for modality, moves in within(one, flair_from_mni, names):
            truth = one.truth[modality]
            off = [
                np.nan if move is None else float(distance(move, truth, there).mean())
                for move, _ in (moves[name] for name in METHODS)
            ]
            before = float(distance(np.eye(4), truth, there).mean())
            seconds = [moves[name][1] for name in METHODS]
            rigid.append([one.name, modality, before, *off, *seconds])
            print(rigid[-1], file=sys.stderr, flush=True)
    report(rigid, affine)


def report(rigid: list[list[Any]], affine: list[list[Any]]) -> None:
    head = ['exam', 'to FLAIR', 'before (mm)', *(f'{m} (mm)' for m in METHODS)]
    head += [f'{m} (CPU s)' for m in METHODS]
    table('Within a session', head, [[*r[:2], *(f'{v:.2f}' for v in r[2:])] for r in rigid])
    numbers = np.array([row[2:] for row in rigid], float)
    for column, name in enumerate(METHODS, start=1):
        off, lost = numbers[:, column], ~(numbers[:, column] < LOST_MM)
        print(
            f'\n{name}: median {np.nanmedian(off):.2f} mm, worst {np.nanmax(off):.2f} mm, '
            f'{lost.sum()} of {len(off)} lost, {numbers[:, column + 2].mean():.1f} CPU s an image'
        )
    head = ['exam', *(f'{m}, {n}' for m in METHODS for n in ('Dice', 'correlation'))]
    head += [f'{m} (CPU s)' for m in METHODS]
    table('To the template', head, [[row[0], *(f'{v:.3f}' for v in row[1:])] for row in affine])
    numbers = np.array([row[1:] for row in affine], float)
    best = np.fmax(numbers[:, 0], numbers[:, 2])
    for column, name in enumerate(METHODS):
        dice, correlation = numbers[:, 2 * column], numbers[:, 2 * column + 1]
        lost = int(np.nansum(dice < best - LOST_DICE))
        print(
            f'\n{name}: Dice median {np.nanmedian(dice):.3f}, least {np.nanmin(dice):.3f}; '
            f'correlation median {np.nanmedian(correlation):.3f}, least '
            f'{np.nanmin(correlation):.3f}; {lost} lost; {numbers[:, 4 + column].mean():.1f} CPU s'
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--only', default='', help='exams whose name holds this')
    parser.add_argument('--minutes', type=float, default=1e9, help='begin no exam after these')
    parser.add_argument('--images', nargs='+', default=['T1w', 'T2w'], help='within a session')
    options = parser.parse_args()
    if options.data is None or not (options.data / 'ljubljana-bids').is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    everyone = (one for one in subjects(options.data) if options.only in one.name)
    measure(everyone, options.minutes, options.images)
    return 0


if __name__ == '__main__':
    sys.exit(main())
