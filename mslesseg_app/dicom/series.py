"""Series as they were acquired: one UID may hold several, files may be twice or missing."""

from __future__ import annotations

import filecmp
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydicom

from .header import BAD_VALUE, missing_slices
from .index import Index, Row

#: Most images at one place that are taken for repeats of a structural series.
_MOST_REPEATS = 4
_FEWEST_PLACES = 10


@dataclass(frozen=True)
class Series:
    """Images that were acquired together and look alike.

    Attributes
    ----------
    group : tuple of str
        Patient, study and series UID in the index.
    part : int
        Number of the part where one UID held several series; 0 is the first.
    echo : float or None
        Echo time (ms) to be taken of a multi-frame object that has several.
    echoes : int
        How many it has.
    """

    group: tuple[str, str, str]
    part: int
    first: str
    files: int
    frames: int
    voxels: int
    number: int
    date: str
    time: str
    vendor: str
    description: str
    tr: float
    te: float
    ti: float
    flip: float
    echo: float | None = None
    echoes: int = 1
    missing: int = 0
    remarks: tuple[str, ...] = field(default=())

    @property
    def patient(self) -> str:
        """Key of the patient."""
        return self.group[0]

    @property
    def study(self) -> str:
        """UID of the study."""
        return self.group[1]


def find_series(index: Index) -> list[Series]:
    """Sort all images of the index into series; what was found is written to the index."""
    found: list[Series] = []
    for group in index.groups():
        rows = index.rows(group)
        found += _sort(group, rows)
        index.assign(rows)
    return found


def _sort(group: tuple[str, str, str], rows: list[Row]) -> list[Series]:
    for row in rows:
        row['part'], row['twin'] = 0, ''
    clashes = _mark_twins(rows)
    usable = [row for row in rows if not row['twin']]
    parts = _parts(usable)
    for number, part in enumerate(parts):
        for row in part:
            row['part'] = number
    owners = {row['path']: row['part'] for row in usable}
    for row in rows:
        if row['twin']:
            row['part'] = owners[row['twin']]
    series: list[Series] = []
    for number, part in enumerate(parts):
        same = sum(row['part'] == number for row in rows if row['twin'])
        series += _describe(group, number, part, len(parts), same, clashes)
    return series


# ------------------------------------------------------------------------------ duplicates


def _mark_twins(rows: list[Row]) -> int:
    """Mark files that hold the same image as an earlier one; count the clashes.

    A clash is a file with the identity of another but other pixels: it is kept, and
    :func:`_parts` holds it apart.
    """
    first: dict[tuple, list[Row]] = {}
    clashes = 0
    for row in rows:
        row['copy'] = 0
        identity = (row['instance'], row['instance_number'], row['position'], row['echoes'])
        others = first.setdefault(identity, [])
        known = row['instance'] or row['instance_number'] >= 0
        same = next((other for other in others if known and _same_image(other, row)), None)
        if same is not None:
            row['twin'] = same['path']
            continue
        if others and known:
            row['copy'] = len(others)
            clashes += 1
        others.append(row)
    return clashes


def _same_image(one: Row, other: Row) -> bool:
    if one['matrix'] != other['matrix'] or one['frames'] != other['frames']:
        return False
    if one['size'] == other['size'] and filecmp.cmp(one['path'], other['path'], shallow=False):
        return True
    return _pixels(one['path']) == _pixels(other['path'])


def _pixels(path: str) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            dataset = pydicom.dcmread(path, specific_tags=['PixelData'], force=True)
            return bytes(dataset.get('PixelData') or path.encode())
    except (OSError, *BAD_VALUE):
        return path.encode()


# ----------------------------------------------------------------------------------- parts


def _parts(rows: list[Row]) -> list[list[Row]]:
    """Split the images of one UID into series that look alike, in order of appearance."""
    parts = list(_by_words(rows))
    for alike in (_same_orientation, _same_times):
        parts = [piece for part in parts for piece in _cluster(part, alike)]
    return [piece for part in parts for piece in _repeats(part)]


def _cluster(rows: list[Row], alike: Callable[[Row, Row], bool]) -> list[list[Row]]:
    pieces: list[list[Row]] = []
    for row in rows:
        home = next((piece for piece in pieces if alike(piece[0], row)), None)
        if home is None:
            pieces.append([row])
        else:
            home.append(row)
    return pieces


