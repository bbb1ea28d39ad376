"""The builtin engine beside a plain baseline: accuracy, time and memory on the same exams.

Usage::

    python benchmarks/beside.py [--data FOLDER] [--only TEXT]

The baseline is what this engine's first version was: SimpleITK's Mattes mutual information
within the template's brain mask grown by 8 mm, started from a grid of tilts and offsets at 8 mm
and refined at 4 and 2 mm (12 degrees of freedom for the FLAIR, 6 for the others to it). Both
see the same images after N4. FLIRT is named, and run nowhere here, when it is not on PATH.
Each exam is also processed in a process of its own, for the peak of its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import SimpleITK as sitk
from spatial import Exam, distance, find_exams, table, within_session

from mslesseg_app.spatial import exam_alignment as exams
from mslesseg_app.spatial import quality
from mslesseg_app.spatial.affines import apply_affine, compose, invert
from mslesseg_app.spatial.bias import correct_bias
from mslesseg_app.spatial.brain import brain_mask
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, load_template

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TILTS, LIFTS = (-30, -15, 0, 15, 30), (-40, -20, 0, 20, 40, 60)
STARTS = 3


def to_itk(img: Any) -> sitk.Image:
    """Return an image of float32 in ITK's frame (LPS+)."""
    img = nb.as_closest_canonical(img)
    affine = LPS @ img.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    out = sitk.GetImageFromArray(np.asarray(img.dataobj, dtype=np.float32).T)
    out.SetSpacing(spacing.tolist())
    out.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    out.SetOrigin(affine[:3, 3].tolist())
    return out


def to_affine(transform: Any) -> np.ndarray:
    """Return a transform of ITK (fixed to moving, LPS+) as a matrix in RAS+ mm."""
    points = np.vstack([np.zeros(3), np.eye(3)])
    moved = np.array([transform.TransformPoint(point.tolist()) for point in points])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = (moved[1:] - moved[0]).T, moved[0]
    return LPS @ affine @ LPS


def at_level(image: sitk.Image, size_mm: float) -> sitk.Image:
    """Blur to a resolution and leave out the voxels that it does not need."""
    sigma = [max(size_mm / 2.355, 0.1)] * 3
    steps = [max(1, int(size_mm / 2 / one)) for one in image.GetSpacing()]
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, sigma), steps)


def method(fixed: sitk.Image, mask: sitk.Image, size_mm: float) -> sitk.ImageRegistrationMethod:
    registration = sitk.ImageRegistrationMethod()
    registration.SetMetricAsMattesMutualInformation(32)
    registration.SetMetricFixedMask(mask)
    registration.SetMetricSamplingStrategy(registration.REGULAR)
    registration.SetMetricSamplingPercentage(min(1.0, 0.02 * size_mm**2))
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetOptimizerAsRegularStepGradientDescent(
        learningRate=size_mm / 2, minStep=0.01, numberOfIterations=100
    )
    registration.SetOptimizerScalesFromPhysicalShift()
    return registration


def refine(
    images: tuple[sitk.Image, sitk.Image, sitk.Image], start: sitk.Transform, size_mm: float
) -> tuple[float, Any]:
    """Climb at one resolution; returns the metric (smaller is better) and the transform."""
    fixed, moving, mask = images
    registration = method(fixed, mask, size_mm)
    registration.SetInitialTransform(start, inPlace=True)
    registration.Execute(at_level(fixed, size_mm), at_level(moving, size_mm))
    return registration.GetMetricValue(), start


def first_poses(images: tuple[sitk.Image, sitk.Image, sitk.Image]) -> list[Any]:
    """Return the best poses of a grid of tilts and offsets at 8 mm."""
    fixed, moving, mask = images
    small = at_level(fixed, 8.0), at_level(moving, 8.0)
    inside = sitk.GetArrayFromImage(moving)
    index = np.argwhere(inside > inside.mean()).mean(axis=0)[::-1]
    middle = np.array(moving.TransformContinuousIndexToPhysicalPoint(index.tolist()))
    brain = np.array([0.0, 20.0, 10.0])
    found = []
    for tilt, lift in product(TILTS, LIFTS):
        pose = sitk.AffineTransform(3)
        pose.SetCenter(brain.tolist())
        pose.Rotate(1, 2, float(np.radians(tilt)))
        pose.SetTranslation((middle + np.array([0.0, 0.0, lift]) - brain).tolist())
        registration = method(fixed, mask, 8.0)
        registration.SetInitialTransform(pose)
        found.append((registration.MetricEvaluate(*small), pose))
    return [pose for _, pose in sorted(found, key=lambda one: one[0])[:STARTS]]


