"""Taking a person's identity out of DICOM files before anything else is done with them.

What becomes of each element is stated in :mod:`mslesseg_app.dicom.deidentify.profile`. Pixels
are copied byte for byte. Values that stay are not decoded and encoded again, but those that are
numbers by the standard must be numbers, and codes must look like codes.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from struct import pack, unpack_from
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from mslesseg_app.core.errors import DataError
from mslesseg_app.core.files import explain_os_error
from mslesseg_app.dicom.deidentify import profile
from mslesseg_app.dicom.deidentify.identifying_text import Speech, Value, speaking_values
from mslesseg_app.dicom.deidentify.profile import Action, Rule
from mslesseg_app.dicom.deidentify.values import TAIL, TREATMENTS, File, new_uids
from mslesseg_app.dicom.elements import (
    Element,
    MalformedError,
    element_at,
    elements,
    encode,
    encode_item,
    items,
)
from mslesseg_app.dicom.identity import SubjectIdentity

_MR_CLASSES = {
    '1.2.840.10008.5.1.4.1.1.4',
    '1.2.840.10008.5.1.4.1.1.4.1',
    '1.2.840.10008.5.1.4.1.1.4.3',
    '1.2.840.10008.5.1.4.1.1.4.4',
}
_SECONDARY_CAPTURE = '1.2.840.10008.5.1.4.1.1.7'
_SCREEN = re.compile(r'SCREEN|CAPTURE|SNAPSHOT|\bSC\b|REPORT', re.IGNORECASE)

_METHOD = b'mslesseg, DICOM PS3.15 profile'
#: Codes of the profile and its options (PS3.16, context group 7050).
_METHOD_CODES = (
    (b'113100', b'Basic Application Confidentiality Profile'),
    (b'113105', b'Clean Descriptors Option'),
    (b'113107', b'Retain Longitudinal Temporal Information Modified Dates Option'),
    (b'113108', b'Retain Patient Characteristics Option'),
    (b'113111', b'Retain Safe Private Option'),
)
_CHARSET, _CLASS, _INSTANCE, _IMAGE_TYPE, _MODALITY = (
    0x00080005,
    0x00080016,
    0x00080018,
    0x00080008,
    0x00080060,
)
_CONVERSION, _BURNT, _MAKER = 0x00080064, 0x00280301, 0x00080070
_PIXELS = 0x7FE00010


@dataclass(frozen=True)
class Removed:
    """What was taken out of a file.

    Attributes
    ----------
    identifiers : frozenset of str
        What must not be met in anything made of the file: names, their parts and orders,
        numbers, dates in several forms, addresses, UIDs.
    burnt_in : str
        Why text may be burnt into the pixels, which are not changed; '' where nothing says so.
    """

    identifiers: frozenset[str]
    burnt_in: str


def deidentify_file(source: Path | BinaryIO, target: Path, subject: SubjectIdentity) -> Removed:
    """Write a DICOM file without what tells who the person is.

    Parameters
    ----------
    source : Path or binary stream
        Any DICOM file, with or without preamble. It is not changed.
    target : Path
        New file, readable by its owner only. It appears when it is complete.
    subject : SubjectIdentity
        Gives the new name, the shift of dates and the secret of the new UIDs.

    Raises
    ------
    DataError
        If the source is no DICOM file, or is cut off.
    DiskError, OutputError
        If it cannot be read, or the target cannot be written.
    """
    name = str(getattr(source, 'name', source))
    try:
        raw = source.read_bytes() if isinstance(source, Path) else source.read()
    except OSError as error:
        raise explain_os_error(error, name) from error
    parts, removed = _treat(raw, subject, name)
    try:
        _write(target, parts)
    except OSError as error:
        raise explain_os_error(error, target) from error
    return removed


def deidentify(dataset: pydicom.Dataset, subject: SubjectIdentity) -> Removed:
    """Take out of a data set, in place, what tells who the person is.

    Parameters
    ----------
    dataset : pydicom.Dataset
        Its ``file_meta`` is replaced too.
    subject : SubjectIdentity

    Raises
    ------
    DataError
        If the data set cannot be encoded.
    """
    whole = io.BytesIO()
    try:
        if 'TransferSyntaxUID' in getattr(dataset, 'file_meta', {}):
            dataset.save_as(whole)
        else:
            dataset.save_as(whole, implicit_vr=True, little_endian=True)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f'The DICOM data set cannot be encoded: {error}') from error
    parts, removed = _treat(whole.getvalue(), subject, 'the data set')
    clean = pydicom.dcmread(io.BytesIO(b''.join(parts)))
    dataset.clear()
    dataset.update(clean)
    dataset.file_meta = clean.file_meta
    if isinstance(dataset, pydicom.FileDataset):
        dataset.preamble = bytes(128)
    return removed


_BAD = (AttributeError, EOFError, LookupError, NotImplementedError, OSError, TypeError, ValueError)


def _treat(raw: bytes, subject: SubjectIdentity, name: str) -> tuple[list[bytes], Removed]:
    """Return the new file in parts, and what was removed."""
    try:
        syntax, title, start = _beginning(raw)
        known = syntax not in (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
        try:
            if known:
                return _treated(raw, start, syntax, title, subject)
        except MalformedError:
            pass
        return _treated(_through_pydicom(raw), 0, ExplicitVRLittleEndian, title, subject)
    except RecursionError as error:
        raise DataError(f'{name} is nested too deep for a DICOM file.') from error
    except _BAD as error:
        raise DataError(
            f'{name} is no DICOM file, or a damaged one.', 'Is it complete? Copy it again.'
        ) from error


def _beginning(raw: bytes) -> tuple[str, bytes, int]:
    """Return transfer syntax ('' if not told), source AE title, and where the data set begins."""
    position = 132 if raw[128:132] == b'DICM' else 0
    syntax, title = '', b''
    while raw[position : position + 2] == b'\2\0':
        element = element_at(raw, position, len(raw), explicit=True)
        value = raw[element.start : element.end]
        if element.tag == 0x00020010:
            syntax = value.strip(TAIL).decode('ascii', 'replace')
        elif element.tag == 0x00020016:
            title = value
        position = element.after
    return syntax, title, position


def _through_pydicom(raw: bytes) -> bytes:
    """Return the data set of an unusual file in explicit little-endian encoding.

    pydicom is more patient with damaged files, and reads big-endian and deflated ones.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        dataset = pydicom.dcmread(io.BytesIO(raw), force=True)
        syntax = dataset.file_meta.get('TransferSyntaxUID', ImplicitVRLittleEndian)
        if UID(str(syntax)).is_encapsulated:
            raise MalformedError('damaged, and its pixels are compressed')
        if syntax == ExplicitVRBigEndian and 'PixelData' in dataset:
            dataset.PixelData = _swapped(dataset.PixelData, int(dataset.get('BitsAllocated', 8)))
        dataset.file_meta, dataset.preamble = FileMetaDataset(), None
        whole = io.BytesIO()
        dataset.remove_private_tags()
        pydicom.dcmwrite(whole, dataset, implicit_vr=False, little_endian=True)
    return whole.getvalue()


