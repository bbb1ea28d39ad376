"""The trainer: exact resume, processes, trouble; on networks and exams of a few voxels."""

from __future__ import annotations

import csv
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mslesseg_app.core.errors import BusyError, DataError, MSLesSegError, UsageError
from mslesseg_app.models.networks import build, fill
from mslesseg_app.training import loop, random_state
from mslesseg_app.training.cases import LabelledCase
from mslesseg_app.training.description import entry_of
from mslesseg_app.training.loop import CHECKPOINT, Trainer
from mslesseg_app.training.patches import CaseDataset
from mslesseg_app.training.plan import Plan, changed
from mslesseg_app.training.presets import preset
from mslesseg_app.training.tracking import Tracker
from mslesseg_app.training.validation import CaseValidator

SIZES: dict[str, dict[str, Any]] = {
    'unet': {'channels': [2, 4]},
    'mssegdiff': {'features': [2, 4, 4, 2], 'time_width': 8, 'time_hidden': 8},
    'unetr': {'feature_size': 2, 'hidden_size': 12, 'mlp_dim': 12, 'num_heads': 2},
    'transbts': {'base': 2, 'groups': 2, 'width': 8, 'heads': 2, 'layers': 1, 'hidden': 8},
}


def tiny(network: str = 'unet', name: str = 'default', **more: Any) -> Plan:
    small = {
        'options': SIZES[network],
        'patch': 16,
        'epochs': 3,
        'steps_per_epoch': 2,
        'validate_every': 0,
        'sampler': {'flips': []},
        **more,
    }
    return changed(preset(name, network), small)


def make(
    plan: Plan, cases: Sequence[LabelledCase], folder: Path, judged: int = 0, **more: Any
) -> Trainer:
    entry = entry_of(plan)
    cache = folder.parent / 'cache'
    dataset = CaseDataset(cases[judged:], plan, entry, cache)
    validator = (
        CaseValidator(CaseDataset(cases[:judged], plan, entry, cache), entry) if judged else None
    )
    return Trainer(folder, plan, dataset, validator, **more)


class Crash(BaseException):
    """Something that no code catches."""


class CrashingTracker(Tracker):
    """Dies in an epoch, as a killed process would."""

    def __init__(self, folder: Path, epoch: int) -> None:
        super().__init__(folder, quiet=True)
        self.last = epoch

    def step(self, epoch: int, loss: float) -> None:
        if epoch == self.last:
            raise Crash


@pytest.mark.parametrize(('network', 'name'), [('mssegdiff', 'paper'), ('transbts', 'default')])
def test_a_run_that_crashed_ends_like_one_that_did_not(cases, tmp_path, network, name) -> None:
    """MSSegDiff draws noise, TransBTS drops out: both need the generators as they were."""
    more = {'validation': {'steps': 2}} if network == 'mssegdiff' else {}
    plan = tiny(network, name, validate_every=1, ema=0.5, **more)
    whole = make(plan, cases, tmp_path / 'whole', judged=1)
    assert whole.train()
    with pytest.raises(Crash):
        make(plan, cases, tmp_path / 'parts', judged=1).train(
            CrashingTracker(tmp_path / 'parts', 2)
        )
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    again = make(plan, cases, tmp_path / 'parts', judged=1)
    assert again.progress.epoch == 2, 'one epoch is lost'
    assert again.train()
    keys = ('epoch', 'steps', 'loss', 'learning_rate', 'gradient_norm', 'dsc', 'best')
    rows = [[{k: row[k] for k in keys} for row in t.progress.history] for t in (whole, again)]
    assert rows[0] == rows[1]
    assert len({row['loss'] for row in rows[0]}) == 3
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key])
        assert torch.equal(whole.smoothed.values[key], again.smoothed.values[key])
    log = list(csv.DictReader((tmp_path / 'parts' / 'log.csv').open()))
    assert [row['loss'] for row in log] == [row['loss'] for row in rows[0]]
    weights = [(tmp_path / run / 'best.safetensors').read_bytes() for run in ('whole', 'parts')]
    assert weights[0] == weights[1]
    after = [torch.get_rng_state()]
    random_state.set_random_state(torch.load(tmp_path / 'whole' / CHECKPOINT)['random'][0], 'cpu')
    assert torch.equal(after[0], torch.get_rng_state())


