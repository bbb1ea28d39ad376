"""``mslesseg completion bash|zsh|fish``: a script that completes our commands in a shell.

The scripts are written from the parsers, so that they know what this version knows. The
first word may be a verb or a folder, which generators of such scripts do not foresee.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from textwrap import indent

from mslesseg_app.cli import parsing

SHELLS = ('bash', 'zsh', 'fish')


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes
    ----------
    flags : tuple of str
        Its spellings.
    values : tuple of str
        The values that it may have; empty if it takes none, or any.
    arity : int
        How many values follow: 0, 1, or 2 for several.
    metavar, text : str
        Name of the value, and the help in one line.
    """

    flags: tuple[str, ...]
    values: tuple[str, ...]
    arity: int
    metavar: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command: the words after ``mslesseg`` (none for the App), options and fixed words."""

    words: tuple[str, ...]
    options: tuple[Option, ...]
    positionals: tuple[str, ...]


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
    """Return the completion script of a shell.

    Parameters
    ----------
    shell : {'bash', 'zsh', 'fish'}
        Whose script.

    Returns
    -------
    str
        Its text.
    """
    writers: dict[str, Callable[[list[Command]], str]] = {
        'bash': _bash,
        'zsh': _zsh,
        'fish': _fish,
    }
    return writers[shell](commands())


# ------------------------------------------------------------------- what the parsers say


def parsers() -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Yield the words and the parser of every command, the App (no words) first."""
    from mslesseg_app.cli.main import VERBS

    yield (), import_module('.bids_app', __package__).build_parser()
    for verb, (module, _) in VERBS.items():
        parser = import_module(f'.{module}', __package__).build_parser()
        yield (verb,), parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for word, inner in action.choices.items():
                    yield (verb, word), inner


def commands() -> list[Command]:
    """Describe every command."""
    return [_describe(words, parser) for words, parser in parsers()]


def _describe(words: tuple[str, ...], parser: argparse.ArgumentParser) -> Command:
    options, fixed = list[Option](), list[str]()
    for action in parser._actions:
        values = tuple(map(str, action.choices or ()))
        if not action.option_strings:
            fixed += values
        elif action.help != argparse.SUPPRESS:
            options.append(_option(action, values, parser))
    return Command(words, tuple(options), tuple(fixed))


def _option(
    action: argparse.Action, values: tuple[str, ...], parser: argparse.ArgumentParser
) -> Option:
    many = action.nargs in ('+', '*', argparse.REMAINDER) or (
        isinstance(action.nargs, int) and action.nargs > 1
    )
    arity = 0 if action.nargs == 0 else 2 if many else 1
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    text = parser._get_formatter()._expand_help(action) if action.help else ''
    return Option(tuple(action.option_strings), values, arity, metavar, ' '.join(text.split()))


def _verbs() -> dict[str, str]:
    """Return the first words that are no folder, and what they do."""
    from mslesseg_app.cli.main import VERBS

    return {verb: text for verb, (_, text) in VERBS.items()}


def _nested(known: list[Command]) -> dict[str, list[str]]:
    """Return the verbs that have actions, and these."""
    found: dict[str, list[str]] = {}
    for command in known:
        if len(command.words) == 2:
            found.setdefault(command.words[0], []).append(command.words[1])
    return found


# ------------------------------------------------------------------------------- bash

_BASH = r"""# bash completion of mslesseg
_mslesseg() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local command='' options='' fixed='' values='' taken='' many='' last='' i
    COMPREPLY=()
    case "${COMP_WORDS[1]}" in
    @VERBS@) [ "$COMP_CWORD" -gt 1 ] && command=${COMP_WORDS[1]} ;;
    esac
    case "$command ${COMP_WORDS[2]}" in
    @ACTIONS@) [ "$COMP_CWORD" -gt 2 ] && command="$command ${COMP_WORDS[2]}" ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -* ]] && last=${COMP_WORDS[i]}
    done
    case "$command" in
@COMMANDS@
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
        return
    fi
    if [[ -n $taken && ($prev == "$last" || -n $many) ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur")
        return
    fi
    if [ "$COMP_CWORD" -eq 1 ]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -W '@WORDS@' -- "$cur"; compgen -d -- "$cur")
    elif [[ -n $command || $COMP_CWORD -gt 2 ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$fixed" -- "$cur")
    fi
}
complete -o bashdefault -o default -F _mslesseg mslesseg
"""


def _bash(known: list[Command]) -> str:
    verbs = _verbs()
    actions = [f"'{verb} {word}'" for verb, words in _nested(known).items() for word in words]
    text = _BASH.replace('@VERBS@', ' | '.join(verbs)).replace('@WORDS@', ' '.join(verbs))
    text = text.replace('@ACTIONS@', ' | '.join(actions))
    return text.replace('@COMMANDS@', '\n'.join(indent(_bash_of(c), '    ') for c in known))


