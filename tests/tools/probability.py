"""The probability alone, of what the package returns with it."""

from __future__ import annotations

from mslesseg_app.models.prediction.segment import segment_detailed
from mslesseg_app.models.prediction.windows import as_sampler, predict_detailed


def segment_exam(*arguments, **options):
    """Return probability and info of an exam."""
    found, info = segment_detailed(*arguments, **options)
    return found.prob, info


def predict(network, channels, brain, windows, device='cpu'):
    """Return the probability that a network of logits gives over a whole brain."""
    sampler = as_sampler(network, windows.average)
    return predict_detailed(sampler, channels, brain, windows, device).prob
