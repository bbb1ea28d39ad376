"""The image ``free``, built and run by a real engine."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from engine import Docker
from images import DEMO, UID, Demo, copied, different, writable

from mslesseg_app import __version__

pytestmark = [pytest.mark.slow, pytest.mark.container]

#: What a careful site demands of every container.
STRICT = (
    *('--read-only', '--tmpfs', '/tmp', '--cap-drop', 'ALL'),
    *('--security-opt', 'no-new-privileges', '--user', f'{UID}:{UID}'),
)


@pytest.fixture(scope='module')
def bids(tmp_path_factory: pytest.TempPathFactory, outside: Demo) -> Path:
    """The demo's dataset, readable by all."""
    return copied(outside.bids, tmp_path_factory.mktemp('data') / 'bids')


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return writable(tmp_path / 'out')


def test_image_is_small_described_and_of_an_ordinary_user(docker: Docker, image: str) -> None:
    found = docker.inspect(image)
    assert found['Size'] < 2.2e9
    assert found['Config']['User'] == '1000:1000'
    labels = found['Config']['Labels']
    assert labels['org.opencontainers.image.version'] == __version__
    assert labels['org.opencontainers.image.licenses'] == 'Apache-2.0'


def test_build_leaves_no_settings_of_pip(docker: Docker, image: str) -> None:
    look = 'ls /etc/pip.conf /run/secrets/ca /root/.cache 2>/dev/null; pip config list; env'
    done = docker.run(image, '-c', look, options=('--user', '0', '--entrypoint', 'bash'))
    assert 'pip.conf' not in done.stdout
    assert 'secrets' not in done.stdout
    assert 'index' not in done.stdout.lower()


def test_all_is_there_without_network_for_any_user(docker: Docker, image: str) -> None:
    own = ('--entrypoint', '/opt/venv/bin/python')
    module = ('-P', '-m', 'mslesseg_app.deploy.container.selftest')
    done = docker.run(image, *module, options=(*STRICT, *own, '--env', 'HOME=/tmp'))
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'FSL: not in this image' in done.stdout
    assert done.stdout.count('\n') == 6


@pytest.mark.parametrize('user', [(), ('--user', '0'), ('--user', '23456:34567')])
def test_version_for_every_user(docker: Docker, image: str, user: tuple[str, ...]) -> None:
    done = docker.run(image, '--version', options=user)
    assert (done.returncode, done.stdout) == (0, f'mslesseg {__version__}\n'), done.stderr


def test_demo_is_the_same_inside(
    docker: Docker, image: str, outside: Demo, tmp_path: Path, note: list[str]
) -> None:
    """DICOM to pages, without network, as an ordinary user, on a file system that is read-only."""
    folder = writable(tmp_path / 'demo')
    start = time.monotonic()
    done = docker.run(image, 'demo', '/demo', *DEMO, options=(*STRICT, '-v', f'{folder}:/demo'))
    assert done.returncode == 0, done.stdout + done.stderr
    seconds = time.monotonic() - start
    note.append(f'demo: {seconds:.0f} s in Docker, {outside.seconds:.0f} s outside')
    assert different(outside.bids, folder / 'bids') == []
    assert different(outside.out, folder / 'out') == []
    assert (folder / 'out').stat().st_uid == UID
    assert list((folder / 'out').glob('*.html'))
    description = json.loads((folder / 'out' / 'dataset_description.json').read_text())
    assert description['GeneratedBy'][0]['Container'] == {'Type': 'docker', 'Tag': image}


def test_folders_that_are_not_mounted(docker: Docker, image: str) -> None:
    done = docker.run(image, '/home/me/bids', '/home/me/out', 'participant')
    assert done.returncode == 66
    assert '-v /home/me/bids:/home/me/bids:ro -v /home/me/out:/home/me/out\n' in done.stderr


def test_results_that_would_be_lost(docker: Docker, image: str, bids: Path) -> None:
    done = docker.run(image, '/data', '/out', 'participant', options=('-v', f'{bids}:/data:ro'))
    assert done.returncode == 66
    assert '-v /path/on/your/computer:/out\n' in done.stderr
    assert '/data' not in done.stderr


def test_folder_that_docker_made(docker: Docker, image: str, out: Path, tmp_path: Path) -> None:
    mounts = ('-v', f'{tmp_path}/typo:/data:ro', '-v', f'{out}:/out')
    done = docker.run(image, '/data', '/out', 'participant', options=(*STRICT, *mounts))
    assert done.returncode == 66
    assert 'empty folder' in done.stderr


def test_output_that_cannot_be_written(docker: Docker, image: str, bids: Path, out: Path) -> None:
    data = ('-v', f'{bids}:/data:ro')
    command = ('/data', '/out', 'participant')
    done = docker.run(image, *command, options=(*STRICT, *data, '-v', f'{out}:/out:ro'))
    assert done.returncode == 73, done.stderr
    assert 'without ":ro"' in done.stderr
    other = ('--user', f'{UID + 1}:{UID + 1}')
    done = docker.run(image, *command, options=(*other, *data, '-v', f'{out}:/out'))
    assert done.returncode == 73, done.stderr
    assert '-u "$(id -u):$(id -g)"' in done.stderr
    assert not any(out.iterdir())


def test_read_only_image_without_room_for_work(
    docker: Docker, image: str, bids: Path, out: Path
) -> None:
    mounts = ('-v', f'{bids}:/data:ro', '-v', f'{out}:/out')
    done = docker.run(image, '/data', '/out', 'participant', options=('--read-only', *mounts))
    assert done.returncode == 73
    assert '--tmpfs /tmp' in done.stderr


def test_gpu_that_is_not_there(docker: Docker, image: str, bids: Path, out: Path) -> None:
    mounts = ('-v', f'{bids}:/data:ro', '-v', f'{out}:/out')
    command = ('/data', '/out', 'participant', '--device', 'cuda')
    done = docker.run(image, *command, options=(*STRICT, *mounts))
    assert done.returncode == 64
    assert '--gpus all' in done.stderr


def test_work_inside_the_container_is_said(
    docker: Docker, image: str, bids: Path, out: Path
) -> None:
    mounts = ('-v', f'{bids}:/data:ro', '-v', f'{out}:/out')
    command = ('/data', '/out', 'participant', '--dry-run')
    done = docker.run(image, *command, options=(*STRICT, *mounts))
    assert done.returncode == 0, done.stderr
    assert 'ends with this container' in done.stderr
    assert 'sub-demo' in done.stdout


def test_stop_is_heard(docker: Docker, image: str, tmp_path: Path) -> None:
    """Not killed (137) after the engine lost its patience."""
    folder = writable(tmp_path / 'demo')
    started = docker('run', '--detach', *STRICT, '-v', f'{folder}:/demo', image, 'demo', '/demo')
    container = started.stdout.strip()
    try:
        for _ in range(300):
            if (folder / 'demo.json').exists():
                break
            time.sleep(0.2)
        docker('stop', '--time', '60', container)
        state = json.loads(docker('inspect', container).stdout)[0]['State']
        assert state['ExitCode'] == 130
        assert 'Interrupted' in docker('logs', container).stderr
    finally:
        docker('rm', '--force', container)


def test_own_engine_mounts_nothing_for_others(docker: Docker, place: Path) -> None:
    if not (place / 'engine').is_dir():
        pytest.skip('an engine ran here already')
    assert str(place / 'engine') not in Path('/proc/self/mountinfo').read_text()
