"""The self-check of a mask against its FLAIR, on heads of tissue maps and on a real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.selfcheck import (
    NO_LESION,
    SELFCHECK_COLUMNS,
    Limits,
    SelfCheck,
    amount,
    check_segmentation,
    compare,
    rate_mask,
    tissue_signal,
    without_crumbs,
)
from mslesseg_app.spatial.template import TEMPLATE_SHAPE, load_template, tissue_prior

FLAIR = (1.0, 1.15, 0.2)
"""Intensities of white matter, grey matter and fluid."""
BALLS = {(58, 112, 105): 11, (122, 114, 105): 11}
"""Centres (voxels) and radii of lesions in the white matter of both hemispheres."""


def balls(shift: int = 0) -> np.ndarray:
    grid = np.ogrid[tuple(slice(n) for n in TEMPLATE_SHAPE)]
    found = [
        sum((axis - c) ** 2 for axis, c in zip(grid, np.add(centre, (0, shift, 0)), strict=True))
        <= radius**2
        for centre, radius in BALLS.items()
    ]
    return np.any(found, axis=0) & (tissue_prior('wm') > 0.9)


def head(lesions: np.ndarray, brightness: float = 1.8) -> tuple[np.ndarray, np.ndarray]:
    maps = [tissue_prior(tissue) for tissue in ('wm', 'gm', 'csf')]
    brain = np.asarray(load_template().mask.dataobj) > 0
    rng = np.random.default_rng(5)
    image = sum(mean * each for mean, each in zip(FLAIR, maps, strict=True))
    image = np.where(lesions, brightness, image)
    image += rng.normal(0, 0.05, image.shape)
    return (800 * np.where(brain, np.clip(image, 0.01, None), 0)).astype(np.float32), brain


@pytest.fixture(scope='module')
def truth() -> np.ndarray:
    return balls()


@pytest.fixture(scope='module')
def signal(truth):
    return tissue_signal(*head(truth))


def test_a_right_mask_passes_and_its_volumes_are_right(signal, truth):
    found = compare(signal, truth)
    assert found.status == 'pass'
    assert found.reasons == ()
    assert found.lesion_ml == pytest.approx(truth.sum() / 1000, rel=1e-3)
    assert found.outside_ml < 0.05
    assert found.share > 0.9
    # nothing but the balls is bright; cells of 2 mm at their edges count as a whole
    assert 0.6 * truth.sum() / 1000 < found.hyperintense_ml < 1.15 * truth.sum() / 1000


def test_an_empty_mask_misses_all_of_it(signal, truth):
    found = compare(signal, np.zeros_like(truth))
    assert found.status == 'fail'
    assert found.share is None
    assert found.outside_ml == found.hyperintense_ml
    assert found.reasons == (
        NO_LESION,
        f'About {amount(found.outside_ml)} of hyperintense tissue lies outside the mask.',
    )


def test_half_a_mask_misses_half(signal, truth):
    half = truth.copy()
    half[91:] = False
    found = compare(signal, half)
    assert found.status in ('check', 'fail')
    assert found.outside_ml == pytest.approx(found.hyperintense_ml / 2, rel=0.15)


def test_a_mask_beside_the_lesions_is_not_hyperintense(signal):
    found = compare(signal, balls(shift=-34))
    assert found.status == 'fail'
    assert found.share < 0.1
    assert any('of the mask is hyperintense' in words for words in found.reasons)


def test_native_volumes_follow_the_scaling(signal, truth):
    once, twice = compare(signal, truth), compare(signal, truth, native_ml_per_ml=0.5)
    assert twice.lesion_ml == pytest.approx(once.lesion_ml / 2, abs=0.01)
    assert twice.hyperintense_ml == pytest.approx(once.hyperintense_ml / 2, abs=0.01)


def test_a_healthy_brain_has_nothing_hyperintense_but_is_not_passed():
    flair, brain = head(np.zeros(TEMPLATE_SHAPE, bool))
    found = check_segmentation(flair, brain, np.zeros(TEMPLATE_SHAPE, np.uint8))
    assert found.hyperintense_ml < 0.2
    assert found.status == 'check'
    assert found.reasons == (NO_LESION,)


@pytest.mark.slow
def test_a_large_load_does_not_shift_the_scale():
    large = ndimage.binary_dilation(balls(), iterations=18) & (tissue_prior('wm') > 0.8)
    assert large.sum() > 60_000
    flair, brain = head(large)
    good = check_segmentation(flair * 0.01, brain, large)
    assert good.status == 'pass'
    assert good.hyperintense_ml == pytest.approx(good.lesion_ml, rel=0.1)
    assert good.outside_ml < 0.5
    assert check_segmentation(flair, brain, np.zeros_like(large)).status == 'fail'


def test_images_that_do_not_allow_it_say_so(truth):
    tiny = np.zeros(TEMPLATE_SHAPE, bool)
    tiny[80:90, 80:90, 80:90] = True
    flair = np.ones(TEMPLATE_SHAPE, np.float32)
    found = check_segmentation(flair, tiny, truth)
    assert found.status == 'check'
    assert found.reasons[0].startswith('Self-check not possible: The brain is too small')
    flair[100, 100, 100] = np.nan
    found = check_segmentation(flair, np.ones_like(tiny), np.zeros_like(truth))
    assert found.reasons[0] == NO_LESION
    assert 'not finite' in found.reasons[1]
    with pytest.raises(DataError, match='template'):
        check_segmentation(flair[:-1], tiny, truth)


RULE = Limits(
    outside_ml=2.0,
    outside_share=0.3,
    much_outside_ml=5.0,
    much_outside_share=0.6,
    excess_ml=10.0,
    excess_per_ml=4.0,
    least_share=0.6,
    poor_share=0.3,
    fewest_ml=0.3,
)
"""Limits for the rule alone, so that it can be tested whatever the limits are."""


@pytest.mark.parametrize(
    ('lesion_ml', 'hyperintense_ml', 'outside_ml', 'share', 'status'),
    [
        (20.0, 18.0, 0.5, 0.9, 'pass'),
        (5.0, 2.5, 1.9, 0.9, 'pass'),
        (5.0, 2.5, 2.1, 0.9, 'check'),
        (20.0, 20.0, 5.9, 0.9, 'pass'),
        (20.0, 20.0, 6.1, 0.9, 'check'),
        (20.0, 20.0, 11.9, 0.9, 'check'),
        (20.0, 20.0, 12.1, 0.9, 'fail'),
        (5.0, 50.0, 45.0, 0.9, 'fail'),
        (20.0, 18.0, 0.5, 0.6, 'pass'),
        (20.0, 18.0, 0.5, 0.59, 'check'),
        (20.0, 18.0, 0.5, 0.29, 'fail'),
        (0.2, 0.0, 0.0, 0.05, 'pass'),
        (50.0, 10.0, 0.0, 0.9, 'pass'),
        (51.0, 10.0, 0.0, 0.9, 'check'),
        (0.0, 0.0, 0.0, None, 'check'),
        (1.4, 0.0, 0.0, 1.0, 'check'),
        (1.4, 1.5, 1.5, 1.0, 'check'),
        (1.4, 1.5, 1.4, 1.0, 'pass'),
    ],
)
def test_the_rule(lesion_ml, hyperintense_ml, outside_ml, share, status):
    found, reasons = rate_mask(lesion_ml, hyperintense_ml, outside_ml, share, RULE)
    assert found == status
    assert bool(reasons) == (status != 'pass')


@pytest.mark.parametrize(
    ('millilitres', 'words'),
    [(48.3, '48 ml'), (9.96, '10 ml'), (9.94, '9.9 ml'), (0.04, '0.0 ml')],
)
def test_amounts_in_words(millilitres, words):
    assert amount(millilitres) == words


def test_crumbs_are_dropped_by_volume():
    mask = np.zeros((9, 9, 9), bool)
    mask[0, 0, 0:3] = True  # 0.024 ml
    mask[4:6, 4:6, 4:6] = True  # 0.064 ml
    assert without_crumbs(mask, 0.05).sum() == 8
    assert without_crumbs(mask, 0.02).sum() == 11


def test_the_record_comes_back_and_fills_the_columns():
    found = SelfCheck('check', 12.5, 3.25, 8.0, 0.5, ('Because.',))
    assert SelfCheck.from_dict(found.to_dict() | {'later': 1}) == found
    assert list(found.columns()) == list(SELFCHECK_COLUMNS)
    assert found.sidecar()['SelfCheck']['HyperintenseOutsideMask_ml'] == 3.25
    for damaged in ({}, {'status': 'fine'}, {'status': 'check', 'reasons': 3}):
        with pytest.raises(DataError, match='self-check'):
            SelfCheck.from_dict(damaged)


@pytest.mark.realdata
@pytest.mark.slow
def test_real_masks_pass_and_damaged_ones_do_not(real_data: Path):
    import nibabel as nb

    folder = real_data / 'mslesseg-p14' / 'train' / 'P14' / 'T3'
    paths = [folder / f'P14_T3_{name}.nii.gz' for name in ('FLAIR', 'MASK')]
    flair, mask = (np.asarray(nb.load(path).dataobj) for path in paths)
    mask = mask > 0
    signal = tissue_signal(flair, flair > 0)
    good = compare(signal, mask)
    assert good.status == 'pass', good
    assert compare(signal, np.zeros_like(mask)).status == 'fail'
    half = mask.copy()
    half[91:] = False
    assert compare(signal, half).status != 'pass'
