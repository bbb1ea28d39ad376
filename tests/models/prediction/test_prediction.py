"""Probability, variance and entropy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.prediction.prediction import Prediction, entropy, pool, uncertainty

RNG = np.random.default_rng(3)
PROBS = RNG.random((5, 4, 4, 4)).astype(np.float32)


def test_entropy_equals_scipy_and_is_zero_where_certain() -> None:
    p = np.array([0.0, 0.1, 0.5, 0.83, 1.0])
    expected = [stats.entropy([q, 1 - q], base=2) for q in p]
    np.testing.assert_allclose(entropy(p), expected, atol=1e-7)
    assert entropy(p)[2] == 1


def test_pooling_is_mean_and_population_variance() -> None:
    pooled = pool([Prediction(p) for p in PROBS])
    assert pooled.variance is not None
    np.testing.assert_allclose(pooled.prob, PROBS.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(pooled.variance, PROBS.var(axis=0), atol=1e-6)


def test_pooling_groups_gives_the_variance_of_all() -> None:
    groups = [PROBS[:4][i : i + 2] for i in (0, 2)]
    parts = [pool([Prediction(p) for p in group]) for group in groups]
    joined, direct = pool(parts), pool([Prediction(p) for p in PROBS[:4]])
    np.testing.assert_allclose(joined.prob, direct.prob, atol=1e-6)
    assert joined.variance is not None
    assert direct.variance is not None
    np.testing.assert_allclose(joined.variance, direct.variance, atol=1e-6)


def test_one_prediction_stays_as_it_is_and_notes_are_kept_once() -> None:
    one = Prediction(PROBS[0], notes=('slow',))
    assert pool([one]) is one
    assert pool([one, Prediction(PROBS[1], notes=('slow', 'cold'))]).notes == ('slow', 'cold')


def test_uncertainty_is_what_was_asked_for() -> None:
    found = pool([Prediction(p) for p in PROBS])
    assert uncertainty(found, 'none', 'x') is None
    assert uncertainty(found, 'variance', 'x') is found.variance
    np.testing.assert_array_equal(uncertainty(found, 'entropy', 'x'), entropy(found.prob))


def test_variance_of_one_answer_is_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match='one answer') as caught:
        uncertainty(Prediction(PROBS[0]), 'variance', 'unetr')
    assert caught.value.exit_code == 64
    assert 'entropy' in caught.value.hint
    with pytest.raises(UsageError, match='no uncertainty'):
        uncertainty(Prediction(PROBS[0]), 'luck', 'unetr')
