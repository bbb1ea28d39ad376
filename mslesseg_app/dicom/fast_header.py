"""What must be known of a DICOM file before anything is done with it; its pixels are not read."""

from __future__ import annotations

import datetime as dt
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from struct import unpack
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from mslesseg_app.dicom.identity import patient_key
from mslesseg_app.dicom.slice_positions import heights

T = TypeVar('T')

#: What reading a damaged or wrong value may raise.
BAD_VALUE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)

#: Why a file of a series cannot be used although its header can be read.
TRUNCATED = 'truncated file'
DAMAGED = 'damaged DICOM'

_DICOMDIR = '1.2.840.10008.1.3.10'
#: MR Image, Enhanced MR Image, Enhanced MR Color Image, Legacy Converted Enhanced MR Image.
_MR_IMAGES = {f'1.2.840.10008.5.1.4.1.1.4{end}' for end in ('', '.1', '.3', '.4')}
#: (Float, Double Float) Pixel Data in both byte orders.
_PIXELS_LITTLE = bytes.fromhex('e07f1000')
_PIXEL_TAGS = {bytes.fromhex(f'e07f{low}00') for low in ('08', '09', '10')}
_PIXEL_TAGS |= {bytes.fromhex(f'7fe000{low}') for low in ('08', '09', '10')}
_ITEM, _DELIMITER = 0xE000FFFE, 0xE0DDFFFE
_TAGS = [
    'SpecificCharacterSet',
    'SOPClassUID',
    'SOPInstanceUID',
    'StudyInstanceUID',
    'SeriesInstanceUID',
    'StudyDate',
    'SeriesDate',
    'AcquisitionDate',
    'ContentDate',
    'AcquisitionDateTime',
    'StudyTime',
    'SeriesTime',
    'AcquisitionTime',
    'Modality',
    'Manufacturer',
    'SeriesDescription',
    'ProtocolName',
    'SeriesNumber',
    'InstanceNumber',
    'AcquisitionNumber',
    'ImageType',
    'Rows',
    'Columns',
    'NumberOfFrames',
    'BitsAllocated',
    'SamplesPerPixel',
    'ImageOrientationPatient',
    'ImagePositionPatient',
    'PixelSpacing',
    'EchoNumbers',
    'EchoTime',
    'RepetitionTime',
    'InversionTime',
    'FlipAngle',
    'ScanningSequence',
    'PatientID',
    'IssuerOfPatientID',
    'PatientName',
    'PatientBirthDate',
    'OtherPatientIDs',
    'SharedFunctionalGroupsSequence',
    'PerFrameFunctionalGroupsSequence',
]


@dataclass(frozen=True)
class Header:
    """The few values of a file by which it is sorted; '' and -1 where there is none.

    Attributes
    ----------
    patient : str
        Key of the patient, see :func:`mslesseg_app.dicom.identity.patient_key`; where a header
        names none, the study stands for its patient.
    birth : str
        Date of birth as it is written.
    study, series, instance : str
        UIDs.
    date, time : str
        Of the study: ``YYYYMMDD`` and ``HHMMSS``.
    orientation : str
        JSON of the six direction cosines.
    position : float or None
        Millimetres along the normal of the slices; of a multi-frame object, its first frame.
    positions : str
        JSON of the positions (x, y, z; mm) of all frames; one for a classic file.
    echoes : str
        JSON of the echo times (ms) of the frames; one for a classic file.
    reason : str
        Why the file is of no use; '' where it is.
    """

    patient: str
    birth: str
    study: str
    series: str
    instance: str
    date: str
    time: str
    number: int
    instance_number: int
    acquisition: int
    modality: str
    vendor: str
    description: str
    image_type: str
    matrix: str
    frames: int
    orientation: str
    position: float | None
    positions: str
    spacing: str
    echoes: str
    tr: float
    ti: float
    flip: float
    scanning: str
    reason: str


COLUMNS = tuple(item.name for item in fields(Header))