def _by_words(rows: list[Row]) -> Iterable[list[Row]]:
    words = ('image_type', 'matrix', 'spacing', 'description', 'number', 'scanning', 'copy')
    pieces: dict[tuple, list[Row]] = {}
    for row in rows:
        pieces.setdefault(tuple(row[word] for word in words), []).append(row)
    return pieces.values()


def _same_orientation(one: Row, other: Row) -> bool:
    if not one['orientation'] or not other['orientation']:
        return bool(one['orientation'] == other['orientation'])
    pairs = zip(json.loads(one['orientation']), json.loads(other['orientation']), strict=True)
    return all(abs(a - b) < 0.01 for a, b in pairs)


def _same_times(one: Row, other: Row) -> bool:
    first, second = json.loads(one['echoes']), json.loads(other['echoes'])
    if len(first) != len(second):
        return False
    close = all(abs(a - b) <= 0.5 + 0.02 * a for a, b in zip(first, second, strict=True))
    return close and all(
        abs(one[name] - other[name]) <= 0.2 * abs(one[name]) for name in ('tr', 'ti', 'flip')
    )


def _repeats(rows: list[Row]) -> list[list[Row]]:
    """Split a structural series that was acquired several times under one UID.

    Series with many images at a place (over time, or of diffusion) stay whole.
    """
    places = Counter(row['position'] for row in rows if row['position'] is not None)
    times = set(places.values())
    if len(places) < _FEWEST_PLACES or len(times) != 1 or sum(places.values()) != len(rows):
        return [rows]
    (repeats,) = times
    if not 1 < repeats <= _MOST_REPEATS or any('EP' in row['scanning'] for row in rows):
        return [rows]
    pieces: list[list[Row]] = [[] for _ in range(repeats)]
    met: Counter[float] = Counter()
    for row in sorted(rows, key=lambda row: (row['acquisition'], row['instance_number'])):
        pieces[met[row['position']]].append(row)
        met[row['position']] += 1
    return pieces


# ------------------------------------------------------------------------------ description


def _describe(
    group: tuple[str, str, str],
    number: int,
    rows: list[Row],
    parts: int,
    twins: int,
    clashes: int,
) -> list[Series]:
    head = rows[0]
    missing = max(missing_slices(row['position'] for row in rows), *(r['missing'] for r in rows))
    remarks = _remarks(parts, twins, clashes if head['copy'] else 0, missing)
    echoes = json.loads(head['echoes'])
    made = Series(
        group=group,
        part=number,
        first=head['path'],
        files=len(rows),
        frames=sum(row['frames'] for row in rows),
        voxels=math.prod(map(int, head['matrix'].split('x'))) * sum(r['frames'] for r in rows),
        number=head['number'],
        date=head['date'],
        time=head['time'],
        vendor=head['vendor'],
        description=head['description'],
        tr=head['tr'],
        te=echoes[0] if echoes else -1.0,
        ti=head['ti'],
        flip=head['flip'],
        missing=missing,
        remarks=remarks,
    )
    if len(echoes) < 2:
        return [made]
    return [_echo(made, echo, len(echoes)) for echo in echoes]


def _echo(series: Series, echo: float, echoes: int) -> Series:
    remarks = (*series.remarks, f'one of {echoes} echoes of one file')
    return replace(series, echo=echo, echoes=echoes, te=echo, remarks=remarks)


def _remarks(parts: int, twins: int, clashes: int, missing: int) -> tuple[str, ...]:
    found = []
    if parts > 1:
        found.append(f'one of {parts} series under one UID')
    if twins:
        found.append(f'{twins} duplicate file{"s" if twins > 1 else ""}')
    if clashes:
        found.append('same UIDs as another series, but other pixels')
    if missing:
        found.append(f'{missing} slice{"s" if missing > 1 else ""} missing')
    return tuple(found)


def study_times(series: Iterable[Series]) -> dict[str, tuple[str, str]]:
    """Return date and earliest time of each study."""
    found: dict[str, tuple[str, str]] = {}
    for item in series:
        state: tuple[str, str] = (item.date, item.time)
        known = found.get(item.study)
        found[item.study] = min(known, state) if known and known[0] else known or state
    return found


def read_dataset(path: str | Path) -> Any:
    """Read a DICOM file without its pixels, without complaints about odd values."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)
