"""Running a command of its own, with the memory that it and its children hold together."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Sequence

import psutil


def run_watched(command: Sequence[str]) -> tuple[float, int]:
    """Return the seconds that a command took and the most bytes that its processes held."""
    start, peak = time.perf_counter(), 0
    process = psutil.Popen(list(command), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _memory(process))
        time.sleep(0.2)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return time.perf_counter() - start, peak


def _memory(process: psutil.Process) -> int:
    """Sum the proportional set sizes of a process tree: shared pages count once."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += one.memory_full_info().pss
    return total
