"""Places in the work folder that a run holds while it works on an exam."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path

from filelock import FileLock, Timeout

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.exams import share_template
from mslesseg_app.core.errors import BusyError
from mslesseg_app.core.settings import Settings


@contextmanager
def locked(exams: list[Exam], settings: Settings) -> Iterator[None]:
    """Hold the places of exams in the work folder, so that two runs do not mix there.

    Temporary files that a killed run left of these exams are removed.

    Raises
    ------
    BusyError
        If another run holds one of them.
    """
    with _held(exams, settings):
        for exam in exams:
            _remove_leftovers(exam, settings.out_dir)
        yield


def check_free(exams: list[Exam], settings: Settings) -> None:
    """Make sure that no other run works on these exams now.

    Raises
    ------
    BusyError
        If one does.
    """
    for _, group in groupby(exams, key=lambda exam: exam.subject):
        with _held(list(group), settings):
            pass


@contextmanager
def _held(exams: list[Exam], settings: Settings) -> Iterator[None]:
    folder = settings.work_dir / 'locks'
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        shared = [f'sub-{subject}' for subject in share_template(exams, settings)]
        for label in dict.fromkeys([*(exam.label for exam in exams), *shared]):
            lock = FileLock(folder / f'{label}.lock')
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout as error:
                raise BusyError(
                    f'Another run is working on {label} in {settings.work_dir}.',
                    'Wait for it, or give this run another folder with -w/--work-dir.',
                ) from error
        yield


def _remove_leftovers(exam: Exam, out_dir: Path) -> None:
    """Remove the temporary files that a killed run left of this exam."""
    figures = (out_dir / f'sub-{exam.subject}' / 'figures').glob(f'.tmp-*-{exam.label}_*')
    for path in [*(out_dir / exam.folder).rglob('.tmp-*'), *figures]:
        path.unlink(missing_ok=True)
