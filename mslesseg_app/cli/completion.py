"""``mslesseg completion bash|zsh|fish``: argcomplete's scripts, and the answers they ask for.

The first word may be a verb or a folder, which parsers of subcommands do not foresee.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module

from mslesseg_app.cli import parsing

SHELLS = ('bash', 'zsh', 'fish')


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``completion``."""
    parser = parsing.Parser(
        prog='mslesseg completion',
        description='Print a script that completes commands, options and their values. '
        'For bash: mslesseg completion bash > ~/.local/share/bash-completion/completions/mslesseg',
        allow_abbrev=False,
    )
    parser.add_argument('shell', choices=SHELLS, help='The shell that will read it.')
    return parser


def main(arguments: list[str]) -> int:
    """Print the script."""
    print(script(build_parser().parse_args(arguments).shell), end='')
    return 0


def script(shell: str) -> str:
    """Return the completion script of a shell of :data:`SHELLS`."""
    from argcomplete.shell_integration import shellcode

    return shellcode(['mslesseg'], shell=shell)


def answer() -> None:
    """Answer a shell that asks what may follow, and leave."""
    import argcomplete
    from argcomplete import completers
    from argcomplete.lexers import split_line

    from mslesseg_app.cli.main import VERBS

    line, point = os.environ['COMP_LINE'], int(os.environ['COMP_POINT'])
    _, prefix, _, words, _ = split_line(line, point)
    values: completers.BaseCompleter = completers.FilesCompleter()
    module = 'bids_app'
    if len(words) == 1:
        verbs = {verb: text for verb, (_, text) in VERBS.items()}
        folders = completers.DirectoriesCompleter()(prefix)
        values = completers.ChoicesCompleter(verbs | dict.fromkeys(folders, ''))
    elif words[1] in VERBS:
        os.environ['_ARGCOMPLETE'] = '2'  # the program's name has two words
        module = VERBS[words[1]][0]
    parser = import_module(f'.{module}', __package__).build_parser()
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=values)
