"""What was asked for, and what shall become of each series: subject, session and name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import ModuleType

from mslesseg_app.core.errors import DataError, NoInputError, UsageError
from mslesseg_app.dicom.convert import heuristic
from mslesseg_app.dicom.convert.conversion import ANATOMICAL, SeriesOutcome
from mslesseg_app.dicom.convert.heuristic import Target
from mslesseg_app.dicom.convert.index import Index
from mslesseg_app.dicom.convert.series import Series, find_series
from mslesseg_app.dicom.convert.studies import SessionsFrom, Study, label_sessions
from mslesseg_app.dicom.deidentify.identifiers import Identifiers
from mslesseg_app.dicom.deidentify.private_records import Records
from mslesseg_app.dicom.identity import SubjectIdentity, SubjectMap


@dataclass(frozen=True)
class ConversionRequest:
    """What the command line asks for.

    Attributes
    ----------
    sources : tuple of Path
    bids_dir, work_dir, subject_map : Path
    subject : str or None
        Label for the one patient of the sources.
    session_from : {'date', 'order', 'none'}
    heuristic : str
        ``mslesseg``, ``reproin`` or a file.
    """

    sources: tuple[Path, ...]
    bids_dir: Path
    work_dir: Path
    subject_map: Path
    subject: str | None = None
    session_from: SessionsFrom = 'date'
    heuristic: str = 'mslesseg'
    deface: bool = True
    nprocs: int = 1
    dry_run: bool = False
    quiet: bool = False


@dataclass
class Item:
    """A series on its way, with the subject and session to which it belongs."""

    subject: SubjectIdentity
    session: str
    target: Target
    outcome: SeriesOutcome = field(default_factory=SeriesOutcome)

    @property
    def decision(self) -> str:
        """What became of the series."""
        if self.outcome.error:
            return 'failed'
        return 'converted' if self.target.prefix else 'left out'

    @property
    def wanted(self) -> bool:
        """Whether the series should be in the dataset, as far as can be known."""
        return bool(self.target.prefix or self.outcome.error)


def sort_series(index: Index, request: ConversionRequest) -> list[Series]:
    """Return the series of the index.

    Raises
    ------
    NoInputError
        If there is no DICOM file.
    DataError
        If none of the files holds an MR image.
    """
    series = find_series(index)
    if not index.count():
        raise NoInputError(
            f'No DICOM file in {", ".join(map(str, request.sources))}.',
            count_reasons(index) or 'The folders are empty.',
        )
    if not series:
        raise DataError('None of the DICOM files holds an MR image.', count_reasons(index))
    return series


def count_reasons(index: Index) -> str:
    """Say how many things were left out for which reasons."""
    return listed(index.reasons())


def listed(reasons: Mapping[str, int]) -> str:
    """Return reasons with their counts as text."""
    return '; '.join(f'{count} × {reason}' for reason, count in reasons.items())


def make_plan(
    request: ConversionRequest,
    module: ModuleType,
    index: Index,
    series: list[Series],
    subjects: SubjectMap,
    records: Records,
) -> Iterator[Item]:
    """Say of each series to whom it belongs and what shall become of it."""
    patients: dict[str, list[Series]] = {}
    for item in series:
        patients.setdefault(item.patient, []).append(item)
    if request.subject is not None and len(patients) > 1:
        raise UsageError(
            f'--subject {request.subject} names one patient, but the sources hold '
            f'{len(patients)}.',
            'Leave it out, or convert them one by one.',
        )
    logged = records.studies()
    strangers = _strangers(request.bids_dir, logged)
    ambiguous = index.ambiguous_patients()
    for patient, theirs in patients.items():
        subject = subjects.subject(patient, request.subject, avoid=strangers)
        if subject.label in strangers and request.subject is None:
            raise UsageError(
                f'The sub-{subject.label} in {request.bids_dir} did not come by this subject map.',
                'Name the map that was used then by --subject-map, or another BIDS_DIR.',
            )
        known = logged.setdefault(subject.label, {})
        studies = _studies(theirs)
        labels = label_sessions(studies, subject, known, request.session_from)
        known.update(
            {s.uid: {'date': s.date, 'time': s.time, 'session': labels[s.uid]} for s in studies}
        )
        for planned in _sessions(module, index, theirs, subject, labels):
            if patient in ambiguous:
                planned.target.remarks.append('this patient ID has several dates of birth')
            yield planned
    if not request.dry_run:
        records.keep_studies(logged)


def _strangers(bids_dir: Path, logged: Collection[str]) -> set[str]:
    """Return the labels that a dataset has from elsewhere."""
    return {path.name[4:] for path in bids_dir.glob('sub-*') if path.is_dir()} - set(logged)


def _studies(series: Iterable[Series]) -> list[Study]:
    """Return the studies of one patient, each with its earliest date and time."""
    found: dict[str, Study] = {}
    for item in series:
        study = Study(item.study, item.date, item.time)
        known = found.get(item.study, study)
        both = [one for one in (known, study) if one.date] or [known]
        found[item.study] = min(both, key=lambda one: (one.date, one.time))
    return list(found.values())


def _sessions(
    module: ModuleType,
    index: Index,
    series: list[Series],
    subject: SubjectIdentity,
    labels: dict[str, str],
) -> Iterator[Item]:
    def files(item: Series) -> list[str]:
        return index.files(item.group, item.part, truncated=True)

    def label(item: Series) -> str:
        return labels[item.study]

    for session, members in groupby(sorted(series, key=label), key=label):
        ordered = sorted(members, key=lambda item: (item.date, item.time, item.number, item.part))
        targets = heuristic.decide(module, ordered, subject, session, files)
        taken: set[str] = set()
        for target in targets:
            item = Item(subject, session, target, SeriesOutcome(error=target.error))
            _check_name(item, taken)
            _check_series(item)
            yield item


def _check_series(item: Item) -> None:
    """Refuse a wanted series whose image could not be right."""
    series, target = item.target.series, item.target
    if target.prefix and not item.outcome.error:
        anatomical = target.suffix in ANATOMICAL
        item.outcome.error = series.damaged or (series.irregular if anatomical else '')


def _check_name(item: Item, taken: set[str]) -> None:
    prefix = item.target.prefix
    if not prefix:
        return
    if prefix.lower() in taken:
        item.outcome.error = 'the heuristic gives this name to two series'
    elif Identifiers(item.target.identifiers).find(prefix):
        item.outcome.error = 'its name would tell who the person is'
    taken.add(prefix.lower())
