"""Readers of weights that the public code wrote: what fits, and everything that does not."""

from __future__ import annotations

import argparse
import math
import pickle

import numpy as np
import pytest
import torch
from plain_networks import draw, mssegdiff_shapes, transbts_shapes
from safetensors.torch import save_file

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks import NETWORKS, build, fill
from mslesseg_app.models.official import convert, read_checkpoint, rename

OPTIONS = {
    'mssegdiff': {'features': [4, 6, 8, 10, 12, 4]},
    'transbts': {'edge': 16, 'base': 4, 'groups': 2, 'width': 24, 'layers': 1, 'hidden': 20},
    'unetr': {'edge': 32, 'feature_size': 4, 'hidden_size': 24, 'mlp_dim': 20, 'num_heads': 3},
    'swinunetr': {'feature_size': 12},
}


def official(architecture):
    """Random weights under the names of the public code, 3 image channels."""
    if architecture == 'mssegdiff':
        return draw(mssegdiff_shapes(3, (4, 6, 8, 10, 12, 4)), dtype=torch.float32)
    if architecture == 'transbts':
        shapes = transbts_shapes(3, 2, 16, base=4, width=24, layers=1, hidden=20)
        return draw(shapes, dtype=torch.float32)
    torch.manual_seed(3)
    return dict(build(architecture, 3, OPTIONS[architecture]).state_dict())


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'weights.pt'


def read(path, architecture='transbts', **more):
    return convert(path, architecture, OPTIONS[architecture] | more)


# ---------------------------------------------------------------------------- what fits


@pytest.mark.parametrize(
    'architecture', [name for name, spec in NETWORKS.items() if spec.official]
)
def test_every_tensor_finds_its_place(path, architecture):
    weights = official(architecture)
    torch.save(weights, path)
    found = read(path, architecture)
    network = build(architecture, 3, OPTIONS[architecture])
    assert list(found) == list(network.state_dict())
    network.load_state_dict(found)
    rules = NETWORKS[architecture].official.names(OPTIONS[architecture])
    used = {rename(name, rules): value for name, value in weights.items()}
    assert len(used) == len(weights)
    assert all(torch.equal(used[name], value) for name, value in found.items())
    left = set(used) - set(found)
    assert {name.split('.')[0] for name in left} <= {'linear_encoding', 'pre_head_ln'}
    save_file(found, path.with_suffix('.safetensors'))
    fill(network, path.with_suffix('.safetensors'))


def test_official_names_make_up_the_official_numbers():
    def count(shapes):
        kept = (shape for name, shape in shapes.items() if 'running' not in name)
        return sum(math.prod(shape) for shape in kept if shape)

    assert count(mssegdiff_shapes(3, (64, 64, 128, 256, 512, 64))) == 85_736_577
    assert count(transbts_shapes(4, 4, 128, 16, 512, 4, 4096)) == 32_987_588


def test_official_names_are_those_of_the_blocks_that_the_public_code_uses():
    """MSSegDiff's two parts are variants of MONAI's BasicUNet and keep the names of its blocks."""
    from monai.networks.nets.basic_unet import BasicUNet

    norm = ('instance', {'affine': True})
    network = BasicUNet(features=(4, 6, 8, 10, 12, 4), in_channels=3, out_channels=1, norm=norm)
    names = {name.removeprefix('embed_model.') for name in official('mssegdiff')}
    names |= {name.removeprefix('model.') for name in official('mssegdiff')}
    assert set(network.state_dict()) <= names


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.'])
@pytest.mark.parametrize('wrap', [None, 'state_dict', 'model', 'net'])
def test_wrapped_checkpoints_are_unwrapped(path, prefix, wrap):
    weights = {prefix + name: value for name, value in official('transbts').items()}
    torch.save({'epoch': 7, wrap: weights} if wrap else weights, path)
    expected = official('transbts')['endconv.weight']
    assert torch.equal(read(path)['head.weight'], expected)


