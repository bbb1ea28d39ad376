"""Random fields, deformations and filters on volumes, in PyTorch, seeded, on any device.

Volumes are ``(C, X, Y, Z)`` float tensors; lengths are voxels of 1 mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn


class RandomStream:
    """The random numbers of one training run: scalars from NumPy, fields from torch.

    Parameters
    ----------
    seed : int
        Same seed and device, same numbers.
    device : str
        Where the fields live.
    """

    def __init__(self, seed: int, device: str = 'cpu') -> None:
        self.device = torch.device(device)
        self._scalars = np.random.default_rng(seed)
        self._fields = torch.Generator(self.device)
        self._fields.manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """Return a number between `low` and `high`."""
        return float(self._scalars.uniform(low, high))

    def normal(self, sd: float = 1.0) -> float:
        """Return a number of the normal distribution."""
        return float(self._scalars.normal(0.0, sd))

    def happens(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self._scalars.random() < probability)

    def integer(self, stop: int) -> int:
        """Return a whole number below `stop`."""
        return int(self._scalars.integers(stop))

    def choice(self, weights: Sequence[float]) -> int:
        """Return an index drawn with these weights."""
        share = np.asarray(weights, dtype=float)
        return int(self._scalars.choice(len(share), p=share / share.sum()))

    def noise(self, shape: Sequence[int]) -> Tensor:
        """Return independent normal values."""
        return torch.randn(tuple(shape), generator=self._fields, device=self.device)

    def values(self, shape: Sequence[int], low: float, high: float) -> Tensor:
        """Return independent uniform values."""
        drawn = torch.rand(tuple(shape), generator=self._fields, device=self.device)
        return low + (high - low) * drawn

    def pick(self, candidates: Tensor) -> int:
        """Return a random position in a 1D tensor of candidates."""
        return self.integer(int(candidates.shape[0]))

    def smooth(self, channels: int, shape: Sequence[int], cell: float) -> Tensor:
        """Return smooth noise of unit variance at its nodes, ``(channels, X, Y, Z)``.

        Parameters
        ----------
        channels : int
        shape : three ints
        cell : float
            Distance of independent nodes (voxels).
        """
        nodes = [max(2, round(edge / cell) + 1) for edge in shape]
        coarse = self.noise((1, channels, *nodes))
        return fn.interpolate(coarse, size=tuple(shape), mode='trilinear', align_corners=True)[0]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both generators."""
        return {'scalars': self._scalars.bit_generator.state, 'fields': self._fields.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._scalars.bit_generator.state = state['scalars']
        self._fields.set_state(state['fields'].cpu())


def rotation(angles: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the 3x3 matrix that turns about x, then y, then z (radians)."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def random_affine(
    stream: RandomStream, degrees: float, scale: float, shift: float, mirror: float = 0.0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a random 4x4 affine about the centre (voxels).

    Parameters
    ----------
    stream : RandomStream
    degrees, scale, shift : float
        Largest rotation about each axis, relative change of each axis, shift (voxels).
    mirror : float
        Probability of mirroring left and right (the first axis).
    """
    matrix = np.eye(4)
    turn = rotation([math.radians(stream.uniform(-degrees, degrees)) for _ in range(3)])
    zoom = np.diag([1 + stream.uniform(-scale, scale) for _ in range(3)])
    if stream.happens(mirror):
        zoom[0, 0] *= -1
    matrix[:3, :3] = turn @ zoom
    matrix[:3, 3] = [stream.uniform(-shift, shift) for _ in range(3)]
    return matrix


def positions(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return voxel coordinates relative to the centre, ``(3, X, Y, Z)``."""
    axes = [torch.arange(edge, device=device) - (edge - 1) / 2 for edge in shape]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'))


def transform(points: Tensor, affine: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
    """Apply a 4x4 affine to coordinates ``(3, X, Y, Z)``."""
    linear = torch.tensor(affine[:3, :3], dtype=points.dtype, device=points.device)
    offset = torch.tensor(affine[:3, 3], dtype=points.dtype, device=points.device)
    return torch.einsum('ij,jxyz->ixyz', linear, points) + offset[:, None, None, None]


def sample(volume: Tensor, points: Tensor, nearest: bool = False) -> Tensor:
    """Read a volume at coordinates relative to its centre, zero outside.

    Parameters
    ----------
    volume : (C, X, Y, Z)
    points : (3, A, B, C)
        Coordinates (voxels).
    nearest : bool
        Nearest neighbour instead of linear interpolation.

    Returns
    -------
    (C, A, B, C) tensor
    """
    half = torch.tensor(
        [(edge - 1) / 2 for edge in volume.shape[1:]], dtype=points.dtype, device=points.device
    )
    unit = (points / half[:, None, None, None]).flip(0).permute(1, 2, 3, 0)
    mode = 'nearest' if nearest else 'bilinear'
    return fn.grid_sample(
        volume[None], unit[None], mode=mode, padding_mode='zeros', align_corners=True
    )[0]


def blur(volume: Tensor, sigma: float) -> Tensor:
    """Smooth by a Gaussian of this standard deviation (voxels), edges repeated."""
    radius = max(1, math.ceil(2.5 * sigma))
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    total = sum(weights)
    for axis in (1, 2, 3):
        padded = _repeat_edges(volume, axis, radius)
        length = volume.shape[axis]
        smooth = torch.zeros_like(volume)
        for k, weight in enumerate(weights):
            smooth.add_(padded.narrow(axis, k, length), alpha=weight / total)
        volume = smooth
    return volume


def _repeat_edges(volume: Tensor, axis: int, count: int) -> Tensor:
    first = volume.narrow(axis, 0, 1)
    last = volume.narrow(axis, volume.shape[axis] - 1, 1)
    return torch.cat([first] * count + [volume] + [last] * count, dim=axis)


def thick_slices(volume: Tensor, axis: int, thickness: int, gap: float, start: int) -> Tensor:
    """Imitate an acquisition in thick slices, brought back to 1 mm by linear interpolation.

    Parameters
    ----------
    volume : (C, X, Y, Z)
    axis : int
        0 to 2, across the slices.
    thickness : int
        Distance of the slices (voxels).
    gap : float
        Part of the distance that no slice sees, 0 to 0.5.
    start : int
        Position of the first slice, below `thickness`.
    """
    dim = axis + 1
    seen = max(1, round(thickness * (1 - gap)))
    moved = volume.movedim(dim, -1)
    length = moved.shape[-1]
    padded = fn.pad(moved, (start, thickness))
    count = (length + start + thickness - 1) // thickness
    slabs = padded[..., : count * thickness].unflatten(-1, (count, thickness))
    slices = slabs[..., :seen].mean(-1)
    where = (torch.arange(length, device=volume.device) + start - (seen - 1) / 2) / thickness
    low = where.floor().long().clamp(0, count - 1)
    high = (low + 1).clamp(max=count - 1)
    part = (where - low).clamp(0, 1)
    back = slices[..., low] * (1 - part) + slices[..., high] * part
    return back.movedim(-1, dim).contiguous()
