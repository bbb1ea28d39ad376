"""UNETR; its options of official weights are ``classes`` and ``edge``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mslesseg_app.models.networks.edges import EdgeRule, triple
from mslesseg_app.models.networks.spec import (
    PUBLIC_VALIDATION,
    InferenceCost,
    MonaiClass,
    NetworkSpec,
    OfficialWeights,
)

if TYPE_CHECKING:
    from torch import nn


def build(inputs: int, options: Mapping[str, Any]) -> nn.Module:
    """Return an untrained network; `options` are those of `layers.Unetr`."""
    from mslesseg_app.models.networks.unetr.layers import Unetr

    return Unetr(inputs, **options)


def edges(edge: int | Sequence[int] = 96, **_: Any) -> EdgeRule:
    """Tokens of 16 voxels, and the window of the table of positions."""
    return EdgeRule(16, triple(edge), 16)


SPEC = NetworkSpec(
    build,
    edges,
    InferenceCost(20.0, 60.0, 1.6, measured=True),
    reduced={
        'options': {
            'edge': 32, 'feature_size': 4, 'hidden_size': 96, 'mlp_dim': 192, 'num_heads': 4,
        },
        'patch': 32,
    },
    paper={
        'objective': 'softmax-dice+ce',
        'options': {'classes': 2},
        'margin': 0,
        'learning_rate': 1e-4,
        'weight_decay': 1e-5,
        'epochs': 5000,
        'batch': 1,
        'patches': 4,
        'warm_up': 50.0,
        'on_lesion': 0.5,
        'statistics': 'volume',  # the window of CT values there means nothing in MRI
        'background': 'moved',
        'flip': 0.2,
        'rotate': 0.2,
        'jitter': 0.1,
        'validate_every': 100,
        'validation': {**PUBLIC_VALIDATION, 'overlap': 0.5, 'average': 'logits'},
    },
    citation='Hatamizadeh et al.: UNETR. WACV (2022).',
    official=OfficialWeights(
        names=lambda options: [],
        stem='encoder1.layer.conv1.conv.weight',
        head='out.',
        dropped=r'^vit\.blocks\.\d+\.(norm_)?cross_attn\.|^vit\.(patch_embedding\.)?cls_token$',
        positions='vit.patch_embedding.position_embeddings',
        advice=(
            (
                r'^encoder[234]\.blocks\.\d+\.conv\.',
                'Its encoder has no convolution blocks: set the option conv_block=false.',
            ),
            (
                r'^vit\.patch_embedding\.patch_embeddings\.weight$',
                'Its tokens are made by a convolution: set the option proj_type=conv.',
            ),
        ),
    ),
    monai=MonaiClass(
        'UNETR',
        defaults={
            'feature_size': 16, 'hidden_size': 768, 'mlp_dim': 3072, 'num_heads': 12,
            'proj_type': 'conv', 'conv_block': True, 'qkv_bias': False,
        },
        fixed={'spatial_dims': 3, 'norm_name': 'instance', 'res_block': True},
        renamed={'pos_embed': 'proj_type', 'img_size': 'edge'},
    ),
)  # fmt: skip
