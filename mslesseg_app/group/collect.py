"""What an output folder holds: tables, masks and records of exams, of any version of ours."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import DataError
from mslesseg_app.core.files import read_any_text
from mslesseg_app.metrics.columns import metric_columns
from mslesseg_app.reports.records import read_failure

if TYPE_CHECKING:
    import pandas as pd

    from mslesseg_app.core.settings import Settings

#: Columns that tell the rows of an exam table apart.
KEYS = ('participant_id', 'session_id', 'model')

_NAME = re.compile(
    r'(?P<subject>sub-[A-Za-z0-9+]+)_(?:(?P<session>ses-[A-Za-z0-9+]+)_)?'
    r'(?:.*_)?desc-(?P<model>[A-Za-z0-9+]+)_(?P<suffix>metrics|mask|exam)\.'
)
#: What is looked for, by the folder that it lies in.
_ENDINGS = {'anat': ('_metrics.tsv', '_mask.nii', '_mask.nii.gz'), 'log': ('_exam.json',)}
_MASK = re.compile(
    r'_space-(?P<space>[A-Za-z0-9]+)_(?:.*_)?label-lesion_desc-[A-Za-z0-9+]+_mask\.nii'
)
_FLAIR = re.compile(
    r'(?P<subject>sub-[A-Za-z0-9+]+)_(?:(?P<session>ses-[A-Za-z0-9+]+)_)?(?:.*_)?FLAIR\.nii(\.gz)?$'
)


@dataclass(frozen=True, order=True)
class Key:
    """One exam and one model, by their names with ``sub-`` and ``ses-``."""

    subject: str
    session: str = ''
    model: str = ''

    @property
    def exam(self) -> str:
        """``sub-01_ses-1``, or ``sub-01`` without sessions."""
        return self.subject + (f'_{self.session}' if self.session else '')

    @property
    def folder(self) -> Path:
        """Relative folder of the exam."""
        return Path(self.subject, self.session) if self.session else Path(self.subject)

    def row(self) -> dict[str, str]:
        """Return the columns of a table that name the exam and the model."""
        return {
            'participant_id': self.subject,
            'session_id': self.session or 'n/a',
            'model': self.model or 'n/a',
        }


@dataclass(frozen=True)
class Holdings:
    """What was found for the selected exams.

    Attributes
    ----------
    metrics : dict
        Metrics table of each exam and model.
    masks : dict
        Lesion masks of each exam and model: ``orig`` and ``MNI152NLin6Asym``, where present.
    records : dict
        Record of each exam and model.
    failures : dict
        Why the last run of an exam and model failed, for those of which it did.
    raw : frozenset of Key
        Exams (without a model) that have a FLAIR in the raw data, where these are there.
    """

    metrics: dict[Key, Path] = field(default_factory=dict)
    masks: dict[Key, dict[str, Path]] = field(default_factory=dict)
    records: dict[Key, Path] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)
    raw: frozenset[Key] = frozenset()

    @property
    def models(self) -> list[str]:
        """Names of the models, sorted."""
        found = {*self.metrics, *self.masks, *self.records}
        return sorted({key.model for key in found})

    def without(self, exams: Container[tuple[str, str]]) -> Holdings:
        """Return what is left without some exams (participant and session)."""

        def kept(key: Key) -> bool:
            return (key.subject, key.session) not in exams

        return Holdings(
            {key: path for key, path in self.metrics.items() if kept(key)},
            {key: paths for key, paths in self.masks.items() if kept(key)},
            {key: path for key, path in self.records.items() if kept(key)},
            {key: text for key, text in self.failures.items() if kept(key)},
            frozenset(filter(kept, self.raw)),
        )


def find_holdings(settings: Settings) -> Holdings:
    """Look through the output folder, and the raw data where they are there.

    Of most files only the names are read; of records why an exam failed. ``--participant-label``
    and ``--session-label`` restrict what is found.
    """
    holdings = Holdings(raw=frozenset(_raw_exams(settings)))
    for path in _selected(_files_of_exams(settings.out_dir), settings):
        key = _key_of(path)
        if path.name.endswith('_metrics.tsv'):
            holdings.metrics[key or _key_in(path)] = path
        elif key is None:
            continue
        elif path.name.endswith('_exam.json'):
            holdings.records[key] = path
            if failure := read_failure(path):
                holdings.failures[key] = failure
        elif space := _MASK.search(path.name):
            holdings.masks.setdefault(key, {})[space['space']] = path
    return holdings


def _files_of_exams(out: Path) -> Iterator[Path]:
    """Yield tables, masks and records of all subjects, in one walk."""
    for subject in out.glob('sub-*'):
        for folder, inner, names in os.walk(subject):
            place = os.path.basename(folder)
            if place in ('log', 'figures'):
                inner.clear()
            wanted = _ENDINGS.get(place, ())
            yield from (Path(folder, name) for name in names if name.endswith(wanted))


def _key_of(path: Path) -> Key | None:
    found = _NAME.match(path.name)
    return Key(found['subject'], found['session'] or '', found['model']) if found else None


def _key_in(path: Path) -> Key:
    """Read whose metrics these are, where the name of the file does not say it."""
    row = _read_metrics(path)[0]
    subject, session, model = (row[name] for name in KEYS)
    return Key(subject, '' if session == 'n/a' else session, model)


def _selected(paths: Iterable[Path], settings: Settings) -> list[Path]:
    """Keep the files of the participants and sessions that were asked for."""
    kept = []
    for path in sorted(paths):
        subject = re.match(r'sub-([A-Za-z0-9+]+)', path.name)
        session = re.search(r'_ses-([A-Za-z0-9+]+)_', path.name)
        if subject is None or path.name.startswith('.'):
            continue
        if settings.participants and subject.group(1) not in settings.participants:
            continue
        if settings.sessions and session and session.group(1) not in settings.sessions:
            continue
        kept.append(path)
    return kept


def _raw_exams(settings: Settings) -> list[Key]:
    root = settings.bids_dir
    if not root.is_dir():
        return []
    found = [
        match
        for pattern in ('sub-*/anat/*_FLAIR.nii*', 'sub-*/ses-*/anat/*_FLAIR.nii*')
        for path in _selected(root.glob(pattern), settings)
        if (match := _FLAIR.match(path.name))
    ]
    return [Key(match['subject'], match['session'] or '') for match in found]


# ------------------------------------------------------------------ metrics tables


def gather(paths: Iterable[Path]) -> pd.DataFrame:
    """Merge the metrics tables of exams; columns of older versions are filled up with ``n/a``.

    Returns
    -------
    pandas.DataFrame
        Text, as in the files; known columns first, sorted by `KEYS`.

    Raises
    ------
    DataError
        If a table cannot be read.
    """
    import pandas as pd

    table = pd.DataFrame([row for path in paths for row in _read_metrics(path)], dtype=object)
    table = table.fillna('n/a')
    columns = [name for name in metric_columns() if name in table]
    rest = [name for name in table if name not in columns]
    return table[columns + rest].sort_values(list(KEYS), ignore_index=True)


def _read_metrics(path: Path) -> list[dict[str, str]]:
    """Read the rows of a metrics table as text."""
    try:
        with path.open(encoding='utf-8-sig', newline='') as file:
            head, *rows = [row for row in csv.reader(file, delimiter='\t') if row] or [[]]
        if any(len(row) > len(head) for row in rows):
            raise ValueError('a row is longer than the header')
    except (ValueError, OSError, csv.Error) as error:
        problem = str(error)
    else:
        found = [dict(zip(head, row, strict=False)) for row in rows]
        if found and all(set(KEYS) <= row.keys() for row in found):
            return found
        problem = f'it lacks rows or columns, of {", ".join(KEYS)}'
    raise DataError(f'{path} cannot be read: {problem}', 'Delete it and run the exam again.')


# ------------------------------------------------------------------- state of exams

#: What the table of exams says, and what it means.
STATES = {
    'done': 'metrics are there',
    'earlier result': 'the last run failed; the metrics are of an earlier one',
    'failed': 'the last run failed, and there are no metrics',
    'no metrics': 'there is a mask or a record, but no metrics table',
    'no result': 'the raw data hold a FLAIR, but this model has not been run on it',
    'excluded': 'the review leaves it out of all statistics',
}


def exam_states(holdings: Holdings) -> list[dict[str, Any]]:
    """Say for each exam and model whether it has a result, and if not, why.

    Returns
    -------
    list of dict
        Columns of the table of exams, sorted; each exam of the raw data and each that the
        output knows, for every model that was used on any of them.
    """
    known = {*holdings.metrics, *holdings.masks, *holdings.records}
    exams = {Key(key.subject, key.session) for key in known} | holdings.raw
    rows = []
    for exam in sorted(exams):
        for model in holdings.models or ['']:
            key = Key(exam.subject, exam.session, model)
            state, reason = _state(key, holdings)
            rows.append({**key.row(), 'state': state, 'reason': reason or 'n/a'})
    return rows


def _state(key: Key, holdings: Holdings) -> tuple[str, str]:
    failure = holdings.failures.get(key, '')
    if key in holdings.metrics:
        return ('earlier result', failure) if failure else ('done', '')
    if failure:
        return 'failed', failure
    if key in holdings.masks or key in holdings.records:
        return 'no metrics', 'run the participant level again for this exam'
    return 'no result', ''


# --------------------------------------------------------------------- participants


def join_participants(
    table: pd.DataFrame, folders: Iterable[Path]
) -> tuple[pd.DataFrame, Path | None]:
    """Add the columns of the first ``participants.tsv`` that is there.

    Parameters
    ----------
    table : pandas.DataFrame
        With a column ``participant_id``.
    folders : iterable of Path
        Where to look, in this order.

    Returns
    -------
    table : pandas.DataFrame
        The columns come after those of the table; a column that the table has already is left
        out, a participant that the file lacks has ``n/a``.
    path : Path or None
        The file.

    Raises
    ------
    DataError
        If the file cannot be read, or names a participant twice.
    """
    path = next((p for f in folders if (p := f / 'participants.tsv').is_file()), None)
    if path is None:
        return table, path
    people = read_participants(path)
    new = [str(name) for name in people if name not in table]
    merged = table.join(people[new], on='participant_id')
    merged[new] = merged[new].fillna('n/a')
    return merged, path


def read_participants(path: Path) -> pd.DataFrame:
    """Read a ``participants.tsv`` as text, by participant (``sub-`` is added where missing)."""
    import pandas as pd

    hint = 'Correct the file; it must have the column participant_id, each participant once.'
    try:
        text = io.StringIO(read_any_text(path))
        people = pd.read_csv(text, sep='\t', dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise DataError(f'{path} cannot be read: {error}', hint) from error
    if 'participant_id' not in people:
        raise DataError(f'{path} has no column participant_id.', hint)
    names = people['participant_id'].str.strip()
    people.index = pd.Index(['sub-' + name.removeprefix('sub-') for name in names])
    if people.index.has_duplicates:
        twice = sorted(set(people.index[people.index.duplicated()]))
        raise DataError(f'{path} names {", ".join(twice)} more than once.', hint)
    return people.drop(columns='participant_id')


def participant_columns(path: Path | None, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the descriptions of columns from ``participants.json`` beside the table."""
    known: dict[str, Any] = {}
    if path is not None and (sidecar := path.with_suffix('.json')).is_file():
        try:
            content = json.loads(read_any_text(sidecar))
        except (ValueError, OSError):
            content = {}
        known = content if isinstance(content, dict) else {}
    plain = {'Description': 'Column of participants.tsv, which does not describe it.'}
    return {name: known[name] if isinstance(known.get(name), dict) else plain for name in names}
