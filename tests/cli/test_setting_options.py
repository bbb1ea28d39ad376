"""An option of the App is one field of `Settings`: parser, help and log follow from it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mslesseg_app.cli.bids_app import build_parser, to_settings
from mslesseg_app.core.settings import Settings

FIELD = """
    slices: Literal['few', 'many'] = option('lesions', default='few', help='How many slices.')
    run_uuid: str = ''
"""
PROGRAM = """
import sys, tomllib
from pathlib import Path
from mslesseg_app.cli.bids_app import build_parser, to_settings
options = build_parser().parse_args(['/bids', '/out', 'participant', *sys.argv[2:]])
to_settings(options, '').to_toml(Path(sys.argv[1]))
print(tomllib.loads(Path(sys.argv[1]).read_text())['slices'])
"""


@pytest.fixture
def package(tmp_path: Path, project_root: Path) -> Path:
    """A copy of the package with one more field in the settings."""
    copied = tmp_path / 'copy' / 'mslesseg_app'
    shutil.copytree(
        project_root / 'mslesseg_app', copied, copy_function=os.symlink,
        ignore=shutil.ignore_patterns('__pycache__'),
    )  # fmt: skip
    path = copied / 'core' / 'settings.py'
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace("\n    run_uuid: str = ''\n", FIELD, 1))
    return copied.parent


def run(package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': str(package)}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=package, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_a_new_field_is_a_new_option(package, tmp_path):
    log = str(tmp_path / 'settings.toml')
    assert run(package, '-c', PROGRAM, log).stdout == 'few\n'
    assert run(package, '-c', PROGRAM, log, '--slices', 'many').stdout == 'many\n'
    wrong = run(package, '-m', 'mslesseg_app', 'bids', 'out', 'participant', '--slices', 'all')
    assert (wrong.returncode, 'few' in wrong.stderr) == (64, True)
    assert 'How many slices.' in run(package, '-m', 'mslesseg_app', '--help').stdout


def test_without_options_the_settings_have_their_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = to_settings(build_parser().parse_args(['/bids', '/out', 'participant']), '')
    own = {'bids_dir', 'out_dir', 'work_dir', 'nprocs', 'omp_nthreads', 'run_uuid'}
    expected = Settings(Path('/bids'), Path('/out'), tmp_path / 'work')
    for item in dataclasses.fields(Settings):
        if item.name not in own:
            assert getattr(found, item.name) == getattr(expected, item.name), item.name
