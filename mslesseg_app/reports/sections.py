"""What a report adds to the record of an exam from the files beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree as ET

from mslesseg_app.core.status import ShownStatus, worst
from mslesseg_app.lesions.change_record import PairRecord
from mslesseg_app.lesions.dissemination import NOT_ASSESSED
from mslesseg_app.reports.content import ExamContent, Figure, QCNumber
from mslesseg_app.reports.viewer import ViewerScene

#: Regions of a lesion in the order of the report.
REGIONS = {
    'periventricular': 'periventricular',
    'juxtacortical': 'juxtacortical or cortical',
    'infratentorial': 'infratentorial',
    'deep_white_matter': 'deep white matter',
}
CRITERIA = {f'dissemination_{year}': year for year in NOT_ASSESSED}
STATUSES = ('new', 'enlarging', 'stable', 'shrinking', 'resolved', 'one-mask')
#: Statuses of lesions that changed.
MOVED = ('new', 'enlarging', 'shrinking', 'resolved')
_WORDS = {'one-mask': 'in one mask only'}

#: Quality checks: heading, and how the names of their numbers begin.
TRUST = {
    'Registration': ('alignment_',),
    'Brain mask': ('brain_volume',),
    'Contrast to noise': ('flair_cnr',),
    'Motion': ('flair_ghosting',),
    'Coverage': ('flair_coverage', 'flair_slice'),
    'Uncertainty': ('uncertainty',),
}


#: Columns of the change table in a report, and how their numbers are written.
CHANGE_FORMS = {
    'change_id': '%d',
    'status': '',
    'lesions_before': '',
    'lesions_after': '',
    'volume_before_mm3': '%.0f',
    'volume_after_mm3': '%.0f',
    'difference_mm3': '%+.0f',
    'difference_percent': '%+.0f',
    'rate_mm3_per_year': '%+.0f',
    'z_peak': '%+.1f',
    'note': '',
}


def _cell(name: str, value: Any) -> Any:
    if name == 'status' and value is not None:
        return status_words(str(value))
    if name.startswith('lesions_') and value is not None:
        return ', '.join(part.strip().removesuffix('.0') for part in str(value).split(','))
    return value


def status_words(status: str) -> str:
    """Return the status of a lesion as a report writes it."""
    return _WORDS.get(status, status)


@dataclass(frozen=True)
class Drawing:
    """A figure that is drawn when the report is made, and kept nowhere else.

    Attributes
    ----------
    columns : int
        Panels in a row; 0 leaves it to the width of the report.
    """

    figure: Figure
    root: ET.Element
    columns: int = 0


@dataclass(frozen=True)
class Change:
    """What became of the lesions since the previous session.

    Attributes
    ----------
    rows : tuple of dict
        One row per lesion, with the columns of the change table.
    about : mapping
        Sidecar of that table: the pair of sessions, notes, and columns.
    """

    rows: tuple[dict[str, Any], ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pair(self) -> PairRecord:
        """The pair of sessions, as the comparison wrote it."""
        return PairRecord.from_metadata(self.about)

    @property
    def compared(self) -> bool:
        """Whether the images of the two sessions could be compared."""
        return self.pair.status != 'fail'

    @property
    def moved(self) -> bool:
        """Whether any lesion is new, enlarging, shrinking or resolved."""
        return any(row.get('status') in MOVED for row in self.rows)

    def interval(self) -> str:
        """Return the time since the previous session in words; empty where it is not known."""
        years = self.pair.years
        if years is None:
            return ''
        return f'{years:.1f} years' if years >= 1.95 else f'{years * 12:.0f} months'

    def counts(self) -> str:
        """Return the number of lesions of each status."""
        found = [str(row.get('status') or '') for row in self.rows]
        parts = [
            f'{found.count(status)} {_WORDS.get(status, status)}'
            for status in STATUSES
            if status in found
        ]
        unjudged = sum(status not in STATUSES for status in found)
        parts += [f'{unjudged} not judged'] if unjudged else []
        return ', '.join(parts) or 'no lesion to compare'

    def words(self) -> str:
        """Return the number of lesions by status, and since when."""
        pair, interval = self.pair, self.interval()
        since = f'Since {pair.session_before or "the previous session"}'
        since += f' ({interval})' if interval else ''
        if not self.compared:
            return f'{since}: not compared, because {pair.reason or "the images disagree"}.'
        return f'{since}: {self.counts()}.'

    @property
    def columns(self) -> list[str]:
        """Columns that a reader needs and that hold anything; the file has more."""
        return [
            name for name in CHANGE_FORMS if any(row.get(name) is not None for row in self.rows)
        ]

    @property
    def table(self) -> list[dict[str, Any]]:
        """The rows with these columns, statuses and lesion numbers in words."""
        return [{name: _cell(name, row.get(name)) for name in self.columns} for row in self.rows]


@dataclass(frozen=True)
class Extra:
    """What the report shows of an exam besides its record.

    Attributes
    ----------
    scene : ViewerScene or None
    note : str
        Why there is no scene.
    overview : Drawing or None
        A few lesions, enlarged, for the first screen.
    drawings : tuple of Drawing
    smallest_mm3 : float or None
        Volume below which no lesion is reported.
    measures : mapping
        The row of the exam's metrics table.
    change : Change or None
    seconds : mapping
        Stage of the run to seconds.
    memory : str
        What is known of memory, in words.
    """

    scene: ViewerScene | None = None
    note: str = ''
    overview: Drawing | None = None
    drawings: tuple[Drawing, ...] = ()
    smallest_mm3: float | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)
    change: Change | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: str = ''


@dataclass(frozen=True)
class TrustItem:
    """One line of the quality checks."""

    title: str
    status: ShownStatus
    numbers: tuple[QCNumber, ...]


def trust(exam: ExamContent) -> list[TrustItem]:
    """Sort the quality numbers of an exam by what they judge; the worst of each counts.

    What was not measured gets the status ``unknown``.
    """
    numbers = (*exam.qc, *_uncertainty(exam))
    items = []
    for title, beginnings in TRUST.items():
        own = tuple(number for number in numbers if number.name.startswith(beginnings))
        status = worst([number.status for number in own]) if own else 'unknown'
        items.append(TrustItem(title, status, own))
    return items


def _uncertainty(exam: ExamContent) -> tuple[QCNumber, ...]:
    """Mean uncertainty of the lesion voxels; nobody knows yet which values are too high."""
    known = [
        (float(row['mean_uncertainty']), float(row.get('n_voxels') or 1))
        for row in exam.lesions
        if isinstance(row.get('mean_uncertainty'), int | float)
    ]
    if not known:
        return ()
    mean = sum(value * size for value, size in known) / sum(size for _, size in known)
    return (QCNumber('uncertainty', mean, title='Mean uncertainty of the lesions'),)


def findings(exam: ExamContent, extra: Extra) -> list[str]:
    """Return sentences on lesion load and dissemination in space."""
    measures = extra.measures
    found = []
    load = measures.get('lesion_load_percent')
    if isinstance(load, int | float) and exam.summary and exam.summary.count:
        found.append(f'Lesion load: {load:.2f} % of the brain.')
    return found + _dissemination(measures)


def _dissemination(measures: Mapping[str, Any]) -> list[str]:
    known = {
        year: str(measures[name]).strip()
        for name, year in CRITERIA.items()
        if measures.get(name) not in (None, '', 'n/a')
    }
    if not known:
        return []
    words = '; '.join(f'{year} criteria: {value}' for year, value in known.items())
    unseen = 'Spinal cord and optic nerve: not assessed.'
    return [f'Dissemination in space on these brain images, {words}. {unseen}']
