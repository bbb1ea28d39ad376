"""The script that puts external engines into the images: what it installs, links and refuses."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from mslesseg_app.models.registry import get_entry

SCRIPT = Path(__file__).parents[2] / 'release' / 'engines.sh'
PIP = '#!/bin/sh\necho "$0 $*" >> {log}\n'
PYTHON = '#!/bin/sh\nmkdir -p "$3/bin"; cp {pip} "$3/bin/pip"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A place like ``/opt`` with a pip that only takes notes."""
    pip = tmp_path / 'venv' / 'bin' / 'pip'
    pip.parent.mkdir(parents=True)
    pip.write_text(PIP.format(log=shlex.quote(str(tmp_path / 'log'))))
    python = tmp_path / 'programs' / 'python3'
    python.parent.mkdir()
    python.write_text(PYTHON.format(pip=shlex.quote(str(pip))))
    for path in (pip, python):
        path.chmod(0o755)
    return tmp_path


def install(root: Path, engines: str, *more: str) -> subprocess.CompletedProcess[str]:
    path = f'{root / "programs"}:{os.environ["PATH"]}'
    return subprocess.run(
        ['sh', str(SCRIPT), engines, 'pins.txt', *more],
        env={**os.environ, 'PATH': path, 'ENGINES_ROOT': str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_engine_but_nnunet_has_an_environment_and_a_program_beside_ours(root):
    done = install(root, 'nnunet lst-ai mindglide samseg', 'https://example.org/cpu')
    assert done.returncode == 0, done.stderr
    lines = (root / 'log').read_text().splitlines()
    extra = 'install --quiet --extra-index-url https://example.org/cpu'
    pinned = extra.replace('--extra', '-c pins.txt --extra')
    assert lines == [
        f'{root}/venv/bin/pip {pinned} nnunetv2>=2.8,<3',
        f'{root}/engines/lst-ai/bin/pip {extra} lst-ai==2.0.0rc1',
        f'{root}/engines/mindglide/bin/pip {extra} mindglide==1.3.0',
        f'{root}/engines/samseg/bin/pip {extra} samseg==0.4a0 tensorflow-cpu==2.15.1',
    ]
    for name in ('lst-ai', 'mindglide', 'samseg'):
        program = shlex.split(get_entry(name).options['command'])[0]
        assert (root / 'venv' / 'bin' / program).readlink() == (
            root / 'engines' / name / 'bin' / program
        )


@pytest.mark.parametrize('engines', ['', 'none'])
def test_nothing_is_installed_unless_asked_for(root, engines):
    assert install(root, engines).returncode == 0
    assert (root / 'engines').is_dir(), 'the images copy it'
    assert not (root / 'log').exists()


def test_an_unknown_engine_ends_the_build_before_anything_is_installed(root):
    done = install(root, 'nnunet flames')
    assert done.returncode == 64
    assert "there is no engine 'flames'" in done.stderr
    assert not (root / 'log').exists()
