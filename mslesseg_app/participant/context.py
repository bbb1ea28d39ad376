"""What the subjects of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mslesseg_app import __version__
from mslesseg_app.bids.dataset import write_lookup
from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.exams import share_template
from mslesseg_app.bids.workflow_names import change_name, exam_name, subject_name
from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.core.settings import Settings
from mslesseg_app.lesions.change import STATUS_CODES
from mslesseg_app.models.prediction.ensemble import AnyModel
from mslesseg_app.participant.progress import RunProgress
from mslesseg_app.reports.writing import extend_citation, report_key


@dataclass
class RunOutcome:
    """What became of the exams of a run.

    Attributes
    ----------
    problems : dict
        Error of each exam that failed, by its label.
    steps : dict
        Stage in which they failed, where it was a step.
    others : dict
        Error of each comparison and report that failed, by what it is of.
    stopped : list of str
        Exams that were not finished because the run was stopped.
    reports : list of Path
        Reports of the subjects, also of those that needed no new one.
    """

    problems: dict[str, MSLesSegError] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    others: dict[str, MSLesSegError] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    reports: list[Path] = field(default_factory=list)


class RunContext:
    """What the subjects of a run share: settings, model, progress and outcome.

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
        Text of what is done with the exams, which the reports show.
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
        self.outcome = RunOutcome({exam.label: exam.problem for exam in exams if exam.problem})
        self.progress = _progress(exams, settings, quiet)
        self._timings = settings.out_dir / 'logs' / f'mslesseg-{settings.run_uuid}_timings.txt'
        self._compared = False

    @cached_property
    def model_key(self) -> list[str]:
        """What results depend on besides settings and exam."""
        return [__version__, self.engine, self.entry.name, self.entry.version, self.entry.digest]

    @cached_property
    def report_key(self) -> list[object]:
        """What reports show besides what lies in the folder of their subject."""
        return [self.methods, report_key(self.settings)]

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


def _progress(exams: list[Exam], settings: Settings, quiet: bool) -> RunProgress:
    ready = [exam for exam in exams if exam.problem is None]
    labels = {exam_name(exam): exam.label for exam in ready}
    others = {subject_name(one): f'sub-{one}' for one in share_template(ready, settings)}
    others |= {change_name(exam.subject): f'sub-{exam.subject}, sessions' for exam in exams}
    return RunProgress(labels | others, quiet, shared=others)
