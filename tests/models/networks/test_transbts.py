"""TransBTS against a plain computation with official names, and its numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from plain_networks import draw, plain_transbts, transbts_shapes

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks import build, edge_rule
from mslesseg_app.models.networks.transbts import official_names
from mslesseg_app.models.networks.transbts.layers import UNUSED, TransBTS
from mslesseg_app.models.official import convert, rename

SMALL = {'edge': 32, 'base': 4, 'groups': 2, 'width': 24, 'heads': 3, 'layers': 2, 'hidden': 20}


def both(tmp_path, classes=2, **more):
    """Official weights, and our network filled with them through the converter."""
    shapes = transbts_shapes(3, classes, 32, base=4, width=24, layers=2, hidden=20)
    weights = draw(shapes)
    torch.save({'epoch': 3, 'state_dict': weights}, tmp_path / 'official.pth')
    options = SMALL | {'classes': classes} | more
    network = build('transbts', 3, options).double()
    network.load_state_dict(convert(tmp_path / 'official.pth', 'transbts', options))
    return {k: v.float().double() if v.ndim else v for k, v in weights.items()}, network


def images(edge=32):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, edge, edge, edge, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('classes', [1, 2, 4])
def test_output_equals_the_plain_computation(tmp_path, classes):
    weights, network = both(tmp_path, classes)
    with torch.inference_mode():
        expected = plain_transbts(weights, images(), heads=3, layers=2, groups=2)
        ours = network.eval().forward_classes(images())
        lesion = torch.sigmoid(network(images()))
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)
    prob = torch.sigmoid(expected) if classes == 1 else 1 - F.softmax(expected, 1)[:, :1]
    torch.testing.assert_close(lesion, prob)


def test_gradients_equal_those_of_the_plain_computation(tmp_path):
    weights, network = both(tmp_path)
    leaves = {k: v.requires_grad_('running' not in k) if v.ndim else v for k, v in weights.items()}
    target = torch.randn(2, 2, 32, 32, 32, dtype=torch.float64)
    (plain_transbts(leaves, images(), 3, 2, 2) * target).sum().backward()
    (network.eval().forward_classes(images()) * target).sum().backward()
    own = dict(network.named_parameters())
    compared = 0
    for name, leaf in leaves.items():
        if leaf.requires_grad and leaf.grad is not None:
            grad = own[rename(name, official_names({}))].grad
            scale = float(leaf.grad.abs().max()) + 1e-6
            torch.testing.assert_close(grad / scale, leaf.grad / scale, rtol=0, atol=1e-7)
            compared += 1
    assert compared == len(own)


def test_eval_mode_is_deterministic_and_training_mode_is_not(tmp_path):
    _, network = both(tmp_path)
    with torch.inference_mode():
        first, second = network.eval()(images()), network(images())
        assert torch.equal(first, second)
        assert not torch.equal(network.train()(images()), network(images()))


def test_windows_of_a_batch_do_not_meet(tmp_path):
    _, network = both(tmp_path)
    with torch.inference_mode():
        together = network.eval()(images())
        alone = torch.cat([network(image[None]) for image in images()])
    torch.testing.assert_close(together, alone)


def test_parameters_are_as_many_as_in_the_public_code():
    def count(*args, **options):
        with torch.device('meta'):
            return sum(p.numel() for p in TransBTS(*args, **options).parameters())

    assert count(4, 4, keep_unused=True) == 32_987_588
    assert count(3, 2, keep_unused=True) == 32_987_122
    assert count(3, 2, edge=96, keep_unused=True) == 31_774_706
    assert sum(UNUSED.values()) == 263_680
    assert count(4, 4) == 32_987_588 - 263_680


def test_unused_layers_are_kept_where_asked(tmp_path):
    weights, network = both(tmp_path, keep_unused=True)
    assert torch.equal(network.linear_encoding.weight, weights['linear_encoding.weight'])
    assert not any(hasattr(both(tmp_path)[1], name) for name in UNUSED)


def test_other_windows_need_the_option(tmp_path):
    _, network = both(tmp_path)
    with pytest.raises(ValueError, match=r'are not \(32, 32, 32\)'):
        network(images(40))
    _, network = both(tmp_path, interpolate=True)
    with torch.inference_mode():
        assert network.eval()(images(40)).shape == (2, 1, 40, 40, 40)
    with pytest.raises(ValueError, match='multiples of 8'):
        network(images(36))


def test_table_of_positions_is_interpolated_linearly():
    network = TransBTS(1, **SMALL | {'interpolate': True})
    assert torch.equal(network.table((4, 4, 4)), network.positions)
    x, y, z = torch.meshgrid(*[torch.arange(4.0)] * 3, indexing='ij')
    ramp = (x + 10 * y + 100 * z).reshape(1, 64, 1).expand(1, 64, 24)
    network.positions = torch.nn.Parameter(ramp.clone())
    table = network.table((7, 4, 4)).reshape(7, 4, 4, 24)[:, 1, 2, 0]
    places = ((torch.arange(7) + 0.5) * 4 / 7 - 0.5).clamp(0, 3)
    torch.testing.assert_close(table, places + 10 + 200)


def test_rule_of_edges_is_told_without_the_network():
    for options in (SMALL, SMALL | {'edge': [32, 16, 24]}, SMALL | {'interpolate': True}):
        assert edge_rule('transbts', options) == build('transbts', 1, options).rule
    assert edge_rule('transbts', {}).fixed == (128, 128, 128)
    network = build('transbts', 1, SMALL | {'edge': [32, 16, 24]}).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 32, 16, 24)).shape == (1, 1, 32, 16, 24)


@pytest.mark.parametrize(
    'options',
    [{'edge': 100}, {'edge': [96, 96]}, {'classes': 0}, {'lesion': 2}, {'heads': 5}, {'x': 1}],
)
def test_options_that_make_no_network_are_refused(options):
    with pytest.raises(ModelError, match='do not make a network'):
        build('transbts', 3, SMALL | options)
