"""``mslesseg models list|show|add|fetch|verify|remove``: the registry of models."""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from mslesseg_app.cli import parsing
from mslesseg_app.core.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``models``."""
    parser = parsing.Parser(
        prog='mslesseg models',
        description='List available models and manage your own.',
        allow_abbrev=False,
    )
    _add_common(parser, top=True)
    actions = parser.add_subparsers(
        dest='action', required=True, metavar='{list,show,add,fetch,verify,remove}'
    )
    for name, text in (
        ('list', 'A table of all models.'),
        ('show', 'All about one model.'),
        ('add', 'Describe weights that you have, and put them into --model-dir.'),
        ('fetch', 'Download the weights of a model into --model-dir.'),
        ('verify', 'Check hash, tensors and fit of the weights of a model.'),
        ('remove', 'Remove a model from --model-dir.'),
    ):
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        _add_common(action)
        if name not in ('list', 'add'):
            action.add_argument('name', metavar='NAME')
    _add_adding(actions.choices['add'])
    _add_fetching(actions.choices['fetch'])
    actions.choices['remove'].add_argument(
        '--yes', action='store_true', help='Do it; without it, a terminal is shown what would go.'
    )
    return parser


def _add_common(parser: argparse.ArgumentParser, top: bool = False) -> None:
    parser.add_argument(
        '--model-dir',
        type=Path,
        metavar='DIR',
        default=parsing.environment_path('MSLESSEG_MODEL_DIR') if top else argparse.SUPPRESS,
        help='Folder with models of your own (default: $MSLESSEG_MODEL_DIR).',
    )
    parser.add_argument(
        '--offline',
        action='store_true',
        default=parsing.environment_flag('MSLESSEG_OFFLINE') if top else argparse.SUPPRESS,
        help='Refuse every download (default: $MSLESSEG_OFFLINE).',
    )


def _add_adding(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        'file',
        type=Path,
        nargs='?',
        metavar='FILE',
        help='Safetensors, checkpoint (.pt), MONAI bundle or nnU-Net v2 (folder, zip).',
    )
    add(
        '--engine-command',
        metavar='COMMAND',
        help='Instead of FILE: a program of its own, {flair} {t1w} {t2w} in and {output} out.',
    )
    add('--architecture', metavar='NAME', help='The network; a bundle states it.')
    add('--name', help='Letters and digits (default: that of the bundle or architecture).')
    add('--title', help='One line for the card.')
    add('--channels', nargs='+', type=parsing.modality, metavar='MODALITY', help='In their order.')
    add('--required', nargs='+', type=parsing.modality, metavar='MODALITY', help='Default: all.')
    add('--missing', choices=['refuse', 'zero', 'ignore'], help='Without one of the others.')
    add('--normalisation', metavar='METHOD', help='zscore, zscore-joint or robust.')
    add('--threshold', type=parsing.number(0.001, 0.999), metavar='P')
    add('--patch', nargs='+', type=parsing.count, metavar='N', help='Window: one edge or three.')
    add('--licence', metavar='SPDX', help='Of the weights.')
    add('--option', action='append', default=[], metavar='KEY=VALUE', help='Of the network.')
    add('--force', action='store_true', help='Replace a model of this name.')
    parser.set_defaults(model_version=None)
    add('--model-version', metavar='TEXT', help='Default: 1.')


def _add_fetching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--url', help='Instead of the address in the description.')
    parser.add_argument('--sha256', metavar='HEX', type=_digest, help='Of the file at --url.')


def _digest(text: str) -> str:
    if len(text) != 64 or set(text.lower()) - set('0123456789abcdef'):
        raise argparse.ArgumentTypeError(f'{text!r} is not 64 hexadecimal digits')
    return text.lower()


def main(arguments: list[str]) -> int:
    """Do what is asked for."""
    options = build_parser().parse_args(arguments)
    if options.action == 'list':
        from mslesseg_app.models.overview import table
        from mslesseg_app.models.registry import list_entries

        print(table(list_entries(options.model_dir)))
        return 0
    actions = {'show': _show, 'add': _add, 'fetch': _fetch, 'verify': _verify, 'remove': _remove}
    return actions[options.action](options)


def _show(options: argparse.Namespace) -> int:
    from mslesseg_app.models.overview import model_text
    from mslesseg_app.models.registry import get_entry

    print(model_text(get_entry(options.name, options.model_dir)))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from mslesseg_app.models.check import check_model
    from mslesseg_app.models.registry import get_entry

    entry = get_entry(options.name, options.model_dir)
    check_model(entry, thorough=True)
    if not entry.needs_weights:
        print(f'{entry.name}: has no weights')
    for path in entry.weights_paths:
        print(f'{entry.name}: {path} has the right hash and fits')
    return 0


def _add(options: argparse.Namespace) -> int:
    from mslesseg_app.models.store import add_command, add_model

    folder, overrides = _folder(options), _overrides(options)
    if (options.file is None) == (options.engine_command is None):
        raise UsageError(
            'What is to be added is not clear.', 'Give either FILE or --engine-command COMMAND.'
        )
    if options.file is None:
        entry = add_command(options.engine_command, folder, overrides, force=options.force)
        print(f'{entry.name}: the program is described in {folder}')
        return 0
    entry = add_model(options.file, folder, overrides, force=options.force)
    files = ', '.join(str(path) for path in entry.weights_paths)
    print(f'{entry.name}: {files} is described in {folder}')
    return 0


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a description that were given."""
    fields = ('name', 'architecture', 'missing', 'normalisation', 'threshold', 'licence')
    overrides = {key: getattr(options, key) for key in fields}
    for key in ('channels', 'required'):
        overrides[key] = tuple(getattr(options, key) or ()) or None
    overrides['version'] = options.model_version
    overrides['patch'] = _edges(options.patch)
    overrides = {key: value for key, value in overrides.items() if value is not None}
    overrides['options'] = dict(map(_option, options.option))
    overrides['card'] = {'title': options.title} if options.title else {}
    return overrides


