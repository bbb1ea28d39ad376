from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi

from mslesseg_app.inference.normalise import normalise as app_normalise
from mslesseg_app.training.data import IGNORE, Exam, load_data
from mslesseg_app.training.fields import (
    Chance,
    blur,
    positions,
    random_affine,
    rotation,
    sample,
    thick_slices,
    transform,
)
from mslesseg_app.training.losses import dice_ce
from mslesseg_app.training.synthesis import (
    FLAIR,
    T1W,
    T2W,
    WM,
    Recipe,
    Scene,
    Stage,
    Synthesiser,
    arrange,
    loosened,
    normalise,
    paint,
    patch_starts,
    plant,
)


@pytest.fixture
def stage(prepared: Path) -> Stage:
    return Stage.of(load_data(prepared), 'cpu')


@pytest.mark.parametrize('method', ['robust', 'zscore'])
def test_normalisation_is_that_of_the_app(method: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.gamma(3, 100, (12, 13, 14)).astype(np.float32)
    image[:3] = 0
    brain = rng.random(image.shape) > 0.3
    ours = normalise(torch.from_numpy(image), torch.from_numpy(brain), method).numpy()
    np.testing.assert_allclose(ours, app_normalise(image, brain, method), rtol=1e-4, atol=1e-4)


def test_missing_channel_stays_empty() -> None:
    brain = torch.ones(4, 4, 4, dtype=torch.bool)
    assert not normalise(torch.zeros(4, 4, 4), brain, 'robust').any()


@pytest.mark.parametrize('shares', [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_drawn_exams_are_well_formed(prepared: Path, shares: tuple[float, float, float]) -> None:
    synthesiser = Synthesiser(load_data(prepared), Chance(7), Recipe(*shares))
    for _ in range(6):
        drawn = synthesiser.draw()
        assert drawn.images.shape == (3, 32, 32, 32)
        assert bool(drawn.images.isfinite().all())
        assert not drawn.images[:, ~drawn.brain].any()
        assert not drawn.label[~drawn.brain].any()
        assert bool(drawn.images[FLAIR].any())
        assert set(drawn.weight.unique().tolist()) <= {0.0, 1.0}


def test_same_seed_same_exams(prepared: Path) -> None:
    data = load_data(prepared)
    one, two = (Synthesiser(data, Chance(5)).draw() for _ in range(2))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.label, two.label)


def test_channels_are_dropped_but_never_flair(prepared: Path) -> None:
    recipe = Recipe(drop_t1w=1.0, drop_t2w=1.0)
    drawn = Synthesiser(load_data(prepared), Chance(1), recipe).draw()
    assert drawn.images[FLAIR].any()
    assert not drawn.images[T1W].any()
    assert not drawn.images[T2W].any()


def test_planted_lesions_are_bright_and_in_white_matter(stage: Stage) -> None:
    for seed in range(5):
        scene = loosened(stage.exams[0], clean=True)
        scene.images[FLAIR] *= (torch.as_tensor(stage.exams[0].label) == 0).float()
        found = plant(scene, stage.patterns[seed % 3], Chance(seed))
        lesion = found.label > 0.7
        change = found.images - scene.images
        if lesion.any():
            assert float(change[FLAIR][lesion].median()) > 0
            assert float(scene.tissues[WM][lesion].mean()) > 0.4
        far = blur(found.label[None], 3.0)[0] < 1e-6
        assert float(change[FLAIR][far].abs().max()) < 1.0


def test_arranged_lesions_are_partial_volumes(stage: Stage) -> None:
    lesions = arrange(stage.patterns[0], loosened(stage.exams[0]).tissues, Chance(2))
    assert 0 <= float(lesions.soft.min()) <= float(lesions.soft.max()) <= 1


def test_painted_flair_shows_fluid_darker_than_tissue(stage: Stage) -> None:
    for seed in range(4):
        scene = paint(loosened(stage.exams[0], clean=True), Chance(seed))
        fluid, white = scene.tissues[0] > 0.9, scene.tissues[WM] > 0.9
        assert scene.images[FLAIR][fluid].median() < scene.images[FLAIR][white].median()


def test_unknown_voxels_have_no_weight(prepared: Path) -> None:
    data = load_data(prepared)
    exam = data.exams[0]
    label = np.where(exam.label == 1, IGNORE, exam.label).astype(np.uint8)
    other = Exam(**{**vars(exam), 'label': label})
    whole = type(data)((other,), data.patterns, ())
    recipe = Recipe(1, 0, 0, thick=0, poor_mask=0)
    drawn = Synthesiser(whole, Chance(1), recipe).draw()
    assert not drawn.label.any()
    assert float((drawn.brain & (drawn.weight == 0)).sum()) > 0


def test_patches_lie_inside_and_around_lesions(prepared: Path) -> None:
    synthesiser = Synthesiser(load_data(prepared), Chance(1), Recipe(1, 0, 0))
    drawn = synthesiser.draw()
    corners = patch_starts(drawn, (16, 16, 16), 20, synthesiser.chance, on_lesion=1.0)
    for x, y, z in corners:
        assert all(0 <= c <= 16 for c in (x, y, z))
        assert drawn.label[x : x + 16, y : y + 16, z : z + 16].any()


def test_blur_equals_scipy() -> None:
    volume = np.random.default_rng(0).random((15, 16, 17)).astype(np.float32)
    ours = blur(torch.from_numpy(volume[None]), 1.0)[0].numpy()
    theirs = ndi.gaussian_filter(volume, 1.0, mode='nearest', truncate=3.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_sample_equals_scipy() -> None:
    volume = np.random.default_rng(0).random((9, 11, 13)).astype(np.float32)
    affine = random_affine(Chance(3), 20, 0.1, 1)
    points = transform(positions(volume.shape, torch.device('cpu')), affine)
    ours = sample(torch.from_numpy(volume[None]), points)[0].numpy()
    centre = (np.array(volume.shape) - 1) / 2
    indices = points.numpy() + centre[:, None, None, None]
    theirs = ndi.map_coordinates(volume, indices, order=1, mode='constant')
    inside = np.all(
        [(i >= 0) & (i <= n - 1) for i, n in zip(indices, volume.shape, strict=True)], axis=0
    )
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-4)


def test_rotation_is_orthogonal() -> None:
    matrix = rotation((0.3, -0.2, 0.9))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('start', [0, 2])
def test_thick_slices_keep_a_ramp(axis: int, start: int) -> None:
    ramp = torch.arange(24.0).reshape([-1 if a == axis else 1 for a in range(3)])
    volume = ramp.expand(24, 24, 24)[None].contiguous()
    thick = thick_slices(volume, axis, 4, 0.0, start)
    assert thick.shape == volume.shape
    middle = (slice(None), *([slice(8, 16)] * 3))
    np.testing.assert_allclose(thick[middle], volume[middle], atol=1e-4)


def test_loss_is_dice_plus_entropy_and_skips_unknown_voxels() -> None:
    logits = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    target = (logits > 0.3).float()
    weight = torch.ones_like(target)
    prob = torch.sigmoid(logits)
    dice = (2 * (prob * target).sum() + 2) / (prob.sum() + target.sum() + 2)
    entropy = -(target * prob.log() + (1 - target) * (1 - prob).log()).mean()
    assert float(dice_ce(logits, target, weight)) == pytest.approx(float(1 - dice + entropy))
    weight[..., 0] = 0
    changed = target.clone()
    changed[..., 0] = 1 - changed[..., 0]
    assert dice_ce(logits, target, weight) == dice_ce(logits, changed, weight)


def test_scene_copies_do_not_change_the_stage(stage: Stage) -> None:
    before = [Scene(**{**vars(e), 'images': e.images.clone()}) for e in stage.exams]
    scene = loosened(stage.exams[0])
    scene.images.zero_()
    assert torch.equal(stage.exams[0].images, before[0].images)
