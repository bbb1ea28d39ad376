"""One subject of a run: its exams, then the comparison of its sessions, then its report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.exams import share_template
from mslesseg_app.bids.names import expected_outputs
from mslesseg_app.bids.workflow_names import change_name, exam_name, subject_name, top_name
from mslesseg_app.core.errors import BusyError, MSLesSegError, unforeseen
from mslesseg_app.core.settings import Settings
from mslesseg_app.participant import finished
from mslesseg_app.participant.interfaces.base import _marked
from mslesseg_app.participant.locks import locked
from mslesseg_app.participant.workflows import base
from mslesseg_app.participant.workflows.change import Visit, find_visits, init_change_wf
from mslesseg_app.participant.workflows.queue import WorkflowJob
from mslesseg_app.reports.writing import record_failures, report_path, stored_marks, write_reports

if TYPE_CHECKING:
    from mslesseg_app.participant.context import RunContext


class SubjectRun:
    """The exams of one subject, from finding them to the report.

    Parameters
    ----------
    batch : RunContext
    name : str
        Label without ``sub-``.
    exams : list of Exam
        With those that cannot be processed.
    locks : ExitStack
        Gives the locks back if the run is broken off.

    Attributes
    ----------
    units : list of list of Exam
        Exams that can be processed, each alone or with those that share its template.
    over : bool
        Whether nothing is left to do.
    """

    def __init__(self, batch: RunContext, name: str, exams: list[Exam], locks: ExitStack) -> None:
        self.batch = batch
        self.name = name
        self.exams = exams
        self.over = False
        self._settings = batch.settings
        self._all_locks = locks
        self._locks = ExitStack()
        ready = [exam for exam in exams if exam.problem is None]
        shared = share_template(ready, self._settings).get(name, [])
        self.units = [[exam] for exam in ready if exam not in shared]
        self.units += [shared] if shared else []
        self._left = len(self.units)

    def jobs(self) -> Iterator[WorkflowJob | None]:
        """Yield the jobs of the exams that are not finished; None where nothing is to run."""
        self._all_locks.push(self._locks)
        try:
            self._locks.enter_context(locked(self.exams, self._settings))
        except BusyError as error:  # it was free when the run began
            self.batch.outcome.problems |= {exam.label: error for exam in self.exams}
            self.over = True
            return
        for unit in self.units:
            yield self._exam_job(unit)
        if not self.units:
            yield from self._go_on()

    # ------------------------------------------------------------------------- exams

    def _exam_job(self, unit: list[Exam]) -> WorkflowJob | None:
        """Return the job of an exam, or of several that share a template, unless it is done."""
        settings, batch = self._settings, self.batch
        if finished.is_finished(settings, unit_name(unit), self._key(unit), self._files(unit)):
            for exam in unit:
                batch.progress.skip(exam_name(exam))
            return next(iter(self._one_less()), None)
        try:
            workflow = base.init_run_wf(
                exams=unit, settings=settings, engine=batch.engine, entry=batch.entry
            )
        except Exception as error:  # noqa: BLE001 - the other exams must not be lost
            problem = unforeseen(f'{unit_name(unit)} cannot be prepared', error)
            batch.outcome.problems |= {exam.label: problem for exam in unit}
            return next(iter(self._one_less()), None)
        graph = base.take_graph(workflow)
        owners = {exam_name(exam): [exam.label] for exam in unit}
        owners[subject_name(self.name)] = [exam.label for exam in unit]

        def fail(node: Any, traceback: str) -> None:
            failure = base.failure_of(node.name, traceback)
            for label in owners[base.part_of(node)]:
                batch.outcome.steps.setdefault(label, failure.step)
                batch.outcome.problems.setdefault(label, failure.error)

        def end(complete: bool) -> Iterable[WorkflowJob]:
            if complete:
                self._finish_exams(unit, graph)
            return self._one_less()

        return self._job(graph, fail, end)

    def _job(
        self,
        graph: nx.DiGraph,
        fail: Callable[[Any, str], None],
        end: Callable[[bool], Iterable[WorkflowJob]],
    ) -> WorkflowJob:
        """Return the job of a graph of Nipype, with progress, crash files and timings."""
        batch, nodes = self.batch, base.nodes_of(graph)
        batch.progress.begin(nodes)

        def listen(node: Any, status: str, traceback: str) -> None:
            if status == 'exception':
                base.write_crash_file(node, traceback)
                fail(node, traceback)
            batch.progress(base.part_of(node), node.name, status)

        def close(complete: bool) -> Iterable[WorkflowJob]:
            for part in nodes:
                batch.keep_seconds(batch.progress.end(part))
            return end(complete)

        return WorkflowJob(graph, listen, close)

    def _finish_exams(self, unit: list[Exam], graph: nx.DiGraph) -> None:
        """Note that exams are finished, and remove what was needed on the way, if asked to."""
        settings = self._settings
        base.keep_records(graph, settings, unit_name(unit))
        self.note_exams(unit)
        for part in base.nodes_of(graph):
            self._discard(settings.work_dir / top_name() / part)

    def note_exams(self, unit: list[Exam]) -> None:
        """Note that exams are finished, with the files as they are now."""
        finished.note_finished(self._settings, unit_name(unit), self._key(unit), self._files(unit))

    def _discard(self, folder: Path) -> None:
        if self._settings.discard_intermediates:
            shutil.rmtree(folder, ignore_errors=True)

    def _key(self, unit: list[Exam]) -> str:
        return finished.key_of(self._settings, self.batch.model_key, unit)

    def _files(self, unit: list[Exam]) -> list[Path]:
        """Return all files that exams read and write."""
        settings, paths = self._settings, list[Path]()
        for exam in unit:
            uncertain = settings.uncertainty != 'none'
            written = expected_outputs(exam, self.batch.entry.name, uncertain)
            paths += exam.images.values()
            paths += [path for path in (exam.reference, exam.edited) if path]
            paths += [settings.out_dir / path for path in written]
        return paths

    def record_failures(self) -> None:
        """Write the records of the exams that failed."""
        outcome = self.batch.outcome
        record_failures(
            self.exams, outcome.problems, outcome.steps, self._settings, self.batch.entry
        )

    # ------------------------------------------------------------- sessions and report

    def _one_less(self) -> Iterable[WorkflowJob]:
        self._left -= 1
        return self._go_on() if self._left == 0 else ()

    def _go_on(self) -> Iterable[WorkflowJob]:
        """Go on to the comparison of the sessions, and without one to the report."""
        self.record_failures()
        visits: list[Visit] = []
        if self.units and any(exam.session for exam in self.exams):
            visits = find_visits(self.name, self._settings, self.batch.entry.name)
        job = None
        try:
            job = self._change_job(visits) if len(visits) > 1 else None
        except Exception as error:  # noqa: BLE001 - the other subjects must not be lost
            problem = unforeseen(f'The sessions of sub-{self.name} cannot be compared', error)
            self.batch.outcome.others[f'sub-{self.name}, change'] = problem
        return [job] if job else self._report()

    def _change_job(self, visits: list[Visit]) -> WorkflowJob | None:
        """Return the job that compares the sessions, unless it is done."""
        settings, batch, name = self._settings, self.batch, f'sub-{self.name}_change'
        workflow = init_change_wf(subjects=[self.name], settings=settings, model=batch.entry.name)
        if workflow is None:
            return None
        batch.begin_comparing(workflow.visit_desc())
        key = finished.change_key(settings, batch.model_key, visits)
        if finished.is_finished(settings, name, key, self._change_files(visits)):
            return None
        log = settings.out_dir / f'sub-{self.name}' / 'log' / settings.run_uuid
        base.keep_crashes(workflow.get_node(change_name(self.name)), log)
        graph = base.take_graph(workflow)

        def fail(node: Any, traceback: str) -> None:
            error = base.failure_of(node.name, traceback).error
            batch.outcome.others.setdefault(f'sub-{self.name}, change', error)

        def end(complete: bool) -> Iterable[WorkflowJob]:
            if complete:
                base.keep_records(graph, settings, name)
                finished.note_finished(settings, name, key, self._change_files(visits))
                self._discard(settings.work_dir / workflow.name / change_name(self.name))
            return self._report()

        return self._job(graph, fail, end)

    def _change_files(self, visits: list[Visit]) -> list[Path]:
        """Return the files that a comparison reads, and those that it writes."""
        out = self._settings.out_dir
        paths = [Path(one) for visit in visits for one in visit.files(out).values()]
        written = sorted((out / f'sub-{self.name}').glob('**/*change*'))
        return paths + [path for path in written if path.is_file() and 'log' not in path.parts]

    def _report(self) -> Iterable[WorkflowJob]:
        """Return the job that writes the report, unless it is there already."""
        batch, name = self.batch, f'sub-{self.name}_report'
        if finished.is_finished(self._settings, name, self._report_key(), self._report_files()):
            self._close()
            return ()
        graph = nx.DiGraph()
        graph.add_node(ReportStep(self._settings, self.name))

        def listen(step: Any, status: str, traceback: str) -> None:
            if status == 'exception':
                error = base.failure_of(step.name, traceback).error
                batch.outcome.others[f'sub-{self.name}, report'] = error

        def end(complete: bool) -> Iterable[WorkflowJob]:
            if complete:
                self.note_report()
            self._close()
            return ()

        return [WorkflowJob(graph, listen, end)]

    def note_report(self) -> None:
        """Note that the report is written, with the files as they are now."""
        name = f'sub-{self.name}_report'
        finished.note_finished(self._settings, name, self._report_key(), self._report_files())

    def _report_key(self) -> str:
        marks = stored_marks(self._settings, self.name)
        return finished.key_of(self._settings, self.batch.report_key, marks)

    def _report_files(self) -> list[Path]:
        folder = self._settings.out_dir / f'sub-{self.name}'
        return [
            report_path(self._settings, self.name),
            *sorted(path for path in folder.rglob('*') if path.is_file()),
        ]

    def _close(self) -> None:
        self.over = True
        report = report_path(self._settings, self.name)
        self.batch.outcome.reports += [report] if report.is_file() else []
        self._locks.close()


class ReportStep:
    """The writing of a report, for a worker."""

    n_procs = 1
    mem_gb = 0.5
    run_without_submitting = False
    name = 'report'

    def __init__(self, settings: Settings, subject: str) -> None:
        self._settings = settings
        self._subject = subject
        self.fullname = f'sub-{subject}.report'

    def run(self) -> None:
        """Write it."""
        try:
            write_reports(self._settings, [self._subject])
        except MSLesSegError as error:
            raise _marked(error) from error.__cause__

    def is_cached(self) -> tuple[bool, bool]:
        """Return that it must be written."""
        return False, False

    def is_gpu_node(self) -> bool:
        """Return that it needs no GPU."""
        return False


def unit_name(unit: list[Exam]) -> str:
    """Return what the notes of an exam, or of exams that share a template, are named after."""
    return unit[0].label if len(unit) == 1 else f'sub-{unit[0].subject}_shared'
