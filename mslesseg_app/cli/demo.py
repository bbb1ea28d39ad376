"""``mslesseg demo DIR``: a synthetic head with lesions, through the whole App."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import parsing


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``demo``."""
    parser = parsing.Parser(
        prog='mslesseg demo',
        description='Make a small BIDS dataset of a synthetic head (T1w, T2w and FLAIR of two '
        'sessions, with lesions whose true mask is known) and run the App on it. Options of the '
        'App may follow after "--", for example: mslesseg demo DIR -- --nprocs 2',
        allow_abbrev=False,
    )
    parser.add_argument('folder', type=Path, metavar='DIR', help='Folder to work in.')
    parser.add_argument(
        '--data-only', action='store_true', help='Make the dataset and do not run the App.'
    )
    parser.add_argument('--random-seed', type=parsing.seed, default=1, metavar='N')
    parser.add_argument(
        '--resolution',
        type=parsing.number(1, 3),
        default=1.0,
        metavar='MM',
        help='Resolution of the head; 2 is quick and coarse (default: 1).',
    )
    return parser


def main(arguments: list[str]) -> int:
    """Make the dataset, run the App and say where to look."""
    own, rest = _split(arguments)
    options = build_parser().parse_args(own)
    from ..demo.dataset import make_dataset

    folder: Path = options.folder.absolute()
    dataset = make_dataset(
        folder / 'bids', seed=options.random_seed, resolution=options.resolution
    )
    print(f'Dataset: {dataset.bids_dir}', flush=True)
    if options.data_only:
        return 0
    from .bids_app import main as run_app

    command = [str(dataset.bids_dir), str(folder / 'out'), 'participant', 'group']
    command += ['-w', str(folder / 'work'), '--derivatives', f'manual={dataset.manual_dir}']
    return run_app([*command, *rest])


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Part our own arguments from those of the App, which follow ``--``."""
    if '--' not in arguments:
        return arguments, []
    place = arguments.index('--')
    return arguments[:place], arguments[place + 1 :]
