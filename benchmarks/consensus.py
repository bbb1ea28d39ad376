"""How well consensuses of simulated raters recover three real masks, as a Markdown table.

Usage: ``python benchmarks/consensus.py [--data DIR]`` (default: $MSLESSEG_TEST_DATA).

A rater sees the true mask with a wobbling outline, draws too wide or too narrow by a bias of his
own (mm), misses a quarter of the lesions and adds ten false ones. STAPLE is shown the marked
voxels and 1 (our rule), 2 or 5 voxels around them, and the box around all masks.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from mslesseg_app.metrics import consensus as module
from mslesseg_app.metrics.exam import voxel_agreement

EXAMS = {
    'patient07': 'ljubljana-mni/patient07/MASK.nii.gz',
    'patient26': 'ljubljana-mni/patient26/MASK.nii.gz',
    'P18': 'mslesseg/train/P18/T1/P18_T1_MASK.nii.gz',
}
RATERS = {
    'five, mixed': (0, 0.8, -0.5, 0.3, -0.2),
    'five, all too wide': (0.8, 0.9, 1, 0.7, 0.6),
    'five, all too narrow': (-0.6, -0.5, -0.4, -0.6, -0.3),
    'five, one far too wide': (0, 0, 0, 0, 1.5),
    'fifteen, five of them wide': (0,) * 10 + (1,) * 5,
}
MARGINS = (1, 2, 5)


def rater(truth: np.ndarray, rng: np.random.Generator, bias: float) -> np.ndarray:
    inside = ndimage.distance_transform_edt(truth)
    distance = inside - ndimage.distance_transform_edt(~truth)
    noise = ndimage.gaussian_filter(rng.normal(size=truth.shape), 2)
    mask = distance + 1.2 * noise / noise.std() + bias > 0.5
    mask &= ndimage.binary_dilation(truth, iterations=4)
    labels, count = ndimage.label(truth)
    missed = (rng.random(count + 1) < 0.25)[labels] & truth
    near_missed = ndimage.binary_dilation(missed, iterations=4)
    mask &= ~near_missed | ndimage.binary_dilation(truth & ~missed, iterations=3)
    for _ in range(10):
        corner = [int(rng.integers(0, size - 6)) for size in truth.shape]
        mask[tuple(slice(start, start + int(rng.integers(2, 6))) for start in corner)] = True
    return mask


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return voxel_agreement(mask, truth)['DSC']


def staple(masks: list[np.ndarray], margin: int) -> np.ndarray:
    before = module.MARGIN_VOXELS
    module.MARGIN_VOXELS = margin
    try:
        return module.consensus(masks, 'staple').mask
    finally:
        module.MARGIN_VOXELS = before


def staple_of_box(masks: list[np.ndarray]) -> np.ndarray:
    run = sitk.STAPLEImageFilter()
    run.SetForegroundValue(1)
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    return sitk.GetArrayFromImage(run.Execute(images)) >= 0.5


def row(truth: np.ndarray, biases: tuple[float, ...]) -> list[float]:
    rng = np.random.default_rng(1)
    masks = [rater(truth, rng, bias) for bias in biases]
    return [
        max(dice(mask, truth) for mask in masks),
        dice(module.consensus(masks, 'majority').mask, truth),
        *(dice(staple(masks, margin), truth) for margin in MARGINS),
        dice(staple_of_box(masks), truth),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    data = parser.parse_args().data
    if data is None or not Path(data).is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    print(
        '| exam | raters | best rater | majority | STAPLE, 1 voxel | 2 voxels | 5 voxels | box |'
    )
    print('|---|---|---|---|---|---|---|---|')
    rows = []
    for exam, path in EXAMS.items():
        mask = np.asarray(nb.load(Path(data) / path).dataobj) > 0
        (box,) = ndimage.find_objects(mask.astype(np.uint8))
        truth = mask[tuple(slice(max(0, edge.start - 8), edge.stop + 8) for edge in box)]
        for name, biases in RATERS.items():
            rows.append(row(truth, biases))
            print(
                f'| {exam} | {name} |', ' | '.join(f'{v:.3f}' for v in rows[-1]), '|', flush=True
            )
    print('| mean | |', ' | '.join(f'{v:.3f}' for v in np.mean(rows, axis=0)), '|')
    return 0


if __name__ == '__main__':
    sys.exit(main())
