"""Patches for guided networks: what is drawn, what never, and a training on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from mslesseg_app.errors import NoInputError, UsageError
from mslesseg_app.learning.run import Job, train_prepared
from mslesseg_app.models.guide import FLAIR, GUIDES, MIRRORED, T1W, T2W
from mslesseg_app.models.hyperintensity import MIDPLANE
from mslesseg_app.training.data import BOX, IGNORE, Pattern, write_guided
from mslesseg_app.training.fields import Chance, positions
from mslesseg_app.training.guided import (
    ELSEWHERE,
    TENTORIUM,
    WHITE,
    GuidedExam,
    GuidedFeed,
    Patch,
    load_guided,
    one_sided,
    plant,
    read_at,
)
from mslesseg_app.training.plan import Plan, Recipe, changed
from mslesseg_app.training.presets import preset

from .conftest import EDGE, make_exam


def guided_exam(name: str, subject: str, seed: int) -> GuidedExam:
    """Return the ball of `make_exam` on the scale of its tissues."""
    exam = make_exam(name, subject, seed)
    channels = np.zeros((len(GUIDES), EDGE, EDGE, EDGE), np.float16)
    brain = exam.images[FLAIR] > 0
    channels[FLAIR] = (exam.images[FLAIR] / 600.0 - 1) * 4 * brain
    channels[T1W] = (exam.images[T1W] / 600.0 - 1) * brain
    channels[T2W] = (exam.images[T2W] / 250.0 - 1) * brain
    channels[WHITE] = (exam.tissues[2] > 0) | (exam.label > 0)
    grey = np.stack([exam.tissues[1], exam.tissues[1][::-1]])
    return GuidedExam(name, subject, channels, exam.label, brain, grey)


@pytest.fixture
def folder(prepared: Path) -> Path:
    """Return a prepared folder with the channels of guided networks."""
    for number, name in ((1, 'one'), (2, 'two')):
        write_guided(prepared, guided_exam(name, f'person-{number}', number))
    return prepared


@pytest.fixture
def plan() -> Plan:
    small = {
        'patch': 16,
        'options': {'channels': [4, 8], 'auxiliary': 1},
        'epochs': 2,
        'steps_per_epoch': 3,
        'precision': 'float32',
    }
    return changed(preset('guided', 'guided'), small)


def test_nothing_of_a_left_out_person_is_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    load = np.load

    def watch(path: Path, **options: object) -> object:
        opened.append(Path(path).name)
        return load(path, **options)  # type: ignore[arg-type]

    whole = load_guided(folder)
    assert sorted(whole.files) == [
        'guide-one', 'guide-two', 'lesions-p1', 'lesions-p2', 'lesions-p3',
    ]  # fmt: skip
    before = {p.name for p in folder.iterdir() if whole_subject(p) == 'person-1'}
    monkeypatch.setattr(np, 'load', watch)
    kept = load_guided(folder, ['person-1'])
    assert sorted(kept.files) == ['guide-two', 'lesions-p2', 'lesions-p3']
    # the name of the subject is all that may be read
    assert all(opened.count(name) <= 1 for name in before)


def whole_subject(path: Path) -> str:
    with np.load(path) as values:
        return str(values['subject'])


def test_unknown_people_and_empty_folders_are_errors(folder: Path) -> None:
    with pytest.raises(UsageError):
        load_guided(folder, ['person-9'])
    with pytest.raises(NoInputError):
        load_guided(folder, ['person-1', 'person-2'])


@pytest.mark.parametrize('shares', [(1, 0), (0, 1), (1, 1)])
def test_patches_are_well_formed(folder: Path, plan: Plan, shares: tuple[float, float]) -> None:
    feed = GuidedFeed(load_guided(folder), replace(plan, recipe=Recipe(*shares, 0)))
    for place in range(6):
        drawn = feed[0, place, 0]
        assert drawn['image'].shape == (plan.patches, len(GUIDES), 16, 16, 16)
        assert bool(drawn['image'].isfinite().all())
        assert set(drawn['weight'].unique().tolist()) <= {0.0, 1.0}
        assert not (drawn['label'] * (drawn['image'] == 0).all(1, keepdim=True)).any()


def test_patches_follow_from_seed_epoch_and_place(folder: Path, plan: Plan) -> None:
    feeds = [GuidedFeed(load_guided(folder), plan) for _ in range(2)]
    feeds[0][0, 5, 1]
    one, two = (feed[1, 3, 0]['image'] for feed in feeds)
    assert torch.equal(one, two)
    assert not torch.equal(one, feeds[0][1, 4, 0]['image'])


def test_dropped_channels_are_empty_and_flair_stays(folder: Path, plan: Plan) -> None:
    plan = replace(plan, recipe=Recipe(1, 1, 0, drop_t1w=1, drop_t2w=1))
    image = GuidedFeed(load_guided(folder), plan)[0, 0, 0]['image']
    assert not image[:, T1W : T2W + 1].any()
    assert image[:, FLAIR].any()


def above(pattern: Pattern) -> Pattern:
    """Return a pattern lifted above the tentorium."""
    lifted = np.pad(pattern.components, ((0, 0), (0, 0), (TENTORIUM, 0)))
    return replace(pattern, components=lifted)


def matter(white: float, height: int) -> Patch:
    """Return a patch of one tissue at a height of the box, without lesion."""
    points = positions((EDGE,) * 3, torch.device('cpu')).float() + (EDGE - 1) / 2
    points[2] += height
    channels = torch.zeros(len(GUIDES), EDGE, EDGE, EDGE)
    channels[WHITE] = white
    empty = torch.zeros(EDGE, EDGE, EDGE)
    return Patch(channels, empty, empty, torch.ones_like(empty), empty, points)


def test_planted_lesions_are_bright_labelled_and_in_white_matter(folder: Path) -> None:
    data = load_guided(folder)
    found = 0
    for seed in range(12):
        pattern = above(data.patterns[seed % 3])
        after = plant(matter(1, TENTORIUM), pattern, Chance(seed))
        lesion = after.label > 0.5
        found += int(lesion.any())
        if lesion.any():
            assert float(after.channels[FLAIR][lesion].median()) > 0.4
        far = ~torch.from_numpy(ndimage.binary_dilation(lesion.numpy(), iterations=8))
        assert not after.label[far].any()
        assert not plant(matter(0, TENTORIUM), pattern, Chance(seed)).label.any()
    assert found > 6


def test_below_the_tentorium_lesions_lie_in_grey_matter_too(folder: Path) -> None:
    data = load_guided(folder)
    planted = [plant(matter(0, 0), data.patterns[seed % 3], Chance(seed)) for seed in range(12)]
    assert sum(bool(patch.label.any()) for patch in planted) > 6
    fluid = matter(0, 0)
    fluid.channels[ELSEWHERE] = 1
    assert not any(plant(fluid, p, Chance(1)).label.any() for p in data.patterns)


def test_lesions_beyond_the_midline_are_no_lesions_here() -> None:
    patch = matter(1, TENTORIUM)
    patch.points[0] += 120
    middle = 2 * (MIDPLANE - BOX[0].start)
    components = np.zeros((160, EDGE, TENTORIUM + EDGE), np.int16)
    components[134:137, 14:18, 64:68] = 1
    components[int(middle) - 146 : int(middle) - 142, 14:18, 64:68] = 2
    pattern = Pattern('two sides', 'someone', components)
    here, beyond = 0, 0
    for seed in range(24):
        after = plant(patch, pattern, Chance(seed))
        labelled, bright = after.label > 0, after.channels[MIRRORED] > 0.4
        here, beyond = here + int(labelled.any()), beyond + int(bright.any())
        assert not (labelled & bright).any()
    assert 8 < here <= 24
    assert 2 < beyond < 20


def test_a_bright_spot_without_a_counterpart_is_unknown_where_nobody_segmented() -> None:
    brain = np.zeros((40, 40, 40), bool)
    brain[2:38, 2:38, 2:38] = True
    channels = np.zeros((len(GUIDES), *brain.shape), np.float32)
    grey = np.zeros(brain.shape, np.float32)
    spots = {name: tuple(slice(c, c + 3) for c in at) for name, at in {
        'alone': (10, 10, 10), 'paired': (10, 10, 20), 'cortex': (10, 20, 10),
        'fluid': (10, 20, 20), 'rim': (2, 10, 30), 'faint': (20, 20, 30),
    }.items()}  # fmt: skip
    for where in spots.values():
        channels[FLAIR][where] = 1
    channels[FLAIR][spots['faint']] = 0.4
    channels[MIRRORED][spots['paired']] = 0.9
    channels[ELSEWHERE][spots['fluid']] = 1
    grey[spots['cortex']] = 1
    found = one_sided(channels, brain, grey)
    assert {name for name, where in spots.items() if found[where].any()} == {'alone'}
    assert found.sum() < 100


def test_unknown_voxels_carry_no_weight(folder: Path, plan: Plan) -> None:
    exam = guided_exam('three', 'person-3', 3)
    label = np.where(exam.channels[WHITE] > 0, IGNORE, exam.label).astype(np.uint8)
    write_guided(folder, replace(exam, label=label))
    data = load_guided(folder, ['person-1', 'person-2'])
    drawn = GuidedFeed(data, replace(plan, recipe=Recipe(1, 0, 0)))[0, 0, 0]
    deep = drawn['image'][:, WHITE] > 0.99
    assert deep.any()
    assert float(drawn['weight'][:, 0][deep].mean()) < 0.1


def test_reading_at_points_is_that_of_scipy() -> None:
    rng = np.random.default_rng(4)
    volume = rng.normal(size=(2, 9, 10, 11)).astype(np.float32)
    points = rng.uniform(-2, 12, (3, 4, 5, 6)).astype(np.float32)
    expected = np.stack([
        ndimage.map_coordinates(v, points, order=1, mode='grid-constant') for v in volume
    ])  # fmt: skip
    inside = np.all((points >= 0) & (points <= np.array([8, 9, 10])[:, None, None, None]), 0)
    found = read_at(torch.from_numpy(volume), torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(found[:, inside], expected[:, inside], atol=1e-4)


def test_a_training_ends_in_an_entry_that_names_its_files(
    folder: Path, plan: Plan, tmp_path: Path
) -> None:
    job = Job(tmp_path / 'run', tmp_path / 'cache', tmp_path / 'models', 'tiny', device='cpu',
              quiet=True, half=True)  # fmt: skip
    done = train_prepared(plan, folder, ['person-1'], job)
    assert done.complete
    assert done.entry is not None
    card = done.entry.card
    assert card['training_data'] == ['guide-two', 'lesions-p2', 'lesions-p3']
    assert card['not_trained_on'] == ['person-1']
    assert done.entry.architecture == 'guided'
    assert done.entry.missing == 'zero'
