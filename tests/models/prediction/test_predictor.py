"""Networks as predictors: chains, folds, devices and what happens when memory runs short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mslesseg_app.core.errors import BusyError, ModelError
from mslesseg_app.models.diffusion import DiffusionSampler
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.networks import build
from mslesseg_app.models.networks.edges import EdgeRule
from mslesseg_app.models.prediction.layout import window_key
from mslesseg_app.models.prediction.predictor import NetworkPredictor, PooledPredictor, load

TINY: dict[str, Any] = {
    'features': [2, 2, 4, 4, 8, 2],
    'time_width': 8,
    'time_hidden': 16,
}
SHAPE = (40, 32, 33)
RNG = np.random.default_rng(0)
CHANNELS = RNG.normal(size=(3, *SHAPE)).astype(np.float32)
BRAIN = np.ones(SHAPE, bool)
PRESENT = (True, True, True)
CHAINS = {'overlap': 0.1, 'chains': 2, 'steps': 2}


def entry(architecture: str = 'mssegdiff', **changes: Any) -> ModelEntry:
    values: dict[str, Any] = {
        'name': 'probe',
        'version': '1',
        'architecture': architecture,
        'channels': ('FLAIR', 'T1w', 'T2w'),
        'required': ('FLAIR',),
        'missing': 'zero',
        'normalisation': 'zscore',
        'threshold': 0.5,
        'licence': 'Apache-2.0',
        'patch': (32, 32, 32),
        'sampler': CHAINS,
    }
    return ModelEntry(**{**values, **changes})


@pytest.fixture(scope='module')
def network() -> nn.Module:
    torch.manual_seed(4)
    made = build('mssegdiff', 3, TINY)
    for parameter in made.parameters():  # far from zero, so that chains differ
        parameter.data.mul_(2)
    return made.eval()


class First(nn.Module):
    """Stand in for a network: the first channel as logit, and a wish for memory."""

    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        self.most = most
        self.rule, self.lesion = EdgeRule(1), None

    def forward(self, stack: Tensor) -> Tensor:
        if stack.shape[0] > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return stack[:, :1]


# ------------------------------------------------------------------------------ diffusion


def test_chains_do_not_depend_on_the_batch_or_on_how_many_go_at_once(network: nn.Module) -> None:
    samplers = ({}, {'batch': 3}, {'batch': 8, 'chains_at_once': 2})
    found = [
        NetworkPredictor(network, entry(sampler={**CHAINS, **more}), 'cpu', 1, seed=5).detailed(
            CHANNELS, BRAIN, PRESENT
        )
        for more in samplers
    ]
    for other in found[1:]:  # single precision: what one pass rounds away grows from step to step
        np.testing.assert_allclose(other.prob, found[0].prob, atol=1e-4)
        np.testing.assert_allclose(other.variance, found[0].variance, atol=1e-4)
    assert found[0].variance is not None
    assert found[0].variance.max() > 0


def test_seeds_make_chains_repeatable(network: nn.Module) -> None:
    one, same, other = (
        NetworkPredictor(network, entry(), 'cpu', 1, seed)(CHANNELS, BRAIN, PRESENT)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize('fusion', ['code', 'paper', 'mean'])
def test_the_published_decision_is_where_the_map_passes_one_half(
    network: nn.Module, fusion: str
) -> None:
    """Scores of MONAI's windows, one after the other, averaged and compared with 0."""
    from monai.inferers import SlidingWindowInferer

    sampler = {
        'overlap': 0.6,
        'blending': 'constant',
        'layout': 'stepped',
        'margin': 0,
        'chains': 2,
        'steps': 2,
        'fusion': fusion,
    }
    predictor = NetworkPredictor(network, entry(sampler=sampler), 'cpu', 1, seed=3)
    prob = predictor(CHANNELS, BRAIN, PRESENT)
    plain = DiffusionSampler(network, steps=2, chains=2, fusion=fusion, seed=3)  # type: ignore[arg-type]
    corners = iter(
        [(x, y, z) for x in (0, 8) for y in (0,) for z in (0, 1)]  # steps of 12, moved back
    )

    def ask(stack: Tensor) -> Tensor:
        return plain.sample(stack, [window_key(next(corners))]).decision_score

    with torch.inference_mode():
        score = SlidingWindowInferer((32, 32, 32), overlap=0.6)(
            torch.from_numpy(CHANNELS[None]), ask
        )[0, 0].numpy()
    clear = np.abs(score) > 1e-4
    np.testing.assert_array_equal(prob[clear] > 0.5, score[clear] > 0)
    assert prob.min() >= 0
    assert prob.max() <= 1


def test_a_map_that_is_no_probability_says_so(network: nn.Module) -> None:
    for fusion, noted in (('code', True), ('mean', True), ('probability', False)):
        made = NetworkPredictor(network, entry(sampler={**CHAINS, 'fusion': fusion}), 'cpu', 1)
        notes = made.detailed(CHANNELS, BRAIN, PRESENT).notes
        assert any('not a probability' in note for note in notes) == noted


