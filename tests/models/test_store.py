"""The folder of the user's models: what gets in, what is refused, what is left behind."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import (
    TINY,
    TINY_UNETR,
    overrides,
    save_weights,
    tiny_network,
    write_bundle,
    zipped,
)

from mslesseg_app.core.errors import ModelError, NoInputError, UsageError
from mslesseg_app.core.files import file_sha256
from mslesseg_app.models.check import check_model
from mslesseg_app.models.download_weights import fetch_model
from mslesseg_app.models.registry import (
    get_entry,
    list_entries,
    load_predictor,
    read_entry,
    shipped_folder,
    verified_files,
    verified_weights,
)
from mslesseg_app.models.size import empty_network, parameter_count
from mslesseg_app.models.store import add_model, remove_model, write_entry


def files(folder: Path) -> list[str]:
    """Names of all files, temporary ones included."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    return save_weights('unet', tmp_path_factory.mktemp('source') / 'mine.safetensors')


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / 'models'


# -------------------------------------------------------------------------- adding


def test_an_added_model_is_listed_and_runs(source, folder):
    entry = add_model(source, folder, overrides('unet', name='mine', threshold=0.3))
    assert get_entry('mine', folder) == entry
    assert entry.lacks == ''
    assert files(folder) == [f'mine-{file_sha256(source)[:12]}.safetensors', 'mine.toml']
    assert verified_weights(entry).read_bytes() == source.read_bytes()
    assert (entry.threshold, entry.patch, entry.required) == (0.3, (32,) * 3, entry.channels)
    brain = np.ones((32, 32, 32), bool)
    prob = load_predictor(entry)(np.zeros((3, 32, 32, 32), np.float32), brain, (True,) * 3)
    assert prob.shape == brain.shape


@pytest.mark.parametrize('architecture', ['mssegdiff', 'transbts'])
def test_what_is_not_said_comes_from_the_shipped_description(architecture, tmp_path, folder):
    path = save_weights(architecture, tmp_path / 'w.pt')
    options, edge = TINY[architecture]
    entry = add_model(
        path, folder, {'architecture': architecture, 'options': options, 'patch': (edge,) * 3}
    )
    shipped = get_entry(architecture)
    for key in ('name', 'channels', 'normalisation', 'threshold', 'sampler', 'missing'):
        assert getattr(entry, key) == getattr(shipped, key)
    assert entry.options == {**shipped.options, **options}
    assert entry.licence == 'NOASSERTION'
    assert 'figures' not in entry.card, 'the figures of the paper are not those of these weights'
    stored = torch.load(path, weights_only=True)
    from safetensors.torch import load_file

    kept = load_file(verified_weights(entry))
    assert all(torch.equal(kept[name], value) for name, value in stored.items())


def test_patch_and_edge_follow_each_other(tmp_path, folder):
    path = save_weights('transbts', tmp_path / 'w.safetensors')
    options = {key: value for key, value in TINY['transbts'][0].items() if key != 'edge'}
    one = add_model(
        path, folder, {'architecture': 'transbts', 'options': options, 'patch': (64, 64, 64)}
    )
    assert one.options['edge'] == 64
    asked = {'architecture': 'transbts', 'options': {**options, 'edge': 64}, 'name': 'two'}
    assert add_model(path, folder, asked).patch == (64, 64, 64)


def test_a_taken_name_is_refused_and_replaced_by_force(source, tmp_path, folder):
    first = add_model(source, folder, overrides('unet'))
    before = files(folder)
    other = save_weights('unet', tmp_path / 'o.safetensors', **{'head.bias': torch.ones(1)})
    with pytest.raises(UsageError, match='already') as caught:
        add_model(other, folder, overrides('unet'))
    assert '--force' in caught.value.hint
    assert files(folder) == before
    second = add_model(other, folder, overrides('unet', version='2'), force=True)
    assert second.digest != first.digest
    assert files(folder) == [f'unet-{file_sha256(other)[:12]}.safetensors', 'unet.toml']
    assert get_entry('unet', folder).version == '2'


def test_force_with_the_same_weights_keeps_them(source, folder):
    add_model(source, folder, overrides('unet'))
    entry = add_model(source, folder, overrides('unet', threshold=0.4), force=True)
    check_model(entry)
    assert get_entry('unet', folder).threshold == 0.4


