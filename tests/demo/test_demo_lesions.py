"""The formula of a lesion against brute-force counting, and the plan of the two sessions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mslesseg_app.demo.lesions import (
    GAP_MM,
    GROWTH,
    PLAN,
    Lesion,
    in_session,
    lesion_mask,
    voxel_shares,
)
from mslesseg_app.demo.phantom import Phantom

BALL = Lesion(
    number=1,
    kind='deep',
    change='stable',
    centre=(0.3, -0.2, 0.1),
    directions=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    radii=(4.0, 4.0, 4.0),
    waves=((0.0, 0.0, 0.0, 0.0, 0.0),),
    brightness=1.0,
    hole=1.0,
)


def counted_volume(lesion: Lesion, step: float = 0.25) -> float:
    """Volume (mm3) by counting the points of a fine grid that lie inside."""
    half = np.arange(-lesion.reach - 0.5, lesion.reach + 0.5, step)
    points = np.stack(np.meshgrid(half, half, half, indexing='ij'), -1) + lesion.centre
    return float(np.count_nonzero(lesion.distance(points) < 0) * step**3)


def test_distance_of_a_ball_is_exact() -> None:
    points = np.random.default_rng(0).uniform(-9, 9, (500, 3))
    expected = np.linalg.norm(points - BALL.centre, axis=1) - 4.0
    np.testing.assert_allclose(BALL.distance(points), expected, atol=1e-9)


def test_volume_equals_counted_volume_and_plan(phantom: Phantom) -> None:
    planned = {k: volume for k, (_, volume, _) in enumerate(PLAN, start=1)}
    for lesion in phantom.lesions:
        assert lesion.volume_mm3 == pytest.approx(planned[lesion.number], rel=1e-6)
        assert counted_volume(lesion) == pytest.approx(lesion.volume_mm3, rel=0.03)


@settings(max_examples=25, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.5, 4.0)] * 3),
    shift=st.tuples(*[st.floats(-2.0, 2.0)] * 3),
    edge=st.sampled_from([0.0, 1.5]),
)
def test_shares_add_up_to_the_volume(
    spacing: tuple[float, float, float], shift: tuple[float, float, float], edge: float
) -> None:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.add(-20.0, shift)
    shape = tuple(int(40 / s) + 2 for s in spacing)
    _, share = voxel_shares(BALL, shape, affine, edge)
    assert share.min() >= 0
    assert share.max() <= 1
    assert share.sum() * np.prod(spacing) == pytest.approx(4 / 3 * np.pi * 64, rel=0.05)


def test_small_lesion_is_never_lost_between_thick_slices() -> None:
    small = replace(BALL, radii=(1.2, 1.2, 1.2), centre=(0.0, 0.0, 0.0))
    affine = np.diag([1.0, 1.0, 6.0, 1.0])
    affine[:3, 3] = (-10, -10, -27)  # the border of two slices goes through the centre
    mask = lesion_mask((small,), (21, 21, 10), affine)
    assert 1 <= mask.sum() <= 2


def test_lesion_outside_the_image_leaves_no_trace() -> None:
    far = replace(BALL, centre=(500.0, 0.0, 0.0))
    assert not lesion_mask((far,), (10, 10, 10), np.eye(4)).any()


def test_every_planned_lesion_found_a_place_in_white_matter(phantom: Phantom) -> None:
    assert len(phantom.lesions) == len(PLAN)
    index = (np.array([m.centre for m in phantom.lesions]) - phantom.grid.origin) / 2.0
    white = ndimage.map_coordinates(phantom.brain.wm, index.T, order=1)
    assert np.median(white) > 0.9
    assert white.min() > 0.4


def test_lesions_keep_their_distance(phantom: Phantom) -> None:
    for first in phantom.lesions:
        for second in phantom.lesions:
            if first is not second:
                assert second.distance(np.array([first.centre]))[0] > 0.5 * GAP_MM


def test_sessions_have_one_new_one_enlarged_and_one_resolved_lesion(phantom: Phantom) -> None:
    before = {m.number: m for m in in_session(phantom.lesions, 1)}
    after = {m.number: m for m in in_session(phantom.lesions, 2)}
    assert len(after.keys() - before.keys()) == 1
    assert len(before.keys() - after.keys()) == 1
    ratios = [after[k].volume_mm3 / before[k].volume_mm3 for k in before.keys() & after.keys()]
    assert sorted(ratios)[-1] == pytest.approx(GROWTH)
    assert sorted(ratios)[:-1] == pytest.approx([1.0] * (len(ratios) - 1))
