"""What tells who the subjects are: records beside the subject map, for its owner's eyes only."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mslesseg_app.core.errors import BusyError, DataError
from mslesseg_app.core.files import explain_os_error


def default_map(folder: Path) -> Path:
    """Return where the subject map of a dataset is when none is named."""
    return folder.with_name(f'{folder.name}-private') / 'subjects.json'


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder for its owner's eyes only, and keep other conversions away from it.

    Raises
    ------
    BusyError
        If there is one.
    OutputError, DiskError
        If the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        lock = FileLock(folder / '.lock', timeout=0, mode=0o600)
        lock.acquire()
    except Timeout as error:
        raise BusyError(
            f'Another conversion uses {folder}.', 'Try again when it has ended.'
        ) from error
    except OSError as error:
        raise explain_os_error(error, folder) from error
    try:
        yield
    finally:
        lock.release()


class Records:
    """Records of one dataset: studies with their sessions, identifiers, sources.

    Parameters
    ----------
    subject_map : Path
        The records lie in a folder beside its file, named after the dataset.
    bids_dir : Path
    """

    def __init__(self, subject_map: Path, bids_dir: Path) -> None:
        self.folder = subject_map.parent / f'{subject_map.stem}-{bids_dir.name}'

    def studies(self) -> dict[str, dict[str, dict[str, str]]]:
        """Return the studies that were converted: by subject and UID, date, time and session."""
        return _read_records(self.folder / 'studies.json')

    def keep_studies(self, studies: Mapping[str, Any]) -> None:
        """Write the studies."""
        _write(self.folder / 'studies.json', json.dumps(studies, indent=1, sort_keys=True))

    def identifiers(self, label: str) -> set[str]:
        """Return what must not be met in a subject's files."""
        return set(_read_records(self._identifiers(label)).get('identifiers', []))

    def add_identifiers(self, label: str, values: Iterable[str]) -> None:
        """Remember what must not be met in a subject's files."""
        known = self.identifiers(label)
        joined = known | set(values)
        if joined != known:
            text = json.dumps({'identifiers': sorted(joined)}, ensure_ascii=False, indent=0)
            _write(self._identifiers(label), text)

    def keep_sources(self, lines: Iterable[str]) -> None:
        """Write the table of series with their sources and persons."""
        _write(self.folder / 'sources.tsv', ''.join(f'{line}\n' for line in lines))

    def _identifiers(self, label: str) -> Path:
        return self.folder / f'sub-{label}.json'


def all_identifiers(subject_map: Path) -> set[str]:
    """Return the identifiers of all subjects of all datasets that were made with a map."""
    paths = subject_map.parent.glob(f'{subject_map.stem}-*/sub-*.json')
    return {value for path in paths for value in _read_records(path).get('identifiers', [])}


def _read_records(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:
        raise DataError(f'{path} is damaged.', 'Restore it from a copy, or remove it.') from error
    return content if isinstance(content, dict) else {}


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    try:
        handle, name = tempfile.mkstemp(prefix='.tmp-', dir=path.parent)
        try:
            with os.fdopen(handle, 'w', encoding='utf-8', errors='surrogateescape') as stream:
                stream.write(text)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise explain_os_error(error, path) from error
