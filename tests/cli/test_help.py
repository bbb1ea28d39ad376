"""Help and version: quick, without network, without the libraries that take seconds to import."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mslesseg_app import __version__
from mslesseg_app.cli.main import VERBS

BLOCKED = """
import socket

def refuse(*args, **kwargs):
    raise SystemExit('the network was asked for')

socket.socket.connect = socket.socket.connect_ex = refuse
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""
WATCHED = """
import atexit, sys

HEAVY = ['nipype', 'niworkflows', 'torch', 'monai', 'nibabel', 'bids', 'SimpleITK', 'numpy',
         'pandas', 'scipy', 'matplotlib']

@atexit.register
def report():
    print('HEAVY', [name for name in HEAVY if name in sys.modules], file=sys.stderr)
"""
VERBS_WITH_HELP = [
    'convert', 'run', 'demo', 'models', 'import', 'train', 'crossval', 'evaluate', 'consensus',
    'report', 'completion', 'hpc', 'export',
]  # fmt: skip
HELP = [['--help'], *([verb, '--help'] for verb in VERBS_WITH_HELP), ['--version']]


@pytest.fixture
def environment(tmp_path: Path, project_root: Path) -> dict[str, str]:
    """An environment in which nothing reaches the network and imports are reported."""
    (tmp_path / 'sitecustomize.py').write_text(BLOCKED + WATCHED)
    paths = os.pathsep.join([str(tmp_path), str(project_root)])
    return {**os.environ, 'PYTHONPATH': paths, 'COLUMNS': '100'}


def run(arguments: list[str], environment: dict[str, str], folder: Path):
    command = [sys.executable, '-m', 'mslesseg_app', *arguments]
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize('arguments', HELP, ids=' '.join)
def test_no_network_and_no_heavy_imports(arguments, environment, tmp_path):
    done = run(arguments, environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == 'HEAVY []'
    assert done.stdout


def test_help_takes_less_than_half_a_second(environment, tmp_path):
    """Measured as processor time, which other programs on the machine do not lengthen."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(['--help'], environment, tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.5


def test_help_leaves_nothing_behind(environment, tmp_path):
    folder = tmp_path / 'empty'
    folder.mkdir()
    run(['--help'], environment, folder)
    assert list(folder.iterdir()) == []


def test_version(environment, tmp_path):
    for option in ('--version', '-v'):
        done = run([option], environment, tmp_path)
        assert done.stdout.strip() == f'mslesseg {__version__}'


def test_help_has_every_verb_and_option(environment, tmp_path):
    text = run(['--help'], environment, tmp_path).stdout
    assert all(f'mslesseg {verb}' in text for verb in VERBS)
    options = """--skip-bids-validation --participant-label --session-label --bids-filter-file
        --derivatives --bids-database-dir --nprocs --nthreads --n-cpus --omp-nthreads --mem
        --device --dry-run --reports-only --boilerplate-only --engine --strategy
        --subject-anatomical-reference --on-failed-alignment --require --ignore --random-seed
        --model --model-dir --threshold
        --min-lesion-volume --connectivity --longitudinal --change-threshold
        --change-extent --min-change-volume --work-dir --write-graph
        --write-provenance
        --resource-monitor --discard-intermediates --stop-on-first-crash --offline --notrack
        --quiet --version"""
    assert [name for name in options.split() if name not in text] == []
    assert 'not a medical device' in text