def baseline(images: dict[str, Any]) -> dict[str, np.ndarray]:
    """Align an exam by the plain method; the FLAIR is the anchor."""
    brain, region = to_itk(load_template().brain), to_itk(exams.search_region())
    region = sitk.Cast(region > 0, sitk.sitkUInt8)
    flair = to_itk(images['FLAIR'])
    triple = (brain, flair, region)
    poses = [refine(triple, pose, 8.0) for pose in first_poses(triple)]
    pose = min(poses, key=lambda one: one[0])[1]
    for size_mm in (4.0, 2.0):
        _, pose = refine(triple, pose, size_mm)
    found = {'FLAIR': to_affine(pose)}
    mask = resample(
        exams.search_region(), images['FLAIR'].shape, images['FLAIR'].affine,
        invert(found['FLAIR']), 'nearest',
    )  # fmt: skip
    mask = sitk.Cast(to_itk(mask) > 0, sitk.sitkUInt8)
    for name, img in images.items():
        if name != 'FLAIR':
            rigid = sitk.Euler3DTransform()
            for size_mm in (8.0, 4.0, 2.0):
                _, rigid = refine((flair, to_itk(img), mask), rigid, size_mm)
            found[name] = compose(to_affine(rigid), found['FLAIR'])
    return found


# ------------------------------------------------------------------------------ tables


def compare(exam: Exam) -> list[list[str]]:
    """Run both on one exam; a row for each image and a row of times."""
    images = {name: correct_bias(img) for name, img in exam.images().items()}
    seconds, results = {}, {}
    clock = time.perf_counter()
    ours = exams.align_exam(images)
    seconds['ours'] = time.perf_counter() - clock
    clock = time.perf_counter()
    plain = baseline(images)
    seconds['plain'] = time.perf_counter() - clock
    theirs = exams.check_exam(images, 'FLAIR', plain)
    for key, one in (('ours', ours), ('plain', theirs)):
        results[key] = {name: f'{off[1]:.2f}' for name, off in within_session(exam, one)}
    points = apply_affine(
        TEMPLATE_AFFINE, np.argwhere(np.asarray(load_template().mask.dataobj) > 0)[::800]
    )
    rows = []
    for name in images:
        apart = distance(ours.moving_from_mni[name], plain[name], points).mean()
        cells = [results[key].get(name, '') for key in ('ours', 'plain')]
        statuses = [
            quality.check_alignment(images[name], a[name]).status
            for a in (ours.moving_from_mni, plain)
        ]
        rows.append([exam.name, name, *cells, f'{apart:.1f}', *statuses, '', '', ''])
    ratio = seconds['plain'] / seconds['ours']
    rows[-1][-3:] = [f'{seconds["ours"]:.1f}', f'{seconds["plain"]:.1f}', f'{ratio:.1f}']
    return rows


def child(exam: Exam) -> None:
    """Align and mask one exam as the App does; print time and peak memory."""
    images = {name: correct_bias(img) for name, img in exam.images().items()}
    start = resource.getrusage(resource.RUSAGE_SELF)
    clock = time.perf_counter()
    found = exams.align_exam(images)
    moved = {
        name: resample(img, TEMPLATE_SHAPE, TEMPLATE_AFFINE, found.moving_from_mni[name])
        for name, img in images.items()
    }
    brain_mask(moved)
    wall, end = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_SELF)
    cpu = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    print(json.dumps({'wall': wall, 'cpu': cpu, 'gib': end.ru_maxrss / 1024**2}))


def costs(exam: Exam, data: Path) -> list[str]:
    command = [sys.executable, __file__, '--data', str(data), '--child', exam.name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values = json.loads(done.stdout.splitlines()[-1])
    cells = [f'{values["wall"]:.1f}', f'{values["cpu"]:.1f}', f'{values["gib"]:.2f}']
    return [exam.name, str(len(exam.images())), *cells]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--only', default='', help='exams whose name holds this text')
    parser.add_argument('--child', default='', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data is None or not (Path(options.data) / 'ljubljana-bids').is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    every = list(find_exams(Path(options.data) / 'ljubljana-bids'))
    if options.child:
        child(next(one for one in every if one.name == options.child))
        return 0
    chosen = [one for one in every if options.only in one.name]
    head = ['exam', 'images', 'wall (s)', 'CPU (s)', 'peak memory (GiB)']
    table(
        'Alignment and mask, in a process of its own',
        head,
        [costs(e, options.data) for e in chosen],
    )
    for tool in ('flirt', 'bet'):
        print(f'\n{tool}: {shutil.which(tool) or "not on PATH: not measured here"}')
    head = [
        'exam', 'image', 'ours (mm)', 'baseline (mm)', 'apart (mm)', 'ours', 'baseline',
        'ours (s)', 'baseline (s)', 'ratio',
    ]  # fmt: skip
    table('Beside the plain baseline', head, [row for one in chosen for row in compare(one)])
    return 0


if __name__ == '__main__':
    sys.exit(main())
