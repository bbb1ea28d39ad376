from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mslesseg_app.errors import DataError, UsageError
from mslesseg_app.models.networks import build, fill
from mslesseg_app.training.data import load_data
from mslesseg_app.training.loop import CHECKPOINT, Settings, Trainer, rate_factor

SMALL = Settings(channels=(4, 8), patch=(16, 16, 16), batch=2, steps=6, warm_up=2)


def _losses(trainer: Trainer, count: int) -> list[float]:
    trainer.network.train()
    return [trainer.train_step()[0] for _ in range(count)]


def test_resume_is_exact(prepared: Path, tmp_path: Path) -> None:
    data = load_data(prepared)
    whole = Trainer(tmp_path / 'whole', data, SMALL)
    expected = _losses(whole, 6)
    first = Trainer(tmp_path / 'parts', data, SMALL)
    found = _losses(first, 3)
    first.save()
    second = Trainer(tmp_path / 'parts', data, SMALL)
    assert second.step == 3
    found += _losses(second, 3)
    assert found == expected
    for key, value in whole.smoothed.values.items():
        assert torch.equal(value, second.smoothed.values[key])


def test_a_seed_decides_the_run(prepared: Path, tmp_path: Path) -> None:
    data = load_data(prepared)
    runs = [
        _losses(Trainer(tmp_path / f'{i}', data, replace(SMALL, seed=seed)), 2)
        for i, seed in enumerate((1, 1, 2))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_training_writes_log_checkpoint_and_weights(prepared: Path, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / 'run', load_data(prepared), SMALL)
    assert trainer.train(every=2) == 6
    rows = list(csv.DictReader((tmp_path / 'run' / 'log.csv').open()))
    assert [row['step'] for row in rows] == ['2', '4', '6']
    trainer.export(tmp_path / 'w.safetensors')
    network = build('unet', 3, {'channels': [4, 8]})
    fill(network, tmp_path / 'w.safetensors')
    assert not [p for p in (tmp_path / 'run').iterdir() if p.name.startswith('.tmp')]


def test_another_data_set_does_not_continue_a_run(prepared: Path, tmp_path: Path) -> None:
    Trainer(tmp_path / 'run', load_data(prepared), SMALL).save()
    with pytest.raises(UsageError, match='other settings or other data'):
        Trainer(tmp_path / 'run', load_data(prepared, ['person-1']), SMALL)


def test_damaged_checkpoint_is_named(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / CHECKPOINT).write_bytes(b'no checkpoint')
    with pytest.raises(DataError, match='no checkpoint'):
        Trainer(tmp_path / 'run', load_data(prepared), SMALL)


def test_steps_without_finite_loss_change_nothing(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path / 'run', load_data(prepared), SMALL)
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    images, target, weight = trainer.draw()
    monkeypatch.setattr(trainer, 'draw', lambda: (images * float('nan'), target, weight))
    trainer.train_step()
    assert trainer.bad == 1
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(value, before[key])


def test_rate_rises_and_falls() -> None:
    settings = replace(SMALL, steps=100, warm_up=10)
    factors = [rate_factor(step, settings) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.01, abs=2e-3)
