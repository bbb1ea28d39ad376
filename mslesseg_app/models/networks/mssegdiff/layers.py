"""MSSegDiff: a denoiser that draws lesion masks, steered by the features of the images.

Built from the description of the baseline in Guarnera, Rondinella et al. (Scientific Data 2025),
which joins Diff-UNet (Xing et al., arXiv 2303.10326) with squeeze-and-attention blocks (Zhong et
al., CVPR 2020):

- An image encoder of five levels, two convolution units each, gives one map a level.
- A denoiser of the same form takes the images and a noisy mask, knows the diffusion step through
  a sinusoidal embedding, adds the encoder's map at each level, and returns the logits of the
  clean mask. A squeeze-and-attention block follows each level but the first, and each level up.

How masks are drawn with it is in `mslesseg_app.models.diffusion`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mslesseg_app.models.networks.edges import EdgeRule

FEATURES = (64, 64, 128, 256, 512, 64)
"""Channels of the five levels, and of the last level up."""


def _plus(x: Tensor, y: Tensor) -> Tensor:
    """Return x + y, in the memory of x where no gradient needs it."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def _plus_map(x: Tensor, image_map: Tensor) -> Tensor:
    """Add the map (N, C, …) of N images to R chains of each, ``x`` (N*R, C, …), image-major."""
    chains = x.unflatten(0, (image_map.shape[0], -1))
    return _plus(chains, image_map.unsqueeze(1)).flatten(0, 1)


def _half_resolution(x: Tensor) -> Tensor:
    """Average 2x2x2 voxels; the CPU has no such function for half precision."""
    if x.is_cuda or x.dtype in (torch.float32, torch.float64):
        return F.avg_pool3d(x, 2)
    return F.avg_pool3d(x.float(), 2).to(x.dtype)


class ConvUnit(nn.Module):
    """3x3x3 convolution, instance normalisation with weights, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, slope: float) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.norm = nn.InstanceNorm3d(outputs, affine=True)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, X, Y, Z)`` to ``(N, outputs, X, Y, Z)``."""
        return F.leaky_relu(self.norm(self.conv(x)), self.slope, inplace=True)


class TimeBlock(nn.Module):
    """Two convolution units; the embedding of the step is added between them."""

    def __init__(self, inputs: int, outputs: int, time: int, slope: float) -> None:
        super().__init__()
        self.first = ConvUnit(inputs, outputs, slope)
        self.time = nn.Linear(time, outputs)
        self.second = ConvUnit(outputs, outputs, slope)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map ``(N, inputs, X, Y, Z)``; `time` is ``(N or 1, width)``."""
        shift = self.time(F.silu(time))[:, :, None, None, None]
        y: Tensor = self.second(_plus(self.first(x), shift))
        return y


class UpBlock(nn.Module):
    """Transposed convolution, the skip map beside it, and a block with time."""

    def __init__(
        self, inputs: int, up: int, skip: int, outputs: int, time: int, slope: float
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(inputs, up, 2, 2)
        self.block = TimeBlock(skip + up, outputs, time, slope)

    def forward(self, x: Tensor, skip: Tensor, time: Tensor) -> Tensor:
        """Return a map of the resolution of `skip`."""
        y = self.up(x)
        missing = [s - e for s, e in zip(skip.shape[2:], y.shape[2:], strict=True)]
        if any(missing):
            y = F.pad(y, (0, missing[2], 0, missing[1], 0, missing[0]), mode='replicate')
        z: Tensor = self.block(torch.cat([skip, y], dim=1), time)
        return z


def _double_conv(channels: int) -> nn.Sequential:
    parts = [
        (nn.Conv3d(channels, channels, 3, padding=1), nn.BatchNorm3d(channels), nn.ReLU(True))
        for _ in range(2)
    ]
    return nn.Sequential(*(part for three in parts for part in three))


class SqueezeAttention(nn.Module):
    """Squeeze-and-attention block: ``a * m + a`` of a main path m and a coarse path a.

    The main path is a double convolution with batch normalisation and ReLU; the coarse path is
    another one on the map at half resolution, repeated to the full one. There is no sigmoid and
    no shortcut, so nothing negative comes out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = _double_conv(channels)
        self.coarse = _double_conv(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, X, Y, Z)`` of even edges to the same shape."""
        attention = F.interpolate(self.coarse(_half_resolution(x)), scale_factor=2.0)
        return torch.addcmul(attention, attention, self.main(x))


class ImageEncoder(nn.Module):
    """Features of the images at each resolution."""

    def __init__(self, inputs: int, widths: Sequence[int], slope: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(ConvUnit(low, high, slope), ConvUnit(high, high, slope))
            for low, high in pairwise((inputs, *widths))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return one map a level, finest first, for ``(N, inputs, X, Y, Z)``."""
        maps = [self.levels[0](image)]
        for level in self.levels[1:]:
            maps.append(level(F.max_pool3d(maps[-1], 2)))
        return maps


