"""Judging a network on validation exams during training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import nn

from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.predictor import NetworkPredictor
from mslesseg_app.training.patches import CaseDataset


class CaseValidator:
    """Judges a network on validation exams by the procedure of the App.

    Parameters
    ----------
    dataset : CaseDataset
        The exams.
    entry : ModelEntry
        How windows are laid, unless the plan of the dataset says how in validation; the threshold.
    threads : int
        CPU threads.
    """

    def __init__(self, dataset: CaseDataset, entry: ModelEntry, threads: int = 1) -> None:
        sampler = dataset.plan.validation or entry.sampler
        self.dataset, self.entry, self.threads = dataset, replace(entry, sampler=sampler), threads

    def __len__(self) -> int:
        return len(self.dataset)

    def __call__(self, network: nn.Module, device: str, chosen: Sequence[int]) -> list[float]:
        """Return the DSC of the chosen exams; 1 where neither mask holds a lesion."""
        predictor = NetworkPredictor(network, self.entry, device, self.threads)
        present = (True,) * len(self.entry.channels)
        scores = []
        for index in chosen:
            item = self.dataset.read[index]
            brain = item['weight'][0].numpy() > 0
            prob = predictor(item['image'].numpy(), brain, present)
            found = (prob >= self.entry.threshold) & brain
            scores.append(dice(found, item['label'][0].numpy() > 0))
        return scores


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Return the Dice coefficient; 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 1.0
