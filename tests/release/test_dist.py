"""What a release holds, and that the wheel works where nothing else of the project is."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

from mslesseg_app import __version__

pytestmark = pytest.mark.slow


def test_checksums_are_right(dist: Path) -> None:
    lines = (dist / 'SHA256SUMS').read_text().splitlines()
    listed = dict(reversed(line.split('  ')) for line in lines)
    there = {str(p.relative_to(dist)) for p in dist.rglob('*') if p.is_file()} - {'SHA256SUMS'}
    assert listed.keys() == there
    for name, digest in listed.items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


def test_bill_of_materials_is_whole(dist: Path) -> None:
    bill = json.loads((dist / 'mslesseg.cdx.json').read_text())
    parts = {part['name']: part for part in bill['components']}
    assert bill['metadata']['component']['name'] == 'mslesseg'
    assert {'torch', 'nipype', 'nibabel', 'heudiconv', 'simpleitk'} <= parts.keys()
    assert all(part['licenses'] for part in parts.values())
    assert all(part['purl'].startswith('pkg:pypi/') for part in parts.values())
    known = {part['bom-ref'] for part in parts.values()} | {f'mslesseg=={__version__}'}
    for line in bill['dependencies']:
        assert {line['ref'], *line.get('dependsOn', [])} <= known
    listed = {line.split('\t')[0] for line in (dist / 'licences.tsv').read_text().splitlines()}
    assert {'pytest', 'torch'} <= listed


def test_source_distribution_can_be_tested_and_built(dist: Path) -> None:
    with tarfile.open(dist / f'mslesseg-{__version__}.tar.gz') as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    for wanted in (
        'pyproject.toml', 'Makefile', 'LICENSE', 'CHANGES.md', 'constraints/py311.txt',
        'mslesseg_app/__init__.py', 'heuristics/mslesseg.py', 'tests/conftest.py',
        'release/make.py', 'release/boutiques.json', 'docs/conf.py', 'docs/index.md',
    ):  # fmt: skip
        assert wanted in names


@pytest.fixture(scope='module')
def empty(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it.

    The libraries are those of the environment that runs the tests, through a ``.pth`` file:
    to install them again would take minutes and gigabytes. Ours come from the wheel.
    """
    folder = tmp_path_factory.mktemp('empty') / 'venv'
    venv.create(folder, with_pip=True)
    (wheel,) = dist.glob('*.whl')
    subprocess.run(
        [
            folder / 'bin' / 'python',
            '-m',
            'pip',
            'install',
            '-q',
            '--no-deps',
            '--no-index',
            wheel,
        ],
        check=True,
        capture_output=True,
    )
    version = f'python{sys.version_info[0]}.{sys.version_info[1]}'
    site = folder / 'lib' / version / 'site-packages'
    (site / 'libraries.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')
    return folder


def run(command: list[object], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {'PATH': '/usr/bin:/bin', 'HOME': str(folder), 'NO_ET': '1'}
    return subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize('how', ['script', 'module'])
def test_the_wheel_runs(how: str, empty: Path, tmp_path: Path) -> None:
    start = [empty / 'bin' / 'mslesseg'] if how == 'script' else [
        empty / 'bin' / 'python', '-m', 'mslesseg_app',
    ]  # fmt: skip
    done = run([*start, '--version'], tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, f'mslesseg {__version__}'), done.stderr
    done = run([*start, 'models', 'show', 'hyperintensity'], tmp_path)
    assert 'ready to run: yes' in done.stdout, done.stderr
    assert run([*start, 'nowhere', 'out', 'participant'], tmp_path).returncode == 66


def test_it_is_the_wheel_that_runs(empty: Path, tmp_path: Path) -> None:
    script = 'import mslesseg_app; print(mslesseg_app.__file__)'
    done = run([empty / 'bin' / 'python', '-c', script], tmp_path)
    assert done.stdout.startswith(str(empty)), done.stdout + done.stderr


def test_a_dataset_goes_through(empty: Path, tmp_path: Path) -> None:
    """From the wheel alone: a coarse head, from DICOM files to masks and a page."""
    command = [empty / 'bin' / 'mslesseg', 'demo', 'demo', '--resolution', '3', '--data-only']
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / 'demo' / 'bids').rglob('*_FLAIR.nii.gz'))
