"""MSSegDiff against a plain computation with official names, and its numbers."""

from __future__ import annotations

import pytest
import torch
from plain_networks import draw, mssegdiff_shapes, plain_mssegdiff

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks import build, edge_rule
from mslesseg_app.models.networks.mssegdiff import official_names
from mslesseg_app.models.networks.mssegdiff.layers import MSSegDiff
from mslesseg_app.models.official import convert, rename

FEATURES = (4, 6, 8, 10, 12, 4)
SMALL = {'features': list(FEATURES)}


def both(tmp_path, attention=True, inputs=3):
    """Official weights, and our network filled with them through the converter."""
    weights = draw(mssegdiff_shapes(inputs, FEATURES, attention))
    torch.save(weights, tmp_path / 'official.pt')
    options = SMALL | {'attention': attention}
    network = build('mssegdiff', inputs, options).double()
    network.load_state_dict(convert(tmp_path / 'official.pt', 'mssegdiff', options))
    return weights, network


def case(edges=(32, 32, 32), images=2, masks=2, inputs=3):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(images, inputs, *edges, generator=generator, dtype=torch.float64)
    noisy = torch.randn(images * masks, 1, *edges, generator=generator, dtype=torch.float64)
    steps = torch.tensor([999, 0, 444, 37, 5, 6][: images * masks])
    return image, noisy, steps


@pytest.mark.parametrize(
    ('attention', 'edges'), [(True, (32, 64, 32)), (False, (32, 37, 50)), (False, (33, 32, 47))]
)
def test_output_equals_the_plain_computation(tmp_path, attention, edges):
    weights, network = both(tmp_path, attention, inputs=2)
    image, noisy, steps = case(edges, inputs=2)
    network.double().eval()
    copy = {k: v.float().double() for k, v in weights.items()}  # the converter keeps float32
    with torch.inference_mode():
        ours = network.denoise(image, noisy, steps, network.encode(image))
        expected = plain_mssegdiff(copy, image.repeat_interleave(2, 0), noisy, steps, 4, False)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)
    assert float(expected.std()) > 1e-3


@pytest.mark.parametrize('training', [True, False])
def test_gradients_equal_those_of_the_plain_computation(tmp_path, training):
    weights, network = both(tmp_path)
    network.train(training)
    image, noisy, steps = case(masks=1)
    leaves = {
        k: v.float().double().requires_grad_('running' not in k) if v.ndim else v
        for k, v in weights.items()
    }
    target = torch.randn_like(noisy)
    (plain_mssegdiff(leaves, image, noisy, steps, 4, training) * target).sum().backward()
    (network(image, noisy, steps) * target).sum().backward()
    own = dict(network.named_parameters())
    rules = official_names(SMALL)
    compared = 0
    for name, leaf in leaves.items():
        if leaf.requires_grad:
            grad = own[rename(name, rules)].grad
            scale = float(leaf.grad.abs().max()) + 1e-3
            torch.testing.assert_close(grad / scale, leaf.grad / scale, rtol=0, atol=1e-7)
            compared += 1
    assert compared == len(own)


def test_features_are_shared_by_all_masks_of_an_image(tmp_path):
    _, network = both(tmp_path)
    network.eval()
    image, noisy, _ = case()
    with torch.inference_mode():
        maps = network.encode(image)
        together = network.denoise(image, noisy, torch.tensor([500]), maps)
        for row in range(4):
            one = slice(row // 2, row // 2 + 1)
            alone = network.denoise(
                image[one], noisy[row : row + 1], torch.tensor([500]), [m[one] for m in maps]
            )
            torch.testing.assert_close(together[row : row + 1], alone)


def test_inference_changes_neither_inputs_nor_features(tmp_path):
    _, network = both(tmp_path)
    network.eval()
    image, noisy, steps = case()
    with torch.inference_mode():
        maps = network.encode(image)
        kept = [t.clone() for t in (image, noisy, *maps)]
        first = network.denoise(image, noisy, steps, maps)
        again = network.denoise(image, noisy, steps, maps)
    assert all(torch.equal(a, b) for a, b in zip(kept, (image, noisy, *maps), strict=True))
    assert torch.equal(first, again)


def test_same_with_and_without_gradients(tmp_path):
    _, network = both(tmp_path)
    image, noisy, steps = case(masks=1)
    with torch.inference_mode():
        inferred = network.eval()(image, noisy, steps)
    torch.testing.assert_close(network(image, noisy, steps).detach(), inferred)


def test_parameters_are_as_many_as_in_the_public_code():
    with torch.device('meta'):
        network = MSSegDiff()
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()
    }
    assert counts == {'encoder': 14_277_696, 'denoiser': 71_458_881}
    parts = network.denoiser
    attention = sum(
        p.numel() for m in (parts.down_attention, parts.up_attention) for p in m.parameters()
    )
    assert attention == 47_351_040
    assert [sum(p.numel() for p in m.parameters()) for m in parts.down] == [
        254_400, 729_984, 2_787_072, 10_882_560,
    ]  # fmt: skip
    assert [sum(p.numel() for p in m.parameters()) for m in parts.up] == [
        6_490_112, 1_655_808, 430_592, 397_824,
    ]  # fmt: skip
    assert sum(p.numel() for p in parts.time.parameters()) == 328_704
    with torch.device('meta'):
        plain = MSSegDiff(attention=False).denoiser
    assert sum(p.numel() for p in plain.parameters()) == 24_107_841


@pytest.mark.parametrize('edges', [(48, 32, 32), (40, 40, 40), (16, 32, 32)])
def test_edges_that_do_not_fit_are_refused(edges):
    network = build('mssegdiff', 1, SMALL)
    with pytest.raises(ValueError, match='multiples of 32'):
        network.encode(torch.zeros(1, 1, *edges))
    assert edge_rule('mssegdiff', SMALL).problem(edges)
    assert edge_rule('mssegdiff', SMALL) == network.rule


def test_depth_is_an_option():
    options = {'features': [4, 6, 8, 5], 'time_width': 8, 'time_hidden': 6}
    network = build('mssegdiff', 1, options).eval()
    assert network.rule.multiple == 8
    with torch.inference_mode():
        out = network(
            torch.randn(1, 1, 8, 16, 24), torch.randn(1, 1, 8, 16, 24), torch.tensor([3])
        )
    assert out.shape == (1, 1, 8, 16, 24)


@pytest.mark.parametrize(
    'options', [{'features': [4, 4]}, {'features': 4}, {'depth': 3}, {'time_width': 7}]
)
def test_options_that_make_no_network_are_refused(options):
    with pytest.raises(ModelError, match='do not make a network'):
        build('mssegdiff', 3, options)
