"""Lesion masks that a person has edited: read, checked, and told apart from the model's."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.affines import apply_affine
from mslesseg_app.spatial.grids import describe_geometry
from mslesseg_app.spatial.masks import read_mask

Mask = npt.NDArray[np.bool_]

#: Corners of the grid may lie off by this share of the shortest voxel edge: editors write the
#: affine anew, with other digits.
_TOLERANCE = 0.1


def read_edited(path: Path, flair: Any) -> Mask:
    """Read an edited lesion mask onto the grid of the raw FLAIR.

    Editors may store the axes in another order or direction; that is undone.

    Parameters
    ----------
    path : Path
    flair : nibabel image
        Gives the grid; its first three axes count.

    Returns
    -------
    bool array (X, Y, Z)
        May be empty: a person may find that there is no lesion.

    Raises
    ------
    DataError
        For a file that is no image, holds values other than 0 and 1, or lies on another grid.
    NoInputError
        If there is no such file.
    """
    try:
        image = read_mask(path)
    except DataError as error:
        if 'is not a mask' not in error.message:
            raise
        raise DataError(
            f'The edited mask {error.message}',
            'Save one label with the values 0 (no lesion) and 1 (lesion), without smoothing.',
        ) from error
    shape = tuple(int(n) for n in flair.shape[:3])
    for candidate in (image, _turned_like(flair, image)):
        if candidate.shape == shape and _off(candidate.affine, flair.affine, shape) < _TOLERANCE:
            return np.asanyarray(candidate.dataobj) > 0
    raise DataError(
        f'The edited mask {path} lies on another grid than the FLAIR: '
        f'{describe_geometry(image)} instead of {describe_geometry(flair)}, or at another place.',
        'Edit the file of space-orig on the raw FLAIR of the same session, and save it on that '
        'grid (in 3D Slicer: export with the FLAIR as reference volume).',
    )


def _turned_like(reference: Any, image: Any) -> Any:
    axes = nb.orientations
    turn = axes.ornt_transform(
        axes.io_orientation(image.affine), axes.io_orientation(reference.affine)
    )
    return image.as_reoriented(turn)


def _off(one: Any, other: Any, shape: tuple[int, ...]) -> float:
    """Return how far apart the corners of two grids lie, in shortest voxel edges."""
    corners = np.array(list(product(*((-0.5, n - 0.5) for n in shape))))
    distance = np.linalg.norm(apply_affine(one, corners) - apply_affine(other, corners), axis=1)
    edges = np.linalg.norm(np.asarray(other)[:3, :3], axis=0)
    return float(distance.max() / edges.min())


def describe_edit(edited: Mask, found: Mask, voxel_mm3: float) -> dict[str, float]:
    """Say how an edited mask differs from the model's.

    Returns
    -------
    dict
        ``AddedVolume_mm3`` and ``RemovedVolume_mm3``; empty for equal masks.
    """
    added, removed = int((edited & ~found).sum()), int((found & ~edited).sum())
    if not (added or removed):
        return {}
    return {
        'AddedVolume_mm3': round(added * voxel_mm3, 3),
        'RemovedVolume_mm3': round(removed * voxel_mm3, 3),
    }
