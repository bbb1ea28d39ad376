"""The Boutiques descriptor says what the parser says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from mslesseg_app.cli.bids_app import build_parser
from release import descriptor

bosh = pytest.importorskip('boutiques', reason='boutiques is not installed (extra dev)').bosh


@pytest.fixture(scope='module')
def described() -> dict:
    return descriptor.describe(build_parser())


def test_the_file_is_in_step():
    """Out of date? `make derived` writes it anew."""
    assert descriptor.PATH.read_text(encoding='utf-8') == descriptor.text()


def test_boutiques_accepts_it(tmp_path, capsys):
    assert bosh(['validate', str(descriptor.PATH)]) in (None, True, 0)
    broken = json.loads(descriptor.text())
    del broken['inputs'][0]['name']
    (tmp_path / 'broken.json').write_text(json.dumps(broken))
    with pytest.raises(Exception, match=r'name'):
        bosh(['validate', str(tmp_path / 'broken.json')])


def test_every_argument_is_described(described):
    wanted = {a.dest: a for a in build_parser()._actions if a.dest not in ('help', 'version')}
    found = {one['id']: one for one in described['inputs']}
    assert found.keys() == wanted.keys()
    for name, action in wanted.items():
        assert found[name].get('optional', False) is bool(action.option_strings)
        assert (found[name]['type'] == 'Flag') is (action.nargs == 0)
        if action.option_strings:
            assert found[name]['command-line-flag'] in action.option_strings
        assert found[name].get('value-choices', []) == list(action.choices or ())


def test_exit_codes_are_those_of_the_errors(described):
    assert {1, 16, 18, 64, 65, 66, 73, 74, 75} <= {one['code'] for one in described['error-codes']}


INVOCATIONS = [
    {},
    {'participant_label': ['01', '02'], 'nprocs': 2, 'omp_nthreads': 1, 'mem': '4G'},
    {'engine': 'builtin', 'strategy': 'anchored', 'require': ['FLAIR', 'T1w'], 'offline': True},
    {'model': ['unetr', 'swinunetr'], 'ensemble': 'staple', 'threshold': 0.25, 'connectivity': 26},
    {'derivatives': ['manual=/masks'], 'random_seed': 0, 'quiet': True, 'work_dir': '/scratch'},
]


@pytest.mark.parametrize('overrides', INVOCATIONS)
def test_boutiques_writes_commands_that_mean_what_was_asked(overrides, tmp_path, capsys):
    """What Boutiques makes of an invocation is read by our own parser."""
    asked = {
        'bids_dir': '/data',
        'output_dir': '/out',
        'analysis_level': ['participant', 'group'],
        **overrides,
    }
    (tmp_path / 'asked.json').write_text(json.dumps(asked))
    done = bosh(['exec', 'simulate', str(descriptor.PATH), '-i', str(tmp_path / 'asked.json')])
    command = shlex.split(getattr(done, 'shell_command', '') or str(done))
    assert command[0] == 'mslesseg'
    read = vars(build_parser().parse_args(command[1:]))
    defaults = vars(build_parser().parse_args(['/data', '/out', 'participant', 'group']))
    changed = {name for name in read if read[name] != defaults[name]}
    assert changed == set(overrides) - unchanged(overrides, defaults)
    assert read['bids_dir'] == Path('/data')
    for name in set(overrides) & {'engine', 'ensemble', 'threshold', 'model', 'connectivity'}:
        assert read[name] == overrides[name]


def unchanged(overrides: dict, defaults: dict) -> set[str]:
    """Return the overrides that are the defaults anyway."""
    return {name for name, value in overrides.items() if defaults[name] == value}
