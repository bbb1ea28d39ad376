"""The little Markdown that a methods text needs, and numbers as people read them."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

_EMPHASIS = (
    (re.compile(r'\*\*(?=\S)(.+?)(?<=\S)\*\*'), r'<strong>\1</strong>'),
    (re.compile(r'(?<!\*)\*(?=[^\s*])([^*]+?)(?<=\S)\*(?!\*)'), r'<em>\1</em>'),
)
_ADDRESS = re.compile(r'https?://[^\s<>]*[^\s<>.,;:)]|(?<![\w/])10\.\d{4,}/[^\s<>]*[^\s<>.,;:)]')
_CODE_OR_LINK = re.compile(r'`(?P<code>[^`]+)`|\[(?P<name>[^\]]+)\]\((?P<url>https?://[^\s()]+)\)')
_LINK = Markup('<a href="{}" rel="noopener noreferrer">{}</a>')


def markdown(text: str, top: int = 3) -> Markup:
    """Render paragraphs, headings, lists, emphasis, code and links; all else is escaped.

    The highest heading in the text gets the level ``top``. Raw HTML is shown, never passed on.
    """
    depths = [len(marks) for marks in re.findall(r'^(#+)\s', text, flags=re.MULTILINE)]
    shift = top - min(depths, default=1)
    blocks = re.split(r'\n\s*\n', text.replace('\r\n', '\n').strip())
    return Markup('\n').join(part for block in blocks for part in _block(block, shift))


def linked(text: str) -> Markup:
    """Escape text and turn web addresses and bare DOIs in it into links."""
    return Markup(_ADDRESS.sub(_anchor, str(escape(text))))


def _anchor(match: re.Match[str]) -> str:
    shown = match.group()
    target = shown if shown.startswith('http') else f'https://doi.org/{shown}'
    return f'<a href="{target}" rel="noopener noreferrer">{shown}</a>'  # escaped before


def _inline(text: str) -> Markup:
    """Mark up one line or paragraph; code and named links are taken out first."""
    pieces = []
    last = 0
    for match in _CODE_OR_LINK.finditer(text):
        pieces.append(_emphasis(text[last : match.start()]))
        if match['code']:
            pieces.append(Markup('<code>{}</code>').format(match['code']))
        else:
            pieces.append(_LINK.format(match['url'], match['name']))
        last = match.end()
    return Markup().join([*pieces, _emphasis(text[last:])])


def _emphasis(text: str) -> Markup:
    html = str(escape(text))
    for pattern, replacement in _EMPHASIS:
        html = pattern.sub(replacement, html)
    return Markup(_ADDRESS.sub(_anchor, html))


def _block(block: str, shift: int) -> list[Markup]:
    """One block of lines: headings by themselves, then a list or a paragraph."""
    made: list[Markup] = []
    lines = block.split('\n')
    while lines and (heading := re.match(r'(#+)\s+(.*)', lines[0])):
        level = min(shift + len(heading.group(1)), 6)
        made.append(Markup('<h{0}>{1}</h{0}>').format(level, _inline(heading.group(2))))
        lines = lines[1:]
    if not lines or not ''.join(lines).strip():
        return made
    if all(re.match(r'\s*[-*+]\s', line) for line in lines):
        items = [_inline(re.sub(r'^\s*[-*+]\s+', '', line)) for line in lines]
        rows = Markup().join(Markup('<li>{}</li>').format(item) for item in items)
        return [*made, Markup('<ul>{}</ul>').format(rows)]
    return [*made, Markup('<p>{}</p>').format(_inline('\n'.join(lines)))]


def is_number(value: Any) -> bool:
    """Whether a value of a record is a number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def readable(value: Any) -> str:
    """Write a table cell: ``n/a`` for None, floats with three to four digits that count."""
    if value is None or value == '':
        return 'n/a'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, tuple | list):
        return ', '.join(readable(item) for item in value) or 'none'
    if not isinstance(value, float):
        return str(value)
    size = abs(value)
    if size != 0 and (size >= 1e7 or size < 1e-3):
        return f'{value:.2e}'
    return f'{value:.{1 if size >= 10 else 2 if size >= 1 else 3}f}'
