"""The second opinion on lesions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from mslesseg_app.inference.confirm import confirmed
from mslesseg_app.inference.prediction import Prediction
from mslesseg_app.inference.predictor import GuidedPredictor

SHAPE = (5, 6, 7)
IMAGES = hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
NEAR = np.ones((3, 3, 3))


def test_a_lesion_counts_where_both_see_it_and_reaches_as_far_as_either():
    prob, second = np.zeros((2, 12, 12, 12), np.float32)
    prob[1:4, 1:4, 1:4], prob[6:9, 6:9, 6:9] = 0.9, 0.8
    second[3, 3, 2:6], second[10, 1, 1], second[0, 0, 0] = 0.7, 0.99, 0.4
    found = confirmed(prob, second, 0.5)
    np.testing.assert_array_equal(
        found[:6, :6, :6], np.maximum(prob, second * (second > 0.5))[:6, :6, :6]
    )
    assert found[7, 7, 7] == np.float32(0.49)
    assert found[10, 1, 1] == 0


@given(IMAGES, IMAGES, st.sampled_from([0.3, 0.5, 0.8]))
def test_the_mask_holds_the_regions_that_both_see(prob, second, threshold):
    found = confirmed(prob, second, threshold)
    here, there = prob >= threshold, second >= threshold
    kept = [ndimage.binary_propagation(one, NEAR, here | there) for one in (here, there)]
    np.testing.assert_array_equal(found >= threshold, kept[0] & kept[1])
    outside = ~here & ~there
    np.testing.assert_array_equal(found[outside], prob[outside])
    assert (found <= np.maximum(prob, second)).all()


@given(IMAGES)
def test_two_of_the_same_mind_change_nothing(prob):
    np.testing.assert_array_equal(confirmed(prob, prob, 0.5), prob)


def test_lesions_do_not_meet_outside_the_brain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network says anything there; it must not carry the second opinion to another lesion."""
    brain = np.ones((5, 5, 9), bool)
    brain[:, :, 4] = False
    second = np.zeros(brain.shape, np.float32)
    second[2, 2, 1] = 1

    class Everywhere:
        def detailed(self, guides: object, *_: object) -> Prediction:
            return Prediction(np.full(brain.shape, 0.9, np.float32))

    monkeypatch.setattr('mslesseg_app.models.guide.guide_channels', lambda channels, *_: channels)
    monkeypatch.setattr(
        'mslesseg_app.models.hyperintensity.Hyperintensity', lambda _: lambda *_: second
    )
    predictor = GuidedPredictor(Everywhere(), 0.5)  # type: ignore[arg-type]
    found = predictor.detailed(np.zeros((3, *brain.shape), np.float32), brain, (True,) * 3).prob
    assert (found[..., :4] >= 0.5).all()
    assert (found[..., 4:] < 0.5).all()
