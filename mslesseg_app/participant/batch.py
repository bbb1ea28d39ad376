"""All exams of a run: one graph each, taken from a queue, subject by subject."""

from __future__ import annotations

from contextlib import ExitStack, chdir, closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from nipype.utils.profiler import get_system_total_memory_gb

from mslesseg_app import __version__
from mslesseg_app.bids.dataset import write_lookup
from mslesseg_app.bids.exams import Exam, share_template
from mslesseg_app.bids.workflow_names import change_name, exam_name, subject_name
from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.core.settings import Settings
from mslesseg_app.lesions.change import STATUS_CODES
from mslesseg_app.models.prediction.ensemble import AnyModel
from mslesseg_app.participant.progress import Progress
from mslesseg_app.participant.subjects import Subject
from mslesseg_app.participant.workflows.base import configured_nipype, log_path
from mslesseg_app.participant.workflows.queue import Resources, Scheduler
from mslesseg_app.participant.workflows.workers import Workers
from mslesseg_app.reports.writing import extend_citation, page_key, write_pages


@dataclass
class Outcome:
    """What became of the exams of a run.

    Attributes
    ----------
    problems : dict
        Error of each exam that failed, by its label.
    steps : dict
        Stage in which they failed, where it was a step.
    others : dict
        Error of each comparison and page that failed, by what it is of.
    stopped : list of str
        Exams that were not finished because the run was stopped.
    pages : list of Path
        Pages of the subjects, also of those that needed no new one.
    """

    problems: dict[str, MSLesSegError] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    others: dict[str, MSLesSegError] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    pages: list[Path] = field(default_factory=list)


class Batch:
    """Exams that are processed with the same settings.

    Parameters
    ----------
    exams : list of Exam
        In the order in which they are processed; those of a subject follow each other.
    settings : Settings
    engine : {'fsl', 'builtin'}
    entry : ModelEntry or Ensemble
    quiet : bool
        Say nothing of the progress.
    methods : str
        Text of what is done with the exams, which the pages show.
    """

    def __init__(
        self,
        exams: list[Exam],
        settings: Settings,
        engine: str,
        entry: AnyModel,
        quiet: bool = False,
        methods: str = '',
    ) -> None:
        self.exams = exams
        self.settings = settings
        self.engine = engine
        self.entry = entry
        self.methods = methods
        self.outcome = Outcome({exam.label: exam.problem for exam in exams if exam.problem})
        self.progress = _progress(exams, settings, quiet)
        self._timings = settings.out_dir / 'logs' / f'mslesseg-{settings.run_uuid}_timings.txt'
        self._compared = False

    def run(self) -> Outcome:
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
            subjects = [Subject(self, name, list(exams), locks) for name, exams in groups]
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

    def _end_early(self, subjects: list[Subject]) -> None:
        """Write records and pages of what came to an end, and note what was not finished."""
        problems = self.outcome.problems
        stopped = [label for label in self.progress.unfinished() if label not in problems]
        self.outcome.stopped = stopped
        for subject in subjects:
            if not subject.over and any(exam.label not in stopped for exam in subject.exams):
                subject.record_failures()
                self.outcome.pages += write_pages(self.settings, [subject.name])

    @cached_property
    def model_key(self) -> list[str]:
        """What results depend on besides settings and exam."""
        return [__version__, self.engine, self.entry.name, self.entry.version, self.entry.digest]

    @cached_property
    def page_key(self) -> list[object]:
        """What pages show besides what lies in the folder of their subject."""
        return [self.methods, page_key(self.settings)]

    def keep_seconds(self, seconds: dict[str, float]) -> None:
        """Add the seconds of nodes to the timings of the run."""
        lines = [f'{name}\t{value:.2f}\n' for name, value in sorted(seconds.items())]
        with self._timings.open('a', encoding='utf-8') as file:
            file.write(''.join(lines))

    def begin_comparing(self, text: str) -> None:
        """Say in the methods text, once a run, that sessions are compared."""
        if not self._compared:
            self._compared = True
            codes = {str(status): code for status, code in STATUS_CODES.items()}
            write_lookup(self.settings.out_dir, 'change', codes)
            extend_citation(self.settings, text)


def _progress(exams: list[Exam], settings: Settings, quiet: bool) -> Progress:
    ready = [exam for exam in exams if exam.problem is None]
    labels = {exam_name(exam): exam.label for exam in ready}
    others = {subject_name(one): f'sub-{one}' for one in share_template(ready, settings)}
    others |= {change_name(exam.subject): f'sub-{exam.subject}, sessions' for exam in exams}
    return Progress(labels | others, quiet, shared=others)


def resources_of(settings: Settings) -> Resources:
    """Return what the steps of a run may use together; by default 90 % of the memory."""
    memory = settings.mem_gb or 0.9 * float(get_system_total_memory_gb())
    return Resources(settings.nprocs, memory)
