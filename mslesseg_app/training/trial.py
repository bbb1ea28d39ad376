"""Judging a network: on validation exams during training, and on prepared exams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi
from torch import nn

from mslesseg_app.inference.normalise import normalise
from mslesseg_app.inference.predictor import NetworkPredictor
from mslesseg_app.inference.windows import Windows, predict
from mslesseg_app.models.registry import ModelEntry
from mslesseg_app.training.data import CHANNELS, IGNORE, Exam
from mslesseg_app.training.patches import CaseFeed

WINDOWS = Windows(size=(160, 112, 160), overlap=0.2, fit=True)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


class CaseJudge:
    """Judges a network on validation exams by the procedure of the App.

    Parameters
    ----------
    feed : CaseFeed
        The exams.
    entry : ModelEntry
        How windows are laid, and the threshold.
    threads : int
        CPU threads.
    """

    def __init__(self, feed: CaseFeed, entry: ModelEntry, threads: int = 1) -> None:
        self.feed, self.entry, self.threads = feed, entry, threads

    def __len__(self) -> int:
        return len(self.feed)

    def __call__(self, network: nn.Module, device: str, chosen: Sequence[int]) -> list[float]:
        """Return the DSC of the chosen exams; 1 where neither mask holds a lesion."""
        predictor = NetworkPredictor(network, self.entry, device, self.threads)
        present = (True,) * len(self.entry.channels)
        scores = []
        for index in chosen:
            item = self.feed.read[index]
            brain = item['weight'][0].numpy() > 0
            prob = predictor(item['image'].numpy(), brain, present)
            found = (prob >= self.entry.threshold) & brain
            scores.append(dice(found, item['label'][0].numpy() > 0))
        return scores


def exam_channels(
    exam: Exam, use: Sequence[str] = CHANNELS, normalisation: str = 'robust'
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], tuple[bool, ...]]:
    """Return what the App would give a predictor: channels, brain and which are present."""
    present = tuple(bool(p) and c in use for p, c in zip(exam.present, CHANNELS, strict=True))
    seen = np.any([exam.images[i] > 0 for i, p in enumerate(present) if p], axis=0)
    brain = ndi.binary_fill_holes(seen)
    channels = np.zeros((3, *brain.shape), np.float32)
    for i, here in enumerate(present):
        if here:
            channels[i] = normalise(exam.images[i], brain, normalisation)
    return channels, brain, present


def judge(
    network: nn.Module,
    exam: Exam,
    use: Sequence[str] = CHANNELS,
    device: str = 'cpu',
    normalisation: str = 'robust',
    windows: Windows = WINDOWS,
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Predict an exam and compare with its mask.

    Returns
    -------
    prob : float32 array on the box
    figures : dict
        Exam, channels used, and the Dice coefficient at several thresholds.
    """
    channels, brain, present = exam_channels(exam, use, normalisation)
    prob = predict(network.eval(), channels, brain, windows, device)
    known, truth = exam.label != IGNORE, exam.label == 1
    figures: dict[str, Any] = {
        'exam': exam.name,
        'channels': [c for c, p in zip(CHANNELS, present, strict=True) if p],
        'reference_mm3': int(truth.sum()),
    }
    for threshold in THRESHOLDS:
        figures[f'dsc_{threshold}'] = round(dice((prob >= threshold) & known, truth), 4)
    return prob, figures


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Return the Dice coefficient; 1 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2.0 * int((one & other).sum()) / total if total else 1.0
