"""The second opinion on lesions."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from mslesseg_app.inference.confirm import confirmed

SHAPE = (5, 6, 7)


def test_a_lesion_that_nobody_else_sees_is_taken_back():
    prob = np.zeros((10, 10, 10), np.float32)
    prob[1:4, 1:4, 1:4], prob[6:9, 6:9, 6:9], prob[4, 4, 4] = 0.9, 0.8, 0.6
    opinion = np.zeros(prob.shape, bool)
    opinion[1, 1, 1] = True
    found = confirmed(prob, opinion, 0.5)
    np.testing.assert_array_equal(found[:5, :5, :5], prob[:5, :5, :5])
    assert found[7, 7, 7] == np.float32(0.49)


@given(
    hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32)),
    hnp.arrays(bool, SHAPE),
    st.sampled_from([0.3, 0.5, 0.8]),
)
def test_the_mask_holds_the_regions_that_both_see(prob, opinion, threshold):
    found = confirmed(prob, opinion, threshold)
    mask = prob >= threshold
    kept = ndimage.binary_propagation(opinion & mask, np.ones((3, 3, 3)), mask)
    np.testing.assert_array_equal(found >= threshold, kept)
    assert (found <= prob).all()
    np.testing.assert_array_equal(found[~mask], prob[~mask])
