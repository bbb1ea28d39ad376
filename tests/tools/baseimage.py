"""The base image of the Dockerfile, also where no image registry is reached.

    python tests/tools/baseimage.py FOLDER              make FOLDER/base.tar

Where the engine cannot pull the image that FROM names, a Debian with its own Python is put
together from the mirror that apt uses here (root, mmdebstrap) and takes that name.

pip's settings of this machine (index, local wheel folders, certificates) reach a build as
BuildKit secrets, so that neither the Dockerfile nor an image holds them; local folders are served
on 127.0.0.1 meanwhile.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PACKAGES = ('ca-certificates', 'python3', 'python3-venv')
#: Settings of pip that say where packages come from.
_PLACES = ('index-url', 'extra-index-url', 'find-links')
_PLAIN = (*_PLACES, 'trusted-host', 'proxy', 'no-index')


def why_not() -> str:
    """Return what is missing to make a base image, or nothing."""
    if shutil.which('mmdebstrap') is None:
        return 'no mmdebstrap to make a base image with'
    if os.geteuid() != 0:
        return 'only root makes a base image'
    return '' if _mirror() else 'apt knows no mirror of this Debian'


def from_line(project: Path) -> str:
    """Return the image that the Dockerfile starts from."""
    text = (project / 'Dockerfile').read_text(encoding='utf-8')
    found = re.search(r'^ARG BASE_IMAGE=(\S+)$', text, re.M)
    assert found, 'the Dockerfile has no default for BASE_IMAGE'
    return found.group(1)


def codename(image: str) -> str:
    """Return the Debian release in an image's name.

    Examples
    --------
    >>> codename('python:3.11-slim-bookworm')
    'bookworm'
    """
    return image.rpartition('-')[2]


@functools.cache
def _mirror() -> str:
    """Return the mirror of Debian that apt uses for its main archive."""
    command = [
        'apt-get',
        'indextargets',
        '--format',
        '$(REPO_URI) $(SITE)',
        'Created-By: Packages',
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ''
    places = (line.split()[0] for line in done.stdout.splitlines() if line.strip())
    return next((place for place in places if place.rstrip('/').endswith('/debian')), '')


def mirror() -> str:
    """Return the mirror of Debian that apt uses here, or nothing."""
    return _mirror()


def make_base(folder: Path, suite: str) -> Path:
    """Make a root file system of Debian with Python, unless there is ``folder/base.tar``."""
    target = folder / 'base.tar'
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / 'unfinished.tar'
    without = ('doc', 'man', 'locale')
    subprocess.run(
        [
            *('mmdebstrap', '--quiet', '--variant=minbase', '--mode=root'),
            f'--include={",".join(PACKAGES)}',
            *(f'--dpkgopt=path-exclude=/usr/share/{name}/*' for name in without),
            *(suite, str(unfinished), mirror()),
        ],
        check=True,
    )
    unfinished.rename(target)
    return target


# ------------------------------------------------------------------------ pip's settings


@dataclass(frozen=True)
class PipSettings:
    """Files for a build: pip's settings, and certificates (None: the usual ones)."""

    config: Path
    certificates: Path | None

    @property
    def secrets(self) -> list[str]:
        """Arguments of ``docker build``."""
        found = ['--secret', f'id=pip,src={self.config}']
        if self.certificates:
            found += ['--secret', f'id=ca,src={self.certificates}']
        return found


@contextmanager
def pip_settings(folder: Path, certificates_at: str) -> Iterator[PipSettings]:
    """Write pip's settings for a build that sees 127.0.0.1 but not this machine's folders.

    Parameters
    ----------
    folder : Path
        Where to write ``pip.conf``.
    certificates_at : str
        Path that the certificates will have during the build.
    """
    own = _own_settings()
    lines = ['[global]', 'retries = 2']
    certificates = Path(own['cert']) if own.get('cert') else None
    if certificates:
        lines.append(f'cert = {certificates_at}')
    folder.mkdir(parents=True, exist_ok=True)
    with _file_server() as server:
        for name, value in own.items():
            if name in _PLAIN:
                words = [server.published(word) for word in value.split()]
                lines.append(f'{name} = {" ".join(words)}')
        config = folder / 'pip.conf'
        config.write_text('\n'.join(lines) + '\n')
        yield PipSettings(config, certificates)


def _own_settings() -> dict[str, str]:
    """Return pip's settings here; those of the environment win, as in pip."""
    command = [sys.executable, '-m', 'pip', 'config', 'list']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = {}
    rows = [re.fullmatch(r"(global|:env:|install)\.([\w-]+)='(.*)'", line) for line in
            done.stdout.splitlines()]  # fmt: skip
    for row in sorted((row for row in rows if row), key=lambda row: row.group(1) == ':env:'):
        found[row.group(2)] = row.group(3).replace('\\n', ' ')
    return found


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the folders of the server's list, each under its number."""

    server: _Server

    def translate_path(self, path: str) -> str:
        number, _, rest = unquote(urlsplit(path).path).lstrip('/').partition('/')
        try:
            root = self.server.folders[int(number)]
        except (ValueError, IndexError):
            return os.devnull + '/none'
        wanted = (root / rest).resolve()
        return str(wanted) if wanted.is_relative_to(root) else os.devnull + '/none'

    def log_message(self, *_: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    folders: list[Path]

    def published(self, word: str) -> str:
        """Turn a local folder or file address into one that a build can reach."""
        path = Path(unquote(word.removeprefix('file://')))
        if not path.is_dir():
            return word
        # an index of packages points to files beside itself
        root = path.resolve().parent
        if root not in self.folders:
            self.folders.append(root)
        return f'http://127.0.0.1:{self.server_port}/{self.folders.index(root)}/{path.name}/'


@contextmanager
def _file_server() -> Iterator[_Server]:
    server = _Server(('127.0.0.1', 0), _Handler)
    server.folders = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def reached(address: str) -> bool:
    """Whether an https address answers within a few seconds."""
    ask = 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=10)'
    done = subprocess.run([sys.executable, '-c', ask, address], capture_output=True, check=False)
    return done.returncode == 0


def torch_index(project: Path) -> str:
    """Return the index of torch for CPUs that the Dockerfile names, or nothing if not reached."""
    text = (project / 'Dockerfile').read_text(encoding='utf-8')
    found = re.search(r'^ARG TORCH_INDEX=(\S+)$', text, re.M)
    assert found, 'the Dockerfile has no default for TORCH_INDEX'
    address = found.group(1)
    return address if reached(address + '/torch/') else ''


def main(arguments: list[str]) -> int:
    """Make a base image in a folder."""
    if len(arguments) != 1:
        print(__doc__)
        return 64
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 1
    suite = codename(from_line(Path(__file__).resolve().parents[2]))
    print(make_base(Path(arguments[0]).resolve(), suite))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
