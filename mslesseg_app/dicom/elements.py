"""The elements of a little-endian DICOM data set as places in its bytes, nothing decoded.

De-identification keeps most values as they are and drops the others; decoding them all would
take it ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack, unpack_from
from typing import NamedTuple

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
#: Value representations by the size of their length field (2 or 4 bytes).
_SHORT = frozenset(b'AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US'.split())
_LONG = frozenset(b'OB OD OF OL OV OW SQ SV UC UN UR UT UV'.split())


class MalformedError(ValueError):
    """The bytes are not a data set in the encoding that was stated."""


class Element(NamedTuple):
    """Where an element lies.

    Attributes
    ----------
    tag : int
        ``0xggggeeee``.
    representation : bytes
        Such as ``b'DS'``; empty where it is implicit.
    begin, start, end, after : int
        First byte of the element, first byte of its value, first byte behind its value (before
        a delimiter), first byte of what follows.
    """

    tag: int
    representation: bytes
    begin: int
    start: int
    end: int
    after: int


def elements(data: bytes, start: int, end: int, explicit: bool) -> Iterator[Element]:
    """Yield the elements between two places.

    Raises
    ------
    MalformedError
        If they are none.
    """
    while end - start >= 8:
        element = element_at(data, start, end, explicit)
        if element.tag == _ITEM_END:
            return
        yield element
        start = element.after


def element_at(data: bytes, begin: int, limit: int, explicit: bool) -> Element:
    """Return the element that begins at a place."""
    if limit - begin < 8:
        raise MalformedError('cut off')
    group, number, representation, length = unpack_from('<HH2sH', data, begin)
    tag, start = group << 16 | number, begin + 8
    if not explicit or group == 0xFFFE:
        representation, length = b'', unpack_from('<L', data, begin + 4)[0]
    elif representation in _LONG:
        if limit - begin < 12:
            raise MalformedError('cut off')
        start, length = begin + 12, unpack_from('<L', data, begin + 8)[0]
    elif representation not in _SHORT:
        raise MalformedError('unknown value representation')
    if length == _UNDEFINED:
        end = _end_of_items(data, start, limit, explicit and representation != b'UN')
        return Element(tag, representation, begin, start, end, end + 8)
    if start + length > limit:
        raise MalformedError('a value is longer than the file')
    return Element(tag, representation, begin, start, start + length, start + length)


def _end_of_items(data: bytes, start: int, limit: int, explicit: bool) -> int:
    """Return where the delimiter stands that ends a sequence of undefined length."""
    for _, _, after in _items(data, start, limit, explicit):
        start = after
    if limit - start < 8 or unpack_from('<HH', data, start) != (0xFFFE, 0xE0DD):
        raise MalformedError('a sequence has no end')
    return start


def items(data: bytes, sequence: Element, explicit: bool) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the contents of each item of a sequence."""
    explicit = explicit and sequence.representation != b'UN'
    for first, last, _ in _items(data, sequence.start, sequence.end, explicit):
        yield first, last


def _items(data: bytes, start: int, limit: int, explicit: bool) -> Iterator[tuple[int, int, int]]:
    """Yield first and last place of each item's contents, and the place behind it."""
    while limit - start >= 8:
        group, number, length = unpack_from('<HHL', data, start)
        tag, first = group << 16 | number, start + 8
        if tag == _SEQUENCE_END:
            return
        if tag != _ITEM:
            raise MalformedError('an item is expected')
        last = first + length
        if length == _UNDEFINED:
            last = _end_of_item(data, first, limit, explicit)
        elif last > limit:
            raise MalformedError('an item is longer than its sequence')
        start = last + 8 if length == _UNDEFINED else last
        yield first, last, start


def _end_of_item(data: bytes, start: int, limit: int, explicit: bool) -> int:
    while True:
        element = element_at(data, start, limit, explicit)
        if element.tag == _ITEM_END:
            return start
        start = element.after


def encode(tag: int, representation: bytes, value: bytes) -> bytes:
    """Return the bytes of an element; with an empty representation it is implicit."""
    if len(value) % 2:
        value += b'\0' if representation in (b'UI', b'OB', b'UN') else b' '
    head = pack('<HH', tag >> 16, tag & 0xFFFF)
    if not representation:
        return head + pack('<L', len(value)) + value
    if representation in _LONG:
        return head + representation + b'\0\0' + pack('<L', len(value)) + value
    return head + representation + pack('<H', len(value)) + value


def encode_item(contents: bytes) -> bytes:
    """Return the bytes of an item of a sequence."""
    return encode(_ITEM, b'', contents)
