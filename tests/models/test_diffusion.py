"""The diffusion against loops written from its formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.diffusion import (
    DiffusionSampler,
    Fusion,
    chain_noise,
    kept_signal,
    q_sample,
    respaced,
    training_output,
)
from mslesseg_app.models.networks import build
from mslesseg_app.models.prediction.layout import window_key

SMALL = {'features': [4, 6, 8, 10, 12, 4], 'time_width': 8, 'time_hidden': 16}
EDGES = (32, 32, 32)


class Toy(torch.nn.Module):
    """Logits that depend on the image, the noisy mask and the step; counts its calls."""

    def __init__(self):
        super().__init__()
        self.encoded, self.rows = 0, []

    def encode(self, image):
        self.encoded += 1
        return [image.mean(dim=1, keepdim=True)]

    def denoise(self, image, noisy, steps, maps):
        self.rows.append(noisy.shape[0])
        feature = maps[0].repeat_interleave(noisy.shape[0] // image.shape[0], 0)
        return 2 * feature - 0.3 + 0.4 * torch.tanh(noisy) * (1 + steps.reshape(-1)[0] / 999)


@pytest.fixture
def windows():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 2, 6, 7, 8, generator=generator)


def loop(network, image, steps, noises, clamp=True):
    """One window: logits and x0 of each step and chain, step by step from the formulas."""
    a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    logits, estimates = [], []
    for noise in noises:
        x, of_chain, x0_of_chain = noise.double(), [], []
        for k in reversed(range(len(steps))):
            t = steps[k]
            raw = network.denoise(
                image, x.float(), torch.full((1,), t), network.encode(image)
            ).double()
            x0 = raw.clamp(-1, 1) if clamp else 2 / (1 + torch.exp(-raw)) - 1
            eps = (x / math.sqrt(a[t]) - x0) / math.sqrt(1 / a[t] - 1)
            before = a[steps[k - 1]] if k else 1.0
            x = math.sqrt(before) * x0 + math.sqrt(1 - before) * eps
            of_chain.append(raw)
            x0_of_chain.append(x0)
        torch.testing.assert_close(x, x0)  # the last step gives x0 itself
        logits.append(of_chain)
        estimates.append(x0_of_chain)
    return logits, estimates


def fused(name, logits, estimates):
    """The three rules, each from its formula."""
    chains, total = len(logits), len(logits[0])
    score, weights = 0, 0
    for i in range(1, total + 1):
        of_step = [logits[s][i - 1] for s in range(chains)]
        x0 = [estimates[s][i - 1] for s in range(chains)]
        gain = 1 / (1 + math.exp(-i / total))
        if name == 'code':
            p = (1 / (1 + torch.exp(-sum(of_step) / chains))).clamp_min(0.001)
            score = score + torch.exp(gain * (1 + p * torch.log(p))) * sum(x0)
        elif name == 'paper':
            p = sum(1 / (1 + torch.exp(-raw)) for raw in of_step) / chains
            w = torch.exp(gain * (1 + p * torch.log(p)))
            score, weights = score + w * p, weights + w
        else:
            score = score + sum(x0) / chains / total
    return score / weights - 0.5 if name == 'paper' else score


# ------------------------------------------------------------------------------ schedule


def test_schedule_is_linear_in_the_variances():
    kept = kept_signal()
    assert kept.dtype == np.float64
    assert kept.shape == (1000,)
    variances = 1 - kept[1:] / kept[:-1]
    np.testing.assert_allclose(np.diff(variances), (0.02 - 1e-4) / 999, rtol=1e-6)
    assert 1 - kept[0] == pytest.approx(1e-4)
    assert kept[-1] == pytest.approx(4.04e-5, rel=1e-2)


def test_steps_are_those_of_the_public_code():
    assert respaced(10) == (0, 111, 222, 333, 444, 555, 666, 777, 888, 999)
    assert respaced(50)[:4] == (0, 20, 41, 61)
    assert respaced(50)[-1] == 999
    assert respaced(2) == (0, 999)
    assert respaced(1000) == tuple(range(1000))
    assert respaced(1) == (999,)  # pure noise; the public rule says 0


@pytest.mark.parametrize('count', range(2, 60))
def test_steps_rise_and_reach_both_ends(count):
    steps = respaced(count)
    assert len(set(steps)) == count
    assert steps == tuple(sorted(steps))
    assert (steps[0], steps[-1]) == (0, 999)


@pytest.mark.parametrize('count', [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(count):
    with pytest.raises(ModelError, match='cannot be taken'):
        respaced(count)


def test_noise_is_added_by_the_formula():
    x0 = torch.sign(torch.randn(3, 1, 4, 5, 6))
    noise = torch.randn_like(x0)
    steps = torch.tensor([0, 500, 999])
    noisy = q_sample(x0, steps, noise)
    a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for n, t in enumerate(steps.tolist()):
        expected = math.sqrt(a[t]) * x0[n] + math.sqrt(1 - a[t]) * noise[n]
        torch.testing.assert_close(noisy[n], expected)


# ------------------------------------------------------------------------------- sampler


@pytest.mark.parametrize('clamp', [True, False])
@pytest.mark.parametrize('fusion', ['code', 'paper', 'mean'])
def test_sampler_equals_the_loops(windows, fusion, clamp):
    sampler = DiffusionSampler(Toy(), 5, 3, fusion, seed=4, clamp=clamp)
    sampled = sampler.sample(windows, [11, 12, 13])
    for n, key in enumerate((11, 12, 13)):
        noises = [chain_noise(4, key, s, (6, 7, 8))[None, None] for s in range(3)]
        logits, estimates = loop(Toy(), windows[n : n + 1], respaced(5), noises, clamp)
        probs = torch.stack([torch.sigmoid(torch.stack(chain)) for chain in logits])
        for ours, expected in (
            (sampled.decision_score, fused(fusion, logits, estimates)),
            (sampled.probability, probs.mean((0, 1))),
            (sampled.variance, probs[:, -1].var(0, correction=0)),
        ):
            torch.testing.assert_close(ours[n : n + 1].double(), expected, rtol=1e-4, atol=2e-5)


def test_network_sampler_equals_the_loops():
    torch.manual_seed(0)
    network = build('mssegdiff', 2, SMALL).eval()
    image = torch.randn(1, 2, *EDGES)
    sampled = DiffusionSampler(network, 3, 2, 'code', seed=1).sample(image, [7])
    noises = [chain_noise(1, 7, s, EDGES)[None, None] for s in range(2)]
    with torch.inference_mode():
        logits, estimates = loop(network, image, respaced(3), noises)
    expected = fused('code', logits, estimates)
    torch.testing.assert_close(sampled.decision_score.double(), expected, rtol=1e-3, atol=1e-3)


def test_neither_batch_nor_order_nor_split_changes_the_result(windows):
    torch.manual_seed(1)
    network = build('mssegdiff', 2, SMALL).eval()
    stack, keys = (
        torch.randn(3, 2, *EDGES),
        [window_key(c) for c in ((0, 0, 0), (0, 9, 1), (5, 0, 2))],
    )
    together = DiffusionSampler(network, 2, 3).sample(stack, keys)
    alone = [DiffusionSampler(network, 2, 3).sample(stack[n : n + 1], [keys[n]]) for n in range(3)]
    turned = DiffusionSampler(network, 2, 3).sample(stack.flip(0), keys[::-1])
    split = DiffusionSampler(network, 2, 3, chains_at_once=2).sample(stack, keys)
    for field in ('probability', 'decision_score', 'variance'):
        expected = getattr(together, field)
        for other in (
            torch.cat([getattr(one, field) for one in alone]),
            getattr(turned, field).flip(0),
            getattr(split, field),
        ):
            torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-5)
    again = DiffusionSampler(network, 2, 3).sample(stack, keys)
    assert torch.equal(again.decision_score, together.decision_score)


def test_seed_key_and_chain_make_the_noise(windows):
    draws = [chain_noise(s, k, c, (4, 4, 4)) for s in (1, 2) for k in (3, 4) for c in (0, 1)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 8
    assert torch.equal(chain_noise(1, 3, 0, (4, 4, 4)), draws[0])
    before = torch.random.get_rng_state()
    one = DiffusionSampler(Toy(), 3, 2, seed=1).sample(windows, [1, 2, 3])
    other = DiffusionSampler(Toy(), 3, 2, seed=2).sample(windows, [1, 2, 3])
    assert not torch.equal(one.decision_score, other.decision_score)
    assert torch.equal(torch.random.get_rng_state(), before)
    noise = chain_noise(1, 1, 0, (40, 40, 40))
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1, abs=0.02)


def test_keys_of_windows_differ():
    corners = [(x, y, z) for x in (0, 1, 200) for y in (0, 1, 200) for z in (0, 1, 200)]
    assert len({window_key(corner) for corner in corners}) == 27


def test_passes_are_counted_and_features_computed_once(windows):
    network = Toy()
    sampler = DiffusionSampler(network, 10, 4)
    sampler.sample(windows, [1, 2, 3])
    assert (network.encoded, network.rows) == (1, [12] * 10)
    assert (sampler.encoder_passes, sampler.denoiser_passes) == (3, 120)
    network.rows.clear()
    DiffusionSampler(network, 2, 4, chains_at_once=3).sample(windows, [1, 2, 3])
    assert network.rows == [9, 3] * 2


def test_what_the_numbers_mean(windows):
    sampled = DiffusionSampler(Toy(), 4, 4).sample(windows, [1, 2, 3])
    for values, low, high in ((sampled.probability, 0, 1), (sampled.variance, 0, 0.25)):
        assert values.shape == (3, 1, 6, 7, 8)
        assert values.dtype == torch.float32
        assert low <= float(values.min()) < float(values.max()) <= high
    assert not DiffusionSampler(Toy(), 4, 1).sample(windows, [1, 2, 3]).variance.any()
    agree = (sampled.decision_score > 0) == (sampled.probability > 0.5)
    assert float(agree.float().mean()) > 0.9


def test_half_precision_windows_keep_their_chains_in_float32(windows):
    class Half(Toy):
        def denoise(self, image, noisy, steps, maps):
            assert noisy.dtype == image.dtype == torch.bfloat16
            return super().denoise(image, noisy, steps, maps)

    half = DiffusionSampler(Half(), 3, 2).sample(windows.bfloat16(), [1, 2, 3])
    full = DiffusionSampler(Toy(), 3, 2).sample(windows, [1, 2, 3])
    assert half.decision_score.dtype == torch.float32
    torch.testing.assert_close(half.probability, full.probability, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    'values', [{'fusion': 'vote'}, {'steps': 0}, {'chains': 0}, {'chains_at_once': 0}]
)
def test_samplers_that_cannot_be_are_refused(values):
    with pytest.raises(ModelError):
        DiffusionSampler(Toy(), **values)


def test_wrong_calls_are_refused(windows):
    with pytest.raises(ValueError, match='2 keys for 3 windows'):
        DiffusionSampler(Toy()).sample(windows, [1, 2])
    with pytest.raises(ValueError, match='no step'):
        Fusion('code').score()


def test_coded_weights_lie_where_the_fact_sheet_says():
    """exp(sigmoid(i/10) (1 - u)) with u between 0 and 1/e: 1.39 to 1.69, and 1.59 to 2.08."""
    for progress, low, high in ((0.1, 1.39, 1.69), (1.0, 1.59, 2.08)):
        logits = torch.linspace(-12, 12, 2001).reshape(1, 1, 1, -1)
        fusion = Fusion('code')
        fusion.add(logits, torch.ones_like(logits), progress)
        weights = fusion.score()
        assert float(weights.min()) == pytest.approx(low, abs=0.01)
        assert float(weights.max()) == pytest.approx(high, abs=0.01)
        floor = math.exp((1 + 0.001 * math.log(0.001)) / (1 + math.exp(-progress)))
        assert float(weights[0, 0, 0]) == pytest.approx(floor, rel=1e-5)


# ------------------------------------------------------------------------------ training


def test_training_output_sees_the_noisy_mask():
    torch.manual_seed(2)
    network = build('mssegdiff', 2, SMALL)
    image = torch.randn(2, 2, *EDGES)
    mask = (torch.randn(2, 1, *EDGES) > 1).float()
    steps, noise = torch.tensor([3, 700]), torch.randn(2, 1, *EDGES)
    logits = training_output(network.eval(), image, mask, steps, noise)
    expected = network(image, q_sample(2 * mask - 1, steps, noise), steps)
    torch.testing.assert_close(logits, expected)
    network.train()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        training_output(network, image, mask, steps, noise), mask
    )
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
