"""The residual U-Net of the default model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mslesseg_app.models.networks.edges import EdgeRule
from mslesseg_app.models.networks.spec import InferenceCost, NetworkSpec

if TYPE_CHECKING:
    from torch import nn


def build(inputs: int, options: Mapping[str, Any]) -> nn.Module:
    """Return an untrained network; `options` are those of `layers.ResidualUNet`."""
    from mslesseg_app.models.networks.unet.layers import ResidualUNet

    return ResidualUNet(inputs, **options)


def edges(channels: Sequence[int] = (16, 32, 64, 128, 256), fold: int = 1, **_: Any) -> EdgeRule:
    """One halving less than levels, after folding."""
    multiple = fold * 2 ** (len(channels) - 1)
    return EdgeRule(multiple, smallest=2 * multiple)


SPEC = NetworkSpec(
    build,
    edges,
    InferenceCost(25.0, 25.0, 1.3),  # of a smaller network of the same kind
    default={
        'augment': 'strong',
        'patch': (80, 80, 80),
        'batch': 2,
        'patches': 1,
        'epochs': 60,
        'learning_rate': 2e-3,
        'warm_up': 1.0,
        'ema': 0.99,
        'drop': 0.3,
        'validate_every': 0,
        'keep': 'last',
        'least_white_matter': 0.25,
    },
    reduced={'options': {'channels': [8, 16]}, 'patch': 32},
)
