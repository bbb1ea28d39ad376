from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probability import predict
from torch import Tensor

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.prediction.layout import (
    Windows,
    brain_box,
    fit_edge,
    importance,
    plan,
    starts,
)
from mslesseg_app.models.prediction.windows import as_sampler, predict_detailed


def _first(stack: Tensor) -> Tensor:
    """Stand in for a network: the first channel as logit."""
    return stack[:, :1]


def _case(shape: tuple[int, int, int] = (40, 37, 33)) -> tuple[np.ndarray, np.ndarray]:
    channels = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    brain = np.zeros(shape, bool)
    brain[5:35, 6:30, 4:29] = True
    return channels, brain


@given(st.integers(1, 200), st.integers(1, 100), st.floats(0, 0.9))
def test_starts_cover_the_axis_and_overlap_enough(length: int, edge: int, overlap: float) -> None:
    found = starts(length, edge, overlap)
    assert found[0] == 0
    assert found[-1] + edge >= length
    assert found[-1] == max(0, length - edge)
    step = max(1, int(edge * (1 - overlap)))
    assert all(0 < b - a <= step for a, b in pairwise(found))


@settings(max_examples=50)
@given(st.integers(20, 200), st.integers(16, 160), st.sampled_from([0.0, 0.25, 0.5]))
def test_fitted_edge_needs_no_more_windows(length: int, largest: int, overlap: float) -> None:
    edge = fit_edge(length, largest, overlap, 16)
    top = max(16, largest // 16 * 16)
    assert edge % 16 == 0
    assert edge <= top
    assert len(starts(length, edge, overlap)) == len(starts(length, top, overlap))


@pytest.mark.parametrize('blending', ['gaussian', 'constant'])
@pytest.mark.parametrize('batch', [1, 3])
def test_local_network_gives_its_own_output_everywhere(blending: str, batch: int) -> None:
    channels, brain = _case()
    windows = Windows((16, 16, 16), 0.5, blending, batch=batch)  # type: ignore[arg-type]
    prob = predict(_first, channels, brain, windows)
    expected = 1 / (1 + np.exp(-channels[0].astype(np.float64)))
    np.testing.assert_allclose(prob[brain], expected[brain], atol=1e-5)
    far = np.ones_like(brain)
    far[brain_box(brain, windows.margin)] = False
    assert not prob[far].any()


def test_flips_average_and_return_to_place() -> None:
    channels, brain = _case()
    plain = predict(_first, channels, brain, Windows((16, 16, 16)))
    flipped = predict(_first, channels, brain, Windows((16, 16, 16), flips=(0, 1, 2)))
    np.testing.assert_allclose(plain, flipped, atol=1e-5)


def test_volume_smaller_than_a_window_is_padded() -> None:
    channels, brain = _case((12, 11, 10))
    brain[:] = True
    prob = predict(_first, channels, brain, Windows((16, 16, 16)))
    assert prob.shape == (12, 11, 10)
    np.testing.assert_allclose(prob, 1 / (1 + np.exp(-channels[0])), atol=1e-5)


def test_windows_without_brain_are_skipped() -> None:
    brain = np.zeros((64, 16, 16), bool)
    brain[:4] = brain[60:] = True
    _, corners = plan(brain, Windows((16, 16, 16), overlap=0.0))
    assert [c[0] for c in corners] == [0, 48]


def test_batch_shrinks_when_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    sizes: list[int] = []

    def greedy(stack: Tensor) -> Tensor:
        sizes.append(stack.shape[0])
        if stack.shape[0] > 2:
            raise torch.OutOfMemoryError('no memory')
        return stack[:, :1]

    channels, brain = _case()
    prob = predict(greedy, channels, brain, Windows((16, 16, 16), batch=8))
    plain = predict(_first, channels, brain, Windows((16, 16, 16)))
    np.testing.assert_allclose(prob, plain, atol=1e-6)
    assert sizes[0] == 8
    assert max(sizes[2:]) <= 2
    assert 'Out of memory' in caplog.text


def test_not_even_one_window_fits() -> None:
    def hopeless(stack: Tensor) -> Tensor:
        raise torch.OutOfMemoryError('no memory')

    channels, brain = _case()
    with pytest.raises(torch.OutOfMemoryError):
        predict(hopeless, channels, brain, Windows((16, 16, 16), batch=2))


def test_importance_is_symmetric_and_positive() -> None:
    weight = importance((8, 6, 4), 'gaussian', 0.2)
    assert weight.min() > 0
    assert weight.max() == 1
    np.testing.assert_allclose(weight, weight[::-1, ::-1, ::-1], rtol=1e-6)


@pytest.mark.parametrize(
    'values',
    [
        {'overlap': 1.0},
        {'blending': 'magic'},
        {'batch': 0},
        {'flips': [3]},
        {'speed': 2},
        {'layout': 'x'},
        {'precision': 'int8'},
        {'average': 'votes'},
        {'crop': 4},
    ],
)
def test_wrong_samplers_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        Windows.from_mapping((16, 16, 16), values)


def test_empty_brain_is_refused() -> None:
    with pytest.raises(ModelError, match='empty'):
        brain_box(np.zeros((4, 4, 4), bool))


# ------------------------------------------------- against other ways of the same computation


def _network(seed: int = 0) -> torch.nn.Module:
    """A network that sees further than a voxel and knows where the border of a window is."""
    torch.manual_seed(seed)
    layers = [torch.nn.Conv3d(2, 4, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv3d(4, 1, 3)]
    return torch.nn.Sequential(*layers, torch.nn.ConstantPad3d(1, 0.5)).eval()


@pytest.mark.parametrize('overlap', [0.0, 0.25, 0.5, 0.6])
@pytest.mark.parametrize('shape', [(40, 37, 33), (70, 16, 20), (13, 30, 40)])
def test_stepped_windows_are_those_of_monai(overlap: float, shape: tuple[int, int, int]) -> None:
    from monai.data.utils import dense_patch_slices

    size = (16, 16, 16)
    grid = tuple(max(n, 16) for n in shape)
    steps = tuple(16 if n == 16 else int(16 * (1 - overlap)) for n in grid)
    expected = [tuple(s.start for s in box) for box in dense_patch_slices(grid, size, steps)]
    windows = Windows(size, overlap, 'constant', layout='stepped')
    _, corners = plan(np.ones(shape, bool), windows)
    assert sorted(corners) == sorted(set(expected))


@pytest.mark.parametrize('shape', [(40, 37, 33), (13, 30, 19)])
def test_stepped_constant_windows_give_what_monai_gives(shape: tuple[int, int, int]) -> None:
    from monai.inferers import SlidingWindowInferer

    channels = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    network = _network()
    windows = Windows((16, 16, 16), 0.6, 'constant', margin=0, layout='stepped')
    prob = predict(network, channels, np.ones(shape, bool), windows)
    monai = SlidingWindowInferer((16, 16, 16), overlap=0.6, mode='constant')
    with torch.inference_mode():
        expected = monai(torch.from_numpy(channels[None]), lambda x: torch.sigmoid(network(x)))
    np.testing.assert_allclose(prob, expected[0, 0].numpy(), atol=1e-5)


def test_one_window_over_all_is_the_plain_computation() -> None:
    channels, brain = _case((32, 32, 32))
    network = _network()
    prob = predict(network, channels, brain, Windows((32, 32, 32), margin=32))
    with torch.inference_mode():
        expected = torch.sigmoid(network(torch.from_numpy(channels[None])))[0, 0].numpy()
    np.testing.assert_allclose(prob, expected, atol=1e-6)


@pytest.mark.parametrize('batch', [2, 5, 64])
def test_the_batch_does_not_change_the_result(batch: int) -> None:
    channels, brain = _case()
    network = _network()
    windows = Windows((16, 16, 16), 0.4, flips=(1,))
    plain = predict_detailed(as_sampler(network), channels, brain, windows)
    batched = predict_detailed(as_sampler(network), channels, brain, replace(windows, batch=batch))
    np.testing.assert_allclose(plain.prob, batched.prob, atol=1e-6)
    assert plain.variance is not None
    assert batched.variance is not None
    np.testing.assert_allclose(plain.variance, batched.variance, atol=1e-6)


def test_keys_of_windows_do_not_depend_on_the_batch() -> None:
    channels, brain = _case()
    seen: dict[int, set[int]] = {}
    for batch in (1, 3, 7):
        found = seen.setdefault(batch, set())

        def sampler(
            stack: Tensor, keys: Sequence[int], found: set[int] = found
        ) -> tuple[Tensor, None]:
            assert len(keys) == stack.shape[0]
            found.update(keys)
            return torch.zeros_like(stack[:, 0]), None

        windows = Windows((16, 16, 16), 0.3, batch=batch, flips=(0, 2))
        predict_detailed(sampler, channels, brain, windows)
    assert seen[1] == seen[3] == seen[7]
    size, corners = plan(brain[brain_box(brain, 4)], windows)
    assert size == (16, 16, 16)
    assert len(seen[1]) == 4 * len(corners)


def test_variance_over_flips_is_that_of_the_mirrored_answers() -> None:
    channels, brain = _case((16, 16, 16))
    brain[:] = True
    network = _network()
    found = predict_detailed(
        as_sampler(network), channels, brain, Windows((16, 16, 16), flips=(0, 1))
    )
    answers = []
    with torch.inference_mode():
        for dims in ([], [2], [3], [2, 3]):
            image = torch.from_numpy(channels[None]).flip(dims)
            answers.append(torch.sigmoid(network(image)).flip(dims)[0, 0].numpy())
    np.testing.assert_allclose(found.prob, np.mean(answers, axis=0), atol=1e-6)
    assert found.variance is not None
    np.testing.assert_allclose(found.variance, np.var(answers, axis=0), atol=1e-6)


def test_without_flips_nothing_varies() -> None:
    channels, brain = _case()
    assert (
        predict_detailed(as_sampler(_first), channels, brain, Windows((16,) * 3)).variance is None
    )


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        torch.OutOfMemoryError('CUDA out of memory'),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError('[enforce fail] DefaultCPUAllocator: not enough memory: you tried'),
    ],
)
def test_every_kind_of_lack_of_memory_shrinks_the_batch_and_is_told(error: Exception) -> None:
    def greedy(stack: Tensor) -> Tensor:
        if stack.shape[0] > 1:
            raise error
        return stack[:, :1]

    channels, brain = _case()
    windows = Windows((16, 16, 16), batch=4)
    found = predict_detailed(as_sampler(greedy), channels, brain, windows)
    assert found.notes == (
        'Memory ran short: 2 windows at a time.',
        'Memory ran short: one window at a time.',
    )


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(stack: Tensor) -> Tensor:
        raise RuntimeError('mat1 and mat2 shapes cannot be multiplied')

    channels, brain = _case()
    with pytest.raises(RuntimeError, match='mat1'):
        predict(broken, channels, brain, Windows((16, 16, 16), batch=4))


