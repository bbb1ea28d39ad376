"""``bet IN OUT [-m] [-R] [-f F]``: the brain of the template, brought to the image."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import nibabel as nb
import numpy as np

from . import images
from .flirt import register


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog='bet', allow_abbrev=False)
    parser.add_argument('image')
    parser.add_argument('out')
    parser.add_argument('-m', dest='mask', action='store_true')
    parser.add_argument('-R', dest='robust', action='store_true')
    parser.add_argument('-f', dest='fraction', type=float, default=0.5)
    options = parser.parse_args(arguments)
    image = nb.load(options.image)
    inside = find_brain(image)
    data = np.asarray(image.dataobj, dtype=np.float32)
    images.save(np.where(inside, data, 0), image, images.output(options.out))
    if options.mask:
        images.save(inside, image, images.output(options.out, '_mask'), np.uint8)
    return 0


def find_brain(image: nb.Nifti1Image) -> np.ndarray:
    """Return the brain mask of an image; one on the template grid is not moved."""
    standard = Path(os.environ['FSLDIR']) / 'data' / 'standard'
    mask = nb.load(standard / 'MNI152_T1_1mm_brain_mask.nii.gz')
    if image.shape == mask.shape and np.allclose(image.affine, mask.affine):
        return np.asarray(mask.dataobj) > 0
    template = nb.load(standard / 'MNI152_T1_1mm_brain.nii.gz')
    image_from_mni = register(image, template, 12)
    return images.resample(mask, image, np.linalg.inv(image_from_mni), nearest=True) > 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
