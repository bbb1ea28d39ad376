"""From a batch to a loss: the network and what it is asked for, in one module.

DistributedDataParallel joins gradients of what its module computes, so the loss is computed
inside. The losses of the public repositories are MONAI's; ours, `mslesseg_app.training.losses`,
is there because MONAI's take no weight of single voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.losses.dice import DiceCELoss, DiceLoss
from torch import Tensor, nn
from torch.nn import functional as fn

from mslesseg_app.models.diffusion import STEPS, training_output
from mslesseg_app.models.networks import get_spec
from mslesseg_app.training.losses import deep_loss
from mslesseg_app.training.plan import Plan

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps logits (N, K, …), target and weight (N, 1, …) to a number."""


def _dice_bce_mse() -> Loss:
    """Sum of Dice, cross-entropy and squared error, as the public MSSegDiff and Diff-UNet."""
    dice = DiceLoss(sigmoid=True)

    def loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        entropy = fn.binary_cross_entropy_with_logits(logits, target)
        error = fn.mse_loss(torch.sigmoid(logits), target)
        total: Tensor = dice(logits, target) + entropy + error
        return total

    return loss


def _monai(module: nn.Module) -> Loss:
    def loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        total: Tensor = module(logits, target)
        return total

    return loss


def make_loss(plan: Plan) -> Loss:
    """Return the loss of a plan on the logits of one output."""
    makers: dict[str, Callable[[], Loss]] = {
        'dice+bce+mse': _dice_bce_mse,
        'softmax-dice+ce': lambda: _monai(
            DiceCELoss(
                softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6
            )
        ),
        'dice': lambda: _monai(DiceLoss(sigmoid=True)),
        'softmax-dice': lambda: _monai(
            DiceLoss(
                softmax=True,
                to_onehot_y=True,
                include_background=False,
                batch=True,
                smooth_nr=0.0,
                smooth_dr=1e-5,
            )
        ),
        'tversky+ce': lambda: (
            lambda logits, target, weight: deep_loss([logits], target, weight, plan.recall)
        ),
    }
    return makers[plan.objective]()


class Objective(nn.Module):
    """A network with its loss.

    Parameters
    ----------
    network : nn.Module
        Of `mslesseg_app.models.networks`.
    plan : Plan
    autocast : torch.dtype or None
        Of the network's mixed precision; losses are computed in float32.
    """

    def __init__(self, network: nn.Module, plan: Plan, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.network = network
        self.plan = plan
        self.diffusion = get_spec(plan.architecture).diffusion
        self.autocast = autocast
        self.loss = make_loss(plan)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the loss of a batch."""
        image, target, weight = batch['image'], batch['label'], batch['weight']
        with torch.autocast(
            image.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None
        ):
            outputs = self._outputs(image, target)
        if len(outputs) > 1:
            return deep_loss(outputs, target, weight, self.plan.recall)
        return self.loss(outputs[0].float(), target, weight)

    def _outputs(self, image: Tensor, target: Tensor) -> list[Tensor]:
        network: Any = self.network
        if self.diffusion:
            # drawn on the CPU, so that the device does not decide what is drawn
            steps = self._steps(image.shape[0]).to(image.device)
            noise = torch.randn(target.shape).to(image.device)
            return [training_output(network, image, target, steps, noise)]
        if self.plan.objective == 'tversky+ce':
            found: list[Tensor] = network.forward_all(image)
            return found
        return [network.forward_classes(image)]

    def _steps(self, count: int) -> Tensor:
        """Draw diffusion steps."""
        steps = torch.randint(0, STEPS, (count,))
        if not self.plan.noisiest:
            return steps
        noisy = torch.randint(2 * STEPS // 3, STEPS, (count,))
        return torch.where(torch.rand(count) < self.plan.noisiest, noisy, steps)
