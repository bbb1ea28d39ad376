"""Several models that are joined."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.metrics.consensus import consensus
from mslesseg_app.models.prediction.ensemble import (
    METHODS,
    Ensemble,
    choose,
    combine,
    final_threshold,
    model_thresholds,
    models_agreement,
    models_of,
)
from mslesseg_app.models.prediction.prediction import Prediction
from mslesseg_app.models.registry import get_entry

BASE = get_entry('hyperintensity')
MODELS = tuple(
    replace(BASE, name=name, threshold=t) for name, t in (('a', 0.3), ('b', 0.5), ('c', 0.4))
)
RNG = np.random.default_rng(2)


def predictions(count: int) -> list[Prediction]:
    return [Prediction(RNG.random((6, 6, 6)).astype(np.float32)) for _ in range(count)]


def test_mean_is_that_of_the_probabilities_and_uncertainty_is_over_models() -> None:
    found = predictions(3)
    pooled, joined, _ = combine(found, (0.5,) * 3, 'mean')
    stacked = np.stack([p.prob for p in found])
    np.testing.assert_allclose(joined, stacked.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(pooled.prob, joined, atol=1e-6)
    np.testing.assert_allclose(pooled.variance, stacked.var(axis=0), atol=1e-6)


@pytest.mark.parametrize('count', [2, 3, 4, 5])
def test_majority_is_more_than_half_at_the_ensembles_threshold(count: int) -> None:
    """Every way in which the models can vote, one voxel each."""
    votes = np.array(list(product((0, 1), repeat=count)), dtype=np.float32)
    found = [Prediction(column.reshape(-1, 1, 1)) for column in votes.T]
    _, joined, _ = combine(found, (0.5,) * count, 'majority')
    models = tuple(replace(BASE, name=f'm{i}') for i in range(count))
    mask = joined.ravel() >= Ensemble(models, 'majority').threshold
    np.testing.assert_array_equal(mask, votes.sum(axis=1) > count / 2)


def test_each_model_votes_by_its_own_threshold() -> None:
    prob = np.full((2, 2, 2), 0.35, np.float32)
    _, joined, agreed = combine([Prediction(prob)] * 2, (0.3, 0.5), 'majority')
    assert (joined == 0.5).all()
    assert (agreed.agreement == 1).all()


def test_staple_is_that_of_the_consensus_module() -> None:
    found = predictions(3)
    _, joined, agreed = combine(found, (0.6,) * 3, 'staple')
    expected = consensus([p.prob >= 0.6 for p in found], 'staple')
    np.testing.assert_array_equal(joined, expected.probability)
    assert agreed.sensitivity == expected.sensitivity
    assert len(agreed.sensitivity) == 3


def test_thresholds_of_an_ensemble() -> None:
    mean, majority, staple = (Ensemble(MODELS, m) for m in ('mean', 'majority', 'staple'))
    assert final_threshold(mean, None) == pytest.approx(0.4)
    assert final_threshold(mean, 0.7) == 0.7
    for ensemble in (majority, staple):
        assert final_threshold(ensemble, 0.7) == 0.5
        assert model_thresholds(ensemble, None) == (0.3, 0.5, 0.4)
        assert model_thresholds(ensemble, 0.7) == (0.7, 0.7, 0.7)
    assert final_threshold(BASE, None) == BASE.threshold


def test_models_that_hardly_overlap_are_to_be_checked() -> None:
    maps = np.zeros((4, 10, 10, 1), np.float32)
    maps[0, :5] = maps[1, 5:] = maps[2, :6] = maps[3, :4] = 0.45
    apart, near, within = (
        models_agreement('ab', [Prediction(maps[0]), Prediction(maps[n])], (0.4, 0.45))
        for n in (1, 2, 3)
    )
    assert (apart['MeanDSC'], apart['Status']) == (0, 'check')
    assert (near['MeanDSC'], near['Status']) == (round(10 / 11, 6), 'pass')
    several = models_agreement('abc', [Prediction(maps[n]) for n in (0, 1, 3)], (0.4,) * 3)
    assert [pair['Models'] for pair in several['Pairs']] == [['a', 'b'], ['a', 'c'], ['b', 'c']]
    assert several['MeanDSC'] == pytest.approx(within['MeanDSC'] / 3, abs=1e-6), 'of all pairs'


def test_an_ensemble_looks_like_a_model() -> None:
    ensemble = Ensemble(MODELS, 'staple')
    assert (ensemble.name, ensemble.architecture) == ('staple', 'ensemble')
    assert ensemble.channels == ('FLAIR', 'T1w')
    assert ensemble.version == f'a {BASE.version}, b {BASE.version}, c {BASE.version}'
    assert ensemble.licence == 'Apache-2.0'
    assert not ensemble.needs_weights
    assert models_of(ensemble) == MODELS
    assert models_of(BASE) == (BASE,)
    digests = {Ensemble(MODELS, method).digest for method in ('mean', 'staple')}
    assert len(digests | {Ensemble(MODELS[:2], 'mean').digest}) == 3


def test_one_model_is_no_ensemble_and_several_are_their_mean() -> None:
    assert choose(MODELS[:1], None) is MODELS[0]
    chosen = choose(MODELS, None)
    assert isinstance(chosen, Ensemble)
    assert chosen.method == 'mean'
    for method in METHODS:
        with pytest.raises(UsageError, match='two or more'):
            choose(MODELS[:1], method)
    with pytest.raises(UsageError, match='each once'):
        choose((MODELS[0], MODELS[0]), 'mean')
    with pytest.raises(UsageError, match='vote'):
        choose(MODELS, 'vote')


def test_different_grids_are_refused() -> None:
    pair = [Prediction(np.zeros((2, 2, 2), 'f4')), Prediction(np.zeros((2, 2, 3), 'f4'))]
    with pytest.raises(DataError, match='grids'):
        combine(pair, (0.5, 0.5), 'mean')