def _swapped(pixels: bytes, bits: int) -> bytes:
    return np.frombuffer(pixels, f'u{bits // 8}').byteswap().tobytes()


def _treated(
    raw: bytes, start: int, syntax: str, title: bytes, subject: SubjectIdentity
) -> tuple[list[bytes], Removed]:
    explicit = syntax != ImplicitVRLittleEndian if syntax else raw[start + 4 : start + 6].isalpha()
    top = _top(raw, start, explicit)
    head = {element.tag: element for element in top}
    if _CLASS not in head and 0x00280010 not in head:
        raise MalformedError('neither a class nor rows')
    spoken = [*speaking_values(raw, top, explicit), ('number', title)]
    spoken.append(('maker', _value(raw, head, _MAKER)))
    speech = _speech(_value(raw, head, _CHARSET), tuple(spoken))
    file = File(raw, explicit, speech, subject, _pixel_bytes(raw, head))
    parts = [part for _, part in sorted([*_cleaned(file, top), *_added(file)])]
    instance = _value(raw, head, _INSTANCE).strip(TAIL).decode('latin-1')
    identifiers = speech.identifiers | ({instance} if instance else set())
    syntax = syntax or (ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian)
    meta = _meta(_value(raw, head, _CLASS), new_uids(instance.encode(), subject), syntax)
    return [meta, *parts], Removed(identifiers, _burnt_in(file, head))


