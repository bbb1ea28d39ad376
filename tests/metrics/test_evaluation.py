"""Every number under every rule set: other programs, plain loops, properties, empty masks."""

from __future__ import annotations

import math

import nibabel as nb
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from scipy.spatial.distance import cdist

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.metrics.cohort import isbi_score, volume_correlation
from mslesseg_app.metrics.evaluation import evaluate, evaluation_columns
from mslesseg_app.metrics.exam import METRIC_COLUMNS, accuracy
from mslesseg_app.metrics.rules import RULES, STRATA, Rules

NAN, INF = math.nan, math.inf
SPACING = (0.5, 1.0, 3.0)
SHAPE = (6, 5, 7)
MASKS = hnp.arrays(bool, SHAPE)
REAL = [
    'ljubljana-mni/patient07/MASK.nii.gz',
    'ljubljana-mni/patient26/MASK.nii.gz',
    'mslesseg/train/P18/T1/P18_T1_MASK.nii.gz',
]
SHARES = ('DSC', 'TPR', 'PPV', 'LTPR', 'LFPR', 'lesion_F1', 'NSD_1mm', 'ECE', 'Brier')


@pytest.fixture(scope='module')
def pair():
    """Two smooth, overlapping, patchy masks that stay off the edge of the image."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(40, 36, 30)), 1.5)
    inner = np.zeros(noise.shape, bool)
    inner[3:-3, 3:-3, 3:-3] = True
    reference = (noise > 1.6 * noise.std()) & inner
    changed = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=noise.shape), 1.5)
    prediction = (noise + 0.8 * changed > 1.8 * noise.std()) & inner
    return prediction, reference


@pytest.fixture(scope='module')
def probability(pair):
    blurred = ndimage.gaussian_filter(pair[0].astype(float), 1)
    return (blurred / blurred.max()).astype(np.float32)


def at(*voxels, shape=(9, 9, 9)):
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def equal(left, right, rel=1e-9):
    return left == pytest.approx(right, rel=rel, abs=1e-12, nan_ok=True)


# ---------------------------------------------------------------- plain computations


NEIGHBOURS = {
    6: [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)
        if abs(i) + abs(j) + abs(k) == 1],
    18: [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)
         if 0 < abs(i) + abs(j) + abs(k) < 3],
}  # fmt: skip


def flood(mask, connectivity):
    """Return the lesions of a mask as sets of voxels."""
    left, found = set(map(tuple, np.argwhere(mask))), []
    while left:
        front, lesion = [left.pop()], set()
        while front:
            voxel = front.pop()
            lesion.add(voxel)
            for step in NEIGHBOURS[connectivity]:
                near = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if near in left:
                    left.remove(near)
                    front.append(near)
        found.append(lesion)
    return found


def touched(lesions, other):
    return [any(other[voxel] for voxel in lesion) for lesion in lesions]


def anima(mine, others):
    """How many of `mine` are found, from the description in Commowick et al. 2018.

    None when lesions overlap equally, where Anima leaves the order open.
    """
    outside = {i: len(o - set().union(*mine)) / len(o) for i, o in enumerate(others)}
    count = 0
    for lesion in mine:
        shared = sorted(((len(lesion & o), i) for i, o in enumerate(others)), reverse=True)
        total = sum(n for n, _ in shared)
        if total / len(lesion) <= 0.1:
            continue
        sizes = [n for n, _ in shared if n]
        if len(set(sizes)) < len(sizes):
            return None
        seen, good = 0, True
        for n, i in shared:
            good &= outside[i] <= 0.7
            seen += n
            if not good or seen / total >= 0.65:
                break
        count += good
    return count


def directed(one, two, spacing):
    return cdist(np.argwhere(one) * spacing, np.argwhere(two) * spacing).min(axis=1)


def border(mask):
    padded = np.pad(mask, 1)
    steps = [(axis, step) for axis in range(3) for step in (-1, 1)]
    enclosed = np.all([np.roll(padded, s, a) for a, s in steps], axis=0)
    return (padded & ~enclosed)[1:-1, 1:-1, 1:-1]


@given(MASKS, MASKS)
def test_distances_equal_all_pairs_of_voxels(prediction, reference):
    if prediction.any() and reference.any():
        one, two = border(prediction), border(reference)
        forth, back = directed(one, two, SPACING), directed(two, one, SPACING)
        both = np.concatenate([forth, back])
        ours = evaluate(prediction, reference, SPACING).values
        assert equal(ours['ASSD'], both.mean())
        assert equal(ours['HD95'], max(np.percentile(d, 95) for d in (forth, back)))
        assert equal(ours['NSD_1mm'], np.mean(both <= 1))


@given(MASKS, MASKS, st.sampled_from(['mslesseg', 'isbi2015']))
def test_lesions_equal_a_flood_fill(prediction, reference, rules):
    ours = evaluate(prediction, reference, SPACING, rules).values
    connectivity = RULES[rules].connectivity
    true, found = flood(reference, connectivity), flood(prediction, connectivity)
    assert (ours['n_reference'], ours['n_predicted']) == (len(true), len(found))
    met, confirmed = touched(true, prediction), touched(found, reference)
    if true and found:
        recall, precision = np.mean(met), np.mean(confirmed)
        assert equal(ours['LTPR'], recall)
        assert equal(ours['LFPR'], 1 - precision)
        harmonic = 2 * recall * precision / (recall + precision) if recall else 0
        assert equal(ours['lesion_F1'], harmonic)
    for name, low, high in (('small', 0, 10), ('medium', 10, 50), ('large', 50, INF)):
        inside = [
            m for m, lesion in zip(met, true, strict=True) if low <= 1.5 * len(lesion) < high
        ]
        assert ours[f'n_reference_{name}'] == len(inside)
        assert equal(ours[f'LTPR_{name}'], np.mean(inside) if inside else NAN)
        inside = [
            m
            for m, lesion in zip(confirmed, found, strict=True)
            if low <= 1.5 * len(lesion) < high
        ]
        assert ours[f'n_predicted_{name}'] == len(inside)
        assert equal(ours[f'LFPR_{name}'], 1 - np.mean(inside) if inside else NAN)


@settings(max_examples=300)
@given(hnp.arrays(np.uint8, (7, 6, 5), elements=st.integers(0, 9)), st.integers(2, 6))
def test_matching_equals_a_plain_reading_of_anima(noise, density):
    prediction = ndimage.uniform_filter(noise.astype(float), 2) > density
    reference = ndimage.uniform_filter(noise[::-1].astype(float), (2, 1, 2)) > density
    ours = evaluate(prediction, reference, (1, 1, 1), 'msseg2016').values
    true = [lesion for lesion in flood(reference, 6) if len(lesion) > 3]
    found = [lesion for lesion in flood(prediction, 6) if len(lesion) > 3]
    assert (ours['n_reference'], ours['n_predicted']) == (len(true), len(found))
    detected, confirmed = anima(true, found), anima(found, true)
    if detected is not None and true:
        assert equal(ours['SensL'], detected / len(true))
    if confirmed is not None and found:
        assert equal(ours['PPVL'], confirmed / len(found))
    assert equal(ours['F1'], ours['lesion_F1'])
    assert equal(ours['PPVL'], 1 - ours['LFPR'])
    assert equal(ours['SensL'], ours['LTPR'])


@given(MASKS, hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32)))
def test_calibration_equals_a_loop_over_voxels(reference, values):
    ours = evaluate(values >= 0.5, reference, (20, 20, 20), probability=values).values
    reaches = ndimage.find_objects((reference | (values >= 0.5)).astype(int))
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in (reaches or [()])[0])
    bins = [[] for _ in range(10)]
    for p, y in zip(values[box].astype(float).flat, reference[box].flat, strict=True):
        bins[min(int(p * 10), 9)].append((p, y))
    total = sum(map(len, bins))
    gaps = [abs(sum(p for p, _ in b) - sum(y for _, y in b)) for b in bins]
    assert equal(ours['ECE'], sum(gaps) / total, rel=1e-6)
    brier = sum((p - y) ** 2 for b in bins for p, y in b) / total
    assert equal(ours['Brier'], brier, rel=1e-6)


# -------------------------------------------------------------------- other programs


def test_surface_numbers_equal_monai(pair):
    import torch
    from monai import metrics as m

    one, two = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in pair)
    same = {'include_background': True, 'spacing': list(SPACING)}
    hd95 = m.compute_hausdorff_distance(one, two, percentile=95, **same)
    nsd = m.compute_surface_dice(one, two, class_thresholds=[1.0], **same)
    assd = m.compute_average_surface_distance(one, two, symmetric=True, **same)
    ours = evaluate(*pair, SPACING).values
    assert ours['HD95'] == pytest.approx(float(hd95), rel=1e-6)
    assert ours['NSD_1mm'] == pytest.approx(float(nsd), rel=1e-6)
    assert ours['ASSD'] == pytest.approx(float(assd), rel=1e-6)


def test_hd95_and_nsd_equal_simpleitk(pair):
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in pair]
    for image in images:
        image.SetSpacing(SPACING[::-1])
    edges = [sitk.LabelContour(image, False) for image in images]
    fields = [
        np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(e, False, False, True)))
        for e in edges
    ]
    one, two = (sitk.GetArrayFromImage(edge) > 0 for edge in edges)
    forth, back = fields[1][one], fields[0][two]
    ours = evaluate(*pair, SPACING).values
    assert ours['HD95'] == pytest.approx(max(np.percentile(d, 95) for d in (forth, back)))
    both = np.concatenate([forth, back])
    assert ours['NSD_1mm'] == pytest.approx(np.mean(both <= 1 + 1e-6))


def test_lesion_numbers_equal_scikit_image(pair):
    from skimage.measure import label, regionprops

    prediction, reference = pair
    for rules, connectivity in (('mslesseg', 1), ('isbi2015', 2)):
        ours = evaluate(prediction, reference, SPACING, rules).values
        true = regionprops(label(reference, connectivity=connectivity), prediction.astype(int))
        found = regionprops(label(prediction, connectivity=connectivity), reference.astype(int))
        assert ours['n_reference'] == len(true)
        assert ours['LTPR'] == pytest.approx(np.mean([r.intensity_max > 0 for r in true]))
        assert ours['LFPR'] == pytest.approx(np.mean([r.intensity_max == 0 for r in found]))
        recall, precision = ours['LTPR'], 1 - ours['LFPR']
        assert ours['lesion_F1'] == pytest.approx(2 / (1 / recall + 1 / precision))
        for name, low, high in (('small', 0, 10), ('medium', 10, 50), ('large', 50, INF)):
            sized = [r for r in true if low <= 1.5 * r.area < high]
            assert sized
            assert ours[f'n_reference_{name}'] == len(sized)
            share = np.mean([r.intensity_max > 0 for r in sized])
            assert ours[f'LTPR_{name}'] == pytest.approx(share)


def test_lesion_numbers_equal_simpleitk(pair):
    prediction, reference = pair
    for rules, full in (('mslesseg', False), ('msseg2016', False)):
        components = [
            sitk.RelabelComponent(
                sitk.ConnectedComponent(sitk.GetImageFromArray(mask.astype(np.uint8)), full),
                RULES[rules].smallest_size(1.5),
            )
            for mask in (prediction, reference)
        ]
        counts = [int(sitk.GetArrayFromImage(image).max()) for image in components]
        ours = evaluate(prediction, reference, SPACING, rules).values
        assert [ours['n_predicted'], ours['n_reference']] == counts
        if rules == 'mslesseg':
            labels = sitk.GetArrayFromImage(components[1])
            hit = set(np.unique(labels[prediction])) - {0}
            assert ours['LTPR'] == pytest.approx(len(hit) / counts[1])


def test_volumes_equal_simpleitk(pair):
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in pair]
    volumes = []
    for image in images:
        image.SetSpacing(SPACING[::-1])
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(image)
        volumes.append(shape.GetPhysicalSize(1) / 1000)
    ours = evaluate(*pair, SPACING).values
    assert [ours['volume_predicted_ml'], ours['volume_reference_ml']] == pytest.approx(volumes)
    assert ours['AVD_ml'] == pytest.approx(abs(volumes[0] - volumes[1]))
    assert ours['AVD_percent'] == pytest.approx(100 * ours['AVD'])
    assert ours['AVD'] == pytest.approx(abs(volumes[0] / volumes[1] - 1))


def test_calibration_equals_scikit_learn(pair, probability):
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss

    ours = evaluate(*pair, (1, 1, 1), probability=probability).values  # the box is the image
    values, truth = probability.ravel().astype(float), pair[1].ravel()
    assert ours['Brier'] == pytest.approx(brier_score_loss(truth, values))
    found, promised = calibration_curve(truth, values, n_bins=10)
    sizes = np.histogram(values, np.linspace(0, 1, 11))[0]
    error = np.sum(sizes[sizes > 0] * np.abs(found - promised)) / values.size
    assert ours['ECE'] == pytest.approx(error, rel=1e-3)  # a bound belongs to another bin there


# ------------------------------------------------------------------------ properties


@given(MASKS, MASKS, st.sampled_from(list(RULES)))
def test_bounds_and_symmetry(one, two, rules):
    forth, back = evaluate(one, two, SPACING, rules), evaluate(two, one, SPACING, rules)
    assert list(forth.values) == list(evaluation_columns(rules))
    for name, value in forth.values.items():
        if name in SHARES or name.startswith(('LTPR', 'LFPR')):
            assert math.isnan(value) or 0 <= value <= 1
        else:
            assert math.isnan(value) or value >= 0
        assert math.isfinite(value) == (name not in forth.reasons)
    for name in {'DSC', 'ASSD', 'HD95', 'NSD_1mm', 'lesion_F1', 'AVD_ml'} & set(forth.values):
        assert equal(forth.values[name], back.values[name])
    assert equal(forth.values['TPR'], back.values['PPV'])
    assert forth.values['n_reference'] == back.values['n_predicted']
    if rules != 'mslesseg-official':
        assert equal(forth.values['LTPR'], 1 - back.values['LFPR'])


@given(MASKS, st.sampled_from(['mslesseg', 'isbi2015', 'msseg2016']))
def test_a_mask_agrees_with_itself(mask, rules):
    ours = evaluate(mask, mask, SPACING, rules).values
    for name in ('DSC', 'NSD_1mm', 'lesion_F1'):
        assert ours[name] == 1
    for name in ('AVD', 'AVD_percent', 'AVD_ml', 'ASSD', 'HD95'):
        assert ours[name] == 0
    if ours['n_reference']:
        assert (ours['LTPR'], ours['LFPR']) == (1, 0)


@given(MASKS, MASKS, st.permutations(range(3)), st.integers(0, 7), st.sampled_from(list(RULES)))
def test_axes_and_directions_do_not_matter(one, two, order, flips, rules):
    turned = [
        np.flip(mask.transpose(order), [a for a in range(3) if flips >> a & 1])
        for mask in (one, two)
    ]
    ours = evaluate(*turned, [SPACING[axis] for axis in order], rules).values
    before = evaluate(one, two, SPACING, rules).values
    if rules == 'msseg2016':  # equal overlaps are looked at in another order
        numbers = {'SensL', 'PPVL', 'F1', 'LTPR', 'LFPR', 'lesion_F1'}
        drop = {n for n in ours if n in numbers or n.startswith(('LTPR_', 'LFPR_'))}
        ours, before = ({k: v for k, v in d.items() if k not in drop} for d in (ours, before))
    assert equal(ours, before)


@given(MASKS, MASKS, st.sampled_from([0.25, 0.5, 2, 4]), st.integers(0, 3))
def test_scaling_and_translation(one, two, scale, shift):
    first = evaluate(one, two, SPACING).values
    larger = evaluate(one, two, [scale * size for size in SPACING]).values
    fixed = [*METRIC_COLUMNS, 'lesion_F1', 'AVD_percent', 'n_reference', 'n_predicted']
    fixed.remove('ASSD')
    assert equal({k: larger[k] for k in fixed}, {k: first[k] for k in fixed})
    for name, power in (('ASSD', 1), ('HD95', 1), ('AVD_ml', 3), ('volume_reference_ml', 3)):
        assert equal(larger[name], scale**power * first[name])
    moved = [np.pad(mask, ((shift, 1), (0, shift), (2, 2))) for mask in (one, two)]
    assert equal(evaluate(*moved, SPACING).values, first)


def test_the_order_of_lesions_does_not_matter(pair):
    """Whole lesions that change places (mirrored halves put together the other way round)."""
    halves = [(np.pad(m, ((1, 1), (0, 0), (0, 0)))) for m in pair]
    one = [np.concatenate([m, m[::-1]]) for m in halves]
    two = [np.concatenate([m[::-1], m]) for m in halves]
    for rules in RULES:
        assert equal(evaluate(*one, SPACING, rules).values, evaluate(*two, SPACING, rules).values)


@given(MASKS, MASKS)
def test_the_paper_s_numbers_are_those_of_the_participant_level(one, two):
    ours = evaluate(one, two, SPACING).values
    assert equal({name: ours[name] for name in METRIC_COLUMNS}, accuracy(one, two, SPACING))


# --------------------------------------------------------------------------- by hand


def test_strata_and_f1_by_hand():
    reference, prediction = np.zeros((2, 30, 12, 12), bool)
    reference[1, 1, 1:10] = True  # 9 mm³: small, found
    reference[5, 1, 1:11] = True  # 10 mm³: medium, missed
    reference[9:11, 1:6, 1:6] = True  # 50 mm³: large, found
    prediction[1, 1, 1] = prediction[9, 1, 1] = prediction[20, 5, 5] = True
    ours = evaluate(prediction, reference, (1, 1, 1)).values
    assert [ours[f'LTPR_{s}'] for s in STRATA] == [1, 0, 1]
    assert [ours[f'n_reference_{s}'] for s in STRATA] == [1, 1, 1]
    assert [ours[f'n_predicted_{s}'] for s in STRATA] == [3, 0, 0]
    assert ours['LFPR_small'] == pytest.approx(1 / 3)
    assert ours['lesion_F1'] == pytest.approx(2 / 3)


def test_minimum_volume_is_strictly_greater():
    reference = at((1, 1, 1), (1, 1, 2), (1, 1, 3))  # 3 mm³: dropped
    longer = reference | at((1, 1, 4))
    assert evaluate(longer, reference, (1, 1, 1), 'msseg2016').values['n_reference'] == 0
    assert evaluate(longer, reference, (1, 1, 1), 'msseg2016').values['n_predicted'] == 1
    # voxels of 0.75 mm³ stored as float32: four are 3 mm³, five are more
    spacing = tuple(np.float32([1, 1, 0.75]))
    counts = evaluate(longer, longer | at((1, 1, 5)), spacing, 'msseg2016').values
    assert (counts['n_predicted'], counts['n_reference']) == (0, 1)
    assert counts['DSC'] == pytest.approx(8 / 9)  # voxels keep what lesions drop


def test_anima_s_three_thresholds_by_hand():
    reference = np.zeros((20, 20, 20), bool)
    reference[5, 5, 0:20] = True  # 20 voxels
    two, three = reference.copy(), reference.copy()
    two[5, 5, 2:] = False  # 10 % of it: not more than alpha
    two[4, 5, 0:2] = two[3, 5, 0:1] = True
    three[5, 5, 3:] = False  # 15 %
    three[4, 5, 0:2] = True
    assert evaluate(two, reference, (1, 1, 1), 'msseg2016').values['SensL'] == 0
    assert evaluate(three, reference, (1, 1, 1), 'msseg2016').values['SensL'] == 1
    outside = three.copy()
    outside[4, 5, 0:7] = True  # 3 in, 7 out: exactly beta, allowed
    assert evaluate(outside, reference, (1, 1, 1), 'msseg2016').values['SensL'] == 1
    outside[4, 5, 7] = True  # 8 of 11 out
    assert evaluate(outside, reference, (1, 1, 1), 'msseg2016').values['SensL'] == 0
    good = outside.copy()  # another lesion holds 65 % of the overlap: the bad one is not asked
    good[5, 5, 10:16] = True
    assert evaluate(good, reference, (1, 1, 1), 'msseg2016').values['SensL'] == 1


def test_isbi_joins_what_touches_at_an_edge():
    mask = at((1, 1, 1), (1, 2, 2), (5, 5, 5), (6, 6, 6))
    counts = {r: evaluate(mask, mask, (1, 1, 1), r).values['n_reference'] for r in RULES}
    assert (counts['mslesseg'], counts['isbi2015']) == (4, 3)


def test_isbi_score_by_hand():
    reference, prediction = at((1, 1, 1), (5, 5, 5)), at((1, 1, 1), (7, 7, 7))
    ours = evaluate(prediction, reference, (1, 1, 1), 'isbi2015').values
    assert ours['ISBI_partial'] == pytest.approx(0.5 / 8 + 0.5 / 8 + 0.5 / 4 + 0.5 / 4)
    assert isbi_score([0.4, 0.6], 0.8) == pytest.approx(0.7)
    assert math.isnan(isbi_score([], 1))
    assert math.isnan(isbi_score([0.4, NAN], 1))


def test_volume_correlation():
    from scipy.stats import pearsonr

    one, two = [1.0, 4.0, 2.0, 9.0], [1.5, 3.0, 2.5, 7.0]
    value, reason = volume_correlation(one, two)
    assert value == pytest.approx(pearsonr(one, two).statistic)
    assert reason == ''
    for few in ([1.0, 2.0], []):
        value, reason = volume_correlation(few, few)
        assert math.isnan(value)
        assert 'fewer' in reason
    value, reason = volume_correlation(one, [2.0] * 4)
    assert math.isnan(value)
    assert 'same' in reason
    for wrong in ([1.0], [1.0, 2.0, 3.0, NAN]):
        with pytest.raises(DataError):
            volume_correlation(one, wrong)


# --------------------------------------------------- the published code, with its faults


def official(prediction, reference):
    """What the published test procedure computes, on arrays of shape (1, X, Y, Z)."""
    output, target = prediction[None], reference[None]
    footprint = ndimage.generate_binary_structure(4, 1)
    edges = [mask ^ ndimage.binary_erosion(mask, structure=footprint) for mask in (output, target)]
    forth = ndimage.distance_transform_edt(~edges[1])[edges[0]]
    back = ndimage.distance_transform_edt(~edges[0])[edges[1]]
    labels, n_true = ndimage.label(reference)
    found = sum(prediction[labels == i].any() for i in range(1, n_true + 1))
    labels, n_found = ndimage.label(prediction)
    false = sum(not reference[labels == i].any() for i in range(1, n_found + 1))
    tp = (prediction & reference).sum()
    return {
        'DSC': 2 * tp / (prediction.sum() + reference.sum()),
        'TPR': tp / reference.sum(),
        'PPV': tp / prediction.sum(),
        'LTPR': found / n_true,
        'LFPR': false / (n_found + 0.001),
        'AVD_percent': abs(int(prediction.sum()) - int(reference.sum())) / reference.sum() * 100,
        'ASSD': np.mean([forth.mean(), back.mean()]),
        'ASSD_pooled': np.concatenate([forth, back]).mean(),
        'HD95': np.percentile(np.concatenate([forth, back]), 95),
    }


@given(MASKS, MASKS)
def test_official_numbers_are_those_of_the_code(prediction, reference):
    if prediction.any() and reference.any() and not (prediction.all() or reference.all()):
        ours = evaluate(prediction, reference, SPACING, 'mslesseg-official').values
        theirs = official(prediction, reference)
        assert equal({name: ours[name] for name in theirs}, theirs)


def test_official_surface_fault_shows_in_the_numbers(pair):
    true = evaluate(*pair, (1, 1, 1)).values
    published = evaluate(*pair, (1, 1, 1), 'mslesseg-official').values
    assert published['ASSD'] < 0.9 * true['ASSD']
    assert published['DSC'] == true['DSC']
    assert published['LFPR'] < true['LFPR']
    assert not {'NSD_1mm', 'lesion_F1', 'ECE'} & set(published)


# ------------------------------------------------- the table of docs/metrics.md, line by line

DEFINED = {  # name: (both empty, reference empty, prediction empty)
    'DSC': (1, 0, 0),
    'TPR': (NAN, NAN, 0),
    'PPV': (NAN, 0, NAN),
    'LTPR': (NAN, NAN, 0),
    'LFPR': (NAN, 1, NAN),
    'lesion_F1': (1, 0, 0),
    'AVD': (0, NAN, 1),
    'AVD_percent': (0, NAN, 100),
    'AVD_ml': (0, 0.008, 0.008),
    'ASSD': (0, NAN, NAN),
    'HD95': (0, NAN, NAN),
    'NSD_1mm': (1, 0, 0),
    'n_reference': (0, 0, 1),
    'n_predicted': (0, 1, 0),
    'volume_reference_ml': (0, 0, 0.008),
    'volume_predicted_ml': (0, 0.008, 0),
}
ISBI = {'ISBI_partial': (NAN, NAN, NAN)}
ANIMA = {'SensL': (NAN, NAN, 0), 'PPVL': (NAN, 0, NAN), 'F1': (1, 0, 0)}
PUBLISHED = {
    'DSC': (NAN, 0, 0),
    'TPR': (NAN, NAN, 0),
    'PPV': (NAN, 0, NAN),
    'LTPR': (NAN, NAN, 0),
    'LFPR': (0, 1 / 1.001, 0),
    'AVD': (0, INF, 1),
    'AVD_percent': (0, INF, 100),
    'AVD_ml': (0, 0.008, 0.008),
    'ASSD': (NAN, NAN, NAN),
    'ASSD_pooled': (NAN, NAN, NAN),
    'HD95': (NAN, NAN, NAN),
}
EMPTY = {
    'mslesseg': DEFINED,
    'isbi2015': DEFINED | ISBI,
    'msseg2016': DEFINED | ANIMA,
    'mslesseg-official': PUBLISHED,
}
CASES = ('both', 'reference', 'prediction')


def empties(case):
    cube = np.zeros((6, 6, 6), bool)
    cube[1:3, 1:3, 1:3] = True
    nothing = np.zeros_like(cube)
    return {
        'both': (nothing, nothing),
        'reference': (cube, nothing),
        'prediction': (nothing, cube),
    }[case]


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('rules', RULES)
def test_empty_masks(rules, case):
    ours = evaluate(*empties(case), (1, 1, 1), rules)
    for name, expected in EMPTY[rules].items():
        assert equal(ours.values[name], expected[CASES.index(case)]), name
    for name, value in ours.values.items():
        assert math.isfinite(value) == (name not in ours.reasons)
    assert all(name in ours.note for name in ours.reasons)


@pytest.mark.parametrize(
    ('case', 'name', 'reason'),
    [
        ('both', 'TPR', 'the reference is empty'),
        ('both', 'PPV', 'the prediction is empty'),
        ('reference', 'AVD', 'the reference is empty'),
        ('reference', 'ASSD', 'the reference is empty'),
        ('prediction', 'HD95', 'the prediction is empty'),
        ('prediction', 'LFPR', 'the prediction is empty'),
        ('prediction', 'LTPR_medium', 'the reference has no medium lesion'),
        ('prediction', 'ECE', 'there are no probabilities'),
    ],
)
def test_reasons(case, name, reason):
    assert evaluate(*empties(case), (1, 1, 1)).reasons[name] == reason


def test_lesions_below_the_minimum_are_a_reason():
    tiny, cube = at((1, 1, 1)), np.zeros((9, 9, 9), bool)
    cube[1:3, 1:3, 1:3] = True
    ours = evaluate(cube, tiny, (1, 1, 1), 'msseg2016')
    assert 'more than 3 mm³' in ours.reasons['SensL']
    assert ours.values['lesion_F1'] == 0
    assert evaluate(tiny, tiny, (1, 1, 1), 'msseg2016').values['F1'] == 1


@pytest.mark.parametrize('which', ['prediction', 'reference', 'both'])
def test_published_code_has_no_surface_in_a_full_image(which):
    full, cube = np.ones((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    cube[1:3, 1:3, 1:3] = True
    pair = {'prediction': (full, cube), 'reference': (cube, full), 'both': (full, full)}[which]
    ours = evaluate(*pair, (1, 1, 1), 'mslesseg-official')
    for name in ('ASSD', 'ASSD_pooled', 'HD95'):
        assert math.isnan(ours.values[name])
        assert 'fills' in ours.reasons[name]
    assert math.isfinite(evaluate(*pair, (1, 1, 1)).values['ASSD'])


def test_an_image_without_voxels_is_empty():
    nothing = np.zeros((0, 4, 4), bool)
    assert evaluate(nothing, nothing, (1, 1, 1)).values['DSC'] == 1


def test_calibration_of_empty_masks_takes_the_whole_grid():
    nothing, values = np.zeros((4, 4, 4), bool), np.full((4, 4, 4), 0.25, np.float32)
    ours = evaluate(nothing, nothing, (1, 1, 1), probability=values)
    assert ours.values['ECE'] == 0.25
    assert ours.values['Brier'] == 0.25**2
    assert 'ECE' not in ours.reasons


@pytest.mark.parametrize(
    ('prediction', 'spacing', 'rules', 'values', 'error'),
    [
        (np.ones((2, 2, 3)), (1, 1, 1), 'mslesseg', None, DataError),
        (np.full((2, 2, 2), 2), (1, 1, 1), 'mslesseg', None, DataError),
        (np.full((2, 2, 2), NAN), (1, 1, 1), 'mslesseg', None, DataError),
        (np.ones((1, 2, 2, 2)), (1, 1, 1), 'mslesseg-official', None, DataError),
        (np.ones((2, 2, 2)), (1, 1, 0), 'mslesseg', None, DataError),
        (np.ones((2, 2, 2)), (1, 1, 1), 'msseg', None, UsageError),
        (np.ones((2, 2, 2)), (1, 1, 1), 'mslesseg', np.ones((2, 2, 3)), DataError),
        (np.ones((2, 2, 2)), (1, 1, 1), 'mslesseg', np.full((2, 2, 2), 1.1), DataError),
        (np.ones((2, 2, 2)), (1, 1, 1), 'mslesseg', np.full((2, 2, 2), NAN), DataError),
    ],
)
def test_what_cannot_be_compared_is_refused(prediction, spacing, rules, values, error):
    with pytest.raises(error):
        evaluate(prediction, np.ones((2, 2, 2)), spacing, rules, values)


def test_columns_describe_themselves():
    for rules in RULES:
        columns = evaluation_columns(rules)
        assert all(column['Description'] for column in columns.values())
        assert 'ECE' not in evaluation_columns(rules, probability=False)
    assert '18-connected' in evaluation_columns('isbi2015')['LTPR']['Description']
    assert 'more than 10%' in evaluation_columns('msseg2016')['LTPR']['Description']
    assert isinstance(RULES['mslesseg'], Rules)


# ------------------------------------------------- changed masks of real exams, by hand


def read(path):
    return np.asarray(nb.load(path).dataobj) > 0


@pytest.mark.realdata
@pytest.mark.parametrize('case', REAL)
def test_shifted_mask(real_data, case):
    """A shift by one voxel along x: overlap and distances follow from runs of voxels."""
    reference = read(real_data / case)
    assert not reference[-1].any()
    prediction = np.roll(reference, 1, axis=0)
    size, both = int(reference.sum()), int((reference[1:] & reference[:-1]).sum())
    ours = evaluate(prediction, reference, (1, 1, 1)).values
    assert ours['DSC'] == ours['TPR'] == ours['PPV'] == pytest.approx(both / size)
    assert ours['AVD'] == ours['AVD_ml'] == 0
    assert 0 < ours['ASSD'] <= 1  # every voxel has its own image at one mm
    assert ours['HD95'] <= 1
    assert ours['NSD_1mm'] == 1
    assert ours['n_reference'] == ours['n_predicted']
    met = [reference[voxels].any() for voxels in _lesion_voxels(prediction)]
    assert ours['LFPR'] == pytest.approx(1 - np.mean(met))


def _lesion_voxels(mask):
    labels, count = ndimage.label(mask)
    places = np.argwhere(labels)
    numbers = labels[labels > 0]
    return [tuple(places[numbers == i].T) for i in range(1, count + 1)]


@pytest.mark.realdata
@pytest.mark.parametrize('case', REAL)
def test_dilated_mask(real_data, case):
    """One voxel more on every face: all found, distances exactly one or nearly so."""
    reference = read(real_data / case)
    prediction = ndimage.binary_dilation(reference)
    size, larger = int(reference.sum()), int(prediction.sum())
    ours = evaluate(prediction, reference, (2, 2, 2)).values
    assert ours['TPR'] == ours['LTPR'] == ours['lesion_F1'] == 1
    assert ours['LFPR'] == 0
    assert ours['PPV'] == pytest.approx(size / larger)
    assert ours['DSC'] == pytest.approx(2 * size / (size + larger))
    assert ours['AVD_percent'] == pytest.approx(100 * (larger - size) / size)
    assert ours['AVD_ml'] == pytest.approx((larger - size) * 8 / 1000)
    # from the new surface every step back is one voxel, 2 mm; the way there is never shorter
    # than that, and longer only in hollows that the dilation filled
    assert 2 <= ours['ASSD'] < 2.5
    assert 2 <= ours['HD95'] <= 2 * math.sqrt(5)
    assert ours['n_predicted'] <= ours['n_reference']


@pytest.mark.realdata
@pytest.mark.parametrize('case', REAL)
@pytest.mark.parametrize('rules', ['mslesseg', 'isbi2015', 'msseg2016'])
def test_dropped_and_false_lesions(real_data, case, rules):
    """Every second lesion dropped, two false cubes added far away."""
    reference = read(real_data / case)
    connectivity = RULES[rules].connectivity
    footprint = ndimage.generate_binary_structure(3, {6: 1, 18: 2}[connectivity])
    labels, count = ndimage.label(reference, footprint)
    sizes = np.bincount(labels.ravel())[1:]
    dropped = np.arange(1, count + 1) % 2 == 0
    prediction = reference & ~np.isin(labels, np.flatnonzero(dropped) + 1)
    prediction[2:4, 2:4, 2:4] = prediction[2:4, 2:4, 10:12] = True
    counted = sizes > RULES[rules].min_volume_mm3
    kept, n_true = int((counted & ~dropped).sum()), int(counted.sum())
    size, left = int(sizes.sum()), int(sizes[~dropped].sum())
    ours = evaluate(prediction, reference, (1, 1, 1), rules).values
    assert ours['n_reference'] == n_true
    assert ours['n_predicted'] == kept + 2
    assert ours['LTPR'] == pytest.approx(kept / n_true)
    assert ours['LFPR'] == pytest.approx(2 / (kept + 2))
    assert ours['lesion_F1'] == pytest.approx(
        2 * (kept / n_true) * (kept / (kept + 2)) / (kept / n_true + kept / (kept + 2))
    )
    assert ours['DSC'] == pytest.approx(2 * left / (size + left + 16))
    assert ours['TPR'] == pytest.approx(left / size)
    assert ours['PPV'] == pytest.approx(left / (left + 16))
    assert ours['AVD'] == pytest.approx(abs(left + 16 - size) / size)
    for name, low, high in (('small', 0, 10), ('medium', 10, 50), ('large', 50, INF)):
        inside = counted & (sizes >= low) & (sizes < high)
        assert ours[f'n_reference_{name}'] == inside.sum()
        if inside.any():
            assert ours[f'LTPR_{name}'] == pytest.approx(1 - np.mean(dropped[inside]))
