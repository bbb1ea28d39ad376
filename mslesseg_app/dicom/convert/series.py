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

from mslesseg_app.dicom.convert.index import Index, Row
from mslesseg_app.dicom.fast_header import BAD_VALUE, TRUNCATED
from mslesseg_app.dicom.geometry import fault_of
from mslesseg_app.dicom.slice_positions import heights, missing_slices

#: Most images at one place that are taken for repeats of a structural series.
_MOST_REPEATS = 4
_FEWEST_PLACES = 10
#: What the images of one series have in common.
_WORDS = ('image_type', 'matrix', 'spacing', 'description', 'number', 'scanning', 'copy')
#: Values of a file that describe its series as they are.
_PLAIN = ('number', 'date', 'time', 'vendor', 'description', 'tr', 'ti', 'flip')


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
    damaged : str
        Why it can become no image at all; '' where nothing is wrong.
    irregular : str
        Why its images do not fill one regular grid, as those of an anatomical image must.
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
    damaged: str = ''
    irregular: str = ''
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
        try:
            found += _sort(group, rows)
        except Exception as error:  # noqa: BLE001 - the other series must not be lost
            found.append(_unsorted(group, rows, error))
        index.assign(rows)
    return found


def _unsorted(group: tuple[str, str, str], rows: list[Row], error: Exception) -> Series:
    """Describe images that could not be sorted, so that they are reported."""
    for row in rows:
        row['part'], row['twin'] = 0, ''
    bare = {key: rows[0][key] for key in _PLAIN}
    damaged = f'its files cannot be sorted ({type(error).__name__})'
    return Series(
        group, 0, rows[0]['path'], len(rows), len(rows), voxels=0, te=-1.0, damaged=damaged, **bare
    )


def _sort(group: tuple[str, str, str], rows: list[Row]) -> list[Series]:
    for row in rows:
        row['part'], row['twin'] = 0, ''
    whole = [row for row in rows if row['reason'] != TRUNCATED]
    clashes = _mark_twins(whole)
    usable = [row for row in whole if not row['twin']]
    parts = _parts(usable)
    for number, part in enumerate(parts):
        for row in part:
            row['part'] = number
    owners = {row['path']: row['part'] for row in usable}
    for row in whole:
        if row['twin']:
            row['part'] = owners[row['twin']]
    damaged = _ambiguous(parts) | _place_truncated(rows, parts)
    series: list[Series] = []
    for number, part in enumerate(parts):
        same = sum(row['part'] == number for row in whole if row['twin'])
        made = _series_of_group(group, number, part, len(parts), same, clashes)
        series += [replace(one, damaged=damaged.get(number, '')) for one in made]
    return series


def _ambiguous(parts: list[list[Row]]) -> dict[int, str]:
    """Say of which series some images, but not all, are there again with other pixels."""
    again = Counter(row['instance'] for part in parts for row in part if row['copy'] == 1)
    found = {}
    for number, part in enumerate(parts):
        count = sum(row['instance'] in again for row in part if row['copy'] == 0)
        if 0 < count < len(part):
            are = 'images are' if count > 1 else 'image is'
            found[number] = f'{count} {are} there twice under one UID, with other pixels'
    return found


# ------------------------------------------------------------------------- truncated files


def _place_truncated(rows: list[Row], parts: list[list[Row]]) -> dict[int, str]:
    """Give each truncated file to the series that it belongs to; say what is wrong with these.

    A truncated copy of an image that is whole elsewhere does no harm. Those that look like no
    other series become series of their own, added to `parts`.
    """
    there = {row['instance'] for part in parts for row in part} - {''}
    broken = [row for row in rows if row['reason'] == TRUNCATED]
    lost: Counter[int] = Counter()
    for row in broken:
        row['copy'] = 0
        home = next((n for n, part in enumerate(parts) if _belongs(row, part[0])), None)
        if home is None and row['instance'] not in there:
            parts.append([row])
            home = len(parts) - 1
        row['part'] = home or 0
        if home is not None and row['instance'] not in there:
            lost[home] += 1
    return {
        number: f'{count} of its files {"are" if count > 1 else "is"} truncated'
        for number, count in lost.items()
    }


def _belongs(row: Row, head: Row) -> bool:
    alike = all(row[word] == head[word] for word in _WORDS if word != 'copy')
    return alike and _same_orientation(head, row) and _same_times(head, row)


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
    pieces: dict[tuple, list[Row]] = {}
    for row in rows:
        pieces.setdefault(tuple(row[word] for word in _WORDS), []).append(row)
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


def _series_of_group(
    group: tuple[str, str, str],
    number: int,
    rows: list[Row],
    parts: int,
    twins: int,
    clashes: int,
) -> list[Series]:
    head = rows[0]
    echoes = json.loads(head['echoes'])
    frames = sum(row['frames'] for row in rows)
    places = [place for row in rows for place in json.loads(row['positions'])]
    cosines = json.loads(head['orientation'] or '[]')
    missing = missing_slices(heights(places, cosines)) if cosines else 0
    made = Series(
        group=group,
        part=number,
        first=head['path'],
        files=len(rows),
        frames=frames,
        voxels=math.prod(map(int, head['matrix'].split('x'))) * frames,
        te=echoes[0] if echoes else -1.0,
        missing=missing,
        irregular=_irregular(head, places, cosines, frames, max(1, len(echoes))),
        remarks=_remarks(parts, twins, clashes if head['copy'] else 0, missing),
        **{key: head[key] for key in _PLAIN},
    )
    if len(echoes) < 2:
        return [made]
    return [_echo(made, echo, len(echoes)) for echo in echoes]


def _irregular(
    head: Row, places: list[list[float]], cosines: list[float], frames: int, echoes: int
) -> str:
    """Say why a series cannot become an image whose voxels lie where they were acquired."""
    spacing = [float(value) for value in head['spacing'].split('x') if value]
    if len(spacing) != 2 or min(spacing) <= 0:
        return 'it has no Pixel Spacing'
    return fault_of(places, cosines, frames, echoes)


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


def read_dataset(path: str | Path, *, pixels: bool = False) -> Any:
    """Read a DICOM file, without its pixels or with them, without complaints about odd values."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
