"""Helpers for tests that start the App in processes of its own."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

#: Of the synthetic head, as a factor: coarse, because the tests shall be quick.
RESOLUTION = 3.0
#: Options of runs that shall be quick.
QUICK = ('--nprocs', '2', '--skip-bids-validation', '--model', 'hyperintensity')


def contents(out: Path) -> dict[str, bytes]:
    """Return what must be the same after each run: all but logs, records and pages."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob('*'))
        if path.is_file()
        and not {'log', 'logs'} & set(path.relative_to(out).parts)
        and path.suffix != '.html'
    }


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of all files of a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob('*')
        if path.is_file()
    }


def computed_nodes(work: Path) -> dict[str, int]:
    """Return when each node was computed, sinks left out: these always run."""
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in work.rglob('result_*.pklz')
        if not path.parent.name.startswith('ds_')
    }


def wait_for(process: subprocess.Popen[str], work: Path, step: str) -> None:
    """Wait until a run has begun a step, which then has a folder in the work folder."""
    while process.poll() is None:
        with contextlib.suppress(OSError):  # folders come and go
            if any(work.rglob(f'{step}*')):
                return
        time.sleep(0.05)
    raise AssertionError(f'the run ended before its step {step!r}')
