"""Results depend neither on an offset nor on the unit of the values of an image."""

from __future__ import annotations

import numpy as np
import pytest

from mslesseg_app.spatial.intensity import zero_based


def head(air: float = 8.0) -> np.ndarray:
    """Air with noise around tissue, whole numbers, lowest value zero."""
    rng = np.random.default_rng(0)
    data = np.rint(np.abs(rng.normal(0, air, (24, 26, 20))))
    data[6:18, 6:18, 4:16] = np.rint(rng.normal(400, 60, (12, 12, 12)))
    data[0, 0, 0] = 0
    return data.astype(np.float32)


def stripped() -> np.ndarray:
    data = np.zeros((24, 26, 20), np.float32)
    data[6:18, 6:18, 4:16] = head()[6:18, 6:18, 4:16]
    return data


@pytest.mark.parametrize('make', [head, stripped])
@pytest.mark.parametrize('offset', [-300, -5000, 0, 17, 40_000])
def test_an_offset_is_taken_away(make, offset):
    data = make()
    assert np.array_equal(zero_based(data + np.float32(offset)), data)


def test_a_large_offset_of_wide_numbers_loses_nothing():
    data = head().astype(np.float64)
    assert np.array_equal(zero_based(data + 1e9), data.astype(np.float32))


@pytest.mark.parametrize('make', [head, stripped])
@pytest.mark.parametrize('power', [-60, -20, 0, 40])
def test_a_factor_leaves_the_pattern_bit_for_bit(make, power):
    data = make()
    found = zero_based(np.ldexp(data, power))
    ratio = found.max() / data.max()
    assert np.log2(ratio) == np.round(np.log2(ratio))
    assert np.array_equal(found, data * ratio)
    assert 1 <= found.max() <= 1e6


def test_ordinary_values_are_not_touched():
    data = head()
    assert zero_based(data) is data


def test_ringing_below_the_background_stays_where_it_is():
    """An image without skull that was interpolated: zero outside, a few values below zero."""
    data = stripped()
    data[6, 6:18, 4:16] = -30
    assert np.array_equal(zero_based(data), data)
    assert np.array_equal(zero_based(data - 300), data)


@pytest.mark.parametrize('mark', [-32768, -1024])
def test_a_value_for_what_was_not_measured_becomes_zero(mark):
    data = head()
    data[:, :2] = mark
    expected = np.where(data == mark, 0, data)
    assert np.array_equal(zero_based(data), expected)
