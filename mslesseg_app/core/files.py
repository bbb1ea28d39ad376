"""Writing files so that a reader, or a killed run, never meets half of one."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mslesseg_app.core.errors import DiskError, MSLesSegError, OutputError, UsageError

_TEMPORARY = '.tmp-'
#: Length of a file name in bytes, and what a temporary name adds to it beside its beginning.
_LONGEST_NAME, _RANDOM = 255, 9
#: Length of the address of a socket in bytes, and what multiprocessing adds to the folder
#: (``/pymp-xxxxxxxx/listener-xxxxxxxx`` and a null byte).
_LONGEST_SOCKET, _SOCKET_NAME = 104, 33
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,  # a file where a folder should be
}


def package_folder(name: str) -> Path | None:
    """Return the folder of an installed package, which is not imported, or None."""
    spec = find_spec(name)
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) if folders else None


def explain_os_error(error: OSError, path: Path | str) -> MSLesSegError:
    """Turn an operating-system error on ``path`` into one of ours.

    Returns
    -------
    MSLesSegError
        :class:`DiskError` for a full or broken disk, :class:`OutputError` where writing is
        not allowed.
    """
    where = error.filename2 or error.filename or path
    if Path(os.fsdecode(where)).name.startswith(_TEMPORARY):
        where = path
    if error.errno in _FULL:
        return DiskError(
            f'No space left on the device while writing {where}.',
            'Free some space, or choose another folder for the output or for -w/--work-dir, '
            'and run the same command again: it goes on where it stopped.',
        )
    if error.errno in _FORBIDDEN:
        return OutputError(
            f'Cannot write {where}: {os.strerror(error.errno or 0)}.',
            'Check the permissions of the folder, or choose another one.',
        )
    return DiskError(f'Input/output error on {where}: {error.strerror or error}.')


def check_temporary_folder() -> None:
    """Make sure that processes can talk to each other through sockets in the temporary folder.

    Raises
    ------
    UsageError
        If its path is too long for the address of a socket.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _LONGEST_SOCKET - _SOCKET_NAME:
        raise UsageError(
            f'The path of the temporary folder is too long for sockets: {folder}.',
            'Choose a shorter one, for example: export TMPDIR=/tmp',
        )


def too_long(path: Path) -> bool:
    """Whether a file of this name, or its temporary copy, has too long a name to be written."""
    return len(os.fsencode(path.name)) + len(_TEMPORARY) + _RANDOM > _LONGEST_NAME


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; it takes the final name when all went well.

    Parameters
    ----------
    path : Path
        Final name. Its folder is made. The suffixes are kept in the temporary name.

    Raises
    ------
    OutputError, DiskError
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, suffix='-' + path.name, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise explain_os_error(error, path) from error
    temporary = Path(name)
    try:
        yield temporary
        # Some file systems (CIFS, FUSE) know no rights, and refuse to change them.
        with suppress(OSError):
            temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def read_any_text(path: Path) -> str:
    """Read text that others wrote: UTF-8, UTF-16 with a byte order mark, else Latin-1.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no text: null characters, or half a character of UTF-16.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode('utf-16')
    else:
        try:
            text = content.decode('utf-8-sig')
        except UnicodeDecodeError:
            text = content.decode('latin-1')
    if '\0' in text:
        raise ValueError('it is not a text file')
    return text


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, unless it is there already."""
    if path.is_file() and path.read_bytes() == content:
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, unless it is there already."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal content gives equal bytes."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + '\n')


def publish(source: Path, target: Path) -> None:
    """Copy a finished file to its place in the output, atomically, unless it is there already."""
    if target.is_file() and _same_bytes(source, target):
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def file_sha256(path: Path) -> str:
    """Return the SHA256 of a file in hexadecimal."""
    with path.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()


def _same_bytes(first: Path, second: Path) -> bool:
    if first.stat().st_size != second.stat().st_size:
        return False
    with first.open('rb') as one, second.open('rb') as two:
        while chunk := one.read(1 << 20):
            if chunk != two.read(1 << 20):
                return False
    return True
