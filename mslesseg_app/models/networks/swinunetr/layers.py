"""SwinUNETR (Hatamizadeh et al., BrainLes 2021) on MONAI's class, with the paper's configuration.

MONAI's code for joining 2x2x2 neighbours changed over the years while the weights kept their
shapes, so that a checkpoint loads without a word and computes something else. The three ways are
written out here, independent of the MONAI that is installed, and the description of a model says
which one its weights were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from monai.networks.nets.swin_unetr import PatchMergingV2, SwinUNETR
from torch import Tensor

from mslesseg_app.models.networks.heads import LesionHead, check_head


class Merging(PatchMergingV2):
    """Join the 2x2x2 neighbours in the order of `octants`, normalise, reduce."""

    octants: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, X, Y, Z, C)`` of even edges to ``(N, X/2, Y/2, Z/2, 2 C)``."""
        parts = [x[:, int(o[0]) :: 2, int(o[1]) :: 2, int(o[2]) :: 2] for o in self.octants]
        y: Tensor = self.reduction(self.norm(torch.cat(parts, dim=-1)))
        return y


class CorrectedMerging(Merging):
    """``merging`` of MONAI since January 2025: each octant once."""

    octants = ('000', '100', '010', '001', '110', '101', '011', '111')


class LegacyMerging(Merging):
    """``merging`` of MONAI until January 2025: two octants twice, two never.

    Its issue 8284 names the fault and pull request 8285 corrects it; weights that were trained
    before, such as those of the public research code, need it as it was.
    """

    octants = ('000', '100', '010', '001', '101', '010', '001', '111')


class OrderedMerging(Merging):
    """``mergingv2`` of MONAI: each octant once, in counting order."""

    octants = tuple(''.join(bits) for bits in product('01', repeat=3))


MERGING: dict[str, type[Merging]] = {
    'merging': CorrectedMerging,
    'legacy': LegacyMerging,
    'mergingv2': OrderedMerging,
}
"""Ways to join neighbours, by the name in a model's options."""


class SwinUnetr(LesionHead, SwinUNETR):
    """MONAI's SwinUNETR with one lesion logit.

    The names in its state dict are MONAI's.

    Parameters
    ----------
    inputs : int
        Image channels.
    classes : int
        Output channels: 1 for a sigmoid; 2 or more for a softmax whose first is background.
    lesion : int, optional
        Channel of lesions where the output channels are independent sigmoids.
    merging : {'merging', 'legacy', 'mergingv2'}
        How 2x2x2 neighbours are joined; ``legacy`` for weights of the public research code.
    feature_size, depths, num_heads, window_size, mlp_ratio, qkv_bias, use_v2, use_checkpoint
        As in MONAI; the defaults are those of the code that the paper names. `use_v2` puts a
        convolution block before each stage.
    drop_rate, attn_drop_rate, dropout_path_rate : float
        Probabilities, in training only.
    fused : bool
        Without gradients, compute attention by PyTorch's fused function where the installed
        MONAI can: the same up to rounding, and faster.

    Raises
    ------
    ValueError
        For numbers that make no network.
    """

    def __init__(
        self,
        inputs: int = 3,
        classes: int = 1,
        lesion: int | None = None,
        merging: str = 'merging',
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | Sequence[int] = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        use_v2: bool = False,
        use_checkpoint: bool = False,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        dropout_path_rate: float = 0.0,
        fused: bool = True,
    ) -> None:
        check_head(classes, lesion)
        if merging not in MERGING:
            raise ValueError(f'merging {merging!r} is none of {", ".join(MERGING)}')
        if len(depths) != 4 or len(num_heads) != 4:
            raise ValueError('depths and num_heads need four numbers')
        join: Any = MERGING[merging]  # MONAI takes a class and says Module
        super().__init__(
            in_channels=inputs,
            out_channels=classes,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=window_size if isinstance(window_size, int) else tuple(window_size),
            qkv_bias=qkv_bias,
            mlp_ratio=mlp_ratio,
            feature_size=feature_size,
            drop_rate=drop_rate,
            attn_drop_rate=attn_drop_rate,
            dropout_path_rate=dropout_path_rate,
            use_checkpoint=use_checkpoint,
            downsample=join,
            use_v2=use_v2,
        )
        parts: Any = self.modules()
        for part in parts:
            if hasattr(part, 'use_flash_attention'):
                part.use_flash_attention = fused
        self.lesion = lesion
