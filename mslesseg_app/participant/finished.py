"""Notes of what is finished, so that a second run only looks whether it is still so.

A note holds a key for everything that was decided before (settings, versions, the model), and size
and time of change of all files that were read or written. Where anything differs, or the note is
missing, the work is taken up again, and Nipype's cache tells by content what must be computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mslesseg_app.core.files import write_json
from mslesseg_app.core.settings import Settings

#: Settings that change no result of an exam.
_NOT_OF_EXAMS = frozenset({
    'bids_database_dir',
    'change_extent',
    'change_threshold',
    'command',
    'device',
    'discard_intermediates',
    'longitudinal',
    'mem_gb',
    'min_change_volume',
    'model_dir',
    'nprocs',
    'offline',
    'omp_nthreads',
    'participants',
    'resource_monitor',
    'review',
    'rules',
    'run_uuid',
    'sessions',
    'skip_bids_validation',
    'stop_on_first_crash',
    'work_dir',
    'write_graph',
})  # fmt: skip


#: Settings that only the comparison of sessions depends on.
_OF_CHANGE = ('change_extent', 'change_threshold', 'longitudinal', 'min_change_volume')


def change_key(settings: Settings, *more: Any) -> str:
    """Return a key for the settings that matter to a comparison, and for more that does."""
    return key_of(settings, [getattr(settings, name) for name in _OF_CHANGE], *more)


def key_of(settings: Settings, *more: Any) -> str:
    """Return a key for the settings that matter to results, and for more that does."""
    values = settings.to_dict()
    kept = {name: values[name] for name in sorted(values.keys() - _NOT_OF_EXAMS)}
    text = json.dumps([kept, more], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def note_path(settings: Settings, name: str, key: str) -> Path:
    """Return the path of a note in the work folder; each key has its own."""
    return settings.work_dir / 'finished' / f'{name}-{key[:12]}.json'


def note_finished(settings: Settings, name: str, key: str, files: Iterable[Path]) -> None:
    """Note that something is finished."""
    write_json(note_path(settings, name, key), {'key': key, 'files': _states(files)})


def is_finished(settings: Settings, name: str, key: str, files: Iterable[Path]) -> bool:
    """Return whether something was finished with this key, and its files are as they were."""
    try:
        note = json.loads(note_path(settings, name, key).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return False
    if not isinstance(note, dict) or note.get('key') != key:
        return False
    states = _states(files)
    return None not in states.values() and note.get('files') == states


def forget(settings: Settings, name: str) -> None:
    """Remove all notes of something, whatever their keys."""
    for path in (settings.work_dir / 'finished').glob(f'{name}-*.json'):
        path.unlink(missing_ok=True)


def _states(files: Iterable[Path]) -> dict[str, list[int] | None]:
    states: dict[str, list[int] | None] = {}
    for path in files:
        try:
            state = path.stat()
        except OSError:
            states[str(path)] = None
        else:
            states[str(path)] = [state.st_size, state.st_mtime_ns]
    return states
