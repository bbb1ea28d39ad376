"""Options of the App as a task needs them: tasks start in another folder, on another machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from mslesseg_app.core.errors import NoInputError
from mslesseg_app.core.settings import Settings


def _path(text: str) -> str:
    return str(Path(text).absolute())


def _package(text: str) -> str:
    name, _, path = text.partition('=')
    return f'{name}={_path(path)}'


def _label(text: str) -> str:
    return _path(text) if Path(text).is_file() else text


#: Spellings of the options of the App that may name a path, and how it becomes absolute.
PATHS: dict[tuple[str, ...], Callable[[str], str]] = {
    ('-d', '--derivatives'): _package,
    ('--model-dir',): _path,
    ('--bids-filter-file',): _path,
    ('--bids-database-dir',): _path,
    ('--review',): _path,
    ('--session-label', '--session_label', '--session-id'): _label,
}


def absolute(words: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Make the paths in options of the App absolute.

    Parameters
    ----------
    words : sequence of str
        That the App has accepted.

    Returns
    -------
    words : list of str
        Those options come last.
    paths : list of Path
        All files and folders that they name.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    actions = [
        parser.add_argument(*names, nargs='+', action='extend', default=[], type=kind)
        for names, kind in PATHS.items()
    ]
    given, found = parser.parse_known_args(list(words))
    paths: list[Path] = []
    for action in actions:
        if values := getattr(given, action.dest):
            found += [action.option_strings[-1], *values]
            named = [value.partition('=')[2] if '=/' in value else value for value in values]
            paths += [Path(value) for value in named if value.startswith('/')]
    return found, list(dict.fromkeys(paths))


def for_tasks(words: Sequence[str], settings: Settings) -> tuple[tuple[str, ...], list[Path]]:
    """Return what tasks are given, and the paths that they need.

    What came from variables of the environment, which a node or a container may not have, is
    among it.

    Raises
    ------
    NoInputError
        If a path does not exist.
    """
    found, paths = absolute(words)
    for path in paths:
        if not path.exists():
            raise NoInputError(f'{path} does not exist.', 'Check the options after "--".')
    if settings.model_dir is not None and settings.model_dir not in paths:
        found += ['--model-dir', str(settings.model_dir)]
        paths.append(settings.model_dir)
    if settings.offline and '--offline' not in found:
        found.append('--offline')
    return tuple(found), paths
