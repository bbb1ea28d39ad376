"""Nothing that is printed, or cannot be, ends the program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mslesseg_app.cli.main import VERBS, guarded, main
from mslesseg_app.cli.terminal import prepare_streams


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONIOENCODING'}
    environment |= {'LC_ALL': 'C', 'LANG': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}
    command = [sys.executable, '-m', 'mslesseg_app', *arguments]
    return subprocess.run(command, capture_output=True, env=environment, check=False, **more)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize('words', [('--help',), ('convert', '--help')])
def test_help_on_a_terminal_that_knows_ascii_only(words):
    done = run(*words)
    assert done.returncode == 0, done.stderr.decode()
    done.stdout.decode('ascii')
    assert b'usage: mslesseg' in done.stdout


@pytest.mark.parametrize('closed', ['0<&-', '2>&-', '1>&- 2>&-', '0<&- 1>&- 2>&-'])
def test_closed_streams_change_no_exit_code(tmp_path, closed):
    """The exit code still says what was wrong (66), and no file gets what was printed."""
    command = f'"{sys.executable}" -m mslesseg_app "{tmp_path}/none" "{tmp_path}/out" participant'
    done = subprocess.run(
        f'{command} {closed}', shell=True, check=False, stdout=subprocess.DEVNULL
    )
    assert done.returncode == 66


def test_characters_that_a_stream_lacks_are_written_in_another_way(tmp_path):
    path = tmp_path / 'said.txt'
    with path.open('w', encoding='ascii') as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'stdout', stream)
        prepare_streams()
        print('3 mm³ … 0.9 × 0.9, Schädel, \udce4')
    assert path.read_text('ascii') == '3 mm3 ... 0.9 x 0.9, Sch\\xe4del, \\udce4\n'


def test_a_name_that_is_not_utf8_is_an_error_with_a_hint(tmp_path, capsys):
    bad = os.fsdecode(os.fsencode(tmp_path) + b'/M\xfcller')
    Path(bad).mkdir()
    assert main([bad, str(tmp_path / 'out'), 'participant']) == 64
    said = capsys.readouterr().err
    assert 'not UTF-8' in said
    assert 'Rename it' in said

    def writes(_: list[str]) -> int:
        (tmp_path / 'table.tsv').write_text(bad, encoding='utf-8')
        return 0

    assert guarded(writes, []) == 64
    assert 'not UTF-8' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'meant'),
    [
        (['evalute', 'a', 'b'], 'Did you mean "evaluate"?'),
        (['modles', 'list'], 'Did you mean "models"?'),
        (['bids', 'out', 'participant', '--modle', 'unet'], 'Did you mean "--model"?'),
        (['bids', 'out', 'partcipant'], 'Did you mean "participant"?'),
        (['models', 'lst'], 'Did you mean "list"?'),
        (['report', 'tables', '--otput', 'x'], 'Did you mean "--output"?'),
    ],
)
def test_a_mistyped_word_is_answered_with_what_was_meant(words, meant, capsys):
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code
    assert code in (17, 64)
    assert meant in capsys.readouterr().err


def test_a_model_that_is_mistyped(capsys):
    assert main(['models', 'show', 'unett']) == 64
    assert 'Did you mean "unet"?' in capsys.readouterr().err


def test_a_folder_is_no_mistyped_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'evalute').mkdir()
    with pytest.raises(SystemExit):
        main(['evalute'])
    assert 'Did you mean' not in capsys.readouterr().err


def test_the_command_alone_lists_the_commands(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f'mslesseg {verb}' in text for verb in VERBS)
    assert 'BIDS_DIR OUTPUT_DIR participant' in text


def test_help_starts_with_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(['--help'])
    text = capsys.readouterr().out
    assert text.index('mslesseg evaluate') < text.index('--participant-label')
