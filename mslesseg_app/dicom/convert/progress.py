"""Progress of a conversion: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

_EVERY = 10.0  # seconds between plain lines


class ConversionProgress:
    """Progress of one stage.

    Parameters
    ----------
    what : str
        What is counted, for example ``'files read'``.
    total : int or None
        None where it is not known beforehand.
    quiet : bool
    stream : text stream, optional
        Default: standard error.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._what = what
        self._total = total
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._done = self._said = 0
        self._told = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> ConversionProgress:
        if not self._quiet and self._stream.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn('{task.description}'),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                console=Console(file=self._stream),
            )
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self._done > self._said:
            self._print_count()

    def advance(self, number: int = 1) -> None:
        """Count what has been done."""
        self._done += number
        if self._bar is not None:
            self._bar.advance(self._task, number)
        elif time.monotonic() - self._told > _EVERY:
            self._print_count()

    def _print_count(self) -> None:
        if self._quiet:
            return
        self._told, self._said = time.monotonic(), self._done
        of = f' of {self._total}' if self._total is not None else ''
        print(f'{self._done}{of} {self._what}', file=self._stream, flush=True)
