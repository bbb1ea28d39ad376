"""The worker processes of a run, made to survive what happens to long runs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from traceback import format_exception
from typing import Any, Protocol

from nipype import config

from mslesseg_app.core.errors import BusyError, MSLesSegError
from mslesseg_app.participant.interfaces.base import _marked, error_in

NIPYPE_LOGGERS = ('nipype', 'nipype.workflow', 'nipype.interface', 'nipype.utils')


class Step(Protocol):
    """What a worker can do: a node of Nipype, or something that looks like one.

    Attributes
    ----------
    fullname : str
    n_procs : int
        Threads that it uses.
    mem_gb : float
    run_without_submitting : bool
        It is so short that the main process does it.
    """

    fullname: str
    n_procs: int
    mem_gb: float
    run_without_submitting: bool

    def run(self) -> Any:
        """Do it."""

    def is_cached(self) -> tuple[bool, bool]:
        """Return whether there is a result, and whether it is still right."""

    def is_gpu_node(self) -> bool:
        """Return whether it needs a GPU."""


class Workers:
    """A pool of processes that lives as long as a run: a model is loaded once in each.

    Parameters
    ----------
    number : int
        Processes at most; they are started as they are needed.
    folder : Path
        Where the processes are; nodes leave records of themselves there.
    log_file : Path
        Where the workers write what Nipype logs; the terminal stays the user's.
    """

    def __init__(self, number: int, folder: Path, log_file: Path) -> None:
        self._number = number
        self._setting = (str(folder), log_file, bool(config.resource_monitor))
        self._pool = self._start()

    def submit(self, step: Step, tell: Callable[[str], None]) -> None:
        """Run a step in a worker.

        Parameters
        ----------
        tell : callable
            Gets the text of the traceback, empty when all went well. It is called in a thread
            of the pool.
        """
        try:
            future = self._pool.submit(run_step, step)
        except BrokenProcessPool:
            self._pool.shutdown(wait=False)
            self._pool = self._start()
            future = self._pool.submit(run_step, step)
        future.add_done_callback(lambda done: tell(_outcome(done)))

    def close(self) -> None:
        """Take no more steps, and wait for those that run: they write into the work folder."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(['mslesseg_app.participant.workflows.exam'])
        return ProcessPoolExecutor(
            max_workers=self._number,
            initializer=_start_worker,
            initargs=self._setting,
            mp_context=context,
        )


def run_step(step: Step) -> str:
    """Run a step; return the text of its traceback, empty when all went well.

    The result stays in the worker: what follows reads it from the work folder.
    """
    try:
        step.run()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the main process must learn of it
        return ''.join(format_exception(error))
    return ''


def _outcome(done: Future[str]) -> str:
    """Return the traceback of a step; a worker that was killed gives a failure, not silence."""
    try:
        return done.result()
    except BaseException as error:  # noqa: BLE001 - the run must learn of it, whatever it is
        killed = _marked(_explain(error))
        return ''.join(format_exception(type(killed), killed, None))


def _explain(error: BaseException) -> MSLesSegError:
    if isinstance(error, BrokenProcessPool):
        return BusyError(
            'A worker process was killed, most likely because the machine ran out of memory.',
            'Give more memory, or lower --nprocs, and run the same command again: it goes on '
            'where it stopped.',
        )
    # With a full disk Nipype loses the real error: it looks for a result that was not written.
    known = error_in(''.join(format_exception(error)))
    return known or BusyError(
        f'A worker process failed: {error!r}.', 'Run the same command again.'
    )


def _start_worker(folder: str, log_file: Path, monitor: bool) -> None:
    os.chdir(folder)
    if monitor:  # a setting of Nipype's that nodes do not carry with them
        config.enable_resource_monitor()
    os.environ['NIPYPE_NO_ET'] = '1'
    log_to_file(log_file)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the main process is killed, lest it write beside the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _LogFile(logging.FileHandler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # the file is opened late: its folder may be gone by then
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose a line when the disk is full: the terminal is for the user, not for this."""


def log_to_file(path: Path) -> None:
    """Send what Nipype logs to a file instead of the terminal."""
    handler = _LogFile(path, delay=True)
    handler.setFormatter(logging.Formatter('%(asctime)s %(name)s %(levelname)s: %(message)s'))
    for earlier in logging.getLogger('nipype').handlers:
        if isinstance(earlier, _LogFile):  # of a run before in this process
            earlier.close()
    for name in NIPYPE_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name == 'nipype' else []
        logger.propagate = name != 'nipype'
    logging.captureWarnings(True)
    logging.getLogger('py.warnings').handlers = [handler]