def test_force_replaces_a_description_of_another_file_name(source, folder):
    add_model(source, folder, overrides('unet'))
    (folder / 'unet.toml').rename(folder / 'old.toml')
    add_model(source, folder, overrides('unet', version='2'), force=True)
    assert get_entry('unet', folder).version == '2'
    assert len(list(folder.glob('*.toml'))) == 1


def test_the_architecture_is_asked_for(source, folder):
    asked = overrides('unet')
    del asked['architecture']
    with pytest.raises(UsageError) as caught:
        add_model(source, folder, asked)
    assert '--architecture' in caught.value.hint
    assert files(folder) == []


def of_monai(version, state):
    """Return the weights of a UNETR under the names that this MONAI gives its state dict.

    Recorded by running MONAI 0.6.0 (the oldest with a UNETR), 0.9.0, 1.1.0 and 1.3.2, and read in
    the source of 1.4.0 to 1.6.1.
    """
    blocks = sorted({name.split('.')[2] for name in state if name.startswith('vit.blocks.')})
    kept = {name: value for name, value in state.items() if '.norm_cross_attn.' not in name}
    if version == '0.6.0':
        return {**kept, 'vit.patch_embedding.cls_token': torch.zeros(1, 1, 24)}
    if version in ('0.9.0', '1.3.2'):
        return kept
    norms = {
        f'vit.blocks.{n}.norm_cross_attn.{part}': torch.full((24,), 0.5)
        for n in blocks
        for part in ('weight', 'bias')
    }
    if version == '1.6.1':
        return {**kept, **norms}
    cross = {
        f'vit.blocks.{n}.cross_attn.{part}.weight': torch.zeros(24, 24)
        for n in blocks
        for part in ('to_q', 'to_k', 'to_v', 'out_proj')
    }
    bias = {f'vit.blocks.{n}.cross_attn.out_proj.bias': torch.zeros(24) for n in blocks}
    return {**kept, **norms, **cross, **bias}


@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
@pytest.mark.parametrize('version', ['0.6.0', '0.9.0', '1.3.2', '1.4.0', '1.6.1'])
def test_a_unetr_of_every_monai_is_added(tmp_path, folder, version, suffix):
    """Older files hold a part of the names, later ones more; none of them changes a result."""
    from safetensors.torch import load_file, save_file

    state = dict(tiny_network('unetr').state_dict())
    assert any('norm_cross_attn' in name for name in state), 'what older files lack'
    path = tmp_path / f'w{suffix}'
    weights = {name: value.contiguous() for name, value in of_monai(version, state).items()}
    (save_file if suffix == '.safetensors' else torch.save)(weights, path)
    entry = add_model(path, folder, overrides('unetr'))
    check_model(entry, thorough=True)
    kept = load_file(verified_weights(entry))
    assert set(kept) == set(state)
    used = {name for name in state if 'norm_cross_attn' not in name}
    assert all(torch.equal(kept[name], state[name]) for name in used)


def test_how_a_swinunetr_joins_neighbours_must_be_said(tmp_path, folder):
    """Files of either kind hold the same names and shapes, and give other masks."""
    path = save_weights('swinunetr', tmp_path / 'w.pt')
    options = {key: value for key, value in TINY['swinunetr'][0].items() if key != 'merging'}
    with pytest.raises(UsageError) as caught:
        add_model(path, folder, {**overrides('swinunetr'), 'options': options})
    for merging in ('merging', 'legacy', 'mergingv2'):
        assert f'--option merging={merging}' in caught.value.hint
    with pytest.raises(UsageError, match='how neighbouring voxels are joined'):
        fetch_model(get_entry('swinunetr'), folder, url=path.as_uri(), sha256=file_sha256(path))
    assert files(folder) == []
    for merging in ('legacy', 'merging'):
        chosen = {**options, 'merging': merging}
        entry = add_model(
            path, folder, {**overrides('swinunetr', name=merging), 'options': chosen}
        )
        assert entry.options['merging'] == merging
    channels = np.random.default_rng(0).normal(size=(3, 64, 64, 64)).astype(np.float32)
    brain = np.ones((64, 64, 64), bool)
    masks = [
        load_predictor(get_entry(name, folder))(channels, brain, (True,) * 3) > 0.5
        for name in ('legacy', 'merging')
    ]
    assert (masks[0] != masks[1]).any()