def _bash_of(command: Command) -> str:
    flags = ' '.join(flag for option in command.options for flag in option.flags)
    lines = [
        f"'{' '.join(command.words)}')",
        f"    options='{flags}'",
        f"    fixed='{' '.join(command.positionals)}'",
        '    case "$last" in',
    ]
    for option in command.options:
        if option.arity:
            many = ' many=1' if option.arity == 2 else ''
            values = ' '.join(option.values)
            lines.append(f"    {' | '.join(option.flags)}) taken=1{many} values='{values}' ;;")
    return '\n'.join([*lines, '    esac', '    ;;'])


# -------------------------------------------------------------------------------- zsh

_ZSH = r"""#compdef mslesseg
# zsh completion of mslesseg: in a folder of $fpath under the name _mslesseg
@FUNCTIONS@
_mslesseg() {
    if (( CURRENT == 2 )); then
        local -a verbs=(
@VERBS@
        )
        _alternative 'commands:command:(( $verbs ))' 'folders:BIDS_DIR:_files -/' \
            'options:option:(--help --version)'
        return
    fi
    case "$words[2]" in
@CASES@
    *) _mslesseg_app ;;
    esac
}
compdef _mslesseg mslesseg
"""


def _zsh(known: list[Command]) -> str:
    nested = _nested(known)
    cases = list[str]()
    for verb in _verbs():
        cases.append(f'{verb}) shift words; (( CURRENT-- ));')
        if verb in nested:
            words = ' '.join(nested[verb])
            cases[-1] += f' if (( CURRENT == 2 )); then compadd -- {words}; else'
            cases[-1] += ' case "$words[2]" in'
            for word in nested[verb]:
                name = f'_mslesseg_{verb}_{word}'
                cases.append(f'    {word}) shift words; (( CURRENT-- )); {name} ;;')
            cases.append('    esac; fi ;;')
        else:
            cases[-1] += f' _mslesseg_{verb} ;;'
    verbs = [f"            '{verb}:{_plain(text)}'" for verb, text in _verbs().items()]
    functions = [_zsh_of(command) for command in known]
    text = _ZSH.replace('@FUNCTIONS@', '\n'.join(functions))
    text = text.replace('@VERBS@', '\n'.join(verbs))
    return text.replace('@CASES@', '\n'.join(f'    {line}' for line in cases))


def _zsh_of(command: Command) -> str:
    lines = list[str]()
    for option in command.options:
        end = ''
        if option.arity:
            offer = f'({" ".join(option.values)})' if option.values else '_files'
            more = '*-*:' if option.arity == 2 else ''
            end = f':{more}{_plain(option.metavar)}:{offer}'
        lines += [f"        '*{flag}[{_plain(option.text)}]{end}'" for flag in option.flags]
    fixed = ' '.join(command.positionals)
    files = f' _alternative "words:word:({fixed})" "files:file:_files"' if fixed else '_files'
    lines.append(f"        '*:argument:{files}'")
    name = '_'.join(['_mslesseg', *(command.words or ('app',))])
    return f'{name}() {{\n    _arguments \\\n' + ' \\\n'.join(lines) + '\n}'


def _plain(text: str) -> str:
    """Leave out what means something to the shells."""
    return re.sub(r"""[\\'"`$\[\]:{}()*]""", ' ', text).strip()


# ------------------------------------------------------------------------------- fish

_FISH = r"""# fish completion of mslesseg
function __mslesseg_at
    set -l words (commandline -opc)
    set -e words[1]
    set -l here
    if set -q words[1]; and contains -- $words[1] @VERBS@
        set here $words[1]
        if set -q words[2]; and contains -- "$here $words[2]" @ACTIONS@
            set here "$here $words[2]"
        end
    end
    test "$here" = "$argv"
end
function __mslesseg_after
    set -l last (commandline -opc | string match -- '-*')[-1]
    contains -- "$last" $argv
end
function __mslesseg_first
    test (count (commandline -opc)) -eq 1
end
"""


def _fish(known: list[Command]) -> str:
    verbs, nested = _verbs(), _nested(known)
    actions = [f"'{verb} {word}'" for verb, words in nested.items() for word in words]
    lines = [_FISH.replace('@VERBS@', ' '.join(verbs)).replace('@ACTIONS@', ' '.join(actions))]
    for verb, text in verbs.items():
        lines.append(f"complete -c mslesseg -n __mslesseg_first -a {verb} -d '{_plain(text)}'")
    for command in known:
        lines += _fish_of(command)
    return '\n'.join(lines) + '\n'


def _fish_of(command: Command) -> list[str]:
    start = f"complete -c mslesseg -n '__mslesseg_at {' '.join(command.words)}'"
    lines = [f"{start} -a '{' '.join(command.positionals)}'"] if command.positionals else []
    for option in command.options:
        flags = ' '.join(
            f'-l {flag[2:]}' if flag.startswith('--') else f'-s {flag[1:]}'
            for flag in option.flags
        )
        value = ''
        if option.arity:
            value = f" -x -a '{' '.join(option.values)}'" if option.values else ' -r'
        lines.append(f"{start} {flags}{value} -d '{_plain(option.text)}'")
        if option.arity == 2 and option.values:
            after = f"; and __mslesseg_after {' '.join(option.flags)}'"
            lines.append(f"{start[:-1]}{after} -f -a '{' '.join(option.values)}'")
    return lines
