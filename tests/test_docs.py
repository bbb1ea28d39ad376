"""What the pages say is what the program does."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from mslesseg_app.bids.names import io_spec
from mslesseg_app.cli import bids_app, convert, hpc, report, run, train
from mslesseg_app.core import errors
from mslesseg_app.dicom.convert.bids_files import SERIES_COLUMNS
from mslesseg_app.lesions.table import LESION_COLUMNS
from mslesseg_app.metrics.exam import METRIC_COLUMNS
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.registry import list_entries

PAGES = ('README.md', 'docs/*.md')


@pytest.fixture(scope='module')
def pages(project_root: Path) -> dict[Path, str]:
    found = [path for pattern in PAGES for path in project_root.glob(pattern)]
    return {path: path.read_text(encoding='utf-8') for path in found}


def page(pages: dict[Path, str], name: str) -> str:
    return next(text for path, text in pages.items() if path.name == name)


def test_readme_begins_with_what_it_is_a_picture_and_three_commands(
    pages: dict[Path, str], project_root: Path
) -> None:
    text = page(pages, 'README.md')
    picture = re.search(r'^!\[.+\]\((docs/images/.+)\)$', text, re.M)
    assert picture
    assert (project_root / picture[1]).stat().st_size < 300_000
    before, after = text[: picture.start()], text[picture.end() :]
    assert 'segments multiple sclerosis lesions' in before
    assert '```' not in before
    first = after.split('```')[1].splitlines()[1:]
    words = [line.split('#')[1].strip().split()[0] for line in first]
    assert words == ['install', 'run', 'open']
    assert 'CC-BY' in after
    targets = re.findall(r'^make ([a-z]+) ', text, re.M)
    assert targets == ['demo', 'test']


def test_links_between_pages_lead_somewhere(pages: dict[Path, str]) -> None:
    for path, text in pages.items():
        for target in re.findall(r'\]\(([^)#\s]+)', text):
            if not target.startswith(('http:', 'https:', 'mailto:')):
                assert (path.parent / target).exists(), f'{path.name}: {target}'


def test_make_targets_that_pages_name_exist(pages: dict[Path, str], project_root: Path) -> None:
    makefile = (project_root / 'Makefile').read_text(encoding='utf-8')
    targets = set(re.findall(r'^([a-z-]+):', makefile, re.M))
    named = {name for text in pages.values() for name in re.findall(r'`?\bmake ([a-z-]+)`', text)}
    assert named
    assert named <= targets


def test_exit_codes_are_those_of_the_errors(pages: dict[Path, str]) -> None:
    listed = {
        int(code) for code in re.findall(r'^\| (\d+) \|', page(pages, 'troubleshooting.md'), re.M)
    }
    family = [errors.MSLesSegError, *errors.MSLesSegError.__subclasses__()]
    assert {error.exit_code for error in family} <= listed


def test_tables_list_every_column(pages: dict[Path, str]) -> None:
    text = page(pages, 'outputs.md')
    text = re.sub(r'`(\w+_)x`, `_y`, `_z`', r'`\1x` `\1y` `\1z`', text)
    for column in [*LESION_COLUMNS, *METRIC_COLUMNS]:
        assert f'`{column}`' in text


def test_models_are_listed(pages: dict[Path, str]) -> None:
    for entry in list_entries():
        assert f'| `{entry.name}` |' in page(pages, 'models.md')


def test_fields_and_options_of_models_are_explained(pages: dict[Path, str]) -> None:
    text = page(pages, 'models.md')
    for item in fields(ModelEntry):
        assert item.name == 'folders' or re.search(rf'^\|[^|]*`{item.name}`', text, re.M)
    shown = subprocess.run(
        [sys.executable, '-m', 'mslesseg_app', 'models', 'add', '--help'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    options = set(re.findall(r'(?<![\w-])--[a-z][a-z-]*', shown)) - {'--help'}
    assert len(options) > 12
    assert not {option for option in options if f'`{option}' not in text}


def test_options_of_the_usage_page_exist(pages: dict[Path, str]) -> None:
    rows = re.findall(r'^\| (`-.*?) \|', page(pages, 'usage.md'), re.M)
    named = {option for row in rows for option in re.findall(r'(?<![\w-])--?[a-z][a-z-]*', row)}
    shown = subprocess.run(
        [sys.executable, '-m', 'mslesseg_app', '--help'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert len(named) > 20
    missing = {option for option in named if not re.search(rf'(?<![\w-]){option}\b(?!-)', shown)}
    assert not missing


def test_files_of_the_group_level_are_listed(pages: dict[Path, str]) -> None:
    text = page(pages, 'group.md')
    for key, name in io_spec()['group'].items():
        assert f'`{name}' in text, key


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    choices = (action.choices for action in parser._actions)
    return [parser, *(p for known in choices if isinstance(known, dict) for p in known.values())]


def test_options_of_the_group_page_exist(pages: dict[Path, str]) -> None:
    ours = '\n'.join(
        line for line in page(pages, 'group.md').splitlines() if 'benchmarks/' not in line
    )
    named = set(re.findall(r'(?<![\w-])--[a-z][a-z-]*', ours))
    parsers = [bids_app.build_parser(), *actions_of(report.build_parser())]
    known = {o for parser in parsers for action in parser._actions for o in action.option_strings}
    assert len(named) > 12
    assert named <= known


def test_options_of_the_dicom_pages_exist(pages: dict[Path, str]) -> None:
    text = page(pages, 'dicom.md') + page(pages, 'deidentification.md')
    others = ('--regheader', '--mov', '--targ', '--nearest', '--o')  # of FreeSurfer
    named = set(re.findall(r'(?<![\w-])--[a-z][a-z-]*', text)) - set(others)
    parsers = [convert.build_parser(), run.build_parser(), *actions_of(report.build_parser())]
    known = {o for parser in parsers for action in parser._actions for o in action.option_strings}
    own = {o for action in convert.build_parser()._actions for o in action.option_strings}
    assert named <= known
    assert {option for option in own if option.startswith('--')} - named <= {'--help', '--n-cpus'}


def test_options_of_the_cluster_page_exist(pages: dict[Path, str]) -> None:
    text = page(pages, 'hpc.md')
    text = re.sub(r'^ {4}\.venv/bin/python benchmarks.*$', '', text, flags=re.M)
    named = set(re.findall(r'(?<![\w-])--[a-z][a-z-]*', text))
    actions = hpc.build_parser()._actions[-1].choices
    assert isinstance(actions, dict)
    parsers = [bids_app.build_parser(), train.build_parser(), *actions.values()]
    known = {o for parser in parsers for action in parser._actions for o in action.option_strings}
    known |= {'--containall', '--cleanenv', '--standalone', '--nproc-per-node'}
    assert named <= known
    own = {
        option
        for parser in actions.values()
        for action in parser._actions
        for option in action.option_strings
    }
    assert {option for option in own if option.startswith('--')} - named <= {'--help', '--quiet'}


def test_templates_of_the_cluster_page_are_those_there(
    pages: dict[Path, str], project_root: Path
) -> None:
    named = set(re.findall(r'`(?:hpc/)?([\w-]+\.(?:sh|yaml|py))`', page(pages, 'hpc.md')))
    there = {path.name for path in (project_root / 'hpc').iterdir() if path.is_file()}
    assert there <= named


def test_columns_of_the_table_of_series_are_listed(pages: dict[Path, str]) -> None:
    for column in SERIES_COLUMNS:
        assert f'`{column}`' in page(pages, 'dicom.md')