def test_cost_is_linear_in_the_number_of_windows() -> None:
    counted = 0

    def network(stack: Tensor) -> Tensor:
        nonlocal counted
        counted += stack.shape[0]
        return stack[:, :1]

    passes = []
    for length in (32, 64, 128, 256):
        channels = np.zeros((2, length, 16, 16), np.float32)
        brain = np.ones((length, 16, 16), bool)
        counted = 0
        predict(network, channels, brain, Windows((16, 16, 16), 0.0, batch=3))
        passes.append(counted)
    assert passes == [2, 4, 8, 16]


def test_half_precision_is_used_where_asked_for() -> None:
    kinds = []

    def network(stack: Tensor) -> Tensor:
        kinds.append((stack @ stack.transpose(-1, -2)).dtype)
        return stack[:, :1]

    channels, brain = _case()
    for precision in ('auto', 'float32', 'bfloat16'):
        predict(network, channels, brain, Windows((64, 64, 64), precision=precision))  # type: ignore[arg-type]
    assert kinds == [torch.float32, torch.float32, torch.bfloat16]


def test_auto_is_half_precision_where_the_processor_has_it(monkeypatch) -> None:
    kinds = []

    def network(stack: Tensor) -> Tensor:
        kinds.append((stack @ stack.transpose(-1, -2)).dtype)
        return stack[:, :1]

    channels, brain = _case()
    notes = []
    for has in (False, True):
        monkeypatch.setattr(
            'mslesseg_app.models.prediction.windows.cpu_has_bfloat16', lambda has=has: has
        )
        for precision in ('auto', 'float32'):
            windows = Windows((64, 64, 64), precision=precision)  # type: ignore[arg-type]
            found = predict_detailed(as_sampler(network), channels, brain, windows)
            notes.append(any('bfloat16' in note for note in found.notes))
    assert kinds == [torch.float32, torch.float32, torch.bfloat16, torch.float32]
    assert notes == [False, False, True, False]


def test_windows_over_the_whole_grid_and_first_come_first_served() -> None:
    """A network that answers with the number of its call shows which window a voxel is of."""
    channels = np.zeros((1, 20, 8, 8), np.float32)
    brain = np.zeros((20, 8, 8), bool)
    brain[2:17] = True
    calls = []

    def network(stack: Tensor) -> Tensor:
        calls.append(stack.shape)
        return torch.full_like(stack[:, :1], len(calls))

    windows = Windows((8, 8, 8), 0.0, 'first', layout='stepped', crop=False, average='logits')
    score = predict(network, channels, brain, windows)[:, 0, 0]
    expected = np.array([1] * 8 + [2] * 8 + [3] * 4)
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-expected)), atol=1e-6)
