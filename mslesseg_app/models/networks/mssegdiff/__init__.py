"""MSSegDiff; weights of Diff-UNet with one target channel fit too, by ``attention = false``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mslesseg_app.models.networks.edges import EdgeRule
from mslesseg_app.models.networks.spec import (
    PUBLIC_VALIDATION,
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
    """Return an untrained network; `options` are those of `layers.MSSegDiff`."""
    from mslesseg_app.models.networks.mssegdiff.layers import MSSegDiff

    return MSSegDiff(inputs, **options)


def edges(
    features: Sequence[int] = (64, 64, 128, 256, 512, 64), attention: bool = True, **_: Any
) -> EdgeRule:
    """The last attention block halves once more than the levels do."""
    smallest = 2 ** (len(features) - 1)
    return EdgeRule(smallest if attention else 1, smallest=smallest)


def official_names(options: Mapping[str, Any]) -> list[Rule]:
    """Return the replacements from official names to ours."""
    deepest = len(options.get('features', range(6))) - 2
    return [
        (r'^embed_model\.conv_0\.conv_', 'encoder.levels.0.'),
        (r'^embed_model\.down_(\d+)\.convs\.conv_', r'encoder.levels.\1.'),
        (r'^model\.', 'denoiser.'),
        (r'^denoiser\.temb\.dense\.0\.', 'denoiser.time.first.'),
        (r'^denoiser\.temb\.dense\.1\.', 'denoiser.time.second.'),
        (r'^denoiser\.conv_0\.', 'denoiser.stem.'),
        (r'^denoiser\.down_(\d+)\.convs\.', from_zero('denoiser.down.{}.')),
        (r'^denoiser\.upcat_(\d+)\.', counted_down(deepest, 'denoiser.up')),
        (r'^denoiser\.dsa(\d+)\.', from_zero('denoiser.down_attention.{}.')),
        (r'^denoiser\.usa(\d+)\.', counted_down(deepest, 'denoiser.up_attention')),
        (r'^denoiser\.final_conv\.', 'denoiser.head.'),
        (r'\.upsample\.deconv\.', '.up.'),
        (r'\.convs\.', '.block.'),
        (r'\.temb_proj\.', '.time.'),
        (r'^(denoiser\..*)\.conv_0\.', r'\1.first.'),
        (r'^(denoiser\..*)\.conv_1\.', r'\1.second.'),
        (r'\.adn\.N\.', '.norm.'),
        (r'attention\.(\d+)\.conv\.conv\.', r'attention.\1.main.'),
        (r'attention\.(\d+)\.conv_atten\.conv\.', r'attention.\1.coarse.'),
    ]


SPEC = NetworkSpec(
    build,
    edges,
    InferenceCost(1300.0, 24000.0, 4.0),  # the memory is assumed
    diffusion=True,
    all_used=True,
    reduced={
        'options': {'features': [4, 8, 16, 16, 4], 'time_width': 32, 'time_hidden': 64},
        'patch': 32,
        'sampler': {
            'overlap': 0.0, 'margin': 0, 'chains': 1, 'steps': 1, 'fusion': 'probability',
        },
    },
    paper={
        'objective': 'dice+bce+mse',
        'learning_rate': 1e-4,
        'weight_decay': 1e-3,
        'epochs': 500,
        'batch': 2,
        'warm_up': 50.0,
        'on_lesion': None,
        'statistics': 'patch',
        'background': 'moved',
        'precision': 'float32',
        'validate_every': 10,
        'margin': 0,
        # its validation draws 50 steps of one chain, and its test 10 steps of 4
        'validation': {
            **PUBLIC_VALIDATION,
            'overlap': 0.25,
            'chains': 1,
            'steps': 50,
            'fusion': 'last',
            'precision': 'float32',
        },
    },
    citation='Guarnera, Rondinella et al.: MSLesSeg. Scientific Data (2025).',
    official=OfficialWeights(
        official_names, stem='encoder.levels.0.0.conv.weight', head='denoiser.head.'
    ),
)  # fmt: skip
