"""The default model on single FLAIR slices, of which a part may be trained on.

Usage: ``python benchmarks/slices.py --data DATA [--model-dir FOLDER] [MODEL ...]``, where DATA is
the folder of public scans (`MSLESSEG_TEST_DATA`). For each model it prints the mean DSC over
axial slices at several thresholds: 11 slices of seven people who are in no training, and 7
slices of six people who may be.

``python benchmarks/slices.py --data DATA --write FOLDER`` writes the slices of these six as a
BIDS dataset on the template grid, each repeated along z throughout the template's brain.

The slices come as images without a scale, and nothing lies above or below them. So these are
approximations: heads are scaled to a length of 185 mm, the brain is cut out by morphology (slices
where that failed to the eye are left out, and so are coronal and sagittal ones), and each slice is
repeated 48 times. The figures compare models on unknown people; they say less about whole exams.

Source: Brain MRI dataset of multiple sclerosis with consensus manual lesion segmentation,
Mendeley Data, doi:10.17632/8bctsm8jz7 (CC-BY 4.0).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from out_of_fold import describe
from PIL import Image
from scipy import ndimage

from mslesseg_app.metrics.exam import voxel_agreement
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.segment import stack_channels
from mslesseg_app.models.registry import get_entry, load_predictor
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, load_template

SLICES = (
    '105006', '105008', '109010', '113019', '114016', '115017', '119003', '119009', '120012',
    '130012', '134009', '135017', '137003', '137007', '142005', '147008', '147014', '147018',
)  # fmt: skip
SHORT_OF_HEAD = ('115017', '137003', '142005', '147018')
"""Slices so high or so low that the length of the head says nothing: 230 mm an image."""
TRAINED_ON = ('09', '14', '19', '30', '35', '42')
"""People (second and third character of a name) who may be trained on: every second one."""
THRESHOLDS = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)
HEAD_MM = 185.0
IMAGE_MM = 230.0
REPEATED = 48

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Slice:
    """One slice with 1 mm pixels: x from right to left, y from back to front."""

    name: str
    flair: Floats
    brain: Mask
    lesion: Mask


def brain_of(image: Floats) -> Mask:
    """Return roughly the brain of an axial FLAIR slice: the bright piece deepest in the head."""
    smooth, bright = _bright(image)
    head = _largest(bright)
    radius = float(np.sqrt(head.sum() / np.pi))
    core = ndimage.binary_erosion(head, iterations=int(0.25 * radius))
    tissue = head & (smooth >= 0.45 * np.median(smooth[core]))
    pieces = ndimage.binary_opening(tissue, iterations=max(2, int(0.03 * radius)))
    depth = ndimage.distance_transform_edt(head)
    brain = _largest(pieces, np.minimum(depth, 0.6 * radius) ** 2)
    brain = ndimage.binary_dilation(brain, iterations=2) & head
    wide = ndimage.binary_closing(np.pad(brain, 40), iterations=int(0.12 * radius))
    return np.asarray(ndimage.binary_fill_holes(wide[40:-40, 40:-40]) & (depth > 0.05 * radius))


def _bright(image: Floats) -> tuple[Floats, Mask]:
    """Return the smoothed image, and the head with what else is bright in it."""
    smooth = ndimage.gaussian_filter(image, 1)
    return smooth, np.asarray(ndimage.binary_fill_holes(smooth > 25))


def _largest(mask: Mask, weight: npt.NDArray[np.float64] | None = None) -> Mask:
    """Return the piece of the largest sum of weights; without weights, of the largest area."""
    labels, count = ndimage.label(mask)
    values = np.ones(mask.shape) if weight is None else weight
    return np.asarray(labels == 1 + np.argmax(ndimage.sum(values, labels, range(1, count + 1))))


def read_slice(folder: Path, name: str) -> Slice:
    """Read a slice and its mask, and bring both to 1 mm."""
    image = np.asarray(Image.open(folder / f'images/{name}.jpg').convert('L'), np.float32)
    mask_file = next((folder / 'masks').glob(f'{name}*'))
    lesion = np.asarray(Image.open(mask_file).convert('L')) >= 128
    brain = brain_of(image)
    _, bright = _bright(image)
    length = min(np.ptp(np.where(bright)[0]) + 1, 1.18 * np.ptp(np.where(brain)[0]))
    mm = IMAGE_MM / len(image) if name in SHORT_OF_HEAD else HEAD_MM / length
    blurred = ndimage.gaussian_filter(image, 0.4 / mm)
    images = [
        _upright(ndimage.zoom(a.astype(np.float32), mm, order=1)) for a in (blurred, brain, lesion)
    ]
    box = ndimage.find_objects((images[1] > 0.5).astype(int))[0]
    flair, inside, truth = (image[box] for image in images)
    return Slice(name, flair, inside > 0.5, (truth > 0.5) & (inside > 0.5))


def _upright(image: Floats) -> Floats:
    return np.ascontiguousarray(image[::-1].T)


def write_dataset(folder: Path, slices: Sequence[Slice]) -> None:
    """Write slices as exams on the template grid, with ``derivatives/manual``."""
    inside = np.asarray(load_template().mask.dataobj) > 0
    describe(folder)
    describe(folder / 'derivatives/manual', 'derivative')
    for one in slices:
        person = f'sub-slice{one.name[1:3]}'
        stem = f'{person}/ses-{one.name[3:]}/anat/{person}_ses-{one.name[3:]}_'
        brain = _extruded(one.brain.astype(np.float32)) * inside
        flair = np.maximum(_extruded(one.flair), 1) * brain
        lesion = (_extruded(one.lesion.astype(np.float32)) * brain).astype(np.uint8)
        _save(folder / f'{stem}FLAIR.nii.gz', flair)
        mask = f'{stem}space-orig_label-lesion_mask.nii.gz'
        _save(folder / 'derivatives/manual' / mask, lesion)


def _extruded(image: Floats) -> Floats:
    """Return a slice at the middle of the template grid, the same at all heights."""
    canvas = np.zeros(TEMPLATE_SHAPE[:2], np.float32)
    x, y = ((full - edge) // 2 for full, edge in zip(canvas.shape, image.shape, strict=True))
    canvas[x : x + image.shape[0], y : y + image.shape[1]] = image
    return np.repeat(canvas[..., None], TEMPLATE_SHAPE[2], axis=2)


def _save(path: Path, data: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nb.Nifti1Image(data, TEMPLATE_AFFINE).to_filename(path)


def judge(entry: ModelEntry, slices: Sequence[Slice], threads: int) -> npt.NDArray[np.float64]:
    """Return the DSC of a model, (slices, thresholds)."""
    predictor = load_predictor(entry, 'cpu', threads, 1)
    rows = []
    for one in slices:
        brain = np.repeat(one.brain[..., None], REPEATED, axis=2)
        channels = stack_channels(
            entry, {'FLAIR': np.repeat(one.flair[..., None], REPEATED, axis=2)}, brain
        )
        prob = predictor(channels, brain, tuple(name == 'FLAIR' for name in entry.channels))
        middle = prob[..., REPEATED // 2 - 4 : REPEATED // 2 + 4].mean(axis=-1) * one.brain
        rows.append([voxel_agreement(middle >= t, one.lesion)['DSC'] for t in THRESHOLDS])
    return np.array(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('models', nargs='*', default=['unet'])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--model-dir', type=Path)
    parser.add_argument('--write', type=Path)
    parser.add_argument('--threads', type=int, default=2)
    args = parser.parse_args()
    if args.data is None:
        parser.error('--data, or MSLESSEG_TEST_DATA, names the folder of public scans')
    slices = [read_slice(Path(args.data) / 'ms60-slices', name) for name in SLICES]
    trained_on = np.array([one.name[1:3] in TRAINED_ON for one in slices])
    if args.write:
        write_dataset(args.write, [one for one in slices if one.name[1:3] in TRAINED_ON])
        return 0
    print('model', 'slices', *THRESHOLDS, sep='\t')
    for name in args.models:
        values = judge(get_entry(name, args.model_dir), slices, args.threads)
        for kind, chosen in (('in no training', ~trained_on), ('others', trained_on)):
            print(name, kind, *values[chosen].mean(axis=0).round(3), sep='\t', flush=True)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
