"""What a model says of an exam, how sure it is, and how several answers become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import UsageError

Volume = npt.NDArray[np.float32]
Uncertainty = Literal['none', 'entropy', 'variance']
UNCERTAINTIES: tuple[str, ...] = get_args(Uncertainty)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The lesion probability of one exam and what is known about its uncertainty.

    Attributes
    ----------
    prob : float32 array (X, Y, Z)
        0 to 1.
    variance : float32 array (X, Y, Z) or None
        Population variance of the probability over what was varied: diffusion chains, flips,
        folds or models; None where nothing was varied. At most 0.25.
    notes : tuple of str
        What the user should know of how it was computed, such as a lack of memory.
    """

    prob: Volume
    variance: Volume | None = None
    notes: tuple[str, ...] = ()


def pool(predictions: Sequence[Prediction]) -> Prediction:
    """Return the mean of predictions, with the variance within and between them.

    The law of total variance: the mean of the members' variances (0 for one without) plus the
    population variance of their probabilities. One prediction is returned as it is.

    Parameters
    ----------
    predictions : sequence of Prediction
        At least one, all on one grid.
    """
    if len(predictions) == 1:
        return predictions[0]
    mean = np.zeros(predictions[0].prob.shape, dtype=np.float64)
    square, within = np.zeros_like(mean), np.zeros_like(mean)
    for prediction in predictions:
        mean += prediction.prob
        square += np.square(prediction.prob, dtype=np.float64)
        if prediction.variance is not None:
            within += prediction.variance
    count = len(predictions)
    mean /= count
    variance = np.maximum(square / count - mean**2, 0) + within / count
    notes = dict.fromkeys(note for p in predictions for note in p.notes)
    return Prediction(mean.astype(np.float32), variance.astype(np.float32), tuple(notes))


def entropy(prob: npt.NDArray[np.floating]) -> Volume:
    """Return the entropy of a lesion probability in bits: 0 where it is 0 or 1, 1 where 0.5.

    Predictive entropy, -p log2 p - (1 - p) log2 (1 - p) (Shannon 1948).
    """
    p = np.clip(np.asarray(prob, dtype=np.float64), 0, 1)
    with np.errstate(divide='ignore', invalid='ignore'):
        bits = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    return np.nan_to_num(bits, nan=0.0).astype(np.float32)


def uncertainty(prediction: Prediction, kind: str, name: str) -> Volume | None:
    """Return the uncertainty map that was requested, or None for ``none``.

    Parameters
    ----------
    prediction : Prediction
    kind : {'none', 'entropy', 'variance'}
    name : str
        Of the model, for the message.

    Raises
    ------
    UsageError
        For another kind, and for the variance of a model that varies nothing.
    """
    if kind not in UNCERTAINTIES:
        raise UsageError(
            f'There is no uncertainty {kind!r}.', f'Choose one of: {", ".join(UNCERTAINTIES)}.'
        )
    if kind == 'entropy':
        return entropy(prediction.prob)
    if kind == 'variance':
        if prediction.variance is None:
            raise no_variance(name)
        return prediction.variance
    return None


def no_variance(name: str) -> UsageError:
    """Return the error for the variance of a model that gives one answer only."""
    return UsageError(
        f'The model {name!r} gives one answer, which has no variance.',
        'Use --uncertainty entropy; or a model with several diffusion chains (--preset exact), '
        'folds or flips; or several models (--model a b c).',
    )