def test_another_split_is_refused_and_half_weights_fill_a_network(cases, tmp_path) -> None:
    plan = tiny(epochs=1)
    trainer = make(plan, cases, tmp_path / 'run')
    assert trainer.train()
    path = trainer.export(tmp_path / 'w.safetensors', half=True)
    fill(build('unet', 3, plan.options), path)
    with pytest.raises(UsageError, match='other settings or other data'):
        make(plan, cases[1:], tmp_path / 'run')


def test_what_half_precision_cannot_hold_stays_as_it_is(cases, tmp_path) -> None:
    trainer = make(tiny('transbts', epochs=1), cases, tmp_path / 'run')
    trainer.smoothed.values['bridge_norm.running_var'].fill_(1.4e6)
    kept = load_file(trainer.export(tmp_path / 'w.safetensors', half=True))
    assert kept['bridge_norm.running_var'].dtype == torch.float32
    assert bool((kept['bridge_norm.running_var'] == 1.4e6).all())
    assert kept['bridge_norm.running_mean'].dtype == torch.float16


@pytest.mark.parametrize('network', ['mssegdiff', 'unetr', 'transbts'])
def test_the_output_may_begin_at_a_probability(cases, tmp_path, network) -> None:
    trainer = make(tiny(network, first_probability=0.01), cases, tmp_path / 'run')
    values = trainer.network.state_dict()
    head = {'mssegdiff': 'denoiser.head', 'unetr': 'out.conv.conv', 'transbts': 'head'}[network]
    values[f'{head}.weight'].zero_()
    image = torch.randn(1, 3, 16, 16, 16)
    more = (torch.randn(1, 1, 16, 16, 16), torch.tensor([5])) if network == 'mssegdiff' else ()
    with torch.inference_mode():
        prob = torch.sigmoid(trainer.network.eval()(image, *more))
    np.testing.assert_allclose(prob.numpy(), 0.01, rtol=1e-4)


def test_a_softmax_does_not_begin_at_a_probability(cases, tmp_path) -> None:
    plan = tiny('unetr', 'paper', first_probability=0.01, validation={}, crop='brain')
    with pytest.raises(UsageError, match='no output of one class'):
        make(plan, cases, tmp_path / 'run')


def test_a_seed_decides_the_run(cases, tmp_path) -> None:
    losses = []
    for number, seed in enumerate((1, 1, 2)):
        trainer = make(tiny(seed=seed, epochs=1), cases, tmp_path / str(number))
        trainer.train()
        losses.append(trainer.progress.history[0]['loss'])
    assert losses[0] == losses[1] != losses[2]


def test_time_that_is_over_stops_before_an_epoch(cases, tmp_path) -> None:
    trainer = make(tiny(epochs=1), cases, tmp_path / 'run')
    assert not trainer.train(minutes=-1)
    assert trainer.progress.epoch == 0
    assert trainer.train(minutes=60)