@lru_cache(maxsize=256)
def _speech(charset: bytes, values: tuple[Value, ...]) -> Speech:
    """Files of one series say the same."""
    return Speech(charset, values)


def _top(raw: bytes, start: int, explicit: bool) -> list[Element]:
    """Return the elements up to the pixels; what stands behind them is nothing of the image."""
    found = []
    for element in elements(raw, start, len(raw), explicit):
        found.append(element)
        if element.tag == _PIXELS:
            break
    return found


def _value(raw: bytes, head: dict[int, Element], tag: int) -> bytes:
    element = head.get(tag)
    return b'' if element is None else raw[element.start : element.end]


def _cleaned(file: File, found: Iterable[Element]) -> Iterator[tuple[int, bytes]]:
    """Yield tag and bytes of each element that stays."""
    creators: dict[int, bytes] = {}
    named: set[int] = set()
    for element in found:
        tag = element.tag
        if not tag >> 16 & 1:
            part = _kept(file, element, profile.rule(tag))
        elif 0x10 <= tag & 0xFFFF <= 0xFF:
            creators[tag] = file.data[element.start : element.end].strip(TAIL)
            continue
        else:
            block = tag & 0xFFFF0000 | tag >> 8 & 0xFF
            creator = creators.get(block, b'')
            safe = profile.SAFE_PRIVATE.get((creator, tag >> 16, tag & 0xFF))
            part = _kept(file, element, safe) if safe else b''
            if part and block not in named:
                named.add(block)
                yield block, encode(block, b'LO' if file.explicit else b'', creator)
        if part:
            yield tag, part


def _kept(file: File, element: Element, rule: Rule) -> bytes:
    """Return the bytes of an element as it stays, none if it does not."""
    action, said = rule.action, element.representation
    if action is Action.DROP or (said and said != b'UN' and said not in rule.representations):
        return b''
    if action is Action.SEQUENCE:
        return _sequence(file, element)
    if action is Action.PIXELS:
        return _pixels(file, element)
    value = file.data[element.start : element.end]
    new = TREATMENTS[action](file, value, rule)
    if new is None:
        return b''
    if new is value:
        return file.data[element.begin : element.after]
    return encode(element.tag, said, new)


def _encoded(file: File, found: Iterable[Element]) -> bytes:
    return b''.join(part for _, part in sorted(_cleaned(file, found)))


def _sequence(file: File, element: Element) -> bytes:
    inner = file
    if element.representation == b'UN':
        inner = replace(file, explicit=False)
    contents = b''.join(
        encode_item(_encoded(inner, elements(file.data, first, last, inner.explicit)))
        for first, last in items(file.data, element, file.explicit)
    )
    return encode(element.tag, element.representation, contents)


def _pixels(file: File, element: Element) -> bytes:
    """Return the pixels as they are, without what is appended to them."""
    excess = element.end - element.start - file.pixel_bytes
    if element.tag != _PIXELS or element.after != element.end or excess <= 0:
        return file.data[element.begin : element.after]
    value = file.data[element.start : element.start + file.pixel_bytes]
    return encode(element.tag, element.representation, value)


