"""Engines, images and the demo outside of them, each made once for all tests here.

``MSLESSEG_CONTAINER_DIR`` may name a folder for them that is kept: engine, base image, Apptainer,
and ``report.txt``, in which sizes and times are noted.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import apptainer as apptainer_tool
import baseimage
import engine as engine_tool
import pytest
from apptainer import Apptainer
from engine import Docker
from images import DEMO, IMAGE, Demo, reachable


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo outside makes a test slow, whichever test comes first."""
    for item in items:
        if {'docker', 'image', 'sif', 'outside'} & set(getattr(item, 'fixturenames', ())):
            item.add_marker(pytest.mark.timeout(3600))


def demanded(marker: str) -> bool:
    return marker in os.environ.get('MSLESSEG_DEMAND', '').split(',')


@pytest.fixture(scope='session')
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of all that is large; it goes afterwards, unless it was given."""
    given = os.environ.get('MSLESSEG_CONTAINER_DIR')
    folder = Path(given).resolve() if given else tmp_path_factory.mktemp('containers')
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    yield reachable(folder)
    if not given:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope='session')
def note(place: Path) -> Iterator[list[str]]:
    """Lines about what was built: shown at the end, and added to ``report.txt``."""
    lines = [f'{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores']
    yield lines
    with (place / 'report.txt').open('a') as report:
        report.write(''.join(f'{line}\n' for line in lines))


@pytest.fixture(scope='session')
def base(place: Path) -> Path:
    """Root file system under the name of FROM, for where no registry is reached."""
    if reason := baseimage.why_not():
        (pytest.fail if demanded('container') else pytest.skip)(reason)
    root = Path(__file__).resolve().parents[3]
    return baseimage.make_base(place / 'base', baseimage.codename(baseimage.from_line(root)))


@pytest.fixture(scope='session')
def docker(
    place: Path, project_root: Path, note: list[str], request: pytest.FixtureRequest
) -> Iterator[Docker]:
    """An engine that has the base image."""
    name = baseimage.from_line(project_root)
    with engine_tool.engine(place / 'engine') as found:
        note.append('Docker ' + found('version', '--format', '{{.Server.Version}}').stdout.strip())
        if not found.has(name):
            tar = request.getfixturevalue('base')
            found('import', '--change', 'CMD ["python3"]', tar, name)
            note.append(f'base image: put together from Debian packages, as {name}')
        yield found


@pytest.fixture(scope='session')
def image(docker: Docker, place: Path, project_root: Path, note: list[str]) -> str:
    """The image ``free``, built from this checkout."""
    start = time.monotonic()
    index = baseimage.torch_index(project_root)
    with baseimage.pip_settings(place / 'pip', '/run/secrets/ca') as settings:
        docker(
            *('build', '--network', 'host', '--progress', 'plain', '--target', 'free'),
            *('--tag', IMAGE, *settings.secrets, '--build-arg', f'TORCH_INDEX={index}'),
            project_root,
            timeout=3000,
        )
    size = docker.inspect(IMAGE)['Size']
    note.append(f'{IMAGE}: {size / 1e9:.2f} GB, built in {time.monotonic() - start:.0f} s')
    return IMAGE


@pytest.fixture(scope='session')
def outside(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Demo:
    """The demo without a container."""
    root = tmp_path_factory.mktemp('outside') / 'demo'
    # kernels of the numerical libraries are chosen by the processor, as in a container
    own = ('OPENBLAS_', 'MKL_', 'OMP_', 'NPY_', 'ITK_', 'ATEN_', 'ONEDNN_')
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, '-m', 'mslesseg_app', 'demo', root, *DEMO],
        env={**environment, 'PYTHONPATH': str(project_root)},
        cwd=root.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Demo(root, time.monotonic() - start)


# ------------------------------------------------------------------------- Apptainer


@pytest.fixture(scope='session')
def apptainer(place: Path, note: list[str]) -> Apptainer:
    """Apptainer, found or installed; where that fails, the tests are skipped and say so."""
    try:
        found = apptainer_tool.provide(place / 'apptainer')
    except RuntimeError as error:
        (pytest.fail if demanded('apptainer') else pytest.skip)(str(error))
    done = found('--version')
    assert done.returncode == 0, done.stderr
    note.append(done.stdout.strip())
    return found


@pytest.fixture(scope='session')
def sif(
    apptainer: Apptainer,
    place: Path,
    project_root: Path,
    note: list[str],
    request: pytest.FixtureRequest,
) -> Path:
    """The image of Singularity.def, built from this checkout; its %test ran at the end."""
    folder = place / 'sif'
    folder.mkdir(exist_ok=True)
    target, start = folder / 'mslesseg.sif', time.monotonic()
    definition = project_root / 'Singularity.def'
    name = baseimage.from_line(project_root)
    options = ['--build-arg', f'torch_index={baseimage.torch_index(project_root)}']
    if os.geteuid() != 0:
        options.append('--fakeroot')
    with baseimage.pip_settings(place / 'pip', '/etc/ssl/certs/local-ca.pem') as settings:
        if apptainer('build', '--sandbox', folder / 'probe', f'docker://{name}').returncode != 0:
            tar = request.getfixturevalue('base')
            definition = _local(definition, tar, folder, settings)
        shutil.rmtree(folder / 'probe', ignore_errors=True)
        quick = ('--mksquashfs-args', '-comp zstd -Xcompression-level 3')
        here = os.getcwd()
        os.chdir(project_root)  # where %files looks
        try:
            done = apptainer('build', '--force', *quick, *options, target, definition)
        finally:
            os.chdir(here)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    (folder / 'build.log').write_text(done.stdout + done.stderr)
    seconds = time.monotonic() - start
    note.append(f'{target.name}: {target.stat().st_size / 1e9:.2f} GB, built in {seconds:.0f} s')
    return target


def _local(definition: Path, tar: Path, folder: Path, settings: baseimage.PipSettings) -> Path:
    """Return the definition with our base image, which holds pip's settings here."""
    root = folder / 'base'
    if not root.is_dir():
        with tarfile.open(tar) as archive:
            members = [m for m in archive if not m.isdev() and not m.name.startswith('./dev/')]
            archive.extractall(root, members, filter='fully_trusted')
    shutil.copy(settings.config, root / 'etc' / 'pip.conf')
    if settings.certificates:
        shutil.copy(settings.certificates, root / 'etc/ssl/certs/local-ca.pem')
    text = definition.read_text('utf-8').splitlines()
    assert text[0] == 'Bootstrap: docker'
    assert text[1].startswith('From: ')
    target = folder / 'local.def'
    target.write_text('\n'.join(['Bootstrap: localimage', f'From: {root}', *text[2:]]) + '\n')
    return target
