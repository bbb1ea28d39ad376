"""What a training tells while it runs: a bar or lines, a CSV table, and TensorBoard."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from mslesseg_app.core.errors import UsageError
from mslesseg_app.core.files import write_text

LOG = 'log.csv'
COLUMNS = (
    'epoch', 'steps', 'loss', 'learning_rate', 'gradient_norm', 'skipped', 'rate_scale', 'dsc',
    'best', 'seconds', 'waiting',
)  # fmt: skip
"""Of the log: after the epoch, steps done so far; mean loss; rate and mean norm of the gradient
of its last step; steps skipped in it for want of a finite gradient; factor on the rate after such
trouble; mean DSC of the validation exams; whether it is the best so far; seconds so far; and
the seconds of it in which the network waited for data."""


class Tracker:
    """Shows progress and keeps the log of one run.

    Parameters
    ----------
    folder : Path
        Of the run.
    quiet : bool
        Say nothing.
    tensorboard : bool
        Write event files too, into ``tensorboard`` below the folder.
    stream : text stream, optional
        Default: standard error.

    Raises
    ------
    UsageError
        If TensorBoard is asked for and tensorboardX is not installed.
    """

    def __init__(
        self,
        folder: Path,
        quiet: bool = False,
        tensorboard: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.folder, self.quiet = folder, quiet
        self.stream = stream or sys.stderr
        self.bar: Any = None
        self.task: Any = None
        self.events = _event_writer(folder) if tensorboard else None

    def __enter__(self) -> Tracker:
        if not self.quiet and self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            self.bar = Progress(
                '{task.description}',
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(file=self.stream),
            )
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.events is not None:
            self.events.close()

    def begin(self, total: int, done: int) -> None:
        """Begin, or go on, after so many steps of all."""
        if self.bar is not None:
            self.task = self.bar.add_task('training', total=total, completed=done)

    def step(self, epoch: int, loss: float) -> None:
        """Take note of one step."""
        if self.bar is not None:
            text = f'epoch {epoch + 1}, loss {loss:.4f}'
            self.bar.update(self.task, advance=1, description=text)

    def say(self, text: str) -> None:
        """Say a sentence."""
        if not self.quiet:
            target = self.bar.console if self.bar is not None else None
            if target is not None:
                target.print(text, highlight=False)
            else:
                print(text, file=self.stream, flush=True)

    def epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the log anew, whole, and tell of its last row."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(history)
        write_text(self.folder / LOG, buffer.getvalue())
        last = history[-1]
        dsc = f', DSC {last["dsc"]}' if last['dsc'] != '' else ''
        best = ' (best so far)' if last['best'] == 1 else ''
        if self.bar is None or dsc:
            self.say(f'epoch {last["epoch"]}: loss {last["loss"]}{dsc}{best}')
        if self.events is not None:
            for name in ('loss', 'learning_rate', 'gradient_norm', 'dsc'):
                if last[name] != '':
                    self.events.add_scalar(name, float(last[name]), int(last['steps']))
            self.events.flush()


def _event_writer(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UsageError(
            'TensorBoard files need the package tensorboardX.',
            "pip install 'mslesseg[training]', or leave --tensorboard out.",
        ) from error
    return SummaryWriter(str(folder / 'tensorboard'), flush_secs=30)
