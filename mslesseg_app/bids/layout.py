"""The index of a dataset: PyBIDS, told where images may lie, and its database kept healthy."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import BusyError, InvalidBIDSError
from mslesseg_app.core.files import explain_os_error, write_json

if TYPE_CHECKING:
    from bids import BIDSLayout

#: With more participants than this, indexing everybody is as quick as leaving others out.
MOST_NAMED = 100
#: Only ``sub-*/[ses-*/]anat/<file>`` is searched: no folder beside these, no folder below them,
#: so that neither copies of images nor links to parent folders are followed.
_ELSEWHERE = (
    r'^/(?!sub-)',
    r'^/sub-[^/]+/(?!(?:ses-[^/]+|anat)(?:/|$))',
    r'^/sub-[^/]+/ses-[^/]+/(?!anat(?:/|$))',
    r'/anat/[^/]+/',
)
#: Bytes of a file name that are not UTF-8, as Python holds them.
_NOT_UTF8 = r'[\udc80-\udcff]'
#: How long another process may need to index a dataset, in s.
_PATIENCE_S = 1800.0
_STATE = 'mslesseg.json'


def open_layout(
    root: Path, database: Path | None = None, subjects: Collection[str] = ()
) -> BIDSLayout:
    """Index the anatomical images of a dataset, without validation and without metadata.

    Parameters
    ----------
    root : Path
    database : Path, optional
        Folder of a PyBIDS database; it holds everybody, whoever is asked for. It is made, and
        made anew where it belongs to another dataset, is older than its folders, or is damaged.
    subjects : collection of str
        Labels of those to index, where there is no database; empty for all. One task of a
        large study then does not walk through the folders of the others.

    Raises
    ------
    BusyError
        If another process does not finish the database.
    OutputError, DiskError
        If the database cannot be written.
    """
    if database is None:
        return _index(root, subjects=subjects)
    try:
        with _locked(database):
            return _from_database(root, database)
    except NotImplementedError:  # a file system without locks: do without the database
        return _index(root, subjects=subjects)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _read_only(root, database) or _index(root, subjects=subjects)
        raise explain_os_error(error, database) from error


def _index(root: Path, database: Path | None = None, subjects: Collection[str] = ()) -> BIDSLayout:
    from bids import BIDSLayout, BIDSLayoutIndexer

    ignore = [re.compile(pattern) for pattern in (*_ELSEWHERE, _NOT_UTF8)]
    if 0 < len(subjects) <= MOST_NAMED:
        kept = '|'.join(re.escape(label) for label in sorted(subjects))
        ignore.append(re.compile(rf'^/sub-(?!(?:{kept})(?:/|$))[^/]*(?:/|$)'))
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore)
    try:
        return BIDSLayout(
            root, validate=False, indexer=indexer, database_path=database, config=_config()
        )
    except UnicodeDecodeError as error:  # PyBIDS reads in the encoding of the terminal
        raise InvalidBIDSError(
            f'The descriptions in {root} cannot be read in this encoding: {error}.',
            'Set "export PYTHONUTF8=1", and write the descriptions in UTF-8.',
        ) from error


def _config() -> dict[str, Any]:
    """Return PyBIDS' entities, read from the name of a file and not from folders around it.

    The path of a dataset may hold ``sub-``, ``ses-`` and the like, which PyBIDS takes for the
    image's own.
    """
    entities: dict[str, dict[str, Any]] = {}
    for name in ('derivatives', 'bids'):
        text = (files('bids.layout') / 'config' / f'{name}.json').read_text('utf-8')
        entities |= {entity['name']: entity for entity in json.loads(text)['entities']}
    for entity in entities.values():
        if entity['name'] != 'datatype' and 'pattern' in entity:
            entity['pattern'] += r'(?=[^/\\]*$)'
    return {'name': 'mslesseg', 'entities': list(entities.values())}


# -------------------------------------------------------------------------- the database


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Let one process at a time make or open the database."""
    from filelock import FileLock, Timeout

    database.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(database / 'mslesseg.lock', timeout=_PATIENCE_S):
            yield
    except Timeout as error:
        raise BusyError(
            f'Another process has been working on the database {database} for long.',
            'Wait for it, or give this run another folder with --bids-database-dir.',
        ) from error


def _read_only(root: Path, database: Path) -> BIDSLayout | None:
    """Open a database in a folder that nobody may write to; None where it does not fit."""
    from bids import BIDSLayout

    if _read_state(database) != _state_of(root):
        return None
    return _opened(BIDSLayout, root, database)


def _state_of(root: Path) -> dict[str, str]:
    return {'root': str(root), 'folders': _fingerprint(root)}


def _from_database(root: Path, database: Path) -> BIDSLayout:
    """Open the database where it fits the dataset as it is now, else make it anew."""
    from bids import BIDSLayout

    state = _state_of(root)
    if _read_state(database) == state and (layout := _opened(BIDSLayout, root, database)):
        return layout
    fresh = Path(tempfile.mkdtemp(prefix='new-', dir=database))
    try:
        _index(root, fresh)
        # Who reads the old file keeps it: a rename does not touch it.
        (fresh / 'layout_index.sqlite').replace(database / 'layout_index.sqlite')
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    write_json(database / _STATE, state)
    return BIDSLayout(root, validate=False, database_path=database)


def _read_state(database: Path) -> Any:
    try:
        return json.loads((database / _STATE).read_text('utf-8'))
    except (OSError, ValueError):
        return None


def _opened(layout: Any, root: Path, database: Path) -> BIDSLayout | None:
    """Open a database; None for one that is missing or damaged."""
    from sqlalchemy.exc import SQLAlchemyError

    if not (database / 'layout_index.sqlite').is_file():
        return None
    try:
        opened: BIDSLayout = layout(root, validate=False, database_path=database)
        opened.get(suffix='FLAIR', extension=['.nii', '.nii.gz'])
        sound = _is_sound(database / 'layout_index.sqlite')
    except (SQLAlchemyError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return opened if sound else None


def _is_sound(path: Path) -> bool:
    import sqlite3

    with closing(sqlite3.connect(f'{path.as_uri()}?mode=ro', uri=True)) as connection:
        try:
            return bool(connection.execute('PRAGMA quick_check').fetchone() == ('ok',))
        except sqlite3.DatabaseError:
            return False


def _fingerprint(root: Path) -> str:
    """Return a digest of the folders with images: their names and when they were changed.

    A folder changes with every file that is added to it, removed or renamed.
    """
    digest = hashlib.sha256()
    for folder in _folders(root):
        changed = folder.stat().st_mtime_ns
        digest.update(f'{os.fsencode(folder.relative_to(root))!r} {changed}\n'.encode())
    return digest.hexdigest()


def _folders(root: Path) -> Iterator[Path]:
    """Yield the folders ``sub-*``, ``sub-*/ses-*`` and the ``anat`` in them, sorted."""
    for subject in sorted(root.glob('sub-*')):
        if not subject.is_dir():
            continue
        sessions = sorted(path for path in subject.glob('ses-*') if path.is_dir())
        for folder in (subject, *sessions):
            yield folder
            if (folder / 'anat').is_dir():
                yield folder / 'anat'
