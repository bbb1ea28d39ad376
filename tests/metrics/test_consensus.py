"""STAPLE, majority and mean: by hand, against a plain EM, degenerate and on real masks."""

from __future__ import annotations

import math

import nibabel as nb
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.metrics import consensus as module
from mslesseg_app.metrics.consensus import METHODS, consensus, experiments, leave_one_out

NAN = math.nan
SETS = st.integers(1, 4).flatmap(lambda n: hnp.arrays(bool, (n, 4, 5, 3)))
REAL = [
    'ljubljana-mni/patient07/MASK.nii.gz',
    'ljubljana-mni/patient26/MASK.nii.gz',
    'mslesseg/train/P18/T1/P18_T1_MASK.nii.gz',
]


def dice(one, two):
    return 2 * (one & two).sum() / (one.sum() + two.sum())


def at(*voxels, shape=(9, 9, 9)):
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def plain_staple(seen, iterations):
    """The formulas of Warfield 2004 (equations 15, 18 and 19), from ITK's starting point."""
    marks = np.stack(seen).astype(float)
    prior = marks.mean()
    p = q = np.full(len(marks), 0.99999)
    for _ in range(iterations):
        a = np.prod(np.where(marks > 0, p[:, None], 1 - p[:, None]), axis=0)
        b = np.prod(np.where(marks > 0, 1 - q[:, None], q[:, None]), axis=0)
        w = prior * a / (prior * a + (1 - prior) * b)
        p = (marks * w).sum(axis=1) / w.sum()
        q = ((1 - marks) * (1 - w)).sum(axis=1) / (1 - w).sum()
    return w, p, q


@pytest.fixture(scope='module')
def raters():
    """Five masks with wobbling outlines, of a patchy truth."""
    rng = np.random.default_rng(5)
    field = ndimage.gaussian_filter(rng.normal(size=(30, 28, 26)), 2)
    field /= field.std()
    wobbles = [ndimage.gaussian_filter(rng.normal(size=field.shape), 1.5) for _ in range(5)]
    return [field + 0.35 * wobble / wobble.std() > 1.4 for wobble in wobbles], field > 1.4


# --------------------------------------------------------------------------- methods


def test_majority_is_strict():
    one, two = at((1, 1, 1), (2, 2, 2)), at((1, 1, 1), (3, 3, 3))
    tie = consensus([one, two], 'majority')
    assert np.array_equal(tie.mask, at((1, 1, 1)))
    assert tie.agreement[1, 1, 1] == 2
    assert tie.agreement.dtype == np.uint8
    assert tie.probability[2, 2, 2] == 0.5
    three = consensus([one, two, at((3, 3, 3))], 'majority')
    assert np.array_equal(three.mask, at((1, 1, 1), (3, 3, 3)))
    assert three.sensitivity == three.specificity == ()


def test_mean_of_masks_keeps_half_and_mean_of_probabilities_is_theirs():
    one, two = at((1, 1, 1), (2, 2, 2)), at((1, 1, 1))
    assert np.array_equal(consensus([one, two], 'mean').mask, one)
    maps = [one * np.float32(0.7), two * np.float32(0.5)]
    combined = consensus([one, two], 'mean', probabilities=maps)
    assert combined.probability[1, 1, 1] == pytest.approx(0.6)
    assert np.array_equal(combined.mask, at((1, 1, 1)))
    assert combined.agreement[2, 2, 2] == 1
    strict = consensus([one, two], 'mean', probabilities=maps, threshold=0.61)
    assert not strict.mask.any()


def test_majority_equals_simpleitk(raters):
    masks, _ = raters
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    voted = sitk.GetArrayFromImage(sitk.LabelVoting(images)) > 0
    assert np.array_equal(consensus(masks, 'majority').mask, voted)


def test_staple_is_the_published_algorithm(raters):
    masks, _ = raters
    ours = consensus(masks, 'staple')
    band = ndimage.binary_dilation(np.any(masks, axis=0), iterations=module.MARGIN_VOXELS)
    w, p, q = plain_staple([mask[band] for mask in masks], 200)
    assert ours.probability[band] == pytest.approx(w, abs=1e-4)
    assert not ours.probability[~band].any()
    assert ours.sensitivity == pytest.approx(tuple(p), abs=1e-4)
    assert ours.specificity == pytest.approx(tuple(q), abs=1e-4)
    assert ours.probability.dtype == np.float32
    assert ours.note == ''


