"""``mslesseg BIDS_DIR OUT_DIR {participant,group}``: parsing and exit codes only."""

from __future__ import annotations

import argparse
import os
import shlex
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from mslesseg_app import __version__
from mslesseg_app.cli import parsing
from mslesseg_app.cli.setting_options import add_settings, values_of
from mslesseg_app.core.errors import NoInputError, UsageError

if TYPE_CHECKING:
    from mslesseg_app.core.settings import Settings, SubjectReference

_LEVELS = {'participant': 'participant', 'group': 'group'}
_ALIASES = {'subject': 'participant', 'dataset': 'group'}
_KNOWN_DERIVATIVES = ('manual', 'edited')


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; it asks nothing of the network and imports nothing heavy."""
    from mslesseg_app.cli.main import commands

    parser = parsing.Parser(
        prog='mslesseg',
        usage='mslesseg BIDS_DIR OUTPUT_DIR {participant,group} ... [options]\n'
        '       mslesseg COMMAND ... (see below)',
        description=commands(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_positionals(parser)
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add everything but the positional arguments."""
    groups = add_settings(parser)
    _add_subset(groups['subset'])
    _add_other(groups['other'])


def main(arguments: list[str]) -> int:
    """Run the BIDS App."""
    return run(build_parser().parse_args(arguments), shlex.join(['mslesseg', *arguments]))


def run(options: argparse.Namespace, command: str) -> int:
    """Run the levels that parsed options ask for."""
    settings = to_settings(options, command)
    levels = [_ALIASES.get(level, level) for level in options.analysis_level]
    code = 0
    if 'participant' in levels:
        code = _participant(options, settings)
    if 'group' in levels and not (options.dry_run or options.boilerplate_only):
        code = _group(options, settings, code)
    return code


def _group(options: argparse.Namespace, settings: Settings, code: int) -> int:
    """Run the group level, also after some exams failed: their exit code is kept."""
    from mslesseg_app.group import run_group

    try:
        return run_group(settings, quiet=options.quiet) or code
    except NoInputError:
        if not code:
            raise
        return code


def _participant(options: argparse.Namespace, settings: Settings) -> int:
    from mslesseg_app.participant import run as app

    if options.reports_only:
        return app.write_reports(settings, quiet=options.quiet)
    if options.boilerplate_only:
        return app.write_boilerplate(settings, quiet=options.quiet)
    return app.run_participants(settings, quiet=options.quiet, dry_run=options.dry_run)


def to_settings(options: argparse.Namespace, command: str) -> Settings:
    """Turn parsed options into settings, paths made absolute.

    Raises
    ------
    UsageError
        If folders lie in one another in a way that would harm the input.
    """
    from mslesseg_app.core.settings import Settings

    bids_dir, out_dir = options.bids_dir.absolute(), options.output_dir.absolute()
    work_dir = options.work_dir.absolute()
    for path in (bids_dir, out_dir, work_dir, *(path for _, path in options.derivatives)):
        check_name(path)
    check_folders(bids_dir, out_dir, work_dir)
    nprocs = options.nprocs or len(os.sched_getaffinity(0))
    derived = {
        'bids_dir': bids_dir,
        'out_dir': out_dir,
        'work_dir': work_dir,
        'derivatives': _derivatives(options.derivatives),
        'bids_database_dir': _absolute(options.bids_database_dir),
        'model': tuple(dict.fromkeys(options.model)),
        'model_dir': _absolute(options.model_dir),
        'subject_anatomical_reference': _reference(options),
        'require': _required(options.require, options.ignore),
        'ignore': tuple(options.ignore),
        'change_extent': min(options.change_extent, options.change_threshold),
        'review': _absolute(options.review),
        'nprocs': nprocs,
        'omp_nthreads': min(options.omp_nthreads or max(1, min(nprocs - 1, 8)), nprocs),
        'run_uuid': uuid.uuid4().hex[:12],
        'command': command,
    }
    return Settings(**{**values_of(options), **derived})


