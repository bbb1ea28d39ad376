"""Continuous integration: what the schema does not see, and no trace of one machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope='module')
def circleci(project_root: Path) -> dict[str, Any]:
    text = (project_root / '.circleci' / 'config.yml').read_text(encoding='utf-8')
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def runs(circleci: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any], dict[str, str]]]:
    """Name of each job that is run, with its definition, its options and its parameters."""
    found = {}
    for workflow in circleci['workflows'].values():
        for item in workflow['jobs']:
            job, options = (item, {}) if isinstance(item, str) else next(iter(item.items()))
            for values in combinations(options.get('matrix', {})):
                name = options.get('name', job)
                for key, value in values.items():
                    name = name.replace(f'<< matrix.{key} >>', value)
                assert name not in found
                found[name] = (job, options, values)
    return found


def combinations(matrix: dict[str, Any]) -> list[dict[str, str]]:
    """All combinations of a matrix but those that it excludes."""
    parameters = matrix.get('parameters', {})
    every = [
        dict(zip(parameters, values, strict=True)) for values in product(*parameters.values())
    ]
    return [values for values in every if values not in matrix.get('exclude', [])]


def test_workflows_name_jobs_that_exist(circleci: dict[str, Any]) -> None:
    started = runs(circleci)
    assert {job for job, *_ in started.values()} == set(circleci['jobs'])
    for _, options, _ in started.values():
        assert set(options.get('requires', [])) <= started.keys()
    for job in circleci['jobs'].values():
        executor = job['executor']
        name = executor if isinstance(executor, str) else executor['name']
        assert name in circleci['executors']


def test_each_python_is_tested_with_its_own_versions(
    circleci: dict[str, Any], project_root: Path
) -> None:
    pairs = {(v['python'], v['tag']) for job, _, v in runs(circleci).values() if job == 'test'}
    files = {path.stem for path in (project_root / 'constraints').glob('py*.txt')}
    assert {tag for _, tag in pairs} == files
    assert all(f'py{python.replace(".", "")}' == tag for python, tag in pairs)
    text = (project_root / 'pyproject.toml').read_text(encoding='utf-8')
    stated = set(re.findall(r'Python :: (3\.\d+)', text))
    assert {python for python, _ in pairs} == stated


def test_jobs_run_the_steps_of_the_script(circleci: dict[str, Any], project_root: Path) -> None:
    script = (project_root / '.ci' / 'run').read_text(encoding='utf-8')
    steps = set(re.findall(r'^step_(\w+)\(\)', script, re.M))
    commands = re.findall(r"'command': 'bash \.ci/run ([a-z ]+)'", str(circleci))
    named = {step for command in commands for step in command.split()}
    assert steps <= named <= steps | {'container', 'cluster'}
    listed = re.search(r'^ALL=\(([a-z ]+)\)$', script, re.M)
    assert listed is not None
    assert set(listed.group(1).split()) == steps


def test_unknown_step_is_a_usage_error(project_root: Path) -> None:
    done = subprocess.run(
        ['bash', project_root / '.ci' / 'run', 'nonsense'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 64
    assert 'no step nonsense' in done.stderr


def test_the_script_says_what_it_did_not_run_and_with_which_versions(
    project_root: Path, tmp_path: Path
) -> None:
    """In a folder without Makefile, where the step fails at once."""
    (tmp_path / '.ci').mkdir()
    script = shutil.copy(project_root / '.ci' / 'run', tmp_path / '.ci' / 'run')
    done = subprocess.run(
        ['bash', script, 'venv'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    parts = done.stdout.split('== ')
    assert [part.split('\n')[0] for part in parts[-4:]] == [
        'Versions', 'Time of each step', 'Not run', f'FAILED with status {done.returncode}',
    ]  # fmt: skip
    assert 'cores' in parts[-4]
    assert 'venv' in parts[-3]
    assert 'everything after the step "venv"' in parts[-2]


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
