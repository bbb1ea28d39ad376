"""Kinds of arguments, and a parser that leaves with the exit code of the BIDS specification."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mslesseg_app.core.files import read_any_text
from mslesseg_app.core.text import did_you_mean

USAGE = 64
UNKNOWN_LEVEL = 17

_UNITS = {'': 1e-3, 'k': 1e-6, 'm': 1e-3, 'g': 1.0, 't': 1e3}


class Parser(argparse.ArgumentParser):
    """Argument parser that exits with 64 (usage) instead of 2, which belongs to the shell."""

    given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Keep the words for :meth:`error`, and parse them."""
        self.given = list(map(str, sys.argv[1:] if args is None else args))
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, what was probably meant and how to get help, and leave."""
        print(f'{self.prog}: error: {message}', file=sys.stderr)
        meant = did_you_mean(*_mistyped(message, self))
        if meant:
            print(f'  {meant}', file=sys.stderr)
        print(f'  See "{self.prog} --help".', file=sys.stderr)
        unknown = '{participant,group}: invalid choice' in message
        code = UNKNOWN_LEVEL if unknown else USAGE
        sys.exit(code)


def _mistyped(message: str, parser: Parser) -> tuple[str, list[str]]:
    """Return the wrong word behind an error of argparse, and what could stand there."""
    choice = re.search(r"invalid choice: '?([^' ]+)'? \(choose from (.*)\)", message)
    if choice:
        return choice[1], [word.strip(" '") for word in choice[2].split(',')]
    if not re.match(r'unrecognized arguments|the following arguments are required', message):
        return '', []
    known = _options_of(parser)
    words = [word.partition('=')[0] for word in parser.given if word.startswith('--')]
    return next((word for word in words if word not in known), ''), known


def _options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return the options of a parser and of the parsers below it."""
    names = [name for action in parser._actions for name in action.option_strings]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                names += _options_of(below)
    return names


def memory_gb(text: str) -> float:
    """Read an amount of memory; a bare number is in MB, as fMRIPrep has it.

    Examples
    --------
    >>> memory_gb('1.5G'), memory_gb('1500'), memory_gb('800M'), memory_gb('2GB')
    (1.5, 1.5, 0.8, 2.0)
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?)(?:i?b)?', text.strip().lower())
    if match is None or float(match.group(1)) <= 0:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no amount of memory; write 8G, 1.5G, 800M, or a number of MB'
        )
    return float(match.group(1)) * _UNITS[match.group(2)]


def mebibytes(text: str) -> int:
    """Read an amount of memory in MiB."""
    return max(1, round(memory_gb(text) * 1024))


def minutes(text: str) -> int:
    """Read a wall time: minutes, ``H:MM:SS`` or ``D-HH[:MM[:SS]]``, as SLURM has it."""
    days = re.fullmatch(r'(\d+)-(\d{1,2})(?::(\d{2}))?(?::\d{2})?', text)
    clock = re.fullmatch(r'(\d+):(\d{2}):\d{2}', text)
    if days:
        found = int(days[1]) * 1440 + int(days[2]) * 60 + int(days[3] or 0)
    elif clock:
        found = int(clock[1]) * 60 + int(clock[2])
    else:
        found = int(text) if re.fullmatch(r'\d{1,6}', text) else 0
    if found < 1:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no time of a minute or more; write 90, 1:30:00 or 2-00:00'
        )
    return found


def number(minimum: float, maximum: float = float('inf')) -> Callable[[str], float]:
    """Return a reader of numbers within limits."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float('nan')
        if not minimum <= value <= maximum or math.isinf(value):
            upper = f' to {maximum:g}' if maximum < float('inf') else ' or more'
            raise argparse.ArgumentTypeError(f'{text!r} is not a number of {minimum:g}{upper}')
        return value

    return read


def count(text: str) -> int:
    """Read a whole number of one or more."""
    if not re.fullmatch(r'[1-9]\d{0,8}', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 1 or more')
    return int(text)


def seed(text: str) -> int:
    """Read a whole number of zero or more."""
    if not re.fullmatch(r'\d{1,9}', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 0 or more')
    return int(text)


def modality(text: str) -> str:
    """Read FLAIR, T1w or T2w, in any case."""
    known = {'flair': 'FLAIR', 't1w': 'T1w', 't2w': 'T2w'}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f'{text!r} is none of {", ".join(known.values())}')
    return known[text.lower()]


def device(text: str) -> str:
    """Read the name of a device."""
    if not re.fullmatch(r'auto|cpu|cuda(:\d+)?', text):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no device; choose auto, cpu, cuda or cuda:N'
        )
    return text


def labels(prefix: str) -> type[argparse.Action]:
    """Return an action that collects labels, given one by one or in a file, one per line."""

    class Collect(argparse.Action):
        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: str | Sequence[Any] | None,
            option_string: str | None = None,
        ) -> None:
            found: list[str] = list(getattr(namespace, self.dest) or [])
            for value in values or []:
                found += _labels_in(str(value), prefix, parser)
            setattr(namespace, self.dest, tuple(dict.fromkeys(found)))

    return Collect


def _labels_in(value: str, prefix: str, parser: argparse.ArgumentParser) -> list[str]:
    path = Path(value)
    try:
        words = read_any_text(path).split() if path.is_file() else [value]
    except (OSError, ValueError) as error:
        parser.error(f'the file of labels {value} cannot be read: {error}')
    if not words:  # or everything would be processed
        parser.error(f'the file of labels {value} is empty')
    found = [word.removeprefix(prefix) for word in words]
    for label in found:
        if not re.fullmatch(r'[A-Za-z0-9+]+', label):
            parser.error(
                f'{label!r} is no label ({prefix}<letters and digits>) and no file of labels'
            )
    return found


def filters(text: str) -> dict[str, dict[str, Any]]:
    """Read a file of PyBIDS filters."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f'the file {text} does not exist')
    try:
        content = json.loads(read_any_text(path))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f'{text} is not JSON: {error}') from error
    known = {'flair', 't1w', 't2w'}
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise argparse.ArgumentTypeError(f'{text} must map modalities to filters')
    lowered = {key.lower(): value for key, value in content.items()}
    if unknown := sorted(set(lowered) - known):
        raise argparse.ArgumentTypeError(
            f'{text} filters {", ".join(unknown)}; known are {", ".join(sorted(known))}'
        )
    return lowered


def package_path(text: str) -> tuple[str, Path]:
    """Read ``PACKAGE=PATH``."""
    name, sign, path = text.partition('=')
    if not sign or not name or not path:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form PACKAGE=PATH')
    return name, Path(path)


def environment_path(name: str) -> Path | None:
    """Return the path that an environment variable holds, if any."""
    value = os.environ.get(name, '')
    return Path(value) if value else None


def environment_flag(name: str) -> bool:
    """Return whether an environment variable says yes; 0, no and false do not."""
    return os.environ.get(name, '').lower() not in ('', '0', 'no', 'false', 'off')
