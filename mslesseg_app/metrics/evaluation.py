"""All numbers of one pair of masks under a named rule set.

What empty masks give is defined (``docs/metrics.md`` has the table), and whatever is not a
finite number has its reason beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError
from mslesseg_app.metrics.calibration import calibration, calibration_box
from mslesseg_app.metrics.descriptions import CALIBRATION, evaluation_columns, nsd_name
from mslesseg_app.metrics.exam import (
    binary_pair,
    bounding_box,
    checked_spacing,
    ratio,
    volume_difference,
    voxel_agreement,
)
from mslesseg_app.metrics.lesionwise import Side, match_lesions
from mslesseg_app.metrics.rules import STRATA, Rules, get_rules
from mslesseg_app.spatial.surfaces import SurfaceDistances, surface, surface_distances

__all__ = ['Evaluation', 'evaluate', 'evaluation_columns']

Mask = npt.NDArray[np.bool_]

_NO_REFERENCE = 'the reference is empty'
_NO_PREDICTION = 'the prediction is empty'
_NEITHER = 'both masks are empty'
_FULL = 'a mask fills the whole image'


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one pair of masks.

    Attributes
    ----------
    values : dict of str to float
        In the order of `evaluation_columns`.
    reasons : dict of str to str
        Why a value is NaN or infinite, for each that is.
    """

    values: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """All reasons on one line; empty when every value is a finite number."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.reasons.items():
            by_reason.setdefault(reason, []).append(name)
        return '; '.join(f'{", ".join(names)}: {why}' for why, names in by_reason.items())


def evaluate(
    prediction: npt.NDArray[np.generic],
    reference: npt.NDArray[np.generic],
    spacing_mm: Sequence[float],
    rules: str = 'mslesseg',
    probability: npt.NDArray[np.floating[Any]] | None = None,
) -> Evaluation:
    """Compare a lesion mask with its reference.

    Parameters
    ----------
    prediction, reference : bool array (X, Y, Z)
        Masks on the same grid; other types are taken if they hold 0 and 1 only.
    spacing_mm : three floats
        Voxel sizes along the axes, in mm.
    rules : str
        Name of a rule set (`mslesseg_app.metrics.rules`).
    probability : float array (X, Y, Z), optional
        Lesion probability, 0 to 1, on the same grid: gives the numbers of calibration. The
        rule set ``mslesseg-official`` has none.

    Raises
    ------
    UsageError
        For an unknown rule set.
    DataError
        For different grids, masks that are not binary or not three-dimensional, voxel sizes
        that are not positive, or probabilities outside 0 to 1.
    """
    chosen = get_rules(rules)
    predicted, true = binary_pair(prediction, reference)
    spacing = checked_spacing(spacing_mm)
    union = predicted | true
    box = bounding_box(union)
    cut = [np.ascontiguousarray(mask[box]) for mask in (predicted, true)]
    pair = _Pair(cut[0], cut[1], spacing, chosen)
    values, reasons = pair.numbers()
    if chosen.empty == 'published':
        full = bool(predicted.size) and bool(predicted.all() or true.all())
        _as_published(pair, values, reasons, full)
    elif probability is not None:
        area = calibration_box(union, spacing)
        values.update(calibration(_probability(probability, union.shape)[area], true[area]))
    else:
        values.update(dict.fromkeys(CALIBRATION, math.nan))
        reasons.update(dict.fromkeys(CALIBRATION, 'there are no probabilities'))
    ordered = {name: values[name] for name in evaluation_columns(rules)}
    return Evaluation(ordered, {name: reasons[name] for name in ordered if name in reasons})


def _probability(
    probability: npt.NDArray[np.floating[Any]], shape: tuple[int, ...]
) -> npt.NDArray[np.floating[Any]]:
    values = np.asarray(probability)
    if values.shape != shape:
        raise DataError(
            f'The probability map has the shape {values.shape}, the masks {shape}.',
            'Bring all to the same grid.',
        )
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise DataError('The probability map has values outside 0 to 1, or that are no number.')
    return values


class _Pair:
    """Two masks in their common box, and the numbers about them as they are needed."""

    def __init__(
        self, predicted: Mask, true: Mask, spacing: tuple[float, ...], rules: Rules
    ) -> None:
        self.predicted, self.true, self.rules = predicted, true, rules
        self.spacing = spacing if rules.uses_spacing else (1.0, 1.0, 1.0)
        self.voxel_mm3 = math.prod(spacing)
        self.n_predicted = int(np.count_nonzero(predicted))
        self.n_true = int(np.count_nonzero(true))
        self.found, self.truth = match_lesions(predicted, true, rules, self.voxel_mm3)

    def numbers(self) -> tuple[dict[str, float], dict[str, str]]:
        """Return all values except calibration, and the reasons of those that are not finite."""
        values = {
            **voxel_agreement(self.predicted, self.true),
            **self._lesions(),
            **self._amounts(),
            **self._distances(),
        }
        values['AVD'] = volume_difference(self.n_predicted, self.n_true)
        values['AVD_percent'] = 100 * values['AVD']
        if self.rules.isbi_score:
            values['ISBI_partial'] = (values['DSC'] + values['PPV']) / 8 + (
                1 - values['LFPR'] + values['LTPR']
            ) / 4
        return values, self._reasons(values)

    # ------------------------------------------------------------------- lesions

    def _lesions(self) -> dict[str, float]:
        found, truth = self.found, self.truth
        ltpr = ratio(truth.n_met, truth.count)
        lfpr = ratio(found.count - found.n_met, found.count + self.rules.lfpr_epsilon)
        values = {'LTPR': ltpr, 'LFPR': lfpr, 'lesion_F1': _f1(found, truth)}
        if self.rules.overlap is not None:
            values.update(SensL=ltpr, PPVL=1 - lfpr, F1=values['lesion_F1'])
        for name in STRATA:
            true = truth.strata(self.voxel_mm3)[name]
            predicted = found.strata(self.voxel_mm3)[name]
            values[f'LTPR_{name}'] = ratio(true.n_met, true.count)
            values[f'LFPR_{name}'] = ratio(predicted.count - predicted.n_met, predicted.count)
            values[f'n_reference_{name}'] = true.count
            values[f'n_predicted_{name}'] = predicted.count
        return values

    def _amounts(self) -> dict[str, float]:
        to_ml = self.voxel_mm3 / 1000
        return {
            'AVD_ml': abs(self.n_predicted - self.n_true) * to_ml,
            'n_reference': self.truth.count,
            'n_predicted': self.found.count,
            'volume_reference_ml': self.n_true * to_ml,
            'volume_predicted_ml': self.n_predicted * to_ml,
        }

    # ------------------------------------------------------------------ surfaces

    def _distances(self) -> dict[str, float]:
        nsd = nsd_name(self.rules)
        if not (self.n_predicted and self.n_true):
            alike = not (self.n_predicted or self.n_true)
            missing = 0.0 if alike else math.nan
            return {'ASSD': missing, 'ASSD_pooled': missing, 'HD95': missing, nsd: float(alike)}
        distances = self.surface_distances()
        pooled, larger = distances.mean(), self.rules.hd95 == 'larger'
        return {
            'ASSD': pooled if self.rules.assd == 'pooled' else distances.mean_of_means(),
            'ASSD_pooled': pooled,
            'HD95': distances.percentile(95) if larger else distances.pooled_percentile(95),
            nsd: distances.within(self.rules.nsd_tolerance_mm),
        }

    def surface_distances(self) -> SurfaceDistances:
        """Measure between the surfaces, or what the rule set takes for them."""
        if self.rules.surface == 'object':
            return surface_distances(self.predicted, self.true, self.spacing)
        return surface_distances(surface(self.predicted), surface(self.true), self.spacing)

    # ------------------------------------------------------------------- reasons

    def _reasons(self, values: dict[str, float]) -> dict[str, str]:
        return {
            name: self._reason(name) for name, value in values.items() if not math.isfinite(value)
        }

    def _reason(self, name: str) -> str:
        stem, _, stratum = name.partition('_')
        if stem in ('LTPR', 'SensL', 'LFPR', 'PPVL'):
            reference = stem in ('LTPR', 'SensL')
            return self._no_lesion(reference, stratum)
        if name == 'ISBI_partial':
            return 'a term of the score is not defined'
        if name in ('PPV',):
            return _NO_PREDICTION
        if name in ('TPR', 'AVD', 'AVD_percent'):
            return _NO_REFERENCE
        return _NO_PREDICTION if self.n_true else _NO_REFERENCE

    def _no_lesion(self, reference: bool, stratum: str) -> str:
        whose = 'the reference' if reference else 'the prediction'
        if not (self.n_true if reference else self.n_predicted):
            return f'{whose} is empty'
        if not (self.truth if reference else self.found).count:
            return f'{whose} has no lesion of more than {self.rules.min_volume_mm3:g} mm³'
        return f'{whose} has no {stratum} lesion'


def _f1(found: Side, truth: Side) -> float:
    if not (found.count and truth.count):
        return float(not (found.count or truth.count))
    recall, precision = truth.n_met / truth.count, found.n_met / found.count
    return ratio(2 * recall * precision, recall + precision, otherwise=0.0)


def _as_published(
    pair: _Pair, values: dict[str, float], reasons: dict[str, str], full: bool
) -> None:
    """Replace what the published code gives for masks that are empty or fill the image."""
    if not (pair.n_predicted or pair.n_true):
        values.update(dict.fromkeys(('DSC', 'ASSD', 'ASSD_pooled', 'HD95'), math.nan))
        reasons.update(dict.fromkeys(('DSC', 'ASSD', 'ASSD_pooled', 'HD95'), _NEITHER))
    elif not pair.n_true:
        values.update(AVD=math.inf, AVD_percent=math.inf)
    if full:
        values.update(dict.fromkeys(('ASSD', 'ASSD_pooled', 'HD95'), math.nan))
        reasons.update(dict.fromkeys(('ASSD', 'ASSD_pooled', 'HD95'), _FULL))
    if not pair.n_true:
        reasons['LTPR'] = f'{_NO_REFERENCE} (the published code stops with an error)'
