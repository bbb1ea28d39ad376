"""Lesion instances: order, connectivity and smallest volume."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import label as skimage_label

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.lesions.components import label_lesions, smallest_size

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))


def test_ids_run_from_the_largest_and_ties_follow_position():
    mask = np.zeros((9, 3, 3), bool)
    mask[0, 0, 0] = mask[8, 2, 2] = True
    mask[3:6, 1, 1] = True
    labels = label_lesions(mask, 1.0)
    assert labels.dtype == np.int32
    assert labels[4, 1, 1] == 1
    assert (labels[0, 0, 0], labels[8, 2, 2]) == (2, 3)


@pytest.mark.parametrize(
    ('offset', 'counts'),
    [((0, 0, 1), (1, 1, 1)), ((0, 1, 1), (2, 1, 1)), ((1, 1, 1), (2, 2, 1))],
)
def test_connectivity_joins_over_faces_edges_and_corners(offset, counts):
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[offset] = True
    assert tuple(label_lesions(mask, 1.0, c).max() for c in (6, 18, 26)) == counts


@pytest.mark.parametrize(('connectivity', 'rank'), [(6, 1), (18, 2), (26, 3)])
def test_components_equal_those_of_scikit_image(connectivity, rank):
    mask = np.random.default_rng(1).random((20, 21, 22)) < 0.2
    ours = label_lesions(mask, 1.0, connectivity)
    theirs = skimage_label(mask, connectivity=rank)
    pairs = np.unique(np.stack([ours[mask], theirs[mask]]), axis=1)
    assert ours.max() == theirs.max() == pairs.shape[1]


def test_count_equals_that_of_simpleitk():
    mask = np.random.default_rng(2).random((15, 16, 17)) < 0.15
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    faces = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, False)).max()
    corners = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, True)).max()
    assert (label_lesions(mask, 1.0, 6).max(), label_lesions(mask, 1.0, 26).max()) == (
        faces,
        corners,
    )


@given(MASKS, st.sampled_from((6, 18, 26)), st.floats(0, 6))
def test_sizes_fall_and_none_is_too_small(mask, connectivity, smallest):
    labels = label_lesions(mask, 1.0, connectivity, smallest)
    sizes = np.bincount(labels.ravel())[1:]
    assert not labels[~mask].any()
    assert list(sizes) == sorted(sizes, reverse=True)
    assert (sizes >= max(1, smallest - 1e-5)).all()
    if smallest <= 1:
        assert ((labels > 0) == mask).all()


@pytest.mark.parametrize(
    ('voxel', 'smallest', 'voxels'),
    [
        (1.0, 3.0, 3),
        (1.0, 3.01, 4),
        (0.75, 3.0, 4),
        (float(np.float32(0.6) ** 3), 3.0, 14),
        (float(np.float32(0.1)) * 10, 3.0, 3),
        (5.0, 3.0, 1),
        (1.0, 0.0, 1),
    ],
)
def test_smallest_volume_counts_in_mm3_and_itself_suffices(voxel, smallest, voxels):
    assert smallest_size(voxel, smallest) == voxels


def test_empty_mask_has_no_lesion():
    assert not label_lesions(np.zeros((4, 4, 4), bool), 1.0).any()


@pytest.mark.parametrize(
    ('arguments', 'error'),
    [
        ({'connectivity': 8}, UsageError),
        ({'min_volume_mm3': -1.0}, UsageError),
        ({'min_volume_mm3': np.nan}, UsageError),
        ({'voxel_volume_mm3': 0.0}, DataError),
        ({'voxel_volume_mm3': np.nan}, DataError),
        ({'mask': np.ones((2, 2), bool)}, DataError),
    ],
)
def test_impossible_input_is_refused(arguments, error):
    defaults = {'mask': np.ones((2, 2, 2), bool), 'voxel_volume_mm3': 1.0}
    with pytest.raises(error):
        label_lesions(**(defaults | arguments))
