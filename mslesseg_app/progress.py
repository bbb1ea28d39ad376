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
    labels : mapping
        What to call each exam, by the name of its workflow, in their order.
    quiet : bool
    stream : text stream, optional
        Default: standard error, so that standard output stays free.
    shared : collection of str
        Workflows among ``labels`` that are no exam, but what several exams wait for.
    """

    def __init__(
        self,
        labels: Mapping[str, str],
        quiet: bool = False,
        stream: TextIO | None = None,
        shared: Collection[str] = (),
    ) -> None:
        self._labels = dict(labels)
        exams = [name for name in labels if name not in shared]
        self._number = {name: k for k, name in enumerate(exams, start=1)}
        self._left: dict[str, int] = {}
        self._rest: dict[str, float] = {}
        self._done: set[str] = set()
        self._begun = 0
        self._known = 0.0
        self._waiting = len(exams)
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

    def begin(self, nodes: Mapping[str, list[str]]) -> None:
        """Take note of the nodes that the workflows of exams will run."""
        with self._lock:
            for name, own in nodes.items():
                self._left[name] = len(own)
                self._rest[name] = sum(_weight(node) for node in own)
                self._known += self._rest[name]
                if name in self._number:
                    self._begun += 1
                    self._waiting -= 1

    def skip(self, name: str) -> None:
        """Take note that an exam was done before the run."""
        with self._lock:
            self._done.add(name)
            self._waiting -= 1
            if self._live is not None:
                self._live.update(self._line())

    def end(self, name: str) -> dict[str, float]:
        """Forget a workflow of which nothing will run any more; return the nodes' seconds."""
        with self._lock:
            self._skipped += self._rest.pop(name, 0.0)
            self._left.pop(name, None)
            self._stages.pop(name, None)
            self._told = {told for told in self._told if told[0] != name}
            found = [key for key in self.seconds if key.partition('.')[0] == name]
            return {key: self.seconds.pop(key) for key in found}

    def unfinished(self) -> list[str]:
        """Return the exams that did not reach their end, by their label."""
        return [self._labels[exam] for exam in self._number if exam not in self._done]

    @property
    def _total(self) -> float:
        """Weight of all nodes; exams that did not begin are taken to be as those that did."""
        mean = self._known / self._begun if self._begun else 1.0
        return self._known + mean * self._waiting

    def _finish(self, exam: str, node: str, key: str) -> None:
        left = max(0, self._left.get(exam, 1) - 1)
        self._left[exam] = left
        self._rest[exam] = self._rest.get(exam, 0.0) - _weight(node)
        if key in self._started:
            self.seconds[key] = time.monotonic() - self._started.pop(key)
            self._computed += _weight(node)
        else:  # found in the cache
            self._skipped += _weight(node)
        if left == 0:
            self._done.add(exam)
            self._stages.pop(exam, None)
            self._told = {told for told in self._told if told[0] != exam}

    def _enter_stage(self, exam: str, stage: str) -> None:
        if self._stages.get(exam) == stage:
            return
        self._stages[exam] = stage
        news = (exam, stage) not in self._told
        self._told.add((exam, stage))
        if news and not self._quiet and self._live is None:
            number = self._number.get(exam)
            place = f'[{number} of {len(self._number)}] ' if number else ''
            print(
                f'{place}{self._labels[exam]}: {stage}{self._remaining()}',
                file=self._stream,
                flush=True,
            )

    def _line(self) -> str:
        done = len(self._done & self._number.keys())
        now = ', '.join(f'{self._labels[exam]}: {what}' for exam, what in self._stages.items())
        whole = self._total
        share = (self._computed + self._skipped) / whole if whole else 1.0
        exams = f'{done} of {len(self._number)} exams done'
        idle = 'finishing' if done == len(self._number) else 'starting'
        return f'{share:4.0%}  {exams}  {now or idle}{self._remaining()}'

    def _remaining(self) -> str:
        """Say how long it still takes, once there is something to judge by."""
        whole = self._total
        rest = whole - self._computed - self._skipped
        if self._computed < 0.02 * whole or rest <= 0:
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