def test_a_description_has_to_say_how_neighbours_are_joined(tmp_path, folder):
    """One that was written by hand, too: the usual way of the network may be the wrong one."""
    path = save_weights('swinunetr', tmp_path / 'w.safetensors')
    entry = add_model(path, folder, overrides('swinunetr'))
    place = folder / 'swinunetr.toml'
    place.write_text(place.read_text().replace('merging = "merging"\n', ''))
    with pytest.raises(ModelError, match="merging = 'legacy'"):
        get_entry(entry.name, folder)


@pytest.mark.parametrize(('mask', 'mode'), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_of_a_model_follow_the_umask(source, folder, mask, mode):
    before = os.umask(mask)
    try:
        entry = add_model(source, folder, overrides('unet'))
    finally:
        os.umask(before)
    for path in (entry.weights_path, folder / 'unet.toml'):
        assert path.stat().st_mode & 0o777 == mode


# ----------------------------------------------------------------------- refusing


class Evil:
    """A pickle that would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def bad_files(root: Path) -> dict[str, Path]:
    """Write files that are no weights, or bad ones; by what is wrong with them."""
    good = save_weights('unet', root / 'good.safetensors').read_bytes()
    zipped_nothing = root / 'nothing'
    zipped_nothing.mkdir()
    (zipped_nothing / 'a.txt').write_text('a')
    contents = {
        'text.safetensors': b'these are no tensors',
        'empty.safetensors': b'',
        'truncated.safetensors': good[: len(good) // 2],
        'header.safetensors': good[:40],
        'html.pt': b'<!DOCTYPE html><title>404</title>',
        'evil.pt': pickle.dumps({'state_dict': Evil(root / 'written')}),
        'objects.pt': pickle.dumps(['no', 'tensors']),
        'cut.pt': save_weights('unet', root / 'whole.pt').read_bytes()[:-500],
    }
    for name, content in contents.items():
        (root / name).write_bytes(content)
    found = {name: root / name for name in contents}
    found['archive.zip'] = zipped(zipped_nothing)
    found['a folder'] = zipped_nothing
    nan = torch.full((1,), float('nan'))
    found['nan.safetensors'] = save_weights('unet', root / 'nan.safetensors', **{'head.bias': nan})
    whole = torch.ones(1, dtype=torch.int8)
    found['whole.safetensors'] = save_weights(
        'unet', root / 'whole.safetensors', **{'head.bias': whole}
    )
    unreal = torch.ones(1, dtype=torch.complex64)
    found['complex.safetensors'] = save_weights(
        'unet', root / 'complex.safetensors', **{'head.bias': unreal}
    )
    found['less.safetensors'] = save_weights(
        'unet', root / 'less.safetensors', **{'head.bias': None}
    )
    found['other.safetensors'] = save_weights('transbts', root / 'other.safetensors')
    return found


BAD = [
    'text.safetensors', 'empty.safetensors', 'truncated.safetensors', 'header.safetensors',
    'html.pt', 'evil.pt', 'objects.pt', 'cut.pt', 'archive.zip', 'a folder', 'nan.safetensors',
    'less.safetensors', 'other.safetensors', 'whole.safetensors', 'complex.safetensors',
]  # fmt: skip


@pytest.fixture(scope='module')
def bad(tmp_path_factory) -> dict[str, Path]:
    return bad_files(tmp_path_factory.mktemp('bad'))


@pytest.mark.parametrize('name', BAD)
def test_bad_files_are_refused_and_leave_nothing(bad, folder, name):
    assert set(bad) == set(BAD)
    with pytest.raises(ModelError) as caught:
        add_model(bad[name], folder, overrides('unet'))
    assert str(bad[name]) in caught.value.message, 'the user knows this name'
    assert caught.value.hint
    assert caught.value.exit_code == 65
    assert files(folder) == []
    assert not (bad['evil.pt'].parent / 'written').exists(), 'code in a pickle has run'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'patch': (30, 32, 32), 'sampler': {'fit': False}}, 'multiples'),
        ({'normalisation': 'best'}, 'normalisation'),
        ({'name': 'my model'}, 'letters and digits'),
        ({'options': {'width': 8}}, 'options'),
        ({'channels': ('FLAIR',)}, 'another network'),
        ({'sampler': {'colour': 1}}, 'colour'),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(source, folder, change, message):
    with pytest.raises(ModelError, match=message):
        add_model(source, folder, overrides('unet') | change)
    assert files(folder) == []


@pytest.mark.parametrize('name', ['gpt', 'hyperintensity'])
def test_networks_that_do_not_exist_are_refused(source, folder, name):
    with pytest.raises(UsageError) as caught:
        add_model(source, folder, overrides('unet') | {'architecture': name})
    assert 'swinunetr' in caught.value.hint
    assert files(folder) == []


def test_a_source_that_does_not_exist(folder):
    with pytest.raises(NoInputError):
        add_model(folder / 'no', folder, overrides('unet'))


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_taken(tmp_path, folder, kind):
    path = save_weights(
        'unet', tmp_path / 'w.safetensors', **{'head.bias': torch.ones(1).to(kind)}
    )
    check_model(add_model(path, folder, overrides('unet')), thorough=True)


# ------------------------------------------------------------------------ checking


def test_check_finds_changed_and_absent_weights(source, folder):
    entry = add_model(source, folder, overrides('unet'))
    check_model(entry, thorough=True)
    path = verified_weights(entry)
    path.write_bytes(path.read_bytes()[:-1] + b'!')
    with pytest.raises(ModelError, match='SHA256'):
        check_model(entry)
    path.unlink()
    with pytest.raises(ModelError, match='not on this machine'):
        check_model(entry)


def test_check_compares_shapes_without_loading(source, folder):
    entry = add_model(source, folder, overrides('unet'))
    wrong = replace(entry, options={'channels': [2, 4, 8]})
    with pytest.raises(ModelError, match='another network'):
        check_model(wrong)


def test_folds_are_checked_one_by_one(source, tmp_path, folder):
    entry = add_model(source, folder, overrides('unet'))
    other = save_weights('unet', folder / 'b.safetensors', **{'head.bias': torch.zeros(1)})
    folds = replace(
        entry,
        weights=(entry.weights, 'b.safetensors'),
        sha256=(entry.sha256, file_sha256(other)),
    )
    write_entry(folds, folder / 'unet.toml')
    folds = get_entry('unet', folder)
    check_model(folds, thorough=True)
    assert [m.weights for m in folds.members] == list(folds.weights)
    assert verified_weights(folds) == verified_files(folds)
    image = np.random.default_rng(0).normal(size=(3, 32, 32, 32)).astype(np.float32)
    brain = np.ones((32, 32, 32), bool)
    both, *alone = (load_predictor(e)(image, brain, (True,) * 3) for e in (folds, *folds.members))
    assert not np.array_equal(*alone)
    np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-6)
    other.write_bytes(b'changed')
    with pytest.raises(ModelError, match=r'b\.safetensors'):
        check_model(folds)


def test_a_description_is_written_as_it_is_read(folder):
    folder.mkdir()
    for entry in list_entries():
        write_entry(entry, folder / 'copy.toml')
        assert read_entry(folder / 'copy.toml') == entry


# ------------------------------------------------------------------------ removing


def test_remove_takes_description_and_weights(source, folder):
    add_model(source, folder, overrides('unet'))
    removed = remove_model('unet', folder)
    assert len(removed) == 2
    assert files(folder) == []


def test_weights_that_another_model_names_stay(source, folder):
    entry = add_model(source, folder, overrides('unet'))
    write_entry(replace(entry, name='two'), folder / 'two.toml')
    remove_model('unet', folder)
    check_model(get_entry('two', folder))


@pytest.mark.parametrize(('name', 'hint'), [('swinunetr', 'shipped'), ('nothing', 'none')])
def test_other_models_are_not_removed(folder, name, hint):
    folder.mkdir()
    before = files(shipped_folder())
    with pytest.raises(UsageError) as caught:
        remove_model(name, folder)
    assert hint in caught.value.hint
    assert files(shipped_folder()) == before


# ------------------------------------------------------------------------ fetching


def test_weights_that_a_description_names_are_fetched(source, tmp_path, folder):
    entry = add_model(source, folder, overrides('unet', url=source.as_uri()))
    verified_weights(entry).unlink()
    assert get_entry('unet', folder).lacks
    (path,) = fetch_model(get_entry('unet', folder), folder)
    assert path.read_bytes() == source.read_bytes()
    check_model(get_entry('unet', folder), thorough=True)


def test_weights_for_a_shipped_network_are_fetched_converted_and_described(tmp_path, folder):
    from mslesseg_app.models.networks import build

    checkpoint = tmp_path / 'w.pt'
    shipped = get_entry('transbts')
    small = replace(shipped, options={**shipped.options, **TINY['transbts'][0]}, patch=(64,) * 3)
    torch.save(build('transbts', 3, small.options).state_dict(), checkpoint)
    digest = file_sha256(checkpoint)
    folder.mkdir()
    write_entry(small, folder / 'transbts.toml')
    found = fetch_model(
        get_entry('transbts', folder), folder, url=checkpoint.as_uri(), sha256=digest
    )
    entry = get_entry('transbts', folder)
    assert list(verified_files(entry)) == found
    assert entry.options == small.options
    assert entry.card['source_sha256'] == digest
    assert len(files(folder)) == 2


@pytest.mark.parametrize(
    ('name', 'more'),
    [
        ('hyperintensity', {}),
        ('swinunetr', {}),
        ('swinunetr', {'url': 'https://example.org/w.pt'}),
        ('swinunetr', {'sha256': 'a' * 64}),
        ('unet', {'sha256': 'a' * 64}),
        ('unet', {}),
    ],
)
def test_fetching_needs_to_know_where_and_what(source, folder, name, more):
    add_model(source, folder, overrides('unet'))
    with pytest.raises(UsageError):
        fetch_model(get_entry(name, folder), folder, **more)


# ------------------------------------------------------------------------- bundles


@pytest.mark.parametrize(
    ('weights', 'yaml', 'packed'),
    [('pt', False, False), ('safetensors', True, False), ('pt', True, True)],
)
def test_a_bundle_is_imported(tmp_path, folder, weights, yaml, packed):
    bundle = write_bundle(tmp_path / 'msbundle', TINY_UNETR, weights=weights, yaml=yaml)
    entry = add_model(zipped(bundle) if packed else bundle, folder, {})
    assert (entry.name, entry.version, entry.architecture) == ('LesionsofMS', '0.3.1', 'unetr')
    assert entry.channels == ('FLAIR', 'T1w', 'T2w')
    assert entry.normalisation == 'zscore'
    assert entry.patch == (64, 64, 64)
    assert entry.sampler == {
        'overlap': 0.5, 'blending': 'gaussian', 'sigma': 0.125,
        'average': 'logits', 'layout': 'stepped', 'margin': 0,
    }  # fmt: skip
    assert entry.options['conv_block'] is True
    assert entry.card['citation'] == ['A paper']
    assert parameter_count(entry) == sum(
        p.numel() for p in empty_network('unetr', 3, TINY['unetr'][0]).parameters()
    )
    check_model(get_entry('LesionsofMS', folder), thorough=True)


def test_a_bundle_computes_what_its_inferer_does(tmp_path, folder):
    """Windows and blending as MONAI's own inferer lays them; logits are averaged."""
    from monai.inferers.inferer import SlidingWindowInferer

    add_model(write_bundle(tmp_path / 'b', TINY_UNETR), folder, {})
    rng = np.random.default_rng(1)
    channels = rng.normal(size=(3, 64, 64, 100)).astype(np.float32)
    network = tiny_network('unetr')
    inferer = SlidingWindowInferer((64, 64, 64), overlap=0.5, mode='gaussian')
    with torch.inference_mode():
        expected = torch.sigmoid(inferer(torch.from_numpy(channels)[None], network))[0, 0].numpy()
    brain = np.ones(channels.shape[1:], bool)
    found = load_predictor(get_entry('LesionsofMS', folder))(channels, brain, (True,) * 3)
    assert expected.std() > 0.05
    # the least weight is 0.001 of the largest: of 1 there, of that of a voxel here
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_which_of_several_sigmoids_is_that_of_lesions_must_be_said(tmp_path, folder):
    head = {'out.conv.conv.weight': torch.ones(3, 2, 1, 1, 1), 'out.conv.conv.bias': torch.ones(3)}
    steps = {'_target_': 'Compose', 'transforms': [{'_target_': 'Activationsd', 'sigmoid': True}]}
    bundle = write_bundle(
        tmp_path / 'b', {**TINY_UNETR, 'out_channels': 3}, config={'postprocessing': steps}
    )
    save_weights('unetr', bundle / 'models' / 'model.pt', **head)
    with pytest.raises(UsageError, match='does not say which') as caught:
        add_model(bundle, folder, {})
    assert '--option lesion=' in caught.value.hint
    assert files(folder) == []
    entry = add_model(bundle, folder, {'options': {'lesion': 1}})
    assert (entry.options['classes'], entry.options['lesion']) == (3, 1)


@pytest.mark.parametrize('network', ['unetr', 'swinunetr'])
def test_weights_of_another_head_name_the_option(tmp_path, folder, network):
    """The names are those of our network; what does not fit are the shapes."""
    size = tiny_network(network).out.conv.conv.weight.shape[1]
    head = {
        'out.conv.conv.weight': torch.zeros(3, size, 1, 1, 1),
        'out.conv.conv.bias': torch.zeros(3),
    }
    path = save_weights(network, tmp_path / 'w.pt', **head)
    with pytest.raises(ModelError, match='of another shape') as caught:
        add_model(path, folder, overrides(network))
    assert 'classes=3' in caught.value.hint
    assert 'lesion=K' in caught.value.hint
    path = save_weights(network, tmp_path / 'v.safetensors')
    with pytest.raises(ModelError, match='of another shape') as caught:
        add_model(path, folder, overrides(network, channels=('FLAIR', 'T1w')))
    assert 'takes 3 images, not 2' in caught.value.hint
    assert '--channels' in caught.value.hint


@pytest.mark.parametrize(
    ('change', 'more', 'message'),
    [
        ({'_target_': 'monai.networks.nets.SegResNet'}, {}, 'SegResNet'),
        ({'in_channels': '$len([1, 2, 3])'}, {}, 'expression'),
        ({'feature_size': '$__import__("os").system("true")'}, {}, 'expression'),
        ({'feature_size': '@nowhere'}, {}, 'expression'),
        ({'spatial_dims': 2}, {}, 'spatial_dims'),
        ({'colour': 'red'}, {}, 'colour'),
        ({'feature_size': 4}, {}, 'does not hold|another network'),
        ({}, {'config': {'network_def': {}}}, 'network_def'),
        ({}, {'config': {'network_def': '@network_def'}}, 'itself'),
        ({}, {'weights': None}, 'neither'),
    ],
)
def test_bundles_that_cannot_be_imported_are_explained(tmp_path, folder, change, more, message):
    bundle = write_bundle(tmp_path / 'b', {**TINY_UNETR, **change}, **more)
    with pytest.raises(ModelError, match=message) as caught:
        add_model(bundle, folder, {})
    assert caught.value.hint
    assert files(folder) == []


def test_a_swinunetr_of_an_unknown_monai_is_refused(tmp_path, folder):
    network = {'_target_': 'SwinUNETR', 'in_channels': 3, 'out_channels': 1}
    bundle = write_bundle(tmp_path / 'b', network, metadata={'monai_version': ''})
    with pytest.raises(ModelError, match='monai_version'):
        add_model(bundle, folder, {})


def test_a_bundle_with_a_broken_configuration(tmp_path, folder):
    bundle = write_bundle(tmp_path / 'b', TINY_UNETR)
    for text in ('{', '[]', '\xff'):
        (bundle / 'configs' / 'inference.json').write_bytes(text.encode('latin-1'))
        with pytest.raises(ModelError, match=r'inference\.json'):
            add_model(bundle, folder, {})


def test_what_a_bundle_does_not_say_must_be_said(tmp_path, folder):
    more = {'metadata': {'network_data_format': {}}, 'config': {'preprocessing': {}}}
    bundle = write_bundle(tmp_path / 'b', TINY_UNETR, **more)
    channels = ('T2w', 'FLAIR', 'T1w')
    entry = add_model(bundle, folder, {'channels': channels, 'normalisation': 'robust'})
    assert (entry.channels, entry.normalisation) == (channels, 'robust')


@pytest.mark.parametrize(
    ('version', 'merging'), [('1.1.0', 'legacy'), ('1.4.0', 'legacy'), ('1.5.1', 'merging')]
)
def test_the_neighbours_of_swinunetr_are_joined_as_its_monai_did(tmp_path, version, merging):
    from mslesseg_app.models.bundle import read_bundle

    network = {'_target_': 'SwinUNETR', 'in_channels': 3, 'out_channels': 2, 'img_size': '@roi'}
    bundle = write_bundle(tmp_path / 'b', network, metadata={'monai_version': version})
    fields, _ = read_bundle(bundle, tmp_path)
    assert fields['options']['merging'] == merging
    assert fields['options']['classes'] == 2
    assert fields['options']['feature_size'] == 24, "MONAI's own default"
