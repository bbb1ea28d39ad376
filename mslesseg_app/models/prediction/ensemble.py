"""Several models for one exam, and what they agree on."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.metrics.consensus import Consensus, consensus
from mslesseg_app.metrics.exam import voxel_agreement
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.prediction import Prediction, pool

Method = Literal['mean', 'majority', 'staple']
METHODS: tuple[str, ...] = get_args(Method)
DEFAULT_METHOD: Method = 'mean'
LEAST_AGREEMENT = 0.5
"""Mean Dice coefficient of the models below which a person should check the exam.

Chosen on labelled exams: docs/report.md has the figures."""


@dataclass(frozen=True)
class Ensemble:
    """Several models combined by one method; to the rest it looks like a model.

    Attributes
    ----------
    models : tuple of ModelEntry
        Two or more, each once.
    method : {'mean', 'majority', 'staple'}
        See `mslesseg_app.metrics.consensus`.
    """

    models: tuple[ModelEntry, ...]
    method: Method = DEFAULT_METHOD

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f'There is no ensemble {self.method!r}.', f'Choose one of: {", ".join(METHODS)}.'
            )
        names = [model.name for model in self.models]
        if len(names) < 2 or len(set(names)) < len(names):
            raise UsageError(
                'An ensemble needs two or more models, each once.',
                'Give several names to --model, or leave --ensemble out.',
            )

    @property
    def name(self) -> str:
        """What file names carry: the method."""
        return self.method

    @property
    def version(self) -> str:
        """Names and versions of the models."""
        return ', '.join(f'{model.name} {model.version}' for model in self.models)

    @property
    def digest(self) -> str:
        """SHA256 of the method and the descriptions of the models."""
        text = ' '.join([self.method, *(model.digest for model in self.models)])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def architecture(self) -> str:
        """Always ``ensemble``."""
        return 'ensemble'

    @property
    def channels(self) -> tuple[str, ...]:
        """Modalities that at least one of the models uses."""
        used = {name for model in self.models for name in model.channels}
        return tuple(name for name in MODALITIES if name in used)

    @property
    def missing(self) -> str:
        """What the models do without a modality; each has its own policy."""
        return ', '.join(dict.fromkeys(model.missing for model in self.models))

    @property
    def licence(self) -> str:
        """Licences of the models."""
        return ' AND '.join(dict.fromkeys(model.licence for model in self.models))

    @property
    def needs_weights(self) -> bool:
        """Whether one of the models has trained weights."""
        return any(model.needs_weights for model in self.models)

    @property
    def card(self) -> dict[str, Any]:
        """Description and citations for the report."""
        cited = dict.fromkeys(text for m in self.models for text in _texts(m.card.get('citation')))
        return {'description': f'{self.title}: {self.version}.', 'citation': ' '.join(cited)}

    @property
    def title(self) -> str:
        """The method in words."""
        words = {
            'mean': 'Mean of the probabilities of several models',
            'majority': 'Majority vote of several models',
            'staple': 'STAPLE consensus of several models',
        }
        return words[self.method]

    @property
    def threshold(self) -> float:
        """Share or probability from which a voxel of the combined map is lesion.

        For ``mean`` the mean of the models' own thresholds. For ``majority``, whose map holds
        the share of the models, half way between a tie and the smallest majority, so that a tie
        is none. For ``staple`` 0.5.
        """
        count = len(self.models)
        if self.method == 'mean':
            return sum(model.threshold for model in self.models) / count
        if self.method == 'majority':
            return (count // 2 + 0.5) / count
        return 0.5


AnyModel = ModelEntry | Ensemble


def models_of(model: AnyModel) -> tuple[ModelEntry, ...]:
    """Return the models of an ensemble, or the one model."""
    return model.models if isinstance(model, Ensemble) else (model,)


def final_threshold(model: AnyModel, asked: float | None) -> float:
    """Return the value from which a voxel of the final map is lesion.

    Parameters
    ----------
    model : ModelEntry or Ensemble
    asked : float or None
        The user's threshold. It judges probabilities: those of a model or their mean. The maps
        of ``majority`` and ``staple`` have their own rule, and the user's threshold makes the
        masks that they combine (`model_thresholds`).
    """
    own = isinstance(model, Ensemble) and model.method != 'mean'
    return model.threshold if asked is None or own else asked


def model_thresholds(model: AnyModel, asked: float | None) -> tuple[float, ...]:
    """Return the threshold that makes the mask of each model."""
    return tuple(one.threshold if asked is None else asked for one in models_of(model))


def choose(models: Sequence[ModelEntry], method: str | None) -> AnyModel:
    """Return the one model, or the ensemble of several (of their mean unless asked otherwise).

    Raises
    ------
    UsageError
        If a method is given for one model, or a model is named twice.
    """
    if len(models) == 1 and method is None:
        return models[0]
    return Ensemble(tuple(models), method or DEFAULT_METHOD)  # type: ignore[arg-type]


def combine(
    predictions: Sequence[Prediction], thresholds: Sequence[float], method: Method
) -> tuple[Prediction, npt.NDArray[np.float32], Consensus]:
    """Combine the predictions of several models.

    Parameters
    ----------
    predictions : sequence of Prediction
        One per model, on one grid.
    thresholds : sequence of float
        From which each model's probability is lesion.
    method : {'mean', 'majority', 'staple'}

    Returns
    -------
    pooled : Prediction
        Mean of the models' probabilities and its variance over (and within) the models,
        whatever the method: what is known about the uncertainty.
    combined : float32 array (X, Y, Z)
        The map that `Ensemble.threshold` is for.
    agreed : Consensus
        Agreement, and with ``staple`` sensitivity and specificity of each model.

    Raises
    ------
    DataError
        If the predictions do not share one grid.
    """
    if len({prediction.prob.shape for prediction in predictions}) > 1:
        raise DataError('The models of the ensemble gave maps on different grids.')
    masks = [p.prob >= t for p, t in zip(predictions, thresholds, strict=True)]
    probabilities = [p.prob for p in predictions]
    agreed = consensus(masks, method, probabilities=probabilities)
    return pool(predictions), agreed.probability, agreed


def models_agreement(
    names: Sequence[str], predictions: Sequence[Prediction], thresholds: Sequence[float]
) -> dict[str, Any]:
    """Return the Dice coefficients of the masks of several models: of all pairs, and their mean.

    Parameters
    ----------
    names : sequence of str
    predictions : sequence of Prediction
        One per model, on one grid.
    thresholds : sequence of float
        From which each model's probability is lesion.

    Returns
    -------
    dict
        ``MeanDSC``; ``Status``, ``check`` where that is below `LEAST_AGREEMENT`, else ``pass``;
        and ``Pairs``: a list of ``Models`` (two names) and ``DSC``; two empty masks have 1.
    """
    masks = [p.prob >= limit for p, limit in zip(predictions, thresholds, strict=True)]
    pairs = [
        {
            'Models': [names[one], names[two]],
            'DSC': round(voxel_agreement(masks[one], masks[two])['DSC'], 6),
        }
        for one, two in itertools.combinations(range(len(masks)), 2)
    ]
    mean = round(float(np.mean([p['DSC'] for p in pairs])), 6)
    return {
        'MeanDSC': mean,
        'Status': 'check' if mean < LEAST_AGREEMENT else 'pass',
        'Pairs': pairs,
    }


def _texts(value: Any) -> list[str]:
    if not value:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
