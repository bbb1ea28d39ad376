"""Continuous integration: what the schema does not see, and no trace of one machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope='module')
def circleci(project_root: Path) -> dict[str, Any]:
    text = (project_root / '.circleci' / 'config.yml').read_text(encoding='utf-8')
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_workflows_name_jobs_that_exist(circleci: dict[str, Any]) -> None:
    jobs = set(circleci['jobs'])
    used = set[str]()
    for workflow in circleci['workflows'].values():
        for item in workflow['jobs']:
            name, options = (item, {}) if isinstance(item, str) else next(iter(item.items()))
            used |= {name, *options.get('requires', [])}
    assert used == jobs
    for job in circleci['jobs'].values():
        assert job['executor'] in circleci['executors']


def test_jobs_run_the_steps_of_the_script(circleci: dict[str, Any], project_root: Path) -> None:
    script = (project_root / '.ci' / 'run').read_text(encoding='utf-8')
    steps = set(re.findall(r'^step_(\w+)\(\)', script, re.M))
    commands = re.findall(r"'command': 'bash \.ci/run ([a-z ]+)'", str(circleci))
    assert {step for command in commands for step in command.split()} == steps


def test_unknown_step_is_a_usage_error(project_root: Path) -> None:
    done = subprocess.run(
        ['bash', project_root / '.ci' / 'run', 'nonsense'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 64
    assert 'no step nonsense' in done.stderr


def test_no_file_names_a_folder_outside_the_project(project_root: Path) -> None:
    """Only .ci/run may look for data beside the checkout."""
    beside = re.compile('|'.join([r'\.\./' + 'shared', '/work/' + '(main|shared)']))
    listed = subprocess.run(
        ['git', 'ls-files', '--cached', '--others', '--exclude-standard'],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip('not a git checkout')
    guilty = [
        name
        for name in listed.stdout.splitlines()
        if name != '.ci/run' and beside.search(text_of(project_root / name))
    ]
    assert not guilty


def text_of(path: Path) -> str:
    """Text of a source file; images and other large files count as empty."""
    if not path.is_file() or path.stat().st_size > 1_000_000:
        return ''
    return path.read_text(encoding='utf-8', errors='ignore')
