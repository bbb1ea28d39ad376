"""What in a DICOM header tells who somebody is: gathered before it is removed."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from functools import cache

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword

from mslesseg_app.dicom.deidentify.identifiers import Identifiers, date_forms, fold, name_forms
from mslesseg_app.dicom.elements import Element, elements, items
from mslesseg_app.dicom.fast_header import vendor_of

_NUMBERS = """
    PatientID OtherPatientIDs AccessionNumber StudyID AdmissionID
    PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest
    RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID DeviceSerialNumber
    StationName MedicalRecordLocator PatientTelephoneNumbers PatientTelecomInformation
    InsurancePlanIdentification ServiceEpisodeID IssuerOfPatientID StationAETitle
    RetrieveAETitle ScheduledStationAETitle PerformedStationAETitle
    SourceApplicationEntityTitle SendingApplicationEntityTitle ReceivingApplicationEntityTitle
    ClinicalTrialSubjectID ReferringPhysicianTelephoneNumbers
"""
_PHRASES = """
    InstitutionName InstitutionAddress PatientAddress ReferringPhysicianAddress
"""
_DATES = """
    PatientBirthDate StudyDate SeriesDate AcquisitionDate ContentDate InstanceCreationDate
    AcquisitionDateTime PerformedProcedureStepStartDate ScheduledProcedureStepStartDate
    AdmittingDate LastMenstrualDate
"""
_UIDS = """
    StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID
"""
#: Groups whose sequences are searched too: identity, patient, visit, request, procedure.
_GROUPS = {0x0008, 0x0010, 0x0032, 0x0038, 0x0040}
_DEEPEST = 8


def _tags(keywords: str) -> frozenset[int]:
    tags = (tag_for_keyword(keyword) for keyword in keywords.split())
    return frozenset(int(tag) for tag in tags if tag is not None)


_NUMBER_TAGS, _PHRASE_TAGS, _DATE_TAGS, _UID_TAGS = map(_tags, (_NUMBERS, _PHRASES, _DATES, _UIDS))


@cache
def _identifier_kind(tag: int) -> str:
    """Return what kind of identifier an element holds; '' where it holds none."""
    for kind, tags in (
        ('number', _NUMBER_TAGS),
        ('phrase', _PHRASE_TAGS),
        ('date', _DATE_TAGS),
        ('uid', _UID_TAGS),
    ):
        if tag in tags:
            return kind
    try:
        representation = dictionary_VR(tag)
    except KeyError:
        return ''
    if representation == 'SQ':
        return 'sequence' if tag >> 16 in _GROUPS else ''
    return 'name' if representation == 'PN' else ''


#: Kinds of values that tell a place, not a person.
_OF_PLACES = {'phrase', 'number'}
#: Kind and bytes of a value; ``maker`` is that of the scanner, which tells nobody.
Value = tuple[str, bytes]


def speaking_values(
    data: bytes, found: Iterable[Element], explicit: bool, depth: int = 0
) -> Iterator[Value]:
    """Yield kind and bytes of each value that tells who somebody is, also within sequences."""
    for element in found:
        kind = _identifier_kind(element.tag)
        if kind == 'sequence' and depth < _DEEPEST:
            inner = explicit and element.representation != b'UN'
            for first, last in items(data, element, explicit):
                nested = elements(data, first, last, inner)
                yield from speaking_values(data, nested, inner, depth + 1)
        elif kind and kind != 'sequence' and element.end > element.start:
            yield kind, data[element.start : element.end]


class Speech:
    """The identifiers of a header, and its texts cleaned of them.

    Parameters
    ----------
    charset : bytes
        Value of Specific Character Set.
    values : iterable of (str, bytes)
        See :func:`speaking_values`.
    """

    def __init__(self, charset: bytes, values: Iterable[Value]) -> None:
        with_codes = [code.strip() for code in charset.decode('latin-1').split('\\')]
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self._encodings = convert_encodings(with_codes or None)
        said = [
            (kind, part.strip('\0 \t\r\n'))
            for kind, value in values
            for part in self.decode(value).split('\\')
        ]
        makers = {text for kind, text in said if kind == 'maker' and vendor_of(text)}
        self.identifiers = frozenset(
            form
            for kind, text in said
            if not (kind in _OF_PLACES and _is_maker(text, makers))
            for form in _forms(kind, text)
        )
        self._wanted = Identifiers(self.identifiers)
        self._cleaned: dict[bytes, bytes] = {}

    def decode(self, value: bytes) -> str:
        """Decode text of the header."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return decode_bytes(value, self._encodings, set(b'\\^='))

    def clean(self, value: bytes) -> bytes:
        """Return a text without identifiers of the header, dates and long numbers.

        What is no ASCII loses its accents, or becomes ``?``: such text cannot be wrong in any
        character set, and programs that know one only do not fail.
        """
        if value not in self._cleaned:
            text = self.decode(value)
            less = clean_text(text, self._wanted)
            same = less == text and value.isascii() and b'\x1b' not in value
            self._cleaned[value] = (
                value if same else _without_accents(less).encode('ascii', 'replace')
            )
        return self._cleaned[value]


_SUSPECT = re.compile(
    r'(?<!\d)(?:(?:19|20)\d\d[-./_]?[01]\d[-./_]?[0-3]\d'  # year, month, day
    r'|[0-3]?\d[-./_][0-3]?\d[-./_](?:19|20)\d\d)(?!\d)'  # day, month, year
    r'|\d{6,}|[\w.+-]+@[\w.-]+'
    r'|\b(?:dr|prof|frau|herr|mme|mrs)\b\.?\s*[^\W\d]{3,}',
    re.IGNORECASE,
)


def _without_accents(text: str) -> str:
    """Return text without accents."""
    parts = unicodedata.normalize('NFKD', text)
    return ''.join(letter for letter in parts if not unicodedata.combining(letter))


def clean_text(text: str, wanted: Identifiers) -> str:
    """Return text without identifiers, dates, numbers of six and more digits, e-mail addresses."""
    return _SUSPECT.sub('', wanted.clean(text))


def _is_maker(text: str, makers: Iterable[str]) -> bool:
    """Whether a text holds only words from the name of the scanner's maker.

    It is set as institution or station where nobody entered another one.
    """
    words = set(re.findall(r'[^\W_]+', fold(text)))
    return any(words <= set(re.findall(r'[^\W_]+', fold(maker))) for maker in makers)


def _forms(kind: str, text: str) -> set[str]:
    """Return the forms of one value in which it must not be met."""
    if not text or kind == 'maker':
        return set()
    if kind == 'name':
        return name_forms(text)
    if kind == 'date':
        return _date_forms(text)
    if kind == 'phrase':
        lines = [line.strip() for line in re.split(r'[,;\r\n]+', text)]
        return {text} | {line for line in lines if len(line.split()) > 1}
    return {text}


def _date_forms(text: str) -> set[str]:
    date = read_date(text)
    return set() if date is None else date_forms(date)


def read_date(text: str) -> dt.date | None:
    """Read the date at the beginning of a DICOM date or date and time; None if there is none."""
    digits = text.replace('.', '', 2) if text[4:5] == '.' else text
    try:
        return dt.datetime.strptime(digits[:8], '%Y%m%d').date()  # noqa: DTZ007
    except ValueError:
        return None
