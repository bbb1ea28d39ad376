"""No library that the package requires may be under the GPL or AGPL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COPYLEFT = re.compile(
    r'(?<!l)(?<!lesser )\b(agpl|gpl|gnu (affero )?general public)', re.IGNORECASE
)


def closure(root: str) -> Iterator[metadata.Distribution]:
    """A distribution and everything that it requires, extras left out."""
    waiting, seen = [root], set[str]()
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in seen:
            continue
        seen.add(name)
        found = metadata.distribution(name)
        yield found
        needs = (Requirement(text) for text in found.requires or ())
        waiting += [r.name for r in needs if not r.marker or r.marker.evaluate({'extra': ''})]


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
    """SPDX expression, classifiers and free text of a distribution."""
    fields = found.metadata
    lines = fields.get_all('Classifier') or []
    own = [line for line in lines if line.startswith('License ::') and line.count('::') > 1]
    return fields.get('License-Expression') or '', own, fields.get('License') or ''


@pytest.mark.parametrize(
    ('expression', 'classifiers', 'text', 'refused'),
    [
        ('GPL-3.0-only', [], '', True),
        ('AGPL-3.0-or-later', [], '', True),
        ('MIT AND GPL-2.0-only', [], '', True),
        ('GPL-2.0-only OR MIT', [], '', False),
        ('LGPL-3.0-only', [], '', False),
        ('GPL-3.0-or-later WITH GCC-exception-3.1', [], '', False),
        ('BSD-3-Clause', [], '', False),
        ('', ['License :: OSI Approved :: GNU General Public License v3 (GPLv3)'], '', True),
        ('', ['License :: OSI Approved :: GNU Affero General Public License v3'], '', True),
        ('', ['License :: OSI Approved :: GNU Lesser General Public License (LGPL)'], '', False),
        ('', [], 'GPL V3.0', True),
        ('', [], 'MIT', False),
    ],
)
def test_what_counts_as_copyleft(
    expression: str, classifiers: list[str], text: str, refused: bool
) -> None:
    assert is_copyleft(expression, classifiers, text) is refused


@pytest.fixture(scope='module')
def required() -> list[metadata.Distribution]:
    """The installed project and all that it requires."""
    try:
        metadata.distribution('mslesseg')
    except metadata.PackageNotFoundError:
        pytest.skip('mslesseg is not installed; `make venv` does it')
    return list(closure('mslesseg'))


def test_required_libraries_are_not_under_the_gpl(
    required: list[metadata.Distribution],
) -> None:
    refused = {found.name: licence(found) for found in required if is_copyleft(*licence(found))}
    assert len(required) > 20
    assert not refused


def test_required_libraries_state_a_licence(required: list[metadata.Distribution]) -> None:
    assert not [found.name for found in required if not any(licence(found))]
