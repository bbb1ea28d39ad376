"""One exam through a model: channels, missing modalities, device, result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from probability import segment_exam

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction import segment as run
from mslesseg_app.models.prediction.normalise import normalise

SHAPE = (6, 7, 8)
BRAIN = np.zeros(SHAPE, bool)
BRAIN[1:5, 1:6, 1:7] = True
RNG = np.random.default_rng(1)
IMAGES = {name: RNG.gamma(4, 50, SHAPE) for name in ('FLAIR', 'T1w', 'T2w')}
ENTRY = ModelEntry(
    name='probe',
    version='3',
    architecture='unet',
    channels=('T1w', 'FLAIR'),
    required=('FLAIR',),
    missing='zero',
    normalisation='zscore',
    threshold=0.5,
    licence='Apache-2.0',
)


@pytest.fixture
def calls(monkeypatch):
    """Replace loading by a predictor that notes what it was called with."""
    noted = []
    run._loaded.cache_clear()

    def load(entry, device, threads, seed):
        noted.append({'load': (entry.name, device, threads, seed)})

        def predictor(channels, brain, present):
            noted.append({'channels': channels.copy(), 'present': present})
            return np.full(brain.shape, 0.7)

        return predictor

    monkeypatch.setattr(run, 'load_predictor', load)
    yield noted
    run._loaded.cache_clear()


def test_channels_come_in_the_order_of_the_entry_and_normalised(calls):
    prob, info = segment_exam(ENTRY, IMAGES, BRAIN, 'cpu')
    for index, name in enumerate(ENTRY.channels):
        expected = normalise(IMAGES[name], BRAIN, 'zscore')
        np.testing.assert_array_equal(calls[1]['channels'][index], expected)
    assert calls[1]['present'] == (True, True)
    assert prob.dtype == np.float32
    assert not prob[~BRAIN].any()
    assert (prob[BRAIN] == np.floor(0.7 * 2**16) / 2**16).all(), 'rounded'
    assert info.pop('seconds') >= 0
    assert info == {
        'model': 'probe',
        'version': '3',
        'digest': ENTRY.digest,
        'device': 'cpu',
        'device_note': 'CPU as asked.',
        'used': ['T1w', 'FLAIR'],
        'missing': [],
        'policy': 'zero',
    }


@pytest.mark.parametrize('policy', ['zero', 'ignore'])
def test_a_missing_modality_leaves_an_empty_channel_and_is_told(calls, policy):
    entry = replace(ENTRY, missing=policy)
    _, info = segment_exam(entry, {'FLAIR': IMAGES['FLAIR']}, BRAIN, 'cpu')
    assert not calls[1]['channels'][0].any()
    assert calls[1]['present'] == (False, True)
    assert (info['used'], info['missing'], info['policy']) == (['FLAIR'], ['T1w'], policy)


def test_a_model_that_refuses_names_the_modality(calls):
    with pytest.raises(DataError, match='T1w'):
        segment_exam(replace(ENTRY, missing='refuse'), {'FLAIR': IMAGES['FLAIR']}, BRAIN)
    assert not calls


def test_a_required_modality_is_required_under_every_policy(calls):
    with pytest.raises(DataError, match='FLAIR'):
        segment_exam(ENTRY, {'T1w': IMAGES['T1w']}, BRAIN)


def test_an_image_without_anatomy_is_named(calls):
    images = IMAGES | {'T1w': np.ones(SHAPE)}
    with pytest.raises(DataError, match=r'T1w: .*constant'):
        segment_exam(ENTRY, images, BRAIN, 'cpu')


def test_a_model_is_loaded_once_for_all_exams(calls):
    for _ in range(3):
        segment_exam(ENTRY, IMAGES, BRAIN, 'cpu', threads=2, seed=5)
    loads = [call['load'] for call in calls if 'load' in call]
    assert loads == [('probe', 'cpu', 2, 5)]


def test_changed_weights_are_loaded_anew(calls):
    for sha256 in ('a' * 64, 'b' * 64):
        entry = replace(ENTRY, weights='w.safetensors', sha256=sha256)
        segment_exam(entry, IMAGES, BRAIN, 'cpu')
    assert sum('load' in call for call in calls) == 2


@pytest.mark.parametrize('wrong', [np.full(SHAPE, np.nan), np.zeros((2, 2, 2))])
def test_a_result_that_is_no_probability_is_refused(monkeypatch, wrong):
    run._loaded.cache_clear()
    monkeypatch.setattr(run, 'load_predictor', lambda *a: lambda *b: wrong)
    with pytest.raises(DataError, match='no valid probability'):
        segment_exam(ENTRY, IMAGES, BRAIN, 'cpu')
    run._loaded.cache_clear()


def test_device_errors_reach_the_user(calls):
    with pytest.raises(UsageError):
        segment_exam(ENTRY, IMAGES, BRAIN, 'tpu')


def test_a_model_without_weights_stays_on_the_cpu(calls):
    entry = replace(ENTRY, architecture='hyperintensity')
    _, info = segment_exam(entry, IMAGES, BRAIN, 'cuda')
    assert info['device'] == 'cpu'
    assert 'no other device' in info['device_note']


def test_the_joint_zscore_counts_voxels_that_any_image_shows() -> None:
    """As the public TransBTS prepares its exams: the mask is where the sum is above zero."""
    images = {name: image.copy() for name, image in IMAGES.items()}
    images['FLAIR'][1] = images['T1w'][2] = 0
    for image in images.values():
        image[:, 5] = 0
    entry = replace(
        ENTRY, normalisation='zscore-joint', channels=('FLAIR', 'T1w'), required=('FLAIR',)
    )
    found = run.stack_channels(entry, images, BRAIN)
    mask = BRAIN & (images['FLAIR'] + images['T1w'] > 0)
    assert 0 < mask.sum() < BRAIN.sum()
    for channel, name in zip(found, ('FLAIR', 'T1w'), strict=True):
        values = images[name][mask]
        expected = np.zeros(SHAPE)
        expected[mask] = (values - values.mean()) / values.std()
        np.testing.assert_allclose(channel, expected, atol=1e-5)
    assert (found[0][1][mask[1]] < 0).all(), 'a zero is a value where another image shows some'
