"""Searching a BIDS tree for what tells who somebody is.

Two things are looked for in every file: the identifiers that are given (names, numbers, dates,
addresses, UIDs of the source headers), and what reveals identity whoever the person is, such as a
sidecar's ``PatientName``, a time of acquisition that was not shifted, or a DICOM file.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import nibabel as nb

from mslesseg_app.core.errors import NoInputError
from mslesseg_app.dicom.deidentify.identifiers import Identifiers

#: Keys of sidecars, and columns of tables, that hold identity by their meaning.
_KEYS = """
    AccessionNumber DeviceSerialNumber InstitutionAddress IssuerOfPatientID OperatorsName
    OtherPatientIDs PatientAddress PatientBirthDate PatientBirthName PatientComments PatientID
    PatientName PatientTelephoneNumbers PerformingPhysicianName ReferringPhysicianName
    RequestingPhysician SeriesInstanceUID SOPInstanceUID StudyID StudyInstanceUID
"""
_COLUMNS = """
    birth_date birthdate date_of_birth dob patient_id patient_name patientid patientname
"""
_IDENTITY = frozenset((_KEYS + _COLUMNS).lower().split())
_OLDEST = 89
_DATE_KEY = re.compile(r'(acquisition|study|series|content|birth)_?(date|datetime)$', re.I)
_DATE = re.compile(r'(?<!\d)((?:19|20)\d\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?!\d)')
#: BIDS marks shifted dates by years up to this one.
_SHIFTED_TO = 1925
#: UIDs but those of the standard and those made from a UUID or by us.
_UID = re.compile(r'(?<![\d.])(?!1\.2\.840\.10008\.|2\.25\.)[12](?:\.\d+){7,}')

_TEXT = {'.bval', '.bvec', '.csv', '.css', '.html', '.log', '.md', '.py', '.rst', '.svg', '.toml'}
_TEXT |= {'.tsv', '.txt', '.xml', '.yaml', '.yml', '.cff', ''}
_EMBEDDED = re.compile(r'base64,[A-Za-z0-9+/=\s]+')
_PRINTABLE = re.compile(rb'[\x20-\x7e\xa0-\xff]{3,}')
_WIDE = re.compile(rb'(?:[\x20-\x7e\xa0-\xff]\0){3,}')
_WIDE_BIG = re.compile(rb'(?:\0[\x20-\x7e\xa0-\xff]){3,}')
#: Shorter identifiers are met by chance in the bytes of images and numbers.
_SHORTEST_IN_BINARY = 7
_CHUNK, _OVERLAP = 1 << 22, 1 << 10
_DICOM_EXTENSION = 2


@dataclass(frozen=True)
class Leak:
    """Something that must not be in the tree.

    Attributes
    ----------
    path : Path
        The file or folder.
    where : str
        Place in it, such as ``key ImageComments`` or ``gzip name``.
    kind : str
        What it is.
    shown : str
        The text with all but its ends masked.
    """

    path: Path
    where: str
    kind: str
    shown: str


class _Text(NamedTuple):
    where: str
    text: str


def check_tree(root: Path, identifiers: Iterable[str] = ()) -> list[Leak]:
    """Search all files below a folder.

    Searched are names of files and folders, JSON keys and values, cells of tables, text, the
    headers, extensions and appended bytes of NIfTI files, names and times within gzip files, and
    the raw bytes of everything else. Voxels are not: see :class:`.Identifiers` for what is too
    short to be searched for.

    Parameters
    ----------
    root : Path
        Folder of a BIDS dataset.
    identifiers : iterable of str
        Such as :attr:`mslesseg_app.dicom.deidentify.removal.Removed.identifiers`.

    Returns
    -------
    list of Leak
        In the order of paths; empty when nothing was found. A file that cannot be read is one.

    Raises
    ------
    NoInputError
        If there is no such folder.
    """
    if not root.is_dir():
        raise NoInputError(f'There is no folder {root}.')
    search = _Search(identifiers)
    found: dict[Leak, None] = {}
    for path in _paths(root):
        found |= dict.fromkeys(search.path(path))
    return list(found)


def masked(text: str) -> str:
    """Return a text of which only the ends can be read.

    Examples
    --------
    >>> masked('Dupont'), masked('Jo')
    ('D***t', '***')
    """
    return f'{text[0]}***{text[-1]}' if len(text) > 3 else '***'


def _paths(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders.sort()
        yield from (Path(folder, name) for name in sorted([*folders, *files]))


class _Search:
    def __init__(self, identifiers: Iterable[str]) -> None:
        values = sorted(set(identifiers))
        self._all = Identifiers(values)
        self._long = Identifiers(value for value in values if len(value) >= _SHORTEST_IN_BINARY)

    def path(self, path: Path) -> Iterator[Leak]:
        """Search a file or folder: its own name and what is in it."""
        yield from self._texts(path, [_Text('name', path.name)])
        yield from _suspect_dates(path, 'name', path.name)
        if path.is_symlink():
            yield from self._texts(path, [_Text('link', os.readlink(path))])
        if not path.is_file():
            return
        try:
            with path.open('rb') as stream:
                yield from self._contents(path, stream)
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, 'strerror', None) or str(error)
            yield Leak(path, 'file', 'cannot be searched', reason)

    def _contents(self, path: Path, stream: BinaryIO) -> Iterator[Leak]:
        suffix = path.suffix.lower()
        if suffix == '.gz':
            yield from self._gzip_header(path, stream)
            with gzip.open(stream) as inner:
                yield from self._inner(path, path.with_suffix('').suffix.lower(), inner)
        else:
            yield from self._inner(path, suffix, stream)

    def _inner(self, path: Path, suffix: str, stream: Any) -> Iterator[Leak]:
        if suffix == '.nii':
            yield from self._nifti(path, stream)
        elif suffix == '.json':
            yield from self._json(path, stream.read())
        elif suffix == '.tsv':
            yield from self._table(path, _decoded(stream.read()))
        elif suffix in _TEXT and not _is_dicom(stream):
            lines = _EMBEDDED.sub('', _decoded(stream.read())).splitlines()
            yield from self._texts(
                path, (_Text(f'line {n}', line) for n, line in enumerate(lines, 1))
            )
        else:
            yield from self._bytes(path, stream)

    # ------------------------------------------------------------------------- kinds of file

    def _gzip_header(self, path: Path, stream: BinaryIO) -> Iterator[Leak]:
        head = stream.read(1 << 16)
        stream.seek(0)
        if len(head) < 10:
            return
        seconds = int.from_bytes(head[4:8], 'little')
        day = dt.datetime.fromtimestamp(seconds, dt.UTC).strftime('%Y%m%d')
        if seconds and self._all.is_one(day):
            yield Leak(path, 'gzip time', 'date', masked(day))
        yield from self._texts(path, _gzip_texts(head))

    def _nifti(self, path: Path, stream: Any) -> Iterator[Leak]:
        head = stream.read(540)
        header, data_start = _nifti_header(head)
        if header is None:
            yield Leak(path, 'header', 'cannot be searched', 'no NIfTI header')
            return
        head += stream.read(max(0, data_start - len(head)))
        size = int(header['sizeof_hdr'])
        for field in ('db_name', 'descrip', 'aux_file', 'intent_name'):
            if field in header:
                text = _decoded(bytes(header[field].tobytes()).rstrip(b'\0'))
                yield from self._texts(path, [_Text(f'header {field}', text)])
        yield from self._texts(path, _runs('header', head[:size]))
        if data_start > size + 4:
            yield from self._texts(path, _runs('extension', head[size:data_start]))
            code = head[size + 8 : size + 12]
            if _DICOM_EXTENSION in (int.from_bytes(code, o) for o in ('little', 'big')):
                yield Leak(path, 'extension', 'DICOM header', '***')
        shape = header.get_data_shape()
        expected = data_start + math.prod(shape) * header.get_data_dtype().itemsize
        yield from self._texts(
            path, _runs('behind the voxels', _rest(stream, len(head), expected))
        )

    def _json(self, path: Path, raw: bytes) -> Iterator[Leak]:
        try:
            content = json.loads(raw)
        except ValueError:
            yield from self._texts(path, [_Text('text', _decoded(raw))])
            return
        for keys, value in _leaves(content):
            yield from self._leaf(path, keys, value)

    def _leaf(self, path: Path, keys: tuple[str, ...], value: Any) -> Iterator[Leak]:
        where = 'key ' + '.'.join(self._all.clean(key) or '***' for key in keys)
        key = keys[-1] if keys else ''
        yield from self._texts(path, [_Text(where, ' / '.join(keys))])
        if value in (None, '', [], {}):
            return
        if isinstance(value, str):
            yield from self._texts(path, [_Text(where, value)])
        elif not isinstance(value, bool) and self._all.is_one(repr(value)):
            yield Leak(path, where, _value_kind(repr(value)), masked(repr(value)))
        if key.lower() in _IDENTITY:
            yield Leak(path, where, 'key of identity', masked(str(value)))
        if _DATE_KEY.search(key):
            yield from _suspect_dates(path, where, str(value))

    def _table(self, path: Path, text: str) -> Iterator[Leak]:
        rows = [line.split('\t') for line in text.splitlines()]
        names = rows[0] if rows else []
        for number, row in enumerate(rows, 1):
            for name, cell in zip([*names, *[''] * len(row)], row, strict=False):
                where = f'row {number}, column {self._all.clean(name)}'
                yield from self._texts(path, [_Text(where, cell)])
                if number > 1 and cell not in ('', 'n/a'):
                    yield from _suspect_cell(path, where, name.lower(), cell)

    def _bytes(self, path: Path, stream: Any) -> Iterator[Leak]:
        if _is_dicom(stream):
            yield Leak(path, 'file', 'DICOM file', '***')
        tail, place = b'', 0
        while chunk := stream.read(_CHUNK):
            for text in _runs(f'bytes from {place}', tail + chunk):
                yield from self._texts(path, [text], self._long)
            tail, place = chunk[-_OVERLAP:], place + len(chunk)

    def _texts(
        self, path: Path, texts: Iterable[_Text], wanted: Identifiers | None = None
    ) -> Iterator[Leak]:
        for where, text in texts:
            for one in (wanted or self._all).find(text):
                yield Leak(path, where, _value_kind(one.value), masked(one.value))
            for match in _UID.finditer(text):
                yield Leak(path, where, 'DICOM UID', masked(match.group()))


# ------------------------------------------------------------------------------------ parts


def _value_kind(value: str) -> str:
    if re.fullmatch(r'\d+(\.\d+){3,}', value):
        return 'DICOM UID'
    if re.fullmatch(r'\d{8}|\d{4}-\d\d-\d\d|\d\d\.\d\d\.\d{4}', value):
        return 'date'
    return 'number' if any(letter.isdigit() for letter in value) else 'name'


def _suspect_cell(path: Path, where: str, column: str, cell: str) -> Iterator[Leak]:
    if column in _IDENTITY:
        yield Leak(path, where, 'column of identity', masked(cell))
    if column == 'acq_time' or _DATE_KEY.search(column):
        yield from _suspect_dates(path, where, cell)
    if column == 'age' and re.fullmatch(r'\d{2,3}(\.\d*)?', cell) and float(cell) > _OLDEST + 1:
        yield Leak(path, where, f'age over {_OLDEST}', '***')


def _suspect_dates(path: Path, where: str, text: str) -> Iterator[Leak]:
    for match in _DATE.finditer(text):
        if int(match[1]) > _SHIFTED_TO:
            yield Leak(path, where, 'date not shifted', masked(match.group()))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode('utf-8')
    except UnicodeDecodeError:
        return raw.decode('latin-1')


def _runs(where: str, raw: bytes) -> Iterator[_Text]:
    """Yield the texts in raw bytes: of one byte a character, UTF-8 and UTF-16."""
    for match in _PRINTABLE.finditer(raw):
        yield _Text(where, match.group().decode('latin-1'))
        if not match.group().isascii():
            yield _Text(where, match.group().decode('utf-8', 'ignore'))
    for pattern, encoding in ((_WIDE, 'utf-16-le'), (_WIDE_BIG, 'utf-16-be')):
        for match in pattern.finditer(raw):
            yield _Text(where, match.group().decode(encoding))


def _is_dicom(stream: Any) -> bool:
    head = stream.read(132)
    stream.seek(0)
    return bool(head[128:] == b'DICM')


def _gzip_texts(head: bytes) -> Iterator[_Text]:
    """Yield the texts of a gzip header: extra field, name, comment (RFC 1952)."""
    flags, place = head[3], 10
    if flags & 4:
        length = int.from_bytes(head[10:12], 'little')
        yield from _runs('gzip extra field', head[12 : 12 + length])
        place = 12 + length
    for flag, where in ((8, 'gzip name'), (16, 'gzip comment')):
        if flags & flag:
            text, _, _ = head[place:].partition(b'\0')
            yield _Text(where, _decoded(text))
            place += len(text) + 1


def _nifti_header(head: bytes) -> tuple[Any, int]:
    """Return the header and where the voxels begin; None if it is no header."""
    sizes = {int.from_bytes(head[:4], order) for order in ('little', 'big')}
    if 348 in sizes and len(head) >= 348:
        header = nb.Nifti1Header(head[:348], check=False)
    elif 540 in sizes and len(head) >= 540:
        header = nb.Nifti2Header(head[:540], check=False)
    else:
        return None, 0
    return header, int(header['vox_offset'])


def _rest(stream: Any, place: int, expected: int) -> bytes:
    """Read on to the end; return what lies behind the expected end."""
    rest = bytearray()
    while chunk := stream.read(_CHUNK):
        if place + len(chunk) > expected:
            rest += chunk[max(0, expected - place) :]
        place += len(chunk)
    return bytes(rest)


def _leaves(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path of keys to each value of JSON content, and the value."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from _leaves(value, (*keys, key))
    elif isinstance(content, list) and content:
        for value in content:
            yield from _leaves(value, keys)
    else:
        yield keys, content
