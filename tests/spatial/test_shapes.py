"""Shapes of masks: the same as SciPy's, on random masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mslesseg_app.spatial.shapes import dilate, fill_holes, grow, largest_piece


@st.composite
def masks(draw) -> np.ndarray:
    """Masks of any density, at times empty, full or up to the border."""
    shape = draw(st.tuples(*[st.integers(1, 12)] * 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return random.random(shape) < draw(st.floats(0, 1))


@given(masks())
def test_holes_are_those_of_scipy(mask):
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


@given(masks(), st.integers(0, 3))
def test_dilation_is_that_of_scipy(mask, times):
    expected = ndimage.binary_dilation(mask, iterations=times) if times else mask
    assert np.array_equal(dilate(mask, times), expected)


@given(masks(), st.floats(0, 6))
def test_growth_is_a_distance(mask, radius):
    distance = ndimage.distance_transform_edt(~mask)
    expected = (distance <= radius) if mask.any() else mask
    assert np.array_equal(grow(mask, radius), expected)


@given(masks())
def test_the_largest_piece_is_connected_and_none_is_larger(mask):
    piece = largest_piece(mask)
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    assert piece.sum() == max(sizes, default=0)
    assert ndimage.label(piece)[1] == min(count, 1)
    assert not (piece & ~mask).any()


def test_masks_are_not_changed():
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[2, 2, 2] = True
    for function in (dilate, fill_holes, largest_piece, lambda m: grow(m, 2.0)):
        function(mask)
        assert mask.sum() == 1


@pytest.mark.parametrize('radius', [1.0, 2.0, 3.0])
def test_a_point_grows_to_a_ball(radius):
    mask = np.zeros((9, 9, 9), dtype=bool)
    mask[4, 4, 4] = True
    x, y, z = np.indices(mask.shape) - 4
    assert np.array_equal(grow(mask, radius), x**2 + y**2 + z**2 <= radius**2)
