"""What the last run of the group level found out about each exam, for the next one.

It lies in a database file in the work folder, where there is one. Whatever is wrong with that
file, the work is done again.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from mslesseg_app import __version__
from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.core.files import atomic_path

_TABLE = 'CREATE TABLE kept (name TEXT PRIMARY KEY, state TEXT, value BLOB, checksum INTEGER)'


def state_of(files: Iterable[Path], *more: Any) -> str:
    """Return a text that is another when a file has changed, by its size and time.

    Parameters
    ----------
    files : iterable of Path
        A file that is missing has a state too.
    more
        What else the result depends on.
    """
    states: list[Any] = []
    for path in files:
        try:
            found = os.stat(path)
        except OSError:
            states.append([str(path), None])
        else:
            states.append([str(path), found.st_size, found.st_mtime_ns])
    return json.dumps([__version__, states, more], sort_keys=True, default=str)


def read_kept(folder: Path, kind: str) -> dict[str, tuple[str, bytes]]:
    """Return state and value by name; nothing where the file is not there or damaged."""
    path = _path(folder, kind)
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f'{path.as_uri()}?mode=ro', uri=True)) as connection:
            rows = connection.execute('SELECT name, state, value, checksum FROM kept').fetchall()
        return {
            name: (state, value)
            for name, state, value, checksum in rows
            if zlib.crc32(value) == checksum
        }
    except (sqlite3.Error, TypeError, UnicodeDecodeError):
        return {}


def write_kept(folder: Path, kind: str, values: Mapping[str, tuple[str, bytes]]) -> None:
    """Write what is to be kept, atomically; nothing where there is no work folder.

    A folder that cannot be written to is no reason to fail: then nothing is kept.
    """
    if not folder.is_dir():
        return
    rows = [(name, *found, zlib.crc32(found[1])) for name, found in sorted(values.items())]
    with (
        suppress(sqlite3.Error, OSError, MSLesSegError),
        atomic_path(_path(folder, kind)) as temporary,
        closing(sqlite3.connect(temporary)) as connection,
    ):
        connection.execute(_TABLE)
        connection.executemany('INSERT INTO kept VALUES (?, ?, ?, ?)', rows)
        connection.commit()


def _path(folder: Path, kind: str) -> Path:
    return folder / 'group' / f'{kind}.sqlite'
