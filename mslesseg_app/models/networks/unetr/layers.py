"""UNETR (Hatamizadeh et al., WACV 2022) on MONAI's class, with the paper's configuration."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.unetr import UNETR

from mslesseg_app.models.networks.edges import triple
from mslesseg_app.models.networks.heads import LesionHead, check_head

TOKEN = 16
"""Voxels along the edge of a token."""


class Unetr(LesionHead, UNETR):
    """MONAI's UNETR with one lesion logit.

    The names in its state dict are MONAI's.

    Parameters
    ----------
    inputs : int
        Image channels.
    classes : int
        Output channels: 1 for a sigmoid; 2 or more for a softmax whose first is background.
    lesion : int, optional
        Channel of lesions where the output channels are independent sigmoids.
    edge : int or three ints
        The window (voxels), multiples of 16.
    feature_size, hidden_size, mlp_dim, num_heads, proj_type, conv_block, dropout_rate, qkv_bias
        As in MONAI; the defaults are those of the code that the paper names.

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
        edge: int | Sequence[int] = 96,
        feature_size: int = 16,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
        proj_type: str = 'perceptron',
        conv_block: bool = True,
        dropout_rate: float = 0.0,
        qkv_bias: bool = False,
    ) -> None:
        check_head(classes, lesion)
        if any(e % TOKEN for e in triple(edge)):
            raise ValueError(f'edge must hold multiples of {TOKEN}')
        super().__init__(
            inputs,
            classes,
            triple(edge),
            feature_size=feature_size,
            hidden_size=hidden_size,
            mlp_dim=mlp_dim,
            num_heads=num_heads,
            proj_type=proj_type,
            norm_name='instance',
            conv_block=conv_block,
            res_block=True,
            dropout_rate=dropout_rate,
            qkv_bias=qkv_bias,
        )
        self.lesion = lesion
