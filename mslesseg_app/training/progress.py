"""How far a training is: counts of an epoch, smoothed weights, and who judges them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn


class Validator(Protocol):
    """Judges a network on the validation exams."""

    def __len__(self) -> int:
        """Return the number of exams."""

    def __call__(self, network: nn.Module, device: str, chosen: Sequence[int]) -> list[float]:
        """Return the DSC of the chosen exams; the network may be changed by it."""


class Smoothed:
    """Exponential mean of a network's weights, with a short memory at the start.

    Parameters
    ----------
    network : nn.Module
    decay : float
        0 keeps the weights themselves.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step; whole numbers are taken over as they are."""
        keep = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        state = network.state_dict()
        floats = [k for k, v in self.values.items() if v.is_floating_point()]
        mean = [self.values[k] for k in floats]
        torch._foreach_lerp_(mean, [state[k].detach() for k in floats], 1 - keep)
        for key in self.values.keys() - set(floats):
            self.values[key].copy_(state[key])


@dataclass
class TrainingProgress:
    """Where a run stands; part of its checkpoint.

    Attributes
    ----------
    epoch, step : int
        Done.
    seconds : float
    bad : int
        Steps in a row without finite gradient.
    returns : int
        Returns to a checkpoint.
    parts : int
        Parts in which a process does its share of a step.
    best : float
        Highest mean DSC so far; negative before any.
    best_epoch : int
    unimproved : int
        Validations since.
    history : list of dict
        Rows of the log.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    bad: int = 0
    returns: int = 0
    parts: int = 1
    best: float = -1.0
    best_epoch: int = 0
    unimproved: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Counts:
    """What the steps of an epoch gave.

    Attributes
    ----------
    loss : float
        Sum over the steps with finite gradient.
    finite, skipped : int
    norm : float
        Of the last gradient.
    waiting : float
        Seconds in which the network waited for data.
    """

    loss: float = 0.0
    finite: int = 0
    skipped: int = 0
    norm: float = 0.0
    waiting: float = 0.0

    def note(self, loss: float, norm: float) -> None:
        """Take note of one step."""
        if math.isfinite(norm):
            self.loss, self.finite = self.loss + loss, self.finite + 1
        else:
            self.skipped += 1
        self.norm = norm
