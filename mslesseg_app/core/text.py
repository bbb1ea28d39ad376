"""Words: aligned tables, what a mistyped one probably meant, and their natural order."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns under its header; numbers are aligned to the right.

    Examples
    --------
    >>> print(aligned(['exam', 'DSC'], [['sub-01', '0.71'], ['sub-2', '']]))
    exam     DSC
    sub-01  0.71
    sub-2
    """
    table = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    numeric = [
        all(_is_number(cell) for cell in column if cell) for column in zip(*rows, strict=True)
    ]
    numeric += [False] * (len(widths) - len(numeric))
    lines = []
    for row in table:
        cells = zip(row, widths, numeric, strict=True)
        made = (cell.rjust(n) if right else cell.ljust(n) for cell, n, right in cells)
        lines.append('  '.join(made).rstrip())
    return '\n'.join(lines)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question that names the known word nearest to a mistyped one, or nothing.

    Examples
    --------
    >>> did_you_mean('evalute', ['convert', 'evaluate'])
    'Did you mean "evaluate"?'
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f'Did you mean "{found[0]}"?' if found else ''


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a key by which ``2`` comes before ``10``."""
    parts = re.findall(r'\d+|\D+', text)
    return [(0, int(p), '') if p.isdigit() else (1, 0, p) for p in parts]