def test_staple_does_not_depend_on_the_empty_space_around(raters):
    masks = [np.pad(mask, module.MARGIN_VOXELS) for mask in raters[0]]
    small = consensus(masks, 'staple')
    large = consensus([np.pad(mask, 20) for mask in masks], 'staple')
    inner = (slice(20, -20),) * 3
    assert np.array_equal(large.probability[inner], small.probability)
    assert large.sensitivity == small.sensitivity


def test_staple_of_many_wide_raters_is_not_their_union():
    """What the band is for: shown the whole image, SimpleITK joins the masks."""
    rng = np.random.default_rng(1)
    shape = (60, 60, 60)
    truth = np.zeros(shape, bool)
    truth[20:28, 20:28, 20:28] = True
    masks = [
        truth | (ndimage.binary_dilation(truth) & (rng.random(shape) < 0.3)) for _ in range(15)
    ]
    staple = sitk.STAPLEImageFilter()
    staple.SetForegroundValue(1)
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    whole = sitk.GetArrayFromImage(staple.Execute(images)) >= 0.5
    ours = consensus(masks, 'staple').mask
    assert dice(ours, truth) > 0.99
    assert dice(whole, truth) < 0.9


@pytest.mark.parametrize('method', METHODS)
def test_consensus_is_better_than_any_rater(raters, method):
    masks, truth = raters
    combined = consensus(masks, method)
    assert dice(combined.mask, truth) > max(dice(mask, truth) for mask in masks)


@given(SETS, st.sampled_from(METHODS), st.randoms())
def test_properties(masks, method, random):
    masks = list(masks)
    ours = consensus(masks, method)
    union, common = np.any(masks, axis=0), np.all(masks, axis=0)
    assert ours.mask.dtype == bool
    assert np.isfinite(ours.probability).all()
    assert ours.probability.min() >= 0
    assert ours.probability.max() <= 1
    assert np.array_equal(ours.agreement, np.sum(masks, axis=0))
    if method != 'staple':
        assert not (ours.mask & ~union).any()
        assert not (common & ~ours.mask).any()
    for rate in (*ours.sensitivity, *ours.specificity):
        assert 0 <= rate <= 1 or (math.isnan(rate) and ours.note)
    order = list(range(len(masks)))
    random.shuffle(order)
    turned = consensus([masks[i] for i in order], method)
    assert turned.probability == pytest.approx(ours.probability, abs=1e-5)


# ------------------------------------------------------------------------ degenerate


@pytest.mark.parametrize('count', [1, 2, 16])
def test_no_rater_marked_anything(count):
    ours = consensus([at()] * count, 'staple')
    assert not ours.mask.any()
    assert not ours.probability.any()
    assert ours.sensitivity == pytest.approx((NAN,) * count, nan_ok=True)
    assert ours.specificity == (1,) * count
    assert 'no sensitivity' in ours.note


@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('mask', [at((1, 1, 1)), ~at()], ids=['one voxel', 'everything'])
def test_identical_raters_are_the_consensus(count, mask):
    ours = consensus([mask] * count, 'staple')
    assert np.array_equal(ours.mask, mask)
    assert ours.sensitivity == ours.specificity == (1,) * count
    assert ours.note


def test_an_empty_mask_is_an_opinion():
    lesion = at((4, 4, 4), (4, 4, 5), (4, 4, 6))
    outvoted = consensus([lesion, lesion, at()], 'staple')
    assert np.array_equal(outvoted.mask, lesion)
    assert outvoted.sensitivity == pytest.approx((1, 1, 0))


def test_masks_that_contradict_one_another_fall_back_to_the_majority():
    ours = consensus([at(), ~at()], 'staple')
    assert 'majority' in ours.note
    assert not ours.mask.any()
    assert ours.sensitivity == pytest.approx((NAN, NAN), nan_ok=True)
    assert ours.specificity == (1, 0)


def test_many_raters_do_not_underflow():
    lesion = at((4, 4, 4), (4, 4, 5))
    ours = consensus([lesion, at()] * 127, 'staple')
    assert np.isfinite(ours.probability).all()
    assert ours.agreement.max() == 127


@pytest.mark.parametrize(
    ('masks', 'method', 'more', 'error'),
    [
        ([], 'staple', {}, UsageError),
        ([at()] * 256, 'majority', {}, UsageError),
        ([at()], 'median', {}, UsageError),
        ([at()], 'mean', {'threshold': 0}, UsageError),
        ([at()], 'staple', {'threshold': NAN}, UsageError),
        ([at(), at(shape=(9, 9, 8))], 'majority', {}, DataError),
        ([np.zeros((3, 3), bool)], 'majority', {}, DataError),
        ([np.zeros((3, 3, 3), int)], 'majority', {}, DataError),
        ([at()], 'mean', {'probabilities': []}, DataError),
        ([at()], 'mean', {'probabilities': [np.zeros((3, 3, 3))]}, DataError),
        ([at()], 'mean', {'probabilities': [at() + 1.5]}, DataError),
        ([at()], 'mean', {'probabilities': [at() * NAN]}, DataError),
    ],
)
def test_wrong_input_is_refused(masks, method, more, error):
    with pytest.raises(error):
        consensus(masks, method, **more)


