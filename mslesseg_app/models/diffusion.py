"""Drawing lesion masks from noise, and what the draws say together.

The masks are values x0 of -1 (background) and 1 (lesion). Noise is added over 1000 steps with
variances that rise linearly from 1e-4 to 0.02 (Ho et al., NeurIPS 2020), so that

    x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise,      a_t = product of (1 - variance) up to t.

The network estimates x0 from x_t. Drawing goes backwards over a few of the steps without new
noise (DDIM with eta 0; Song et al., ICLR 2021): from x_t and the estimate of x0 follows the noise,
and from both x at the next lower step; the last one gives x0 itself.

**Several chains.** A window is drawn S times from independent noise. Four ways to combine S x T
estimates are named as follows, with l the logits, x the clamped ones, i = 1 … T the step (1 is the
noisiest), means over the chains s, and w_i = exp(sigmoid(i / T) (1 - u_i)), u_i = -p_i ln p_i:

- ``code``: p_i = max(sigmoid(mean l_is), 0.001); score = sum over i of w_i (sum over s of x_is).
  This is what the public code of MSSegDiff and Diff-UNet computes; above 0 is lesion.
- ``paper``: p_i = mean over s of sigmoid(l_is); score = (sum of w_i p_i) / (sum of w_i) - 0.5,
  after the formula of Diff-UNet (arXiv 2303.10326), whose sum has no scale of its own: the
  division gives it one.
- ``mean``: score = mean of all x_is.
- ``last``: score = mean over s of x_Ts, the masks at which the chains end; with one chain, what
  the public code of MSSegDiff validates by.

**Probability.** The official score saturates any sigmoid, so it is no probability. Ours is the
mean of sigmoid(l_is) over chains and steps. The reason: an estimator trained with proper losses
gives the expectation of the mask given x_t and the image; averaged over draws of x_t this is, at
every step, the expectation given the image alone. All S x T terms estimate the same number, so
their mean is the one with the least variance. Where the network is trained with a soft Dice loss
too, which sharpens, its calibration has to be measured, not believed.

**Uncertainty.** Variance over the chains (population variance, 0 to 0.25) of the probability with
which each chain ended; 0 with one chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks.spec import DiffusionNetwork

STEPS = 1000
"""Steps of the whole diffusion."""

FusionName = Literal['code', 'paper', 'mean', 'last']
_FLOOR = 0.001


# ---------------------------------------------------------------------------- schedule


def kept_signal() -> npt.NDArray[np.float64]:
    """Return a_t, the share (steps,) of the mask's variance that is left after each step."""
    variances = np.linspace(1e-4, 0.02, STEPS, dtype=np.float64)
    return np.cumprod(1.0 - variances, dtype=np.float64)


def respaced(count: int) -> tuple[int, ...]:
    """Return `count` of the steps 0 … 999, evenly spread, both ends among them.

    The rule is that of the public code ("sections"): multiples of 999 / (count - 1),
    rounded to whole steps. A single step is the last one, because drawing starts from pure noise
    (the public rule would give step 0 there).

    Raises
    ------
    ModelError
        Unless 1 <= count <= 1000.

    Examples
    --------
    >>> respaced(10)
    (0, 111, 222, 333, 444, 555, 666, 777, 888, 999)
    """
    if not 1 <= count <= STEPS:
        raise ModelError(
            f'{count} diffusion steps cannot be taken.', f'Choose 1 to {STEPS} steps.'
        )
    if count == 1:
        return (STEPS - 1,)
    stride = (STEPS - 1) / (count - 1)
    return tuple(round(stride * n) for n in range(count))


def q_sample(x0: Tensor, steps: Tensor, noise: Tensor) -> Tensor:
    """Add noise to masks.

    Parameters
    ----------
    x0 : Tensor (N, 1, X, Y, Z)
        -1 and 1.
    steps : Tensor of int (N,)
        0 to 999.
    noise : Tensor (N, 1, X, Y, Z)
        Standard normal.

    Returns
    -------
    Tensor (N, 1, X, Y, Z)
    """
    kept = torch.from_numpy(kept_signal())[steps.cpu()]
    shape = (-1, *(1,) * (x0.ndim - 1))
    signal, rest = (
        value.sqrt().to(x0.device, x0.dtype).reshape(shape) for value in (kept, 1 - kept)
    )
    return signal * x0 + rest * noise


