"""Tables for people and programs: one content, written as TSV, Markdown, LaTeX and HTML rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mslesseg_app.core.files import write_json, write_text
from mslesseg_app.reports.markup import readable


@dataclass(frozen=True)
class Spread:
    """A mean and its standard deviation."""

    mean: float
    sd: float = math.nan


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its interval."""

    value: float
    low: float = math.nan
    high: float = math.nan


Cell = str | int | float | Spread | Interval | None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    name : str
        In the TSV; a `Spread` adds ``<name>_sd``, an `Interval` ``<name>_low`` and ``_high``.
    title : str
        Heading for people.
    digits : int or None
        Digits after the point; None writes three to four digits that count.
    """

    name: str
    title: str
    description: str = ''
    units: str = ''
    digits: int | None = None


@dataclass(frozen=True)
class Table:
    """A table with its words.

    Attributes
    ----------
    key : str
        Stem of its files.
    notes : tuple of str
        What a reader must know; below the table in every format but TSV.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f'rows of {self.key} do not fit its {len(self.columns)} columns')

    def shown(self) -> list[list[str]]:
        """Return the cells as people read them."""
        return [
            [show(cell, column.digits) for cell, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]


def show(cell: Cell, digits: int | None = None) -> str:
    """Write a cell for people: ``n/a`` for what is missing."""
    if isinstance(cell, Spread):
        if not math.isfinite(cell.mean):
            return 'n/a'
        spread = f' ± {_number_text(cell.sd, digits)}' if math.isfinite(cell.sd) else ''
        return _number_text(cell.mean, digits) + spread
    if isinstance(cell, Interval):
        if not math.isfinite(cell.value):
            return 'n/a'
        ends = f' ({_number_text(cell.low, digits)} to {_number_text(cell.high, digits)})'
        return _number_text(cell.value, digits) + (ends if math.isfinite(cell.low) else '')
    if isinstance(cell, float | np.floating):
        return _number_text(float(cell), digits)
    return readable(cell)


def _number_text(value: float, digits: int | None) -> str:
    if not math.isfinite(value):
        return 'n/a'
    text = readable(value) if digits is None else f'{value:.{digits}f}'
    return text[1:] if text.startswith('-') and not text.strip('-0.') else text


def to_markdown(table: Table) -> str:
    """Write a Markdown table, with its title above and its notes below."""
    lines = [f'**{_plain_markdown(table.title)}**', '']
    lines.append('| ' + ' | '.join(_plain_markdown(c.title) for c in table.columns) + ' |')
    lines.append('|' + '---|' * len(table.columns))
    lines += ['| ' + ' | '.join(map(_plain_markdown, row)) + ' |' for row in table.shown()]
    lines += ['', *(f'{_plain_markdown(note)}  ' for note in table.notes)]
    return '\n'.join(lines).rstrip() + '\n'


def _plain_markdown(text: str) -> str:
    for mark in '\\|*_<`[':
        text = text.replace(mark, '\\' + mark)
    return ' '.join(text.split())


_LATEX = {
    '\\': r'\textbackslash{}',
    '&': r'\&',
    '%': r'\%',
    '$': r'\$',
    '#': r'\#',
    '_': r'\_',
    '{': r'\{',
    '}': r'\}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': '$<$',
    '>': '$>$',
    '±': r'$\pm$',
    '×': r'$\times$',
    '−': '$-$',
    '–': '--',
    '³': '$^3$',
    '²': '$^2$',
    '°': r'$^\circ$',
    '≥': r'$\ge$',
    '≤': r'$\le$',
    '…': r'\ldots{}',
}


def latex_text(text: str) -> str:
    """Escape text for LaTeX; a hyphen before a number becomes a minus sign."""
    words = []
    for word in text.split():
        signed = word.startswith('-') and len(word) > 1 and word[1] in '0123456789.'
        plain = ''.join(_LATEX.get(letter, letter) for letter in word[signed:])
        words.append('$-$' + plain if signed else plain)
    return ' '.join(words)


def to_latex(table: Table) -> str:
    """Write a LaTeX float that needs the package ``booktabs``; notes go below the rules."""
    heads = ' & '.join(latex_text(column.title) for column in table.columns)
    body = [' & '.join(map(latex_text, row)) + r' \\' for row in table.shown()]
    notes = [rf'\par\smallskip\footnotesize {latex_text(note)}' for note in table.notes]
    lines = [
        r'\begin{table}[htbp]',
        r'\centering',
        rf'\caption{{{latex_text(table.title)}}}',
        rf'\label{{tab:{table.key}}}',
        r'\begin{tabular}{l' + 'r' * (len(table.columns) - 1) + '}',
        r'\toprule',
        heads + r' \\',
        r'\midrule',
        *body,
        r'\bottomrule',
        r'\end{tabular}',
        *notes,
        r'\end{table}',
    ]
    return '\n'.join(lines) + '\n'


def tsv_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of the TSV; spreads and intervals take more columns."""
    kinds = [_cell_type(table, place) for place in range(len(table.columns))]
    header = []
    for column, kind in zip(table.columns, kinds, strict=True):
        header += [column.name + end for end in _ENDINGS[kind]]
    return header, [
        [text for cell, kind in zip(row, kinds, strict=True) for text in _split(cell, kind)]
        for row in table.rows
    ]


_ENDINGS: dict[type | None, tuple[str, ...]] = {
    None: ('',),
    Spread: ('', '_sd'),
    Interval: ('', '_low', '_high'),
}


def _cell_type(table: Table, place: int) -> type | None:
    for row in table.rows:
        if isinstance(row[place], Spread | Interval):
            return type(row[place])
    return None


def _split(cell: Cell, kind: type | None) -> list[str]:
    if isinstance(cell, Spread):
        return [exact(cell.mean), exact(cell.sd)]
    if isinstance(cell, Interval):
        return [exact(cell.value), exact(cell.low), exact(cell.high)]
    return [exact(cell)] + ['n/a'] * (len(_ENDINGS[kind]) - 1)


def exact(value: Any) -> str:
    """Write a cell for programs: six digits that count, ``n/a`` for what is missing."""
    if value is None:
        return 'n/a'
    if isinstance(value, float | np.floating):
        return f'{value:.6g}' if math.isfinite(value) else 'n/a'
    return ' '.join(str(value).split()) or 'n/a'


def write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a TSV atomically."""
    lines = ['\t'.join(header), *('\t'.join(row) for row in rows)]
    write_text(path, '\n'.join(lines) + '\n')


def write_records(
    path: Path, rows: Sequence[dict[str, Any]], columns: dict[str, dict[str, Any]]
) -> None:
    """Write rows as TSV, and the dictionary of its columns as JSON beside it."""
    write_tsv(path, list(columns), [[exact(row.get(name)) for name in columns] for row in rows])
    write_json(path.with_suffix('.json'), columns)


def dictionary(table: Table) -> dict[str, dict[str, str]]:
    """Return the descriptions of the columns of a table's TSV."""
    words = {
        '': '',
        '_sd': ' Standard deviation (n - 1).',
        '_low': ' Lower end of the interval.',
        '_high': ' Upper end of the interval.',
    }
    found: dict[str, dict[str, str]] = {}
    for place, column in enumerate(table.columns):
        for end in _ENDINGS[_cell_type(table, place)]:
            text = (column.description or f'{column.title}.') + words[end]
            found[column.name + end] = {'Description': text}
            if column.units:
                found[column.name + end]['Units'] = column.units
    return found


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write a table as TSV with its JSON dictionary, Markdown and LaTeX; return the paths."""
    paths = [folder / f'{table.key}.{suffix}' for suffix in ('tsv', 'json', 'md', 'tex')]
    write_tsv(paths[0], *tsv_rows(table))
    write_json(paths[1], dictionary(table))
    write_text(paths[2], to_markdown(table))
    write_text(paths[3], to_latex(table))
    return paths