def read_header(path: Path) -> Header | str:
    """Return the header of a DICOM file, or why it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return _read_header(path)
    except InvalidDicomError:
        return 'no DICOM'
    except OSError as error:
        return f'cannot be read ({os.strerror(error.errno)})' if error.errno else DAMAGED
    except Exception:  # noqa: BLE001 - whatever is wrong with one file, the others are read
        return DAMAGED


def _read_header(path: Path) -> Header | str:
    with path.open('rb') as stream:
        bare = stream.read(132)[128:] != b'DICM'
        stream.seek(0)
        dataset: Any = pydicom.dcmread(
            stream, stop_before_pixels=True, specific_tags=_TAGS, force=bare
        )
        pixels = _look_at_pixels(stream, path.stat().st_size)
    if bare and not ('SOPClassUID' in dataset or 'Rows' in dataset):
        return 'no DICOM'
    if str(dataset.file_meta.get('MediaStorageSOPClassUID', '')) == _DICOMDIR:
        return 'DICOMDIR'
    reason = _unfit(dataset, pixels)
    if reason == TRUNCATED and 'Rows' not in dataset:
        return reason
    orientation = _orientation(dataset)
    positions = _frame_positions(dataset)
    study = _element_text(dataset, 'StudyInstanceUID') or f'of {_date(dataset)}'
    return Header(
        patient=patient_key(dataset) or f'unknown, study {study}',
        birth=_element_text(dataset, 'PatientBirthDate'),
        study=study,
        series=_element_text(dataset, 'SeriesInstanceUID')
        or f'number {_whole(dataset, "SeriesNumber")}',
        instance=_element_text(dataset, 'SOPInstanceUID'),
        date=_date(dataset),
        time=_time(dataset),
        number=_whole(dataset, 'SeriesNumber'),
        instance_number=_whole(dataset, 'InstanceNumber'),
        acquisition=_whole(dataset, 'AcquisitionNumber'),
        modality=_element_text(dataset, 'Modality'),
        vendor=vendor_of(_element_text(dataset, 'Manufacturer')),
        description=_element_text(dataset, 'SeriesDescription')
        or _element_text(dataset, 'ProtocolName'),
        image_type='/'.join(_list(dataset, 'ImageType', str)),
        matrix=f'{_whole(dataset, "Columns")}x{_whole(dataset, "Rows")}',
        frames=max(1, _whole(dataset, 'NumberOfFrames')),
        orientation=json.dumps(orientation) if orientation else '',
        position=_height(positions, orientation),
        positions=json.dumps(positions),
        spacing='x'.join(f'{value:.3f}' for value in _spacing(dataset)),
        echoes=json.dumps(_echoes(dataset)),
        tr=_timing(dataset, 'RepetitionTime'),
        ti=_timing(dataset, 'InversionTime', 'InversionTimes'),
        flip=_timing(dataset, 'FlipAngle'),
        scanning='/'.join(_list(dataset, 'ScanningSequence', str)),
        reason=reason,
    )


def vendor_of(manufacturer: str) -> str:
    """Return the vendor's short name, '' for one that is not known.

    Examples
    --------
    >>> vendor_of('SIEMENS Healthineers'), vendor_of('Philips Medical Systems'), vendor_of('?')
    ('Siemens', 'Philips', '')
    """
    known = {
        'siemens': 'Siemens',
        'ge medical': 'GE',
        'general electric': 'GE',
        'philips': 'Philips',
        'toshiba': 'Canon',
        'canon': 'Canon',
        'hitachi': 'Hitachi',
        'fujifilm': 'Fujifilm',
        'united imaging': 'UIH',
        'uih': 'UIH',
    }
    lowered = manufacturer.lower()
    return next((name for part, name in known.items() if part in lowered), '')


# ---------------------------------------------------------------------------------- values


def _element_text(dataset: Any, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except BAD_VALUE:
        return ''
    return '' if value is None else str(value).strip().strip('\0')


def _whole(dataset: Any, keyword: str) -> int:
    number = _decimal(dataset, keyword)
    return int(number) if abs(number) < 2**53 else -1


def _decimal(dataset: Any, keyword: str) -> float:
    values = _list(dataset, keyword, float)
    return values[0] if values and np.isfinite(values[0]) else -1.0


def _list(dataset: Any, keyword: str, kind: Callable[[Any], T]) -> list[T]:
    try:
        value = dataset.get(keyword)
        if value is None or value == '':
            return []
        several = not isinstance(value, str) and hasattr(value, '__iter__')
        return [kind(item) for item in (value if several else [value])]
    except BAD_VALUE:
        return []


def _date(dataset: Any) -> str:
    for keyword in (
        'StudyDate',
        'SeriesDate',
        'AcquisitionDate',
        'AcquisitionDateTime',
        'ContentDate',
    ):
        digits = _element_text(dataset, keyword).replace('.', '').replace('-', '')[:8]
        if _exists(digits):
            return digits
    return ''


def _exists(digits: str) -> bool:
    if not (len(digits) == 8 and digits.isdigit() and '18500101' <= digits <= '29991231'):
        return False
    try:
        dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return True


def _time(dataset: Any) -> str:
    for keyword in ('StudyTime', 'SeriesTime', 'AcquisitionTime'):
        digits = _element_text(dataset, keyword).replace(':', '')[:6]
        if len(digits) >= 4 and digits.isdigit():
            return digits.ljust(6, '0')
    return ''


# ----------------------------------------------------------------------- functional groups


def _groups(dataset: Any, keyword: str) -> Iterator[Any]:
    """Yield the items of one functional group of a multi-frame object, shared ones first."""
    for name in ('SharedFunctionalGroupsSequence', 'PerFrameFunctionalGroupsSequence'):
        for group in _sequence(dataset, name):
            yield from _sequence(group, keyword)


def _sequence(dataset: Any, keyword: str) -> list[Any]:
    try:
        return list(dataset.get(keyword) or [])
    except BAD_VALUE:
        return []


def _timing(dataset: Any, *keywords: str) -> float:
    """Return a time (ms) or angle, also of a multi-frame object; -1 where there is none."""
    value = _decimal(dataset, keywords[0])
    for name in ('MRTimingAndRelatedParametersSequence', 'MRModifierSequence'):
        for item in _groups(dataset, name) if value < 0 else ():
            value = next((v for k in keywords if (v := _decimal(item, k)) >= 0), -1.0)
            if value >= 0:
                break
    return value


# -------------------------------------------------------------------------------- geometry


def _orientation(dataset: Any) -> list[float]:
    values = _list(dataset, 'ImageOrientationPatient', float)
    for item in [] if values else _groups(dataset, 'PlaneOrientationSequence'):
        values = _list(item, 'ImageOrientationPatient', float)
        break
    usable = len(values) == 6 and all(np.isfinite(values)) and any(values)
    return [round(value, 6) for value in values] if usable else []


def _spacing(dataset: Any) -> list[float]:
    values = _list(dataset, 'PixelSpacing', float)
    for item in [] if values else _groups(dataset, 'PixelMeasuresSequence'):
        return _list(item, 'PixelSpacing', float)
    return values


def _frame_positions(dataset: Any) -> list[list[float]]:
    """Return the positions of the frames; of those that have none, nothing."""
    found = [_position(dataset)]
    if not found[0]:
        found = [_position(item) for item in _groups(dataset, 'PlanePositionSequence')]
    return [position for position in found if position]


def _position(item: Any) -> list[float]:
    position = _list(item, 'ImagePositionPatient', float)
    usable = len(position) == 3 and all(np.isfinite(position))
    return [round(value, 4) for value in position] if usable else []


def _height(positions: list[list[float]], orientation: list[float]) -> float | None:
    if not positions or not orientation:
        return None
    return heights(positions[:1], orientation)[0]


def _echoes(dataset: Any) -> list[float]:
    times = _list(dataset, 'EchoTime', float)
    if not times:
        for item in _groups(dataset, 'MREchoSequence'):
            times += _list(item, 'EffectiveEchoTime', float)
    return sorted({round(value, 2) for value in times if np.isfinite(value)})


# ------------------------------------------------------------------------------- usability


class _Pixels(NamedTuple):
    """What follows behind a header: whether there are pixels, and bytes left for them.

    ``cut`` says that the file ends within compressed pixels.
    """

    there: bool
    room: int
    cut: bool


def _look_at_pixels(stream: BinaryIO, size: int) -> _Pixels:
    """Inspect the element that comes next in the stream."""
    room = size - stream.tell()
    head = stream.read(12)
    packed = head[:4] == _PIXELS_LITTLE and head[4:6].isalpha() and head[8:] == b'\xff' * 4
    return _Pixels(head[:4] in _PIXEL_TAGS, room, packed and _ends_within(stream))


def _ends_within(stream: BinaryIO) -> bool:
    """Walk through the fragments of compressed pixels (PS3.5, A.4) to their delimiter."""
    while len(item := stream.read(8)) == 8:
        tag, length = unpack('<LL', item)
        if tag != _ITEM:
            return bool(tag != _DELIMITER)
        stream.seek(length, os.SEEK_CUR)
    return True


def _unfit(dataset: Any, pixels: _Pixels) -> str:
    """Say why an image is of no use; '' where it is."""
    modality = _element_text(dataset, 'Modality').upper()
    image = _element_text(dataset, 'SOPClassUID') in _MR_IMAGES and modality in ('MR', '')
    sized = _whole(dataset, 'Rows') > 0 and _whole(dataset, 'Columns') > 0
    if not sized and not (image and 'Rows' not in dataset):
        return f'no image ({modality or "no modality"})'
    if modality not in ('MR', ''):
        return f'not MR ({modality})' if modality.isalnum() else 'not MR'
    syntax = UID(str(dataset.file_meta.get('TransferSyntaxUID', '1.2.840.10008.1.2')))
    if syntax.is_transfer_syntax and syntax.is_deflated:
        return ''
    if not pixels.there:  # raw data and spectra have rows and columns, too
        return TRUNCATED if image else f'no image ({modality or "no modality"})'
    return TRUNCATED if pixels.cut or _too_short(dataset, syntax, pixels.room) else ''


def _too_short(dataset: Any, syntax: UID, room: int) -> bool:
    """Whether there is no room for all pixels, where they are not compressed."""
    if not syntax.is_transfer_syntax or syntax.is_compressed:
        return False
    size = _whole(dataset, 'Rows') * _whole(dataset, 'Columns')
    size *= max(1, _whole(dataset, 'NumberOfFrames')) * max(1, _whole(dataset, 'SamplesPerPixel'))
    return room < size * max(8, _whole(dataset, 'BitsAllocated')) // 8
