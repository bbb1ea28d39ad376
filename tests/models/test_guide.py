"""The channels of guided networks, on a synthetic head."""

from __future__ import annotations

import numpy as np
import pytest

from mslesseg_app.errors import DataError, ModelError
from mslesseg_app.models.guide import FLAIR, GUIDES, MIRRORED, guide_channels, mirrored
from mslesseg_app.models.tissues import PriorFit
from mslesseg_app.spatial.template import TEMPLATE_SHAPE, load_template, tissue_prior

LEVELS = {'FLAIR': (1.0, 1.3, 0.3), 'T1w': (1.0, 0.7, 0.3), 'T2w': (1.0, 1.4, 2.5)}
"""White matter, grey matter, fluid."""


@pytest.fixture(scope='module')
def head():
    maps = [tissue_prior(tissue) for tissue in ('wm', 'gm', 'csf')]
    brain = np.asarray(load_template().mask.dataobj) > 0
    rng = np.random.default_rng(3)
    images = np.zeros((3, *TEMPLATE_SHAPE), np.float32)
    for channel, levels in zip(images, LEVELS.values(), strict=True):
        image = sum(level * each for level, each in zip(levels, maps, strict=True))
        channel[:] = np.where(brain, 500 * (image + rng.normal(0, 0.05, image.shape)), 0)
    images[0, 60:64, 100:104, 100:104] = 900
    return images.clip(0), brain


@pytest.fixture(scope='module')
def guides(head):
    return guide_channels(*head, (True, True, True))


def test_images_are_on_the_scale_of_their_tissues(head, guides):
    white = tissue_prior('wm') > 0.95
    fluid = (tissue_prior('csf') > 0.95) & head[1]
    assert guides.shape == (len(GUIDES), *TEMPLATE_SHAPE)
    assert guides.dtype == np.float32
    for number, sign in enumerate((-1, -1, 1)):
        assert abs(np.median(guides[number][white])) < 0.15
        assert 0.7 < sign * np.median(guides[number][fluid]) < 1.7 or not number
    assert guides[0][61:63, 101:103, 101:103].min() > 0.9
    assert np.abs(guides).max() <= 3
    assert not guides[:, ~head[1]].any()


def test_maps_lie_on_the_head(head, guides):
    for name, tissue in (('white', 'wm'), ('grey', 'gm')):
        moved = guides[GUIDES.index(name)][head[1]]
        assert np.corrcoef(moved, tissue_prior(tissue)[head[1]])[0, 1] > 0.9


def test_the_other_hemisphere_lies_beside(head, guides):
    other = guides[MIRRORED]
    # the bright cube of x = 60 to 63 is seen from x = 117 to 120
    assert other[118:120, 101:103, 101:103].min() > 0.9
    assert other[61:63, 101:103, 101:103].max() < 0.6
    both = head[1] & head[1][180::-1][[0, *range(181)]]
    assert np.corrcoef(other[both], guides[FLAIR][both])[0, 1] > 0.6


def test_mirroring_twice_gives_back_the_volume():
    turned = np.array([[0.99, 0.05, 0.0], [-0.05, 0.99, 0.0], [0.0, 0.0, 1.02]])
    fit = PriorFit(turned, np.array([2.0, -3.0, 1.0]), 1.0)
    volume = np.zeros(TEMPLATE_SHAPE, np.float32)
    volume[50:70, 80:120, 60:90] = 1
    once = mirrored(volume, fit)
    assert (volume * once).sum() < 1
    overlap = 2 * (volume * mirrored(once, fit)).sum() / (2 * volume.sum())
    assert overlap > 0.95


def test_linear_scale_of_the_images_does_not_matter(head, guides):
    other = guide_channels(head[0] * 0.01, head[1], (True, True, True))
    np.testing.assert_allclose(other, guides, atol=2e-2)


def test_an_empty_image_changes_no_other_channel(head, guides):
    images = head[0].copy()
    images[1:] = 0
    alone = guide_channels(images, head[1], (True, False, False))
    kept = [0, *range(3, len(GUIDES))]
    np.testing.assert_array_equal(alone[kept], guides[kept])
    assert not alone[1:3].any()


def test_flair_and_the_template_grid_are_needed(head):
    with pytest.raises(ModelError):
        guide_channels(*head, (False, True, True))
    with pytest.raises(DataError):
        guide_channels(head[0][:, 1:], head[1][1:], (True, True, True))
