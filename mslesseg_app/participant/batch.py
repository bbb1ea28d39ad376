"""All exams of a run: one graph each, taken from a queue, subject by subject."""

from __future__ import annotations

from contextlib import ExitStack, chdir, closing
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from nipype.utils.profiler import get_system_total_memory_gb

from mslesseg_app.core.settings import Settings
from mslesseg_app.participant.context import RunContext, RunOutcome
from mslesseg_app.participant.subjects import SubjectRun
from mslesseg_app.participant.workflows.base import configured_nipype, log_path
from mslesseg_app.participant.workflows.queue import FreeResources, Scheduler
from mslesseg_app.participant.workflows.workers import Workers
from mslesseg_app.reports.writing import write_reports


class Batch(RunContext):
    """Exams that are processed with the same settings."""

    def run(self) -> RunOutcome:
        """Process all exams, whatever fails in some; return what became of them."""
        settings = self.settings
        self._timings.parent.mkdir(parents=True, exist_ok=True)
        self._timings.write_text('node\tseconds\n', encoding='utf-8')
        temporary = TemporaryDirectory(
            dir=settings.work_dir, prefix='run-', ignore_cleanup_errors=True
        )
        # Nipype's records of nodes go to the current folder; it shall not be the user's.
        with temporary as here, chdir(here), configured_nipype(settings), ExitStack() as locks:
            groups = groupby(self.exams, key=lambda exam: exam.subject)
            subjects = [SubjectRun(self, name, list(exams), locks) for name, exams in groups]
            workers = Workers(settings.nprocs, Path(here), log_path(settings))
            # When they end, no worker writes any more: only then are the locks given back.
            with closing(workers), self.progress:
                scheduler = Scheduler(
                    workers, resources_of(settings), stop_on_failure=settings.stop_on_first_crash
                )
                scheduler.run(job for subject in subjects for job in subject.jobs())
            if scheduler.stopped:
                self._end_early(subjects)
        return self.outcome

    def _end_early(self, subjects: list[SubjectRun]) -> None:
        """Write records and reports of what came to an end, and note what was not finished."""
        problems = self.outcome.problems
        stopped = [label for label in self.progress.unfinished() if label not in problems]
        self.outcome.stopped = stopped
        for subject in subjects:
            if not subject.over and any(exam.label not in stopped for exam in subject.exams):
                subject.record_failures()
                self.outcome.reports += write_reports(self.settings, [subject.name])


def resources_of(settings: Settings) -> FreeResources:
    """Return what the steps of a run may use together; by default 90 % of the memory."""
    memory = settings.mem_gb or 0.9 * float(get_system_total_memory_gb())
    return FreeResources(settings.nprocs, memory)
