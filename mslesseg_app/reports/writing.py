"""The reports of the output dataset, made from the records of its exams."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mslesseg_app import __version__
from mslesseg_app.bids.dataset import CITATION
from mslesseg_app.bids.dates import in_order, session_date
from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import group_path, output_path
from mslesseg_app.bids.review import current_review
from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.core.files import write_json, write_text
from mslesseg_app.core.settings import Settings
from mslesseg_app.core.text import natural_key
from mslesseg_app.models.prediction.ensemble import AnyModel
from mslesseg_app.reports.collect import gather_extras, with_statuses
from mslesseg_app.reports.content import ExamContent, Figure, RunProvenance, SubjectContent
from mslesseg_app.reports.participant_report import write_participant_report
from mslesseg_app.reports.records import failed_content, read_record
from mslesseg_app.reports.svg import read_figure

_SHOWN_SOFTWARE = ('nipype', 'niworkflows', 'pybids', 'nibabel', 'SimpleITK', 'numpy', 'scipy')


def record_failures(
    exams: Iterable[Exam],
    problems: dict[str, MSLesSegError],
    steps: dict[str, str],
    settings: Settings,
    entry: AnyModel,
) -> None:
    """Write a record for each exam that failed, so that the report says why.

    Results that an earlier run left stay where they are; only the record is replaced.
    """
    for exam in exams:
        if exam.label not in problems:
            continue
        found = [
            path
            for folder in (exam.folder, f'sub-{exam.subject}')
            for path in sorted(
                (settings.out_dir / folder / 'log' / settings.run_uuid).glob('crash-*')
            )
        ]
        content = failed_content(
            exam,
            problems[exam.label],
            crash_file=found[0].name if found else '',
            step=steps.get(exam.label, ''),
        )
        write_json(
            settings.out_dir / output_path(exam, 'exam', desc=entry.name), content.to_dict()
        )


def write_reports(settings: Settings, subjects: Iterable[str]) -> list[Path]:
    """Write ``sub-<label>.html`` for each subject that has records in the output folder."""
    reports = []
    for subject in sorted(subjects):
        records = sorted((settings.out_dir / f'sub-{subject}').glob('**/log/*_exam.json'))
        if not records:
            continue
        exams = _newest_first(_with_figures(path, subject, settings) for path in records)
        content = SubjectContent(
            subject=subject,
            exams=exams,
            provenance=_provenance(settings),
            boilerplate=_boilerplate(settings),
            citation=CITATION,
            links=_links(settings, subject),
            marks=stored_marks(settings, subject),
        )
        report = report_path(settings, subject)
        extras = gather_extras(exams, subject, settings.out_dir)
        reports.append(write_participant_report(content, report, extras=extras))
    return reports


def _newest_first(exams: Iterable[ExamContent]) -> tuple[ExamContent, ...]:
    """Order exams by time, the newest first; by session labels unless all dates are known."""
    found = list(exams)
    known = {one.session or '': one.date for one in found}
    dates = {name: datetime.fromisoformat(day) if day else None for name, day in known.items()}
    order = {name: place for place, name in enumerate(in_order(dates))}
    return tuple(sorted(found, key=lambda one: -order[one.session or '']))


def _links(settings: Settings, subject: str) -> dict[str, str]:
    """Return the reports beside this one in natural order, and the group report."""
    names = {path.name for path in settings.out_dir.glob('sub-*') if path.is_dir()}
    if not settings.participants:
        names |= {
            path.name
            for path in settings.bids_dir.glob('sub-*')
            if any(path.glob('anat/*_FLAIR.nii*')) or any(path.glob('ses-*/anat/*_FLAIR.nii*'))
        }
    ordered = sorted(names | {f'sub-{subject}'}, key=natural_key)
    place = ordered.index(f'sub-{subject}')
    links = {'group': group_path('report').as_posix()}
    if place:
        links['previous'] = f'{ordered[place - 1]}.html'
    if place + 1 < len(ordered):
        links['next'] = f'{ordered[place + 1]}.html'
    return links


def stored_marks(settings: Settings, subject: str) -> dict[str, dict[str, str]]:
    """Return the stored review of the exams of a participant."""
    return {
        session.removeprefix('ses-'): {'mark': one.mark, 'marked': one.marked, 'note': one.note}
        for (name, session), one in current_review(settings).items()
        if name == f'sub-{subject}'
    }


def report_path(settings: Settings, subject: str) -> Path:
    """Return the path of the report of a subject."""
    return settings.out_dir / f'sub-{subject}.html'


def report_key(settings: Settings) -> list[object]:
    """Return what reports show besides what lies in the folder of their subject."""
    about = _provenance(settings)
    return [about.software, sorted(about.settings.items())]


def write_citation(settings: Settings, text: str) -> Path:
    """Write the methods text of this run to ``logs/CITATION.md``."""
    path = settings.out_dir / 'logs' / 'CITATION.md'
    write_text(path, f'{text.strip()}\n\n### References\n\n{CITATION}\n')
    return path


def extend_citation(settings: Settings, text: str) -> Path:
    """Add a paragraph to the methods text that :func:`write_citation` wrote."""
    path = settings.out_dir / 'logs' / 'CITATION.md'
    head, mark, rest = path.read_text(encoding='utf-8').partition('\n\n### References')
    if text.strip() in head:
        return path
    write_text(path, f'{head}\n\n{text.strip()}{mark}{rest}')
    return path


def _with_figures(path: Path, subject: str, settings: Settings) -> ExamContent:
    record = read_record(path)
    exam = Exam(subject, record.session, {item.modality: Path() for item in record.images})
    flair = next((item.path for item in record.images if item.modality == 'FLAIR'), '')
    when = session_date(settings.bids_dir, subject, record.session, flair)
    record = dataclasses.replace(record, date=when.isoformat() if when else '')
    if record.status == 'failed' or record.model is None:
        return record
    wanted = [output_path(exam, 'figure_lesions', desc=record.model.name)]
    wanted += [output_path(exam, 'figure_brain')]
    wanted += [output_path(exam, 'figure_alignment', suffix=name) for name in exam.images]
    figures: list[Figure] = []
    for name in wanted:
        if (settings.out_dir / name).is_file():
            figures.append(read_figure(settings.out_dir / name).moved(name.as_posix()))
    record = with_statuses(record, subject, settings.out_dir)
    return dataclasses.replace(record, figures=tuple(figures))


def _boilerplate(settings: Settings) -> str:
    path = settings.out_dir / 'logs' / 'CITATION.md'
    return path.read_text(encoding='utf-8') if path.is_file() else ''


def _provenance(settings: Settings) -> RunProvenance:
    shown = {
        key: value
        for key, value in settings.to_dict().items()
        if key not in {'run_uuid', 'command', 'participants', 'sessions'} and value not in ({}, [])
    }
    return RunProvenance(
        run_id=settings.run_uuid,
        command=settings.command,
        software={'mslesseg': __version__, 'Python': sys.version.split()[0], **_versions()},
        settings={key: os.fspath(v) if isinstance(v, Path) else v for key, v in shown.items()},
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _SHOWN_SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a package of another name in some distributions
            continue
    return found
