"""The index: every file of the sources and what was read of it, in SQLite in the work folder.

Nothing but the rows of one series is ever in memory. An interrupted run goes on where it
stopped; a file that has not changed since is not read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import astuple
from itertools import islice
from pathlib import Path
from typing import Any

from mslesseg_app.core.errors import DiskError
from mslesseg_app.dicom.convert.progress import ConversionProgress
from mslesseg_app.dicom.convert.sources import (
    NAMED_AS_DICOM,
    Archive,
    FoundFile,
    Skipped,
    unpack,
    walk,
)
from mslesseg_app.dicom.fast_header import COLUMNS, DAMAGED, TRUNCATED, Header, read_header

_BATCH = 64
_SCHEMA = f"""
create table if not exists files (
    path blob primary key, shown text, size integer, changed integer, scan integer,
    {', '.join(COLUMNS)}, part integer default 0, twin text default ''
);
create index if not exists by_series on files (patient, study, series);
create table if not exists left_out (shown text, reason text);
create table if not exists results (key text primary key, content text);
"""

Row = dict[str, Any]

#: Reasons of files that belong to a series all the same.
_OF_SERIES = f"('', '{TRUNCATED}')"
#: Beginnings of reasons that may stand for images.
_MAY_BE_IMAGES = (
    'archive',
    'broken link',
    'cannot be read',
    DAMAGED,
    'damaged',
    'folder cannot be read',
    'larger than',
    NAMED_AS_DICOM,
    TRUNCATED,
)


class Index:
    """Index of the sources, in the file ``index.sqlite3`` of a folder.

    Parameters
    ----------
    folder : Path
        Work folder of the conversion; it must be the owner's alone.

    Raises
    ------
    DiskError
        If the file cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._open(folder / 'index.sqlite3')
        except sqlite3.DatabaseError as error:
            raise DiskError(
                f'The index {folder / "index.sqlite3"} cannot be used: {error}.',
                'Remove it, or choose another folder with -w/--work-dir.',
            ) from error

    def _open(self, path: Path) -> None:
        self._db = sqlite3.connect(path)
        self._db.row_factory = sqlite3.Row
        self._db.execute('pragma synchronous = off')  # it can always be made again
        columns = {row['name'] for row in self._db.execute('pragma table_info(files)')}
        if columns and not columns >= set(COLUMNS):  # written by another version
            self._db.executescript('drop table files; drop table left_out')
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Write what is left and close the file."""
        self._db.commit()
        self._db.close()

    # ------------------------------------------------------------------------- filling

    def update(
        self, sources: Iterable[Path], pool: Executor | None, progress: ConversionProgress
    ) -> None:
        """Bring the index to what the sources now hold.

        Parameters
        ----------
        sources : iterable of Path
        pool : Executor or None
            Where headers are read; None reads them in this process.
        progress : ConversionProgress
        """
        (scan,) = self._db.execute('select coalesce(max(scan), 0) + 1 from files').fetchone()
        self._db.execute('delete from left_out')
        pending: deque[tuple[list[tuple], Future[list[Header | str]] | list[Header | str]]] = (
            deque()
        )
        waiting = self._new_files(sources, scan)
        while batch := list(islice(waiting, _BATCH)):
            paths = [Path(os.fsdecode(item[0])) for item in batch]
            pending.append(
                (batch, pool.submit(read_headers, paths) if pool else read_headers(paths))
            )
            if len(pending) > 8:
                self._store(*pending.popleft(), scan, progress)
        while pending:
            self._store(*pending.popleft(), scan, progress)
        self._db.execute('delete from files where scan < ?', (scan,))
        self._db.commit()

    def _new_files(self, sources: Iterable[Path], scan: int) -> Iterator[tuple]:
        """Yield path, name, size and time of the files that must be read."""
        for item in walk(sources):
            if isinstance(item, Archive):
                for member in self._unpacked(item.path):
                    yield from self._if_new(member, scan)
            else:
                yield from self._if_new(item, scan)

    def _if_new(self, item: FoundFile | Skipped, scan: int) -> Iterator[tuple]:
        if isinstance(item, Skipped):
            self._skip(item.shown, item.reason)
            return
        state = item.path.stat()
        known = self._db.execute(
            'update files set scan = ?, shown = ? where path = ? and size = ? and changed = ?',
            (scan, item.shown, os.fsencode(item.path), state.st_size, state.st_mtime_ns),
        )
        if not known.rowcount:
            yield (os.fsencode(item.path), item.shown, state.st_size, state.st_mtime_ns)

    def _unpacked(self, path: Path) -> Iterator[FoundFile | Skipped]:
        """Yield an archive's members, unpacked now or by an earlier run."""
        state = path.stat()
        place = (str(path), state.st_size, state.st_mtime_ns)
        name = hashlib.sha256(ascii(place).encode()).hexdigest()[:16]
        folder = self._folder / 'archives' / name
        listing = folder.with_suffix('.json')
        if listing.is_file():
            for shown, number, reason in json.loads(listing.read_text(encoding='utf-8')):
                yield Skipped(shown, reason) if reason else FoundFile(folder / number, shown)
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        members = []
        for item in unpack(path, folder):
            if isinstance(item, FoundFile):
                members.append((item.shown, item.path.name, ''))
            else:
                members.append((item.shown, '', item.reason))
            yield item
        listing.write_text(json.dumps(members), encoding='utf-8')

    def _store(
        self,
        batch: list[tuple],
        headers: Future[list[Header | str]] | list[Header | str],
        scan: int,
        progress: ConversionProgress,
    ) -> None:
        found = headers.result() if isinstance(headers, Future) else headers
        marks = ', '.join('?' * (5 + len(COLUMNS)))
        names = ', '.join(('path', 'shown', 'size', 'changed', 'scan', *COLUMNS))
        for item, header in zip(batch, found, strict=True):
            if isinstance(header, str):
                self._skip(item[1], header)
                continue
            self._db.execute(
                f'insert or replace into files ({names}) values ({marks})',
                (*item, scan, *astuple(header)),
            )
        self._db.commit()
        progress.advance(len(batch))

    def _skip(self, shown: str, reason: str) -> None:
        self._db.execute('insert into left_out values (?, ?)', (shown, reason))

    # ------------------------------------------------------------------------- asking

    def count(self) -> int:
        """Return the number of DICOM files."""
        (number,) = self._db.execute('select count(*) from files').fetchone()
        return int(number)

    def left_out(self) -> Iterator[tuple[str, str]]:
        """Yield the things that are no images of ours, and why."""
        yield from self._db.execute('select shown, reason from left_out order by shown')
        yield from self._db.execute(
            f'select shown, reason from files where reason not in {_OF_SERIES} order by shown'
        )

    def reasons(self) -> dict[str, int]:
        """Return how many things were left out for each reason."""
        return dict(
            self._db.execute(
                'select reason, count(*) from (select reason from left_out union all select '
                f'reason from files where reason not in {_OF_SERIES}) '
                'group by reason order by 2 desc, 1'
            )
        )

    def unread(self) -> dict[str, int]:
        """Return the reasons, with counts, for which something may be missing from the series."""
        return {
            reason: count
            for reason, count in self.reasons().items()
            if reason.startswith(_MAY_BE_IMAGES)
        }

    def groups(self) -> list[tuple[str, str, str]]:
        """Return patient, study and series of all images, in order of the sources."""
        query = f"""select patient, study, series from files where reason in {_OF_SERIES}
            group by patient, study, series order by min(rowid)"""
        return [tuple(row) for row in self._db.execute(query)]

    def ambiguous_patients(self) -> set[str]:
        """Return the patients who have several dates of birth: perhaps several people."""
        query = """select patient from files where birth != ''
            group by patient having count(distinct birth) > 1"""
        return {row['patient'] for row in self._db.execute(query)}

    def rows(self, group: tuple[str, str, str]) -> list[Row]:
        """Return the images of one series UID, in order of position and number.

        Truncated files are among them, with their reason.
        """
        query = f"""select * from files where patient = ? and study = ? and series = ?
            and reason in {_OF_SERIES} order by instance_number, position, shown"""
        rows = [dict(row) for row in self._db.execute(query, group)]
        return [row | {'path': os.fsdecode(row['path'])} for row in rows]

    def assign(self, rows: Iterable[Row]) -> None:
        """Write the part of its series and the twin that were found for each file."""
        self._db.executemany(
            'update files set part = ?, twin = ? where path = ?',
            [(row['part'], os.fsencode(row['twin']), os.fsencode(row['path'])) for row in rows],
        )
        self._db.commit()

    def files(
        self, group: tuple[str, str, str], part: int, *, truncated: bool = False
    ) -> list[str]:
        """Return the paths of one part of a series UID, twins left out.

        Parameters
        ----------
        truncated : bool
            Whether truncated files are among them.
        """
        reasons = _OF_SERIES if truncated else "('')"
        query = f"""select path from files where patient = ? and study = ? and series = ?
            and part = ? and length(twin) = 0 and reason in {reasons}
            order by instance_number, position, shown"""
        return [os.fsdecode(row['path']) for row in self._db.execute(query, (*group, part))]

    def names(self, group: tuple[str, str, str], part: int) -> list[str]:
        """Return what the files of a part are called in the sources, twins included."""
        query = f"""select shown from files where patient = ? and study = ? and series = ?
            and part = ? and reason in {_OF_SERIES} order by shown"""
        return [row['shown'] for row in self._db.execute(query, (*group, part))]

    def state(self, path: str) -> tuple[str, int, int]:
        """Return path, size and time of change (ns) of a file."""
        query = 'select size, changed from files where path = ?'
        row = self._db.execute(query, (os.fsencode(path),)).fetchone()
        return (path, *row)

    # ------------------------------------------------------------------------- results

    def result(self, key: str) -> dict[str, Any] | None:
        """Return what a finished conversion left, by its key."""
        row = self._db.execute('select content from results where key = ?', (key,)).fetchone()
        return json.loads(row['content']) if row else None

    def keep_result(self, key: str, content: dict[str, Any]) -> None:
        """Remember a finished conversion."""
        self._db.execute(
            'insert or replace into results values (?, ?)', (key, json.dumps(content))
        )
        self._db.commit()


def read_headers(paths: list[Path]) -> list[Header | str]:
    """Read several headers; the unit of work of a process."""
    return [read_header(path) for path in paths]