class TimeEmbedding(nn.Module):
    """Sines and cosines of the step number, through two linear layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(f'the embedding of the step cannot have {width} numbers')
        self.width = width
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, hidden)

    def forward(self, steps: Tensor) -> Tensor:
        """Map step numbers ``(N,)``, 0 to 999, to ``(N, hidden)``."""
        half = self.width // 2
        index = torch.arange(half, dtype=torch.float32, device=steps.device)
        angle = steps.float()[:, None] * torch.exp(index * (-math.log(10000) / (half - 1)))
        waves = torch.cat([angle.sin(), angle.cos()], dim=1).to(self.first.weight.dtype)
        embedded: Tensor = self.second(F.silu(self.first(waves)))
        return embedded


class Denoiser(nn.Module):
    """From images, a noisy mask and the step to the logits of the clean mask."""

    def __init__(
        self,
        inputs: int,
        features: Sequence[int],
        attention: bool,
        time_width: int,
        time_hidden: int,
        slope: float,
    ) -> None:
        super().__init__()
        *widths, last = features
        self.time = TimeEmbedding(time_width, time_hidden)
        self.stem = TimeBlock(inputs + 1, widths[0], time_hidden, slope)
        self.down = nn.ModuleList(
            TimeBlock(low, high, time_hidden, slope) for low, high in pairwise(widths)
        )
        # deepest first; the last transposed convolution keeps its channels, the others halve
        steps = list(zip(widths[::-1], widths[-2::-1], strict=False))
        ups = [deep // 2 for deep, _ in steps[:-1]] + [steps[-1][0]]
        outs = [high for _, high in steps[:-1]] + [last]
        self.up = nn.ModuleList(
            UpBlock(deep, up, high, out, time_hidden, slope)
            for (deep, high), up, out in zip(steps, ups, outs, strict=True)
        )
        self.down_attention = nn.ModuleList(self._attend(attention, w) for w in widths[1:])
        self.up_attention = nn.ModuleList(self._attend(attention, out) for out in outs)
        self.head = nn.Conv3d(last, 1, 1)

    @staticmethod
    def _attend(attention: bool, channels: int) -> nn.Module:
        return SqueezeAttention(channels) if attention else nn.Identity()

    def forward(self, image: Tensor, noisy: Tensor, steps: Tensor, maps: list[Tensor]) -> Tensor:
        """Return logits ``(N*R, 1, X, Y, Z)``; see `MSSegDiff.denoise`."""
        time = self.time(steps)
        rows = noisy.shape[0] // image.shape[0]
        image = image.repeat_interleave(rows, dim=0) if rows > 1 else image
        y = _plus_map(self.stem(torch.cat([image, noisy], dim=1), time), maps[0])
        skips = [y]
        for block, attend, image_map in zip(self.down, self.down_attention, maps[1:], strict=True):
            y = attend(_plus_map(block(F.max_pool3d(y, 2), time), image_map))
            skips.append(y)
        skips.pop()
        for up, attend in zip(self.up, self.up_attention, strict=True):
            y = attend(up(y, skips.pop(), time))
        logits: Tensor = self.head(y)
        return logits


class MSSegDiff(nn.Module):
    """Image encoder and denoiser.

    Parameters
    ----------
    inputs : int
        Image channels.
    features : sequence of int
        Channels of the levels, finest first, and then of the last level up.
    attention : bool
        Whether there are squeeze-and-attention blocks; without them it is Diff-UNet.
    time_width, time_hidden : int
        Numbers in the sinusoidal embedding of the step, and width of its linear layers.
    slope : float
        Of the leaky ReLU below zero.

    Raises
    ------
    ValueError
        For numbers that make no network.
    """

    rule: EdgeRule

    def __init__(
        self,
        inputs: int = 3,
        features: Sequence[int] = FEATURES,
        attention: bool = True,
        time_width: int = 128,
        time_hidden: int = 512,
        slope: float = 0.1,
    ) -> None:
        super().__init__()
        if len(features) < 3 or min(features) < 2:
            raise ValueError('features need two levels and the last level up, 2 or more each')
        self.encoder = ImageEncoder(inputs, tuple(features[:-1]), slope)
        self.denoiser = Denoiser(inputs, features, attention, time_width, time_hidden, slope)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the maps of images ``(N, inputs, X, Y, Z)``, one per level, finest first.

        Raises
        ------
        ValueError
            If the edges do not fit the network.
        """
        self.rule.check(image.shape[2:])
        maps: list[Tensor] = self.encoder(image)
        return maps

    def denoise(self, image: Tensor, noisy: Tensor, steps: Tensor, maps: list[Tensor]) -> Tensor:
        """Return the logits of the clean masks.

        Parameters
        ----------
        image : Tensor (N, inputs, X, Y, Z)
        noisy : Tensor (N*R, 1, X, Y, Z)
            R noisy masks of each image, those of the first image first.
        steps : Tensor (N*R,) or (1,)
            Diffusion step of each mask, 0 to 999.
        maps : list of Tensor
            From `encode`; computed once however many masks there are.

        Returns
        -------
        Tensor (N*R, 1, X, Y, Z)
        """
        logits: Tensor = self.denoiser(image, noisy, steps, maps)
        return logits

    def forward(self, image: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        """Return the logits of the clean masks; see `denoise`."""
        return self.denoise(image, noisy, steps, self.encode(image))