def test_what_trainers_leave_beside_the_weights_is_passed_over(path):
    kept = {
        'epoch': 12,
        'best_acc': np.float64(0.61),
        'args': argparse.Namespace(lr=1e-4),
        'optimizer': {'state': {0: {'exp_avg': torch.zeros(3)}}, 'param_groups': [{'lr': 0.1}]},
    }
    torch.save(kept | {'state_dict': official('transbts')}, path)
    assert 'positions' in read(path)


def test_half_precision_becomes_float32(path):
    torch.save({k: v.half() if v.ndim else v for k, v in official('transbts').items()}, path)
    assert {v.dtype for v in read(path).values()} == {torch.float32, torch.int64}


def test_safetensors_with_official_names_are_read(path):
    path = path.with_suffix('.safetensors')
    save_file({k: v.contiguous() for k, v in official('transbts').items()}, path)
    assert 'positions' in read(path)


def test_names_of_older_monai_are_read(path):
    weights = official('swinunetr')
    old = {k.replace('.mlp.linear', '.mlp.fc'): v for k, v in weights.items()}
    old = {k: v for k, v in old.items() if not k.endswith('relative_position_index')}
    assert set(old) - set(weights)
    torch.save({'state_dict': old}, path)
    found = read(path, 'swinunetr')
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_unetr_of_other_monai_versions_is_read(path):
    weights = official('unetr')
    older = {k: v for k, v in weights.items() if 'cross_attn' not in k}
    older['vit.patch_embedding.cls_token'] = torch.zeros(1, 1, 24)
    other = weights | {
        f'vit.blocks.{n}.cross_attn.{part}.weight': torch.zeros(24, 24)
        for n in range(12)
        for part in ('to_q', 'to_k', 'to_v', 'out_proj')
    }
    for form in (older, other):
        torch.save(form, path)
        found = read(path, 'unetr')
        assert all(torch.equal(found[k], weights[k]) for k in older if k in weights)


def test_diff_unet_is_mssegdiff_without_attention(path):
    torch.save(draw(mssegdiff_shapes(4, (4, 6, 8, 10, 12, 4), attention=False)), path)
    found = read(path, 'mssegdiff', attention=False)
    assert found['encoder.levels.0.0.conv.weight'].shape[1] == 4
    with pytest.raises(ModelError, match='missing'):
        read(path, 'mssegdiff')


# ----------------------------------------------------------------------- what does not


def broken(change):
    weights = official('transbts')
    change(weights)
    return weights


def test_a_missing_tensor_is_named(path):
    torch.save(broken(lambda w: w.pop('Unet.EnBlock2_1.conv1.weight')), path)
    with pytest.raises(ModelError, match=r'1 missing \(encoder\.levels\.1\.0\.conv1\.weight\)'):
        read(path)


def test_a_tensor_too_many_is_named(path):
    torch.save(broken(lambda w: w.update({'extra.weight': torch.zeros(2)})), path)
    with pytest.raises(ModelError, match=r'1 unknown \(extra\.weight\)'):
        read(path)


def test_many_faults_are_cut_short(path):
    torch.save({f'layer{n}.weight': torch.zeros(2) for n in range(40)}, path)
    with pytest.raises(ModelError, match='and 34 more') as caught:
        read(path)
    assert len(str(caught.value)) < 1500


def test_another_shape_is_named_with_the_option_to_set(path):
    head = {'endconv.weight': torch.zeros(4, 4, 1, 1, 1), 'endconv.bias': torch.zeros(4)}
    torch.save(official('transbts') | head, path)
    with pytest.raises(ModelError, match=r'2 of another shape \(head\.weight \(4, 4,') as caught:
        read(path)
    assert 'has 4 output channels' in caught.value.hint
    assert read(path, classes=4)['head.weight'].shape[0] == 4
    torch.save(official('transbts'), path)
    with pytest.raises(ModelError, match='positions') as caught:
        read(path, edge=24)
    assert 'edge' in caught.value.hint


