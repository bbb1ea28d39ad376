"""Progress on the terminal: stage, exam k of n, time left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any, TextIO

from .workflows.names import stage_of

#: Rough cost of nodes by the first word of their name; all others cost one.
_WEIGHTS = {
    'align': 60.0,
    'flirt': 60.0,
    'start': 15.0,
    'bias': 12.0,
    'anchor': 12.0,
    'segment': 20.0,
    'figure': 4.0,
}


class Progress:
    """Tell the user what is going on.

    On a terminal one live line is kept; elsewhere a line is printed whenever an exam enters
    another stage. Nothing is said when ``quiet``.

    Parameters
    ----------
    nodes : mapping
        Names of the nodes of each exam's workflow.
    labels : mapping
        What to call each exam.
    quiet : bool
    stream : text stream, optional
        Default: standard error, so that standard output stays free.
    shared : collection of str
        Workflows among ``nodes`` that are no exam, but what several exams wait for.
    """

    def __init__(
        self,
        nodes: Mapping[str, list[str]],
        labels: Mapping[str, str],
        quiet: bool = False,
        stream: TextIO | None = None,
        shared: Collection[str] = (),
    ) -> None:
        self._labels = dict(labels)
        self._order = [name for name in nodes if name not in shared]
        self._left = {exam: len(names) for exam, names in nodes.items()}
        self._total = sum(_weight(name) for names in nodes.values() for name in names)
        self._computed = 0.0
        self._skipped = 0.0
        self._started: dict[str, float] = {}
        self._stages: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        self._begin = time.monotonic()
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._live: Any = None
        self._lock = threading.Lock()
        #: Seconds that each node took, by full name, of those that ran.
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Progress:
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                self._line(), console=Console(file=self._stream), refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, exam: str, node: str, status: str) -> None:
        """Take note of a node's start, end or failure."""
        with self._lock:
            key = f'{exam}.{node}'
            if status == 'start':
                self._started[key] = time.monotonic()
                self._enter_stage(exam, stage_of(node))
            else:
                self._finish(exam, node, key)
            if self._live is not None:
                self._live.update(self._line())

    def unfinished(self) -> list[str]:
        """Return the exams that did not reach their end, by their label."""
        return [self._labels[exam] for exam in self._order if self._left[exam]]

    def _finish(self, exam: str, node: str, key: str) -> None:
        self._left[exam] = max(0, self._left.get(exam, 1) - 1)
        if key in self._started:
            self.seconds[key] = time.monotonic() - self._started.pop(key)
            self._computed += _weight(node)
        else:  # found in the cache
            self._skipped += _weight(node)
        if self._left[exam] == 0:
            self._stages.pop(exam, None)

    def _enter_stage(self, exam: str, stage: str) -> None:
        if self._stages.get(exam) == stage:
            return
        self._stages[exam] = stage
        news = (exam, stage) not in self._told
        self._told.add((exam, stage))
        if news and not self._quiet and self._live is None:
            shared = exam not in self._order
            number = 'all' if shared else self._order.index(exam) + 1
            place = f'{number} of {len(self._order)}'
            print(
                f'[{place}] {self._labels[exam]}: {stage}{self._remaining()}',
                file=self._stream,
                flush=True,
            )

    def _line(self) -> str:
        done = sum(self._left[exam] == 0 for exam in self._order)
        now = ', '.join(f'{self._labels[exam]}: {what}' for exam, what in self._stages.items())
        share = (self._computed + self._skipped) / self._total if self._total else 1.0
        exams = f'{done} of {len(self._order)} exams done'
        idle = 'finishing' if done == len(self._order) else 'starting'
        return f'{share:4.0%}  {exams}  {now or idle}{self._remaining()}'

    def _remaining(self) -> str:
        """Say how long it still takes, once there is something to judge by."""
        rest = self._total - self._computed - self._skipped
        if self._computed < 0.02 * self._total or rest <= 0:
            return ''
        seconds = (time.monotonic() - self._begin) * rest / self._computed
        return f' (about {duration(seconds)} left)'


def duration(seconds: float) -> str:
    """Return a duration in words.

    Examples
    --------
    >>> duration(42), duration(330), duration(7300)
    ('42 s', '6 min', '2 h 2 min')
    """
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes // 60} h {minutes % 60} min'


def _weight(node: str) -> float:
    return _WEIGHTS.get(node.split('_', 1)[0], 1.0)