def check_name(path: Path) -> None:
    """Make sure that the name of a folder can be written into tables, reports and settings.

    Raises
    ------
    UsageError
        If it has bytes that are not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f'The name of the folder {str(path)!a} has bytes that are not UTF-8.',
            'Rename it, or reach it by a link with another name.',
        ) from error


def check_folders(bids_dir: Path, out_dir: Path, work_dir: Path) -> None:
    """Make sure that no output lands in the input.

    ``BIDS_DIR/derivatives/<name>`` is where BIDS itself has derivatives, and is allowed.
    """
    bids, out, work = (path.resolve() for path in (bids_dir, out_dir, work_dir))
    suggestion = bids_dir / 'derivatives' / 'mslesseg'
    if out == bids:
        raise UsageError(
            'The output folder is the input dataset itself.', f'Use for example {suggestion}.'
        )
    derivatives = bids / 'derivatives'
    if bids in out.parents and (out == derivatives or derivatives not in out.parents):
        raise UsageError(
            f'The output folder {out_dir} lies within the input dataset.',
            f'Use a folder outside of it, or {suggestion}.',
        )
    if bids == work or bids in work.parents:
        raise UsageError(
            f'The work folder {work_dir} lies within the input dataset.',
            'Choose another with -w/--work-dir.',
        )
    if out == work or out in work.parents:
        raise UsageError(
            f'The work folder {work_dir} lies within the output dataset, which would not be '
            'valid BIDS with it.',
            f'Choose another with -w/--work-dir, for example {out_dir.parent / "work"}.',
        )


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path is not None else None


def _required(names: list[str], ignored: list[str]) -> tuple[str, ...]:
    """Return the modalities an exam must have; the FLAIR always is one of them."""
    proper = {'flair': 'FLAIR', 't1w': 'T1w', 't2w': 'T2w'}
    required = tuple(dict.fromkeys(['FLAIR', *(proper[name.lower()] for name in names)]))
    for name in required:
        if name.lower() in ignored:
            raise UsageError(
                f'--require {name} and --ignore {name.lower()} exclude each other.',
                'Leave one of them out.',
            )
    return required


def _reference(options: argparse.Namespace) -> SubjectReference:
    """Return the anatomical reference of a subject, where strategy and engine can have it."""
    reference: SubjectReference = options.subject_anatomical_reference
    if reference == 'unbiased' and options.strategy == 'independent':
        raise UsageError(
            '--subject-anatomical-reference unbiased and --strategy independent exclude each '
            'other: the first shares one alignment among images, the second shares none.',
            'Use --strategy anchored, or --subject-anatomical-reference sessionwise.',
        )
    if reference == 'unbiased' and options.engine == 'fsl':
        raise UsageError(
            '--engine fsl has no --subject-anatomical-reference unbiased.',
            'Use --engine builtin (or auto, which takes builtin then).',
        )
    return reference


def _derivatives(pairs: list[tuple[str, Path]]) -> dict[str, Path]:
    unknown = [name for name, _ in pairs if name not in _KNOWN_DERIVATIVES]
    if unknown:
        raise UsageError(
            f'--derivatives knows nothing of {", ".join(unknown)}.',
            f'Known: {", ".join(_KNOWN_DERIVATIVES)} (reference lesion masks, and masks that you '
            'corrected).',
        )
    return {name: path.absolute() for name, path in pairs}


def _add_positionals(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'bids_dir',
        type=Path,
        help='The root folder of a BIDS valid dataset (sub-XXXXX folders should be found at the '
        'top level in this folder).',
    )
    parser.add_argument(
        'output_dir', type=Path, help='The output path for the masks, tables and reports.'
    )
    parser.add_argument(
        'analysis_level',
        nargs='+',
        choices=[*_LEVELS, *_ALIASES],
        metavar='{participant,group}',
        help='Processing stage to be run: participant for masks, tables and reports; group for '
        'tables and a report of all exams. Both may be given.',
    )


def _add_subset(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--dry-run', action='store_true', help='Print the exams and outputs, and do nothing.'
    )
    group.add_argument(
        '--reports-only',
        action='store_true',
        help='Only write the participant reports again, from results in the output folder.',
    )
    group.add_argument(
        '--boilerplate-only', action='store_true', help='Only write the methods text.'
    )


def _add_other(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--notrack', action='store_true', help='Accepted for compatibility: nothing is tracked.'
    )
    group.add_argument('-q', '--quiet', action='store_true', help='Print nothing but errors.')
    group.add_argument('-v', '--version', action='version', version=f'mslesseg {__version__}')