def training_output(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    image: Tensor,
    mask: Tensor,
    steps: Tensor,
    noise: Tensor,
) -> Tensor:
    """Return the logits that a training step compares with the mask.

    Parameters
    ----------
    network : callable
        Maps images, noisy masks and steps to logits.
    image : Tensor (N, C, X, Y, Z)
    mask : Tensor (N, 1, X, Y, Z)
        0 and 1.
    steps : Tensor of int (N,)
        Drawn uniformly from 0 to 999.
    noise : Tensor (N, 1, X, Y, Z)
        Standard normal.

    Returns
    -------
    Tensor (N, 1, X, Y, Z)
        For losses on sigmoid(logits) against the mask.
    """
    return network(image, q_sample(2 * mask.to(image.dtype) - 1, steps, noise), steps)


def chain_noise(seed: int, key: int, chain: int, shape: Sequence[int]) -> Tensor:
    """Return the noise from which one chain of one window starts.

    It depends on nothing but the arguments: not on the device, the batch or the order.

    Parameters
    ----------
    seed : int
        Of the run.
    key : int
        Of the window, see `windows.window_key`.
    chain : int
    shape : sequence of int
        Edges of the window.

    Returns
    -------
    float32 Tensor of that shape, on the CPU
    """
    digest = hashlib.sha256(f'{seed}:{key}:{chain}'.encode()).digest()
    generator = torch.Generator('cpu')
    generator.manual_seed(int.from_bytes(digest[:8], 'little') >> 1)
    return torch.randn(tuple(shape), generator=generator)


# ------------------------------------------------------------------------------ fusion


def _emphasis(prob: Tensor, progress: float) -> Tensor:
    """Return exp(sigmoid(progress) (1 - u)) with u = -p ln p."""
    entropy = -torch.xlogy(prob, prob)
    return torch.exp((1 - entropy) / (1 + np.exp(-progress)))


