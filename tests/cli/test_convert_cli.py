"""The verbs ``convert`` and ``run``: values of options, wrong ones, and what they call."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from mslesseg_app.cli import convert, run
from mslesseg_app.cli.main import main
from mslesseg_app.dicom.convert.plan import ConversionRequest

USAGE = 64


def exit_code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def request_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> ConversionRequest:
    """What a command line asks for."""
    asked: list[ConversionRequest] = []
    monkeypatch.setattr('mslesseg_app.dicom.convert.run.convert', lambda r: asked.append(r) or 0)
    assert exit_code(['convert', *arguments]) == 0
    return asked[0]


def test_defaults(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    request = request_of(monkeypatch, 'a', 'b', 'out')
    assert request.sources == (elsewhere / 'a', elsewhere / 'b')
    assert request.bids_dir == elsewhere / 'out'
    assert request.work_dir == elsewhere / 'work'
    assert request.subject_map == elsewhere / 'out-private' / 'subjects.json'
    assert (request.subject, request.session_from, request.heuristic) == (None, 'date', 'mslesseg')
    assert request.deface
    assert request.nprocs >= 1
    assert not request.dry_run
    assert not request.quiet


def test_values(monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> None:
    options = """--subject sub-A1 --subject-map m/s.json --session-from order --heuristic reproin
        --no-deface --nprocs 3 -w w --dry-run -q"""
    request = request_of(monkeypatch, 'a', 'out', *options.split())
    assert (request.subject, request.session_from) == ('A1', 'order')
    assert request.subject_map == elsewhere / 'm' / 's.json'
    assert (request.heuristic, request.deface, request.nprocs) == ('reproin', False, 3)
    assert request.work_dir == elsewhere / 'w'
    assert request.dry_run
    assert request.quiet
    assert request_of(monkeypatch, 'a', 'out', '--n-cpus', '2', '--deface').deface


WRONG = [
    '--subject a/b',
    '--subject sub-',
    '--subject ../x',
    '--subject',
    '--subject-map',
    '--session-from visit',
    '--heuristic',
    '--deface=maybe',
    '--nprocs 0',
    '--nprocs many',
    '-w',
    '--dry-run=no',
    '--quiet=no',
    '--check',
    '--sub X',
    '--no-such-option',
]


@pytest.mark.parametrize('verb', ['convert', 'run'])
@pytest.mark.parametrize('options', WRONG)
def test_wrong_options(
    options: str, verb: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        'mslesseg_app.dicom.convert.run.convert', lambda _: pytest.fail('it went on')
    )
    assert exit_code([verb, 'source', 'out', *options.split()]) == USAGE
    shown = capsys.readouterr()
    assert shown.out == ''
    assert 'error:' in shown.err
    assert 'Traceback' not in shown.err


@pytest.mark.parametrize('arguments', [['convert'], ['convert', 'one'], ['run', 'one']])
def test_two_paths_are_needed(arguments: list[str]) -> None:
    assert exit_code(arguments) == USAGE


def test_check_takes_one_dataset(elsewhere: Path, capsys: pytest.CaptureFixture) -> None:
    assert exit_code(['convert', '--check', 'absent']) == 66
    (elsewhere / 'bids').mkdir()
    assert exit_code(['convert', '--check', 'bids', 'other']) == USAGE
    capsys.readouterr()
    assert exit_code(['convert', '--check', 'bids']) == 66
    shown = capsys.readouterr()
    assert 'has no subject map: names, numbers and dates cannot be searched for' in shown.err
    assert 'nothing' not in shown.out
    (elsewhere / 'bids' / 'x.json').write_text('{"PatientName": "Doe^John"}')
    assert exit_code(['convert', '--check', 'bids', '-q']) == 66
    shown = capsys.readouterr()
    assert shown.out == ''
    assert 'x.json' in shown.err
    assert 'John' not in shown.err


def test_a_subject_map_that_others_may_read(elsewhere: Path) -> None:
    (elsewhere / 'bids').mkdir()
    (elsewhere / 'open').mkdir(mode=0o755)
    (elsewhere / 'open' / 's.json').write_text('{"patients": {}}')
    assert exit_code(['convert', '--check', 'bids', '--subject-map', 'open/s.json']) == USAGE


# ------------------------------------------------------------------------------------- run


def test_run_converts_and_then_runs_the_app(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    done: list[object] = []
    monkeypatch.setattr('mslesseg_app.dicom.convert.run.convert', lambda r: done.append(r) or 1)
    monkeypatch.setattr(
        'mslesseg_app.participant.run.run_participants', lambda s, **_: done.append(s) or 0
    )
    monkeypatch.setattr('mslesseg_app.group.run_group', lambda s, **_: done.append('group') or 0)
    options = (
        '--session-from order --model unetr --threshold 0.4 --analysis-level participant group'
    )
    code = exit_code(['run', 'a', 'b', 'out', *options.split()])
    assert code == 1  # a series failed; the others were processed
    request, settings, last = done
    assert request.sources == (elsewhere / 'a', elsewhere / 'b')
    assert request.bids_dir == settings.bids_dir == elsewhere / 'out' / 'rawdata'
    assert request.subject_map == elsewhere / 'out-private' / 'subjects.json'
    assert request.session_from == 'order'
    assert settings.out_dir == elsewhere / 'out' / 'derivatives' / 'mslesseg'
    assert (settings.model, settings.threshold) == (('unetr',), 0.4)
    assert last == 'group'
    assert settings.command.startswith('mslesseg run SOURCE SOURCE out')


@pytest.mark.parametrize('how', ['--subject-map {}', '--subject-map={}'])
def test_the_recorded_command_names_no_source(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path, how: str
) -> None:
    done: list[object] = []
    monkeypatch.setattr('mslesseg_app.dicom.convert.run.convert', lambda _: 0)
    monkeypatch.setattr(
        'mslesseg_app.participant.run.run_participants', lambda s, **_: done.append(s) or 0
    )
    sources = ['Doe^Jane 1980/', './Doe^Jane', str(elsewhere / 'Doe.zip')]
    option = how.format('Doe-map/s.json').split()
    assert exit_code(['run', '--session-from', 'order', *sources, 'out', *option]) == 0
    (settings,) = done
    assert 'Doe' not in settings.command
    assert 'order SOURCE SOURCE SOURCE out --subject-map' in settings.command
    settings.to_toml(elsewhere / 'settings.toml')
    assert 'Doe' not in (elsewhere / 'settings.toml').read_text()


def test_run_warns_of_a_folder_that_names_the_patient(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path, capsys: pytest.CaptureFixture
) -> None:
    def converted(_: ConversionRequest) -> int:
        records = elsewhere / 'm' / 's-rawdata'
        records.mkdir(parents=True, mode=0o700)
        (records / 'sub-001.json').write_text('{"identifiers": ["Quaxmann"]}')
        return 0

    monkeypatch.setattr('mslesseg_app.dicom.convert.run.convert', converted)
    monkeypatch.setattr('mslesseg_app.participant.run.run_participants', lambda *_, **__: 0)
    assert exit_code(['run', 'a', 'out-quaxmann', '--subject-map', 'm/s.json']) == 0
    shown = capsys.readouterr().err
    assert 'out-quaxmann may tell who a subject is' in shown
    assert shown.count('warning') == 1


def test_run_complains_before_it_converts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        'mslesseg_app.dicom.convert.run.convert', lambda _: pytest.fail('it went on')
    )
    assert exit_code(['run', 'a', 'out', '-w', 'out/rawdata/work']) == USAGE
    assert exit_code(['run', 'a', 'out', '--derivatives', 'freesurfer=x']) == USAGE


def test_a_dry_run_stops_after_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mslesseg_app.dicom.convert.run.convert', lambda r: 0 if r.dry_run else 9)
    monkeypatch.setattr(
        'mslesseg_app.participant.run.run_participants', lambda *_, **__: pytest.fail('ran')
    )
    assert exit_code(['run', 'a', 'out', '--dry-run']) == 0


def test_run_has_the_options_of_both() -> None:
    def options(parser: argparse.ArgumentParser) -> set[str]:
        return {name for action in parser._actions for name in action.option_strings}

    from mslesseg_app.cli import bids_app

    both = options(convert.build_parser()) | options(bids_app.build_parser())
    assert both - options(run.build_parser()) == {'--check'}
