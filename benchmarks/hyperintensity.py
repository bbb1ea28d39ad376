"""Accuracy and time of the model `hyperintensity` on labelled exams, as a Markdown table.

Usage: ``python benchmarks/hyperintensity.py [--data DIR]`` (default: $MSLESSEG_TEST_DATA).
The exams lie on the template grid already; the brain is where any image is positive.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
from scipy import ndimage

from mslesseg_app.metrics.exam import METRIC_COLUMNS, accuracy
from mslesseg_app.models.prediction.segment import segment_detailed
from mslesseg_app.models.registry import get_entry

EXAMS = {
    'patient07': 'ljubljana-mni/patient07/{}.nii.gz',
    'patient26': 'ljubljana-mni/patient26/{}.nii.gz',
    'P18': 'mslesseg/train/P18/T1/P18_T1_{}.nii.gz',
}
MORE = {f'P14, T{n}': f'mslesseg-p14/train/P14/T{n}/P14_T{n}_{{}}.nii.gz' for n in (1, 2, 3)}
"""Exams that the constants were not chosen on."""

NAMES = {'FLAIR': 'FLAIR', 'T1w': 'T1'}


def read(path: Path) -> np.ndarray:
    return np.asarray(nb.load(path).dataobj)


def largest_piece(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    largest = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return ndimage.binary_fill_holes(largest)


def rows(data: Path) -> list[list[str]]:
    entry = get_entry('hyperintensity')
    result = []
    for exam, pattern in (EXAMS | MORE).items():
        reference = read(data / pattern.format('MASK')) > 0
        images = {key: read(data / pattern.format(name)) for key, name in NAMES.items()}
        brain = largest_piece(np.any([image > 0 for image in images.values()], axis=0))
        for used in (('FLAIR', 'T1w'), ('FLAIR',)):
            found, info = segment_detailed(entry, {key: images[key] for key in used}, brain)
            numbers = accuracy(found.prob >= entry.threshold, reference, (1, 1, 1))
            values = [f'{numbers[name]:.3f}' for name in METRIC_COLUMNS]
            result.append([exam, ' + '.join(used), *values, f'{info["seconds"]:.1f}'])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    data = parser.parse_args().data
    if data is None or not Path(data).is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    header = ['exam', 'images', *METRIC_COLUMNS, 'seconds']
    for row in (header, ['---'] * len(header), *rows(Path(data))):
        print('| ' + ' | '.join(row) + ' |', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
