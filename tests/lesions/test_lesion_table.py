"""The row of each lesion."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.table import LESION_COLUMNS, feret_diameter, lesion_table

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler('xyz', (10, 20, 30), degrees=True).as_matrix() @ np.diag(
    (0.5, 0.5, 3.0)
)
OBLIQUE[:3, 3] = (5, -7, 11)


def plain_diameter(mask, affine):
    corners = np.array(
        [
            np.add(voxel, step)
            for voxel in np.argwhere(mask)
            for step in itertools.product((-0.5, 0.5), repeat=3)
        ]
    )
    return pdist(corners @ affine[:3, :3].T).max()


def test_one_voxel_is_as_long_as_its_diagonal():
    assert feret_diameter(np.ones((1, 1, 1), bool), np.diag((2.0, 3, 6, 1))) == pytest.approx(7)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)))
def test_diameter_equals_the_search_over_all_corners(mask):
    assume(mask.any())
    assert feret_diameter(mask, OBLIQUE) == pytest.approx(plain_diameter(mask, OBLIQUE))


def test_diameter_of_a_large_ball():
    grid = np.ogrid[-20:21, -20:21, -20:21]
    ball = sum(axis**2 for axis in grid) <= 18**2
    assert feret_diameter(ball, np.eye(4)) == pytest.approx(37, abs=0.7)


def test_row_of_a_known_lesion():
    labels = np.zeros((10, 10, 10), np.int32)
    labels[2:4, 5, 6] = 1
    labels[8, 8, 8] = 2
    prob = np.zeros(labels.shape, np.float32)
    prob[2, 5, 6], prob[3, 5, 6], prob[8, 8, 8] = 0.5, 1.0, 0.75
    affine = np.diag((-1.0, 2, 3, 1))
    affine[:3, 3] = (10, 20, 30)
    mni = np.diag((2.0, 2, 2, 1))
    table = lesion_table(labels, affine, prob, mni)
    first = table.iloc[0]
    assert list(table.columns) == list(LESION_COLUMNS)
    assert table['lesion_id'].tolist() == [1, 2]
    assert table['n_voxels'].tolist() == [2, 1]
    assert first['volume_mm3'] == pytest.approx(12)
    assert first[['centroid_x', 'centroid_y', 'centroid_z']].tolist() == [7.5, 30, 48]
    assert first[['mni_x', 'mni_y', 'mni_z']].tolist() == [15, 60, 96]
    assert first['max_diameter_mm'] == pytest.approx(np.sqrt(2**2 + 2**2 + 3**2))
    assert (first['mean_prob'], first['max_prob']) == (0.75, 1.0)


def test_centroid_equals_the_mean_of_the_voxels_in_an_oblique_grid():
    labels = (np.random.default_rng(1).random((12, 13, 9)) < 0.1).astype(np.int32)
    table = lesion_table(labels, OBLIQUE)
    voxels = np.argwhere(labels) @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3]
    centre = table[['centroid_x', 'centroid_y', 'centroid_z']].to_numpy()[0]
    np.testing.assert_allclose(centre, voxels.mean(axis=0))
    assert table['volume_mm3'][0] == pytest.approx(labels.sum() * 0.75)


def test_unknown_columns_are_nan():
    table = lesion_table(np.ones((2, 2, 2), np.int32), np.eye(4))
    assert table[['mni_x', 'mni_y', 'mni_z', 'mean_prob', 'max_prob']].isna().all(axis=None)


def test_no_lesion_gives_no_row_but_all_columns():
    table = lesion_table(np.zeros((3, 3, 3), np.int32), np.eye(4))
    assert table.empty
    assert list(table.columns) == list(LESION_COLUMNS)
    assert table['n_voxels'].dtype == np.int64


@pytest.mark.parametrize(
    ('labels', 'prob'),
    [(np.ones((2, 2)), None), (np.ones((2, 2, 2)), np.ones((2, 2, 3)))],
)
def test_different_grids_are_refused(labels, prob):
    with pytest.raises(DataError):
        lesion_table(labels, np.eye(4), prob)
