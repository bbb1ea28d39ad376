"""The folders of a command: are they mounted, and may they be written?"""

from __future__ import annotations

import os
import shlex
import shutil
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mslesseg_app.core.errors import NoInputError, OutputError
from mslesseg_app.deploy.container.mounts import Mount, mount_of

Role = Literal['in', 'out', 'work', 'in, last out']

#: Arguments that name what is read (in), where results go (out) and what may be lost (work).
ROLES: dict[str, dict[str, Role]] = {
    'bids_app': {
        'bids_dir': 'in',
        'derivatives': 'in',
        'model_dir': 'in',
        'output_dir': 'out',
        'work_dir': 'work',
    },
    'convert': {'places': 'in, last out', 'subject_map': 'out', 'work_dir': 'work'},
    'run': {
        'places': 'in, last out',
        'subject_map': 'out',
        'derivatives': 'in',
        'model_dir': 'in',
        'work_dir': 'work',
    },
    'demo': {'folder': 'out'},
    'dataset_import': {'source': 'in', 'bids_dir': 'out'},
    'train': {
        'data': 'in',
        'masks': 'in',
        'preprocessed': 'in',
        'start_from': 'in',
        'run_dir': 'out',
        'model_dir': 'out',
        'cache': 'out',
    },
    'crossval': {
        'data': 'in',
        'masks': 'in',
        'preprocessed': 'in',
        'out_dir': 'out',
        'model_dir': 'out',
        'cache': 'out',
    },
    'export': {
        'data': 'in',
        'masks': 'in',
        'preprocessed': 'in',
        'target': 'out',
        'cache': 'out',
    },
    'evaluate': {'prediction': 'in', 'reference': 'in', 'probability': 'in', 'output': 'out'},
    'consensus': {
        'masks': 'in',
        'reference': 'in',
        'output': 'out',
        'probability': 'out',
        'agreement': 'out',
        'raters': 'out',
    },
    'report': {
        'clinical': 'in',
        'bids': 'in',
        'scanners': 'in',
        'out': 'in',
        'evaluation': 'in',
        'rater': 'in',
        'reference': 'in',
        'output': 'out',
    },
}
#: Less free space than this (bytes) fills up with the work of one exam.
SPACE = 2 * 10**9


@dataclass(frozen=True)
class Named:
    """A path that the command line names, absolute, and what it is for."""

    path: Path
    role: Role

    @property
    def existing(self) -> Path:
        """The path itself, or the nearest folder above that exists."""
        path = Path(os.path.realpath(self.path))
        while not path.exists():
            path = path.parent
        return path


def named_paths(verb: str, options: Namespace) -> list[Named]:
    """Return the paths that options of a verb name.

    Parameters
    ----------
    verb : str
        Module of the verb, a key of :data:`ROLES`.
    options : Namespace
        Its parsed arguments.
    """
    found: list[Named] = []
    for name, role in ROLES[verb].items():
        paths = [Path(os.path.abspath(path)) for path in _flat(getattr(options, name, None))]
        if role != 'in, last out':
            found += [Named(path, role) for path in paths]
            continue
        if getattr(options, 'check', False):  # convert --check only reads
            found += [Named(path, 'in') for path in paths]
            continue
        found += [Named(path, 'in') for path in paths[:-1]]
        found += [Named(path, 'out') for path in paths[-1:]]
        if getattr(options, 'subject_map', None) is None:
            found += [Named(_private(path), 'out') for path in paths[-1:]]
    return found


def _private(path: Path) -> Path:
    """Return where the verbs put the map of subjects: beside the dataset."""
    from mslesseg_app.dicom.deidentify.private_records import default_map

    return default_map(path).parent


def _flat(value: Any) -> list[Path]:
    """Return the paths in a value of argparse: one, several, or ``(name, path)`` pairs."""
    if isinstance(value, Path):
        return [value]
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in _flat(item)]
    return []


