"""Where windows lie on a brain, and how their voxels are weighted; without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import ModelError

Triple = tuple[int, int, int]


_WORDS = {
    'blending': ('gaussian', 'constant', 'first'),
    'average': ('probability', 'logits', 'softmax-twice'),
    'layout': ('even', 'stepped'),
    'precision': ('auto', 'float32', 'bfloat16', 'float16'),
}


@dataclass(frozen=True)
class Windows:
    """How windows are laid and combined.

    Attributes
    ----------
    size : three ints
        Edges of a window (voxels); the largest allowed ones if `fit` is set.
    overlap : float
        Part of an edge that neighbours share at least, 0 to 0.9.
    blending : {'gaussian', 'constant', 'first'}
        Weight of the voxels of a window: a Gaussian of `sigma` times the edge, or all equal; or
        each voxel has the value of the first window that covers it.
    average : {'probability', 'logits', 'softmax-twice'}
        What is averaged over windows and flips: the lesion probability; the logits of all
        classes, the largest of which decides; or the softmax of their softmax, as the public
        TransBTS does (see `lesion_score`).
    batch : int
        Windows in one pass.
    fit : bool
        Shrink the edges to what the brain needs, for networks that take any edge.
    multiple : int
        With `fit`, edges are multiples of this.
    flips : tuple of ints
        Axes (0 to 2) along which the image is mirrored too; all combinations are averaged.
    crop : bool
        Lay windows over the box around the brain, not over the whole grid.
    margin : int
        Voxels around the brain that the box includes.
    sigma : float
        Of the Gaussian, relative to the edge.
    layout : {'even', 'stepped'}
        Windows evenly spread, or at steps of the same length with the last one moved back to
        the end, as MONAI's SlidingWindowInferer lays them.
    precision : {'auto', 'float32', 'bfloat16', 'float16'}
        Of matrix products and convolutions; ``auto`` is half precision on CUDA and on processors
        that compute bfloat16 themselves
        (`mslesseg_app.models.prediction.device.cpu_has_bfloat16`), float32 on other CPUs.
    """

    size: Triple = (96, 96, 96)
    overlap: float = 0.25
    blending: Literal['gaussian', 'constant', 'first'] = 'gaussian'
    average: Literal['probability', 'logits', 'softmax-twice'] = 'probability'
    batch: int = 1
    fit: bool = False
    multiple: int = 16
    flips: tuple[int, ...] = ()
    crop: bool = True
    margin: int = 4
    sigma: float = 0.2
    layout: Literal['even', 'stepped'] = 'even'
    precision: Literal['auto', 'float32', 'bfloat16', 'float16'] = 'auto'

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ModelError(f'Windows cannot be laid: {problem}.', 'Correct the sampler.')

    @classmethod
    def from_mapping(cls, size: Triple | None, values: Mapping[str, Any]) -> Windows:
        """Make it of the patch and the sampler table of a model's description."""
        known = set(cls.__dataclass_fields__) - {'size'}
        strange = sorted(set(values) - known)
        if strange:
            raise ModelError(
                f'The sampler has the unknown setting {strange[0]!r}.',
                f'Known: {", ".join(sorted(known))}.',
            )
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plain) if size is None else cls(size=size, **plain)


def _problem(windows: Windows) -> str:
    if not 0 <= windows.overlap <= 0.9:
        return 'the overlap does not lie between 0 and 0.9'
    for name, known in _WORDS.items():
        if getattr(windows, name) not in known:
            return f'{name} = {getattr(windows, name)!r} is none of {", ".join(known)}'
    if windows.crop not in (True, False):
        return f'crop = {windows.crop!r} is neither true nor false'
    if windows.batch < 1 or windows.multiple < 1 or min(windows.size) < 1:
        return 'the batch and all edges must be 1 or more'
    if not set(windows.flips) <= {0, 1, 2}:
        return 'flips holds axes 0, 1 and 2 only'
    return ''


def brain_box(brain: npt.NDArray[np.bool_], margin: int = 0) -> tuple[slice, slice, slice]:
    """Return the smallest box around the brain, widened by `margin` within the grid.

    Parameters
    ----------
    brain : bool array (X, Y, Z)
    margin : int
        Voxels.

    Raises
    ------
    ModelError
        If the mask is empty.
    """
    if not brain.any():
        raise ModelError('The brain mask is empty, so there is nothing to segment.')
    slices = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        where = np.flatnonzero(brain.any(axis=others))
        low = max(0, int(where[0]) - margin)
        high = min(brain.shape[axis], int(where[-1]) + 1 + margin)
        slices.append(slice(low, high))
    return slices[0], slices[1], slices[2]


def fit_edge(length: int, largest: int, overlap: float, multiple: int) -> int:
    """Return the edge up to `largest` that covers `length` with the least waste.

    The number of windows is the smallest possible one; the edge is then as small as this number
    allows, in steps of `multiple`.
    """
    largest = max(multiple, largest // multiple * multiple)
    count = len(starts(length, largest, overlap))
    edge = largest
    while edge > multiple and len(starts(length, edge - multiple, overlap)) == count:
        edge -= multiple
    return edge


def starts(length: int, edge: int, overlap: float, layout: str = 'even') -> list[int]:
    """Return where windows begin along one axis, the last one ending at the end.

    Parameters
    ----------
    length, edge : int
        Voxels; one window at 0 if it covers all.
    overlap : float
        Neighbours share at least this part of an edge.
    layout : {'even', 'stepped'}
        See `Windows`; both give the same number of windows.
    """
    if edge >= length:
        return [0]
    step = max(1, int(edge * (1 - overlap)))
    count = 1 + -(-(length - edge) // step)
    if layout == 'stepped':
        return [min(i * step, length - edge) for i in range(count)]
    return [round(i * (length - edge) / (count - 1)) for i in range(count)]


def importance(size: Triple, blending: str, sigma: float) -> npt.NDArray[np.float32]:
    """Return the weight of each voxel of a window, (X, Y, Z), largest 1, never 0."""
    if blending != 'gaussian':
        return np.ones(size, dtype=np.float32)
    weight = np.ones((), dtype=np.float64)
    for edge in size:
        distance = (np.arange(edge) - (edge - 1) / 2) / (sigma * edge)
        weight = np.multiply.outer(weight, np.exp(-0.5 * distance**2))
    return np.maximum(weight / weight.max(), 1e-3).astype(np.float32)


def plan(brain: npt.NDArray[np.bool_], windows: Windows) -> tuple[Triple, list[Triple]]:
    """Return the edges of the windows and the corners of those that hold brain.

    Parameters
    ----------
    brain : bool array (X, Y, Z)
        Cut to its box.
    windows : Windows
    """
    size = windows.size
    if windows.fit:
        edges = [
            fit_edge(n, e, windows.overlap, windows.multiple)
            for n, e in zip(brain.shape, size, strict=True)
        ]
        size = (edges[0], edges[1], edges[2])
    axes = [
        starts(n, e, windows.overlap, windows.layout)
        for n, e in zip(brain.shape, size, strict=True)
    ]
    corners: list[Triple] = [(x, y, z) for x, y, z in product(*axes)]
    return size, [corner for corner in corners if brain[window_part(corner, size)].any()]


def window_part(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, slice, slice]:
    x, y, z = (slice(c, c + e) for c, e in zip(corner, size, strict=True))
    return x, y, z


def window_key(corner: Triple, flip: int = 0) -> int:
    """Return a number that names a window and its mirroring, the same in every batch."""
    x, y, z = corner
    return (((flip << 20 | x) << 20 | y) << 20) | z
