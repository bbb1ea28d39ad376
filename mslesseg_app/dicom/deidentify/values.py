"""What becomes of the value of an element that stays."""

from __future__ import annotations

import datetime as dt
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from mslesseg_app.dicom.deidentify import profile
from mslesseg_app.dicom.deidentify.identifying_text import Speech, read_date
from mslesseg_app.dicom.deidentify.profile import Action, Rule
from mslesseg_app.dicom.identity import SubjectIdentity

TAIL = b'\0 '

_DECIMAL = re.compile(rb'[0-9eE+\-. \\\0]{0,1024}')
_CODE = re.compile(rb'[A-Z0-9_ ./+\-*\\\0]{0,256}')
_TIME = re.compile(rb'[0-9.: \0]{0,16}')
_AFTER_DATE = re.compile(rb'[0-9.+\-]{0,18}')
_UIDS = re.compile(rb'[0-9.\\\0]{0,256}')
_AGE = re.compile(rb'(\d{3})[DWMY][ \0]?')
_OLDEST = 89
_LONGEST_BINARY = 64


@dataclass(frozen=True)
class File:
    """A data set in little-endian bytes and what is needed to treat it."""

    data: bytes
    explicit: bool
    speech: Speech
    subject: SubjectIdentity
    pixel_bytes: int


def shifted_date(date: dt.date, subject: SubjectIdentity) -> dt.date:
    """Return a date as it is told of the subject; intervals between dates stay."""
    try:
        return date + dt.timedelta(days=subject.days)
    except OverflowError:
        return dt.date.min


def _number(_: File, value: bytes, rule: Rule) -> bytes | None:
    if rule.representations <= profile.DECIMAL:
        return value if _DECIMAL.fullmatch(value) else None
    fits = len(value) in (0, rule.length) if rule.length else len(value) <= _LONGEST_BINARY
    return value if fits else None


def _code(file: File, value: bytes, rule: Rule) -> bytes | None:
    return _text(file, value, rule) if _CODE.fullmatch(value) else None


def _text(file: File, value: bytes, _: Rule) -> bytes:
    clean = file.speech.clean(value)
    return value if clean == value else clean


def _date(file: File, value: bytes, _: Rule) -> bytes | None:
    date = read_date(value.strip(TAIL).decode('latin-1'))
    return None if date is None else _digits(shifted_date(date, file.subject))


def _datetime(file: File, value: bytes, rule: Rule) -> bytes | None:
    time = value.strip(TAIL)[8:]
    date = _date(file, value, rule)
    return date + time if date is not None and _AFTER_DATE.fullmatch(time) else date


def _digits(date: dt.date) -> bytes:
    return f'{date.year:04}{date.month:02}{date.day:02}'.encode()


def _time(_: File, value: bytes, __: Rule) -> bytes | None:
    return value if _TIME.fullmatch(value) else None


def _age(_: File, value: bytes, __: Rule) -> bytes | None:
    match = _AGE.fullmatch(value)
    if match is None:
        return None
    old = value[3:4] == b'Y' and int(match[1]) > _OLDEST
    return b'%03dY' % (_OLDEST + 1) if old else value


def _uid(file: File, value: bytes, _: Rule) -> bytes:
    return new_uids(value.strip(TAIL), file.subject)


def _class(_: File, value: bytes, __: Rule) -> bytes | None:
    return value if _UIDS.fullmatch(value) else None


#: By what the profile wants, how a value becomes; None removes its element.
TREATMENTS: dict[Action, Callable[[File, bytes, Rule], bytes | None]] = {
    Action.NUMBER: _number,
    Action.CODE: _code,
    Action.TEXT: _text,
    Action.DATE: _date,
    Action.DATETIME: _datetime,
    Action.TIME: _time,
    Action.AGE: _age,
    Action.UID: _uid,
    Action.CLASS: _class,
}


def new_uids(value: bytes, subject: SubjectIdentity) -> bytes:
    """Return what UIDs are replaced by."""
    return b'\\'.join(_new_uid(uid, subject) for uid in value.split(b'\\')) if value else b''


@lru_cache(maxsize=4096)
def _new_uid(uid: bytes, subject: SubjectIdentity) -> bytes:
    """Return what a UID is replaced by: always the same for a person, not to be led back."""
    if profile.is_registered(uid.decode('latin-1')):
        return uid
    digest = hmac.digest(subject.secret, uid, 'sha256')
    return b'2.25.%d' % int.from_bytes(digest[:16], 'big')
