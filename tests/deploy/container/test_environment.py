"""Home, user, device and memory of a container."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from argparse import Namespace
from pathlib import Path

import pytest

from mslesseg_app.core.errors import OutputError, UsageError
from mslesseg_app.deploy.container import environment as container


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    return tmp_path


def test_a_home_that_works_is_kept(temporary: Path) -> None:
    home = temporary / 'home'
    home.mkdir()
    environment = {'HOME': str(home), 'USER': 'me', 'XDG_CACHE_HOME': str(home)}
    assert container.prepare(environment) == []
    assert environment['HOME'] == environment['XDG_CACHE_HOME'] == str(home)
    assert environment['USER'] == 'me'
    assert 'MPLCONFIGDIR' not in environment


def test_a_user_without_home_and_name_gets_both(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, 'getpwuid', unknown)
    environment = {'HOME': '/nowhere/at/all', 'MPLCONFIGDIR': '/nowhere'}
    said = container.prepare(environment)
    home = Path(environment['HOME'])
    assert home.parent == temporary
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert '/nowhere/at/all' in said[0]
    assert environment['USER'] == environment['LOGNAME'] == f'user{os.getuid()}'
    assert Path(environment['MPLCONFIGDIR']).parent == home
    assert container.prepare({'HOME': ''}), 'a second time'


def test_a_folder_that_another_put_there_is_not_trusted(temporary: Path) -> None:
    trap = temporary / 'trap'
    trap.mkdir()
    (temporary / f'mslesseg-{os.getuid()}').symlink_to(trap)
    environment: dict[str, str] = {}
    container.prepare(environment)
    assert Path(environment['HOME']).resolve() != trap
    assert not list(trap.iterdir())


def test_nothing_to_write_to_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, 'gettempdir', none)
    with pytest.raises(OutputError) as caught:
        container.prepare({})
    assert caught.value.exit_code == 73
    assert '--tmpfs /tmp' in caught.value.hint


# ----------------------------------------------------------------------------- device


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root with shared memory and no GPU."""
    (tmp_path / 'dev' / 'shm').mkdir(parents=True)
    return tmp_path


def about(machine: Path, **options: object) -> list[str]:
    said = container.notes('bids_app', Namespace(**options), machine)
    return [note for note in said if 'root' not in note]


def test_without_a_gpu_nothing_is_said(machine: Path) -> None:
    assert about(machine, device='auto') == []


def test_a_gpu_that_does_not_compute_is_said(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / 'dev' / 'nvidiactl').touch()
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    (note,) = about(machine, device='auto')
    assert 'will run on the CPU' in note
    assert 'CPU build' in note or 'hides every GPU' in note
    assert about(machine, device='auto', dry_run=True) == []
    assert about(machine, device='cpu') == []


def test_a_gpu_that_was_asked_for_and_is_missing_is_an_error(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    with pytest.raises(UsageError) as caught:
        about(machine, device='cuda')
    assert caught.value.exit_code == 64
    assert '--gpus all' in caught.value.hint
    assert '--nv' in caught.value.hint


def test_a_gpu_that_computes_is_not_mentioned(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / 'dev' / 'nvidia0').touch()
    monkeypatch.setattr(container, '_PROBE', 'print()')
    assert about(machine, device='auto') == about(machine, device='cuda:1') == []


def test_a_test_that_dies_is_no_success(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, '_PROBE', 'import os; os.abort()')
    with pytest.raises(UsageError, match='ended with -6'):
        about(machine, device='cuda')


# ----------------------------------------------------------------------------- memory


def test_little_shared_memory_is_said_where_loaders_need_it(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, 'SHARED', 10**20)
    assert about(machine, loaders=0) == []
    (note,) = about(machine, loaders=2)
    assert '--shm-size' in note
    (machine / 'dev' / 'shm').rmdir()
    assert 'cannot be written' in about(machine)[0]
