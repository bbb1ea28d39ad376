"""Presets hold what they say, and settings can be changed by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from mslesseg_app.cli.train import PRESETS as NAMES
from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.networks import NETWORKS
from mslesseg_app.models.prediction.presets import resolve
from mslesseg_app.models.registry import get_entry
from mslesseg_app.training.description import entry_of
from mslesseg_app.training.losses import dice_ce
from mslesseg_app.training.objectives import Objective, make_loss
from mslesseg_app.training.plan import Plan, changed, rate_factor, read_settings
from mslesseg_app.training.presets import PRESETS, preset

PAPER = [name for name, spec in NETWORKS.items() if spec.paper]
PAIRS = [(name, n) for name in ('paper', 'default', 'reduced') for n in PAPER]
PAIRS += [(name, 'unet') for name in ('default', 'reduced')]


@pytest.mark.parametrize(('name', 'network'), PAIRS)
def test_every_preset_makes_a_model_and_survives_json(name: str, network: str) -> None:
    plan = preset(name, network)
    assert Plan.from_dict(plan.to_dict()) == plan
    entry = entry_of(plan, network)
    assert entry.architecture == network
    assert entry.missing == ('zero' if network == 'unet' else 'refuse')


def test_names_of_the_command_line() -> None:
    assert tuple(PRESETS) == NAMES


@pytest.mark.parametrize('network', PAPER)
@pytest.mark.parametrize('name', ['paper', 'default'])
def test_what_is_trained_keeps_the_presets_of_its_network(name: str, network: str) -> None:
    shipped = get_entry(network)
    entry = entry_of(preset(name, network), network)
    for how in ('exact', 'fast'):
        ours, theirs = resolve(entry, how), resolve(shipped, how)
        assert (ours.sampler, ours.patch) == (theirs.sampler, theirs.patch)
    both = entry_of(changed(preset(name, network), read_settings(['sampler.overlap=0.3'])))
    assert {resolve(both, how).sampler['overlap'] for how in ('exact', 'fast')} == {0.3}


def test_validation_of_the_paper_has_a_sampler_of_its_own() -> None:
    constant = {'blending': 'constant', 'layout': 'stepped', 'margin': 0}
    plans = {network: preset('paper', network) for network in PAPER}
    assert {n: plan.validation['overlap'] for n, plan in plans.items() if plan.validation} == {
        'mssegdiff': 0.25, 'unetr': 0.5, 'swinunetr': 0.5,
    }  # fmt: skip
    assert plans['transbts'].validate_every == 0
    for plan in plans.values():
        if plan.validation:
            assert plan.validation.items() >= constant.items()
            assert plan.validation != plan.sampler
    crops = {n: (plan.crop, plan.margin) for n, plan in plans.items()}
    assert crops['mssegdiff'] == crops['unetr'] == ('brain', 0)
    assert crops['swinunetr'] == ('multiples', 0)
    assert crops['transbts'][0] == 'grid'


def test_the_rates_of_the_public_code_of_mssegdiff() -> None:
    plan = preset('paper', 'mssegdiff')
    epochs = (0, 1, 49, 50, 275, 499)
    rates = [plan.learning_rate * rate_factor(plan, epoch) for epoch in epochs]
    assert rates == pytest.approx([0, 2.04e-6, 1e-4, 1e-4, 5e-5, 1.2e-9], rel=0.03)


@pytest.mark.parametrize(('network', 'epochs'), [('unetr', 5000), ('swinunetr', 300)])
def test_the_rates_of_the_public_code_of_the_unetrs(network: str, epochs: int) -> None:
    """From epoch to epoch: 1/49 of the peak more, up to epoch 49; then half a cosine to 0."""
    plan = preset('paper', network)
    rate, expected = 0.0, []
    for epoch in range(epochs):
        expected.append(rate)
        rate += 1e-4 / 49 if epoch < 49 else 0.0
        if epoch >= 49:
            rate = 0.5e-4 * (1 + math.cos(math.pi * (epoch + 1 - 50) / (epochs - 50)))
    found = [plan.learning_rate * rate_factor(plan, epoch) for epoch in range(epochs)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


PUBLISHED = {
    # epochs, exams, patches, optimiser, decay, flip, turn, intensity, every, precision, kept
    'mssegdiff': (500, 2, 1, 'adamw', 1e-3, 0.5, 0.0, 1.0, 10, 'float32', 'best'),
    'unetr': (5000, 1, 4, 'adamw', 1e-5, 0.2, 0.2, 0.1, 100, 'auto', 'best'),
    'swinunetr': (300, 1, 1, 'adamw', 1e-5, 0.5, 0.0, 1.0, 100, 'auto', 'best'),
    'transbts': (1000, 8, 1, 'adam', 1e-5, 0.5, 0.0, 1.0, 0, 'float32', 'last'),
}
"""Defaults of the public code, read in its argument parsers and transforms."""


@pytest.mark.parametrize('network', PAPER)
def test_the_numbers_of_the_public_code(network: str) -> None:
    plan = preset('paper', network)
    assert PUBLISHED[network] == (
        plan.epochs, plan.batch, plan.patches, plan.optimizer, plan.weight_decay, plan.flip,
        plan.rotate, plan.jitter, plan.validate_every, plan.precision, plan.keep,
    )  # fmt: skip
    assert (plan.scale, plan.shift, plan.clip, plan.ema) == (0.1, 0.1, 0.0, 0.0)
    assert (plan.background, plan.steps_per_epoch, plan.per_step) == ('moved', 0, False)
    assert plan.learning_rate == (2e-4 if network == 'transbts' else 1e-4)
    assert plan.on_lesion == (0.5 if network == 'unetr' else None)
    assert plan.statistics == ('patch' if network in ('mssegdiff', 'swinunetr') else 'volume')


def test_the_rates_of_the_public_code_of_transbts() -> None:
    plan = preset('paper', 'transbts')
    rates = [plan.learning_rate * rate_factor(plan, epoch) for epoch in (0, 500, 999)]
    assert rates == pytest.approx([2e-4, 2e-4 * 0.5**0.9, 2e-4 * 0.001**0.9])


def test_our_rate_rises_at_each_step_and_never_is_zero() -> None:
    plan = changed(preset('default', 'unetr'), {'epochs': 20, 'warm_up': 2.0})
    rates = [rate_factor(plan, epoch, step, 10) for epoch in range(20) for step in range(10)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[:20] == sorted(set(rates[:20]))
    assert max(rates) == pytest.approx(1.0)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


def test_settings_by_name() -> None:
    plan = preset('default', 'unetr')
    new = changed(plan, read_settings(['patch=64', 'epochs=7', 'objective=dice', 'on_lesion=1']))
    assert new.patch == (64, 64, 64)
    assert new.options['edge'] == [64, 64, 64], 'the table of positions follows the patch'
    assert (new.epochs, new.objective, new.on_lesion) == (7, 'dice', 1.0)
    other = changed(plan, read_settings(['options.edge=32', 'options.feature_size=4']))
    assert other.patch == (32, 32, 32)
    assert other.options['hidden_size'] == 768


@pytest.mark.parametrize(
    ('texts', 'said'),
    [
        (['epoch=3'], 'no setting'),
        (['epochs'], 'KEY=VALUE'),
        (['epochs=many'], 'not of the kind'),
        (['epochs=0'], 'less than 1'),
        (['objective=hope'], 'none of'),
        (['ema=1'], 'between 0 and 1'),
        (['objective=softmax-dice'], 'two classes'),
        (['options.classes=2'], 'one class'),
        (['patch=[32, 32]'], 'one edge or three'),
    ],
)
def test_settings_that_cannot_be(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        changed(preset('default', 'unetr'), read_settings(texts))


def test_presets_that_do_not_exist() -> None:
    for name, network in (('paper', 'unet'), ('x', 'unetr')):
        with pytest.raises(UsageError):
            preset(name, network)
    with pytest.raises(UsageError, match='no network'):
        preset('default', 'resnet')
    with pytest.raises(UsageError, match='Patches do not fit'):
        entry_of(changed(preset('default', 'swinunetr'), {'patch': 48}))


def numbers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (2, 1, 4, 4, 4)), (rng.random((2, 1, 4, 4, 4)) > 0.7).astype(float)


def loss_of(network: str, logits: np.ndarray, target: np.ndarray) -> float:
    make = make_loss(preset('paper', network))
    logits_, target_ = torch.from_numpy(logits).float(), torch.from_numpy(target).float()
    return float(make(logits_, target_, torch.zeros_like(target_)))


def test_losses_of_the_public_code_by_their_formulas() -> None:
    """The weight, here zero everywhere, counts in ours only."""
    logits, target = numbers()
    prob = 1 / (1 + np.exp(-logits))
    entropy = -(target * np.log(prob) + (1 - target) * np.log(1 - prob)).mean()
    error = ((prob - target) ** 2).mean()

    def dice(top: float, bottom: float) -> float:
        axes = (1, 2, 3, 4)
        both = (prob * target).sum(axes)
        sums = (prob + target).sum(axes)
        return float((1 - (2 * both + top) / (sums + bottom)).mean())

    usual = dice(1e-5, 1e-5)
    assert loss_of('swinunetr', logits, target) == pytest.approx(usual, rel=1e-5)
    assert loss_of('mssegdiff', logits, target) == pytest.approx(usual + entropy + error, rel=1e-5)


def test_the_loss_of_unetr_is_a_softmax_over_background_and_lesion() -> None:
    """Dice with squares of both classes and exam, and the cross-entropy of the two."""
    logits, target = numbers()
    two = np.concatenate([np.zeros_like(logits), logits], axis=1)
    lesion = 1 / (1 + np.exp(-logits[:, 0]))
    losses = []
    for prob, truth in ((1 - lesion, 1 - target[:, 0]), (lesion, target[:, 0])):
        for p, t in zip(prob, truth, strict=True):
            losses.append(1 - 2 * (p * t).sum() / ((p**2).sum() + (t**2).sum() + 1e-6))
    truth = target[:, 0]
    entropy = -(truth * np.log(lesion) + (1 - truth) * np.log(1 - lesion)).mean()
    assert loss_of('unetr', two, target) == pytest.approx(np.mean(losses) + entropy, rel=1e-5)


def test_softmax_dice_is_that_of_the_lesions_over_the_whole_batch() -> None:
    logits, target = numbers()
    two = np.concatenate([np.zeros_like(logits), logits], axis=1)
    prob = 1 / (1 + np.exp(-logits))
    expected = 1 - 2 * (prob * target).sum() / (prob.sum() + target.sum() + 1e-5)
    assert loss_of('transbts', two, target) == pytest.approx(expected, rel=1e-5)


def test_ours_is_defined_without_lesions() -> None:
    make = make_loss(preset('default', 'unetr'))
    logits = torch.full((1, 1, 4, 4, 4), -12.0)
    value = float(make(logits, torch.zeros_like(logits), torch.ones_like(logits)))
    assert math.isfinite(value)
    assert value < 0.01


def test_our_loss_is_dice_plus_entropy_and_skips_voxels_without_weight() -> None:
    logits = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    target = (logits > 0.3).float()
    weight = torch.ones_like(target)
    prob = torch.sigmoid(logits)
    dice = (2 * (prob * target).sum() + 2) / (prob.sum() + target.sum() + 2)
    entropy = -(target * prob.log() + (1 - target) * (1 - prob).log()).mean()
    assert float(dice_ce(logits, target, weight)) == pytest.approx(float(1 - dice + entropy))
    weight[..., 0] = 0
    changed_target = target.clone()
    changed_target[..., 0] = 1 - changed_target[..., 0]
    assert dice_ce(logits, target, weight) == dice_ce(logits, changed_target, weight)


@pytest.mark.parametrize(('share', 'expected'), [(0.0, 1 / 3), (0.6, 0.6 + 0.4 / 3), (1.0, 1.0)])
def test_a_share_of_diffusion_steps_is_drawn_from_the_noisiest_third(share, expected):
    plan = changed(preset('reduced', 'mssegdiff'), {'noisiest': share})
    torch.manual_seed(1)
    steps = Objective(nn.Identity(), plan, None)._steps(20_000)
    assert steps.min() == (666 if share == 1 else 0)
    assert steps.max() == 999
    assert (steps >= 666).double().mean() == pytest.approx(expected, abs=0.01)
