"""Intensity scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mslesseg_app.core.errors import DataError, ModelError
from mslesseg_app.models.prediction.normalise import JOINT, METHODS, normalise

BRAIN = np.zeros((8, 9, 10), bool)
BRAIN[1:7, 1:8, 1:9] = True
IMAGE = np.random.default_rng(1).gamma(4, 50, BRAIN.shape)


def test_zscore_equals_scipy():
    expected = stats.zscore(IMAGE[BRAIN])
    np.testing.assert_allclose(normalise(IMAGE, BRAIN, 'zscore')[BRAIN], expected, rtol=1e-5)


def test_robust_equals_scipy():
    values = IMAGE[BRAIN]
    expected = (values - np.median(values)) / stats.median_abs_deviation(values, scale='normal')
    np.testing.assert_allclose(normalise(IMAGE, BRAIN, 'robust')[BRAIN], expected, rtol=1e-5)


def test_robust_scale_ignores_a_few_lesions():
    image = IMAGE.copy()
    image[2, 2, 2:7] = 1e6
    before, after = (normalise(each, BRAIN, 'robust') for each in (IMAGE, image))
    others = BRAIN & (image < 1e6)
    np.testing.assert_allclose(after[others], before[others], rtol=0.05, atol=0.05)


@pytest.mark.parametrize('method', sorted(METHODS))
@given(scale=st.floats(1e-3, 1e6))
def test_units_do_not_matter_and_outside_is_zero(method, scale):
    result = normalise(scale * IMAGE, BRAIN, method)
    np.testing.assert_allclose(result, normalise(IMAGE, BRAIN, method), rtol=1e-4, atol=1e-5)
    assert result.dtype == np.float32
    assert not result[~BRAIN].any()


@pytest.mark.parametrize('method', sorted(set(METHODS) - {JOINT}))
def test_voxels_that_were_not_seen_take_no_part(method):
    image = IMAGE.copy()
    image[1:3] = 0
    smaller = BRAIN.copy()
    smaller[1:3] = False
    np.testing.assert_array_equal(
        normalise(image, BRAIN, method), normalise(IMAGE, smaller, method)
    )


def test_large_offsets_keep_their_precision():
    shifted = normalise(IMAGE + 1e7, BRAIN, 'zscore')
    np.testing.assert_allclose(shifted, normalise(IMAGE, BRAIN, 'zscore'), atol=1e-4)


def test_integer_images_are_taken():
    image = IMAGE.astype(np.int16)
    expected = normalise(image.astype(float), BRAIN, 'zscore')
    np.testing.assert_array_equal(normalise(image, BRAIN, 'zscore'), expected)


@pytest.mark.parametrize('method', sorted(METHODS))
@pytest.mark.parametrize(
    ('image', 'brain', 'message'),
    [
        (np.full(BRAIN.shape, 7.3), BRAIN, 'constant'),
        (np.zeros(BRAIN.shape), BRAIN, 'nothing'),
        (IMAGE, np.zeros_like(BRAIN), 'nothing'),
        (np.where(IMAGE > 300, np.nan, IMAGE), BRAIN, 'not numbers'),
        (np.where(IMAGE > 300, np.inf, IMAGE), BRAIN, 'not numbers'),
        (IMAGE[1:], BRAIN, 'shape'),
    ],
)
def test_images_without_anatomy_are_refused(method, image, brain, message):
    with pytest.raises(DataError, match=message):
        normalise(image, brain, method)


def test_unknown_method_is_the_fault_of_the_model():
    with pytest.raises(ModelError, match='magic'):
        normalise(IMAGE, BRAIN, 'magic')
