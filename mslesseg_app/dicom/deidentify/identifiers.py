"""Finding a person's identifiers in text, whatever their case, order, accents and punctuation."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: Words of MR protocols and of descriptions in BIDS: alone, none of them tells who somebody is,
#: though all are names of somebody. As part of a full name they are found.
_COMMON = """
    acq adc age all anat anatomy and angio angle anonymised anonymized anonymous april array
    august ax axial blood body brain bravo brown coil contrast cor coronal cube dark data day
    days december development dicom diffusion dose dual echo english epi equal fast february
    field file fit flair flip fluid for frame france french german gold grant gray green grey
    group hand head high hope hospital image images institute inversion january july june king
    lang large lee left light long low magnetic march mark may mean mode mprage mri name none
    north not nova november october open order pace page park part patient person phase philips
    pilot plan post pre prescan probe pulse radiology rage rate read repetition research
    resonance right run sag sagittal scan scanner scout section september series ses session
    set shim short siemens signal site slice small smart south space spin standard star state
    stone strong study sub subject survey system tal task tesla test the time tir tirm tof tra
    trace transversal tse turbo type university unknown view vision vista volume walk water
    weight west white who will wise young
"""
COMMON_WORDS = frozenset(_COMMON.split())

_FEWEST_LETTERS, _FEWEST_DIGITS, _FEWEST_FOREIGN = 3, 4, 2
#: Shorter words are not looked for with one letter where they have the two of an umlaut or ß.
_FEWEST_UNDOUBLED = 4
#: So long an identifier is also found inside a longer word.
_ANYWHERE = 6
_TOKEN = re.compile(r'[0-9]+(?:\.[0-9]+)+|[^\W_]+')
_RUNS = re.compile(r'[0-9]+|[^\W\d_]+')
#: Words that are distinguished by their capitals only.
_CAMEL = re.compile(r'[A-ZÀ-ÖØ-Þ]?[a-zß-öø-ÿ]+')
_DIGRAPHS = {'ä': 'ae', 'ö': 'oe', 'ü': 'ue', 'å': 'aa', 'ø': 'oe', 'æ': 'ae', 'ß': 'ss'}
_UNDECOMPOSED = {'ø': 'o', 'æ': 'a', 'ß': 's', 'ł': 'l', 'đ': 'd', 'ı': 'i', 'þ': 't', 'ð': 'd'}


class FoundIdentifier(NamedTuple):
    """A place of a text (characters) and the identifier met there."""

    start: int
    end: int
    value: str


def fold(text: str) -> str:
    """Bring text to lower case without accents, each character remaining one character."""
    if text.isascii():
        return text.lower()
    return ''.join(_fold_character(character) for character in text)


def _fold_character(character: str) -> str:
    base = unicodedata.normalize('NFD', character)[0].lower()[0]
    return _UNDECOMPOSED.get(base, base)


def date_forms(date: dt.date) -> set[str]:
    """Return the ways in which a date is usually written with digits."""
    year, month, day = f'{date.year:04}', f'{date.month:02}', f'{date.day:02}'
    return {
        year + month + day,
        f'{year}-{month}-{day}',
        f'{day}.{month}.{year}',
        f'{month}.{day}.{year}',
        day + month + year,
    }


def name_forms(name: str) -> set[str]:
    """Return a DICOM person name, its parts, and the orders in which first and last name go.

    Parameters
    ----------
    name : str
        ``Last^First^Middle^Prefix^Suffix``, perhaps several writings separated by ``=``.
    """
    forms: set[str] = set()
    for writing in name.split('='):
        parts = [part.strip() for part in writing.split('^')[:3] if part.strip()]
        words = [word for part in parts for word in re.split(r'[\W_]+', part) if word]
        forms.update(parts, words)
        if len(parts) > 1:
            forms |= {' '.join(parts[:2]), ' '.join(parts[1::-1]), ' '.join(parts)}
        elif words:
            forms |= {' '.join(words), ' '.join(reversed(words))}
    return forms


class Identifiers:
    """Identifiers to look for.

    Looked for are whole words (of letters, of digits, or of both), also several in a row
    whatever stands between them, and anywhere in a longer word what is long enough. Too short
    to be looked for are words of fewer than 3 letters and numbers of fewer than 4 digits; a
    single word of :data:`COMMON_WORDS` is passed over too. A number is not looked for in the
    digits of a decimal number.

    Parameters
    ----------
    values : iterable of str
        Names, numbers, dates, addresses, DICOM UIDs. The time of a search does not grow with
        their number.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._words: dict[str, str] = {}
        self._phrases: dict[str, dict[tuple[str, ...], str]] = {}
        self._dotted: dict[str, str] = {}
        for value in values:
            self._add(value)
        self._lengths = sorted({len(word) for word in self._words if len(word) >= _ANYWHERE})

    def __bool__(self) -> bool:
        return bool(self._words or self._phrases or self._dotted)

    def _add(self, value: str) -> None:
        if value.count('.') > 2 and _TOKEN.fullmatch(value):
            self._dotted[value] = value
            return
        for writing in _writings(value):
            words = tuple(word for token in _TOKEN.findall(writing) for word in token.split('.'))
            if not words:
                continue
            if len(words) > 1:
                self._phrases.setdefault(words[0], {})[words] = value
            whole = ''.join(words)
            if _telling(whole) and (len(words) == 1 or len(whole) >= _ANYWHERE):
                self._words[whole] = value

    def find(self, text: str) -> list[FoundIdentifier]:
        """Return where identifiers are met in a text; places may overlap."""
        text = unicodedata.normalize('NFC', text)
        folded = fold(text)
        found: list[FoundIdentifier] = []
        words: list[tuple[str, int, int]] = []
        for match in _TOKEN.finditer(folded):
            token, start = match.group(), match.start()
            if token in self._dotted:
                found.append(FoundIdentifier(start, match.end(), self._dotted[token]))
            if '.' in token:
                words += _numbers(token, start)
            else:
                words.append((token, start, match.end()))
                found += self._in_token(token, start, text[start : match.end()])
        return found + list(self._in_a_row(words))

    def is_one(self, text: str) -> bool:
        """Say whether a whole text is an identifier."""
        return text in self._dotted or fold(text) in self._words

    def clean(self, text: str) -> str:
        """Return the text without the identifiers; unchanged if there is none."""
        found = self.find(text)
        if not found:
            return text
        text = unicodedata.normalize('NFC', text)
        hidden = {place for one in found for place in range(one.start, one.end)}
        return ''.join(letter for place, letter in enumerate(text) if place not in hidden)

    def _in_token(self, token: str, start: int, written: str) -> Iterator[FoundIdentifier]:
        runs = {(match.start(), match.end()) for match in _RUNS.finditer(token)}
        runs |= {(match.start(), match.end()) for match in _CAMEL.finditer(written)}
        runs.add((0, len(token)))
        for length in self._lengths:
            runs |= {(at, at + length) for at in range(len(token) - length + 1)}
        for first, last in sorted(runs):
            value = self._words.get(token[first:last])
            if value is not None and _own_digits(token, first, last):
                yield FoundIdentifier(start + first, start + last, value)

    def _in_a_row(self, words: list[tuple[str, int, int]]) -> Iterator[FoundIdentifier]:
        for number, (word, start, _) in enumerate(words):
            for phrase, value in self._phrases.get(word, {}).items():
                last = number + len(phrase)
                if tuple(word for word, _, _ in words[number:last]) == phrase:
                    yield FoundIdentifier(start, words[last - 1][2], value)


