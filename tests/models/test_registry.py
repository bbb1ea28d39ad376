"""Descriptions of models: what is read, refused, found and verified."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from mslesseg_app.core.errors import ModelError, UsageError
from mslesseg_app.models import registry
from mslesseg_app.models.entry import LOADERS, ModelEntry
from mslesseg_app.models.registry import get_entry, list_entries, load_predictor, read_entry

TEXT = """
name = 'mine'
version = '1'
architecture = 'unet'
channels = ['FLAIR', 'T1w']
required = ['FLAIR']
missing = 'zero'
normalisation = 'zscore'
patch = [96, 96, 96]
threshold = 0.4
licence = 'Apache-2.0'
weights = 'mine.safetensors'
sha256 = '{sha256}'

[options]
width = 8
"""
CONTENT = b'not really tensors'
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'mine.toml').write_text(TEXT.format(sha256=SHA256))
    (tmp_path / 'mine.safetensors').write_bytes(CONTENT)
    return tmp_path


@pytest.fixture
def entry(folder):
    return get_entry('mine', folder)


def test_shipped_descriptions_are_sound():
    entries = list_entries()
    assert 'hyperintensity' in {entry.name for entry in entries}
    assert [e.name for e in entries] == sorted(e.name for e in entries)
    for entry in entries:
        assert entry.card
        assert entry.architecture in LOADERS


def test_a_description_is_read_with_its_types(entry):
    assert entry.channels == ('FLAIR', 'T1w')
    assert entry.patch == (96, 96, 96)
    assert entry.options == {'width': 8}
    assert entry.needs_weights
    assert hash(entry) == hash(replace(entry))


def test_entries_of_the_user_come_beside_the_shipped_ones_and_before_them(folder):
    text = TEXT.format(sha256=SHA256).replace("'mine'", "'hyperintensity'")
    (folder / 'other.toml').write_text(text)
    names = [entry.name for entry in list_entries(folder)]
    assert {'mine', 'hyperintensity'} <= set(names)
    assert len(names) == len(set(names))
    assert get_entry('hyperintensity', folder).architecture == 'unet'


def test_unknown_name_is_a_usage_error_that_lists_the_names(folder):
    with pytest.raises(UsageError) as caught:
        get_entry('nothing', folder)
    assert 'hyperintensity' in caught.value.hint
    assert 'mine' in caught.value.hint
    assert caught.value.exit_code == 64


def test_missing_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        list_entries(tmp_path / 'nowhere')


def test_one_name_twice_is_refused(folder):
    (folder / 'again.toml').write_text((folder / 'mine.toml').read_text())
    with pytest.raises(ModelError, match='mine'):
        list_entries(folder)


@pytest.mark.parametrize(
    'change',
    [
        {'version': '2'},
        {'threshold': 0.5},
        {'options': {'width': 16}},
        {'sha256': 'a' * 64},
        {'card': {'date': '2026'}},
    ],
)
def test_digest_follows_every_change_of_description_or_weights(entry, change):
    assert replace(entry, **change).digest != entry.digest


def test_digest_does_not_depend_on_the_place(entry, folder, tmp_path):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / 'x.toml').write_text((folder / 'mine.toml').read_text())
    assert read_entry(elsewhere / 'x.toml').digest == entry.digest


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ("'mine'", "'my model'", 'letters and digits'),
        ("'unet'", "'gpt'", 'architecture'),
        ("['FLAIR', 'T1w']", "['FLAIR', 'PD']", 'channels'),
        ("['FLAIR', 'T1w']", "['FLAIR', 'FLAIR']", 'repeats'),
        ("['FLAIR', 'T1w']", "'FLAIR'", 'channels'),
        ("required = ['FLAIR']", "required = ['T2w']", 'required'),
        ("'zero'", "'guess'", 'missing'),
        ('0.4', '1.0', 'threshold'),
        ('0.4', "'high'", 'threshold'),
        ('[96, 96, 96]', '[96, 96]', 'patch'),
        ('[96, 96, 96]', '[96, 96, 0]', 'patch'),
        ("'mine.safetensors'", "'../mine.safetensors'", 'weights'),
        ("'mine.safetensors'", "'mine.pt'", 'weights'),
        (SHA256, 'abc', 'sha256'),
        (f"sha256 = '{SHA256}'", '', 'weights and sha256'),
        ("version = '1'", 'version = 1', 'version'),
        ("version = '1'", '', 'version'),
        ("version = '1'", "version = '1'\ncolour = 'red'", 'colour'),
        ("version = '1'", 'version =', 'cannot be read'),
    ],
)
def test_a_wrong_description_is_refused_and_says_what_is_wrong(tmp_path, old, new, message):
    path = tmp_path / 'wrong.toml'
    path.write_text(TEXT.format(sha256=SHA256).replace(old, new))
    with pytest.raises(ModelError, match=message):
        read_entry(path)


def test_absent_weights_cannot_be_run(entry, folder):
    (folder / 'mine.safetensors').unlink()
    with pytest.raises(ModelError, match='not on this machine') as caught:
        load_predictor(entry)
    assert '--model-dir' in caught.value.hint


def test_a_network_without_any_weights_cannot_be_run(entry):
    with pytest.raises(ModelError, match='cannot run'):
        load_predictor(replace(entry, weights=None, sha256=None))


def test_changed_weights_are_refused(entry, folder):
    (folder / 'mine.safetensors').write_bytes(CONTENT + b'!')
    with pytest.raises(ModelError, match='SHA256'):
        load_predictor(entry)


def test_weights_may_lie_in_the_folder_of_the_user(folder, tmp_path):
    elsewhere = tmp_path / 'descriptions'
    elsewhere.mkdir()
    (folder / 'mine.toml').rename(elsewhere / 'mine.toml')
    found = read_entry(elsewhere / 'mine.toml', (folder,)).weights_path
    assert found == folder / 'mine.safetensors'


def test_the_loader_of_the_architecture_gets_the_verified_file(entry, folder, monkeypatch):
    from types import SimpleNamespace

    seen = {}

    def load(entry, weights, device, *, threads, seed):
        seen.update(weights=weights, device=device, threads=threads, seed=seed)
        return 'predictor'

    monkeypatch.setattr(
        registry.importlib, 'import_module', lambda name: SimpleNamespace(load=load)
    )
    assert load_predictor(entry, 'cuda:1', threads=3, seed=7) == 'predictor'
    weights = folder / 'mine.safetensors'
    assert seen == {'weights': weights, 'device': 'cuda:1', 'threads': 3, 'seed': 7}


def test_a_loader_that_cannot_be_imported_is_explained(entry, monkeypatch):
    monkeypatch.setitem(LOADERS, 'unet', 'mslesseg_app.models.nowhere')
    with pytest.raises(ModelError, match='unet') as caught:
        load_predictor(entry)
    assert 'torch' in caught.value.hint


FOLDS = f"""weights = ['a.safetensors', 'b.safetensors']
sha256 = ['{'a' * 64}', '{'b' * 64}']
url = ['https://example.org/a', 'https://example.org/b']
"""


def folds(folder, text=FOLDS):
    kept = TEXT.partition('weights')[0]
    (folder / 'mine.toml').write_text(kept + text)
    return read_entry(folder / 'mine.toml')


def test_several_weights_files_are_the_folds_of_one_model(folder):
    entry = folds(folder)
    assert [member.weights for member in entry.members] == ['a.safetensors', 'b.safetensors']
    assert [member.url for member in entry.members] == list(entry.url)
    assert all(len(member.members) == 1 for member in entry.members)
    assert 'a.safetensors, b.safetensors' in entry.lacks
    (folder / 'a.safetensors').touch()
    assert entry.weights_path is None
    assert entry.lacks.endswith(': b.safetensors')
    with pytest.raises(ModelError, match='SHA256'):
        load_predictor(entry)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (f", '{'b' * 64}'", '', 'come together'),
        (", 'https://example.org/b'", '', 'url'),
        ('b.safetensors', 'a.safetensors', 'repeats'),
        ('b.safetensors', '../b.safetensors', 'folder'),
        ("'b.safetensors'", '3', 'weights'),
        ('b' * 64, 'c', 'sha256'),
    ],
)
def test_wrong_folds_are_refused(folder, old, new, message):
    with pytest.raises(ModelError, match=message):
        folds(folder, FOLDS.replace(old, new))


def test_where_weights_can_be_fetched_is_no_part_of_the_digest(entry):
    assert replace(entry, url='https://example.org/w').digest == entry.digest
    assert entry.lacks == ''
    assert replace(entry, weights=None, sha256=None).lacks == 'no weights'


def test_an_entry_can_be_built_in_python():
    entry = ModelEntry('x', '1', 'hyperintensity', ('FLAIR',), ('FLAIR',), 'ignore', 'robust',
                       0.5, 'Apache-2.0')  # fmt: skip
    assert not entry.needs_weights
    assert entry.weights_path is None
