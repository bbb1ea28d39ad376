"""Preset ``exact`` of the four networks beside plain loops over windows, written from the
descriptions of the public code: layout, order, blending, flips, and what decides.

The networks have random weights; what they compute is compared elsewhere. Nothing of
`mslesseg_app.models.prediction.windows` is used for what is expected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from mslesseg_app.models.diffusion import chain_noise
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.networks import build
from mslesseg_app.models.prediction.layout import window_key
from mslesseg_app.models.prediction.predictor import NetworkPredictor
from mslesseg_app.models.prediction.presets import resolve
from mslesseg_app.models.registry import get_entry

OPTIONS: dict[str, dict[str, Any]] = {
    'mssegdiff': {'features': [2, 2, 4, 4, 8, 2], 'time_width': 8, 'time_hidden': 16},
    'unetr': {
        'edge': 32, 'feature_size': 2, 'hidden_size': 24, 'mlp_dim': 32, 'num_heads': 2,
    },
    'swinunetr': {'feature_size': 12, 'depths': [1, 1, 1, 1], 'num_heads': [1, 1, 2, 2]},
    'transbts': {
        'edge': 16, 'base': 4, 'groups': 2, 'width': 16, 'heads': 2, 'layers': 1, 'hidden': 16,
    },
}  # fmt: skip
EDGE = {'mssegdiff': 32, 'unetr': 32, 'swinunetr': 64, 'transbts': 16}
Array = np.ndarray[Any, Any]


def exact(name: str, **options: Any) -> ModelEntry:
    """Return the shipped entry with a small network and a small window, in its preset exact."""
    entry = get_entry(name)
    sampler = {key: dict(table) for key, table in entry.sampler.items()}
    if 'patch' in sampler['exact']:
        sampler['exact']['patch'] = [EDGE[name]] * 3
    small = replace(
        entry,
        options={**entry.options, **OPTIONS[name], **options},
        patch=(EDGE[name],) * 3,
        sampler=sampler,
    )
    return resolve(small, 'exact')


def network_of(entry: ModelEntry) -> Any:
    """Return a network whose answers lie on both sides of the decision."""
    torch.manual_seed(2)
    made: Any = build(entry.architecture, 3, entry.options).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.mul_(1.5)
    window, noise = torch.randn(1, 3, *entry.patch), torch.randn(1, 1, *entry.patch)
    if hasattr(made, 'denoise'):
        logits = made(window, noise, torch.tensor([500]))
    else:
        logits = made.forward_classes(window)
    head = [p for name, p in made.named_parameters() if name.endswith('bias')][-1]
    head.sub_(logits.flatten(2).median(dim=2).values[0])
    return made


def exam(shape: tuple[int, int, int], margin: int = 3) -> tuple[Array, Array]:
    """Return normalised channels and a brain that leaves some voxels at each border."""
    rng = np.random.default_rng(5)
    brain = np.zeros(shape, bool)
    brain[tuple(slice(margin, n - margin - 1) for n in shape)] = True
    return (rng.normal(size=(3, *shape)) * brain).astype(np.float32), brain


def places(length: int, edge: int, overlap: float) -> list[int]:
    """Walk along an axis; a window that would leave it is moved back to its end."""
    found = [0]
    while found[-1] + edge < length:
        found.append(min(found[-1] + int(edge * (1 - overlap)), length - edge))
    return found


def corners(shape: tuple[int, ...], edge: int, overlap: float) -> list[tuple[int, ...]]:
    return list(product(*(places(n, edge, overlap) for n in shape)))


def at(corner: tuple[int, ...], edge: int) -> tuple[Any, ...]:
    return (..., *(slice(c, c + edge) for c in corner))


def mean_of_windows(
    ask: Callable[[Array, tuple[int, ...]], Array], channels: Array, edge: int, overlap: float
) -> Array:
    """Average what is answered for each window, all voxels alike."""
    total, count = None, np.zeros(channels.shape[1:])
    for corner in corners(channels.shape[1:], edge, overlap):
        answer = ask(channels[at(corner, edge)], corner).astype(np.float64)
        if total is None:
            total = np.zeros((*answer.shape[:-3], *channels.shape[1:]))
        total[at(corner, edge)] += answer
        count[at(corner, edge)] += 1
    assert total is not None
    return total / count


def classes_of(network: Any) -> Callable[..., Array]:
    def ask(window: Array, corner: object = None) -> Array:
        stack = torch.from_numpy(np.ascontiguousarray(window))[None]
        found: Array = network.forward_classes(stack)[0].numpy()
        return found

    return ask


def found_by(entry: ModelEntry, network: Any, channels: Array, brain: Array) -> Array:
    predictor = NetworkPredictor(network, entry, 'cpu', 1, seed=7)
    return predictor(channels, brain, (True,) * 3)


def check(found: Array, expected: Array, decided: Array, brain: Array) -> None:
    """Compare scores in the brain, and the mask that the threshold makes with the decision."""
    np.testing.assert_allclose(found[brain], expected[brain], atol=2e-5)
    sure = brain & (np.abs(expected - 0.5) > 1e-4)
    assert sure.sum() > 0.9 * brain.sum()
    np.testing.assert_array_equal((found >= 0.5)[sure], decided[sure])
    assert 0.02 < decided[brain].mean() < 0.98


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=0))
    return powers / powers.sum(axis=0)


@pytest.mark.parametrize('classes', [1, 2, 3])
def test_unetr_averages_logits_over_the_brain_and_takes_the_largest(classes: int) -> None:
    """Windows of 96 with overlap 0.5 over the foreground, then argmax (or the sign)."""
    entry = exact('unetr', classes=classes)
    network = network_of(entry)
    channels, brain = exam((62, 46, 39))  # three windows, two and one
    box = (slice(None), *(slice(3, n - 4) for n in brain.shape))
    logits = mean_of_windows(classes_of(network), channels[box], 32, 0.5)
    score, mask = np.zeros(brain.shape), np.zeros(brain.shape, bool)
    if classes == 1:
        score[box[1:]], mask[box[1:]] = sigmoid(logits[0]), logits[0] > 0
    else:
        top = logits[1:].max(axis=0)
        score[box[1:]], mask[box[1:]] = sigmoid(top - logits[0]), logits.argmax(axis=0) > 0
    check(found_by(entry, network, channels, brain), score, mask, brain)


def test_swinunetr_averages_logits_over_the_whole_grid() -> None:
    """Windows of 128 (here 64) with overlap 0.6, nothing cropped."""
    assert resolve(get_entry('swinunetr'), 'exact').patch == (128, 128, 128)
    entry = exact('swinunetr')
    network = network_of(entry)
    channels, brain = exam((64, 64, 96))  # one window, one and three
    logits = mean_of_windows(classes_of(network), channels, 64, 0.6)[0]
    check(found_by(entry, network, channels, brain), sigmoid(logits), logits > 0, brain)


@pytest.mark.parametrize('classes', [2, 4])
def test_transbts_fills_tiles_in_turn_and_averages_eight_mirrorings(classes: int) -> None:
    """What a former tile filled stays; the softmax of the softmax is averaged; argmax."""
    entry = exact('transbts', classes=classes)
    network = network_of(entry)
    channels, brain = exam((26, 20, 16), margin=1)
    ask = classes_of(network)
    total = np.zeros((classes, *brain.shape))
    for turn in product((False, True), repeat=3):
        axes = [axis + 1 for axis, yes in enumerate(turn) if yes]
        image, filled = np.flip(channels, axes), np.zeros((classes, *brain.shape))
        for corner in reversed(corners(brain.shape, 16, 0.0)):  # so that the first one wins
            filled[at(corner, 16)] = softmax(ask(image[at(corner, 16)]).astype(np.float64))
        total += np.flip(softmax(filled), axes) / 8
    top = total[1:].max(axis=0)
    score = top / (top + total[0])
    check(found_by(entry, network, channels, brain), score, total.argmax(axis=0) > 0, brain)


def test_a_transbts_of_one_class_averages_its_probability() -> None:
    """The public code has no such network; ours, trained by the preset default, is one."""
    entry = exact('transbts', classes=1)
    network = network_of(entry)
    channels, brain = exam((16, 16, 16), margin=1)
    ask = classes_of(network)
    total = np.zeros(brain.shape)
    for turn in product((False, True), repeat=3):
        axes = [axis + 1 for axis, yes in enumerate(turn) if yes]
        total += np.flip(sigmoid(ask(np.flip(channels, axes)).astype(np.float64)), axes)[0] / 8
    check(found_by(entry, network, channels, brain), total, total > 0.5, brain)


def chains(network: Any, seed: int, number: int = 4, steps: int = 10) -> Callable[..., Array]:
    """Return what fuses the chains of a window as the public code does, up to its scale."""
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    times = [round(999 * i / (steps - 1)) for i in range(steps)]

    def ask(window: Array, corner: tuple[int, ...]) -> Array:
        image = torch.from_numpy(np.ascontiguousarray(window))[None]
        maps = network.encode(image)
        key = window_key(corner)  # type: ignore[arg-type]
        noise = [chain_noise(seed, key, c, window.shape[1:]) for c in range(number)]
        x = torch.stack(noise).numpy()[:, None].astype(np.float64)
        total = np.zeros(window.shape[1:])
        for turn in range(steps, 0, -1):
            now = times[turn - 1]
            stack = torch.from_numpy(x.astype(np.float32))
            logits = network.denoise(image, stack, torch.tensor([now]), maps).numpy()
            x0 = logits.clip(-1, 1).astype(np.float64)
            p = np.maximum(sigmoid(logits.astype(np.float64).mean(axis=0)), 0.001)
            weight = np.exp(sigmoid((steps - turn + 1) / steps) * (1 + p * np.log(p)))
            total += (weight * x0.sum(axis=0))[0]
            noise_now = (x - np.sqrt(kept[now]) * x0) / np.sqrt(1 - kept[now])
            if turn > 1:
                then = kept[times[turn - 2]]
                x = np.sqrt(then) * x0 + np.sqrt(1 - then) * noise_now
        return total

    return ask


def test_mssegdiff_averages_the_fused_chains_over_the_brain() -> None:
    """Windows of 96 with overlap 0.6 over the foreground; above 0 is lesion."""
    entry = exact('mssegdiff')
    network = network_of(entry)
    channels, brain = exam((44, 39, 39))
    box = (slice(None), *(slice(3, n - 4) for n in brain.shape))
    fused = np.zeros(brain.shape)
    fused[box[1:]] = mean_of_windows(chains(network, 7), channels[box], 32, 0.6)
    largest = np.exp(sigmoid(np.array(1.0))) * 40
    found = found_by(entry, network, channels, brain)
    np.testing.assert_allclose(found[brain], (0.5 + fused / (2 * largest))[brain], atol=1e-4)
    sure = brain & (np.abs(fused) > 0.05)
    np.testing.assert_array_equal((found >= 0.5)[sure], (fused > 0)[sure])
    assert sure.sum() > 0.8 * brain.sum()


def test_validation_of_mssegdiff_is_the_mask_at_which_one_chain_ends() -> None:
    from mslesseg_app.training.presets import preset

    plan = preset('paper', 'mssegdiff')
    assert plan.validation['chains'] == 1
    assert plan.validation['steps'] == 50
    sampler = {**plan.validation, 'steps': 3}
    entry = replace(exact('mssegdiff'), sampler=sampler)
    network = network_of(entry)
    channels, brain = exam((39, 39, 39))
    box = (slice(None), *(slice(3, n - 4) for n in brain.shape))
    window = channels[box]
    assert window.shape[1:] == (32, 32, 32)
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    image = torch.from_numpy(np.ascontiguousarray(window))[None]
    maps = network.encode(image)
    x = chain_noise(7, window_key((0, 0, 0)), 0, (32, 32, 32))[None, None]
    for now, then in ((999, 500), (500, 0), (0, None)):
        x0 = network.denoise(image, x, torch.tensor([now]), maps).clamp(-1, 1)
        if then is not None:
            noise = (x - kept[now] ** 0.5 * x0) / (1 - kept[now]) ** 0.5
            x = (kept[then] ** 0.5 * x0 + (1 - kept[then]) ** 0.5 * noise).float()
    found = found_by(entry, network, channels, brain)
    np.testing.assert_allclose(found[box[1:]], 0.5 + x0[0, 0].numpy() / 2, atol=1e-4)