def test_a_part_of_a_batch_at_a_time_gives_the_same_gradient(cases, tmp_path) -> None:
    """With a loss of each patch by itself, so that the parts add up."""
    found = []
    for parts in (1, 2, 4):
        plan = tiny('unetr', 'paper', batch=2, patches=2, accumulate=parts, precision='float32')
        trainer = make(plan, cases, tmp_path / str(parts))
        batch = next(iter(trainer._batches()))
        loss = trainer._gradients(batch)
        found.append(
            (loss, [p.grad.clone() for p in trainer.network.parameters() if p.grad is not None])
        )
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        for one, other in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_out_of_memory_takes_smaller_parts_and_then_stops(cases, tmp_path, monkeypatch) -> None:
    trainer = make(tiny(batch=2, patches=2), cases, tmp_path / 'run')
    batch = next(iter(trainer._batches()))
    assert len(batch['image']) == 4
    whole, sizes = trainer.objective.forward, []

    def limited(part: dict[str, torch.Tensor]) -> torch.Tensor:
        sizes.append(len(part['image']))
        if len(part['image']) > limit:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return whole(part)

    limit = 1
    monkeypatch.setattr(trainer.objective, 'forward', limited)
    _, norm = trainer.train_step(batch)
    assert norm > 0
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert trainer.progress.parts == 4
    limit = 0
    with pytest.raises(BusyError, match='too little memory') as caught:
        trainer.train_step(batch)
    assert 'accumulate' in caught.value.hint