def _edges(numbers: list[int] | None) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    if len(numbers) not in (1, 3):
        raise UsageError(
            f'--patch takes one edge or three, not {len(numbers)}.', 'For example: --patch 96'
        )
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


def _option(text: str) -> tuple[str, Any]:
    """Read ``key=value``; the value is TOML, or a word."""
    key, sign, value = text.partition('=')
    if not sign or not key.isidentifier():
        raise UsageError(
            f'--option {text!r} is not of the form KEY=VALUE.', 'For example: --option base=16'
        )
    try:
        return key, tomllib.loads(f'value = {value}')['value']
    except tomllib.TOMLDecodeError:
        return key, value


def _fetch(options: argparse.Namespace) -> int:
    from mslesseg_app.models.check import check_model
    from mslesseg_app.models.download_weights import fetch_model
    from mslesseg_app.models.registry import get_entry

    folder = _folder(options)
    entry = get_entry(options.name, folder if folder.is_dir() else None)
    paths = fetch_model(
        entry, folder, url=options.url, sha256=options.sha256, offline=options.offline
    )
    check_model(get_entry(options.name, folder), thorough=True)
    for path in paths:
        print(f'{entry.name}: {path} has the right hash and fits')
    return 0


def _remove(options: argparse.Namespace) -> int:
    from mslesseg_app.models.store import removable, remove_model

    folder = _folder(options)
    if sys.stdin.isatty() and not options.yes:
        names = ', '.join(path.name for path in removable(options.name, folder))
        raise UsageError(f'This would remove {names} from {folder}.', 'To do so, add --yes.')
    for path in remove_model(options.name, folder):
        print(f'Removed {path}')
    return 0


def _folder(options: argparse.Namespace) -> Path:
    if options.model_dir is None:
        raise UsageError(
            'In which folder your models lie is not known.',
            'Give --model-dir DIR, or set MSLESSEG_MODEL_DIR.',
        )
    return Path(os.path.abspath(options.model_dir))
