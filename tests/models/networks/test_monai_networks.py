"""UNETR and SwinUNETR against plain computations with MONAI's names, and their numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from plain_networks import draw, plain_swinunetr, plain_unetr

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks import build, edge_rule
from mslesseg_app.models.networks.swinunetr.layers import MERGING, SwinUnetr
from mslesseg_app.models.networks.unetr.layers import Unetr

UNETR = {'edge': [32, 48, 32], 'feature_size': 4, 'hidden_size': 24, 'mlp_dim': 20, 'num_heads': 3}
SWIN = {'feature_size': 12}
ALL = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
OCTANTS = {
    'merging': [
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1),
    ],
    'legacy': [
        (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1),
    ],
    'mergingv2': ALL,
}  # fmt: skip
PLAIN = {
    'unetr': lambda w, image: plain_unetr(w, image, heads=3),
    'swinunetr': lambda w, image: plain_swinunetr(w, image, OCTANTS['merging']),
}
CASES = [('unetr', UNETR, (32, 48, 32)), ('swinunetr', SWIN, (64, 64, 64))]
DTYPE = {'unetr': torch.float64, 'swinunetr': torch.float32}  # double is slow on large maps


def filled(architecture, inputs, options):
    """A network with random weights, and these under MONAI's names."""
    dtype = DTYPE[architecture]
    network = build(architecture, inputs, options).to(dtype).eval()
    own = network.state_dict()
    shapes = {k: tuple(v.shape) for k, v in own.items() if v.is_floating_point()}
    network.load_state_dict(own | draw(shapes, 3, dtype))
    return network, dict(network.named_parameters())


def images(architecture, edges, inputs=2, count=1):
    generator = torch.Generator().manual_seed(4)
    shape = (count, inputs, *edges)
    return torch.randn(shape, generator=generator, dtype=DTYPE[architecture])


def assert_same(ours, expected, single=1e-4, small=0.0):
    """Equal up to rounding: length of the difference relative to that of what is expected."""
    tolerance = 1e-7 if expected.dtype == torch.float64 else single
    length = float(expected.detach().norm()) + small
    assert float((ours - expected).detach().norm()) < tolerance * length


@pytest.mark.parametrize(('architecture', 'options', 'edges'), CASES)
def test_output_and_gradients_equal_the_plain_computation(architecture, options, edges):
    network, weights = filled(architecture, 2, options | {'classes': 2})
    image = images(architecture, edges)
    target = images(architecture, edges)
    copies = {k: v.detach().clone().requires_grad_() for k, v in weights.items()}
    expected = PLAIN[architecture](copies, image)
    ours = network.forward_classes(image)
    assert_same(ours, expected)
    (expected * target).sum().backward()
    (ours * target).sum().backward()
    unused = {k for k, v in copies.items() if v.grad is None}
    assert unused == {k for k in weights if 'norm_cross_attn' in k}
    for name in set(weights) - unused:
        assert_same(weights[name].grad, copies[name].grad, single=1e-2, small=1.0)


def test_legacy_merging_differs_although_its_weights_fit():
    network, weights = filled('swinunetr', 1, SWIN | {'merging': 'legacy'})
    other = build('swinunetr', 1, SWIN).eval()
    other.load_state_dict(network.state_dict())
    image = images('swinunetr', (64, 64, 64), 1)
    with torch.inference_mode():
        ours = network(image)
        assert_same(ours, plain_swinunetr(weights, image, OCTANTS['legacy']))
        difference = (other(image) - ours).std() / ours.std()
    assert difference > 0.01


@pytest.mark.parametrize('name', sorted(MERGING))
def test_merging_joins_the_neighbours_in_its_order(name):
    assert set(OCTANTS) == set(MERGING)
    merge, x = MERGING[name](5).double(), torch.randn(2, 4, 6, 8, 5, dtype=torch.float64)
    places = [x[:, i::2, j::2, k::2] for i, j, k in OCTANTS[name]]
    normed = F.layer_norm(torch.cat(places, -1), (40,), merge.norm.weight, merge.norm.bias)
    torch.testing.assert_close(merge(x), normed @ merge.reduction.weight.T)


