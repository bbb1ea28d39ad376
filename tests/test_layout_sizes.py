"""Functions and modules stay short. The exceptions below may only become fewer."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LINES_OF_A_FUNCTION = 60
LINES_OF_A_MODULE = 450

LONG_FUNCTIONS = {
    'participant/api.py:segment',
}
LONG_MODULES = {
    'spatial/tissues.py',
    'training/loop.py',
}


@pytest.fixture(scope='module')
def sources(project_root: Path) -> dict[str, str]:
    package = project_root / 'mslesseg_app'
    return {
        path.relative_to(package).as_posix(): path.read_text(encoding='utf-8')
        for path in package.rglob('*.py')
    }


def long_functions(name: str, text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LINES_OF_A_FUNCTION:
                yield f'{name}:{node.name}'


def test_functions_are_short(sources: dict[str, str]) -> None:
    found = {long for name, text in sources.items() for long in long_functions(name, text)}
    assert found == LONG_FUNCTIONS, 'shorten the new ones, take the mended ones out of the list'


def test_modules_are_short(sources: dict[str, str]) -> None:
    found = {name for name, text in sources.items() if len(text.splitlines()) > LINES_OF_A_MODULE}
    assert found == LONG_MODULES, 'split the new ones, take the mended ones out of the list'
