"""``mslesseg demo DIR``: a synthetic head with lesions, through the whole App."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mslesseg_app.cli import parsing


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``demo``."""
    parser = parsing.Parser(
        prog='mslesseg demo',
        description='Write DICOM files of a synthetic head (T1w, T2w and FLAIR of two visits, '
        'with lesions whose true mask is known), convert them to BIDS and run the App on them. '
        'Options of the App may follow after "--", for example: mslesseg demo DIR -- --nprocs 2',
        allow_abbrev=False,
    )
    parser.add_argument('folder', type=Path, metavar='DIR', help='Folder to work in.')
    parser.add_argument(
        '--data-only',
        action='store_true',
        help='Make and convert the data, and do not run the App.',
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
    from mslesseg_app.demo.studies import SUBJECT, write_references, write_studies
    from mslesseg_app.dicom.convert.plan import ConversionRequest
    from mslesseg_app.dicom.convert.run import convert
    from mslesseg_app.dicom.deidentify.private_records import default_map

    folder: Path = options.folder.absolute()
    bids_dir = folder / 'bids'
    sources = write_studies(folder, options.random_seed, options.resolution)
    print(f'DICOM files: {sources}', flush=True)
    request = ConversionRequest(
        sources=(sources,),
        bids_dir=bids_dir,
        work_dir=folder / 'work',
        subject_map=default_map(bids_dir),
        subject=SUBJECT,
        session_from='order',
        nprocs=len(os.sched_getaffinity(0)),
    )
    if code := convert(request):
        return code
    manual_dir = write_references(bids_dir, options.random_seed, options.resolution)
    print(f'Dataset: {bids_dir}', flush=True)
    if options.data_only:
        return 0
    from mslesseg_app.cli.bids_app import main as run_app

    command = [str(bids_dir), str(folder / 'out'), 'participant', 'group']
    command += ['-w', str(folder / 'work'), '--derivatives', f'manual={manual_dir}']
    return run_app([*command, *rest])


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Part our own arguments from those of the App, which follow ``--``."""
    if '--' not in arguments:
        return arguments, []
    place = arguments.index('--')
    return arguments[:place], arguments[place + 1 :]
