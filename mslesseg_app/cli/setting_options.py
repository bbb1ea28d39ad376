"""Options of the command line from the fields of `Settings`."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any

from mslesseg_app.cli import parsing
from mslesseg_app.core.settings import GROUPS, Settings

Item = dataclasses.Field


def add_settings(parser: argparse.ArgumentParser) -> dict[str, argparse._ArgumentGroup]:
    """Add an option for each setting that has one, and return the groups."""
    groups = {name: parser.add_argument_group(title) for name, title in GROUPS.items()}
    hints = typing.get_type_hints(Settings)
    for item in _items():
        how = {**_of_type(hints[item.name]), **_of_metadata(item)}
        groups[item.metadata['group']].add_argument(*_flags(item), **how)
    return groups


def values_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the value of each setting that has an option."""
    return {item.name: getattr(options, _dest(item)) for item in _items()}


def _items() -> list[Item]:
    return [item for item in dataclasses.fields(Settings) if item.metadata]


def _flags(item: Item) -> tuple[str, ...]:
    return item.metadata['flags'] or (f'--{item.name.replace("_", "-")}',)


def _dest(item: Item) -> str:
    name = next(flag for flag in _flags(item) if flag.startswith('--'))
    return name[2:].replace('-', '_')


def _of_type(hint: Any) -> dict[str, Any]:
    """Return what the type of a setting says of its option."""
    if NoneType in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    if hint is bool:
        return {'action': 'store_true'}
    if hint is Path:
        return {'type': Path}
    if typing.get_origin(hint) is tuple:
        return {'nargs': '+'}
    if typing.get_origin(hint) is typing.Literal:
        values = typing.get_args(hint)
        return {'choices': values, 'type': type(values[0])}
    return {}


def _of_metadata(item: Item) -> dict[str, Any]:
    """Return what is said of an option beside the type of its setting."""
    how = {name: item.metadata[name] for name in ('metavar', 'choices', 'nargs', 'help')
           if name in item.metadata}  # fmt: skip
    kind = item.metadata.get('kind', '')
    if kind in ('sub-', 'ses-'):
        how['action'] = parsing.labels(kind)
    elif kind:
        how['type'] = _reader(kind)
    how['default'] = _default(item)
    return how


def _reader(kind: str) -> Callable[[str], Any]:
    """Return a reader by its name, such as ``count`` or ``number(0, 1)``."""
    name, _, limits = kind.rstrip(')').partition('(')
    found: Any = getattr(parsing, name)
    return found(*map(float, limits.split(','))) if limits else found


def _default(item: Item) -> Any:
    variable = item.metadata.get('variable')
    if variable:
        flag = item.default is False
        return (parsing.environment_flag if flag else parsing.environment_path)(variable)
    if 'shown' in item.metadata:
        return item.metadata['shown']
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default
