"""Check, or write, the exact versions in ``constraints/``, and the ends of our ranges.

    python -m release.resolve                 is every file whole and consistent? Do the
                                              lowest and the newest versions fit together?
    python -m release.resolve --write         add what is missing, drop what is not needed
    python -m release.resolve --write --upgrade    the newest versions

Asks the package index (through uv), installs nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / 'constraints'
#: Parts of the CUDA builds of torch: which of them are needed follows from torch.
CUDA = re.compile(r'^(nvidia-|cuda-|triton\b)')
HEAD = """\
# Exact versions for Python {version}, used by `make venv` (pip install -c).
# dcmstack stays at 0.8.0: 0.9.0 requires a GPL library.
"""


def versions() -> list[str]:
    """Return the versions of Python that have a file, such as ``3.11``."""
    return sorted(f'3.{path.stem[3:]}' for path in FOLDER.glob('py3*.txt'))


def file_of(version: str) -> Path:
    """Return the file of a version of Python."""
    return FOLDER / f'py{version.replace(".", "")}.txt'


def read(path: Path) -> dict[str, str]:
    """Return the pins of a file by canonical name."""
    lines = (line.strip() for line in path.read_text(encoding='utf-8').splitlines())
    return {canonicalize_name(line.partition('==')[0]): line for line in lines if '==' in line}


def resolve(version: str, *options: str) -> dict[str, str]:
    """Return the pins that uv finds for a version of Python.

    Raises
    ------
    RuntimeError
        If no set of versions fits.
    """
    command = [
        str(Path(sys.executable).parent / 'uv'), 'pip', 'compile', '--quiet', '--no-header',
        '--no-annotate', '--all-extras', '--python-version', version, *options,
        str(ROOT / 'pyproject.toml'),
    ]  # fmt: skip
    environment = {'UV_SYSTEM_CERTS': '1', 'UV_NATIVE_TLS': '1', **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f'Python {version} {" ".join(options)}:\n{done.stderr.strip()}')
    lines = (line.partition(' ;')[0].strip() for line in done.stdout.splitlines())
    found = {canonicalize_name(line.partition('==')[0]): line for line in lines if '==' in line}
    return {name: line for name, line in found.items() if not CUDA.match(name)}


def faults_of(version: str) -> list[str]:
    """Return what is wrong with the file of a version of Python."""
    pins = read(file_of(version))
    found = resolve(version, '--constraint', str(file_of(version)))
    missing = sorted(found.keys() - pins.keys())
    surplus = sorted(pins.keys() - found.keys() - {'pip'})
    name = file_of(version).name
    return [f'{name} does not pin {one}' for one in missing] + [
        f'{name} pins {one}, which nothing needs' for one in surplus
    ]


def check() -> int:
    """Check every file, and that the ends of the ranges fit together."""
    faults = list[str]()
    for version in versions():
        faults += faults_of(version)
        for end in ('lowest-direct', 'highest'):
            number = len(resolve(version, '--resolution', end))
            print(f'Python {version}, {end}: {number} packages fit together')
    for line in faults:
        print(line, file=sys.stderr)
    return int(bool(faults))


def write(upgrade: bool) -> int:
    """Write every file anew; without ``upgrade`` the pins that are there stay."""
    for version in versions():
        path = file_of(version)
        old = read(path)
        found = resolve(version, *([] if upgrade else ['--constraint', str(path)]))
        pip = {'pip': old.get('pip', '')} if 'pip' in old else {}
        for name, line in found.items():  # the spelling stays
            same = old.get(name, '').partition('==')[2] == line.partition('==')[2]
            found[name] = old[name] if same else line
        lines = sorted({**found, **pip}.values(), key=str.lower)
        path.write_text(HEAD.format(version=version) + '\n'.join(lines) + '\n', encoding='utf-8')
        print(f'{path.relative_to(ROOT)}: {len(lines)} pins')
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description='Check or write constraints/.')
    parser.add_argument('--write', action='store_true')
    parser.add_argument('--upgrade', action='store_true')
    options = parser.parse_args(arguments)
    try:
        return write(options.upgrade) if options.write else check()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
