"""Jobs taken from a queue: few at a time, the oldest first, each a graph of its own.

What a step costs here depends on its own job and on the few that run beside it, and not on how
many jobs there are.
"""

from __future__ import annotations

import gc
import re
from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from traceback import format_exception
from typing import Any

import networkx as nx

from mslesseg_app.participant.workflows.workers import Step, Workers

#: What is reported of a step: the step, ``start``, ``end`` or ``exception``, and with the last the
#: text of the traceback.
Listener = Callable[[Any, str, str], None]

#: Jobs in flight beyond the number of processors: enough to keep all of them busy while some
#: jobs wait for a step that runs alone.
_MORE_JOBS = 2
#: So long the main process sleeps at most before it looks whether it was interrupted.
_WAIT_S = 1.0


class WorkflowJob:
    """A graph of steps.

    Parameters
    ----------
    graph : DiGraph
        Of steps, edges from what comes first to what needs it.
    listen : callable
        Told of each step that starts, ends or fails. Steps that are cached only end.
    end : callable
        Called with whether all steps were done, when nothing is left that could run; gives the
        jobs that follow at once.
    """

    def __init__(
        self,
        graph: nx.DiGraph,
        listen: Listener,
        end: Callable[[bool], Iterable[WorkflowJob]] = lambda _: (),
    ) -> None:
        self.steps: list[Step] = list(nx.topological_sort(graph))
        number = {step: k for k, step in enumerate(self.steps)}
        self._after = [sorted(number[one] for one in graph.successors(s)) for s in self.steps]
        self._waits = [graph.in_degree(step) for step in self.steps]
        self._open = set(number.values())
        self.ready = [k for k, count in enumerate(self._waits) if count == 0]
        self.checked: set[int] = set()
        self.complete = True
        self.listen = listen
        self.end = end

    @property
    def over(self) -> bool:
        """Whether nothing is left that runs or could run."""
        return not self._open

    def finish(self, number: int) -> None:
        """Take note that a step is done."""
        self._open.discard(number)
        for later in self._after[number]:
            self._waits[later] -= 1
            if self._waits[later] == 0 and later in self._open:
                insort(self.ready, later)

    def fail(self, number: int) -> None:
        """Give up a step and all that needs it."""
        self.complete = False
        lost = [number]
        while lost:
            one = lost.pop()
            if one in self._open:
                self._open.discard(one)
                lost += self._after[one]


@dataclass
class FreeResources:
    """What is free.

    Attributes
    ----------
    processors : int
    memory_gb : float
    gpus : int
    """

    processors: int
    memory_gb: float
    gpus: int = 1

    def __post_init__(self) -> None:
        self._all = (self.processors, self.memory_gb, self.gpus)

    def take(self, step: Step, sign: int = 1) -> bool:
        """Take what a step needs, or give it back (-1); return whether there is enough.

        A step that needs more than there is gets all.
        """
        processors, memory, gpus = self._all
        needs = (
            min(step.n_procs, processors),
            min(step.mem_gb, memory),
            min(int(step.is_gpu_node()), gpus),
        )
        free = (self.processors, self.memory_gb, self.gpus)
        if sign > 0 and any(need > have + 1e-6 for need, have in zip(needs, free, strict=True)):
            return False
        self.processors -= sign * needs[0]
        self.memory_gb -= sign * needs[1]
        self.gpus -= sign * needs[2]
        return True


