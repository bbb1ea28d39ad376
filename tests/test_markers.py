"""What a machine lacks is skipped with a reason, or fails where it is demanded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = """
import os, pytest

@pytest.mark.realdata
def test_scan(real_data):
    assert real_data.is_dir()

def test_home_is_not_the_users(project_root):
    assert 'mslesseg-tests-' in os.environ['HOME']

def test_no_network():
    import socket
    with pytest.raises(OSError, match='no network'):
        socket.create_connection(('192.0.2.1', 80), timeout=1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).parent / 'conftest.py', tmp_path)
    (tmp_path / 'test_sample.py').write_text(SAMPLE)
    (tmp_path / 'pytest.ini').write_text('[pytest]\nmarkers =\n    realdata: x\n')
    return tmp_path


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    mine = ('MSLESSEG_', 'PYTEST_')
    kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    kept['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'
    command = [sys.executable, '-m', 'pytest', '-rs', '-p', 'no:cacheprovider', folder]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=kept | environment
    )


def test_missing_data_skip_with_a_reason(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 0, done.stdout
    assert '2 passed, 1 skipped' in done.stdout
    assert 'MSLESSEG_TEST_DATA is not set' in done.stdout


def test_demanded_data_must_be_there(folder: Path) -> None:
    done = run(folder, MSLESSEG_DEMAND='realdata')
    assert done.returncode == 1
    assert 'realdata is demanded, but MSLESSEG_TEST_DATA is not set' in done.stdout


def test_present_data_are_used(folder: Path) -> None:
    done = run(folder, MSLESSEG_DEMAND='realdata', MSLESSEG_TEST_DATA=str(folder))
    assert '3 passed' in done.stdout


def test_a_misspelt_demand_is_an_error(folder: Path) -> None:
    assert run(folder, MSLESSEG_DEMAND='realdat').returncode == 4