def _pixel_bytes(raw: bytes, head: dict[int, Element]) -> int:
    """Return how many bytes the pixels take if they are not compressed; many if not known."""
    values = [_value(raw, head, tag) for tag in (0x00280010, 0x00280011, 0x00280100)]
    if any(len(value) != 2 for value in values):
        return sys.maxsize
    rows, columns, bits = (unpack_from('<H', value)[0] for value in values)
    samples = _value(raw, head, 0x00280002)
    frames = _value(raw, head, 0x00280008).strip(TAIL)
    count = rows * columns * (unpack_from('<H', samples)[0] if len(samples) == 2 else 1)
    count *= int(frames) if frames.isdigit() else 1
    return -(-count * bits // 8) or sys.maxsize


# -------------------------------------------------------------------------------- what is added


def _added(file: File) -> Iterator[tuple[int, bytes]]:
    """Yield tag and bytes of the elements that are new."""
    label = file.subject.label.encode('ascii')
    for tag, representation, value in (
        (0x00100010, b'PN', label),
        (0x00100020, b'LO', label),
        (0x00120062, b'CS', b'YES'),
        (0x00120063, b'LO', _METHOD),
        (0x00120064, b'SQ', _method_codes(file.explicit)),
        (0x00280303, b'CS', b'MODIFIED'),
    ):
        yield tag, encode(tag, representation if file.explicit else b'', value)


@cache
def _method_codes(explicit: bool) -> bytes:
    """Return the items of the sequence that says which profile and options were followed."""
    return b''.join(
        encode_item(
            b''.join(
                encode(tag, representation if explicit else b'', value)
                for tag, representation, value in (
                    (0x00080100, b'SH', code),
                    (0x00080102, b'SH', b'DCM'),
                    (0x00080104, b'LO', meaning),
                )
            )
        )
        for code, meaning in _METHOD_CODES
    )


def _meta(kind: bytes, instance: bytes, syntax: str) -> bytes:
    """Return an empty preamble and the file meta information."""
    group = b''.join(
        encode(tag, representation, value)
        for tag, representation, value in (
            (0x00020001, b'OB', b'\0\1'),
            (0x00020002, b'UI', kind.strip(TAIL)),
            (0x00020003, b'UI', instance),
            (0x00020010, b'UI', syntax.encode('ascii')),
            (0x00020012, b'UI', PYDICOM_IMPLEMENTATION_UID.encode('ascii')),
        )
    )
    length = encode(0x00020000, b'UL', pack('<L', len(group)))
    return bytes(128) + b'DICM' + length + group


def _write(target: Path, parts: Iterable[bytes]) -> None:
    """Write a file of the owner's only; it takes its name when it is complete."""
    temporary = target.with_name(f'.tmp-{os.getpid()}-{target.name}')
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, 'wb') as stream:
            stream.writelines(parts)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


# --------------------------------------------------------------------------- text in the pixels


def _burnt_in(file: File, head: dict[int, Element]) -> str:
    """Say why text may be part of the pixels; '' where nothing speaks for it."""

    def words(tag: int) -> str:
        return _value(file.data, head, tag).strip(TAIL).decode('latin-1').upper()

    kind, modality, image_type = words(_CLASS), words(_MODALITY), words(_IMAGE_TYPE)
    overlays = [tag for tag in head if tag >> 24 == 0x60 and tag & 0xFFFF == 0x0102]
    overlay = any(_value(file.data, head, tag).strip(b'\0') for tag in overlays)
    reasons = {
        'the header says that annotation is burnt in': words(_BURNT) == 'YES',
        'secondary capture': kind.startswith(_SECONDARY_CAPTURE) or bool(words(_CONVERSION)),
        'screen save': bool(_SCREEN.search(image_type)),
        'not an MR image': modality != 'MR' or bool(kind and kind not in _MR_CLASSES),
        'an overlay in unused bits of the pixels': overlay,
    }
    return '; '.join(reason for reason, holds in reasons.items() if holds)
