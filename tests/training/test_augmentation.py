"""Strong augmentation: reproducible, true to its labels, and blind to intensity units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import torch

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.template import TEMPLATE_AFFINE
from mslesseg_app.training.augmentation import (
    AugmentedDataset,
    Patch,
    change_brain,
    change_lesions,
    make_volume,
    normalised,
    plant,
)
from mslesseg_app.training.cases import LabelledCase, read_case
from mslesseg_app.training.description import entry_of
from mslesseg_app.training.lesion_shapes import LesionShapes
from mslesseg_app.training.plan import Augmentation, Plan, changed
from mslesseg_app.training.presets import preset
from mslesseg_app.training.random_fields import RandomStream

PLAN = changed(preset('default', 'unet'), {'patch': 32})
ENTRY = entry_of(PLAN)
PRESENT = (True, True, True)


@pytest.fixture
def shapes(tmp_path: Path) -> LesionShapes:
    """Three lesions of 1000 voxels within the first 40 voxels of the grid."""
    starts = [(4, 4, 4), (20, 14, 20), (6, 20, 12)]
    cube = np.stack(np.meshgrid(*[np.arange(10)] * 3, indexing='ij'), -1).reshape(-1, 3)
    voxels = np.concatenate([cube + start for start in starts]).astype(np.uint8)
    path = tmp_path / 'shapes.npz'
    np.savez(path, voxel=voxels, lesion=np.repeat([5, 9, 11], 1000), affine=TEMPLATE_AFFINE)
    return LesionShapes(path)


def ball_patch(edge: int = 24) -> Patch:
    """Return a brain of one on all images, with a lesion of two on FLAIR."""
    brain = torch.zeros(1, edge, edge, edge)
    brain[:, 2:-2, 2:-2, 2:-2] = 1
    label = torch.zeros_like(brain)
    label[:, 8:12, 8:12, 8:12] = 1
    images = brain.repeat(3, 1, 1, 1)
    images[0] += label[0]
    return Patch(images, label, torch.zeros_like(brain), torch.zeros_like(brain), brain)


def test_draws_follow_from_seed_epoch_and_place(cases, shapes: LesionShapes) -> None:
    dataset = AugmentedDataset(cases, PLAN, ENTRY, shapes)
    first, again, other = (dataset[key] for key in [(1, 2, 0), (1, 2, 0), (1, 3, 0)])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first['image'], other['image'])
    assert first['image'].shape == (1, 3, 32, 32, 32)
    assert first['label'].shape == first['weight'].shape == (1, 1, 32, 32, 32)
    assert list(dataset.prepare()) == [case.name for case in cases] == dataset.files


def test_units_of_the_images_change_nothing(cases, tmp_path: Path) -> None:
    case, other = cases[0], {}
    for name, path in case.images.items():
        image = nb.load(path)
        other[name] = tmp_path / path.name
        nb.save(nb.Nifti1Image(image.get_fdata() * 7.0, image.affine), other[name])
    plan = replace(PLAN, augmentation=Augmentation(plant=0))
    datasets = [
        AugmentedDataset([one], plan, ENTRY) for one in (case, replace(case, images=other))
    ]
    for place in range(6):
        one, two = (dataset[(0, place, 0)] for dataset in datasets)
        np.testing.assert_allclose(one['image'], two['image'], atol=2e-3)


def test_an_exam_without_mask_gets_lesions(cases, shapes: LesionShapes) -> None:
    dataset = AugmentedDataset([replace(cases[0], mask=None)], PLAN, ENTRY, shapes)
    assert not dataset.volume(0).labelled
    drawn = [dataset[(0, place, 0)]['label'].sum() for place in range(12)]
    assert max(drawn) > 0


def test_only_brain_has_weight_and_absent_channels_are_zero(cases) -> None:
    images = {'FLAIR': cases[0].images['FLAIR']}
    dataset = AugmentedDataset([replace(cases[0], images=images)], PLAN, ENTRY)
    for place in range(6):
        drawn = dataset[(0, place, 0)]
        outside = drawn['weight'][0, 0] == 0
        assert not drawn['image'][0, :, outside].any()
        assert not drawn['image'][0, 1:].any()
        assert not drawn['label'][0, 0][outside].any()


def test_bright_tissue_that_is_no_lesion_weighs_more(cases, tmp_path: Path) -> None:
    mask = nb.load(cases[0].mask)
    rim = np.roll(np.asarray(mask.dataobj), 6, axis=1)
    nb.save(nb.Nifti1Image(rim, mask.affine), tmp_path / 'rim.nii.gz')
    case = replace(cases[0], negatives=tmp_path / 'rim.nii.gz')
    plan = replace(PLAN, augmentation=Augmentation(negatives=0.4, poor_mask=0, cut=0))
    dataset = AugmentedDataset([case], plan, ENTRY)
    weights = torch.cat([dataset[(0, place, 0)]['weight'] for place in range(8)])
    assert set(weights.unique().tolist()) == {0.0, 1.0, 3.0}


def test_planted_lesions_are_labelled_and_brighter_on_flair_and_darker_on_t1w() -> None:
    patch = ball_patch()
    before = patch.images.clone()
    place = torch.zeros_like(patch.label)
    place[:, 14:20, 14:20, 14:20] = 1
    plant(patch, place, torch.full((3,), 0.2), PRESENT, RandomStream(3))
    new = (patch.label > 0.5) & (place > 0.5)
    assert new.sum() > 100
    change = (patch.images - before)[:, new[0]]
    assert (change[0] > 0).all()
    assert (change[1] < 0).all()
    assert (change[2] > 0).all()
    assert torch.equal(patch.images[:, 8:12, 8:12, 8:12], before[:, 8:12, 8:12, 8:12])


def test_contrast_of_lesions_changes_within_its_limits() -> None:
    contrasts = []
    for seed in range(40):
        patch = ball_patch()
        change_lesions(patch, RandomStream(seed))
        contrasts.append(float(patch.images[0, 10, 10, 10]) - 1)
        assert float(patch.images[0, 4, 4, 4]) == 1
    assert 0.28 < min(contrasts) < 0.5
    assert 1.1 < max(contrasts) < 1.32


def test_planted_load_shifts_the_scale() -> None:
    """A tenth of the brain at five raises the spread, so the same tissue comes out smaller."""
    patch = ball_patch()
    values = torch.from_numpy(np.random.default_rng(1).normal(1, 0.2, (3, 5000))).float()
    loaded = values.clone()
    loaded[:, :500] = 5
    one, two = (
        normalised(patch, points, PRESENT, 'clipped', RandomStream(1))
        for points in (values, loaded)
    )
    lesion = (0, 10, 10, 10)
    assert 0 < float(two[lesion]) < 0.5 * float(one[lesion])


def test_brain_masks_and_fields_of_view_change_images_and_weights_alike() -> None:
    rules = Augmentation(poor_mask=1, cut=1)
    for seed in range(8):
        patch = ball_patch()
        change_brain(patch, rules, RandomStream(seed))
        assert not patch.images[:, patch.brain[0] == 0].any()
        assert not torch.equal(patch.brain, ball_patch().brain)


def test_the_load_of_an_invented_patient_is_the_wanted_one(shapes: LesionShapes) -> None:
    """Three lesions of 1 ml, moved by at most 4 mm: overlaps make a large load smaller."""
    for seed in range(6):
        small = shapes.draw((60, 60, 60), (0, 0, 0), 0.3, RandomStream(seed))
        assert small.sum() in (0, *range(300, 1001))  # mirrored ones lie outside this box
        large = shapes.draw((182, 60, 60), (0, 0, 0), 20, RandomStream(seed))
        assert 3000 < int(large.sum()) < 3 * 18**3
    once = shapes.draw((182, 60, 60), (0, 0, 0), 2, RandomStream(4))
    assert torch.equal(once, shapes.draw((182, 60, 60), (0, 0, 0), 2, RandomStream(4)))


def test_what_holds_no_shapes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'shapes.npz'
    np.savez(path, voxel=np.zeros((1, 3)), lesion=np.zeros(1), affine=np.eye(4))
    with pytest.raises(DataError, match='template grid'):
        LesionShapes(path)
    path.write_bytes(b'no numbers')
    with pytest.raises(DataError, match='holds no lesion shapes'):
        LesionShapes(path)


def test_values_below_zero_are_shifted_not_lost(cases, tmp_path: Path) -> None:
    image = nb.load(cases[0].images['FLAIR'])
    brain = np.asarray(nb.load(cases[0].brain).dataobj) > 0
    moved = np.where(brain, image.get_fdata() - 3000, 0)
    nb.save(nb.Nifti1Image(moved, image.affine), tmp_path / 'FLAIR.nii.gz')
    images = {**cases[0].images, 'FLAIR': tmp_path / 'FLAIR.nii.gz'}
    volume = make_volume(read_case(replace(cases[0], images=images), ENTRY))
    assert float(volume.images.min()) >= 0
    lesion = volume.marks[0] > 0
    assert float(volume.images[0][lesion].mean()) > 1


def test_plans_keep_their_augmentation() -> None:
    plan = changed(PLAN, {'augmentation': {'plant': 0.1}})
    assert plan.augmentation == Augmentation(plant=0.1)
    assert Plan.from_dict(plan.to_dict()) == plan
    assert isinstance(LabelledCase('a', 'b', {}, None).files, list)
