"""Who was scanned: ``clinical_data.csv`` of the MSLesSeg release, or a ``participants.tsv``.

The release's table has quirks, each of which is met here and said:

- fields are separated by ``;`` (commas and tabs are read too), and age and EDSS have a decimal
  comma;
- headings are shifted against the columns: ``Lesion Number`` is empty, and the counts stand in a
  column without a heading after ``Lesion Volume``;
- MS types have Italian abbreviations (SMRR, SMSP, SMPP);
- rows may be empty or hold nothing but ``NONE``.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.core.files import read_any_text

#: Patients up to this number are the training set of the release.
LAST_TRAINING_PATIENT = 53

_TYPES = {
    'SMRR': 'RRMS',
    'SMSP': 'SPMS',
    'SMPP': 'PPMS',
    'RR': 'RRMS',
    'SP': 'SPMS',
    'PP': 'PPMS',
}
_SEXES = {
    'm': 'male',
    'male': 'male',
    'maschio': 'male',
    'f': 'female',
    'female': 'female',
    'femmina': 'female',
}
_NOTHING = {'', 'none', 'n/a', 'na', 'nan', '-', '–'}

#: Words of a heading by what the column holds; the first column that fits is taken.
_HEADINGS = {
    'patient': ('participant', 'patient', 'paziente', 'subject', 'id'),
    'timepoint': ('timepoint', 'time point', 'session', 'visit', 'time', 'scan'),
    'split': ('split', 'subset', 'set'),
    'sex': ('sex', 'gender', 'sesso'),
    'age': ('age', 'età', 'eta'),
    'edss': ('edss',),
    'ms_type': ('ms type', 'phenotype', 'type', 'course'),
    'volume': ('lesion volume', 'volume'),
    'count': ('lesion number', 'lesion count', 'n lesions', 'lesions'),
}


@dataclass(frozen=True)
class Scan:
    """One row: a patient at one time.

    Attributes
    ----------
    split : str
        ``train``, ``test`` or what the table says.
    age : float
        Years; NaN where it is not known, as all numbers.
    volume_mm3 : float
        Volume of all lesions.
    lesions : float
        Number of lesions.
    """

    patient: str
    timepoint: str = ''
    split: str = ''
    sex: str = ''
    ms_type: str = ''
    age: float = math.nan
    edss: float = math.nan
    volume_mm3: float = math.nan
    lesions: float = math.nan


@dataclass(frozen=True)
class Cohort:
    """All rows, and what was odd about the table."""

    scans: tuple[Scan, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Sheet:
    """A table of text and the columns that were recognised."""

    rows: list[list[str]]
    columns: dict[str, int]
    in_ml: bool = False
    notes: list[str] = field(default_factory=list)

    def get(self, row: Sequence[str], what: str) -> str:
        place = self.columns.get(what)
        text = row[place].strip() if place is not None and place < len(row) else ''
        return '' if text.lower() in _NOTHING else text


def read_cohort(path: Path) -> Cohort:
    """Read a table of patients or scans.

    Raises
    ------
    NoInputError
        If the file does not exist.
    DataError
        If it cannot be read, names no patients, or a number in it is no number.
    """
    if not path.is_file():
        raise NoInputError(f'The table of patients {path} does not exist.')
    sheet = _read_sheet(path)
    scans = []
    for number, row in enumerate(sheet.rows, start=2):
        if name := sheet.get(row, 'patient'):
            scans.append(_scan(sheet, row, name, f'{path}, line {number}'))
    if not scans:
        raise DataError(f'{path} names no patient.', 'It needs a column with patients.')
    blank = len(sheet.rows) - len(scans)
    if blank:
        sheet.notes.append(f'Rows without a patient that were left out: {blank}.')
    return Cohort(tuple(scans), tuple(sheet.notes))


def number(text: str, where: str) -> float:
    """Read a number with a decimal point or comma; NaN for nothing.

    Examples
    --------
    >>> number('34,5', ''), number('12345.6', ''), number('1.234,5', '')
    (34.5, 12345.6, 1234.5)
    """
    plain = text.strip().replace(' ', '')
    if plain.lower() in _NOTHING:
        return math.nan
    if ',' in plain and '.' in plain:  # the last one is the decimal sign
        thousands = ',' if plain.rfind('.') > plain.rfind(',') else '.'
        plain = plain.replace(thousands, '')
    try:
        return float(plain.replace(',', '.'))
    except ValueError as error:
        raise DataError(f'{where}: {text!r} is not a number.', 'Correct the table.') from error


def _read_sheet(path: Path) -> _Sheet:
    try:
        lines = read_any_text(path).splitlines()
    except ValueError:
        lines = []
    if not lines:
        raise DataError(f'{path} is no table of text.', 'Give a CSV or TSV file.')
    delimiter = max(';\t,', key=lines[0].count)
    header, *rows = list(csv.reader(lines, delimiter=delimiter))
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    names = [re.sub(r'[_\s]+', ' ', name).strip().lower() for name in header]
    columns = _recognised(names)
    if 'patient' not in columns:
        raise DataError(
            f'{path} has no column of patients; it has {", ".join(filter(None, header))}.',
            'Name one "Patient" or "participant_id".',
        )
    volume = names[columns['volume']] if 'volume' in columns else ''
    sheet = _Sheet(rows, columns, in_ml=bool(re.search(r'\bml\b', volume)))
    _mend_shift(sheet, names)
    return sheet


def _recognised(names: list[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    for what, words in _HEADINGS.items():
        free = [place for place in range(len(names)) if place not in columns.values()]
        exact = [place for word in words for place in free if names[place] == word]
        inside = [
            place
            for word in words
            for place in free
            if re.search(rf'\b{re.escape(word)}\b', names[place])
        ]
        if found := exact or inside:
            columns[what] = found[0]
    return columns


def _mend_shift(sheet: _Sheet, names: list[str]) -> None:
    """Take the counts from the column without a heading, where their own column is empty."""
    place = sheet.columns.get('count')
    if place is not None and any(sheet.get(row, 'count') for row in sheet.rows):
        return
    width = max((len(row) for row in sheet.rows), default=0)
    after = sheet.columns.get('volume', -1)
    for column in range(after + 1, width):
        if column < len(names) and names[column]:
            continue
        cells = [row[column].strip() for row in sheet.rows if len(row) > column]
        known = [cell for cell in cells if cell.lower() not in _NOTHING]
        if known and all(re.fullmatch(r'\d+', cell) for cell in known):
            sheet.columns['count'] = column
            sheet.notes.append(
                'The column of lesion counts is empty; they were taken from the column without a '
                'heading.'
            )
            return


def _scan(sheet: _Sheet, row: Sequence[str], name: str, where: str) -> Scan:
    patient, timepoint = who(name, sheet.get(row, 'timepoint'))
    kind = sheet.get(row, 'ms_type').upper()
    sex = sheet.get(row, 'sex')
    return Scan(
        patient=patient,
        timepoint=timepoint,
        split=_split(sheet.get(row, 'split'), patient),
        sex=_SEXES.get(sex.lower(), sex),
        ms_type=_TYPES.get(kind, kind),
        age=number(sheet.get(row, 'age'), where),
        edss=number(sheet.get(row, 'edss'), where),
        volume_mm3=number(sheet.get(row, 'volume'), where) * (1000 if sheet.in_ml else 1),
        lesions=number(sheet.get(row, 'count'), where),
    )


def who(name: str, timepoint: str) -> tuple[str, str]:
    """Divide ``P20_T1`` into patient and timepoint; other names stay as they are."""
    found = re.fullmatch(r'(?i)p?_?0*(\d+)(?:[_ -]t?(\d+))?', name.strip())
    if found is None:
        return name.strip(), timepoint
    return f'P{found.group(1)}', timepoint or (f'T{found.group(2)}' if found.group(2) else '')


def _split(text: str, patient: str) -> str:
    if text:
        return {'training': 'train', 'testing': 'test'}.get(text.lower(), text.lower())
    digits = re.fullmatch(r'(?i)(?:sub-)?p?0*(\d+)', patient)
    if digits is None or not re.match(r'(?i)(sub-)?p', patient):
        return ''
    return 'train' if int(digits.group(1)) <= LAST_TRAINING_PATIENT else 'test'
