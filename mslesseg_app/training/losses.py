"""Loss for small, rare lesions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as fn


def dice_ce(logits: Tensor, target: Tensor, weight: Tensor, recall: float = 0.5) -> Tensor:
    """Return the soft Tversky loss over the whole batch plus the binary cross-entropy.

    Parameters
    ----------
    logits, target, weight : (N, 1, X, Y, Z)
        Voxels of weight 0 do not count.
    recall : float
        Weight of false negatives in the Tversky index against false positives; 0.5 makes it
        the Dice coefficient (Salehi et al., MLMI 2017).
    """
    prob = torch.sigmoid(logits) * weight
    truth = target * weight
    hit = (prob * truth).sum()
    wrong = (1 - recall) * (prob * (1 - truth)).sum() + recall * ((weight - prob) * truth).sum()
    overlap = (hit + 1.0) / (hit + wrong + 1.0)
    entropy = fn.binary_cross_entropy_with_logits(logits, target, weight, reduction='sum')
    return 1 - overlap + entropy / weight.sum().clamp(min=1)


def deep_loss(outputs: Sequence[Tensor], target: Tensor, weight: Tensor, recall: float) -> Tensor:
    """Return the loss of all outputs, each coarser one with half the weight.

    Coarse targets are the largest value of their voxels, so that small lesions stay; their
    weights are the smallest.
    """
    total = torch.zeros((), device=target.device)
    share = 0.0
    for level, logits in enumerate(outputs):
        ratio = target.shape[-1] // logits.shape[-1]
        coarse = fn.max_pool3d(target, ratio) if ratio > 1 else target
        least = -fn.max_pool3d(-weight, ratio) if ratio > 1 else weight
        factor = 0.5**level
        total = total + factor * dice_ce(logits.float(), coarse, least, recall)
        share += factor
    return total / share
