"""Manual pages hold every option and are proper troff."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from mslesseg_app.cli.main import VERBS

manuals = pytest.importorskip(
    'release.manuals', reason='argparse-manpage is not installed (extra dev)'
)


@pytest.fixture(scope='module')
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    written = manuals.write(tmp_path_factory.mktemp('man'))
    return {path.stem: path for path in written}


def test_one_page_for_the_app_and_each_verb(pages):
    assert pages.keys() == {'mslesseg', *(f'mslesseg-{verb}' for verb in VERBS)}


def test_every_option_is_in_its_page(pages):
    for name, parser in manuals.parsers():
        text = pages[name].read_text().replace('\\-', '-')
        for action in all_actions(parser):
            if action.help != '==SUPPRESS==' and action.dest != 'help':
                assert [flag for flag in action.option_strings if flag not in text] == []


def test_same_bytes_again(pages, tmp_path):
    for path in manuals.write(tmp_path):
        assert path.read_bytes() == pages[path.stem].read_bytes()


def test_man_shows_them(pages, tmp_path):
    if shutil.which('man') is None:
        pytest.skip('no man on PATH')
    for path in pages.values():
        done = subprocess.run(
            ['man', '--warnings', '-l', str(path)], capture_output=True, text=True, check=True
        )
        assert done.stderr == ''
        assert 'not a medical device' in ' '.join(done.stdout.split())


def all_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    found = list[argparse.Action]()
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            found += [one for below in action.choices.values() for one in all_actions(below)]
    return found
