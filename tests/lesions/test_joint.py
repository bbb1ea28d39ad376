"""Joint segmentation: sessions share what the images do not tell apart."""

from __future__ import annotations

import numpy as np

from mslesseg_app.lesions.difference import ChangedRegions, Difference
from mslesseg_app.lesions.joint import agreement_weight, combine, joint_mask, pull
from mslesseg_app.spatial.matching import HalfWay, Matched

SHAPE = (12, 12, 8)
STILL = np.eye(4)


def difference(z) -> Difference:
    flat = np.ones(SHAPE, np.float32)
    brain = np.ones(SHAPE, bool)
    brain[0] = False
    pair = HalfWay(flat, flat, brain, STILL, STILL, STILL)
    return Difference(pair, Matched(flat, flat, 1.0, '', 0.0), z.astype(np.float32), 0.03, flat)


def test_sessions_agree_where_images_do_and_keep_their_own_where_they_do_not():
    rng = np.random.default_rng(3)
    first, second = (rng.random(SHAPE).astype(np.float32) for _ in range(2))
    z, labels = np.zeros(SHAPE), np.zeros(SHAPE, np.int32)
    z[5:8, 5:8, 3:5], labels[5:8, 5:8, 3:5] = 9.0, 1
    weight = agreement_weight(difference(z), ChangedRegions(labels, np.array([True])))
    one = combine(first, [pull(first, second, weight)])
    two = combine(second, [pull(second, first, weight)])
    same = weight == 1
    assert same.mean() > 0.6
    assert np.allclose(one[same], two[same])
    assert np.allclose(one[same], (first + second)[same] / 2)
    assert np.array_equal(one[labels > 0], first[labels > 0])
    assert np.array_equal(two[0], second[0]), 'nothing is known outside of the brain'
    masks = [
        joint_mask(p, 1.0, threshold=0.5, connectivity=6, min_volume_mm3=0) for p in (one, two)
    ]
    assert np.array_equal(masks[0][same], masks[1][same])


def test_three_sessions_count_alike():
    own = np.full(SHAPE, 0.9, np.float32)
    weight = np.ones(SHAPE, np.float32)
    pulls = [pull(own, np.full(SHAPE, p, np.float32), weight) for p in (0.3, 0.6)]
    assert np.allclose(combine(own, pulls), 0.6)


def test_small_lesions_are_left_out_as_in_the_session_alone():
    prob = np.zeros(SHAPE, np.float32)
    prob[2, 2, 2] = prob[6:8, 6:8, 3:5] = 0.8
    mask = joint_mask(prob, 1.0, threshold=0.5, connectivity=6, min_volume_mm3=3)
    assert mask.sum() == 8
