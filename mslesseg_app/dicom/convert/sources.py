"""What lies in the sources: files, links, folders, archives; nothing is ever written there."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mslesseg_app.core.errors import DiskError
from mslesseg_app.core.files import explain_os_error

#: A member of an archive that is larger than this is no slice and no multi-frame object.
MAX_MEMBER = 8 << 30
#: An archive may unpack to this many times its size (and a little more) before it is refused.
MAX_RATIO = 200
_SLACK = 256 << 20

#: Beginning of the reason of a file that should be DICOM and is none.
NAMED_AS_DICOM = 'named as DICOM, but'

_DICOM_SUFFIXES = {'.dcm', '.dic', '.dicom', '.ima'}
_HEAD = 264
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,  # an encrypted zip
    ValueError,
)


@dataclass(frozen=True)
class FoundFile:
    """A file that may be DICOM.

    Attributes
    ----------
    path : Path
        Where its bytes are: in the source, or in the work folder when it came in an archive.
    shown : str
        What to call it; ``archive!member`` for a member.
    """

    path: Path
    shown: str


@dataclass(frozen=True)
class Skipped:
    """A thing that is left out, and why."""

    shown: str
    reason: str


@dataclass(frozen=True)
class Archive:
    """An archive to be read by :func:`unpack`."""

    path: Path


def printable(path: str | os.PathLike[str]) -> str:
    """Return the name of a file as text; bytes that are no UTF-8 are shown as ``\\xe4``."""
    return os.fsencode(path).decode('utf-8', 'backslashreplace')


def walk(sources: Iterable[Path]) -> Iterator[FoundFile | Skipped | Archive]:
    """Yield everything below the sources, folders in order of their names.

    Links are followed; a folder that is reached twice is read once. A DICOMDIR stands for
    the folder in which it lies.
    """
    seen: set[tuple[int, int]] = set()
    for source in sources:
        if source.is_file() and source.name.upper() == 'DICOMDIR':
            source = source.parent
        if source.is_dir():
            yield from _walk_folder(source, seen)
        else:
            yield _classify(source)


def _walk_folder(top: Path, seen: set[tuple[int, int]]) -> Iterator[FoundFile | Skipped | Archive]:
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            place = folder.stat()
            names = sorted(os.listdir(folder))
        except OSError as error:
            yield Skipped(printable(folder), f'folder cannot be read ({error.strerror})')
            continue
        if (place.st_dev, place.st_ino) in seen:
            continue
        seen.add((place.st_dev, place.st_ino))
        below = []
        for name in names:
            path = folder / name
            if path.is_dir():
                below.append(path)
            else:
                yield _classify(path)
        pending += reversed(below)


def _classify(path: Path) -> FoundFile | Skipped | Archive:
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode):
            return Skipped(printable(path), 'no regular file')
        if kind.st_size == 0:
            return Skipped(printable(path), _unlike_dicom(path.name, empty=True))
        with path.open('rb') as stream:
            head = stream.read(_HEAD)
    except OSError as error:
        reason = 'broken link' if path.is_symlink() else f'cannot be read ({error.strerror})'
        return Skipped(printable(path), reason)
    if is_archive(head):
        return Archive(path)
    if not may_be_dicom(head):
        return Skipped(printable(path), _unlike_dicom(path.name, empty=False))
    return FoundFile(path, printable(path))


def _unlike_dicom(name: str, *, empty: bool) -> str:
    """Say why a file is no DICOM; one that its name calls so may be an image that was lost."""
    path = PurePosixPath(name)
    if path.suffix.lower() in _DICOM_SUFFIXES and not path.name.startswith('.'):
        return f'{NAMED_AS_DICOM} {"empty" if empty else "none"}'
    return 'empty file' if empty else 'no DICOM'


def is_archive(head: bytes) -> bool:
    """Whether a file begins like a tar, zip, gzip, bzip2 or xz file."""
    if may_be_dicom(head):
        return False
    packed = head.startswith((b'PK\x03\x04', b'\x1f\x8b', b'BZh', b'\xfd7zXZ\x00'))
    return packed or head[257:262] == b'ustar'


def may_be_dicom(head: bytes) -> bool:
    """Whether a file begins like DICOM: with its mark, or plausibly without the preamble."""
    if head[128:132] == b'DICM':
        return True
    group, element = head[0:2], int.from_bytes(head[2:4], 'little')
    if group not in (b'\x02\x00', b'\x08\x00') or element > 0x0100 or len(head) < 16:
        return False
    explicit = head[4:6] in (b'UL', b'UI', b'OB', b'CS', b'DA', b'TM', b'SH', b'LO')
    return explicit or int.from_bytes(head[4:8], 'little') <= 256


# -------------------------------------------------------------------------------- archives


def unpack(archive: Path, folder: Path) -> Iterator[FoundFile | Skipped]:
    """Copy the members that may be DICOM into a folder, under numbers, one after the other.

    A member's own name is used for nothing but messages, so that it can lead nowhere.

    Raises
    ------
    DiskError, OutputError
        If the folder cannot take the files.
    """
    state = archive.stat()
    limit = state.st_size * MAX_RATIO + _SLACK
    total, number = 0, -1
    try:
        for number, (name, size, stream) in enumerate(_members(archive)):
            total += size
            if total > limit:
                yield Skipped(
                    printable(archive), f'archive unpacks to over {MAX_RATIO} times its size'
                )
                return
            taken = _take(stream, size, printable(f'{archive}!{name}'), folder / f'{number:07d}')
            if isinstance(taken, FoundFile):  # known again when it is unpacked once more
                os.utime(taken.path, ns=(state.st_mtime_ns, state.st_mtime_ns))
            yield taken
    except _BROKEN as error:
        yield Skipped(printable(archive), _trouble(error, archive, number))
    except OSError as error:
        if error.errno is not None:  # it has none where the compressed bytes are wrong
            raise explain_os_error(error, folder) from error
        yield Skipped(printable(archive), _trouble(error, archive, number))


def _trouble(error: Exception, archive: Path, number: int) -> str:
    if isinstance(error, NotImplementedError):
        return 'archive is compressed in an unknown way'
    if isinstance(error, RuntimeError) and 'encrypted' in str(error):
        return 'archive is encrypted'
    if number < 0 and _is_single_file(archive):
        return 'compressed, but no archive'
    return 'damaged archive; read up to the damage'


def _is_single_file(path: Path) -> bool:
    """Whether something else than a tar archive was compressed."""
    for module in (gzip, bz2, lzma):
        try:
            with module.open(path) as stream:
                return stream.read(_HEAD)[257:262] != b'ustar'
        except (OSError, *_BROKEN):
            continue
    return False


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and stream of the regular members."""
    with archive.open('rb') as stream:
        zipped = stream.read(2) == b'PK'
    if zipped:
        with zipfile.ZipFile(archive) as packed:
            for item in packed.infolist():
                if not item.is_dir() and not stat.S_ISLNK(item.external_attr >> 16):
                    with packed.open(item) as stream:
                        yield item.filename, item.file_size, stream
        return
    with tarfile.open(archive, 'r|*') as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name, member.size, content


def _take(stream: IO[bytes], size: int, shown: str, target: Path) -> FoundFile | Skipped:
    head = stream.read(_HEAD)
    if is_archive(head):
        return Skipped(shown, 'archive within an archive; unpack it first')
    if not may_be_dicom(head):
        return Skipped(shown, _unlike_dicom(shown.rpartition('!')[2], empty=not head))
    if size > MAX_MEMBER:
        return Skipped(shown, f'larger than {MAX_MEMBER >> 30} GiB')
    if shutil.disk_usage(target.parent).free < size + _SLACK:
        raise DiskError(
            f'No space left to unpack {shown.partition("!")[0]} into {target.parent}.',
            'Free some space, or choose another folder with -w/--work-dir.',
        )
    try:
        with target.open('wb') as copy:
            copy.write(head)
            shutil.copyfileobj(stream, copy, 1 << 20)
    except _BROKEN:
        target.unlink()
        return Skipped(shown, 'damaged in the archive')
    return FoundFile(target, shown)
