"""Licences of everything that the package requires: what they are, and which are refused.

A library that is required may not be under the GPL or AGPL, since users of the App would
then hand on a combined work under it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / 'docs' / 'licences.md'
COPYLEFT = re.compile(
    r'(?<!l)(?<!lesser )\b(agpl|gpl|gnu (affero )?general public)', re.IGNORECASE
)
BEGIN, END = '<!-- written by `make derived` -->', '<!-- end -->'


def closure(root: str, extras: tuple[str, ...] = ('',)) -> Iterator[metadata.Distribution]:
    """Yield a distribution and everything that it requires and that is installed.

    Parameters
    ----------
    root : str
        Name of the distribution.
    extras : tuple of str
        Extras of the root whose requirements count too.

    Raises
    ------
    importlib.metadata.PackageNotFoundError
        If something that is required is not installed.
    """
    waiting, seen = [root], set[str]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        yield found
        asked = extras if name == canonicalize_name(root) else ('',)
        waiting += required_by(found, asked)


def required_by(found: metadata.Distribution, extras: tuple[str, ...] = ('',)) -> list[str]:
    """Return the names that a distribution requires on this machine."""
    needs = (Requirement(text) for text in found.requires or ())
    return [
        need.name
        for need in needs
        if not need.marker or any(need.marker.evaluate({'extra': extra}) for extra in extras)
    ]


def is_copyleft(expression: str, classifiers: list[str], text: str) -> bool:
    """Whether a licence, as its metadata state it, is GPL or AGPL without a way round.

    LGPL is allowed, so are exceptions for run-time libraries (``WITH``) and a choice
    (``OR``) that has another side.
    """
    if expression:
        return all(
            any(COPYLEFT.match(part) and 'WITH' not in part for part in side.split(' AND '))
            for side in expression.replace('(', '').replace(')', '').split(' OR ')
        )
    if classifiers:
        return any(COPYLEFT.search(line.rpartition('::')[2]) for line in classifiers)
    return bool(COPYLEFT.search(text[:200]))


def licence(found: metadata.Distribution) -> tuple[str, list[str], str]:
    """Return SPDX expression, classifiers and free text of a distribution."""
    lines = found.metadata.get_all('Classifier') or []
    own = [line for line in lines if line.startswith('License ::') and line.count('::') > 1]
    return field(found, 'License-Expression'), own, field(found, 'License')


def field(found: metadata.Distribution, name: str) -> str:
    """Return a field of the metadata of a distribution, empty if it has none."""
    values: list[str] = found.metadata.get_all(name) or ['']
    return values[0] or ''


def licence_name(found: metadata.Distribution) -> str:
    """Return the licence in one line."""
    expression, classifiers, text = licence(found)
    if expression:
        return expression
    if classifiers:
        return ', '.join(line.rpartition(':: ')[2] for line in classifiers)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 3:  # a whole text in place of a name
        return 'several, see its own text'
    return lines[0] if lines else 'not stated'


def table() -> list[tuple[str, str, str, str]]:
    """Return name, version, licence and use of every library.

    Use is ``required``, or the extra of ours (``test``, ``dev`` …) that asks for it.
    """
    rows = {f.name: (f.name, f.version, licence_name(f), 'required') for f in closure('mslesseg')}
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    for extra in project['optional-dependencies']:
        try:
            found = list(closure('mslesseg', ('', extra)))
        except metadata.PackageNotFoundError:
            continue
        for one in found:
            rows.setdefault(one.name, (one.name, one.version, licence_name(one), extra))
    return sorted(rows.values(), key=lambda row: (row[3] != 'required', row[0].lower()))


def write_table(path: Path) -> None:
    """Write the table as TSV."""
    lines = ['\t'.join(row) for row in [('name', 'version', 'licence', 'use'), *table()]]
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def page(text: str) -> str:
    """Return the page of the licences with a new table of what is required."""
    head, _, rest = text.partition(BEGIN)
    rows = [f'| {name} | {kind} |' for name, _, kind, use in table() if use == 'required']
    lines = [BEGIN, '', '| library | licence |', '|---|---|', *rows, '', END]
    return head + '\n'.join(lines) + rest.partition(END)[2]