def _writings(value: str) -> set[str]:
    """Return the value folded, with umlauts and the like as one letter and as two."""
    value = unicodedata.normalize('NFC', value)
    short = fold(value)
    long = fold(''.join(_DIGRAPHS.get(letter, letter) for letter in value.lower()))
    single = re.sub(r'(?<=[ao])e|(?<=[^aeoq]u)e|(?<=s)s|(?<=a)a', '', short)
    capitals = fold(value.lower().replace('ß', 'ss'))  # as in GRÖSSE
    found = {short, long, capitals}
    return found | {single} if len(single) >= _FEWEST_UNDOUBLED else found


def _telling(word: str) -> bool:
    """Say whether a word is long and rare enough to be looked for."""
    if word.isdigit():
        return len(word) >= _FEWEST_DIGITS
    if not word.isascii():
        return len(word) >= _FEWEST_FOREIGN
    return len(word) >= _FEWEST_LETTERS and word not in COMMON_WORDS


def _own_digits(token: str, first: int, last: int) -> bool:
    """Say whether a place does not cut a number in two."""
    before = first > 0 and token[first - 1].isdigit() and token[first].isdigit()
    after = last < len(token) and token[last - 1].isdigit() and token[last].isdigit()
    return not before and not after


def _numbers(token: str, start: int) -> Iterator[tuple[str, int, int]]:
    for match in _RUNS.finditer(token):
        yield match.group(), start + match.start(), start + match.end()
