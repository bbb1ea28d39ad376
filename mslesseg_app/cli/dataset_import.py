"""``mslesseg import SOURCE BIDS_DIR``: a public data set into BIDS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mslesseg_app.cli import parsing

if TYPE_CHECKING:
    from mslesseg_app.bids.public.reading import Reading

#: A test holds them to `mslesseg_app.bids.public.layouts.KNOWN`.
LAYOUTS = ('auto', 'mslesseg', 'isbi2015', 'msseg2016', 'open_ms_data')


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``import``."""
    parser = parsing.Parser(
        prog='mslesseg import',
        description='Turn a public data set of MS lesions (MSLesSeg and others) into a BIDS '
        'dataset with the manual masks in derivatives. Broken cases are left out and named; then '
        'the exit code is 1.',
        allow_abbrev=False,
    )
    parser.add_argument(
        'source', type=Path, metavar='SOURCE', help='Folder of the data set, or its zip.'
    )
    parser.add_argument('bids_dir', type=Path, metavar='BIDS_DIR', help='Dataset to write.')
    parser.add_argument(
        '--layout',
        choices=LAYOUTS,
        default='auto',
        help='Which data set it is (default: recognised by its folders).',
    )
    parser.add_argument('-q', '--quiet', action='store_true', help='Print nothing but errors.')
    return parser


def main(arguments: list[str]) -> int:
    """Import, and name what was left out."""
    options = build_parser().parse_args(arguments)
    from mslesseg_app.bids.public.dataset import REPORT, import_release

    def tell(number: int, count: int, reading: Reading) -> None:
        if not options.quiet:
            print(f'[{number} of {count}] {reading.case.name}: {reading.status}', flush=True)

    done = import_release(options.source, options.bids_dir, options.layout, tell)
    for note in done.notes:
        print(f'mslesseg: warning: {note}', file=sys.stderr)
    for reading in done.readings:
        for text in filter(None, (reading.refused, *reading.lost)):
            print(f'mslesseg: error: {reading.case.name}: {text}', file=sys.stderr)
    taken = sum(not reading.refused for reading in done.readings)
    if not options.quiet:
        print(
            f'{taken} of {len(done.readings)} cases of the layout {done.layout} are in '
            f'{done.bids_dir}; {done.bids_dir / REPORT} has one line for each.'
        )
    return 0 if done.complete else 1
