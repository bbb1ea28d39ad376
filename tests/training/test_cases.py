"""Labelled exams, what makes them unfit, folds and leaks; patches drawn from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import torch

from mslesseg_app.cli.crossval import SCHEMES as NAMES
from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.models.prediction.normalise import normalise
from mslesseg_app.training.cases import LabelledCase, Split, check_leaks, load_case, scan_digest
from mslesseg_app.training.description import entry_of
from mslesseg_app.training.folds import SCHEMES, make_folds
from mslesseg_app.training.patches import (
    CaseDataset,
    EpochOrder,
    RandomIntensity,
    ReadCase,
    collate,
    grown,
)
from mslesseg_app.training.plan import Plan, changed
from mslesseg_app.training.presets import preset


def tiny(name: str = 'default', **more: object) -> Plan:
    small = {'options': {'feature_size': 2}, 'patch': 16, 'steps_per_epoch': 2, **more}
    return changed(preset(name, 'unetr'), small)


def data_of(path: Path) -> np.ndarray:
    return np.asarray(nb.load(path).dataobj)


def test_a_case_is_what_the_app_would_see(cases) -> None:
    loaded = load_case(cases[0], entry_of(tiny()))
    brain = data_of(cases[0].brain) > 0
    for channel, name in zip(loaded.channels, ('FLAIR', 'T1w', 'T2w'), strict=True):
        expected = normalise(data_of(cases[0].images[name]), brain, 'zscore')
        np.testing.assert_array_equal(channel, expected)
    assert np.array_equal(loaded.mask, data_of(cases[0].mask) > 0)
    assert loaded.present == (True, True, True)


def spoiled(case: LabelledCase, folder: Path, how: str) -> tuple[LabelledCase, str]:
    """Return a case with one fault, and what must be said of it."""
    image = nb.load(case.mask)
    data, affine = np.asarray(image.dataobj), image.affine
    path = folder / 'mask.nii.gz'
    if how == 'another grid':
        nb.save(nb.Nifti1Image(data[1:], affine), path)
        return replace(case, mask=path), 'lies on another grid'
    if how == 'another place':
        moved = affine.copy()
        moved[0, 3] += 3
        nb.save(nb.Nifti1Image(data, moved), path)
        return replace(case, mask=path), 'lies on another grid'
    if how == 'empty':
        nb.save(nb.Nifti1Image(0 * data, affine), path)
        return replace(case, mask=path), 'marks no lesion'
    if how == '0 and 255':
        nb.save(nb.Nifti1Image(255 * data, affine), path)
        return replace(case, mask=path), r'holds 2 values \(0, 255\)'
    if how == 'truncated image':
        path = folder / 'flair.nii.gz'
        path.write_bytes(case.images['FLAIR'].read_bytes()[:300])
        return replace(case, images={**case.images, 'FLAIR': path}), 'flair.nii.gz'
    if how == 'missing image':
        absent = folder / 'gone.nii.gz'
        return replace(case, images={**case.images, 'T1w': absent}), 'gone.nii.gz'
    return replace(case, images={'FLAIR': case.images['FLAIR']}), 'needs T1w and T2w'


@pytest.mark.parametrize(
    'how',
    ['another grid', 'another place', 'empty', '0 and 255', 'truncated image', 'missing image',
     'missing modality'],
)  # fmt: skip
def test_an_unfit_case_is_an_error_that_names_it(cases, tmp_path, how) -> None:
    case, said = spoiled(cases[0], tmp_path, how)
    with pytest.raises(DataError, match=said) as caught:
        load_case(case, entry_of(tiny()))
    assert str(caught.value).startswith('sub-P01_ses-1: ')
    assert caught.value.hint
    plan = tiny()
    dataset = CaseDataset([case], plan, entry_of(plan), tmp_path / 'cache')
    with pytest.raises(DataError, match=said):
        list(dataset.prepare())


def test_somebody_on_two_sides_is_an_error(cases) -> None:
    with pytest.raises(DataError, match='sub-P01 is in training and in validation'):
        check_leaks(Split(cases[:1], cases[1:2]))
    with pytest.raises(DataError, match='sub-P01 is in validation and in test'):
        check_leaks(Split(cases[2:3], cases[:1], cases[1:2]))
    check_leaks(Split(cases[:1], cases[1:2]), allowed=['sub-P01'])
    with pytest.raises(DataError, match='in training and in test'):
        check_leaks(Split(cases[:1], (), cases[1:2]), allowed=['sub-P01'])
    check_leaks(Split(cases[:2], cases[2:3], cases[3:]))


def test_the_same_scan_under_two_names_is_an_error(cases, tmp_path) -> None:
    copy = tmp_path / 'other.nii'  # not the same bytes, but the same voxels
    image = nb.load(cases[0].images['FLAIR'])
    nb.save(nb.Nifti1Image(np.asarray(image.dataobj).astype(np.float64), image.affine), copy)
    twin = LabelledCase('sub-P09_ses-1', 'sub-P09', {'FLAIR': copy}, cases[0].mask)
    digests = {case.name: scan_digest(case) for case in (*cases, twin)}
    check_leaks(Split(cases), digests)
    with pytest.raises(DataError, match='sub-P09_ses-1 and sub-P01_ses-1 hold the same') as caught:
        check_leaks(Split(cases[:2], (), (twin,)), digests)
    assert '--exclude sub-P09_ses-1' in caught.value.hint


TIMEPOINTS = {
    **dict.fromkeys((5, 7, 8, 10, 11, 13, 22, 28, 31, 33, 49, 50, 51, 52, 53), 2),
    **dict.fromkeys((1, 4, 6, 9, 20), 3),
    **dict.fromkeys((2, 3, 12, 14, 19), 4),
}


def release() -> list[LabelledCase]:
    """Names of all scans of the release."""
    people = [(n, TIMEPOINTS.get(n, 1)) for n in range(1, 76)]
    return [
        LabelledCase(f'sub-P{n:02}_ses-{k}', f'sub-P{n:02}', {}, Path())
        for n, count in people
        for k in range(1, count + 1)
    ]


def test_table_4_has_the_scans_of_the_release() -> None:
    folds = make_folds(release())
    counts = [(len(f.split.train), len(f.split.validation), len(f.split.test)) for f in folds]
    assert counts == [(78, 15, 22), (83, 10, 22), (80, 13, 22), (74, 19, 22), (65, 28, 22)]
    for fold in folds:
        check_leaks(fold.split)
    assert any('23' in note for note in folds[3].split.notes)
    printed = make_folds(release(), 'table4-printed')[3]
    assert (len(printed.split.train), printed.leaking) == (75, ('sub-P23',))
    with pytest.raises(DataError, match='sub-P23'):
        check_leaks(printed.split)
    check_leaks(printed.split, allowed=printed.leaking)


def test_even_folds_divide_patients() -> None:
    cases = [replace(case, split='test' if case.subject == 'sub-P03' else 'train')
             for case in release()]  # fmt: skip
    folds = make_folds(cases, 'even', 4)
    validated = [{c.subject for c in fold.split.validation} for fold in folds]
    assert sorted(len(people) for people in validated) == [18, 18, 19, 19]
    assert len(set.union(*validated)) == 74
    for fold in folds:
        check_leaks(fold.split)
        assert {c.subject for c in fold.split.test} == {'sub-P03'}


def test_folds_that_cannot_be() -> None:
    assert SCHEMES == NAMES
    with pytest.raises(UsageError, match='no folds'):
        make_folds(release(), 'odd')
    with pytest.raises(UsageError, match='cannot be divided'):
        make_folds(release()[:3], 'even')
    with pytest.raises(DataError, match='has no number'):
        make_folds([LabelledCase('sub-AB', 'sub-AB', {}, Path())])
    with pytest.raises(DataError, match='has nobody to validate on'):
        make_folds([case for case in release() if case.subject < 'sub-P40'])


# ---------------------------------------------------------------------------- patches


def test_patches_follow_from_their_place_alone(cases, tmp_path) -> None:
    plan = tiny(patches=2)
    datasets = [CaseDataset(cases, plan, entry_of(plan), tmp_path / name) for name in 'ab']
    first = datasets[0][3, 1, 2]
    datasets[1][0, 0, 0]
    second = datasets[1][3, 1, 2]
    assert first['image'].shape == (2, 3, 16, 16, 16)
    assert first['label'].shape == first['weight'].shape == (2, 1, 16, 16, 16)
    for name in first:
        assert torch.equal(first[name], second[name])
    assert not torch.equal(first['image'], datasets[0][4, 1, 2]['image'])


def test_what_is_cached_follows_the_file(cases, tmp_path) -> None:
    plan = tiny()
    case = replace(cases[0], mask=tmp_path / 'mask.nii.gz')
    case.mask.write_bytes(cases[0].mask.read_bytes())
    before = CaseDataset([case], plan, entry_of(plan), tmp_path / 'cache').read[0]['label']
    image = nb.load(cases[0].mask)
    smaller = np.asarray(image.dataobj).copy()
    smaller[:20] = 0
    nb.save(nb.Nifti1Image(smaller, image.affine), case.mask)
    after = CaseDataset([case], plan, entry_of(plan), tmp_path / 'cache').read[0]['label']
    assert int(after.sum()) == int((smaller > 0).sum()) < int(before.sum())


def test_zeros_outside_the_brain_stay_zero_with_ours_only(cases, tmp_path) -> None:
    for name, moved in (('default', False), ('paper', True)):
        plan = tiny(name, jitter=1.0, on_lesion=0.0)
        dataset = CaseDataset(cases[:1], plan, entry_of(plan), tmp_path / name)
        patch = dataset[0, 0, 0]
        outside = patch['image'][:, :1][patch['weight'] == 0]
        assert outside.numel()
        assert bool((outside != 0).any()) == moved


def test_patches_around_lesions(cases, tmp_path) -> None:
    plan = tiny(patches=8, on_lesion=1.0)
    dataset = CaseDataset(cases, plan, entry_of(plan), tmp_path)
    patches = dataset[0, 0, 1]
    assert patches['label'].flatten(1).any(1).all()


def test_statistics_of_the_patch_are_those_of_its_own_voxels(cases, tmp_path) -> None:
    plan = tiny('paper', statistics='patch', jitter=0.0)
    image = CaseDataset(cases, plan, entry_of(plan), tmp_path)[0, 0, 0]['image'][0]
    for channel in image:
        values = channel[channel != 0]
        assert float(values.mean()) == pytest.approx(0, abs=1e-4)
        assert float(values.std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_channels_that_are_not_required_are_dropped(cases, tmp_path) -> None:
    plan = tiny(drop=1.0, required=['FLAIR'])
    image = CaseDataset(cases, plan, entry_of(plan), tmp_path)[0, 0, 0]['image'][0]
    assert bool(image[0].any())
    assert not bool(image[1:].any())


@pytest.mark.parametrize('world', [1, 2, 4])
def test_processes_share_each_step(cases, world) -> None:
    plan = tiny(batch=4, steps_per_epoch=3)
    alone = list(EpochOrder(plan, 5))
    shares = [list(EpochOrder(plan, 5, rank, world)) for rank in range(world)]
    size = 4 // world
    steps = [
        sorted(key for share in shares for key in share[n * size : (n + 1) * size])
        for n in range(3)
    ]
    assert steps == [sorted(alone[n * 4 : n * 4 + 4]) for n in range(3)]


def test_every_case_comes_before_any_comes_again() -> None:
    order = EpochOrder(tiny(batch=1, steps_per_epoch=2), 5)
    seen = []
    for order.epoch in range(5):
        seen += [index for _, _, index in order]
    assert [sorted(seen[:5]), sorted(seen[5:])] == [list(range(5))] * 2


def test_collate_joins_patches(cases, tmp_path) -> None:
    plan = tiny(patches=2)
    dataset = CaseDataset(cases, plan, entry_of(plan), tmp_path)
    draws = [dataset[0, 0, 0], dataset[0, 1, 1]]
    joined = collate(draws)
    assert joined['image'].shape[0] == 4
    assert torch.equal(joined['label'][2:], draws[1]['label'])


@pytest.mark.parametrize('multiple', [(8, 8, 8), (16, 12, 40)])
def test_a_box_grows_to_multiples_as_that_of_monai(multiple) -> None:
    from monai.transforms import CropForeground

    image = np.zeros((1, 30, 24, 36), np.float32)
    image[0, 2:19, 9:24, 5:30] = np.random.default_rng(0).uniform(1, 2, (17, 15, 25))
    box = (slice(2, 19), slice(9, 24), slice(5, 30))
    expected = CropForeground(k_divisible=multiple, allow_smaller=True)(image)
    assert np.array_equal(grown(image, box, multiple), np.asarray(expected))


def test_where_patches_of_the_public_code_lie(cases) -> None:
    item = {
        'name': 'x', 'subject': 'x', 'mask': str(cases[0].mask), 'brain': str(cases[0].brain),
        'images': {name: str(path) for name, path in cases[0].images.items()},
    }  # fmt: skip
    brain = np.asarray(nb.load(cases[0].brain).dataobj) > 0
    edges = [int(np.ptp(np.flatnonzero(brain.any(axis=axes)))) + 1
             for axes in ((1, 2), (0, 2), (0, 1))]  # fmt: skip
    entry = entry_of(tiny())
    for crop, margin, expected in (
        ('brain', 0, edges),
        ('brain', 2, [edge + 4 for edge in edges]),
        ('grid', 0, list(brain.shape)),
        ('multiples', 0, [-(-edge // 20) * 20 for edge in edges]),
    ):
        read = ReadCase(entry, crop, margin, (20, 20, 20))(item)
        assert list(read['image'].shape[1:]) == expected, crop
        assert int(read['weight'].sum()) == int(brain.sum())


def test_factor_and_offset_are_two_draws() -> None:
    """With p = 0.1 each, both together happen in one of a hundred."""
    change = RandomIntensity(['image'], 0.1, 0.1, 0.1, keep_background=False, per_slice=False)
    change.set_random_state(seed=3)
    image = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    count, kinds = 6000, {(False, False): 0, (True, False): 0, (False, True): 0, (True, True): 0}
    for _ in range(count):
        low, high = change({'image': image})['image'].flatten().tolist()
        kinds[abs(high - low - 1) > 1e-6, abs(low) > 1e-9] += 1
        assert abs(low) <= 0.1
        assert abs(high - low - 1) <= 0.1 + 1e-6
    shares = {kind: number / count for kind, number in kinds.items()}
    assert shares[True, False] == pytest.approx(0.09, abs=0.015)
    assert shares[False, True] == pytest.approx(0.09, abs=0.015)
    assert shares[True, True] == pytest.approx(0.01, abs=0.006)


def test_slices_across_the_second_axis_have_draws_of_their_own() -> None:
    change = RandomIntensity(['image'], 1.0, 0.1, 0.1, keep_background=False, per_slice=True)
    change.set_random_state(seed=3)
    image = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    new = change({'image': image})['image']
    lines = set()
    for channel in range(2):
        for place in range(5):
            x = image[channel, :, place].flatten().numpy()
            y = new[channel, :, place].flatten().numpy()
            factor, offset = np.polyfit(x, y, 1)
            np.testing.assert_allclose(y, factor * x + offset, atol=1e-5)
            assert abs(factor - 1) <= 0.1 + 1e-4
            assert abs(offset) <= 0.1 + 1e-4
            lines.add((round(float(factor), 4), round(float(offset), 4)))
    assert len(lines) == 10


def test_exams_are_judged_by_the_sampler_of_the_validation(cases, tmp_path) -> None:
    from mslesseg_app.training.validation import CaseValidator

    plan = preset('paper', 'swinunetr')
    dataset = CaseDataset(cases[:1], plan, entry_of(plan), tmp_path, judged=True)
    validator = CaseValidator(dataset, entry_of(plan))
    assert validator.entry.sampler == plan.validation
    assert entry_of(plan).sampler == plan.sampler != plan.validation
    assert dataset.read[0]['image'].shape[1:] == (32, 32, 32), 'nothing is cropped'
