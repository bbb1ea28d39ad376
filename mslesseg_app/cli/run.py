"""``mslesseg run SOURCE... OUT_DIR``: convert DICOM files, and run the App on the result."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from mslesseg_app.cli import bids_app, parsing
from mslesseg_app.cli import convert as convert_cli

_MAP = '--subject-map'


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``run``: the options of ``convert`` and of the App."""
    parser = parsing.Parser(
        prog='mslesseg run',
        usage='mslesseg run SOURCE [SOURCE ...] OUT_DIR [options]',
        description='Convert DICOM files to the BIDS dataset OUT_DIR/rawdata and find the lesions '
        'in it; masks, tables and reports go to OUT_DIR/derivatives/mslesseg, the key to the '
        'subjects to OUT_DIR-private/subjects.json. The options are those of "mslesseg convert" '
        'and of the App.',
        allow_abbrev=False,
    )
    parser.add_argument(
        'places',
        type=Path,
        nargs='+',
        metavar='PATH',
        help='Sources (folders, DICOMDIR, archives, files) and, last, OUT_DIR.',
    )
    parser.add_argument(
        '--analysis-level',
        nargs='+',
        choices=['participant', 'group'],
        default=['participant'],
        metavar='LEVEL',
        help='participant, group or both, see "mslesseg --help" (default: participant).',
    )
    convert_cli.add_options(parser)
    bids_app.add_options(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Convert, then run the App; a series that failed does not stop the others."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if len(options.places) < 2:
        parser.error('two paths are needed at least: SOURCE and OUT_DIR')
    out = options.places[-1].absolute()
    options.bids_dir = out / 'rawdata'
    options.output_dir = out / 'derivatives' / 'mslesseg'
    if options.subject_map is None:
        from mslesseg_app.dicom.deidentify.private_records import default_map

        options.subject_map = default_map(out)
    bids_app.to_settings(options, '')  # its complaints before, not after, the conversion
    from mslesseg_app.dicom.convert.run import convert
    from mslesseg_app.dicom.convert.tables import warn_of_names

    sources = options.places[:-1]
    code = convert(convert_cli.to_request(options, sources, options.bids_dir))
    if options.dry_run:
        return code
    warn_of_names(options.subject_map.absolute(), [out, options.work_dir.absolute()])
    return bids_app.run(options, recorded_command(arguments, sources)) or code


def recorded_command(arguments: list[str], sources: list[Path]) -> str:
    """Return the command line as the outputs show it.

    The paths of sources and subject map are left out: folders of DICOM files are often named
    after the patient.
    """
    shown, follows = [], False
    for word in arguments:
        name, equals, _ = word.partition('=')
        if follows:
            word = 'SUBJECT_MAP'
        elif name == _MAP and equals:
            word = f'{_MAP}=SUBJECT_MAP'
        elif Path(word) in sources:
            word = 'SOURCE'
        follows = word == _MAP
        shown.append(word)
    return shlex.join(['mslesseg', 'run', *shown])