def test_fused_attention_is_the_same_attention():
    outputs = []
    for fused in (True, False):
        network, _ = filled('swinunetr', 1, SWIN | {'fused': fused})
        attention = network.swinViT.layers1[0].blocks[0].attn
        assert getattr(attention, 'use_flash_attention', fused) is fused  # MONAI from 1.6
        with torch.inference_mode():
            outputs.append(network(images('swinunetr', (64, 64, 64), 1)))
    assert_same(outputs[0], outputs[1])


def test_legacy_merging_never_sees_two_of_eight_neighbours():
    assert set(ALL) - set(OCTANTS['legacy']) == {(1, 1, 0), (0, 1, 1)}
    for name in ('merging', 'mergingv2'):
        assert set(OCTANTS[name]) == set(ALL)


@pytest.mark.parametrize(
    ('architecture', 'head'),
    [('unetr', (1, None)), ('unetr', (3, None)), ('unetr', (3, 1)), ('swinunetr', (2, None))],
)
def test_one_lesion_logit_for_every_head(architecture, head):
    options, edges = next(case[1:] for case in CASES if case[0] == architecture)
    classes, lesion = head
    network, _ = filled(architecture, 1, options | {'classes': classes, 'lesion': lesion})
    image = images(architecture, edges, 1)
    with torch.inference_mode():
        raw, prob = network.forward_classes(image), torch.sigmoid(network(image))
    assert raw.shape[1] == classes
    if lesion is not None:
        raw = raw[:, lesion : lesion + 1]
    expected = 1 - F.softmax(raw, dim=1)[:, :1] if raw.shape[1] > 1 else torch.sigmoid(raw)
    torch.testing.assert_close(prob, expected)


@pytest.mark.parametrize(('architecture', 'options', 'edges'), CASES)
def test_batches_and_repetitions_change_nothing(architecture, options, edges):
    network, _ = filled(architecture, 1, options)
    image = images(architecture, edges, 1, 2)
    with torch.inference_mode():
        alone = network(image[1:])
        assert_same(network(image)[1:], alone)
        assert torch.equal(network(image[1:]), alone)


def test_parameters_are_as_many_as_in_the_public_code():
    def count(network):
        return sum(p.numel() for p in network.parameters())

    unetr = Unetr()
    assert count(unetr) == 99_094_609
    unused = sum(p.numel() for n, p in unetr.named_parameters() if 'norm_cross_attn' in n)
    assert unused == 18_432
    assert count(SwinUnetr()) == 62_190_115


@pytest.mark.parametrize(
    ('architecture', 'options', 'edges'),
    [
        ('unetr', UNETR, (48, 48, 48)),
        ('swinunetr', SWIN, (64, 64, 80)),
        ('swinunetr', SWIN, (32, 64, 64)),
    ],
)
def test_edges_that_do_not_fit_are_refused(architecture, options, edges):
    network = build(architecture, 1, options)
    assert edge_rule(architecture, options) == network.rule
    assert network.rule.problem(edges)
    with pytest.raises(ValueError, match='edges'):
        network(torch.zeros(1, 1, *edges))


@pytest.mark.parametrize(
    ('architecture', 'options'),
    [
        ('unetr', {'edge': 100}),
        ('unetr', {'hidden_size': 25}),
        ('unetr', {'proj_type': 'other'}),
        ('unetr', {'img_size': 96}),
        ('swinunetr', {'feature_size': 20}),
        ('swinunetr', {'merging': 'other'}),
        ('swinunetr', {'depths': [2, 2]}),
        ('swinunetr', {'classes': 0}),
    ],
)
def test_options_that_make_no_network_are_refused(architecture, options):
    with pytest.raises(ModelError, match='do not make a network'):
        build(architecture, 3, options)
