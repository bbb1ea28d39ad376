"""``python -m mslesseg_app.deploy.container``: check the environment, then be ``mslesseg``."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mslesseg_app.cli.main import VERBS, guarded, meant_command
from mslesseg_app.cli.main import main as command_line
from mslesseg_app.deploy.container import environment
from mslesseg_app.deploy.container.mounts import read_mounts
from mslesseg_app.deploy.container.paths import ROLES, check_paths, named_paths


def main(argv: Sequence[str] | None = None) -> int:
    """Check the environment and run the command line, with the same arguments.

    Returns
    -------
    int
        Exit status: 66 for folders that are not mounted, 73 for those that cannot be written,
        64 for a GPU that was asked for and is not there, else that of ``mslesseg``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _hear_the_engine()
    return guarded(check, arguments) or command_line(arguments)


def check(arguments: list[str]) -> int:
    """Make ready and look for what is missing.

    Parameters
    ----------
    arguments : list of str
        As for ``mslesseg``; what the parser itself refuses ends the process as there.

    Raises
    ------
    NoInputError, OutputError, UsageError
        If the work could not be done, or its results would be lost.
    """
    notes = environment.prepare(os.environ)
    verb, options = _parsed(arguments)
    if options is not None:
        notes += check_paths(named_paths(verb, options), read_mounts(), os.environ)
        notes += environment.notes(verb, options)
    notes += _notice()
    if not getattr(options, 'quiet', '-q' in arguments):
        for note in notes:
            print(f'mslesseg: note: {note}', file=sys.stderr)
    return 0


def _parsed(arguments: list[str]) -> tuple[str, Namespace | None]:
    """Return the module of the verb and its options; none where there is nothing to check."""
    known = bool(arguments) and arguments[0] in VERBS
    verb = VERBS[arguments[0]][0] if known else 'bids_app'
    rest = arguments[1:] if known else arguments
    if verb not in ROLES or not rest or meant_command(arguments):
        return verb, None
    if '--' in rest:
        rest = rest[: rest.index('--')]
    return verb, import_module(f'mslesseg_app.cli.{verb}').build_parser().parse_args(rest)


def _notice() -> list[str]:
    """Return the licence text of what the image holds beside us, where there is one."""
    path = Path(os.environ.get('MSLESSEG_NOTICE') or os.devnull)
    return [' '.join(path.read_text('utf-8').split())] if path.is_file() else []


def _hear_the_engine() -> None:
    """End as on Ctrl-C when the engine asks for it: by default, process 1 would not listen."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


if __name__ == '__main__':
    sys.exit(main())
