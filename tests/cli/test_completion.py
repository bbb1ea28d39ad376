"""Completion scripts: the shells themselves are asked what they offer."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mslesseg_app.cli import completion
from mslesseg_app.cli.main import VERBS, main

#: What is typed, what must be offered, and what must not.
CASES = [
    ('mslesseg mod', {'models'}, {'evaluate'}),
    ('mslesseg models ver', {'verify'}, {'remove'}),
    ('mslesseg models add --archi', {'--architecture'}, {'--engine'}),
    ('mslesseg models fetch --sha', {'--sha256'}, {'--architecture'}),
    ('mslesseg bids out parti', {'participant'}, {'group'}),
    ('mslesseg bids out participant --engine ', {'auto', 'fsl', 'builtin'}, {'majority'}),
    ('mslesseg bids out participant --require FLAIR T', {'T1w', 'T2w'}, {'models'}),
    ('mslesseg bids out participant --subject-anatomical-reference unb', {'unbiased'}, set()),
    ('mslesseg train bids run --network sw', {'swinunetr'}, {'unetr'}),
    ('mslesseg completion ', set(completion.SHELLS), {'participant'}),
]
BASH = """
source "$SCRIPT"
COMP_LINE=$LINE COMP_POINT=${#LINE}
_python_argcomplete mslesseg
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('completion')
    program = folder / 'bin' / 'mslesseg'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mslesseg_app "$@"\n')
    program.chmod(0o755)
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.script(shell), encoding='utf-8')
    return {shell: folder / shell for shell in completion.SHELLS}


@pytest.fixture
def scripts(
    written: dict[str, Path], project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """The scripts, with the command that they ask on the PATH."""
    path = os.pathsep.join([str(written['bash'].parent / 'bin'), os.environ['PATH']])
    monkeypatch.setenv('PATH', path)
    monkeypatch.setenv('PYTHONPATH', str(project_root))
    return written


def need(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f'no {shell} on PATH')
    return found


@pytest.mark.parametrize('shell', completion.SHELLS)
def test_the_verb_prints_the_script(shell, capsys):
    assert main(['completion', shell]) == 0
    assert capsys.readouterr().out == completion.script(shell)


def test_unknown_shell_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main(['completion', 'tcsh'])
    assert stop.value.code == 64
    assert 'tcsh' in capsys.readouterr().err


@pytest.mark.parametrize('shell', completion.SHELLS)
def test_the_shell_accepts_the_script(shell, scripts):
    done = subprocess.run([need(shell), '-n', scripts[shell]], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b'')


@pytest.mark.parametrize(('line', 'offered', 'other'), CASES)
def test_bash_offers(line, offered, other, scripts, tmp_path):
    found = lines_of([need('bash'), '-c', BASH], tmp_path, SCRIPT=scripts['bash'], LINE=line)
    found = {word.strip() for word in found}
    assert offered <= found
    assert not other & found


def test_bash_offers_verbs_and_folders_first(scripts, tmp_path):
    (tmp_path / 'my data').mkdir()
    (tmp_path / 'my file').touch()
    for line, offered in (
        ('mslesseg ', {*VERBS, 'my\\ data/'}),
        ('mslesseg my', {'my\\ data/'}),
        ('mslesseg bids out participant --work-dir my', {'my\\ data/', 'my\\ file'}),
    ):
        found = lines_of([need('bash'), '-c', BASH], tmp_path, SCRIPT=scripts['bash'], LINE=line)
        assert {word.removesuffix(' ') for word in found} == offered


@pytest.mark.parametrize(('line', 'offered', 'other'), CASES)
def test_fish_offers(line, offered, other, scripts, tmp_path):
    command = [need('fish'), '--private', '-c', 'source $SCRIPT; complete -C "$LINE"']
    found = lines_of(command, tmp_path, SCRIPT=scripts['fish'], LINE=line)
    found = {line.partition('\t')[0] for line in found}
    assert offered <= found
    assert not other & found


def test_zsh_completes(scripts, tmp_path):
    """One shell at a terminal, typed into as a user does."""
    shell = Terminal(need('zsh'), tmp_path)
    try:
        shell.type(
            f'autoload -Uz compinit; compinit -u -D; source {scripts["zsh"]}; print rea""dy\n'
        )
        assert 'ready' in shell.read_until('ready')
        for line, whole in (
            ('mslesseg comp', 'completion'),
            ('mslesseg models ver', 'verify'),
            ('mslesseg models add --archi', '--architecture'),
            ('mslesseg bids out --engine b', 'builtin'),
            ('mslesseg bids out parti', 'participant'),
            ('mslesseg bids out --require FLAIR T2', 'T2w'),
        ):
            shell.type(line + '\t')
            rest = whole.removeprefix(line.rsplit(' ', 1)[1])
            assert rest in shell.read_until(rest), line
            shell.type('\x15')
    finally:
        shell.close()


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.environ['TERM'] = 'dumb'
            os.execv(program, [program, '-f', '-i'])

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def read_until(self, word: str, seconds: float = 20) -> str:
        """Read until a word has come, or for so long."""
        text, end = '', time.monotonic() + seconds
        while word not in text and time.monotonic() < end:
            if select.select([self.handle], [], [], 0.1)[0]:
                text += os.read(self.handle, 65536).decode(errors='replace')
        return text

    def close(self) -> None:
        os.close(self.handle)
        os.waitpid(self.pid, 0)


def lines_of(command: list[str], folder: Path, **variables: object) -> set[str]:
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines())
