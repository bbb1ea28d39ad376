from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.networks import build, fill
from mslesseg_app.models.networks.spec import AUXILIARY
from mslesseg_app.models.networks.unet.layers import ResidualUNet, fold_voxels, unfold_voxels
from mslesseg_app.models.prediction.predictor import load

SMALL = {'channels': [4, 8, 12]}


def _entry(**changes: object) -> ModelEntry:
    values = {
        'name': 'small',
        'version': '1',
        'architecture': 'unet',
        'channels': ('FLAIR', 'T1w', 'T2w'),
        'required': ('FLAIR',),
        'missing': 'zero',
        'normalisation': 'robust',
        'threshold': 0.5,
        'licence': 'Apache-2.0',
        'options': SMALL,
        'patch': (16, 16, 16),
        'sampler': {'overlap': 0.25, 'flips': [0]},
    }
    return ModelEntry(**{**values, **changes})  # type: ignore[arg-type]


def _weights(path: Path, half: bool = True) -> ResidualUNet:
    torch.manual_seed(1)
    network = build('unet', 3, {'channels': [4, 8, 12]})
    kept = {k: v for k, v in network.state_dict().items() if not k.startswith(AUXILIARY)}
    save_file({k: v.half() if half else v for k, v in kept.items()}, path)
    return network


def test_shapes_and_outputs_of_training() -> None:
    network = build('unet', 3, {'channels': [4, 8, 12]})
    image = torch.randn(2, 3, 16, 24, 32)
    assert network.eval()(image).shape == (2, 1, 16, 24, 32)
    shapes = [tuple(o.shape[2:]) for o in network.train().forward_all(image)]
    assert shapes == [(16, 24, 32), (8, 12, 16)]


def test_training_and_inference_compute_the_same() -> None:
    network = build('unet', 3, {'channels': [4, 8, 12]})
    image = torch.randn(1, 3, 16, 16, 16)
    trained = network.train().forward_all(image)[0]
    with torch.inference_mode():
        inferred = network.eval()(image)
    torch.testing.assert_close(trained, inferred)


def test_gradients_reach_every_weight() -> None:
    network = build('unet', 3, {'channels': [4, 8, 12]}).train()
    sum(o.square().mean() for o in network.forward_all(torch.randn(1, 3, 16, 16, 16))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_fresh_network_expects_rare_lesions() -> None:
    with torch.inference_mode():
        prob = torch.sigmoid(
            build('unet', 3, {'channels': [4, 8]}).eval()(torch.randn(1, 3, 16, 16, 16))
        )
    assert float(prob.mean()) < 0.1


def test_default_network_fits_the_limit_of_size() -> None:
    network = build('unet', 3, {'channels': [16, 32, 64, 128, 192]})
    kept = (p for name, p in network.named_parameters() if not name.startswith(AUXILIARY))
    assert sum(p.numel() for p in kept) == 7_781_937
    assert 2 * 7_781_937 < 20e6


@pytest.mark.parametrize('shape', [(16, 16, 18), (4, 16, 16)])
def test_edges_that_do_not_fit_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match='multiples'):
        build('unet', 3, {'channels': [4, 8, 12]})(torch.zeros(1, 3, *shape))


def test_predictor_uses_the_weights(tmp_path: Path) -> None:
    path = tmp_path / 'w.safetensors'
    network = _weights(path, half=False).eval()
    predictor = load(_entry(sampler={}), path, 'cpu', threads=1)
    channels = np.random.default_rng(0).normal(size=(3, 16, 16, 16)).astype(np.float32)
    brain = np.ones((16, 16, 16), bool)
    prob = predictor(channels, brain, (True, True, True))
    with torch.inference_mode():
        expected = torch.sigmoid(network(torch.from_numpy(channels[None])))[0, 0].numpy()
    np.testing.assert_allclose(prob, expected, atol=1e-5)


def test_threads_do_not_change_the_result(tmp_path: Path) -> None:
    path = tmp_path / 'w.safetensors'
    _weights(path)
    channels = np.random.default_rng(0).normal(size=(3, 20, 24, 18)).astype(np.float32)
    brain = np.ones((20, 24, 18), bool)
    before = torch.get_num_threads()
    one, two = (
        load(_entry(), path, 'cpu', threads=n)(channels, brain, (True,) * 3) for n in (1, 2)
    )
    assert torch.get_num_threads() == before
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_bad_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'w.safetensors'
    path.write_bytes(b'no tensors')
    with pytest.raises(ModelError, match='no safetensors'):
        load(_entry(), path, 'cpu', threads=1)
    _weights(path)
    with pytest.raises(ModelError, match='another network'):
        load(_entry(options={'channels': [4, 8]}), path, 'cpu', threads=1)
    network = build('unet', 3, {'channels': [4, 8, 12]})
    state = {k: v.clone() for k, v in network.state_dict().items()}
    state['head.bias'][:] = float('nan')
    save_file(state, path)
    with pytest.raises(ModelError, match='not numbers'):
        fill(network, path)


def test_bad_descriptions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='needs weights'):
        load(_entry(), None, 'cpu', threads=1)
    with pytest.raises(ModelError, match='do not make a network'):
        build('unet', 3, {'width': 3})
    with pytest.raises(ModelError, match='cannot be built'):
        build('other', 3, {})


def test_folding_voxels_loses_nothing() -> None:
    x = torch.arange(2 * 3 * 4 * 6 * 8, dtype=torch.float32).reshape(2, 3, 4, 6, 8)
    folded = fold_voxels(x, 2)
    assert folded.shape == (2, 24, 2, 3, 4)
    assert torch.equal(unfold_voxels(folded, 2), x)
    # channel c of block position (i, j, k) is the voxel at 2 x + (i, j, k)
    assert torch.equal(folded[:, 8 + 4 + 1, 1, 2, 3], x[:, 1, 2 + 1, 4, 6 + 1])


def test_a_folded_network_gives_every_voxel() -> None:
    network = build('unet', 3, {'channels': [8, 16], 'auxiliary': 0, 'fold': 2, 'blocks': 1})
    assert network(torch.zeros(1, 3, 8, 12, 16)).shape == (1, 1, 8, 12, 16)
    with pytest.raises(ValueError, match='multiples of 4'):
        network(torch.zeros(1, 3, 10, 12, 16))
    with pytest.raises(ValueError, match='1 or more'):
        ResidualUNet(fold=0)
