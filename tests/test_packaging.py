"""The package is light to import, and the built wheel holds everything it needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

import mslesseg_app

HEAVY = (
    'torch',
    'monai',
    'nipype',
    'niworkflows',
    'nibabel',
    'SimpleITK',
    'scipy',
    'pandas',
    'bids',
)

# Runs the command line with sockets that refuse, and says which heavy modules it loaded.
LIGHT = f"""
import json, socket, sys

def refuse(*_, **__):
    raise OSError('no network')

socket.socket.connect = socket.getaddrinfo = refuse
from mslesseg_app.cli.main import main
try:
    code = main(ARGUMENTS)
except SystemExit as stop:
    code = stop.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps([code or 0, loaded]), file=sys.stderr)
"""


def run_light(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = LIGHT.replace('ARGUMENTS', repr(list(arguments)))
    return subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize('option', ['--help', '--version'])
def test_help_and_version_need_neither_network_nor_heavy_libraries(option: str) -> None:
    done = run_light(option)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1]) == [0, []]
    assert 'mslesseg' in done.stdout


def test_help_is_quick() -> None:
    """Best of three, since other work may share the cores."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, '-m', 'mslesseg_app', '--help'], capture_output=True, check=True
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_import_of_the_package_loads_nothing_heavy() -> None:
    script = 'import sys, mslesseg_app; print(*sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True
    )
    assert not set(HEAVY) & set(done.stdout.split())


def test_numerical_packages_do_not_load_torch_until_it_is_needed() -> None:
    packages = ('spatial', 'lesions', 'metrics', 'models', 'models.prediction')
    imports = ', '.join(f'mslesseg_app.{name}' for name in packages)
    script = f'import sys, {imports}; print(*sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True
    )
    assert not {'torch', 'monai', 'nipype'} & set(done.stdout.split())


def test_version_is_the_same_everywhere(project_root: Path) -> None:
    version = mslesseg_app.__version__
    assert re.fullmatch(r'\d+\.\d+\.\d+([.a-z0-9]*)', version)
    assert re.search(
        rf'^version: {re.escape(version)}$', read(project_root / 'CITATION.cff'), re.M
    )
    assert re.search(rf'^## {re.escape(version)}\b', read(project_root / 'CHANGES.md'), re.M)


def test_constraints_pin_every_requirement(project_root: Path) -> None:
    project = tomllib.loads(read(project_root / 'pyproject.toml'))['project']
    groups = project['optional-dependencies'].values()
    wanted = [*project['dependencies'], *(line for group in groups for line in group)]
    names = {canonical(re.split(r'[<>=!~;\[ ]', line)[0]) for line in wanted} - {'mslesseg'}
    for constraints in (project_root / 'constraints').glob('py*.txt'):
        lines = [line for line in read(constraints).splitlines() if line[:1] not in {'', '#'}]
        assert all(re.fullmatch(r'[\w.-]+==[\w.]+', line) for line in lines)
        assert names <= {canonical(line.partition('==')[0]) for line in lines}


def read(path: Path) -> str:
    return path.read_text(encoding='utf-8')


def canonical(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()


@pytest.mark.slow
def test_wheel_holds_data_and_heuristics(project_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', tmp_path]
    subprocess.run([*command, project_root], capture_output=True, check=True, timeout=300)
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    sources = {
        str(path.relative_to(project_root))
        for path in (project_root / 'mslesseg_app').rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    heuristics = {
        f'mslesseg_app/heuristics/{path.name}'
        for path in (project_root / 'heuristics').glob('*.py')
    }
    assert sources <= held
    assert heuristics
    assert heuristics <= held
    assert not [name for name in held if name.startswith(('tests/', 'benchmarks/', 'docs/'))]