def test_steps_without_finite_gradient_change_nothing(cases, tmp_path) -> None:
    trainer = make(tiny(), cases, tmp_path / 'run')
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    batch = next(iter(trainer._batches()))
    trainer.train_step({**batch, 'image': batch['image'] * float('nan')})
    assert (trainer.progress.bad, trainer.progress.step) == (1, 1)
    for key, value in trainer.network.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_run_that_diverges_returns_with_a_lower_rate_and_then_stops(
    cases, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(loop, 'MOST_BAD_STEPS', 2)
    plan = tiny(epochs=2, schedule='constant', warm_up=0.0)
    trainer = make(plan, cases, tmp_path / 'run')
    healthy = trainer._batches
    broken = {'times': 1}

    def batches():
        for batch in healthy():
            bad = trainer.progress.epoch == 1 and broken['times'] > trainer.progress.returns
            yield {**batch, 'image': batch['image'] * (float('inf') if bad else 1)}

    monkeypatch.setattr(trainer, '_batches', batches)
    assert trainer.train()
    assert [row['rate_scale'] for row in trainer.progress.history] == ['1', '0.5']
    assert float(trainer.progress.history[1]['learning_rate']) == plan.learning_rate / 2

    trainer = make(plan, cases, tmp_path / 'other')
    healthy, broken['times'] = trainer._batches, 99
    monkeypatch.setattr(trainer, '_batches', batches)
    with pytest.raises(MSLesSegError, match='after 3 returns') as caught:
        trainer.train()
    assert 'learning_rate' in caught.value.hint


class Scores:
    """A validator with opinions of its own."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = list(scores)

    def __len__(self) -> int:
        return 1

    def __call__(self, network: nn.Module, device: str, chosen: Sequence[int]) -> list[float]:
        torch.rand(3)  # must not matter
        return [self.scores.pop(0)]


def test_the_best_epoch_is_kept_and_patience_ends_a_run(cases, tmp_path) -> None:
    plan = tiny(epochs=9, validate_every=1, patience=2)
    dataset = CaseDataset(cases, plan, entry_of(plan), tmp_path / 'cache')
    trainer = Trainer(tmp_path / 'run', plan, dataset, Scores([0.1, 0.4, 0.4, 0.3, 0.9]))
    assert trainer.train()
    assert (trainer.progress.epoch, trainer.progress.best_epoch) == (4, 2)
    second = changed(plan, {'epochs': 2, 'keep': 'last', 'patience': 0, 'schedule': 'constant'})
    third = changed(plan, {'schedule': 'constant', 'keep': 'best'})
    best = Trainer(tmp_path / 'best', third, dataset, Scores([0.1, 0.4, 0.2, 0.3]))
    best.train()
    last = Trainer(tmp_path / 'last', second, dataset, Scores([0.1, 0.4]))
    last.train()
    paths = [t.export(tmp_path / f'{n}.safetensors') for n, t in enumerate((best, last))]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_worker_processes_change_nothing(cases, tmp_path) -> None:
    losses = []
    for loaders in (0, 2):
        plan = tiny('mssegdiff', epochs=2, precision='float32')
        trainer = make(plan, cases, tmp_path / str(loaders), loaders=loaders)
        trainer.train()
        losses.append([row['loss'] for row in trainer.progress.history])
    assert losses[0] == losses[1]


def test_damaged_checkpoint_is_named(cases, tmp_path) -> None:
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / CHECKPOINT).write_bytes(b'no checkpoint')
    with pytest.raises(DataError, match='no checkpoint'):
        make(tiny(), cases, tmp_path / 'run')


def test_weights_of_another_network_do_not_start_a_run(cases, tmp_path) -> None:
    start = {'head.weight': torch.zeros(1, 7, 1, 1, 1)}
    with pytest.raises(UsageError, match='another network'):
        make(tiny(), cases, tmp_path / 'run', start=start)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


SCRIPT = """
import pickle, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from mslesseg_app.training.description import entry_of
from mslesseg_app.training.loop import Trainer
from mslesseg_app.training.patches import CaseDataset
from mslesseg_app.training.validation import CaseValidator
from mslesseg_app.training.distributed import open_world

folder = Path(sys.argv[1])
plan, cases = pickle.loads((folder / 'what.pkl').read_bytes())
entry = entry_of(plan)
with open_world('cpu') as world:
    dataset = CaseDataset(cases[2:], plan, entry, folder / 'cache')
    validator = CaseValidator(CaseDataset(cases[:2], plan, entry, folder / 'cache'), entry)
    Trainer(folder / f'run-{world.size}', plan, dataset, validator, world).train()
"""


@pytest.mark.slow
def test_two_processes_do_what_one_does(cases, tmp_path) -> None:
    """By torchrun with Gloo on the CPU; also that a second start finds the run complete."""
    import pickle

    plan = tiny('unetr', 'paper', batch=2, patches=1, validate_every=1, precision='float32')
    (tmp_path / 'what.pkl').write_bytes(pickle.dumps((plan, cases)))
    (tmp_path / 'script.py').write_text(SCRIPT)
    one = [sys.executable, str(tmp_path / 'script.py'), str(tmp_path)]
    two = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', '2',
           '--master-port', str(free_port()), *one[1:]]  # fmt: skip
    for command in (one, two, two):
        subprocess.run(command, check=True, timeout=300, capture_output=True)
    states = [torch.load(tmp_path / f'run-{n}' / CHECKPOINT) for n in (1, 2)]
    assert len(states[1]['random']) == 2
    assert states[1]['progress']['epoch'] == 3
    for key, value in states[0]['network'].items():
        torch.testing.assert_close(value, states[1]['network'][key], rtol=1e-3, atol=1e-5)
    logs = [list(csv.DictReader((tmp_path / f'run-{n}' / 'log.csv').open())) for n in (1, 2)]
    for first, second in zip(*logs, strict=True):
        assert float(first['loss']) == pytest.approx(float(second['loss']), rel=1e-4)
        assert float(first['dsc']) == pytest.approx(float(second['dsc']), abs=1e-3)


@pytest.mark.slow
def test_a_killed_process_loses_one_epoch_at_most(cases, tmp_path) -> None:
    import pickle
    import time

    plan = tiny(epochs=40, validate_every=0)
    (tmp_path / 'what.pkl').write_bytes(pickle.dumps((plan, cases)))
    (tmp_path / 'script.py').write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / 'script.py'), str(tmp_path)]
    process = subprocess.Popen(command)
    log = tmp_path / 'run-1' / 'log.csv'
    while process.poll() is None and not (log.is_file() and log.read_text().count('\n') > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    told = len(log.read_text().splitlines()) - 1
    kept = torch.load(tmp_path / 'run-1' / CHECKPOINT)['progress']['epoch']
    assert kept in (told, told + 1)
    subprocess.run(command, check=True, timeout=300)
    rows = list(csv.DictReader(log.open()))
    assert [row['epoch'] for row in rows] == [str(n) for n in range(1, 41)]