def _as_coded(logits: Tensor, x0: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    prob = torch.sigmoid(logits.mean(dim=1)).clamp_min(_FLOOR)
    return _emphasis(prob, progress), x0.sum(dim=1)


def _as_published(logits: Tensor, x0: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    prob = torch.sigmoid(logits).mean(dim=1)
    return _emphasis(prob, progress), prob - 0.5


def _mean_of_chains(logits: Tensor, x0: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    value = x0.mean(dim=1)
    return torch.ones_like(value), value


def _final(logits: Tensor, x0: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    value = x0.mean(dim=1)
    return torch.full_like(value, float(progress == 1)), value


FUSIONS: dict[str, tuple[Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]], bool]] = {
    'code': (_as_coded, False),
    'paper': (_as_published, True),
    'mean': (_mean_of_chains, True),
    'last': (_final, True),
}
"""Weight and value of one step from logits and x0 (N, S, 1, …), and whether weights are shares."""


class Fusion:
    """Combines the chains, step by step, without keeping them.

    Parameters
    ----------
    name : {'code', 'paper', 'mean', 'last'}
        See the module.

    Raises
    ------
    ModelError
        For another name.
    """

    def __init__(self, name: str) -> None:
        if name not in FUSIONS:
            raise ModelError(
                f'There is no fusion {name!r} of diffusion chains.',
                f'Choose one of: {", ".join(FUSIONS)}.',
            )
        self._step, self._shares = FUSIONS[name]
        self._total: Tensor | None = None
        self._weight: Tensor | None = None

    def add(self, logits: Tensor, x0: Tensor, progress: float) -> None:
        """Take in one step: logits and estimates (N, S, 1, X, Y, Z), and i / T."""
        weight, value = self._step(logits, x0, progress)
        if self._total is None or self._weight is None:
            self._total, self._weight = weight * value, weight
        else:
            self._total = self._total.addcmul_(weight, value)
            self._weight = self._weight + weight

    def score(self) -> Tensor:
        """Return the score (N, 1, X, Y, Z); above 0 is lesion."""
        if self._total is None or self._weight is None:
            raise ValueError('no step was taken in')
        return self._total / self._weight if self._shares else self._total


# ----------------------------------------------------------------------------- sampler


@dataclass(frozen=True)
class Sampled:
    """What the chains of N windows give; each a float32 Tensor (N, 1, X, Y, Z).

    Attributes
    ----------
    probability : Tensor
        Of lesion, 0 to 1.
    decision_score : Tensor
        Score of the fusion; above 0 is lesion. Scores of overlapping windows are averaged
        before they are compared with 0.
    variance : Tensor
        Over the chains, 0 to 0.25.
    """

    probability: Tensor
    decision_score: Tensor
    variance: Tensor


class DiffusionSampler:
    """Draws lesion masks of windows with a network.

    The features of a window are computed once; all its chains take a step in one pass.

    Parameters
    ----------
    network : DiffusionNetwork
        In eval mode, on the device of the windows.
    steps : int
        Steps of a chain, 1 to 1000.
    chains : int
        Masks that are drawn of each window.
    fusion : {'code', 'paper', 'mean', 'last'}
        How the decision score is made.
    seed : int
        The noise of a chain follows from it, the window's key and the chain's number.
    clamp : bool
        Take the logits, clamped to -1 … 1, as estimate of x0, as the public code does. Without
        it, the estimate is 2 sigmoid(logit) - 1, the scale that the losses train.
    chains_at_once : int, optional
        Chains in one pass, where all of them do not fit the memory. Does not change the result
        beyond rounding.

    Attributes
    ----------
    encoder_passes, denoiser_passes : int
        Windows that went through the encoder, and windows times chains times steps through the
        denoiser, so far.

    Raises
    ------
    ModelError
        For numbers or names that make no sampler.
    """

    def __init__(
        self,
        network: DiffusionNetwork,
        steps: int = 10,
        chains: int = 4,
        fusion: FusionName = 'code',
        seed: int = 1,
        clamp: bool = True,
        chains_at_once: int | None = None,
    ) -> None:
        Fusion(fusion)
        if chains < 1 or (chains_at_once is not None and chains_at_once < 1):
            raise ModelError(
                'A diffusion sampler needs one chain or more.', 'Correct the sampler.'
            )
        self.network = network
        self.steps = respaced(steps)
        self.chains = chains
        self.fusion = fusion
        self.seed = seed
        self.clamp = clamp
        self.chains_at_once = chains_at_once or chains
        self.encoder_passes = 0
        self.denoiser_passes = 0
        self._kept = kept_signal()

    @torch.inference_mode()
    def sample(self, windows: Tensor, keys: Sequence[int]) -> Sampled:
        """Draw the masks of some windows.

        Parameters
        ----------
        windows : Tensor (N, C, X, Y, Z)
            Normalised images.
        keys : sequence of int, length N
            Name of each window, see `windows.window_key`.

        Returns
        -------
        Sampled
            On the device of the windows.

        Raises
        ------
        ValueError
            If there are not as many keys as windows, or the edges do not fit the network.
        """
        if len(keys) != windows.shape[0]:
            raise ValueError(f'{len(keys)} keys for {windows.shape[0]} windows')
        maps = self.network.encode(windows)
        self.encoder_passes += len(keys)
        noisy = self._start(windows, keys)
        fusion, total = Fusion(self.fusion), torch.zeros_like(noisy[:, 0])
        prob = noisy
        for index in reversed(range(len(self.steps))):
            logits = self._logits(windows, noisy, self.steps[index], maps)
            prob = torch.sigmoid(logits)
            x0 = logits.clamp(-1, 1) if self.clamp else 2 * prob - 1
            fusion.add(logits, x0, 1 - index / len(self.steps))
            total += prob.mean(dim=1)
            noisy = self._back(noisy, x0, index)
        variance = prob.var(dim=1, correction=0)
        return Sampled(total / len(self.steps), fusion.score(), variance)

    def _start(self, windows: Tensor, keys: Sequence[int]) -> Tensor:
        """Return the noise (N, S, 1, X, Y, Z) of all chains."""
        shape = windows.shape[2:]
        noise = [
            torch.stack([chain_noise(self.seed, key, c, shape) for c in range(self.chains)])
            for key in keys
        ]
        return torch.stack(noise).unsqueeze(2).to(windows.device)

    def _logits(self, windows: Tensor, noisy: Tensor, step: int, maps: list[Tensor]) -> Tensor:
        """Return the logits (N, S, 1, X, Y, Z) of all chains at one step."""
        steps = torch.full((1,), step, device=windows.device)
        parts = []
        for chains in noisy.to(windows.dtype).split(self.chains_at_once, dim=1):
            logits = self.network.denoise(windows, chains.flatten(0, 1), steps, maps)
            parts.append(logits.float().unflatten(0, chains.shape[:2]))
            self.denoiser_passes += chains.shape[0] * chains.shape[1]
        return torch.cat(parts, dim=1)

    def _back(self, noisy: Tensor, x0: Tensor, index: int) -> Tensor:
        """Return x at the next lower of the chosen steps; x0 itself after the last."""
        if index == 0:
            return x0
        here, there = self._kept[self.steps[index]], self._kept[self.steps[index - 1]]
        rest = np.sqrt((1 - there) / (1 - here))
        signal = np.sqrt(there) - rest * np.sqrt(here)
        return float(signal) * x0 + float(rest) * noisy
