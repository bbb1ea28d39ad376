"""Nipype's process pool, made to survive what happens to long runs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from traceback import format_exception
from typing import Any

from nipype import config
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

from ..errors import BusyError, MSLesSegError
from ..interfaces.base import _marked, error_in

#: What the plugin tells about a node: its full name and ``start``, ``end`` or ``exception``,
#: and the text of the traceback with the last.
Listener = Callable[[str, str, str], None]

NIPYPE_LOGGERS = ('nipype', 'nipype.workflow', 'nipype.interface', 'nipype.utils')


class ExamPlugin(MultiProcPlugin):
    """A process pool that reports to a listener and does not wait for workers that are dead.

    Parameters
    ----------
    plugin_args : dict
        Nipype's arguments for ``MultiProc``.
    listener : callable
        Told of each node's start, end and failure.
    log_file : Path
        Where the workers write what Nipype logs; the terminal stays the user's.
    """

    def __init__(self, plugin_args: dict[str, Any], listener: Listener, log_file: Path) -> None:
        self._listener = listener
        self._log_file = log_file
        super().__init__(plugin_args=plugin_args)
        self.pool = self._make_pool()
        self._status_callback = self._tell

    def _make_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(['mslesseg_app.workflows.exam'])
        return ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=_start_worker,
            initargs=(self._cwd, self._log_file, bool(config.resource_monitor)),
            mp_context=context,
        )

    def _tell(self, node: Any, status: str) -> None:
        # 'exception' follows from _clean_queue, which knows the traceback.
        if status != 'exception':
            self._listener(node.fullname, status, '')

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        if getattr(node.interface, 'terminal_output', '') == 'stream':
            node.interface.terminal_output = 'allatonce'
        try:
            future = self.pool.submit(run_node, node, updatehash, self._taskid)
        except BrokenProcessPool:
            self.pool.shutdown(wait=False)
            self.pool = self._make_pool()
            future = self.pool.submit(run_node, node, updatehash, self._taskid)
        self._task_obj[self._taskid] = future
        future.add_done_callback(partial(self._finished, self._taskid))
        return self._taskid

    def _finished(self, taskid: int, future: Future[dict[str, Any]]) -> None:
        """Keep a node's result; a worker that was killed gives a failure, not silence."""
        try:
            self._taskresult[taskid] = future.result()
        except BaseException as error:  # noqa: BLE001 - the loop must learn of it, whatever it is
            killed = _marked(_explain(error))
            text = format_exception(type(killed), killed, None)
            self._taskresult[taskid] = {'result': None, 'traceback': text, 'taskid': taskid}

    def _clean_queue(self, jobid: int, graph: Any, result: dict[str, Any] | None = None) -> Any:
        traceback = ''.join((result or {}).get('traceback') or '')
        self._listener(self.procs[jobid].fullname, 'exception', traceback)
        try:
            return super()._clean_queue(jobid, graph, result=result)
        except OSError:  # the crash file could not be written: a full disk, for example
            return self._remove_node_deps(jobid, '', graph)


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
    for name in NIPYPE_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name == 'nipype' else []
        logger.propagate = name != 'nipype'
    logging.captureWarnings(True)
    logging.getLogger('py.warnings').handlers = [handler]
