"""What the report of a participant states: plain records that go to JSON and come back unchanged.

The records know neither HTML nor files.  One :class:`ExamContent` is stored per exam, so that
a report can be written again later, or be put together from exams that ran in different jobs.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from mslesseg_app.core.errors import DataError
from mslesseg_app.core.status import STATUSES, ShownStatus, severity, worst
from mslesseg_app.lesions.selfcheck import NO_LESION, SelfCheck
from mslesseg_app.reports.markup import readable

#: Kinds of figure in the order of the report.
FIGURE_KINDS = (
    'overview', 'beside', 'models', 'change', 'map', 'lesions', 'brain', 'alignment', 'other',
)  # fmt: skip


class Record:
    """Frozen dataclass that holds only what JSON can hold, whatever it was given.

    Lists become tuples, NumPy scalars Python ones, tables tuples of rows, paths strings, and
    numbers that are not finite become None (JSON has no word for them).
    """

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, item.name, _record_value(getattr(self, item.name)))

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries, lists and scalars, ready for :func:`json.dump`."""
        return {
            item.name: _encode(getattr(self, item.name))
            for item in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave; keys of a newer version are left out.

        Raises
        ------
        DataError
            If ``content`` is not such a record.
        """
        hints = _hints(cls)  # type: ignore[arg-type]  # mypy: Self is no Hashable
        try:
            known = {key: _decode(hints[key], content[key]) for key in content if key in hints}
            return cls(**known)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise DataError(
                f'This is no record of the type {cls.__name__}: {error}.',
                'Delete the file and run the same command again: it is made anew.',
            ) from error


@cache
def _hints(record: type[Record]) -> dict[str, Any]:
    return typing.get_type_hints(record)


@dataclass(frozen=True)
class Figure(Record):
    """One image.

    Attributes
    ----------
    kind : str
        One of :data:`FIGURE_KINDS`.
    path : str
        The file; in a report's content relative to the folder of the report, with ``/``.
    title : str
        Heading over the image.
    caption : str
        How to read it: convention of sides, what each contour is, what was left out.
    alt : str
        What it shows, for those who cannot see it.
    modality : str
        ``FLAIR``, ``T1w``, ``T2w``, or empty.
    """

    kind: str
    path: str
    title: str
    caption: str
    alt: str
    modality: str = ''

    def moved(self, path: object) -> Figure:
        """Return the same figure at another place."""
        return dataclasses.replace(self, path=str(path))


@dataclass(frozen=True)
class ImageUsed(Record):
    """An input image and why it was taken.

    Attributes
    ----------
    path : str
        Relative to the dataset, or a BIDS URI.
    geometry : str
        Shape and voxel size in words, such as ``320 × 320 × 48 voxels of 0.72 × 0.72 × 3 mm``.
    notes : tuple of str
        How it was chosen among others, and what is special about it.
    """

    modality: str
    path: str
    geometry: str = ''
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelInfo(Record):
    """The segmentation model.

    Attributes
    ----------
    accuracy : str
        What it reached on exams that its training did not see, in words.
    """

    name: str
    version: str = ''
    digest: str = ''
    threshold: float | None = None
    licence: str = ''
    description: str = ''
    citation: str = ''
    channels: tuple[str, ...] = ()
    accuracy: str = ''


@dataclass(frozen=True)
class QCNumber(Record):
    """A quality number and its status.

    Attributes
    ----------
    name : str
        Machine name, as in the metrics table.
    title : str
        The same in words; empty means ``name``.
    limits : str
        The rule behind the status, in words, such as ``check below 0.80``.
    """

    name: str
    value: float | int | str | None
    status: ShownStatus = 'unknown'
    unit: str = ''
    title: str = ''
    limits: str = ''

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.status not in STATUSES:
            raise ValueError(f'status of {self.name} is none of {", ".join(STATUSES)}')

    @property
    def shown(self) -> str:
        """The value with its unit; the coverage, a share, in percent."""
        if self.name == 'flair_coverage' and isinstance(self.value, float | int):
            return f'{self.value:.0%}'.replace('%', ' %')
        return readable(self.value) + (f' {self.unit}' if self.unit and self.value else '')


@dataclass(frozen=True)
class LesionSummary(Record):
    """The three numbers at the top of a report; volumes on the native FLAIR grid."""

    count: int
    volume_ml: float
    largest_mm3: float | None = None


@dataclass(frozen=True)
class Failure(Record):
    """Why an exam gave no result."""

    message: str
    exit_code: int = 1
    hint: str = ''
    crash_file: str = ''
    step: str = ''


@dataclass(frozen=True)
class RunProvenance(Record):
    """Who made the result: versions, command line and settings.

    ``software`` and ``settings`` keep their order; values are shown as text.
    """

    run_id: str = ''
    command: str = ''
    software: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExamContent(Record):
    """All that the report states about one exam (subject × session).

    Attributes
    ----------
    session : str or None
        Label without ``ses-``; None where the dataset has no sessions.
    lesions : table, list of dict or tuple of dict
        One row per lesion with the columns of the lesion table; kept as a tuple of dict.
    lesion_columns : dict
        Column name to its ``Description`` and ``Units``.
    metrics : dict or None
        Accuracy against a reference mask; None or all-None where there is none.
    metric_columns : dict
        The same dictionary for ``metrics``.
    selfcheck : dict or None
        :class:`~mslesseg_app.lesions.selfcheck.SelfCheck` as plain values; None in records of
        earlier versions.
    date : str
        When the exam took place, ISO 8601; empty where that is not known.
    reasons_to_check : tuple of str
        Sentences on why a person should check the result, besides the self-check.
    computing : tuple of str
        Notes on how the result was computed that do not affect it.
    timings : dict
        Stage to seconds.  Left out of the report by default, as they differ from run to run.
    """

    session: str | None
    status: Literal['ok', 'failed'] = 'ok'
    images: tuple[ImageUsed, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    model: ModelInfo | None = None
    summary: LesionSummary | None = None
    lesions: tuple[dict[str, Any], ...] = ()
    lesion_columns: dict[str, Any] = field(default_factory=dict)
    qc: tuple[QCNumber, ...] = ()
    metrics: dict[str, Any] | None = None
    metric_columns: dict[str, Any] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    failure: Failure | None = None
    provenance: RunProvenance | None = None
    selfcheck: dict[str, Any] | None = None
    date: str = ''
    reasons_to_check: tuple[str, ...] = ()
    computing: tuple[str, ...] = ()
    timings: dict[str, Any] = field(default_factory=dict)

    @property
    def day(self) -> str:
        """The date in words; dates of before 1926 were shifted for de-identification."""
        day = self.date[:10]
        return f'{day} (shifted date)' if day and day < '1926' else day

    @property
    def checked(self) -> SelfCheck | None:
        """The self-check of the mask; a mask without a lesion is never passed.

        Raises
        ------
        DataError
            If the record holds something else.
        """
        if self.selfcheck is not None:
            return SelfCheck.from_dict(self.selfcheck)
        empty = self.summary is not None and not self.summary.count
        return SelfCheck('check', reasons=(NO_LESION,)) if empty else None

    @property
    def selfcheck_status(self) -> ShownStatus:
        """The self-check as a status, ``unknown`` without one."""
        return self.checked.status if self.checked else 'unknown'

    @property
    def worst(self) -> ShownStatus:
        """The worse of image checks and self-check, for the frame around both."""
        return worst((self.qc_status, self.selfcheck_status))

    @property
    def qc_status(self) -> ShownStatus:
        """The worst status of the quality numbers; ``fail`` for a failed exam."""
        if self.status == 'failed':
            return 'fail'
        if not self.qc:
            return 'unknown'
        return worst([number.status for number in self.qc])

    @property
    def label(self) -> str:
        """``ses-<label>``, or ``no session label``."""
        return f'ses-{self.session}' if self.session else 'no session label'

    @property
    def flagged(self) -> tuple[QCNumber, ...]:
        """Quality numbers that are not ``pass``, the worst first."""
        found = [number for number in self.qc if severity(number.status) > 1]
        return tuple(sorted(found, key=lambda number: -severity(number.status)))


@dataclass(frozen=True)
class SubjectContent(Record):
    """Everything in the report of one participant.

    Attributes
    ----------
    subject : str
        Label without ``sub-``.
    provenance : RunProvenance
        Of the run that wrote the report; an exam's own, where given, is shown beside it.
    boilerplate : str
        Methods text in Markdown.
    citation : str
        How to cite, one reference per line.
    links : dict
        Addresses of the ``previous`` and ``next`` report and of the ``group`` report, those
        that there are.
    marks : dict
        Session label (empty without sessions) to the stored review: ``mark``, ``marked``,
        ``note``.
    """

    subject: str
    exams: tuple[ExamContent, ...] = ()
    provenance: RunProvenance = field(default_factory=RunProvenance)
    boilerplate: str = ''
    citation: str = ''
    links: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, Any] = field(default_factory=dict)


def table_rows(table: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    """Rows of a table as plain dictionaries; None where a number is missing."""
    return tuple(
        {str(k): _record_value(v) for k, v in row.items()} for row in table.to_dict('records')
    )


def _record_value(value: Any) -> Any:
    """Reduce a value to records, tuples, dictionaries and JSON scalars."""
    if value is None or isinstance(value, bool | str | int | Record):
        return value
    if isinstance(value, pd.DataFrame):
        return table_rows(value)
    if isinstance(value, np.generic | np.ndarray):
        return _record_value(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _record_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_record_value(item) for item in value)
    return None if value is pd.NA or value is pd.NaT else str(value)


def _encode(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def _decode(hint: Any, value: Any) -> Any:
    """Build the record that the type hint asks for; other values pass."""
    if value is None:
        return None
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        records = [part for part in parts if isinstance(part, type) and issubclass(part, Record)]
        return _decode(records[0], value) if records else value
    if origin is tuple:
        return tuple(_decode(parts[0], item) for item in value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value)
    return value
