"""A small study with two models and references, evaluated once for all tests."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grouptree import Tree, make_tree, write_participants

from mslesseg_app.core.settings import Settings
from mslesseg_app.group import run_group


def settings_of(tree: Tree, **changes: Any) -> Settings:
    """Settings of a group run of a study, with its references."""
    values: dict[str, Any] = {'derivatives': {'manual': tree.manual}} | changes
    return Settings(tree.bids, tree.out, tree.out.parent / 'work', **values)


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a TSV."""
    with path.open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file, delimiter='\t'))


@pytest.fixture(scope='session')
def study(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Seven patients, two models, participants; the group level has run."""
    tree = make_tree(tmp_path_factory.mktemp('study'), 7)
    write_participants(tree.bids, 7)
    assert run_group(settings_of(tree), quiet=True) == 0
    return tree


@pytest.fixture
def run_settings() -> Callable[..., Settings]:
    """The function that makes settings of a study."""
    return settings_of


@pytest.fixture
def read() -> Callable[[Path], list[dict[str, str]]]:
    """The function that reads a TSV."""
    return rows
