"""Width and elongation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from mslesseg_app.lesions.shape import elongation, min_feret_diameter
from mslesseg_app.lesions.table import feret_diameter

TURN = Rotation.from_euler('xyz', (10, 20, 30), degrees=True).as_matrix()


def turned(affine: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = TURN @ affine[:3, :3]
    return out


def test_one_voxel_is_as_wide_as_its_shortest_edge():
    affine = np.diag((2.0, 3, 6, 1))
    assert min_feret_diameter(np.ones((1, 1, 1), bool), affine) == pytest.approx(2)
    assert elongation(np.ones((1, 1, 1), bool), affine) == pytest.approx(3)


@pytest.mark.parametrize('shape', [(4, 4, 4), (2, 5, 9)])
def test_a_box_has_its_edges(shape):
    box = np.ones(shape, bool)
    affine = np.diag((1.0, 1.5, 0.5, 1))
    edges = np.array(shape) * (1, 1.5, 0.5)
    assert min_feret_diameter(box, affine) == pytest.approx(edges.min())
    assert elongation(box, affine) == pytest.approx(edges.max() / edges.min())


def test_a_ball_is_as_wide_as_long():
    grid = np.ogrid[-15:16, -15:16, -15:16]
    ball = sum(axis**2 for axis in grid) <= 12**2
    assert min_feret_diameter(ball, np.eye(4)) == pytest.approx(25, abs=1.2)
    assert elongation(ball, np.eye(4)) == pytest.approx(1, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)))
def test_width_is_a_width_and_turns_with_the_lesion(mask):
    assume(mask.any())
    affine = np.diag((0.5, 0.5, 3.0, 1))
    width = min_feret_diameter(mask, affine)
    assert 0.5 - 1e-9 <= width <= feret_diameter(mask, affine)
    assert min_feret_diameter(mask, turned(affine)) == pytest.approx(width, abs=1e-6)
    # no direction of a sample is narrower by more than what edges against edges can give
    corners = [
        np.add(voxel, step) * (0.5, 0.5, 3.0)
        for voxel in np.argwhere(mask)
        for step in itertools.product((-0.5, 0.5), repeat=3)
    ]
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    assert np.ptp(np.array(corners) @ directions.T, axis=0).min() >= 0.8 * width


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)))
def test_elongation_is_that_of_finely_sampled_boxes(mask):
    assume(mask.any())
    affine = turned(np.diag((0.5, 1.0, 3.0, 1)))
    steps = (np.arange(8) + 0.5) / 8 - 0.5
    inner = np.stack(np.meshgrid(steps, steps, steps, indexing='ij'), -1).reshape(-1, 3)
    points = (np.argwhere(mask)[:, None] + inner).reshape(-1, 3) @ affine[:3, :3].T
    axes = np.linalg.eigvalsh(np.cov(points.T, bias=True))
    assert elongation(mask, affine) == pytest.approx(np.sqrt(axes[-1] / axes[0]), rel=0.02)
    assert elongation(mask, affine) >= 1
