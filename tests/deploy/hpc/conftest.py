"""A private SLURM, exams that need seconds, and programs that stand in for the App."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from registered_exams import write_exams
from slurm import Cluster


@pytest.fixture(scope='session')
def cluster(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Iterator[Cluster]:
    """Two cores, one GPU in name only."""
    with Cluster(tmp_path_factory.mktemp('slurm'), cpus=2) as running:
        paths = [str(project_root), os.environ.get('PYTHONPATH', '')]
        running.environment['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
        running.environment['OMP_NUM_THREADS'] = '1'
        yield running


@pytest.fixture(scope='session')
def exams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three participants with masks, and one without FLAIR, in a folder that needs quotes."""
    root = tmp_path_factory.mktemp('data') / "the site's $HOME"
    write_exams(root, ['sub-01', 'sub-02', 'sub-03'], masks=True)
    (root / 'sub-04' / 'anat').mkdir(parents=True)
    flair = root / 'sub-01' / 'anat' / 'sub-01_FLAIR.nii.gz'
    (root / 'sub-04' / 'anat' / 'sub-04_T1w.nii.gz').write_bytes(flair.read_bytes())
    return root


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A program that records how it was called, and leaves with the code in ``code.txt``.

    The folder ``seen`` gets one file a call: its arguments, one a line.
    """
    (tmp_path / 'seen').mkdir()
    path = tmp_path / 'stand_in.py'
    path.write_text(
        'import os, pathlib, sys, time, uuid\n'
        'here = pathlib.Path(__file__).parent\n'
        'call = here / "seen" / f"{time.time_ns()}-{uuid.uuid4().hex[:6]}"\n'
        'call.write_text("\\n".join(sys.argv[1:]))\n'
        'code, nap = here / "code.txt", here / "nap.txt"\n'
        'time.sleep(float(nap.read_text()) if nap.is_file() else 0)\n'
        'sys.exit(int(code.read_text()) if code.is_file() else 0)\n'
    )
    return path
