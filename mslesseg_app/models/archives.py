"""The files of a model that somebody made elsewhere: a folder, or a zip of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mslesseg_app.core.errors import ModelError

_LARGEST_TEXT = 50_000_000


@dataclass(frozen=True)
class FileTree:
    """The files of a model, whether it is a folder or a zip."""

    path: Path

    @property
    def names(self) -> list[PurePosixPath]:
        """All files, relative to the top."""
        if self.path.is_dir():
            found = (item for item in self.path.rglob('*') if item.is_file())
            return sorted(PurePosixPath(item.relative_to(self.path).as_posix()) for item in found)
        with zipfile.ZipFile(self.path) as archive:
            return sorted(
                PurePosixPath(item.filename) for item in archive.infolist() if not item.is_dir()
            )

    def check_paths(self) -> None:
        """Refuse an archive in which a path leaves its folder, or is a link."""
        if self.path.is_dir():
            return
        with self._opened() as archive:
            for item in archive.infolist():
                name = PurePosixPath(item.filename.replace('\\', '/'))
                link = stat.S_ISLNK(item.external_attr >> 16)
                drive = ':' in name.parts[0] if name.parts else False
                if link or drive or name.is_absolute() or '..' in name.parts:
                    what = 'a link' if link else 'a path that leaves its folder'
                    raise ModelError(
                        f'{self.path} holds {what}: {item.filename}', 'Do not use this archive.'
                    )

    def read_table(self, name: PurePosixPath) -> dict[str, Any]:
        """Read a JSON or YAML file as a table of plain values."""
        try:
            text = self._read_text(name)
            content = _yaml(text) if name.suffix in ('.yaml', '.yml') else json.loads(text)
        except (ValueError, OSError, RecursionError) as error:
            raise ModelError(
                f'{self.path}: {name} cannot be read: {error}', 'Download it again.'
            ) from error
        if not isinstance(content, dict):
            raise ModelError(f'{self.path}: {name} is not a table.', 'Download it again.')
        return content

    def _read_text(self, name: PurePosixPath) -> str:
        if self.path.is_dir():
            place = self.path / name
            if place.stat().st_size > _LARGEST_TEXT:
                raise ValueError('it is too large for a text')
            return place.read_text(encoding='utf-8')
        with self._opened() as archive:
            if archive.getinfo(str(name)).file_size > _LARGEST_TEXT:
                raise ValueError('it is too large for a text')
            return archive.read(str(name)).decode('utf-8')

    def unpacked(self, name: PurePosixPath, target: Path) -> Path:
        """Return the path of a file: `target`, where it comes from an archive."""
        if self.path.is_dir():
            return self.path / name
        with (
            self._opened() as archive,
            archive.open(str(name)) as stream,
            target.open('wb') as out,
        ):
            shutil.copyfileobj(stream, out)
        return target

    @contextlib.contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        """Open a zip; damage, or a compression that Python lacks, is reported as such."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise ModelError(f'{self.path} is damaged: {error}', 'Download it again.') from error


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
