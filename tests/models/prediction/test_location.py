"""Findings outside white matter are left out, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from probability import segment_exam
from scipy import ndimage

from mslesseg_app.core.errors import DataError, ModelError
from mslesseg_app.lesions.atlas import region_atlas
from mslesseg_app.models.prediction.white_matter import only_in_white_matter
from mslesseg_app.models.registry import get_entry
from mslesseg_app.spatial.template import TEMPLATE_SHAPE, tissue_prior

WHITE = ndimage.gaussian_filter(tissue_prior('wm').astype(np.float64), 1)


def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    grid = np.indices(TEMPLATE_SHAPE) - np.array(centre)[:, None, None, None]
    return (grid**2).sum(axis=0) <= radius**2


def place(white: bool) -> tuple[int, int, int]:
    """Return a voxel in the middle of white matter, or far from it in cortex."""
    where = WHITE > 0.95 if white else region_atlas().cortex & (WHITE < 0.1)
    depth = ndimage.distance_transform_edt(where)
    return tuple(int(i) for i in np.unravel_index(depth.argmax(), depth.shape))  # type: ignore[return-value]


def test_a_finding_in_cortex_goes_with_its_fringe_and_one_in_white_matter_stays() -> None:
    prob = np.zeros(TEMPLATE_SHAPE, np.float32)
    for white in (True, False):
        centre = place(white)
        prob[ball(centre, 3)], prob[ball(centre, 2)] = 0.3, 0.9
    found = only_in_white_matter(prob, 0.6, 0.25)
    stays = ball(place(white=True), 3)
    assert np.array_equal(found, np.where(stays, prob, 0))
    assert np.array_equal(only_in_white_matter(prob, 0.6, 0.0), prob)


def test_what_is_below_the_threshold_alone_and_a_shared_fringe_stay() -> None:
    prob = np.zeros(TEMPLATE_SHAPE, np.float32)
    prob[ball(place(white=False), 3)] = 0.5
    assert np.array_equal(only_in_white_matter(prob, 0.6, 0.25), prob)
    # a bridge of low probability joins both findings: it belongs to the one that stays
    bridge = np.zeros(TEMPLATE_SHAPE, bool)
    ends = np.array([place(white=True), place(white=False)])
    for step in np.linspace(0, 1, 400):
        bridge[tuple(np.rint(ends[0] + step * (ends[1] - ends[0])).astype(int))] = True
    bridge = ndimage.binary_dilation(bridge, np.ones((3, 3, 3)))
    cortex = ball(place(white=False), 2)
    prob = np.where(bridge, 0.3, 0).astype(np.float32)
    prob[cortex | ball(place(white=True), 2)] = 0.9
    found = only_in_white_matter(prob, 0.6, 0.25)
    assert np.array_equal(found, np.where(cortex, 0, prob))


@pytest.mark.parametrize('least', [0.1, 0.25, 0.5])
def test_the_rule_is_a_mean_over_each_finding(least: float) -> None:
    """The same by hand, one finding after the other, on findings at random places."""
    rng = np.random.default_rng(3)
    prob = np.zeros(TEMPLATE_SHAPE, np.float32)
    for centre in rng.integers(30, 150, (60, 3)):
        prob[
            tuple(slice(c, c + n) for c, n in zip(centre, rng.integers(1, 6, 3), strict=True))
        ] = 1
    expected = prob > 0
    labels, count = ndimage.label(expected, np.ones((3, 3, 3)))
    for number in range(1, count + 1):
        if WHITE[labels == number].mean() < least:
            expected &= labels != number
    assert 0 < expected.sum() < (prob > 0).sum()
    assert np.array_equal(only_in_white_matter(prob, 0.5, least) > 0, expected)


def test_another_grid_is_refused() -> None:
    with pytest.raises(DataError, match='template'):
        only_in_white_matter(np.zeros((8, 8, 8), np.float32), 0.5, 0.25)


@pytest.mark.parametrize('value', [-0.1, 1.0, True, 'much'])
def test_the_description_is_checked(value: object) -> None:
    with pytest.raises(ModelError, match='least_white_matter'):
        replace(get_entry('unet'), least_white_matter=value)  # type: ignore[arg-type]


def test_segmentation_follows_the_description(monkeypatch: pytest.MonkeyPatch) -> None:
    prob = np.zeros(TEMPLATE_SHAPE, np.float32)
    prob[ball(place(white=False), 2) | ball(place(white=True), 2)] = 0.9
    monkeypatch.setattr(
        'mslesseg_app.models.prediction.segment.load_predictor', lambda *_: lambda *_: prob.copy()
    )
    brain = ndimage.binary_dilation(prob > 0, iterations=3)
    flair = np.random.default_rng(0).normal(100, 10, TEMPLATE_SHAPE)
    entry = replace(get_entry('hyperintensity'), name='location', threshold=0.5)
    for least, expected in ((0.0, prob), (0.25, np.where(ball(place(white=True), 2), prob, 0))):
        chosen = replace(entry, least_white_matter=least)
        found = segment_exam(chosen, {'FLAIR': flair}, brain)[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
