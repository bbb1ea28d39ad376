"""BIDS datasets of almost nothing: right names and headers, images of a few bytes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

TEMPLATE_SHAPE = (182, 218, 182)
TEMPLATE_AFFINE = np.array([[-1, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1.0]])

#: Grids of the images: voxel edges in mm, or the template.
THIN, THICK, TEMPLATE = 'thin', 'thick', 'template'
_EDGES = {THIN: (1.0, 1.0, 1.2), THICK: (0.9, 0.9, 4.0)}


@cache
def image_bytes(grid: str = THIN) -> bytes:
    """Return a compressed NIfTI image on one of the grids."""
    if grid == TEMPLATE:
        image = nb.Nifti1Image(_template_brain(), TEMPLATE_AFFINE)
    else:
        data = np.arange(10 * 11 * 9, dtype=np.int16).reshape(10, 11, 9)
        image = nb.Nifti1Image(data, np.diag([*_EDGES[grid], 1.0]))
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _template_brain() -> np.ndarray:
    """Return a brain that fits the template, as an image that came registered does."""
    from mslesseg_app.spatial.template import load_template

    return np.asarray(load_template().brain.dataobj).clip(0, 255).astype(np.uint8)


def path_of(name: str) -> Path:
    """Return the place of ``sub-01_ses-1_FLAIR`` in a dataset, without its root."""
    parts = [part for part in name.split('_') if part.startswith(('sub-', 'ses-'))]
    return Path(*parts, 'anat', f'{name}.nii.gz')


def write_dataset(
    root: Path,
    names: Iterable[str] | Mapping[str, str],
    sidecars: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    kind: str = 'raw',
) -> Path:
    """Write a dataset and return its root.

    Parameters
    ----------
    names : iterable or mapping
        File names without extension; as a mapping, each with its grid (default: thin voxels).
    sidecars : mapping
        Content of JSON sidecars by file name.
    kind : {'raw', 'derivative'}
    """
    grids = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, THIN)
    root.mkdir(parents=True, exist_ok=True)
    description: dict[str, Any] = {
        'Name': 'Skeleton',
        'BIDSVersion': '1.10.0',
        'DatasetType': kind,
        'License': 'CC0',
        'Authors': ['Nobody'],
    }
    if kind == 'derivative':
        description['GeneratedBy'] = [{'Name': 'manual'}]
    (root / 'dataset_description.json').write_text(json.dumps(description))
    (root / 'README.md').write_text('A dataset of names.\n')
    for name, grid in grids.items():
        path = root / path_of(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(grid))
    for name, content in (sidecars or {}).items():
        text = json.dumps(content)
        (root / path_of(name)).with_name(f'{name}.json').write_text(text)
    return root


def files_below(root: Path) -> list[str]:
    """List all files of a folder, relative and sorted."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob('*') if not p.is_dir())
