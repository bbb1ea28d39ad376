"""Which windows networks take, told without PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks import NETWORKS, build, edge_rule
from mslesseg_app.models.networks.edges import EdgeRule, triple
from mslesseg_app.models.networks.heads import lesion_logit


def test_every_network_has_a_rule_of_its_defaults():
    rules = {name: edge_rule(name, {}) for name in NETWORKS}
    assert rules['unetr'].fixed == (96, 96, 96)
    assert rules['transbts'].fixed == (128, 128, 128)
    assert {name: rule.multiple for name, rule in rules.items() if not rule.fixed} == {
        'mssegdiff': 32,
        'swinunetr': 32,
        'unet': 16,
    }
    unet = build('unet', 1, {'channels': [4, 8, 12]})
    assert unet.rule == edge_rule('unet', {'channels': [4, 8, 12]})


def test_rules_judge_shapes():
    free, bound = EdgeRule(8, smallest=16), EdgeRule(8, (32, 16, 8))
    assert not free.problem((16, 24, 160))
    assert 'multiples of 8 from 16 up' in free.problem((16, 24, 8))
    assert free.problem((16, 20, 16))
    assert not bound.problem((32, 16, 8))
    with pytest.raises(ValueError, match='are not'):
        bound.check((32, 32, 32))


def test_rules_need_no_torch():
    code = (
        'import sys\n'
        'from mslesseg_app.models.networks import edge_rule\n'
        "edge_rule('swinunetr', {'feature_size': 48})\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize(
    ('architecture', 'options'),
    [
        ('other', {}),
        ('unetr', {'edge': [96, 96]}),
        ('transbts', {'edge': 'x'}),
        ('unet', {'channels': 3}),
    ],
)
def test_options_without_sense_are_refused(architecture, options):
    with pytest.raises(ModelError):
        edge_rule(architecture, options)


@pytest.mark.parametrize('edge', [0, -1, [1, 2], [1, 2, 3, 4], [1, 2, 0], 'ab'])
def test_edges_are_one_or_three(edge):
    with pytest.raises(ValueError, match='neither'):
        triple(edge)
    assert triple(5) == (5, 5, 5)
    assert triple([5, 6, 7]) == (5, 6, 7)


def test_lesion_logit_is_the_log_odds_of_all_but_background():
    for classes in (2, 3, 5):
        logits = torch.randn(2, classes, 3, 3, 3, dtype=torch.float64)
        prob = torch.softmax(logits, 1)[:, 1:].sum(1, keepdim=True)
        torch.testing.assert_close(lesion_logit(logits), torch.logit(prob))
    one = torch.randn(2, 1, 3, 3, 3)
    assert torch.equal(lesion_logit(one), one)
    assert torch.equal(lesion_logit(logits, 3), logits[:, 3:4])


SMALL = {
    'mssegdiff': ({'features': [4, 6, 8, 10, 12, 4]}, 32),
    'transbts': ({'edge': 32, 'base': 8, 'width': 24, 'heads': 2, 'layers': 1, 'hidden': 16}, 32),
    'unetr': (
        {'edge': 32, 'feature_size': 4, 'hidden_size': 24, 'mlp_dim': 20, 'num_heads': 3},
        32,
    ),
    'swinunetr': ({'feature_size': 12}, 64),
}


@pytest.mark.parametrize(
    'architecture',
    ['mssegdiff', 'transbts', 'unetr', pytest.param('swinunetr', marks=pytest.mark.slow)],
)
def test_precision_and_memory_layout_change_little(architecture):
    """What a predictor may switch on: autocast, weights in half precision, channels last."""
    torch.manual_seed(6)
    options, edge = SMALL[architecture]
    network = build(architecture, 2, options).eval()
    image = torch.randn(1, 2, edge, edge, edge)

    def prob(image):
        if architecture != 'mssegdiff':
            return torch.sigmoid(network(image))
        noisy = image.new_zeros(2, 1, edge, edge, edge)
        maps = network.encode(image)
        return torch.sigmoid(network.denoise(image, noisy, torch.tensor([300]), maps))

    with torch.inference_mode():
        expected = prob(image)
        with torch.autocast('cpu', torch.bfloat16):
            torch.testing.assert_close(prob(image).float(), expected, rtol=0, atol=0.03)
        network.to(memory_format=torch.channels_last_3d)
        last = image.to(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(prob(last), expected, rtol=0, atol=1e-4)
        network.bfloat16()
        torch.testing.assert_close(prob(last.bfloat16()).float(), expected, rtol=0, atol=0.03)
