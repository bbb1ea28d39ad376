"""``mslesseg models …``: what it prints, what it refuses, with which exit code."""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from tiny_models import TINY, add_tiny, save_weights

from mslesseg_app.cli.main import main
from mslesseg_app.core.files import file_sha256
from mslesseg_app.models.registry import get_entry, list_entries

MODELS = ('hyperintensity', 'mssegdiff', 'swinunetr', 'transbts', 'unet', 'unetr')


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'stdin', io.StringIO())
    return tmp_path


@pytest.fixture
def call(capsys):
    """Return a function that runs a command and gives exit code, output and errors."""

    def go(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main(['models', *map(str, arguments)])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        assert 'Traceback' not in captured.out + captured.err
        return code, captured.out, captured.err

    return go


@pytest.fixture
def options(tmp_path) -> list[object]:
    """What ``add`` needs to be told of the tiny TransBTS, and its weights."""
    weights = save_weights('transbts', tmp_path / 'mine.pt')
    given = [f'{key}={value}' for key, value in TINY['transbts'][0].items()]
    pairs = [word for option in given for word in ('--option', option)]
    return [weights, '--architecture', 'transbts', *pairs]


def test_list_is_a_table_under_a_header(call):
    code, out, _ = call('list')
    assert code == 0
    lines = out.splitlines()
    names = ('name', 'weights', 'size', 'sequences', 'DSC', 'exams')
    places = [lines[0].index(name) for name in names]
    assert lines[0].split() == list(names)
    spans = [slice(a, b) for a, b in pairwise([*places, None])]
    rows = {
        line.split()[0]: dict(zip(names, (line[span].strip() for span in spans), strict=True))
        for line in lines[1 : lines.index('')]
    }
    assert set(rows) == {entry.name for entry in list_entries()} >= set(MODELS)
    assert rows['mssegdiff'] == {
        'name': 'mssegdiff', 'weights': 'none', 'size': '–', 'sequences': 'FLAIR T1w T2w',
        'DSC': '0.685*', 'exams': '22',
    }  # fmt: skip
    assert rows['hyperintensity']['weights'] == 'not needed'
    assert rows['flames']['weights'] == rows['samseg']['weights'] == 'public, not installed'
    assert rows['hyperintensity']['sequences'] == 'FLAIR (T1w)'
    assert 'not of mslesseg' in lines[-1]


def test_list_tells_the_size_of_weights_that_are_here(call, options, tmp_path):
    folder = tmp_path / 'models'
    assert call('add', *options, '--model-dir', folder)[0] == 0
    size = get_entry('transbts', folder).weights_path.stat().st_size
    line = next(x for x in call('--model-dir', folder, 'list')[1].splitlines() if 'transbts' in x)
    assert line.split()[1:4] == ['ready', f'{size / 1e6:.1f}', 'MB']


def test_show_of_a_network_of_the_paper(call):
    code, out, _ = call('show', 'mssegdiff')
    assert code == 0
    for text in (
        'needs              FLAIR, T1w, T2w',
        'window             96 × 96 × 96 voxels',
        'parameters         85,736,577',
        'licence            Apache-2.0',
        'not of mslesseg',
        'DSC 0.6851',
        f'digest             {get_entry("mssegdiff").digest}',
        'ready to run: no (no weights)',
    ):
        assert text in out
    assert max(map(len, out.splitlines())) <= 96
    citations = [line for line in out.splitlines() if 'arXiv 2303.10326' in line or 'CVPR' in line]
    assert len(citations) == 2, 'each citation has a line of its own'


def test_show_of_a_model_that_is_ready(call):
    code, out, _ = call('show', 'hyperintensity')
    assert code == 0
    assert 'ready to run: yes' in out
    assert 'parameters         0' in out


def test_the_cards_of_the_networks_tell_their_size():
    from mslesseg_app.models.size import parameter_count

    networks = [
        entry
        for entry in list_entries()
        if entry.needs_weights and not entry.files and not entry.is_engine
    ]
    assert {entry.name for entry in networks} == set(MODELS[1:]) - {'unet'}
    for entry in networks:
        assert parameter_count(entry) == entry.card['parameters']
        assert entry.missing == 'refuse'
        joint = entry.name == 'transbts'
        assert entry.normalisation == ('zscore-joint' if joint else 'zscore')


def test_add_show_verify_remove(call, options, tmp_path):
    folder = tmp_path / 'models'
    code, out, err = call('add', *options, '--model-dir', folder, '--title', 'My own')
    assert code == 0, err
    assert str(folder) in out
    code, out, _ = call('--model-dir', folder, 'list')
    assert any(line.startswith('transbts  ') and 'ready' in line for line in out.splitlines())
    code, out, _ = call('show', 'transbts', '--model-dir', folder)
    assert 'My own' in out
    assert 'ready to run: yes' in out
    code, out, _ = call('verify', 'transbts', '--model-dir', folder)
    assert (code, 'right hash and fits' in out) == (0, True)
    code, out, _ = call('remove', 'transbts', '--model-dir', folder)
    assert code == 0
    assert list(folder.iterdir()) == []


def test_the_folder_may_come_from_the_environment(call, options, tmp_path, monkeypatch):
    code, _, err = call('add', *options)
    assert (code, 'MSLESSEG_MODEL_DIR' in err) == (64, True)
    monkeypatch.setenv('MSLESSEG_MODEL_DIR', str(tmp_path / 'mine'))
    assert call('add', *options)[0] == 0
    assert get_entry('transbts', tmp_path / 'mine').lacks == ''
    assert call('verify', 'transbts')[0] == 0


def test_all_that_can_be_said_of_a_model(call, tmp_path):
    weights = save_weights('unet', tmp_path / 'w.safetensors')
    code, _, err = call(
        'add', weights, '--architecture', 'unet', '--option', 'channels=[2, 4, 6]',
            '--option', 'fold=1', '--option', 'blocks=2',
        '--name', 'mine', '--channels', 'flair', 'T2w', 't1w', '--required', 'FLAIR',
        '--missing', 'zero', '--normalisation', 'robust', '--threshold', '0.35',
        '--patch', '32', '48', '32', '--licence', 'CC-BY-4.0', '--model-version', '7',
        '--model-dir', tmp_path / 'm',
    )  # fmt: skip
    assert code == 0, err
    entry = get_entry('mine', tmp_path / 'm')
    assert entry.channels == ('FLAIR', 'T2w', 'T1w')
    assert (entry.required, entry.missing) == (('FLAIR',), 'zero')
    assert (entry.normalisation, entry.threshold) == ('robust', 0.35)
    assert entry.patch == (32, 48, 32)
    assert (entry.licence, entry.version) == ('CC-BY-4.0', '7')


@pytest.mark.parametrize(
    ('wrong', 'code'),
    [
        (['--patch', '32', '32'], 64),
        (['--option', 'base'], 64),
        (['--channels', 'PD'], 64),
        (['--threshold', '2'], 64),
        (['--missing', 'guess'], 64),
        (['--name', 'a b'], 65),
        (['--normalisation', 'best'], 65),
        (['--option', 'colour=red'], 65),
        (['--patch', '30'], 65),
        (['--architecture', 'gpt'], 64),
        (['--architecture', 'mssegdiff'], 65),
    ],
)
def test_wrong_options_of_add(call, options, tmp_path, wrong, code):
    folder = tmp_path / 'models'
    found, _, err = call('add', *options, *wrong, '--model-dir', folder)
    assert found == code, err
    assert len(err.strip().splitlines()) >= 2, 'a hint'
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize('action', ['show', 'verify', 'fetch', 'remove'])
def test_a_name_that_does_not_exist(call, tmp_path, action):
    code, _, err = call(action, 'nothing', '--model-dir', tmp_path)
    assert code == 64
    assert 'nothing' in err


def test_a_folder_that_does_not_exist(call, tmp_path):
    for action in (['list'], ['show', 'unetr'], ['verify', 'unetr']):
        code, _, err = call(*action, '--model-dir', tmp_path / 'no')
        assert (code, 'does not exist' in err) == (64, True)


def test_verify_of_a_model_without_weights(call):
    assert call('verify', 'hyperintensity')[0] == 0
    code, _, err = call('verify', 'swinunetr')
    assert code == 65
    assert 'mslesseg models add' in err


def test_fetch(call, tmp_path):
    entry = add_tiny('transbts', tmp_path / 'm')
    weights = entry.weights_path
    published = weights.rename(tmp_path / 'published.safetensors')
    asked = ['fetch', 'transbts', '--model-dir', tmp_path / 'm']
    code, _, err = call(*asked)
    assert (code, '--url' in err) == (64, True)
    code, _, err = call('--offline', *asked, '--url', 'https://example.org/w')
    assert (code, '--offline' in err) == (64, True)
    code, _, err = call(*asked, '--url', (tmp_path / 'no').as_uri())
    assert code == 66
    (tmp_path / 'other').write_bytes(b'other')
    code, _, err = call(*asked, '--url', (tmp_path / 'other').as_uri())
    assert (code, 'SHA256' in err) == (65, True)
    assert not weights.exists()
    code, _, err = call(*asked, '--url', published.as_uri())
    assert code == 0, err
    assert file_sha256(weights) == entry.sha256


def test_offline_may_come_from_the_environment(call, tmp_path, monkeypatch):
    monkeypatch.setenv('MSLESSEG_OFFLINE', '1')
    code, _, err = call(
        'fetch', 'unetr', '--url', 'https://example.org/w', '--sha256', 'a' * 64,
        '--model-dir', tmp_path / 'm',
    )  # fmt: skip
    assert (code, 'MSLESSEG_OFFLINE' in err) == (64, True)


def test_remove_at_a_terminal_says_first_what_would_go(call, tmp_path, monkeypatch):
    add_tiny('transbts', tmp_path / 'm')
    before = sorted((tmp_path / 'm').iterdir())
    monkeypatch.setattr(sys.stdin, 'isatty', lambda: True, raising=False)
    code, _, err = call('remove', 'transbts', '--model-dir', tmp_path / 'm')
    assert code == 64
    assert all(path.name in err for path in before)
    assert sorted((tmp_path / 'm').iterdir()) == before
    assert call('remove', 'transbts', '--yes', '--model-dir', tmp_path / 'm')[0] == 0
    assert list((tmp_path / 'm').iterdir()) == []


@pytest.mark.parametrize(
    ('old', 'new', 'words'),
    [
        ('version', 'colour', 'unknown field'),
        ('weights = "', 'weights = "../', 'folder of the description'),
        ('weights = "', 'weights = "/', 'folder of the description'),
        ('name = "', 'name = "a b ', 'letters and digits'),
        ('architecture = "transbts"', 'architecture = "gpt"', 'architecture'),
        ('version = "1"', 'version = ', 'cannot be read'),
    ],
)
def test_descriptions_that_are_wrong_are_named(call, tmp_path, old, new, words):
    add_tiny('transbts', tmp_path)
    path = tmp_path / 'transbts.toml'
    path.write_text(path.read_text().replace(old, new, 1))
    code, _, err = call('--model-dir', tmp_path, 'list')
    assert code == 65
    assert words in err


def test_the_app_takes_the_same_two_variables(monkeypatch, tmp_path):
    from mslesseg_app.cli import bids_app

    def settings():
        parser = bids_app.build_parser()
        return bids_app.to_settings(parser.parse_args(['/data', '/out', 'participant']), '')

    assert (settings().model_dir, settings().offline) == (None, False)
    monkeypatch.setenv('MSLESSEG_MODEL_DIR', str(tmp_path))
    for word, offline in (('1', True), ('yes', True), ('0', False), ('no', False), ('', False)):
        monkeypatch.setenv('MSLESSEG_OFFLINE', word)
        assert (settings().model_dir, settings().offline) == (tmp_path, offline)
