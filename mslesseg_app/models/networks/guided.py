"""The residual U-Net on the channels of `mslesseg_app.models.guide` instead of the images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mslesseg_app.models.guide import GUIDES
from mslesseg_app.models.networks.unet import ResidualUNet


def build(inputs: int, options: Mapping[str, Any]) -> ResidualUNet:
    """Return an untrained network.

    Its normalisation is that of the batch unless the options say otherwise: the scale of the
    channels means something, and must not be lost.

    Parameters
    ----------
    inputs : int
        Image channels of the model; three, which become those of the guide.
    options : mapping
        Those of `ResidualUNet`, and `confirm` of the predictor
        (`mslesseg_app.inference.predictor.GuidedPredictor`).
    """
    if inputs != 3:
        raise ValueError('a guided network takes FLAIR, T1w and T2w')
    own = {key: value for key, value in options.items() if key != 'confirm'}
    return ResidualUNet(len(GUIDES), **{'norm': 'batch', **own})
