"""No library that the package requires may be under the GPL or AGPL."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from release.licences import closure, is_copyleft, licence, licence_name, table


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


#: Parts of the CUDA builds of torch, which the CPU build does not have.
CUDA = ('nvidia-', 'cuda-', 'triton')


def test_the_page_lists_what_is_required(
    required: list[metadata.Distribution], project_root: Path
) -> None:
    """Out of date? `make derived` writes it anew."""
    text = (project_root / 'docs' / 'licences.md').read_text(encoding='utf-8')
    expected = [f'| {found.name} |' for found in required if not found.name.startswith(CUDA)]
    assert [line for line in expected if line not in text] == []
    assert 'commercial' in text


def test_the_list_holds_tools_too(required: list[metadata.Distribution]) -> None:
    rows = {name: (licence, use) for name, _, licence, use in table()}
    assert {rows[found.name][1] for found in required} == {'required'}
    assert rows['pytest'][1] == 'test'
    assert all(len(name.splitlines()) == 1 for name, _ in rows.values())


def test_licence_in_one_line() -> None:
    class Fake:
        def __init__(self, **fields: str) -> None:
            self.metadata = Message(fields)

    class Message(dict):
        def get_all(self, name):
            return [self[name]] if name in self else None

    assert licence_name(Fake(**{'License-Expression': 'MIT'})) == 'MIT'
    assert licence_name(Fake(Classifier='License :: OSI Approved :: MIT License')) == 'MIT License'
    assert licence_name(Fake(License='one\ntwo\nthree\nfour')) == 'several, see its own text'
    assert licence_name(Fake()) == 'not stated'
