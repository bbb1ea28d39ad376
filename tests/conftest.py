"""What all tests share: isolation from the user's home and the network, and markers.

A marker names something that a machine may lack. Where it is lacking, the test is
skipped with a reason; where ``MSLESSEG_DEMAND`` (names with commas) holds the marker,
it fails instead, so that continuous integration cannot lose tests without noticing.
``MSLESSEG_TEST_DEADLINE`` (seconds since 1970) is when no further test begins: the rest is
skipped, and says so.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_HOME = Path(tempfile.mkdtemp(prefix='mslesseg-tests-'))


def _isolate(home: Path) -> None:
    """Redirect everything that libraries look up below the user's home (some at import)."""
    folders = {
        'HOME': home,
        'XDG_CACHE_HOME': home / 'cache',
        'XDG_CONFIG_HOME': home / 'config',
        'XDG_DATA_HOME': home / 'data',
        'XDG_STATE_HOME': home / 'state',
        'MPLCONFIGDIR': home / 'matplotlib',
        'TEMPLATEFLOW_HOME': home / 'templateflow',
    }
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(folder)
    for name in ('MSLESSEG_MODEL_DIR', 'MSLESSEG_OFFLINE'):
        os.environ.pop(name, None)
    os.environ.update(
        MPLBACKEND='Agg',
        NO_ET='1',  # no version look-ups by Nipype and HeuDiConv
        NIPYPE_NO_ET='1',
        TEMPLATEFLOW_AUTOUPDATE='0',
    )
    if 'PYTEST_XDIST_WORKER' in os.environ:  # several workers share the cores
        os.environ.setdefault('OMP_NUM_THREADS', '1')


_isolate(_HOME)
sys.path.insert(0, str(Path(__file__).parent / 'tools'))  # helpers that tests import

import hypothesis  # noqa: E402
import pytest  # noqa: E402

hypothesis.settings.register_profile(
    'mslesseg', deadline=None, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile('mslesseg')


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


# ------------------------------------------------------------------- what is at hand


@functools.cache
def _data_folder() -> Path | None:
    value = os.environ.get('MSLESSEG_TEST_DATA', '')
    return Path(value).resolve() if value else None


@functools.cache
def _find_chromium() -> str | None:
    names = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
    return next((found for name in names if (found := shutil.which(name))), None)


def _runs(*command: str) -> bool:
    """Whether a command exists and succeeds."""
    if shutil.which(command[0]) is None:
        return False
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    return done.returncode == 0


@functools.cache
def _lacks_realdata() -> str:
    folder = _data_folder()
    if folder is None:
        return 'MSLESSEG_TEST_DATA is not set'
    return '' if folder.is_dir() else f'MSLESSEG_TEST_DATA={folder} is not a folder'


@functools.cache
def _lacks_browser() -> str:
    return '' if _find_chromium() else 'no Chromium on PATH'


@functools.cache
def _lacks_root() -> str:
    if os.geteuid() != 0:
        return 'not root'
    mount = ('mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(_HOME / 'state'))
    return '' if _runs('unshare', '--mount', *mount) else 'no right to mount'


@functools.cache
def _lacks_container() -> str:
    import engine  # of tests/tools

    return engine.why_not()


@functools.cache
def _lacks_apptainer() -> str:
    import apptainer  # of tests/tools

    return apptainer.why_not()


@functools.cache
def _lacks_cluster() -> str:
    if os.geteuid() != 0:
        return 'a private SLURM needs root'
    names = ('munged', 'slurmctld', 'slurmd', 'sbatch')
    path = f'{os.environ.get("PATH", "")}:/usr/sbin:/sbin'
    missing = [name for name in names if shutil.which(name, path=path) is None]
    return f'not installed: {", ".join(missing)}' if missing else ''


@functools.cache
def _lacks_samseg() -> str:
    program = os.environ.get('MSLESSEG_SAMSEG', '')
    if not program:
        return 'MSLESSEG_SAMSEG does not name the program run_samseg'
    return '' if shutil.which(program) else f'MSLESSEG_SAMSEG={program} is no program'


NEEDS: dict[str, Callable[[], str]] = {
    'realdata': _lacks_realdata,
    'browser': _lacks_browser,
    'root': _lacks_root,
    'container': _lacks_container,
    'apptainer': _lacks_apptainer,
    'cluster': _lacks_cluster,
    'samseg': _lacks_samseg,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests, which have a time limit of their own, first.

    Otherwise the last of them runs alone while the other workers have nothing left to do.
    """
    items.sort(key=lambda item: item.get_closest_marker('timeout') is None)


def pytest_configure(config: pytest.Config) -> None:
    unknown = _demanded() - set(NEEDS)
    if unknown:
        raise pytest.UsageError(f'MSLESSEG_DEMAND names unknown markers: {sorted(unknown)}')


def _demanded() -> set[str]:
    names = os.environ.get('MSLESSEG_DEMAND', '').split(',')
    return {name.strip() for name in names if name.strip()}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers():
        reason = NEEDS.get(marker.name, str)()
        if reason and marker.name in _demanded():
            pytest.fail(f'{marker.name} is demanded, but {reason}', pytrace=False)
        if reason:
            pytest.skip(f'{marker.name}: {reason}')
    deadline = float(os.environ.get('MSLESSEG_TEST_DEADLINE') or 'inf')
    if time.time() > deadline:
        pytest.skip('no time left: MSLESSEG_TEST_DEADLINE is over')


# -------------------------------------------------------------------------- fixtures


@pytest.fixture(scope='session', autouse=True)
def no_network() -> Iterator[None]:
    """Refuse connections to other machines from this process."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else 'localhost'
        if host not in {'localhost', '::1'} and not str(host).startswith('127.'):
            raise OSError(f'tests have no network, but this one asks for {host}')
        connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, 'connect', guarded)
        yield


@pytest.fixture(scope='session')
def real_data() -> Path:
    """Folder of real scans; use it in tests marked ``realdata``."""
    folder = _data_folder()
    if folder is None:
        pytest.skip('MSLESSEG_TEST_DATA is not set')
    return folder


@pytest.fixture(scope='session')
def chromium() -> str:
    """Path of the browser; use it in tests marked ``browser``."""
    found = _find_chromium()
    if found is None:
        pytest.skip('no Chromium on PATH')
    return found


@pytest.fixture(scope='session')
def project_root() -> Path:
    """Folder of pyproject.toml."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def venv_bin() -> Path:
    """Folder of the scripts that are installed beside the running interpreter."""
    return Path(sys.executable).parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder of the test's own."""
    folder = tmp_path / 'home'
    folder.mkdir()
    monkeypatch.setenv('HOME', str(folder))
    return folder
