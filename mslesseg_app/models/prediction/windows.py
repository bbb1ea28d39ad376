"""Sliding windows: a network that sees a part at a time, over a whole brain.

Only the box around the brain is covered, windows without brain are skipped, overlapping
predictions are blended, and the batch shrinks when the device runs out of memory. The result
does not depend on the batch beyond rounding. PyTorch is imported by this module: import it only
when a network runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mslesseg_app.models.prediction.device import cpu_has_bfloat16
from mslesseg_app.models.prediction.layout import (
    Triple,
    Windows,
    brain_box,
    importance,
    plan,
    window_key,
    window_part,
)
from mslesseg_app.models.prediction.prediction import Prediction

LOGGER = logging.getLogger(__name__)

Network = Callable[[Tensor], Tensor]
"""Maps windows (N, C, x, y, z) to logits (N, 1, x, y, z)."""

Sampler = Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor | None]]
"""Maps windows (N, C, x, y, z) and a key of each to what is averaged, the probability (N, x, y, z)
or values of each class (N, K, x, y, z), and to the variance (N, x, y, z) over what the sampler
varies, or None. A key belongs to a window of an exam, whatever the batch."""

_DTYPES = {'float32': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
_HALF_ON_CPU = 'Computed in bfloat16, which this processor has (--preset exact: float32).'
_NO_MEMORY = ('not enough memory', "can't allocate memory", 'out of memory')


def as_sampler(
    network: Network, average: str = 'probability', lesion: int | None = None
) -> Sampler:
    """Make a sampler of a network.

    Parameters
    ----------
    network : callable
        Gives the lesion logit in its first channel for ``probability``, else the logits of all
        classes.
    average : {'probability', 'logits', 'softmax-twice'}
        See `Windows`.
    lesion : int, optional
        Channel of lesions where the classes are independent sigmoids.
    """

    def sampler(stack: Tensor, keys: Sequence[int]) -> tuple[Tensor, None]:
        logits = network(stack).float()
        if average == 'probability':
            return torch.sigmoid(logits[:, 0]), None
        if lesion is not None:
            logits = logits[:, lesion : lesion + 1]
        if average == 'logits':
            return logits, None
        one = logits.shape[1] == 1  # has no softmax
        return torch.sigmoid(logits) if one else logits.softmax(1).softmax(1), None

    return sampler


def lesion_score(values: Tensor, average: str) -> Tensor:
    """Return the lesion score of averaged values: 0 to 1, from 0.5 on lesion is the decision.

    Parameters
    ----------
    values : Tensor (x, y, z) or (K, x, y, z)
        What a sampler gave, averaged.
    average : {'probability', 'logits', 'softmax-twice'}
        ``probability`` is left as it is. Of several classes, the first of which is background,
        the largest value decides: the score is the softmax of background and the largest of the
        others, or the share of the latter in both. With one class it is that of a sigmoid.
    """
    if average == 'probability':
        return values
    if values.shape[0] == 1:
        return torch.sigmoid(values[0]) if average == 'logits' else values[0]
    background, lesion = values[0], values[1:].amax(dim=0)
    if average == 'logits':
        return torch.sigmoid(lesion - background)
    return lesion / (lesion + background)


def predict_detailed(
    sampler: Sampler,
    channels: npt.NDArray[np.float32],
    brain: npt.NDArray[np.bool_],
    windows: Windows,
    device: str = 'cpu',
) -> Prediction:
    """Return the probability that a sampler gives over a whole brain, and its variance.

    Parameters
    ----------
    sampler : callable
        See `Sampler`; already on `device`.
    channels : float32 array (C, X, Y, Z)
    brain : bool array (X, Y, Z)
    windows : Windows
    device : str
        ``cpu`` or ``cuda:N``.

    Returns
    -------
    Prediction
        Zero outside the box around the brain. The variance is that within the windows (over
        chains and flips), blended like the probability; None if neither is varied.

    Raises
    ------
    torch.OutOfMemoryError, MemoryError, RuntimeError
        If not even one window fits the device (see `is_out_of_memory`).
    """
    box = brain_box(brain, windows.margin)
    if not windows.crop:
        box = (slice(None), slice(None), slice(None))
    part = torch.from_numpy(np.ascontiguousarray(channels[(slice(None), *box)])).to(device)
    precision = precision_of(device, windows.precision)
    half = device == 'cpu' and windows.precision == 'auto' and precision == 'bfloat16'
    run = _Run(sampler, part, brain[box], windows, windows.batch, [_HALF_ON_CPU] if half else [])
    with torch.inference_mode(), _autocast(device, precision):
        prob, variance = run.pooled()
    return Prediction(
        prob=_full_size(prob, brain.shape, box),
        variance=None if variance is None else _full_size(variance, brain.shape, box),
        notes=tuple(dict.fromkeys(run.notes)),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has too little memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def _full_size(
    values: Tensor, shape: tuple[int, ...], box: tuple[slice, slice, slice]
) -> npt.NDArray[np.float32]:
    """Return an array of this shape, zero but for the values in the box."""
    result = np.zeros(shape, dtype=np.float32)
    result[box] = values.float().cpu().numpy()
    return result


def _pad(channels: Tensor, size: Triple) -> tuple[Tensor, Triple]:
    """Add zeros on both sides of axes that are shorter than a window.

    Returns
    -------
    Tensor (C, x, y, z)
    three ints
        Voxels added before each axis.
    """
    missing = [max(0, e - n) for n, e in zip(channels.shape[1:], size, strict=True)]
    x, y, z = (m // 2 for m in missing)
    around = (z, missing[2] - z, y, missing[1] - y, x, missing[0] - x)
    return torch.nn.functional.pad(channels, around), (x, y, z)


@dataclass
class _Run:
    """The windows of one exam on their way through a sampler."""

    sampler: Sampler
    channels: Tensor
    brain: npt.NDArray[np.bool_]
    windows: Windows
    batch: int
    notes: list[str] = field(default_factory=list)

    def pooled(self) -> tuple[Tensor, Tensor | None]:
        """Return score and variance (x, y, z) of the image and all its mirrorings.

        The variance is that of the mirrorings and the mean of that within them (law of total
        variance, as `mslesseg_app.models.prediction.prediction.pool`).
        """
        axes = self.windows.flips
        chosen = [c for n in range(len(axes) + 1) for c in combinations(axes, n)]
        total: Tensor | None = None
        inner: Tensor | None = None
        scores = []
        for number, flip in enumerate(chosen):
            values, spread = self._mirrored(flip, number)
            total = values if total is None else total + values
            scores.append(lesion_score(values, self.windows.average))
            if spread is not None:
                inner = spread if inner is None else inner + spread
        assert total is not None
        score = lesion_score(total / len(chosen), self.windows.average)
        variance = None if inner is None else inner / len(chosen)
        if len(scores) > 1:
            outer = torch.stack(scores).var(dim=0, correction=0)
            variance = outer if variance is None else variance + outer
        return score, variance

    def _mirrored(self, flip: tuple[int, ...], number: int) -> tuple[Tensor, Tensor | None]:
        """Lay windows over the mirrored image, and turn what comes out back."""
        dims = [axis - 3 for axis in flip]
        brain = np.flip(self.brain, flip) if flip else self.brain
        values, spread = self._blended(self.channels.flip(dims), brain, number)
        return values.flip(dims), None if spread is None else spread.flip(dims)

    def _blended(
        self, channels: Tensor, brain: npt.NDArray[np.bool_], number: int
    ) -> tuple[Tensor, Tensor | None]:
        """Return the weighted mean (…, x, y, z) of the windows' values and variances."""
        size, corners = plan(brain, self.windows)
        padded, before = _pad(channels, size)
        weight = torch.from_numpy(importance(size, self.windows.blending, self.windows.sigma))
        weight = weight.to(padded.device)
        norm = torch.zeros(padded.shape[1:], device=padded.device)
        total: Tensor | None = None
        spread: Tensor | None = None
        for corner, values, variance in self._passes(padded, corners, size, number):
            part = (..., *window_part(corner, size))
            share = (norm[part] == 0).float() if self.windows.blending == 'first' else weight
            if total is None:
                total = norm.new_zeros((*values.shape[:-3], *norm.shape))
            total[part] += values * share
            norm[part] += share
            if variance is not None:
                spread = torch.zeros_like(norm) if spread is None else spread
                spread[part] += variance * share
        assert total is not None
        norm.clamp_(min=1e-6)
        kept: tuple[Any, ...] = (
            ...,
            *(slice(b, b + n) for b, n in zip(before, brain.shape, strict=True)),
        )
        return (total / norm)[kept], None if spread is None else (spread / norm)[kept]

    def _passes(
        self, channels: Tensor, corners: list[Triple], size: Triple, number: int
    ) -> Iterator[tuple[Triple, Tensor, Tensor | None]]:
        """Yield corner, values and variance of each window; shrink a batch too large."""
        done = 0
        while done < len(corners):
            now = corners[done : done + self.batch]
            keys = [window_key(corner, number) for corner in now]
            try:
                stack = torch.stack([channels[(slice(None), *window_part(c, size))] for c in now])
                values, variances = self.sampler(stack, keys)
            except (RuntimeError, MemoryError) as error:
                if len(now) == 1 or not is_out_of_memory(error):
                    raise
                self._shrink(max(1, len(now) // 2))
                continue
            for index, corner in enumerate(now):
                yield corner, values[index], None if variances is None else variances[index]
            done += len(now)

    def _shrink(self, batch: int) -> None:
        self.batch = batch
        many = f'{batch} windows' if batch > 1 else 'one window'
        self.notes.append(f'Memory ran short: {many} at a time.')
        LOGGER.warning('Out of memory: going on with %s at a time.', many)
        free_memory()


def free_memory() -> None:
    """Give back what PyTorch keeps of a GPU's memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def precision_of(device: str, wanted: str) -> str:
    """Return the precision that ``auto`` stands for on a device; another word as it is."""
    if wanted != 'auto':
        return wanted
    if device.startswith('cuda'):
        return 'bfloat16' if torch.cuda.is_bf16_supported() else 'float16'
    return 'bfloat16' if cpu_has_bfloat16() else 'float32'


def _autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return the context of half precision, or of none."""
    kind = _DTYPES[precision]
    return nullcontext() if kind is None else torch.autocast(device.partition(':')[0], kind)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Use this many CPU threads inside the block, and the former number after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)
