"""TransBTS; its options of official weights are ``classes`` and ``edge``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mslesseg_app.models.networks.edges import EdgeRule, triple
from mslesseg_app.models.networks.spec import (
    InferenceCost,
    NetworkSpec,
    OfficialWeights,
    Rule,
    counted_down,
    from_zero,
)

if TYPE_CHECKING:
    from torch import nn


def build(inputs: int, options: Mapping[str, Any]) -> nn.Module:
    """Return an untrained network; `options` are those of `layers.TransBTS`."""
    from mslesseg_app.models.networks.transbts.layers import TransBTS

    return TransBTS(inputs, **options)


def edges(edge: int | Sequence[int] = 128, interpolate: bool = False, **_: Any) -> EdgeRule:
    """Three halvings, and the window of the table of positions."""
    return EdgeRule(8, smallest=16) if interpolate else EdgeRule(8, triple(edge), 8)


def official_names(options: Mapping[str, Any]) -> list[Rule]:
    """Return the replacements from official names to ours."""

    def layer(match: re.Match[str]) -> str:
        number, half = divmod(int(match[1]), 2)
        return f'layers.{number}.{"feed" if half else "attend"}.'

    return [
        (r'^bn\.', 'bridge_norm.'),
        (r'^conv_x\.', 'bridge.'),
        (r'^endconv\.', 'head.'),
        (r'^position_encoding\.position_embeddings$', 'positions'),
        (r'^Unet\.InitConv\.conv\.', 'encoder.stem.'),
        (r'^Unet\.EnBlock1\.', 'encoder.levels.0.0.'),
        (r'^Unet\.EnBlock(\d)_(\d)\.', from_zero('encoder.levels.{}.{}.')),
        (r'^Unet\.EnDown(\d)\.conv\.', from_zero('encoder.down.{}.')),
        (r'^Enblock8_(\d)\.', from_zero('narrow.{}.')),
        (r'^DeBlock(\d)\.', lambda match: f'up.{4 - int(match[1])}.block.'),
        (r'^DeUp(\d)\.', counted_down(4, 'up')),
        (r'^(up\.\d)\.conv1\.', r'\1.squeeze.'),
        (r'^(up\.\d)\.conv2\.', r'\1.up.'),
        (r'^(up\.\d)\.conv3\.', r'\1.join.'),
        (r'\.bn(\d)\.', r'.norm\1.'),
        (r'^transformer\.net\.(\d+)\.', layer),
        (r'\.attend\.fn\.norm\.', '.norm1.'),
        (r'\.attend\.fn\.fn\.qkv\.', '.attention.qkv.'),
        (r'\.attend\.fn\.fn\.proj\.', '.attention.out.'),
        (r'\.feed\.fn\.norm\.', '.norm2.'),
        (r'\.feed\.fn\.fn\.net\.0\.', '.linear1.'),
        (r'\.feed\.fn\.fn\.net\.3\.', '.linear2.'),
    ]


SPEC = NetworkSpec(
    build,
    edges,
    InferenceCost(200.0, 1400.0, 1.5),  # the time follows from one measured window
    reduced={
        'options': {
            'edge': 32, 'base': 4, 'groups': 2, 'width': 64, 'heads': 4, 'layers': 2,
            'hidden': 128, 'interpolate': True,
        },
        'patch': 32,
    },
    paper={
        'objective': 'softmax-dice',
        'options': {'classes': 2},
        'crop': 'grid',
        'optimizer': 'adam',
        'learning_rate': 2e-4,
        'weight_decay': 1e-5,
        'epochs': 1000,
        'batch': 8,
        'schedule': 'poly',
        'on_lesion': None,
        'statistics': 'volume',
        'background': 'moved',
        'per_slice': True,
        'precision': 'float32',
        'validate_every': 0,
        'keep': 'last',
    },
    citation='Wang et al.: TransBTS. MICCAI (2021).',
    official=OfficialWeights(
        official_names,
        stem='encoder.stem.weight',
        head='head.',
        dropped=r'^(linear_encoding|pre_head_ln)\.',
        positions='positions',
    ),
)  # fmt: skip