class Scheduler:
    """Run jobs with a pool of workers.

    A job is taken from the queue only when a processor is free for which the jobs in flight
    have no step: the first job ends after the time of one.

    Parameters
    ----------
    workers : Workers
    resources : FreeResources
    most_jobs : int, optional
        Jobs in flight at most; default: two more than processors.
    stop_on_failure : bool
        Let the first failure stop everything.
    """

    def __init__(
        self,
        workers: Workers,
        resources: FreeResources,
        *,
        most_jobs: int | None = None,
        stop_on_failure: bool = False,
    ) -> None:
        self._workers = workers
        self._free = resources
        self._most = most_jobs or resources.processors + _MORE_JOBS
        self._stop_on_failure = stop_on_failure
        self._flight: list[WorkflowJob] = []
        self._results: SimpleQueue[tuple[WorkflowJob, int, str]] = SimpleQueue()
        self._running = 0
        self.stopped = False

    def run(self, queue: Iterator[WorkflowJob | None]) -> None:
        """Run all jobs of a queue to their end, whatever fails in them.

        Parameters
        ----------
        queue : iterator of WorkflowJob or None
            A job is made when it is asked for. None: there was nothing to run this time.
        """
        # What was there before is no garbage: the collections below need not look at it.
        gc.collect()
        gc.freeze()
        more = True
        try:
            while not self.stopped:
                self._collect(wait=False)
                self._submit()
                if self._run_short_step():
                    continue
                if more and self._has_room():
                    more = self._take(queue)
                elif self._running:
                    self._collect(wait=True)
                elif not self._flight:
                    return
        finally:
            gc.unfreeze()

    def _has_room(self) -> bool:
        return len(self._flight) < self._most and self._free.processors > 0

    def _take(self, queue: Iterator[WorkflowJob | None]) -> bool:
        """Take the next job into flight; return whether there may be more."""
        try:
            job = next(queue)
        except StopIteration:
            return False
        if job is not None:
            self._flight.append(job)
            self._close_if_over(job)
        return True

    def _submit(self) -> None:
        """Give the workers what they can take; take note of what is done already."""
        for job in list(self._flight):
            for number in list(job.ready):
                step = job.steps[number]
                if number not in job.checked:
                    job.checked.add(number)
                    if _is_done(step):
                        job.ready.remove(number)
                        self._end(job, number, '')
                        continue
                if not step.run_without_submitting and self._free.take(step):
                    job.ready.remove(number)
                    self._start(job, number)

    def _start(self, job: WorkflowJob, number: int) -> None:
        job.listen(job.steps[number], 'start', '')
        self._running += 1
        results = self._results
        self._workers.submit(job.steps[number], lambda text: results.put((job, number, text)))

    def _run_short_step(self) -> bool:
        """Do the first step that is for the main process; return whether to go on at once.

        Steps that it makes ready are left to the next round, so that no worker waits long.
        """
        for job in self._flight:
            for number in job.ready:
                if number not in job.checked:
                    return True  # made ready in this round: it may be done already
                step = job.steps[number]
                if step.run_without_submitting:
                    job.ready.remove(number)
                    job.listen(step, 'start', '')
                    self._end(job, number, _run_here(step))
                    return True
        return False

    def _collect(self, *, wait: bool) -> None:
        """Take note of all steps that came back; ``wait`` for one, but not for long."""
        try:
            while True:
                job, number, text = self._results.get(block=wait, timeout=_WAIT_S)
                wait = False
                self._running -= 1
                self._free.take(job.steps[number], -1)
                self._end(job, number, text)
        except Empty:
            return

    def _end(self, job: WorkflowJob, number: int, text: str) -> None:
        step = job.steps[number]
        if text:
            job.fail(number)
            job.listen(step, 'exception', text)
            self.stopped = self.stopped or self._stop_on_failure
        else:
            job.finish(number)
            job.listen(step, 'end', '')
        self._close_if_over(job)

    def _close_if_over(self, job: WorkflowJob) -> None:
        """Let what follows take the place of a job that is over."""
        if not job.over or self.stopped:
            return
        place = self._flight.index(job)
        following = list(job.end(job.complete))
        self._flight[place : place + 1] = following
        gc.collect()  # graphs and traits are full of circles
        for one in following:
            self._close_if_over(one)


def _is_done(step: Step) -> bool:
    """Return whether a step was done before and need not be done again."""
    interface = getattr(step, 'interface', None)
    always = getattr(step, 'overwrite', None) or (
        getattr(step, 'overwrite', None) is None and getattr(interface, 'always_run', False)
    )
    if always:
        return False
    try:
        return all(step.is_cached())
    except Exception:  # noqa: BLE001 - whatever is wrong with its inputs is reported when it runs
        return False


def _run_here(step: Step) -> str:
    try:
        step.run()
    except Exception as error:
        text = ''.join(format_exception(error))
        if re.search(r'^\s*KeyboardInterrupt', text, re.MULTILINE):  # Nipype makes it a failure
            raise KeyboardInterrupt from error
        return text
    return ''
