"""A residual 3D U-Net, plain PyTorch.

The form is the common one: an encoder of residual blocks with strided convolutions between
the levels, a decoder that up-samples by transposed convolutions and joins the encoder's maps,
instance normalisation throughout (Çiçek et al., MICCAI 2016; He et al., CVPR 2016).  With `fold`,
blocks of voxels become channels at the input and are unfolded at the output (the sub-pixel
convolution of Shi et al., CVPR 2016): the network works at a coarser resolution, where it is
several times faster, and still sees and gives every voxel.  Auxiliary outputs on the coarser
decoder levels exist for training only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from mslesseg_app.models.networks.heads import LesionHead

NORMS: dict[str, Callable[[int], nn.Module]] = {
    'instance': partial(nn.InstanceNorm3d, affine=True),
    'batch': nn.BatchNorm3d,
}
"""Normalisations within the network. That of the batch keeps the scale of its input, and does not
depend on the window."""


def _norm_act(channels: int, norm: str) -> nn.Sequential:
    return nn.Sequential(NORMS[norm](channels), nn.LeakyReLU(0.01, inplace=True))


def _expect_rare(head: nn.Module) -> None:
    """Start an output at a probability of 1 %, about what lesions have; it saves many steps."""
    if isinstance(head, nn.Conv3d) and head.bias is not None:
        nn.init.constant_(head.bias, math.log(0.01 / 0.99))


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with a shortcut; the first may halve the resolution.

    Parameters
    ----------
    inputs, outputs : int
        Numbers of channels.
    stride : int
        1 keeps the resolution, 2 halves it.
    norm : str
        A key of `NORMS`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, norm: str = 'instance') -> None:
        super().__init__()
        self.first = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
        self.between = _norm_act(outputs, norm)
        self.second = nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm = NORMS[norm](outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            pool = nn.AvgPool3d(stride) if stride != 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, nn.Conv3d(inputs, outputs, 1, bias=False))
        self.activation = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, X, Y, Z)`` to ``(N, outputs, X/stride, Y/stride, Z/stride)``."""
        y = self.norm(self.second(self.between(self.first(x))))
        return self.activation(
            y.add_(self.shortcut(x)) if not y.requires_grad else y + self.shortcut(x)
        )


class ConvBlock(nn.Module):
    """One 3x3x3 convolution with normalisation and activation."""

    def __init__(self, inputs: int, outputs: int, norm: str = 'instance') -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, 1, 1, bias=False)
        self.norm_act = _norm_act(outputs, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, X, Y, Z)`` to ``(N, outputs, X, Y, Z)``."""
        y: Tensor = self.norm_act(self.conv(x))
        return y


def fold_voxels(x: Tensor, fold: int) -> Tensor:
    """Turn blocks of fold³ voxels into channels.

    Parameters
    ----------
    x : (N, C, X, Y, Z)
    fold : int
        Divides X, Y and Z.

    Returns
    -------
    (N, C · fold³, X / fold, Y / fold, Z / fold) tensor
    """
    n, c, *edges = x.shape
    x_, y_, z_ = (edge // fold for edge in edges)
    blocks = x.reshape(n, c, x_, fold, y_, fold, z_, fold)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, c * fold**3, x_, y_, z_)


def unfold_voxels(x: Tensor, fold: int) -> Tensor:
    """Undo `fold_voxels`."""
    n, c, x_, y_, z_ = x.shape
    blocks = x.reshape(n, c // fold**3, fold, fold, fold, x_, y_, z_)
    joined = blocks.permute(0, 1, 5, 2, 6, 3, 7, 4)
    return joined.reshape(n, c // fold**3, x_ * fold, y_ * fold, z_ * fold)


class ResidualUNet(LesionHead, nn.Module):
    """Residual U-Net.

    Parameters
    ----------
    inputs : int
        Image channels.
    outputs : int
        Target channels (logits).
    channels : sequence of int
        Channels of each level, finest first; one more level halves the resolution once more.
    auxiliary : int
        Number of coarser decoder levels with an output of their own, for training.
    norm : str
        A key of `NORMS`.
    fold : int
        Edge of the blocks of voxels that become channels; 1 folds nothing.
    blocks : int
        Blocks on each level. With 1, the finest level has none but the stem and the last
        convolution of the decoder.
    """

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        auxiliary: int = 2,
        norm: str = 'instance',
        fold: int = 1,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError('a U-Net needs two levels or more')
        if norm not in NORMS:
            raise ValueError(f'norm is none of {", ".join(NORMS)}')
        if fold < 1 or blocks < 1:
            raise ValueError('fold and blocks are 1 or more')
        self.fold = fold
        self.lesion = None
        pairs = list(pairwise(channels))
        more = range(blocks - 1)
        self.stem = ConvBlock(inputs * fold**3, channels[0], norm)
        self.entry = nn.Sequential(
            *(ResidualBlock(channels[0], channels[0], norm=norm) for _ in more)
        )
        self.down = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(low, high, 2, norm),
                *(ResidualBlock(high, high, norm=norm) for _ in more),
            )
            for low, high in pairs
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(high, low, 2, 2) for low, high in reversed(pairs)
        )
        self.join = nn.ModuleList(
            nn.Sequential(
                ConvBlock(2 * low, low, norm), *(ConvBlock(low, low, norm) for _ in more)
            )
            for low, _ in reversed(pairs)
        )
        self.head = nn.Conv3d(channels[0], outputs * fold**3, 1)
        coarse = channels[1:-1][:auxiliary]
        self.auxiliary = nn.ModuleList(nn.Conv3d(width, outputs, 1) for width in coarse)
        for head in (self.head, *self.auxiliary):
            _expect_rare(head)

    def decode(self, x: Tensor) -> list[Tensor]:
        """Return the decoder's maps, finest first."""
        folded = fold_voxels(x, self.fold) if self.fold > 1 else x
        maps = [self.entry(self.stem(folded))]
        for step in self.down:
            maps.append(step(maps[-1]))
        y = maps.pop()
        decoded: list[Tensor] = []
        for up, join in zip(self.up, self.join, strict=True):
            y = join(torch.cat([maps.pop(), up(y)], dim=1))
            if self.training:
                decoded.append(y)
        return decoded[::-1] if self.training else [y]

    def logits(self, image: Tensor) -> Tensor:
        """Return logits ``(N, outputs, X, Y, Z)`` for images ``(N, inputs, X, Y, Z)``."""
        return self._unfolded(self.decode(image)[0])

    def _unfolded(self, finest: Tensor) -> Tensor:
        logits: Tensor = self.head(finest)
        return unfold_voxels(logits, self.fold) if self.fold > 1 else logits

    def forward_all(self, image: Tensor) -> list[Tensor]:
        """Return the logits and, in training mode, those of the auxiliary outputs."""
        self.rule.check(image.shape[2:])
        maps = self.decode(image)
        coarse = zip(self.auxiliary, maps[1:], strict=False)
        return [self._unfolded(maps[0]), *(head(level) for head, level in coarse)]
