"""TransBTS: a convolutional encoder and decoder with a transformer between them.

Built from Wang et al. (MICCAI 2021, arXiv 2103.04430) and the numbers of its public code. The
encoder halves the resolution three times; the coarsest map becomes one token a voxel for four
transformer layers; the decoder joins the encoder's maps on the way back. Two things differ from
the public code on purpose: the channel dropout behind the first convolution is active in training
only (there it also acts in eval mode, which makes its results random), and logits come out
instead of a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mslesseg_app.models.networks.edges import triple
from mslesseg_app.models.networks.heads import LesionHead, check_head

UNUSED = {'linear_encoding': 262_656, 'pre_head_ln': 1_024}
"""Layers that the public code holds and never uses, and their parameters (4 input channels)."""

_DOWN = 8
"""Voxels along the edge of a token."""


class PreActivation(nn.Module):
    """Group norm, ReLU and convolution, twice, and a shortcut."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, X, Y, Z)`` to the same shape."""
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(F.relu(self.norm2(y)))
        total: Tensor = y + x
        return total


class ConvBatchNorm(nn.Module):
    """Convolution, batch norm and ReLU, twice; a shortcut where the channels stay."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.norm1 = nn.BatchNorm3d(outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.BatchNorm3d(outputs)
        self.shortcut = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, X, Y, Z)`` to ``(N, outputs, X, Y, Z)``."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return y + x if self.shortcut else y


class Up(nn.Module):
    """Halve the channels, double the resolution, join the encoder's map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv3d(inputs, outputs, 1)
        self.up = nn.ConvTranspose3d(outputs, outputs, 2, 2)
        self.join = nn.Conv3d(2 * outputs, outputs, 1)
        self.block = ConvBatchNorm(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return a map of the shape of `skip`."""
        y: Tensor = self.block(self.join(torch.cat([skip, self.up(self.squeeze(x))], dim=1)))
        return y


class Attention(nn.Module):
    """Multi-head self-attention over tokens, without biases of query, key and value."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, tokens, width)`` to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        y: Tensor = F.dropout(
            self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training
        )
        return y


class TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward layers with shortcuts."""

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, attention_dropout)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, tokens, width)`` to the same shape."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        y = self.dropout(F.gelu(self.linear1(self.norm2(x))))
        return x + self.dropout(self.linear2(y))


class Encoder(nn.Module):
    """Convolutional encoder with 1, 2, 2 and 4 blocks at full to eighth resolution."""

    def __init__(self, inputs: int, base: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.stem = nn.Conv3d(inputs, base, 3, padding=1)
        self.levels = nn.ModuleList(
            nn.Sequential(*(PreActivation(base * 2**level, groups) for _ in range(count)))
            for level, count in enumerate((1, 2, 2, 4))
        )
        self.down = nn.ModuleList(
            nn.Conv3d(base * 2**level, base * 2 ** (level + 1), 3, 2, 1) for level in range(3)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps of the four levels, finest first."""
        y = F.dropout3d(self.stem(image), self.dropout, self.training)
        maps = [self.levels[0](y)]
        for down, level in zip(self.down, self.levels[1:], strict=True):
            maps.append(level(down(maps[-1])))
        return maps


class TransBTS(LesionHead, nn.Module):
    """The network.

    Parameters
    ----------
    inputs : int
        Image channels.
    classes : int
        Output channels: 1 for a sigmoid; 2 or more for a softmax whose first is background.
    lesion : int, optional
        Channel of lesions where the output channels are independent sigmoids.
    edge : int or three ints
        Window (voxels) that the table of positions is made for; multiples of 8.
    interpolate : bool
        Take other windows too, with the table of positions interpolated linearly.
    base : int
        Channels at full resolution; they double three times.
    width, heads, layers, hidden : int
        Of the transformer: numbers a token, heads, layers, and width of the feed-forward part.
    groups : int
        Of the group normalisation.
    dropout, attention_dropout, stem_dropout : float
        Probabilities, in training only.
    keep_unused : bool
        Hold the layers of the public code that nothing uses (`UNUSED`), to the same count.

    Raises
    ------
    ValueError
        For numbers that make no network.
    """

    def __init__(
        self,
        inputs: int = 3,
        classes: int = 2,
        lesion: int | None = None,
        edge: int | Sequence[int] = 128,
        interpolate: bool = False,
        base: int = 16,
        width: int = 512,
        heads: int = 8,
        layers: int = 4,
        hidden: int = 4096,
        groups: int = 8,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        stem_dropout: float = 0.2,
        keep_unused: bool = False,
    ) -> None:
        super().__init__()
        check_head(classes, lesion)
        if any(e % _DOWN for e in triple(edge)):
            raise ValueError(f'edge must hold multiples of {_DOWN}')
        if width % heads or base % groups:
            raise ValueError('heads must divide width, and groups must divide base')
        self.interpolate = interpolate
        self.grid = tuple(e // _DOWN for e in triple(edge))
        self.lesion = lesion
        self.encoder = Encoder(inputs, base, groups, stem_dropout)
        self.bridge_norm = nn.BatchNorm3d(8 * base)
        self.bridge = nn.Conv3d(8 * base, width, 3, padding=1)
        tokens = self.grid[0] * self.grid[1] * self.grid[2]
        self.positions = nn.Parameter(torch.zeros(1, tokens, width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(
            *(
                TransformerLayer(width, heads, hidden, dropout, attention_dropout)
                for _ in range(layers)
            )
        )
        self.narrow = nn.Sequential(
            ConvBatchNorm(width, 8 * base), ConvBatchNorm(8 * base, 8 * base)
        )
        self.up = nn.ModuleList(Up(base * 2 ** (n + 1), base * 2**n) for n in (2, 1, 0))
        self.head = nn.Conv3d(base, classes, 1)
        if keep_unused:
            self.linear_encoding = nn.Linear(128 * 4, width)
            self.pre_head_ln = nn.LayerNorm(width)

    def table(self, grid: Sequence[int]) -> Tensor:
        """Return the positions (1, tokens, width) for a grid of tokens."""
        if tuple(grid) == self.grid:
            return self.positions
        if not self.interpolate:
            raise ValueError(f'there are no positions for {tuple(grid)} tokens')
        volume = self.positions.transpose(1, 2).unflatten(2, self.grid)
        volume = F.interpolate(volume, tuple(grid), mode='trilinear')
        return volume.flatten(2).transpose(1, 2)

    def transform(self, x: Tensor) -> Tensor:
        """Map the coarsest map (N, 8 base, x, y, z) to (N, width, x, y, z)."""
        y = self.bridge(F.relu(self.bridge_norm(x)))
        grid = y.shape[2:]
        tokens = y.flatten(2).transpose(1, 2)
        tokens = self.layers(self.dropout(tokens + self.table(grid)))
        return tokens.transpose(1, 2).unflatten(2, tuple(grid)).contiguous()

    def logits(self, image: Tensor) -> Tensor:
        """Return the logits (N, classes, X, Y, Z) of images (N, inputs, X, Y, Z)."""
        *skips, y = self.encoder(image)
        y = self.narrow(self.transform(y))
        for up in self.up:
            y = up(y, skips.pop())
        logits: Tensor = self.head(y)
        return logits
