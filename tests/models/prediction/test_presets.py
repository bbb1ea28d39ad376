"""Presets of a sampler."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from mslesseg_app.core.errors import ModelError, UsageError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.layout import Windows
from mslesseg_app.models.prediction.presets import DIFFUSION_KEYS, KEYS, has_presets, resolve
from mslesseg_app.models.prediction.segment import varies
from mslesseg_app.models.registry import get_entry


def entry(architecture: str = 'unet', **sampler: Any) -> ModelEntry:
    return ModelEntry(
        name='probe',
        version='1',
        architecture=architecture,
        channels=('FLAIR',),
        required=('FLAIR',),
        missing='refuse',
        normalisation='zscore',
        threshold=0.5,
        licence='Apache-2.0',
        patch=(32, 32, 32),
        sampler=sampler,
    )


def test_a_preset_comes_on_top_of_what_is_common() -> None:
    model = entry(flips=[0], overlap=0.1, exact={'overlap': 0.6, 'patch': [64, 64, 64]})
    exact, fast = resolve(model, 'exact'), resolve(model, 'fast')
    assert exact.sampler == {'flips': [0], 'overlap': 0.6, 'precision': 'float32'}
    assert exact.patch == (64, 64, 64)
    assert fast.sampler == {'flips': [0], 'overlap': 0.1}
    assert fast.patch == (32, 32, 32)
    assert resolve(model).sampler == fast.sampler
    assert resolve(exact, 'fast') is exact
    assert has_presets(model)


def test_a_model_without_presets_differs_in_precision_only() -> None:
    model = entry(overlap=0.5)
    assert resolve(model, 'fast') is model
    assert resolve(model, 'exact').sampler == {'overlap': 0.5, 'precision': 'float32'}
    half = entry(precision='bfloat16')
    assert resolve(half, 'exact').sampler == half.sampler, 'what the description says counts'
    assert not has_presets(model)


@pytest.mark.parametrize(
    'sampler', [{'speed': 3}, {'fast': {'speed': 3}}, {'exact': 3}, {'exact': {}, 'slow': {}}]
)
def test_what_is_unknown_is_refused(sampler: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r'unknown|not a table'):
        resolve(entry(**sampler), 'exact')


def test_there_are_two_presets() -> None:
    with pytest.raises(UsageError, match='turbo'):
        resolve(entry(), 'turbo')


def test_known_settings_are_those_of_windows_and_samplers() -> None:
    windows = {field.name for field in fields(Windows)} - {'size'}
    assert set(KEYS) == windows | set(DIFFUSION_KEYS) | {'compile'}


def test_what_gives_several_answers() -> None:
    assert not varies(entry())
    assert varies(entry(flips=[2]))
    assert varies(entry('mssegdiff'))
    assert not varies(entry('mssegdiff', chains=4, fast={'chains': 1}), 'fast')
    digest = ('a' * 64, 'b' * 64)
    folds = entry().__class__(
        **{**entry().description, 'weights': ('1.safetensors', '2.safetensors'), 'sha256': digest}
    )
    assert varies(folds)


@pytest.mark.parametrize('name', ['mssegdiff', 'swinunetr', 'unetr', 'transbts'])
def test_shipped_networks_have_the_published_procedure(name: str) -> None:
    exact = resolve(get_entry(name), 'exact')
    overlap = {'mssegdiff': 0.6, 'swinunetr': 0.6, 'unetr': 0.5, 'transbts': 0.0}
    assert exact.sampler['overlap'] == overlap[name]
    assert exact.sampler['blending'] == ('first' if name == 'transbts' else 'constant')
    assert exact.sampler['layout'] == 'stepped'
    assert exact.sampler['precision'] == 'float32'
    assert exact.sampler.get('crop', True) == (name in ('mssegdiff', 'unetr'))
    assert exact.sampler.get('flips', []) == ([0, 1, 2] if name == 'transbts' else [])
    assert exact.patch == ((128,) * 3 if name in ('transbts', 'swinunetr') else (96,) * 3)
    if name == 'mssegdiff':
        assert {k: exact.sampler[k] for k in ('chains', 'steps', 'fusion')} == {
            'chains': 4,
            'steps': 10,
            'fusion': 'code',
        }
