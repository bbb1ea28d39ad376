"""What the tests of a release share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def dist(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release, built as `make release` does it."""
    folder = tmp_path_factory.mktemp('dist')
    command = [sys.executable, '-m', 'release.make', 'dist', str(folder)]
    done = subprocess.run(
        command, cwd=project_root, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder
