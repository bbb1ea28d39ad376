"""The Boutiques descriptor of the BIDS App, from its parser."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from mslesseg_app import __version__
from mslesseg_app.cli.bids_app import build_parser

PATH = Path(__file__).resolve().parent / 'boutiques.json'
#: Kinds of arguments that are numbers, by the name of what they are read by.
NUMBERS = {'count': (1, True), 'seed': (0, True), 'int': (None, True), 'read': (None, False)}
FILES = {'FILE', 'DIR'}
#: They end the program before it does anything.
ASIDE = ('help', 'version')


def text() -> str:
    """Return the descriptor as JSON."""
    return json.dumps(describe(build_parser()), indent=2, ensure_ascii=False) + '\n'


def describe(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the descriptor (schema 0.5) of a parser."""
    actions = [action for action in parser._actions if action.dest not in ASIDE]
    places = [action for action in actions if not action.option_strings]
    options = [action for action in actions if action.option_strings]
    inputs = [item(action, parser) for action in [*places, *options]]
    # the level comes before options that take several values, or they would swallow it
    line = ' '.join(['mslesseg', *(one['value-key'] for one in inputs)])
    groups = [
        {
            'id': re.sub(r'\W+', '_', group.title or '').strip('_').lower(),
            'name': group.title,
            'members': [a.dest for a in group._group_actions if a.dest not in ASIDE],
        }
        for group in parser._action_groups
        if group.title and group._group_actions and group.title.startswith(('Opt', 'Work', 'Oth'))
    ]
    return {
        'name': 'mslesseg',
        'tool-version': __version__,
        'schema-version': '0.5',
        'author': 'The mslesseg developers',
        'description': 'BIDS App that segments multiple sclerosis lesions in brain MRI. '
        'For research use only; not a medical device.',
        'command-line': line,
        'inputs': inputs,
        'groups': groups,
        'output-files': [
            {
                'id': 'output',
                'name': 'BIDS derivative dataset',
                'description': 'Masks, tables, sidecars and pages.',
                'path-template': '[OUTPUT_DIR]',
            },
            {
                'id': 'pages',
                'name': 'Reports',
                'path-template': '[OUTPUT_DIR]/*.html',
                'list': True,
                'optional': True,
            },
        ],
        'error-codes': error_codes(),
        'tags': {'domain': ['neuroinformatics', 'mri'], 'bids-app': True},
    }


def error_codes() -> list[dict[str, Any]]:
    """Return the exit codes of our errors and what they mean."""
    from mslesseg_app.core import errors

    family: list[type[errors.MSLesSegError]] = [
        errors.MSLesSegError,
        *errors.MSLesSegError.__subclasses__(),
    ]
    first: dict[int, str] = {}
    for kind in family:
        first.setdefault(kind.exit_code, (kind.__doc__ or '').splitlines()[0])
    first[1] = 'Something that was not foreseen.'
    return [{'code': code, 'description': first[code]} for code in sorted(first)]


def item(action: argparse.Action, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Return the description of one argument."""
    found: dict[str, Any] = {
        'id': action.dest,
        'name': action.dest.replace('_', ' '),
        'value-key': f'[{action.dest.upper()}]',
        'description': parser._get_formatter()._expand_help(action),
        **kind(action),
    }
    if action.option_strings:
        flags = [flag for flag in action.option_strings if flag.startswith('--')]
        found['command-line-flag'] = flags[0]
        found['optional'] = True
    if action.nargs == '+':
        found['list'] = True
        found['min-list-entries'] = 1
    if action.choices:
        found['value-choices'] = list(action.choices)
    return found


def kind(action: argparse.Action) -> dict[str, Any]:
    """Return the type of an argument, and the limits that its reader sets."""
    if action.nargs == 0:
        return {'type': 'Flag'}
    reader = getattr(action.type, '__name__', '')
    if reader in NUMBERS:
        least, whole = NUMBERS[reader]
        limits = {'integer': True} if whole else {}
        return {'type': 'Number', **limits, **({} if least is None else {'minimum': least})}
    if action.dest != 'output_dir' and (action.metavar in FILES or action.dest == 'bids_dir'):
        return {'type': 'File'}
    return {'type': 'String'}