def test_chains_go_one_by_one_when_memory_runs_short(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = {**CHAINS, 'chains_at_once': 2, 'fusion': 'probability'}
    plenty = NetworkPredictor(network, entry(sampler=sampler), 'cpu', 1)
    expected = plenty(CHANNELS, BRAIN, PRESENT)
    denoise = network.denoise

    def greedy(image: Tensor, noisy: Tensor, steps: Tensor, maps: list[Tensor]) -> Tensor:
        if noisy.shape[0] > 1:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return denoise(image, noisy, steps, maps)  # type: ignore[operator, no-any-return]

    monkeypatch.setattr(network, 'denoise', greedy)
    found = NetworkPredictor(network, entry(sampler=sampler), 'cpu', 1).detailed(
        CHANNELS, BRAIN, PRESENT
    )
    np.testing.assert_allclose(found.prob, expected, atol=1e-5)
    assert found.notes[-1] == 'Memory ran short: 1 diffusion chains at a time.'


def test_one_chain_has_no_variance(network: nn.Module) -> None:
    made = NetworkPredictor(network, entry(sampler={**CHAINS, 'chains': 1}), 'cpu', 1)
    assert made.detailed(CHANNELS, BRAIN, PRESENT).variance is None


# ------------------------------------------------------------------------- memory, device


def test_too_little_memory_for_one_window_is_an_error_that_names_the_window() -> None:
    made = NetworkPredictor(First(most=0), entry('unet', sampler={}), 'cpu', 1)
    with pytest.raises(BusyError, match='32 x 32 x 32') as caught:
        made(CHANNELS, BRAIN, PRESENT)
    assert caught.value.exit_code == 75


def test_the_cpu_takes_over_for_one_exam_and_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is played by the CPU and has no memory for the first exam."""
    places: list[str] = []
    full = [True]
    plain = NetworkPredictor._predict

    def place(self: NetworkPredictor, device: str) -> None:
        places.append(device)

    def predict(self: NetworkPredictor, channels: Any, brain: Any, device: str) -> Any:
        if device != 'cpu' and full.pop():
            raise torch.OutOfMemoryError('CUDA out of memory')
        return plain(self, channels, brain, 'cpu')

    monkeypatch.setattr(NetworkPredictor, '_move_to', place)
    monkeypatch.setattr(NetworkPredictor, '_predict', predict)
    made = NetworkPredictor(First(), entry('unet', sampler={}), 'cuda:0', 1)
    first = made.detailed(CHANNELS, BRAIN, PRESENT)
    assert 'the CPU was used' in first.notes[0]
    assert places == ['cuda:0', 'cpu', 'cuda:0']
    full.append(False)
    second = made.detailed(CHANNELS, BRAIN, PRESENT)
    assert second.notes == ()
    np.testing.assert_array_equal(first.prob, second.prob)


def test_notes_of_a_smaller_batch_reach_the_prediction() -> None:
    sampler = {'batch': 4, 'overlap': 0.0, 'margin': 0}
    made = NetworkPredictor(First(most=2), entry('unet', sampler=sampler), 'cpu', 1)
    found = made.detailed(CHANNELS, BRAIN, PRESENT)
    assert found.notes == ('Memory ran short: 2 windows at a time.',)
    np.testing.assert_allclose(found.prob, 1 / (1 + np.exp(-CHANNELS[0])), atol=1e-5)


# ------------------------------------------------------------------- folds, wrong samplers


def test_folds_are_averaged_and_their_variance_is_known(tmp_path: Path) -> None:
    options = {'channels': [2, 4, 6]}
    model = entry('unet', options=options, sampler={})
    paths = []
    for number in range(3):
        torch.manual_seed(number)
        paths.append(tmp_path / f'{number}.safetensors')
        save_file(build('unet', 3, options).state_dict(), paths[-1])
    together = load(model, tuple(paths), 'cpu', threads=1)
    assert isinstance(together, PooledPredictor)
    alone = [load(model, path, 'cpu', threads=1)(CHANNELS, BRAIN, PRESENT) for path in paths]
    found = together.detailed(CHANNELS, BRAIN, PRESENT)
    np.testing.assert_allclose(found.prob, np.mean(alone, axis=0), atol=1e-6)
    assert found.variance is not None
    np.testing.assert_allclose(found.variance, np.var(alone, axis=0), atol=1e-6)


def test_windows_that_the_network_does_not_take_are_refused(network: nn.Module) -> None:
    with pytest.raises(ModelError, match='multiples of 32'):
        NetworkPredictor(network, entry(patch=(32, 40, 32)), 'cpu', 1)


@pytest.mark.parametrize(
    ('architecture', 'sampler'),
    [('mssegdiff', {'fusion': 'magic'}), ('mssegdiff', {'steps': 0}), ('unet', {'chains': 3})],
)
def test_wrong_chains_are_refused(
    network: nn.Module, architecture: str, sampler: dict[str, Any]
) -> None:
    chosen = network if architecture == 'mssegdiff' else First()
    with pytest.raises(ModelError):
        NetworkPredictor(chosen, entry(architecture, sampler=sampler), 'cpu', 1)
