"""Trained networks as predictors of whole brains, whatever memory the device has.

PyTorch is imported by this module: import it only when a network runs.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mslesseg_app.core.errors import BusyError, ModelError
from mslesseg_app.models.networks import build, fill, get_spec
from mslesseg_app.models.networks.spec import DiffusionNetwork, WindowNetwork
from mslesseg_app.models.prediction.layout import Windows
from mslesseg_app.models.prediction.prediction import Prediction, pool
from mslesseg_app.models.prediction.presets import DIFFUSION_KEYS, resolve
from mslesseg_app.models.prediction.windows import (
    Sampler,
    as_sampler,
    free_memory,
    is_out_of_memory,
    predict_detailed,
    torch_threads,
)

if TYPE_CHECKING:
    from mslesseg_app.models.diffusion import DiffusionSampler
    from mslesseg_app.models.entry import ModelEntry

LOGGER = logging.getLogger(__name__)

_GPU_BATCH = 4
"""Windows in one pass on a GPU, where the description says nothing; on the CPU it is one, because
more take memory and save no time. Of a diffusion network the chains make a batch already."""

_LARGEST_WEIGHT = float(np.exp(1 / (1 + np.exp(-1))))
"""Of a diffusion step in the published fusion."""


class _Detailed(ABC):
    """A predictor that knows more than the probability."""

    def __call__(
        self,
        channels: npt.NDArray[np.float32],
        brain: npt.NDArray[np.bool_],
        present: tuple[bool, ...],
    ) -> npt.NDArray[np.float32]:
        """Return the lesion probability; see `mslesseg_app.models.registry.Predictor`."""
        return self.detailed(channels, brain, present).prob

    @abstractmethod
    def detailed(
        self,
        channels: npt.NDArray[np.float32],
        brain: npt.NDArray[np.bool_],
        present: tuple[bool, ...],
    ) -> Prediction:
        """Return probability, variance and notes."""


class NetworkPredictor(_Detailed):
    """A network behind the predictor protocol, with its windows and its device.

    Where the device has too little memory for one window, the exam is computed on the CPU
    instead, and the prediction says so.

    Parameters
    ----------
    network : torch.nn.Module
        A `WindowNetwork` or, where its architecture says so, a `DiffusionNetwork`.
    entry : ModelEntry
        Its patch and sampler say how windows are laid; of presets, the default one counts.
    device : str
        ``cpu`` or ``cuda:N``.
    threads : int
        CPU threads.
    seed : int
        Of diffusion chains.

    Raises
    ------
    ModelError
        If the sampler is wrong, or the network does not take such windows.
    """

    def __init__(
        self, network: nn.Module, entry: ModelEntry, device: str, threads: int, seed: int = 1
    ) -> None:
        entry = resolve(entry)
        values = dict(entry.sampler)
        compiled = bool(values.pop('compile', False))
        diffusion = {key: values.pop(key) for key in DIFFUSION_KEYS if key in values}
        self.name = entry.name
        self.windows = Windows.from_mapping(entry.patch, values)
        self.own_batch = 'batch' in values
        self.network = network.eval().requires_grad_(False)
        ready: Any = self.network
        _check_edges(ready, self.windows, entry.name)
        self.threads = threads
        self.device = device
        self.diffusion = get_spec(entry.architecture).diffusion
        if self.diffusion and self.windows.average != 'probability':
            raise ModelError(
                f'The chains of {entry.name!r} have no classes: their average cannot be '
                f'{self.windows.average!r}.',
                'Correct the sampler.',
            )
        if diffusion and not self.diffusion:
            raise ModelError(
                f'The sampler of {entry.name!r} has {min(diffusion)!r}, but its network draws '
                'no chains.',
                'Correct the sampler.',
            )
        self.sampler = (
            ChainSampler(ready, seed, **diffusion)
            if self.diffusion
            else _sampler(ready, self.windows.average, compiled)
        )
        self._move_to(device)

    def detailed(
        self,
        channels: npt.NDArray[np.float32],
        brain: npt.NDArray[np.bool_],
        present: tuple[bool, ...],
    ) -> Prediction:
        """Return probability, variance over chains and flips, and notes.

        Raises
        ------
        BusyError
            If the machine has too little memory for one window.
        """
        with torch_threads(self.threads):
            try:
                return self._predict(channels, brain, self.device)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.device == 'cpu':
                    raise self._too_small() from error
            return self._on_cpu(channels, brain)

    def _on_cpu(
        self, channels: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_]
    ) -> Prediction:
        """Compute this exam, and no other, on the CPU."""
        note = f'{self.device} had too little memory for one window, so the CPU was used.'
        LOGGER.warning('%s: %s', self.name, note)
        self._move_to('cpu')
        free_memory()
        try:
            found = self._predict(channels, brain, 'cpu')
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_small() from error
        finally:
            self._move_to(self.device)
        return Prediction(found.prob, found.variance, (note, *found.notes))

    def _predict(
        self, channels: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_], device: str
    ) -> Prediction:
        sampler = self.sampler
        if isinstance(sampler, ChainSampler):
            sampler.prepare(device)
        windows = self.windows
        if device.startswith('cuda') and not (self.own_batch or self.diffusion):
            windows = replace(windows, batch=_GPU_BATCH)
        found = predict_detailed(sampler, channels, brain, windows, device)
        more = sampler.notes if isinstance(sampler, ChainSampler) else ()
        return Prediction(found.prob, found.variance, (*found.notes, *more))

    def _move_to(self, device: str) -> None:
        self.network.to(device)
        if device.startswith('cuda'):
            network: Any = self.network
            network.to(memory_format=torch.channels_last_3d)

    def _too_small(self) -> BusyError:
        edges = ' x '.join(map(str, self.windows.size))
        return BusyError(
            f'The machine has too little memory for one window ({edges} voxels) of the model '
            f'{self.name!r}.',
            'Give more memory, lower --nprocs, or choose a smaller model.',
        )


class PooledPredictor(_Detailed):
    """Several predictors of one model (folds), combined by their mean."""

    def __init__(self, members: Sequence[NetworkPredictor]) -> None:
        self.members = tuple(members)

    def detailed(
        self,
        channels: npt.NDArray[np.float32],
        brain: npt.NDArray[np.bool_],
        present: tuple[bool, ...],
    ) -> Prediction:
        """Return the mean probability, and the variance within and between the members."""
        return pool([member.detailed(channels, brain, present) for member in self.members])


class ChainSampler:
    """Windows through a diffusion network, several chains each.

    Parameters
    ----------
    network : DiffusionNetwork
    seed : int
        Noise follows from it, the window and the chain, not from the batch.
    chains, steps : int
        Chains a window, and steps a chain.
    fusion : {'probability', 'mean', 'last', 'paper', 'code'}
        ``probability`` is the mean lesion probability of all chains and steps. The others give
        the score of `mslesseg_app.models.diffusion`, rescaled to 0 … 1 so that 0.5 is the
        decision; only ``paper`` and ``probability`` are probabilities in a strict sense.
    chains_at_once : int
        Chains in one pass; 0 is all of them on a GPU and one on the CPU, where more take memory
        and save no time. Fewer are taken when memory runs short.
    clamp : bool
        See `mslesseg_app.models.diffusion.DiffusionSampler`.
    """

    def __init__(
        self,
        network: DiffusionNetwork,
        seed: int,
        chains: int = 4,
        steps: int = 10,
        fusion: str = 'code',
        chains_at_once: int = 0,
        clamp: bool = True,
    ) -> None:
        from mslesseg_app.models.diffusion import DiffusionSampler

        self.fusion = fusion
        self.wanted = chains_at_once
        self.notes: list[str] = []
        rule: Any = 'mean' if fusion == 'probability' else fusion
        self.sampler: DiffusionSampler = DiffusionSampler(
            network, steps=steps, chains=chains, fusion=rule, seed=seed, clamp=clamp
        )

    def prepare(self, device: str) -> None:
        """Begin an exam on a device."""
        every = self.sampler.chains if device.startswith('cuda') else 1
        self.sampler.chains_at_once = self.wanted or every
        self.notes = [] if self.fusion in ('probability', 'paper') else [_SCORE]

    def __call__(self, stack: Tensor, keys: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Return probability and variance (N, x, y, z) of a batch of windows."""
        while True:
            try:
                found = self.sampler.sample(stack, keys)
            except (RuntimeError, MemoryError) as error:
                chains = self.sampler.chains_at_once
                if stack.shape[0] > 1 or chains == 1 or not is_out_of_memory(error):
                    raise
                self._shrink(chains // 2)
                continue
            spread = found.variance[:, 0] if self.sampler.chains > 1 else None
            return self._value(found)[:, 0], spread

    def _shrink(self, chains: int) -> None:
        self.sampler.chains_at_once = chains
        self.notes.append(f'Memory ran short: {chains} diffusion chains at a time.')
        LOGGER.warning('Out of memory: going on with %d diffusion chains at a time.', chains)
        free_memory()

    def _value(self, found: Any) -> Tensor:
        score: Tensor = found.decision_score
        if self.fusion == 'probability':
            return found.probability
        if self.fusion == 'paper':
            return score + 0.5
        if self.fusion in ('mean', 'last'):
            return 0.5 + score / 2
        largest = _LARGEST_WEIGHT * self.sampler.chains * len(self.sampler.steps)
        return 0.5 + score / (2 * largest)


_SCORE = (
    'The map holds the score of the published fusion of diffusion chains, rescaled so that 0.5 '
    'is its decision: not a probability.'
)


def load(
    entry: ModelEntry,
    weights: Path | tuple[Path, ...] | None,
    device: str,
    *,
    threads: int,
    seed: int = 1,
) -> NetworkPredictor | PooledPredictor:
    """Build the network of an entry, fill it with its weights and return its predictor.

    Parameters
    ----------
    entry : ModelEntry
    weights : Path or tuple of Path
        Safetensors file whose hash was checked; several are folds, whose mean is taken.
    device : str
        ``cpu`` or ``cuda:N``.
    threads : int
        CPU threads.
    seed : int
        Of diffusion chains; the other networks draw no random numbers.

    Raises
    ------
    ModelError
        If the architecture is unknown here, or the weights are no tensors or do not fit it.
    """
    if weights is None:
        raise ModelError(f'The model {entry.name!r} needs weights.', 'Train or fetch them.')
    folds = []
    for path in weights if isinstance(weights, tuple) else (weights,):
        network = build(entry.architecture, len(entry.channels), entry.options)
        fill(network, path)
        folds.append(NetworkPredictor(network, entry, device, threads, seed))
    return folds[0] if len(folds) == 1 else PooledPredictor(folds)


def _check_edges(network: WindowNetwork | DiffusionNetwork, windows: Windows, name: str) -> None:
    """Refuse windows that the network cannot take."""
    problem = '' if windows.fit else network.rule.problem(windows.size)
    if problem:
        raise ModelError(
            f'The model {name!r} does not take such windows: {problem}.',
            'Correct the patch in its description.',
        )


def _sampler(network: WindowNetwork, average: str, compiled: bool) -> Sampler:
    """Return a sampler of the network's lesion logit, or of the logits of its classes."""
    run = network if average == 'probability' else network.forward_classes
    return as_sampler(_compiled(run) if compiled else run, average, network.lesion)


def _compiled(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a network that PyTorch compiles at its first window, or runs as it is."""
    import torch._dynamo

    ready: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False)

    def run(stack: Tensor) -> Tensor:
        with torch._dynamo.config.patch(suppress_errors=True):
            return ready(stack)

    return run
