"""``mslesseg convert SOURCE... BIDS_DIR``: DICOM to BIDS; parsing and exit codes only."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mslesseg_app.cli import parsing
from mslesseg_app.core.errors import NoInputError, UsageError

if TYPE_CHECKING:
    from mslesseg_app.dicom.convert.plan import ConversionRequest


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``convert``."""
    parser = parsing.Parser(
        prog='mslesseg convert',
        usage='mslesseg convert SOURCE [SOURCE ...] BIDS_DIR [options]\n'
        '       mslesseg convert --check BIDS_DIR [--subject-map FILE]',
        description="Convert a scanner's DICOM files to a BIDS dataset without anyone's name in "
        'it: names, numbers, addresses, dates and faces are removed on the way. The sources are '
        'never changed.',
        allow_abbrev=False,
    )
    parser.add_argument(
        'places',
        type=Path,
        nargs='+',
        metavar='PATH',
        help='Sources (folders, DICOMDIR, tar or zip archives, files; patients may be mixed) and, '
        'last, the BIDS dataset: it is created, or extended.',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='Convert nothing; search BIDS_DIR (or derivatives of it) for what tells who the '
        'subjects are. Exit code 1 if anything is found, 66 without the subject map of the '
        'conversion, which holds what to search for.',
    )
    add_options(parser)
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='Print what would become of each series, and write nothing to BIDS_DIR.',
    )
    parser.add_argument(
        '--nprocs',
        '--n-cpus',
        type=parsing.count,
        metavar='N',
        help='Number of series that are converted at the same time (default: number of cores).',
    )
    parser.add_argument(
        '-w',
        '--work-dir',
        type=Path,
        default=Path('work'),
        metavar='DIR',
        help='Folder of intermediate results (default: ./work). Only you may read what is put '
        'there; keep it until all is done, and an interrupted conversion goes on.',
    )
    parser.add_argument('-q', '--quiet', action='store_true', help='Print nothing but errors.')
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``convert`` shares with ``run``."""
    group = parser.add_argument_group('Options for the conversion')
    group.add_argument(
        '--subject',
        type=label,
        metavar='LABEL',
        help='Label of the one patient in the sources (default: the next free number).',
    )
    group.add_argument(
        '--subject-map',
        type=Path,
        metavar='FILE',
        help='File that keeps which patient is which subject, readable by you alone, outside of '
        'any dataset (default: BIDS_DIR-private/subjects.json).',
    )
    group.add_argument(
        '--session-from',
        choices=['date', 'order', 'none'],
        default='date',
        help='Name sessions by the shifted date of the study or by their order, or have none '
        '(default: date).',
    )
    group.add_argument(
        '--heuristic',
        default='mslesseg',
        metavar='{mslesseg,reproin,FILE}',
        help="HeuDiConv's heuristic that decides which series becomes what (default: mslesseg).",
    )
    group.add_argument(
        '--deface',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='Remove faces from anatomical images; without it, people can be recognised '
        '(default: --deface).',
    )


def label(text: str) -> str:
    """Read a BIDS label."""
    bare = text.removeprefix('sub-')
    if not re.fullmatch(r'[A-Za-z0-9]+', bare):
        raise argparse.ArgumentTypeError(f'{text!r} is no label (letters and digits only)')
    return bare


def main(arguments: list[str]) -> int:
    """Convert, or check what was converted."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.check:
        return _check(options)
    if len(options.places) < 2:
        parser.error('two paths are needed at least: SOURCE and BIDS_DIR')
    from mslesseg_app.dicom.convert.run import convert

    return convert(to_request(options, options.places[:-1], options.places[-1]))


def to_request(
    options: argparse.Namespace, sources: list[Path], bids_dir: Path
) -> ConversionRequest:
    """Turn parsed options into a request, paths made absolute."""
    from mslesseg_app.dicom.convert.plan import ConversionRequest
    from mslesseg_app.dicom.deidentify.private_records import default_map

    bids_dir = bids_dir.absolute()
    chosen = options.subject_map
    return ConversionRequest(
        sources=tuple(source.absolute() for source in sources),
        bids_dir=bids_dir,
        work_dir=options.work_dir.absolute(),
        subject_map=chosen.absolute() if chosen else default_map(bids_dir),
        subject=options.subject,
        session_from=options.session_from,
        heuristic=options.heuristic,
        deface=options.deface,
        nprocs=options.nprocs or len(os.sched_getaffinity(0)),
        dry_run=options.dry_run,
        quiet=options.quiet,
    )


def _check(options: argparse.Namespace) -> int:
    if len(options.places) != 1:
        raise UsageError('--check takes one path, BIDS_DIR.', 'mslesseg convert --check BIDS_DIR')
    bids_dir = options.places[0].absolute()
    if not bids_dir.is_dir():
        raise NoInputError(f'There is no folder {bids_dir}.')
    from mslesseg_app.dicom.convert.tables import check

    chosen = options.subject_map
    return check(bids_dir, chosen.absolute() if chosen else None, options.quiet)