# ------------------------------------------------------- leave one out and experiments


def test_leave_one_out_by_hand():
    a, b, c = at((1, 1, 1), (1, 1, 2)), at((1, 1, 1)), at((1, 1, 1), (5, 5, 5))
    rows = leave_one_out([a, b, c], 'majority')
    assert [row['DSC'] for row in rows] == pytest.approx([2 / 3, 1, 2 / 3])
    assert [row['PPV'] for row in rows] == pytest.approx([1 / 2, 1, 1 / 2])
    assert [row['TPR'] for row in rows] == [1, 1, 1]
    with pytest.raises(UsageError):
        leave_one_out([a], 'majority')


def test_leave_one_out_takes_the_probabilities_of_the_others():
    a, b = at((1, 1, 1)), at((2, 2, 2))
    rows = leave_one_out([a, b], 'mean', probabilities=[a * 0.9, a * 0.6 + b * 0.4])
    assert [row['DSC'] for row in rows] == [1, 0]


def test_experiments_by_hand():
    reference = at((1, 1, 1), (1, 1, 2))
    masks = {'b': at((1, 1, 1)), 'a': reference.copy(), 'z': at((7, 7, 7))}
    rows = experiments(masks, reference, best=2, method='majority')
    assert [row['rater'] for row in rows] == ['reference', 'a', 'b', 'z']
    assert [row['DSC_reference'] for row in rows] == pytest.approx([1, 1, 2 / 3, 0])
    # C1: (1,1,1) has three marks of four, (1,1,2) two, which is no majority
    assert [row['DSC_C1'] for row in rows] == pytest.approx([2 / 3, 2 / 3, 1, 0])
    # C2: of a and b only (1,1,1) has more than one mark
    assert [row['DSC_C2'] for row in rows] == pytest.approx([2 / 3, 2 / 3, 1, 0])
    assert [row['in_C2'] for row in rows] == [False, True, True, False]
    with pytest.raises(UsageError):
        experiments(masks, reference, best=0)
    with pytest.raises(DataError):
        experiments(masks, reference[:-1])


def test_experiments_favour_who_is_in_the_consensus(raters):
    masks, truth = raters
    rows = experiments(dict(zip('abcde', masks, strict=True)), truth, best=3)
    inside = [row['DSC_C2'] for row in rows if row['in_C2']]
    outside = [row['DSC_C2'] for row in rows[1:] if not row['in_C2']]
    assert len(inside) == 3
    assert min(inside) > max(outside)


# ------------------------------------------------------------------------- real masks


def changed(reference):
    """A shifted mask, a dilated one, one with lesions dropped, one with false ones, an eroded."""
    labels, count = ndimage.label(reference)
    rng = np.random.default_rng(2)
    added = reference.copy()
    box = [np.flatnonzero(reference.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    for _ in range(count):
        corner = [int(rng.choice(places)) for places in box]
        added[tuple(slice(start, start + 3) for start in corner)] = True
    thin = reference & (np.roll(reference, -1, 1) | np.roll(reference, 1, 1))
    return {
        'shifted': np.roll(reference, 1, axis=0),
        'dilated': ndimage.binary_dilation(reference),
        'dropped': reference & (labels % 3 != 0),
        'added': added,
        'thinned': thin & (labels % 4 != 1),
    }


@pytest.mark.realdata
@pytest.mark.parametrize('case', REAL)
@pytest.mark.parametrize('method', METHODS)
def test_five_changed_masks_recover_the_reference(real_data, case, method):
    reference = np.asarray(nb.load(real_data / case).dataobj) > 0
    masks = changed(reference)
    combined = consensus(list(masks.values()), method)
    scores = {name: dice(mask, reference) for name, mask in masks.items()}
    assert all(score < 0.97 for score in scores.values())
    assert dice(combined.mask, reference) > max(scores.values())


def test_a_single_believed_rater_is_no_consensus():
    """Masks of different patients: STAPLE alone would return the largest of them."""
    apart = [at((1, 1, 1)), at((3, 3, 3), (3, 3, 4)), at(*((6, 6, z) for z in range(1, 8)))]
    ours = consensus(apart, 'staple')
    assert 'majority' in ours.note
    assert not ours.mask.any()
