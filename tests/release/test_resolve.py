"""Exact versions: what is missing or not needed is named, and written files keep their style."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from release import resolve

ANSWER = 'numpy==2.1\nnvidia-cuda-x==13.0\npre-commit==4.0 ; python_version > "3"\ntriton==3.0\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one file, and an index that gives the same answer to every question."""
    monkeypatch.setattr(resolve, 'FOLDER', tmp_path)
    monkeypatch.setattr(resolve, 'ROOT', tmp_path)

    def answer(command, **_):
        code = 1 if 'lowest-direct' in command and (tmp_path / 'unfit').exists() else 0
        return subprocess.CompletedProcess(command, code, ANSWER, 'nothing fits')

    monkeypatch.setattr(resolve.subprocess, 'run', answer)
    return tmp_path


def test_a_whole_file_has_no_faults(folder, capsys):
    (folder / 'py312.txt').write_text('# x\nnumpy==2.1\npip==26.1\npre_commit==4.0\n')
    assert resolve.main([]) == 0
    assert 'Python 3.12, lowest-direct: 2 packages' in capsys.readouterr().out


def test_faults_are_named(folder, capsys):
    (folder / 'py311.txt').write_text('numpy==2.1\nscipy==1.0\n')
    assert resolve.main([]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        'py311.txt does not pin pre-commit',
        'py311.txt pins scipy, which nothing needs',
    ]


def test_ranges_that_do_not_fit_are_an_error(folder, capsys):
    (folder / 'py312.txt').write_text('numpy==2.1\npre_commit==4.0\n')
    (folder / 'unfit').touch()
    assert resolve.main([]) == 1
    assert 'Python 3.12 --resolution lowest-direct' in capsys.readouterr().err


def test_written_files_keep_spelling_and_pip(folder):
    path = folder / 'py313.txt'
    path.write_text('scipy==1.0\npre_commit==4.0\npip==26.1\n')
    assert resolve.main(['--write']) == 0
    lines = path.read_text().splitlines()
    assert lines[0].startswith('# Exact versions for Python 3.13')
    assert lines[2:] == ['numpy==2.1', 'pip==26.1', 'pre_commit==4.0']


def test_there_is_a_file_for_each_python():
    assert resolve.versions() == ['3.11', '3.12', '3.13']
