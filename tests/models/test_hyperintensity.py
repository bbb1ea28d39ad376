"""The model without weights on heads made of the tissue maps, and on real exams."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from probability import segment_exam
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mslesseg_app.core.errors import DataError, ModelError
from mslesseg_app.metrics.exam import accuracy
from mslesseg_app.models.hyperintensity import Constants, Hyperintensity
from mslesseg_app.models.registry import get_entry, load_predictor
from mslesseg_app.spatial.shapes import box_of
from mslesseg_app.spatial.template import TEMPLATE_SHAPE, load_template, tissue_prior
from mslesseg_app.spatial.tissues import (
    GM,
    WM,
    PriorFit,
    SmoothMaps,
    _smoothed_at,
    fit_mixture,
    fit_priors,
)

FLAIR, T1W = (1.0, 1.25, 0.3), (1.0, 0.65, 0.2)
"""Intensities of white matter, grey matter and fluid."""
SPOTS = {(55, 110, 100): 6, (125, 120, 100): 5, (60, 75, 95): 4, (118, 150, 95): 4}
"""Centres (voxels) and radii of lesions in deep white matter."""


def lesions():
    grid = np.ogrid[tuple(slice(n) for n in TEMPLATE_SHAPE)]
    balls = [
        sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) <= radius**2
        for centre, radius in SPOTS.items()
    ]
    return np.any(balls, axis=0) & (tissue_prior('wm') > 0.7)


@pytest.fixture(scope='module')
def head():
    """Return a noisy head with a bias, its brain and its lesions."""
    maps = [tissue_prior(tissue) for tissue in ('wm', 'gm', 'csf')]
    brain = np.asarray(load_template().mask.dataobj) > 0
    rng = np.random.default_rng(5)
    bias = np.linspace(0.85, 1.15, TEMPLATE_SHAPE[1], dtype=np.float32)[:, None]
    truth = lesions()
    images = {}
    for name, means, lesion in (('FLAIR', FLAIR, 1.8), ('T1w', T1W, 0.7)):
        image = sum(mean * each for mean, each in zip(means, maps, strict=True))
        image = np.where(truth, lesion, image) * bias
        image += rng.normal(0, 0.06, image.shape)
        images[name] = (1000 * np.where(brain, np.clip(image, 0.01, None), 0)).astype(np.float32)
    return images, brain, truth


@pytest.fixture(scope='module')
def entry():
    return get_entry('hyperintensity')


@pytest.fixture(scope='module')
def result(head, entry):
    images, brain, _ = head
    return segment_exam(entry, images, brain)


def test_probability_finds_the_lesions(head, entry, result):
    prob, _ = result
    numbers = accuracy(prob >= entry.threshold, head[2], (1, 1, 1))
    assert prob.dtype == np.float32
    assert 0 <= prob.min() <= prob.max() <= 1
    assert numbers['DSC'] > 0.75
    assert numbers['LTPR'] == 1


def test_flair_alone_suffices_and_units_do_not_matter(head, entry):
    images, brain, truth = head
    prob, info = segment_exam(entry, {'FLAIR': images['FLAIR'] * 0.01}, brain)
    assert info['missing'] == ['T1w']
    assert accuracy(prob >= entry.threshold, truth, (1, 1, 1))['DSC'] > 0.75


def test_a_brain_without_lesions_stays_empty(head, entry):
    images, brain, truth = head
    grown = ndimage.binary_dilation(truth, iterations=2)
    healthy = images['FLAIR'].copy()
    rng = np.random.default_rng(6)
    healthy[grown] = 1000 * rng.normal(1, 0.06, int(grown.sum()))
    prob, _ = segment_exam(entry, {'FLAIR': healthy}, brain)
    assert (prob >= entry.threshold).sum() < 100


@pytest.mark.slow
def test_threads_of_numerical_libraries_do_not_change_a_bit(head, entry, result, tmp_path):
    images, brain, _ = head
    np.savez(tmp_path / 'head.npz', brain=brain, **images)
    code = (
        'import hashlib, sys, numpy as np\n'
        'from mslesseg_app.models.prediction.segment import segment_detailed\n'
        'from mslesseg_app.models.registry import get_entry\n'
        'd = np.load(sys.argv[1])\n'
        "images = {k: d[k] for k in ('FLAIR', 'T1w')}\n"
        "p, _ = segment_detailed(get_entry('hyperintensity'), images, d['brain'], threads=2)\n"
        'np.save(sys.argv[2], p.prob)\n'
    )
    threads = {'OMP_NUM_THREADS': '2', 'OPENBLAS_NUM_THREADS': '2', 'MKL_NUM_THREADS': '2'}
    subprocess.run(
        [sys.executable, '-c', code, tmp_path / 'head.npz', tmp_path / 'prob.npy'],
        env=os.environ | threads,
        check=True,
    )
    np.testing.assert_array_equal(np.load(tmp_path / 'prob.npy'), result[0])


def test_torch_is_not_imported():
    code = (
        'import sys\n'
        'from mslesseg_app.models.registry import get_entry, load_predictor\n'
        "load_predictor(get_entry('hyperintensity'))\n"
        'import mslesseg_app.models.prediction.segment\n'
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


# ------------------------------------------------------------------------------- parts


def test_priors_are_moved_onto_a_brain_that_was_only_moved_rigidly(head):
    images, brain, _ = head
    maps = np.stack([tissue_prior(tissue) for tissue in ('wm', 'gm', 'csf')])
    scale, centre = 0.87, np.array([90, 108, 80])
    offset = centre - centre / scale - np.array([0, 3, -2])

    def shrink(volume, order):
        moved = ndimage.affine_transform(
            volume.astype(np.float32), np.full(3, 1 / scale), offset, order=order
        )
        return np.asarray(moved)

    flair, small = shrink(images['FLAIR'], 1), shrink(brain, 1) > 0.5
    fit = fit_priors(flair[None].astype(float), small, maps)
    np.testing.assert_allclose(np.diag(fit.matrix), 1 / scale, rtol=0.02)
    overlap = accuracy(fit.move(maps[WM]) > 0.5, shrink(maps[WM], 1) > 0.5, (1, 1, 1))
    assert overlap['DSC'] > 0.93
    assert fit.explained > 0.8


def test_ready_maps_are_looked_up_as_scipy_does():
    maps = np.zeros((3, 20, 25, 30), np.float32)
    maps[:, 4:15, 0:18, 9:30] = np.random.default_rng(0).random((3, 11, 18, 21))
    where = np.random.default_rng(1).uniform(-3, 33, (3, 500))
    smooth = [ndimage.gaussian_filter(one, 1.6) for one in maps]
    expected = [ndimage.map_coordinates(one, where, order=1) for one in smooth]
    assert np.count_nonzero(expected) > 300
    ready = SmoothMaps.of(maps)
    found, slopes = ready.at(where)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for axis, step in enumerate(1e-3 * np.eye(3)[:, :, None]):
        between = ((where - step).astype(int) == (where + step).astype(int)).all(axis=0)
        ahead, behind = ready.at(where + step)[0], ready.at(where - step)[0]
        rise = (ahead - behind)[:, between] / 2e-3
        np.testing.assert_allclose(slopes[:, axis, between], rise, atol=1e-3)


def test_maps_are_moved_only_where_they_reach_and_the_same():
    volume = np.zeros((30, 35, 40), np.float32)
    volume[5:12, 20:35, 10:14] = 1
    matrix = Rotation.from_rotvec((0.1, -0.2, 0.3)).as_matrix() / 0.9
    fit = PriorFit(matrix, np.array([-3.0, 4, 5]), 1.0)
    expected = ndimage.affine_transform(volume, matrix, fit.offset, order=1, mode='nearest')
    where = np.einsum('ij,j...->i...', matrix, np.indices(volume.shape)).T + fit.offset
    extent = (where >= -0.5) & (where <= np.array(volume.shape) - 0.5)
    expected *= extent.all(axis=-1).T  # half a voxel beyond the edge belongs to the voxel
    assert expected.any()
    np.testing.assert_allclose(fit.move(volume), expected, atol=1e-5)
    box = slice(4, 20), slice(10, 30), slice(0, 16)
    np.testing.assert_allclose(fit.move(volume, box), expected[box], atol=1e-5)
    assert not fit.move(np.zeros_like(volume)).any()
    coarse = fit.move(volume, box, 4)
    every = (slice(None, None, 4),) * 3
    np.testing.assert_allclose(coarse[every], expected[box][every], atol=1e-5)
    assert np.count_nonzero(coarse) == np.count_nonzero(coarse[every]) > 0


def test_images_are_smoothed_at_the_points_as_scipy_does():
    volume = np.random.default_rng(0).random((33, 27, 21))
    points = np.argwhere(volume[::5, ::5, ::5] > 0.3) * 5
    expected = ndimage.gaussian_filter(volume, 1.6)[tuple(points.T)]
    np.testing.assert_allclose(_smoothed_at(volume, points, 5, 1.6), expected, atol=1e-12)


def test_mixture_of_a_box_is_that_of_the_grid(head):
    images, brain, _ = head
    maps = np.stack([tissue_prior(tissue) for tissue in ('wm', 'gm', 'csf')])
    box = box_of(brain, 4, 4)
    part = fit_mixture(images['FLAIR'][None][(slice(None), *box)], brain, maps[:, *box], box)
    whole = fit_mixture(images['FLAIR'][None], brain, maps)
    np.testing.assert_array_equal(part.means, whole.means)
    inside = brain[box]
    np.testing.assert_allclose(
        part.offsets[0][inside], whole.offsets[0][box][inside], rtol=1e-5, atol=1e-3
    )


def test_mixture_learns_the_intensities_and_the_offset():
    maps = np.stack([tissue_prior(tissue) for tissue in ('wm', 'gm', 'csf')])
    labels = maps.argmax(axis=0)
    brain = maps.sum(axis=0) > 0.9
    slope = np.linspace(-0.2, 0.2, TEMPLATE_SHAPE[0])[:, None, None]
    rng = np.random.default_rng(7)
    image = np.choose(labels, FLAIR) + slope + rng.normal(0, 0.05, labels.shape)
    mixture = fit_mixture(image[None], brain, maps)
    np.testing.assert_allclose(mixture.means[:, 0], FLAIR, atol=0.05)
    assert mixture.white_spread[0] == pytest.approx(0.05, rel=0.3)
    white = brain & (labels == WM)
    left = mixture.offsets[0][white] - np.broadcast_to(slope, labels.shape)[white]
    assert left.std() < 0.04
    assert mixture.means[GM, 0] > mixture.means[WM, 0]


def test_hysteresis_keeps_what_is_strong_somewhere_and_large_enough():
    numbers = Constants(weak=1, strong=3, smallest=3, softness=0.5)
    evidence = np.full((20, 5, 5), -np.inf)
    evidence[0:4, 0, 0] = (1.5, 1.5, 1.5, 3.5)  # kept
    evidence[6:10, 0, 0] = 2.0  # never strong
    evidence[12:14, 0, 0] = 4.0  # too small
    prob = Hyperintensity(numbers).probability(evidence)
    assert set(np.flatnonzero(prob[:, 0, 0] >= 0.5)) == {0, 1, 2, 3}
    assert prob[0, 0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert prob[6, 0, 0] == pytest.approx(1 / (1 + np.exp(2)))
    assert prob[12, 0, 0] == pytest.approx(0.49)
    assert prob[19, 4, 4] == 0


# ---------------------------------------------------------------------------- refusals


def test_other_grids_and_tiny_brains_are_refused(entry):
    predictor = load_predictor(entry)
    with pytest.raises(DataError, match='template'):
        predictor(np.ones((2, 9, 9, 9), np.float32), np.ones((9, 9, 9), bool), (True, True))
    tiny = np.zeros(TEMPLATE_SHAPE, bool)
    tiny[80:90, 80:90, 80:90] = True
    channels = np.ones((2, *TEMPLATE_SHAPE), np.float32)
    with pytest.raises(DataError, match='too small'):
        predictor(channels, tiny, (True, False))


def test_noise_without_anatomy_ends_without_lesions_or_with_an_error(entry):
    brain = np.asarray(load_template().mask.dataobj) > 0
    noise = np.random.default_rng(8).normal(100, 10, brain.shape).astype(np.float32)
    try:
        prob, _ = segment_exam(entry, {'FLAIR': noise}, brain)
    except DataError:
        return
    assert np.isfinite(prob).all()
    assert (prob >= entry.threshold).mean() < 0.001


@pytest.mark.parametrize('change', [{'channels': ('FLAIR', 'T2w')}, {'options': {'cortecs': 2.0}}])
def test_an_entry_that_does_not_fit_the_method_is_refused(entry, change):
    with pytest.raises(ModelError):
        load_predictor(replace(entry, **change))


# ---------------------------------------------------------------------------- real exam


@pytest.mark.realdata
def test_real_exam_with_clear_lesions(real_data, entry):
    import nibabel as nb

    folder = real_data / 'ljubljana-mni' / 'patient26'
    flair, reference = (
        np.asarray(nb.load(folder / f'{name}.nii.gz').dataobj) for name in ('FLAIR', 'MASK')
    )
    labels, _ = ndimage.label(flair > 0)
    brain = ndimage.binary_fill_holes(labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1)
    prob, _ = segment_exam(entry, {'FLAIR': flair}, brain)
    numbers = accuracy(prob >= entry.threshold, reference > 0, (1, 1, 1))
    assert numbers['DSC'] > 0.65
    assert numbers['LFPR'] < 0.2
