"""Data sets that come as a zip, or as a zip in a zip."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mslesseg_app.core.errors import DataError, DiskError, NoInputError
from mslesseg_app.core.files import explain_os_error

_DEEPEST = 3


@contextmanager
def opened(source: Path, beside: Path) -> Iterator[Path]:
    """Give the folder of a data set; an archive is unpacked for the time being.

    Parameters
    ----------
    source : Path
        Folder or zip. A zip in either is unpacked too, three levels deep at most.
    beside : Path
        Where the archive is unpacked next to; removed at the end.

    Raises
    ------
    NoInputError
        If there is no such file or folder.
    DataError
        For a damaged archive.
    DiskError
        If what it holds does not fit the disk.
    """
    if not source.exists():
        raise NoInputError(f'{source} does not exist.', 'Check the path.')
    archives = [source] if source.is_file() else _archives(source)
    if not archives or (source.is_dir() and _has_images(source)):
        yield source
        return
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix='.tmp-import-', dir=beside.parent) as staging:
            for archive in archives:
                _unpack(archive, Path(staging), _DEEPEST)
            yield Path(staging)
    except OSError as error:
        raise explain_os_error(error, beside) from error


def _archives(folder: Path) -> list[Path]:
    return sorted(item for item in folder.glob('**/*.zip') if '__MACOSX' not in item.parts)


def _has_images(folder: Path) -> bool:
    return next(folder.glob('**/*.nii*'), None) is not None


def _unpack(archive: Path, target: Path, depth: int) -> None:
    """Unpack an archive and those in it; names that lead outside are made harmless by zipfile."""
    try:
        with zipfile.ZipFile(archive) as file:
            needed = sum(item.file_size for item in file.infolist())
            if needed > shutil.disk_usage(target).free:
                raise DiskError(
                    f'{archive} needs {needed / 1e9:.1f} GB unpacked: too much for this disk.',
                    'Free some space, or choose another place for the dataset.',
                )
            before = set(_archives(target))
            file.extractall(target)
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f'{archive} is no whole zip archive: {error}', 'Download it again.'
        ) from error
    for inner in sorted(set(_archives(target)) - before):
        if depth > 1:
            _unpack(inner, inner.parent, depth - 1)
        inner.unlink()
