"""The entry as a process: where nothing is missing it is ``mslesseg``, else it says what is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mslesseg_app import __version__


def entry(
    *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[3]
    return subprocess.run(
        [sys.executable, '-m', 'mslesseg_app.deploy.container', *map(str, arguments)],
        env={**os.environ, 'PYTHONPATH': str(root), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_version_and_help_are_those_of_the_command() -> None:
    done = entry('--version')
    assert (done.returncode, done.stdout) == (0, f'mslesseg {__version__}\n')
    assert done.stderr == ''
    for arguments in ([], ['demo', '--help'], ['models', 'list'], ['nonsense']):
        plain = subprocess.run(
            [sys.executable, '-m', 'mslesseg_app', *arguments],
            env={**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parents[3])},
            capture_output=True,
            text=True,
            check=False,
        )
        done = entry(*arguments)
        assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout), arguments
        assert done.stderr == plain.stderr


def test_missing_folder_ends_with_66_and_the_line_to_type() -> None:
    done = entry('/home/nobody/bids', '/home/nobody/out', 'participant')
    assert done.returncode == 66
    assert '-v /home/nobody/bids:/home/nobody/bids:ro -v /home/nobody/out' in done.stderr
    assert 'Traceback' not in done.stderr


def test_missing_gpu_ends_with_64(tmp_path: Path) -> None:
    done = entry(
        Path(__file__).parent, tmp_path / 'out', 'participant', '--device', 'cuda', '-w',
        tmp_path / 'work', CUDA_VISIBLE_DEVICES='', MSLESSEG_UNMOUNTED='allow',
    )  # fmt: skip
    assert done.returncode == 64, done.stderr
    assert '--gpus all' in done.stderr


def test_licence_of_what_else_the_image_holds_is_shown(tmp_path: Path) -> None:
    notice = tmp_path / 'NOTICE'
    notice.write_text('Parts of X,\nfor non-commercial use only.\n')
    done = entry('models', 'list', MSLESSEG_NOTICE=str(notice))
    assert done.returncode == 0
    assert 'note: Parts of X, for non-commercial use only.' in done.stderr
    assert 'Parts of X' not in entry('models', 'list', '-q', MSLESSEG_NOTICE=str(notice)).stderr


def test_request_to_end_is_heard(tmp_path: Path) -> None:
    """The command waits on a named pipe, as it would on a long work."""
    pipe = tmp_path / 'notice'
    os.mkfifo(pipe)
    script = (
        'import sys; from mslesseg_app.deploy.container import __main__ as entry\n'
        'def wait(_):\n    print("waiting", flush=True); open(sys.argv[1]).read()\n'
        'entry.check = wait\nsys.exit(entry.main([]))'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', script, pipe],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == 'waiting\n'
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert 'Interrupted' in said


@pytest.mark.parametrize('name', ['Dockerfile', 'Singularity.def'])
def test_version_of_the_image_is_that_of_the_package(name: str, project_root: Path) -> None:
    text = (project_root / name).read_text('utf-8')
    label = 'org.opencontainers.image.version'
    assert f'{label}="{__version__}"' in text or f'{label} {__version__}' in text