def check_paths(
    named: Sequence[Named], mounts: Sequence[Mount], environment: Mapping[str, str]
) -> list[str]:
    """Refuse folders that are not there for this command.

    Parameters
    ----------
    named : sequence of Named
        What the command line names.
    mounts : sequence of Mount
        What is mounted; if it is empty, nothing is refused for its place.
    environment : mapping
        ``MSLESSEG_UNMOUNTED=allow`` lets results stay in the container.

    Returns
    -------
    list of str
        What is allowed and yet worth saying.

    Raises
    ------
    NoInputError
        If a folder is not mounted, with the option to type, or the input folder is empty.
    OutputError
        If a folder is mounted read-only, or not writable for this user.
    """
    allowed = environment.get('MSLESSEG_UNMOUNTED') == 'allow' or not mounts
    if not allowed and (lost := [item for item in named if _unmounted(item, mounts)]):
        raise _not_mounted(lost, environment)
    for item in named:
        if item.role == 'in':
            _check_filled(item.path)
        else:
            _check_writable(item, mount_of(item.existing, mounts))
    return [note for item in named for note in _remarks(item, mounts)]


def _unmounted(item: Named, mounts: Iterable[Mount]) -> bool:
    mount = mount_of(item.existing, mounts)
    outside = mount is None or mount.point == Path('/')
    if item.role == 'in':
        return outside and not item.path.exists()
    return outside and item.role == 'out'


def _not_mounted(lost: Sequence[Named], environment: Mapping[str, str]) -> NoInputError:
    flag, before = '-v', 'docker run (before the name of the image)'
    if environment.get('APPTAINER_CONTAINER') or environment.get('SINGULARITY_CONTAINER'):
        flag, before = '-B', 'apptainer run (before the name of the image)'
    read = [item.path for item in lost if item.role == 'in']
    written = [item.path for item in lost if item.role != 'in']
    parts = []
    if read:
        parts.append(f'there is no {_listed(read)}')
    if written:
        parts.append(f'what is written to {_listed(written)} would be lost with the container')
    options = ' '.join(f'{flag} {_binding(item)}' for item in lost)
    return NoInputError(
        f'In this container {", and ".join(parts)}: not mounted.',
        f'Add to {before}:\n    {options}\n'
        '  A container sees only the folders that are mounted: COMPUTER:CONTAINER.',
    )


def _listed(paths: Sequence[Path]) -> str:
    return ' and '.join(map(str, dict.fromkeys(paths)))


def _binding(item: Named) -> str:
    """Return ``SOURCE:TARGET``; a folder of the root is hardly the computer's own."""
    target = str(item.path)
    source = target if len(item.path.parts) > 2 else '/path/on/your/computer'
    return shlex.quote(f'{source}:{target}' + (':ro' if item.role == 'in' else ''))


def _check_filled(path: Path) -> None:
    if path.is_dir() and os.access(path, os.R_OK) and not any(path.iterdir()):
        raise NoInputError(
            f'{path} is an empty folder.',
            'Where a mounted folder does not exist, Docker makes an empty one: is the part before '
            'the colon of -v right?',
        )


def _check_writable(item: Named, mount: Mount | None) -> None:
    path = item.existing
    if path.is_file():  # a file is replaced, for which its folder must be writable
        path = path.parent
    if mount is not None and mount.read_only:
        if item.role == 'work':
            raise OutputError(
                f'The work folder {item.path} lies in a read-only file system.',
                'Mount a folder for it and name it with -w (-v /path/on/your/computer:/scratch '
                '… -w /scratch), or give the container memory there: --tmpfs /tmp.',
            )
        raise OutputError(
            f'{item.path} lies in a read-only file system.',
            'Mount it without ":ro".',
        )
    if not os.access(path, os.W_OK | os.X_OK):
        owner = path.stat().st_uid
        raise OutputError(
            f'{item.path} cannot be written by user {os.getuid()}: {path} belongs to {owner}.',
            'In Docker run as the owner of the folder: -u "$(id -u):$(id -g)".',
        )


def _remarks(item: Named, mounts: Sequence[Mount]) -> list[str]:
    """Return what is allowed, and may yet be a mistake."""
    mount = mount_of(item.existing, mounts)
    passing = mount is not None and not mount.kept
    if item.role == 'out' and passing:
        return [f'what is written to {item.path} ends with the container, unless you mounted it']
    if item.role != 'work':
        return []
    notes = []
    free = shutil.disk_usage(item.existing).free
    if free < SPACE:
        notes.append(
            f'only {free / 1e9:.1f} GB are free for the work folder; an exam needs up to '
            f'{SPACE / 1e9:.0f} GB: mount a folder and name it with -w'
        )
    if passing:
        notes.append(
            'the work folder ends with this container: a second run starts anew (mount a folder '
            'and name it with -w to keep it)'
        )
    return notes
