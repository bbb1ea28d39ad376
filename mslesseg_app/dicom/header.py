"""What must be known of a DICOM file before anything is done with it; its pixels are not read."""

from __future__ import annotations

import datetime as dt
import json
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from .identity import patient_key
from .quick import quick_header

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

_DICOMDIR = '1.2.840.10008.1.3.10'
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
        Millimetres along the normal of the slices.
    missing : int
        Slices that are missing between the frames of a multi-frame object.
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
    missing: int
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
            return _read(path)
    except InvalidDicomError:
        return 'no DICOM'
    except OSError as error:
        return f'cannot be read ({os.strerror(error.errno)})' if error.errno else 'damaged DICOM'
    except BAD_VALUE:
        return 'damaged DICOM'


def _read(path: Path) -> Header | str:
    dataset: Any
    quick = quick_header(path, _TAGS)
    if quick is not None:
        dataset, room = quick
        person = dataset.person()
    else:
        with path.open('rb') as stream:
            bare = stream.read(132)[128:] != b'DICM'
            stream.seek(0)
            dataset = pydicom.dcmread(
                stream, stop_before_pixels=True, specific_tags=_TAGS, force=bare
            )
            room = path.stat().st_size - stream.tell()
        if bare and not ('SOPClassUID' in dataset or 'Rows' in dataset):
            return 'no DICOM'
        person = dataset
    if str(dataset.file_meta.get('MediaStorageSOPClassUID', '')) == _DICOMDIR:
        return 'DICOMDIR'
    orientation = _orientation(dataset)
    study = _text(dataset, 'StudyInstanceUID') or f'of {_date(dataset)}'
    return Header(
        patient=patient_key(person) or f'unknown, study {study}',
        birth=_text(dataset, 'PatientBirthDate'),
        study=study,
        series=_text(dataset, 'SeriesInstanceUID') or f'number {_whole(dataset, "SeriesNumber")}',
        instance=_text(dataset, 'SOPInstanceUID'),
        date=_date(dataset),
        time=_time(dataset),
        number=_whole(dataset, 'SeriesNumber'),
        instance_number=_whole(dataset, 'InstanceNumber'),
        acquisition=_whole(dataset, 'AcquisitionNumber'),
        modality=_text(dataset, 'Modality'),
        vendor=vendor_of(_text(dataset, 'Manufacturer')),
        description=_text(dataset, 'SeriesDescription') or _text(dataset, 'ProtocolName'),
        image_type='/'.join(_list(dataset, 'ImageType', str)),
        matrix=f'{_whole(dataset, "Columns")}x{_whole(dataset, "Rows")}',
        frames=max(1, _whole(dataset, 'NumberOfFrames')),
        orientation=json.dumps(orientation) if orientation else '',
        position=_position(dataset, orientation),
        missing=_missing_frames(dataset, orientation),
        spacing='x'.join(f'{value:.3f}' for value in _list(dataset, 'PixelSpacing', float)),
        echoes=json.dumps(_echoes(dataset)),
        tr=_decimal(dataset, 'RepetitionTime'),
        ti=_decimal(dataset, 'InversionTime'),
        flip=_decimal(dataset, 'FlipAngle'),
        scanning='/'.join(_list(dataset, 'ScanningSequence', str)),
        reason=_unfit(dataset, room),
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


def _text(dataset: Any, keyword: str) -> str:
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
        digits = _text(dataset, keyword).replace('.', '').replace('-', '')[:8]
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
        digits = _text(dataset, keyword).replace(':', '')[:6]
        if len(digits) >= 4 and digits.isdigit():
            return digits.ljust(6, '0')
    return ''


# -------------------------------------------------------------------------------- geometry


def _groups(dataset: Any, keyword: str) -> list[Any]:
    """Return the functional groups of a multi-frame object, shared ones first."""
    found: list[Any] = []
    for name in ('SharedFunctionalGroupsSequence', 'PerFrameFunctionalGroupsSequence'):
        for group in dataset.get(name) or []:
            found += group.get(keyword) or []
    return found


def _orientation(dataset: Any) -> list[float]:
    values = _list(dataset, 'ImageOrientationPatient', float)
    for item in [] if values else _groups(dataset, 'PlaneOrientationSequence'):
        values = _list(item, 'ImageOrientationPatient', float)
        break
    usable = len(values) == 6 and all(np.isfinite(values)) and any(values)
    return [round(value, 5) for value in values] if usable else []


def _position(dataset: Any, orientation: list[float]) -> float | None:
    place = _list(dataset, 'ImagePositionPatient', float)
    if len(place) != 3 or not orientation:
        return None
    normal = np.cross(orientation[:3], orientation[3:])
    return round(float(normal @ place), 3)


def missing_slices(positions: Iterable[float | None]) -> int:
    """Count the slices that are missing between others, by their positions (mm).

    Examples
    --------
    >>> missing_slices([0, 3, 6, 15, 18]), missing_slices([0, 0, 3, 3])
    (2, 0)
    """
    places = np.unique(np.round([place for place in positions if place is not None], 2))
    steps = np.diff(places)
    steps = steps[steps > 0.05]
    if len(steps) < 2:
        return 0
    return int(np.sum(np.maximum(np.round(steps / np.median(steps)) - 1, 0)))


def _missing_frames(dataset: Any, orientation: list[float]) -> int:
    groups = _groups(dataset, 'PlanePositionSequence')
    return missing_slices(_position(item, orientation) for item in groups)


def _echoes(dataset: Any) -> list[float]:
    times = _list(dataset, 'EchoTime', float)
    if not times:
        for item in _groups(dataset, 'MREchoSequence'):
            times += _list(item, 'EffectiveEchoTime', float)
    return sorted({round(value, 2) for value in times if np.isfinite(value)})


# ------------------------------------------------------------------------------- usability


def _unfit(dataset: Any, room: int) -> str:
    """Say why an image is of no use; ``room`` is what the file has for its pixels (bytes)."""
    modality = _text(dataset, 'Modality').upper()
    if _whole(dataset, 'Rows') <= 0 or _whole(dataset, 'Columns') <= 0:
        return f'no image ({modality or "no modality"})'
    if modality not in ('MR', ''):
        return f'not MR ({modality})' if modality.isalnum() else 'not MR'
    return 'truncated file' if _truncated(dataset, room) else ''


def _truncated(dataset: Any, room: int) -> bool:
    """Whether a file whose pixels are not compressed is too short to hold them."""
    syntax = UID(str(dataset.file_meta.get('TransferSyntaxUID', '1.2.840.10008.1.2')))
    if not syntax.is_transfer_syntax or syntax.is_compressed or syntax.is_deflated:
        return False
    size = _whole(dataset, 'Rows') * _whole(dataset, 'Columns')
    size *= max(1, _whole(dataset, 'NumberOfFrames')) * max(1, _whole(dataset, 'SamplesPerPixel'))
    return room < size * max(8, _whole(dataset, 'BitsAllocated')) // 8