def test_other_image_channels_are_refused_where_told(path):
    torch.save(official('unetr'), path)
    assert convert(path, 'unetr', OPTIONS['unetr'], inputs=3)
    with pytest.raises(ModelError, match='another shape'):
        convert(path, 'unetr', OPTIONS['unetr'], inputs=2)


def test_one_place_twice_is_refused(path):
    weights = official('swinunetr')
    name = 'swinViT.layers1.0.blocks.0.mlp.linear1.weight'
    torch.save(weights | {name.replace('linear', 'fc'): weights[name]}, path)
    with pytest.raises(ModelError, match='twice'):
        read(path, 'swinunetr')


def test_values_that_are_not_numbers_are_refused(path):
    torch.save(broken(lambda w: w['endconv.bias'].fill_(float('nan'))), path)
    with pytest.raises(ModelError, match='not numbers'):
        read(path)


def test_tensors_that_are_not_plain_are_refused(path):
    sparse = official('transbts')
    sparse['endconv.bias'] = sparse['endconv.bias'].to_sparse()
    torch.save(sparse, path)
    with pytest.raises(ModelError, match='not plain'):
        read(path)


class Attack:
    """What a hostile file would hold: a call that runs when it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, 'w'))


@pytest.mark.parametrize('protocol', [2, 4])
def test_code_in_a_file_never_runs(path, tmp_path, protocol):
    target = tmp_path / 'it-ran'
    torch.save({'state_dict': Attack(str(target))}, path, pickle_protocol=protocol)
    with pytest.raises(ModelError, match='Python objects' if protocol == 2 else 'read safely'):
        read(path)
    path.write_bytes(pickle.dumps(Attack(str(target)), protocol))
    with pytest.raises(ModelError, match='no checkpoint that can be read safely'):
        read(path)
    assert not target.exists()


def test_whole_networks_are_refused(path):
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ModelError, match='Python objects') as caught:
        read(path)
    assert 'state_dict' in caught.value.hint


@pytest.mark.parametrize(
    'content',
    [
        torch.zeros(3),
        [torch.zeros(3)],
        {},
        {'a': 3},
        {'a': torch.zeros(2), 'b': 'text'},
        {1: torch.zeros(2)},
        {'state_dict': {}},
        {'state_dict': {'state_dict': {'x': [1]}}},
    ],
)
def test_files_without_a_state_dict_are_refused(path, content):
    torch.save(content, path)
    with pytest.raises(ModelError, match='no state dict'):
        read(path)


def damaged():
    import io

    stream = io.BytesIO()
    torch.save(official('transbts'), stream)
    whole = stream.getvalue()
    yield from (b'', b'\x00', b'hello world', b'PK\x03\x04 no archive', b'\x80\x02}q\x00.x')
    yield from (whole[: len(whole) // 2], whole[:-30], whole[200:])
    rng = np.random.default_rng(0)
    yield from (rng.bytes(n) for n in (10, 1000, 20_000))
    for _ in range(20):
        bad = bytearray(whole[:4000])
        bad[int(rng.integers(60, 3000))] ^= 255
        yield bytes(bad)


def test_damaged_files_are_refused(path):
    for content in damaged():
        path.write_bytes(content)
        with pytest.raises(ModelError, match='read safely'):
            read_checkpoint(path)


def test_absent_files_and_folders_are_refused(tmp_path):
    for place in (tmp_path / 'none.pt', tmp_path):
        with pytest.raises(ModelError, match='read safely'):
            read_checkpoint(place)


def test_networks_without_public_code_are_refused(path):
    torch.save(official('transbts'), path)
    with pytest.raises(ModelError, match='no public code'):
        convert(path, 'unet', {})


def test_wrong_options_are_refused(path):
    torch.save(official('transbts'), path)
    with pytest.raises(ModelError, match='do not make a network'):
        read(path, depth=3)
