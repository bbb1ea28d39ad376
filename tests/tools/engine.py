"""A Docker engine for tests: the one that runs here, or a private one that leaves nothing behind.

    python tests/tools/engine.py FOLDER COMMAND ...     run a command with DOCKER_HOST set
    python tests/tools/engine.py                        say whether there is or can be an engine

The private one needs root, `dockerd` and a kernel that lets it mount (Debian: docker.io). It has
its own socket, folders, mount namespace and control group, no bridge, no firewall rules and no
forwarding, so containers get no network, or the host's.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

#: What an engine makes outside of its own folders.
_LEFT = (
    '/opt/containerd/bin',
    '/opt/containerd/lib',
    '/opt/containerd',
    '/run/docker/plugins',
    '/run/docker',
    '/run/containerd/s',
    '/run/containerd',
)
_OPTIONS = (
    '--storage-driver=overlay2',
    '--bridge=none',
    '--iptables=false',
    '--ip6tables=false',
    '--ip-forward=false',
    '--ip-masq=false',
)
Done = subprocess.CompletedProcess[str]


class Docker:
    """A client with the variables that lead to its engine."""

    def __init__(self, client: str, environment: dict[str, str]) -> None:
        self.client = client
        self.environment = os.environ | environment

    def __call__(self, *arguments: object, check: bool = True, timeout: float = 600) -> Done:
        """Run ``docker ARGUMENTS``; a failure that is not expected shows what was said."""
        done = subprocess.run(
            [self.client, *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and done.returncode:
            said = (done.stdout + done.stderr)[-6000:]
            raise RuntimeError(f'docker {arguments[0]} ended with {done.returncode}:\n{said}')
        return done

    def run(self, image: str, *arguments: object, options: tuple[object, ...] = ()) -> Done:
        """Run an image to its end, without network, and remove the container."""
        own = ('run', '--rm', '--network', 'none')
        return self(*own, *options, image, *arguments, check=False, timeout=3000)

    def inspect(self, image: str) -> dict[str, Any]:
        """Return what the engine knows of an image."""
        found: list[dict[str, Any]] = json.loads(self('image', 'inspect', image).stdout)
        return found[0]

    def has(self, image: str) -> bool:
        """Whether an image is there, or can be pulled."""
        if self('image', 'inspect', image, check=False).returncode == 0:
            return True
        return self('pull', '--quiet', image, check=False).returncode == 0


@functools.cache
def client() -> str | None:
    """Return the first client on PATH that can build with BuildKit."""
    for folder in os.environ.get('PATH', '').split(os.pathsep):
        path = shutil.which('docker', path=folder)
        if path and _succeeds(path, 'build', '--help', DOCKER_BUILDKIT='1'):
            return path
    return None


def _succeeds(*command: str, **environment: str) -> bool:
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=60, env=os.environ | environment
        )
        return done.returncode == 0
    return False


@functools.cache
def _can_mount() -> bool:
    return os.geteuid() == 0 and _succeeds(
        'unshare', '--mount', 'mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', '/mnt'
    )


@functools.cache
def why_not() -> str:
    """Return what is missing for an engine, or nothing."""
    path = client()
    if path is None:
        return 'no Docker client that has BuildKit'
    if _succeeds(path, 'info'):
        return ''
    if shutil.which('dockerd') is None:
        return 'no Docker engine runs, and there is no dockerd to start'
    return '' if _can_mount() else 'no Docker engine runs, and no right to start one'


@contextmanager
def engine(folder: Path) -> Iterator[Docker]:
    """Give the engine that runs here; else start one in ``folder`` and stop it afterwards.

    Raises
    ------
    RuntimeError
        If there is none, or the private one does not come up.
    """
    if reason := why_not():
        raise RuntimeError(reason)
    path = client()
    assert path is not None
    running = Docker(path, {'DOCKER_BUILDKIT': '1'})
    if running('info', check=False).returncode == 0:
        yield running
        return
    before = {name for name in _LEFT if Path(name).exists()}
    process = _start(folder)
    try:
        socket = f'unix://{folder / "docker.sock"}'
        private = Docker(path, {'DOCKER_BUILDKIT': '1', 'DOCKER_HOST': socket})
        _wait(private, process, folder / 'dockerd.log')
        yield private
    finally:
        _stop(process)
        _tidy(before)


def _group() -> str:
    return f'mslesseg-tests-{os.getpid()}'


def _start(folder: Path) -> subprocess.Popen[bytes]:
    """Start dockerd in a mount namespace of its own; what it mounts ends with that."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / 'daemon.json'  # or it would write a key into /etc
    settings.write_text(json.dumps({'deprecated-key-path': str(folder / 'key.json')}))
    places = {
        'host': f'unix://{folder / "docker.sock"}',
        'data-root': folder / 'data',
        'exec-root': folder / 'exec',
        'pidfile': folder / 'dockerd.pid',
        'config-file': settings,
        'cgroup-parent': f'/{_group()}',
    }
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (folder / 'dockerd.log').open('wb') as log:
        return subprocess.Popen(
            [
                *('unshare', '--mount', '--propagation', 'slave', 'dockerd'),
                *(f'--{name}={value}' for name, value in places.items()),
                *_OPTIONS,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard)),
        )


def _wait(docker: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if docker('version', check=False).returncode == 0:
            return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f'dockerd did not come up:\n{log.read_text(errors="replace")[-3000:]}')


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tidy(before: set[str]) -> None:
    """Remove empty folders that were not there before, and our control groups."""
    for name in _LEFT:
        if name not in before:
            with suppress(OSError):
                Path(name).rmdir()
    for root in [*Path('/sys/fs/cgroup').glob(f'*/{_group()}'), Path('/sys/fs/cgroup', _group())]:
        for path, _, _ in os.walk(root, topdown=False):
            with suppress(OSError):
                Path(path).rmdir()


def main(arguments: list[str]) -> int:
    """Run a command with an engine, or say whether there is one."""
    if not arguments:
        print(why_not() or 'a Docker engine runs here, or can be started')
        return 1 if why_not() else 0
    folder, *command = arguments
    with engine(Path(folder).resolve()) as docker:
        return subprocess.run(
            command or [docker.client, 'info'], env=docker.environment
        ).returncode


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
