"""What becomes of each DICOM element.

The basic profile is the table E.1-1 of DICOM PS3.15 as dicom-anonymizer carries it, with the
options Clean Descriptors, Retain Longitudinal Temporal Information with Modified Dates, Retain
Patient Characteristics (sex and age only) and Retain Safe Private. On top of that, nothing stays
that is not on the short lists below: a free text, a code or a sequence that no list names is
dropped, whether the table knows it or not.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from typing import NamedTuple

from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword

#: Edition of the table.
PROFILE_EDITION = '2026c'


class Action(Enum):
    """What becomes of an element."""

    DROP = 'dropped'
    NUMBER = 'kept if it is a number'
    CODE = 'kept if it is a defined term'
    TEXT = 'cleaned of identifiers'
    DATE = 'shifted'
    DATETIME = 'date shifted, time of day kept'
    TIME = 'kept'
    UID = 'replaced unless registered'
    CLASS = 'kept: the UID of a class'
    AGE = 'kept up to 89 years'
    SEQUENCE = 'each item treated the same way'
    PIXELS = 'kept'


class Rule(NamedTuple):
    """What becomes of an element.

    Attributes
    ----------
    action : Action
    representations : frozenset of bytes
        Those in which it is believed, such as ``b'DS'``.
    length : int
        Bytes of its value, where it is binary and their number is fixed; else 0.
    """

    action: Action
    representations: frozenset[bytes]
    length: int = 0


_DROP = Rule(Action.DROP, frozenset())

_BINARY = dict.fromkeys((b'US', b'SS'), 2) | dict.fromkeys((b'UL', b'SL', b'FL', b'AT'), 4)
_BINARY |= dict.fromkeys((b'FD', b'UV', b'SV'), 8)
DECIMAL = frozenset({b'DS', b'IS'})
#: Groups from which numbers, codes and sequences are kept.
_GROUPS = {0x0018, 0x0020, 0x0028}
#: Shared and per-frame functional groups, real world value mapping; the macros of MR objects.
_SEQUENCES = {0x52009229, 0x52009230, 0x00409096}
_MACROS = ((0x00189000, 0x00189260), (0x00209000, 0x00209FFF), (0x00289000, 0x00289FFF))
_NUMBERS = {0x00409211, 0x00409212, 0x00409216, 0x00409224, 0x00409225, 0x00082142, 0x00082143}
_CODES = (
    'ImageType',
    'Modality',
    'SpecificCharacterSet',
    'PatientSex',
    'FrameType',
    'PixelPresentation',
    'VolumetricProperties',
    'VolumeBasedCalculationTechnique',
    'ComplexImageComponent',
    'AcquisitionContrast',
    'ConversionType',
)
_TEXTS = (
    'SeriesDescription',
    'ProtocolName',
    'SequenceName',
    'PulseSequenceName',
    'Manufacturer',
    'ManufacturerModelName',
    'SoftwareVersions',
    'ReceiveCoilName',
    'TransmitCoilName',
    'ContrastBolusAgent',
    'ImagedNucleus',
    'ResonantNucleus',
)
_DATES = ('StudyDate', 'SeriesDate', 'AcquisitionDate', 'ContentDate')
_TIMES = ('StudyTime', 'SeriesTime', 'AcquisitionTime', 'ContentTime')
_DATETIMES = ('AcquisitionDateTime', 'FrameAcquisitionDateTime', 'FrameReferenceDateTime')
_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}


def _chosen() -> dict[int, Action]:
    """Return the elements that stay by name."""
    names = {
        Action.CODE: _CODES,
        Action.TEXT: _TEXTS,
        Action.DATE: _DATES,
        Action.TIME: _TIMES,
        Action.DATETIME: _DATETIMES,
        Action.AGE: ('PatientAge',),
    }
    chosen = {_tag(keyword): action for action, some in names.items() for keyword in some}
    chosen |= dict.fromkeys(_SEQUENCES, Action.SEQUENCE)
    chosen |= dict.fromkeys(_NUMBERS, Action.NUMBER)
    return chosen | dict.fromkeys(_PIXELS, Action.PIXELS)


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return int(tag)


@cache
def _profile() -> frozenset[int]:
    """Return the tags that the basic profile removes, empties or replaces.

    Its few ranges (curves, overlays) lie in groups of which nothing is kept.
    """
    table = dicom_anonymization_database_selector(f'dicomfields_{PROFILE_EDITION}')
    tags = [tag for name, some in table.items() if name != 'ALL_TAGS' for tag in some]
    return frozenset(tag[0] << 16 | tag[1] for tag in tags if len(tag) == 2)


_CHOSEN = _chosen()


@cache
def rule(tag: int) -> Rule:
    """Return what becomes of a standard element (not of a private one).

    Parameters
    ----------
    tag : int
        Group and element, ``0xggggeeee``.
    """
    try:
        named = frozenset(dictionary_VR(tag).encode().split(b' or '))
    except KeyError:
        return _DROP
    if tag in _CHOSEN:
        return Rule(_CHOSEN[tag], named)
    group = tag >> 16
    if named == {b'UI'}:
        action = Action.CLASS if keyword_for_tag(tag).endswith('ClassUID') else Action.UID
        return Rule(action, named) if group in _GROUPS | {0x0008} else _DROP
    if group not in _GROUPS or tag & 0xFFFF == 0 or tag in _profile():
        return _DROP
    if named <= DECIMAL:
        return Rule(Action.NUMBER, named)
    if named - {b'OW'} <= _BINARY.keys():
        return _binary(named - {b'OW'}, dictionary_VM(tag))
    if named == {b'CS'}:
        return Rule(Action.CODE, named)
    macro = any(first <= tag <= last for first, last in _MACROS)
    return Rule(Action.SEQUENCE, named) if named == {b'SQ'} and macro else _DROP


def _binary(representations: frozenset[bytes], multiplicity: str) -> Rule:
    size = _BINARY[min(representations)] if representations else 0
    count = int(multiplicity) if multiplicity.isdigit() else 0
    return Rule(Action.NUMBER, representations, size * count)


#: Private elements that say nothing about a person and without which geometry, scaling or kind
#: of an image would be lost: creator, group, element within the block; how they are treated.
SAFE_PRIVATE: dict[tuple[bytes, int, int], Rule] = {
    (b'Philips Imaging DD 001', 0x2001, 0x03): _binary(frozenset({b'FL'}), '1'),  # b-value
    (b'Philips Imaging DD 001', 0x2001, 0x0A): Rule(Action.NUMBER, DECIMAL),  # slice
    (b'Philips Imaging DD 001', 0x2001, 0x18): _binary(frozenset({b'SL'}), '1'),  # slices
    (b'Philips MR Imaging DD 001', 0x2005, 0x0D): _binary(frozenset({b'FL'}), '1'),  # intercept
    (b'Philips MR Imaging DD 001', 0x2005, 0x0E): _binary(frozenset({b'FL'}), '1'),  # slope
    (b'Philips MR Imaging DD 005', 0x2005, 0x0F): Rule(Action.SEQUENCE, frozenset({b'SQ'})),
    (b'SIEMENS MR HEADER', 0x0019, 0x0A): _binary(frozenset({b'US'}), '1'),  # mosaic
    (b'SIEMENS MR HEADER', 0x0019, 0x0C): Rule(Action.NUMBER, DECIMAL),  # b-value
    (b'SIEMENS MR HEADER', 0x0019, 0x0E): _binary(frozenset({b'FD'}), '3'),  # its direction
    (b'GEMS_RELA_01', 0x0021, 0x4F): _binary(frozenset({b'SS'}), '1'),  # slices
    (b'GEMS_PARM_01', 0x0043, 0x2F): _binary(frozenset({b'SS'}), '1'),  # magnitude or phase
    (b'GEMS_PARM_01', 0x0043, 0x39): Rule(Action.NUMBER, DECIMAL),  # b-value
    (b'GEMS_ACQU_01', 0x0019, 0x9C): Rule(Action.TEXT, frozenset({b'LO'})),  # pulse sequence
    (b'GEMS_ACQU_01', 0x0019, 0x9E): Rule(Action.TEXT, frozenset({b'LO'})),  # internal name
}


def is_registered(uid: str) -> bool:
    """Say whether a UID is one of the standard's, the same for everybody."""
    return uid in UID_dictionary
