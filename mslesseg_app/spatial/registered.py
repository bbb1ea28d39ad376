"""Do images that lie on the template grid also lie in the template space?

The grid alone says nothing: a head can be stored on 182 × 218 × 182 voxels at any place. Small
moves must make an image fit the template worse, as `quality.judge` has it; here the comparison is
coarse, because it is made for every exam before its workflow is built.

The limit was set from data: 21 images of MSLesSeg, which came registered by 12 degrees of freedom,
have a ``peak`` of 0.04 to 0.22; 11 heads that were stored on the grid at the place where the
scanner saw them have 0.00 at the most. Six brains that were moved to the template rigidly, with
their own size kept, have -0.03 to -0.01: these are registered like others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.spatial.pose import RADIUS_MM, matrix
from mslesseg_app.spatial.reading import UNREADABLE, open_image
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, is_template_grid, load_template

#: Edge of the blocks of voxels that are compared, and bins of their values.
_BLOCK, _BINS = 4, 24
#: Small moves that must make the fit worse: shifts (mm) and turns (degrees).
_NUDGE_MM, _NUDGE_DEG = 8.0, 8.0
#: Share of its height by which the similarity falls at least.
_PEAK = 0.02

Floats = npt.NDArray[np.float32]


def came_registered(images: Mapping[str, Path]) -> tuple[bool, str]:
    """Say whether all images of an exam came registered to the template.

    Parameters
    ----------
    images : mapping of modality to Path

    Returns
    -------
    registered : bool
    why_not : str
        A sentence for images that lie on the grid of the template, but not in its space.
    """
    try:
        opened = {}
        for name, path in images.items():
            opened[name] = open_image(path)
            if not is_template_grid(opened[name]):
                return False, ''
        if not opened:
            return False, ''
        off = [name for name, image in opened.items() if peak(image) < _PEAK]
    except (MSLesSegError, *UNREADABLE):
        return False, ''  # the first node of the exam says what is wrong with it
    if not off:
        return True, ''
    return False, (
        f'The images lie on the grid of the template but are not registered to it '
        f'({", ".join(off)}): they are registered like others.'
    )


def peak(image: Any) -> float:
    """Return how far small moves lower the similarity of an image with the template.

    Parameters
    ----------
    image : nibabel image (182, 218, 182)
        On the template grid.

    Returns
    -------
    float
        As a share of what the similarity is above that of images that do not belong together;
        below zero where a move makes it better.
    """
    moving = _blocks(np.nan_to_num(np.asanyarray(image.dataobj, dtype=np.float32)))
    template, inside = _reference()
    here = _similarity(moving, template, inside)
    beside = max(_similarity(_moved(moving, move), template, inside) for move in _moves())
    return (here - beside) / max(here - 1.0, 1e-6)


@cache
def _reference() -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the template in blocks, and the region of the brain with a rim around it."""
    template = load_template()
    mask = _blocks(np.asarray(template.mask.dataobj, dtype=np.float32)) > 0.5
    brain = _blocks(np.asarray(template.brain.dataobj, dtype=np.float32))
    return brain, ndi.binary_dilation(mask, iterations=2)


def _blocks(data: Floats) -> Floats:
    """Return the means of blocks of voxels; what is left at the far ends is dropped."""
    x, y, z = (length // _BLOCK for length in data.shape)
    cut = data[: x * _BLOCK, : y * _BLOCK, : z * _BLOCK]
    means: Floats = cut.reshape(x, _BLOCK, y, _BLOCK, z, _BLOCK).mean(axis=(1, 3, 5))
    return means


@cache
def _moves() -> tuple[npt.NDArray[np.float64], ...]:
    """Return shifts and turns along each axis, both ways, in indices of blocks (4, 4)."""
    centre = np.array([0.0, -20.0, 10.0])
    shifts, turns = _NUDGE_MM * np.eye(6)[:3], np.radians(_NUDGE_DEG) * RADIUS_MM * np.eye(6)[3:]
    steps = np.concatenate([shifts, turns])
    mm_from_block = TEMPLATE_AFFINE @ np.diag([_BLOCK, _BLOCK, _BLOCK, 1.0])
    mm_from_block[:3, 3] += TEMPLATE_AFFINE[:3, :3] @ np.full(3, (_BLOCK - 1) / 2)
    block_from_mm = np.linalg.inv(mm_from_block)
    moves = matrix(np.concatenate([steps, -steps]), centre, np.eye(4))
    return tuple(block_from_mm @ move @ mm_from_block for move in moves)


def _moved(data: Floats, move: npt.NDArray[np.float64]) -> Floats:
    moved: Floats = ndi.affine_transform(data, move[:3, :3], move[:3, 3], order=1)
    return moved


def _similarity(moving: Floats, template: Floats, inside: npt.NDArray[np.bool_]) -> float:
    """Return the normalised mutual information of two images in a region (1 is none)."""
    pairs = _binned(moving[inside]) * _BINS + _binned(template[inside])
    joint = np.bincount(pairs, minlength=_BINS**2).reshape(_BINS, _BINS) / pairs.size
    marginals = _entropy(joint.sum(axis=0)) + _entropy(joint.sum(axis=1))
    return marginals / max(_entropy(joint.ravel()), 1e-9)


def _binned(values: Floats) -> npt.NDArray[np.int64]:
    low, high = np.percentile(values, (1, 99))
    share = (values - low) / max(float(high - low), 1e-6)
    return np.clip(share * _BINS, 0, _BINS - 1).astype(np.int64)


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())
