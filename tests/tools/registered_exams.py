"""Exams on the template grid, made from the tissue maps: the App needs seconds for one."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import nibabel as nb
import numpy as np
from skeleton import TEMPLATE_AFFINE, path_of, write_dataset

from mslesseg_app.spatial.template import load_template, tissue_prior

#: Voxels in white matter: the middle of each lesion.
PLACES = ((70, 120, 95), (112, 120, 95), (68, 90, 100), (114, 95, 98))


def write_exams(root: Path, names: Iterable[str], *, masks: bool = False) -> Path:
    """Write a dataset with one FLAIR of 1 mm voxels and no skull for each exam.

    Parameters
    ----------
    names : iterable of str
        ``sub-01``, ``sub-02_ses-1``; each has its own lesions and noise.
    masks : bool
        Also the true lesions, in ``derivatives/manual``.
    """
    names = list(names)
    write_dataset(root, [])
    white, grey, fluid = (tissue_prior(tissue) for tissue in ('wm', 'gm', 'csf'))
    inside = np.asarray(load_template().mask.dataobj) > 0
    clean = 100 * white + 130 * grey + 30 * fluid
    grid = np.ogrid[tuple(slice(size) for size in clean.shape)]
    if masks:
        write_dataset(root / 'derivatives' / 'manual', [], kind='derivative')
    for number, name in enumerate(names):
        random = np.random.default_rng(number)
        lesions = np.zeros(clean.shape, bool)
        for place in PLACES[: 2 + number % 3]:
            centre = np.array(place) + random.integers(-2, 3, 3)
            away = sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True))
            lesions |= away <= random.integers(3, 6) ** 2
        image = np.where(lesions, 210.0, clean) + random.normal(0, 3, clean.shape)
        _save(np.where(inside, image.clip(0), 0), root / path_of(f'{name}_FLAIR'))
        if masks:
            mask = path_of(f'{name}_space-orig_label-lesion_mask')
            _save(lesions, root / 'derivatives' / 'manual' / mask)
    return root


def _save(data: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nb.Nifti1Image(data.astype(np.uint16), TEMPLATE_AFFINE)
    image.header.set_xyzt_units('mm', 'sec')
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
