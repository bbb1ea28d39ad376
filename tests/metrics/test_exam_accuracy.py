"""The seven numbers of the paper, against other implementations and by hand."""

from __future__ import annotations

import math

import nibabel as nb
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from mslesseg_app.core.errors import DataError
from mslesseg_app.metrics.exam import METRIC_COLUMNS, accuracy, unknown

SPACING = (0.5, 1.0, 3.0)
SHAPE = (6, 5, 7)
MASKS = hnp.arrays(bool, SHAPE)
NAN = math.nan


@pytest.fixture(scope='module')
def pair():
    """Two smooth, overlapping, patchy masks that stay off the edge of the image."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(40, 36, 30)), 2)
    inner = np.zeros(noise.shape, bool)
    inner[3:-3, 3:-3, 3:-3] = True
    reference = (noise > 1.2 * noise.std()) & inner
    changed = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=noise.shape), 2)
    prediction = (noise + 0.6 * changed > 1.3 * noise.std()) & inner
    return prediction, reference


def plain_surface(mask):
    padded = np.pad(mask, 1)
    steps = [(axis, step) for axis in range(3) for step in (-1, 1)]
    enclosed = np.all([np.roll(padded, s, a) for a, s in steps], axis=0)
    return np.argwhere(padded & ~enclosed) - 1


def plain_assd(prediction, reference, spacing):
    one, two = plain_surface(prediction), plain_surface(reference)
    distances = cdist(one * spacing, two * spacing)
    total = distances.min(axis=1).sum() + distances.min(axis=0).sum()
    return total / (len(one) + len(two))


def plain_lesions(mask, other):
    """Count lesions, and those that `other` meets, by flooding."""
    left, count, met = set(map(tuple, np.argwhere(mask))), 0, 0
    while left:
        front, lesion = [left.pop()], []
        while front:
            voxel = front.pop()
            lesion.append(voxel)
            for axis in range(3):
                for step in (-1, 1):
                    near = tuple(v + step * (a == axis) for a, v in enumerate(voxel))
                    if near in left:
                        left.remove(near)
                        front.append(near)
        count += 1
        met += any(other[voxel] for voxel in lesion)
    return count, met


def equal(left, right):
    return left == pytest.approx(right, rel=1e-9, nan_ok=True)


# ------------------------------------------------------------ against other programs


def test_assd_equals_monai(pair):
    import torch
    from monai.metrics import compute_average_surface_distance

    tensors = (torch.from_numpy(mask[None, None]) for mask in pair)
    theirs = compute_average_surface_distance(
        *tensors, include_background=True, symmetric=True, spacing=list(SPACING)
    )
    assert accuracy(*pair, SPACING)['ASSD'] == pytest.approx(float(theirs), rel=1e-5)


def test_assd_equals_simpleitk(pair):
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in pair]
    for image in images:
        image.SetSpacing(SPACING[::-1])
    edges = [sitk.LabelContour(image, False) for image in images]
    distances = [
        np.abs(
            sitk.GetArrayFromImage(
                sitk.SignedMaurerDistanceMap(edge, squaredDistance=False, useImageSpacing=True)
            )
        )
        for edge in edges
    ]
    one, two = (sitk.GetArrayFromImage(edge) > 0 for edge in edges)
    pooled = np.concatenate([distances[1][one], distances[0][two]])
    assert accuracy(*pair, SPACING)['ASSD'] == pytest.approx(pooled.mean(), rel=1e-5)


def test_voxel_numbers_equal_simpleitk_and_scikit_learn(pair):
    from sklearn.metrics import precision_score, recall_score

    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in pair]
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    ours = accuracy(*pair, SPACING)
    prediction, reference = (mask.ravel() for mask in pair)
    assert ours['DSC'] == pytest.approx(overlap.GetDiceCoefficient())
    assert ours['TPR'] == pytest.approx(recall_score(reference, prediction))
    assert ours['PPV'] == pytest.approx(precision_score(reference, prediction))


@given(MASKS, MASKS)
def test_all_numbers_equal_plain_computations(prediction, reference):
    ours = accuracy(prediction, reference, SPACING)
    if prediction.any() and reference.any():
        assert equal(ours['ASSD'], plain_assd(prediction, reference, SPACING))
        n_reference, found = plain_lesions(reference, prediction)
        n_predicted, confirmed = plain_lesions(prediction, reference)
        assert equal(ours['LTPR'], found / n_reference)
        assert equal(ours['LFPR'], 1 - confirmed / n_predicted)
        volumes = prediction.sum(), reference.sum()
        assert equal(ours['AVD'], abs(int(volumes[0]) - int(volumes[1])) / volumes[1])


# ------------------------------------------------------------------------ properties


@given(MASKS, MASKS)
def test_bounds_and_symmetry(one, two):
    forth, back = accuracy(one, two, SPACING), accuracy(two, one, SPACING)
    assert list(forth) == list(METRIC_COLUMNS)
    for name in ('DSC', 'TPR', 'PPV', 'LTPR', 'LFPR'):
        assert math.isnan(forth[name]) or 0 <= forth[name] <= 1
    assert equal(forth['DSC'], back['DSC'])
    assert equal(forth['ASSD'], back['ASSD'])
    assert equal(forth['TPR'], back['PPV'])
    assert equal(forth['LTPR'], 1 - back['LFPR'])


@given(MASKS)
def test_a_mask_agrees_with_itself(mask):
    ours = accuracy(mask, mask, SPACING)
    share = 1.0 if mask.any() else NAN
    expected = {'DSC': 1.0, 'TPR': share, 'PPV': share, 'LTPR': share, 'AVD': 0.0, 'ASSD': 0.0}
    assert ours == pytest.approx(expected | {'LFPR': 0.0 if mask.any() else NAN}, nan_ok=True)


@given(MASKS, MASKS, st.floats(0.1, 10), st.integers(0, 3))
def test_scale_moves_only_distances_and_place_moves_nothing(one, two, scale, shift):
    first = accuracy(one, two, SPACING)
    larger = accuracy(one, two, [scale * size for size in SPACING])
    moved = accuracy(
        *(np.pad(mask, ((shift, 1), (0, shift), (2, 2))) for mask in (one, two)), SPACING
    )
    assert equal(larger.pop('ASSD'), scale * first['ASSD'])
    assert larger == pytest.approx({k: first[k] for k in larger}, nan_ok=True)
    assert moved == pytest.approx(first, nan_ok=True)


# ------------------------------------------------------------------- by hand, and empty


def test_numbers_by_hand():
    reference, prediction = np.zeros((2, 12, 6, 6), bool)
    reference[1:3, 2:4, 2:4] = True  # 8 voxels, found
    reference[8, 1, 1] = True  # missed
    prediction[2:4, 2:4, 2:4] = True  # shifted by one voxel
    prediction[10, 4, 4] = prediction[6, 5, 5] = True  # two false lesions
    numbers = accuracy(prediction, reference, (1, 1, 1))
    assert numbers['DSC'] == pytest.approx(8 / 19)
    assert (numbers['TPR'], numbers['PPV']) == pytest.approx((4 / 9, 4 / 10))
    assert (numbers['LTPR'], numbers['LFPR']) == pytest.approx((1 / 2, 2 / 3))
    assert numbers['AVD'] == pytest.approx(1 / 9)


def test_distance_between_two_voxels_uses_the_spacing():
    one, two = np.zeros((2, 5, 5, 5), bool)
    one[0, 0, 0] = two[3, 4, 0] = True
    assert accuracy(one, two, (1, 1, 1))['ASSD'] == pytest.approx(5)
    assert accuracy(one, two, (2, 3, 1))['ASSD'] == pytest.approx(np.hypot(6, 12))


@pytest.mark.parametrize(
    ('predicted', 'true', 'expected'),
    [
        (False, False, (1, NAN, NAN, NAN, NAN, 0, 0)),
        (True, False, (0, NAN, 0, NAN, 1, NAN, NAN)),
        (False, True, (0, 0, NAN, 0, NAN, 1, NAN)),
    ],
)
def test_empty_masks_as_documented(predicted, true, expected):
    prediction, reference = np.zeros((2, 4, 4, 4), bool)
    prediction[1, 1, 1], reference[2, 2, 2] = predicted, true
    numbers = accuracy(prediction, reference, (1, 1, 1))
    assert list(numbers.values()) == pytest.approx(list(expected), nan_ok=True)


def test_unknown_accuracy_is_nan_in_every_column():
    assert list(unknown()) == list(METRIC_COLUMNS)
    assert all(math.isnan(value) for value in unknown().values())


def test_binary_numbers_of_any_type_are_masks():
    mask = np.zeros((3, 3, 3), np.float32)
    mask[1, 1, 1] = 1
    assert accuracy(mask, mask.astype(np.uint8), (1, 1, 1))['DSC'] == 1


@pytest.mark.parametrize(
    ('prediction', 'reference', 'spacing'),
    [
        (np.ones((2, 2, 2)), np.ones((2, 2, 3)), (1, 1, 1)),
        (np.full((2, 2, 2), 0.5), np.ones((2, 2, 2)), (1, 1, 1)),
        (np.full((2, 2, 2), np.nan), np.ones((2, 2, 2)), (1, 1, 1)),
        (np.full((2, 2, 2), 2), np.ones((2, 2, 2)), (1, 1, 1)),
        (np.ones((1, 2, 2, 2)), np.ones((1, 2, 2, 2)), (1, 1, 1)),
        (np.ones((2, 2, 2)), np.ones((2, 2, 2)), (1, 1)),
        (np.ones((2, 2, 2)), np.ones((2, 2, 2)), (1, 0, 1)),
        (np.ones((2, 2, 2)), np.ones((2, 2, 2)), (1, math.inf, 1)),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(prediction, reference, spacing):
    with pytest.raises(DataError):
        accuracy(prediction, reference, spacing)


# -------------------------------------------------------------------------- real masks


@pytest.mark.realdata
@pytest.mark.parametrize(
    'case',
    [
        'ljubljana-mni/patient07/MASK.nii.gz',
        'ljubljana-mni/patient26/MASK.nii.gz',
        'mslesseg/train/P18/T1/P18_T1_MASK.nii.gz',
    ],
)
def test_dropped_and_added_lesions_of_a_real_mask(real_data, case):
    from mslesseg_app.lesions.components import label_lesions

    reference = np.asarray(nb.load(real_data / case).dataobj) > 0
    labels = label_lesions(reference, 1.0)
    count, size = int(labels.max()), int(reference.sum())
    dropped = int((labels == 1).sum())
    prediction = reference & (labels != 1)
    prediction[2, 2, 2] = True
    numbers = accuracy(prediction, reference, (1, 1, 1))
    kept = size - dropped
    assert numbers['DSC'] == pytest.approx(2 * kept / (size + kept + 1))
    assert numbers['TPR'] == pytest.approx(kept / size)
    assert numbers['PPV'] == pytest.approx(kept / (kept + 1))
    assert numbers['LTPR'] == pytest.approx((count - 1) / count)
    assert numbers['LFPR'] == pytest.approx(1 / count)
    assert numbers['AVD'] == pytest.approx((dropped - 1) / size)
