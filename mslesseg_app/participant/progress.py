"""Progress on the terminal: exams done, running and failed, time elapsed and left."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, TextIO

from mslesseg_app.bids.workflow_names import stage_of

#: Seconds of nodes by the first word of their name, measured on two cores; all others take one.
#: They only count until a run has measured its own.
_SECONDS = {
    'align': 20.0,
    'flirt': 60.0,
    'start': 15.0,
    'regions': 28.0,
    'segment': 13.0,
    'selfcheck': 12.0,
    'brain': 12.0,
    'bet': 12.0,
    'compare': 20.0,
    'restore': 5.0,
    'resample': 4.0,
    'conform': 3.0,
    'anchor': 3.0,
}
_QUICK = frozenset({'ds', 'gather', 'find', 'node', 'describe', 'combine', 'labels'})
#: Exams that the live display names at most.
_MOST_NAMED = 4


class RunProgress:
    """Show the user what is going on.

    On a terminal a bar is kept up to date; elsewhere a line with the time is printed when an exam
    starts, ends or fails. Nothing is shown when ``quiet``.

    The time left follows from the nodes that are left: each counts with the mean time of its kind
    in this run, or with an estimate until one of its kind has run.

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
        self._rest: dict[str, list[str]] = {}
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._begun = 0
        self._known = Counter[str]()
        self._waiting = len(exams)
        self._computed = Counter[str]()
        self._measured: dict[str, tuple[float, int]] = {}
        self._started: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._stages: dict[str, str] = {}
        self._begin = time.monotonic()
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._live: Any = None
        self._lock = threading.Lock()
        #: Seconds that each node took, by full name, of those that ran.
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> RunProgress:
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            self._live = Live(console=console, refresh_per_second=2, get_renderable=self._display)
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
                self._start(exam, node)
            else:
                self._finish(exam, node, key, failed=status == 'exception')

    def begin(self, nodes: Mapping[str, list[str]]) -> None:
        """Take note of the nodes that the workflows of exams will run."""
        with self._lock:
            for name, own in nodes.items():
                self._rest[name] = [_stage_of(node) for node in own]
                self._known.update(self._rest[name])
                if name in self._number:
                    self._begun += 1
                    self._waiting -= 1

    def skip(self, name: str) -> None:
        """Take note that an exam was done before the run."""
        with self._lock:
            self._done.add(name)
            self._waiting -= 1

    def end(self, name: str) -> dict[str, float]:
        """Forget a workflow of which nothing will run any more; return the nodes' seconds."""
        with self._lock:
            rest = self._rest.pop(name, [])
            self._known -= Counter(rest)
            if name in self._failed:
                self._print_line(name, 'failed')
            self._stages.pop(name, None)
            found = [key for key in self.seconds if key.partition('.')[0] == name]
            return {key: self.seconds.pop(key) for key in found}

    def unfinished(self) -> list[str]:
        """Return the exams that did not reach their end, by their label."""
        return [self._labels[exam] for exam in self._number if exam not in self._done]

    def _start(self, exam: str, node: str) -> None:
        new = exam not in self._first
        self._first.setdefault(exam, time.monotonic())
        self._stages[exam] = stage_of(node)
        if new:
            self._print_line(exam, 'started' if exam in self._number else stage_of(node))

    def _finish(self, exam: str, node: str, key: str, failed: bool) -> None:
        kind = _stage_of(node)
        rest = self._rest.get(exam, [])
        if kind in rest:
            rest.remove(kind)
        if key in self._started:
            took = time.monotonic() - self._started.pop(key)
            self.seconds[key] = took
            spent, count = self._measured.get(kind, (0.0, 0))
            self._measured[kind] = (spent + took, count + 1)
            self._computed[kind] += 1
        if failed:
            self._failed.add(exam)
        elif not rest and exam not in self._done and exam not in self._failed:
            self._done.add(exam)
            self._stages.pop(exam, None)
            took = time.monotonic() - self._first.get(exam, time.monotonic())
            if exam in self._number:
                self._print_line(exam, f'done in {duration(took)}')

    def _print_line(self, exam: str, what: str) -> None:
        """Print a line with the time, where there is no live display."""
        if self._quiet or self._live is not None:
            return
        number = self._number.get(exam)
        place = f'[{number} of {len(self._number)}] ' if number else ''
        left = self._remaining()
        print(
            f'{time.strftime("%H:%M:%S")} {place}{self._labels[exam]}: {what}'
            + (f' ({left})' if left else ''),
            file=self._stream,
            flush=True,
        )

    # -------------------------------------------------------------------------- display

    def _display(self) -> Any:
        """Return the bar, the counts and the times, for a terminal."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        with self._lock:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(ProgressBar(total=1.0, completed=self._share(), width=24), self._counts())
            now = [f'{self._labels[exam]}: {what}' for exam, what in self._stages.items()]
            more = f', … {len(now) - _MOST_NAMED} more' if len(now) > _MOST_NAMED else ''
            grid.add_row('', ', '.join(now[:_MOST_NAMED]) + more)
            return grid

    def _counts(self) -> str:
        """Return how many exams are done, running and failed, and the times."""
        exams = self._number.keys()
        done, failed = len(self._done & exams), len(self._failed & exams)
        running = len((self._stages.keys() & exams) - self._failed)
        parts = [f'{self._share():.0%}', f'{done} of {len(exams)} exams done']
        parts += [f'{running} running'] if running else []
        parts += [f'{failed} failed'] if failed else []
        seconds = int(time.monotonic() - self._begin)
        clock = f'{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}'
        left = self._remaining()
        parts.append(f'{clock} elapsed' + (f', {left}' if left else ''))
        return '  '.join(parts)

    def _share(self) -> float:
        """Return which part of the work is over, of nodes that were computed or found done."""
        whole, left = self._work()
        return 1 - left / whole if whole else 1.0

    def _work(self) -> tuple[float, float]:
        """Return the seconds of all nodes and of those that are left.

        Exams that did not begin count as those that did.
        """
        known = self._costs(self._known)
        mean = known / self._begun if self._begun else 1.0
        left = sum(self._cost(kind) for rest in self._rest.values() for kind in rest)
        waiting = mean * self._waiting
        return known + waiting, left + waiting

    def _costs(self, kinds: Counter[str]) -> float:
        return sum(self._cost(kind) * count for kind, count in kinds.items())

    def _cost(self, kind: str) -> float:
        spent, count = self._measured.get(kind, (0.0, 0))
        return max(spent / count, 0.01) if count else _guess(kind)

    def _remaining(self) -> str:
        """Return how long it still takes, once there is something to judge by."""
        whole, left = self._work()
        computed = self._costs(self._computed)
        if computed < 0.02 * whole or left <= 0:
            return ''
        seconds = (time.monotonic() - self._begin) * left / computed
        return f'about {duration(seconds)} left'


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


def _stage_of(node: str) -> str:
    return node.split('_', 1)[0]


def _guess(kind: str) -> float:
    """Return the seconds of a node of which none has run yet."""
    return 0.05 if kind in _QUICK else _SECONDS.get(kind, 1.0)
