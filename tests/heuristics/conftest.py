"""The heuristic as a module, loaded from its file as HeuDiConv does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

HEURISTIC = Path(__file__).resolve().parents[2] / 'heuristics' / 'mslesseg.py'


@pytest.fixture(scope='module')
def heuristic() -> ModuleType:
    spec = importlib.util.spec_from_file_location('mslesseg_heuristic', HEURISTIC)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
