"""SwinUNETR; its option of weights of the public research code is ``merging = 'legacy'``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mslesseg_app.models.networks.edges import EdgeRule
from mslesseg_app.models.networks.spec import (
    PUBLIC_VALIDATION,
    HiddenOption,
    InferenceCost,
    MonaiClass,
    NetworkSpec,
    OfficialWeights,
)

if TYPE_CHECKING:
    from torch import nn


def build(inputs: int, options: Mapping[str, Any]) -> nn.Module:
    """Return an untrained network; `options` are those of `layers.SwinUnetr`."""
    from mslesseg_app.models.networks.swinunetr.layers import SwinUnetr

    return SwinUnetr(inputs, **options)


def edges(**_: Any) -> EdgeRule:
    """Five halvings, and more than one voxel left to normalise over."""
    return EdgeRule(32, smallest=64)


SPEC = NetworkSpec(
    build,
    edges,
    InferenceCost(300.0, 1600.0, 3.6),  # the time follows from one measured window
    all_used=True,
    reduced={
        'options': {
            'feature_size': 12, 'depths': [1, 1, 1, 1], 'num_heads': [1, 2, 3, 6],
            'window_size': 4,
        },
        'patch': 64,
        'patches': 1,
    },
    paper={
        'objective': 'dice',
        'learning_rate': 1e-4,
        'weight_decay': 1e-5,
        'epochs': 300,
        'batch': 1,
        'warm_up': 50.0,
        'on_lesion': None,
        'statistics': 'patch',
        'background': 'moved',
        'validate_every': 100,
        'crop': 'multiples',
        'margin': 0,
        'validation': {
            **PUBLIC_VALIDATION, 'overlap': 0.5, 'average': 'logits', 'crop': False,
        },
    },
    citation='Hatamizadeh et al.: Swin UNETR. BrainLes, MICCAI (2021).',
    official=OfficialWeights(
        names=lambda options: [(r'\.mlp\.fc(\d)\.', r'.mlp.linear\1.')],
        stem='encoder1.layer.conv1.conv.weight',
        head='out.',
    ),
    monai=MonaiClass(
        'SwinUNETR',
        defaults={
            'feature_size': 24, 'depths': (2, 2, 2, 2), 'num_heads': (3, 6, 12, 24),
            'window_size': 7, 'mlp_ratio': 4.0, 'qkv_bias': True, 'use_v2': False,
            'merging': 'merging',
        },
        fixed={'spatial_dims': 3, 'norm_name': 'instance', 'normalize': True, 'patch_size': 2},
        renamed={'downsample': 'merging'},
    ),
    hidden={
        'merging': HiddenOption(
            'how neighbouring voxels are joined',
            {
                'legacy': 'public research code, MONAI before 1.5',
                'merging': 'MONAI 1.5 or later',
                'mergingv2': "training with downsample='mergingv2'",
            },
        )
    },
)  # fmt: skip
