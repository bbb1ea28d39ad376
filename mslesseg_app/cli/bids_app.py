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
from mslesseg_app.core.errors import NoInputError, UsageError
from mslesseg_app.core.settings import DEFAULT_MODEL

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
    _add_filters(parser)
    _add_performance(parser)
    _add_subset(parser)
    _add_workflow(parser)
    _add_lesions(parser)
    _add_evaluation(parser)
    _add_other(parser)


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
    return Settings(
        bids_dir=bids_dir,
        out_dir=out_dir,
        work_dir=work_dir,
        participants=options.participant_label,
        sessions=options.session_label,
        bids_filters=options.bids_filter_file,
        derivatives=_derivatives(options.derivatives),
        bids_database_dir=_absolute(options.bids_database_dir),
        skip_bids_validation=options.skip_bids_validation,
        model=tuple(dict.fromkeys(options.model)),
        ensemble=options.ensemble,
        preset=options.preset,
        uncertainty=options.uncertainty,
        model_dir=_absolute(options.model_dir),
        engine=options.engine,
        strategy=options.strategy,
        subject_anatomical_reference=_reference(options),
        on_failed_alignment=options.on_failed_alignment,
        require=_required(options.require, options.ignore),
        ignore=tuple(options.ignore),
        threshold=options.threshold,
        min_lesion_volume=options.min_lesion_volume,
        connectivity=options.connectivity,
        device=options.device,
        rules=options.rules,
        longitudinal=options.longitudinal,
        change_threshold=options.change_threshold,
        change_extent=min(options.change_extent, options.change_threshold),
        min_change_volume=options.min_change_volume,
        review=_absolute(options.review),
        random_seed=options.random_seed,
        nprocs=nprocs,
        omp_nthreads=min(options.omp_nthreads or max(1, min(nprocs - 1, 8)), nprocs),
        mem_gb=options.mem,
        discard_intermediates=options.discard_intermediates,
        stop_on_first_crash=options.stop_on_first_crash,
        resource_monitor=options.resource_monitor,
        write_graph=options.write_graph,
        write_provenance=options.write_provenance,
        offline=options.offline,
        run_uuid=uuid.uuid4().hex[:12],
        command=command,
    )


def check_name(path: Path) -> None:
    """Make sure that the name of a folder can be written into tables, pages and settings.

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


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Options for filtering BIDS queries')
    group.add_argument(
        '--skip-bids-validation',
        '--skip_bids_validation',
        '--skip-bids-validator',
        '--skip_bids_validator',
        action='store_true',
        help='Assume the input dataset is BIDS compliant and skip the validation.',
    )
    group.add_argument(
        '--participant-label',
        '--participant_label',
        nargs='+',
        default=(),
        action=parsing.labels('sub-'),
        metavar='LABEL',
        help='Participant labels, separated by spaces, or a text file with one label per line '
        '(with or without sub-).',
    )
    group.add_argument(
        '--session-label',
        '--session_label',
        '--session-id',
        nargs='+',
        default=(),
        action=parsing.labels('ses-'),
        metavar='LABEL',
        help='The same for sessions (the ses- prefix can be removed).',
    )
    group.add_argument(
        '--bids-filter-file',
        type=parsing.filters,
        default={},
        metavar='FILE',
        help='A JSON file describing custom BIDS input filters using PyBIDS, by modality (flair, '
        't1w, t2w); null asks for the absence of an entity, "*" for any value.',
    )
    group.add_argument(
        '-d',
        '--derivatives',
        nargs='+',
        default=[],
        type=parsing.package_path,
        metavar='PACKAGE=PATH',
        help='Search PATH(s) for pre-computed derivatives. manual=PATH holds reference lesion '
        'masks: accuracy is then written to the metrics tables. edited=PATH holds lesion masks '
        'that you corrected: they take the place of the masks of the model.',
    )
    group.add_argument(
        '--review',
        type=Path,
        metavar='FILE',
        help='Marks of the exams as the group report saves them, beside group_review.tsv in the '
        'output folder: redo computes an exam anew, exclude leaves it out.',
    )
    group.add_argument(
        '--bids-database-dir',
        type=Path,
        metavar='DIR',
        help='Folder of a PyBIDS database, for quick indexing of large datasets.',
    )


def _add_performance(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Options to handle performance')
    group.add_argument(
        '--nprocs',
        '--nthreads',
        '--n-cpus',
        '--n_cpus',
        type=parsing.count,
        metavar='N',
        help='Maximum number of threads across all processes (default: all).',
    )
    group.add_argument(
        '--omp-nthreads',
        '--omp_nthreads',
        type=parsing.count,
        metavar='N',
        help='Maximum number of threads per process (default: one less than --nprocs, at most 8).',
    )
    group.add_argument(
        '--mem',
        '--mem-mb',
        '--mem_mb',
        type=parsing.memory_gb,
        metavar='SIZE',
        help='Upper bound memory limit, such as 8G or 1.5G; a bare number is in MB.',
    )
    group.add_argument(
        '--device',
        type=parsing.device,
        default='auto',
        metavar='{auto,cpu,cuda[:N]}',
        help='Where networks run; auto takes a GPU that works, else the CPU (default: auto).',
    )


def _add_subset(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Options for performing only a subset of the workflow')
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


def _add_workflow(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Workflow configuration')
    group.add_argument(
        '--engine',
        choices=['auto', 'fsl', 'builtin'],
        default='auto',
        help='Alignment and brain extraction: fsl (FLIRT and BET) or builtin; auto takes fsl '
        'where it is installed (default: auto).',
    )
    group.add_argument(
        '--strategy',
        choices=['anchored', 'independent'],
        default='anchored',
        help='anchored: one image to the template, the others to it; independent: each image to '
        'the template by 12 DOF, as in the MSLesSeg paper (default: anchored).',
    )
    group.add_argument(
        '--subject-anatomical-reference',
        '--subject_anatomical_reference',
        choices=['sessionwise', 'unbiased'],
        default='sessionwise',
        help='sessionwise: each session is aligned on its own; unbiased: the sessions of a '
        'participant are aligned through a template made of all of them, so that change between '
        'sessions is not change of alignment (default: sessionwise).',
    )
    group.add_argument(
        '--on-failed-alignment',
        choices=['stop', 'flag'],
        default='stop',
        help='What to do with an exam whose alignment cannot be trusted: stop it, or go on with '
        'a red box in its report (default: stop).',
    )
    group.add_argument(
        '--require',
        nargs='+',
        default=['FLAIR'],
        choices=['FLAIR', 'T1w', 'T2w', 'flair', 't1w', 't2w'],
        metavar='MODALITY',
        help='Modalities without which an exam is refused (default: FLAIR).',
    )
    group.add_argument(
        '--ignore',
        nargs='+',
        default=[],
        choices=['t1w', 't2w', 'bias-correction'],
        help='Aspects of the input or of the processing to leave out.',
    )
    group.add_argument(
        '--random-seed',
        type=parsing.seed,
        default=1,
        metavar='N',
        help='Seed of everything that draws random numbers (default: 1).',
    )


def _add_lesions(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Options for the lesions')
    group.add_argument(
        '--model',
        nargs='+',
        default=[DEFAULT_MODEL],
        metavar='NAME',
        help='Model of the registry; see "mslesseg models list" (default: %(default)s). '
        'Several are combined, see --ensemble.',
    )
    group.add_argument(
        '--ensemble',
        choices=['mean', 'majority', 'staple'],
        help='How several models are combined: mean of their probabilities, majority vote or '
        "STAPLE (default: mean). Results carry this name instead of a model's.",
    )
    group.add_argument(
        '--preset',
        choices=['fast', 'exact'],
        default='fast',
        help='exact: inference settings of the publication; fast: nearly the same mask in a '
        'fraction of the time (default: fast).',
    )
    group.add_argument(
        '--uncertainty',
        choices=['none', 'entropy', 'variance'],
        default='none',
        help='Write an uncertainty map, and its mean per lesion: entropy of the probability, or '
        'its variance over diffusion chains, flips, folds or models (default: none).',
    )
    group.add_argument(
        '--model-dir',
        type=Path,
        default=parsing.environment_path('MSLESSEG_MODEL_DIR'),
        metavar='DIR',
        help='A folder with models of your own (default: $MSLESSEG_MODEL_DIR).',
    )
    group.add_argument(
        '--threshold',
        type=parsing.number(0.001, 1),
        metavar='P',
        help="Probability at and above which a voxel is lesion (default: the model card's).",
    )
    group.add_argument(
        '--min-lesion-volume',
        type=parsing.number(0),
        default=3.0,
        metavar='MM3',
        help='Smallest lesion that is kept, in mm³ on the native grid (default: 3).',
    )
    group.add_argument(
        '--connectivity',
        type=int,
        choices=[6, 18, 26],
        default=6,
        help='Neighbours that make voxels one lesion (default: 6).',
    )
    group.add_argument(
        '--longitudinal',
        choices=['joint', 'independent'],
        default='joint',
        help='joint: sessions of a participant are also segmented together, in files of their '
        'own; independent: each session alone (default: joint).',
    )
    group.add_argument(
        '--change-threshold',
        type=parsing.number(0),
        default=5.0,
        metavar='SD',
        help='Difference between the FLAIRs of two sessions, in standard deviations, that a '
        'change reaches at its strongest voxel (default: 5).',
    )
    group.add_argument(
        '--change-extent',
        type=parsing.number(0),
        default=3.0,
        metavar='SD',
        help='Difference down to which a change extends from there (default: 3).',
    )
    group.add_argument(
        '--min-change-volume',
        type=parsing.number(0),
        default=15.0,
        metavar='MM3',
        help='Smallest change between sessions, in mm³ (default: 15).',
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Options for the evaluation (group level)')
    group.add_argument(
        '--rules',
        choices=['mslesseg', 'isbi2015', 'msseg2016', 'mslesseg-official'],
        default='mslesseg',
        help='Rule set by which masks are compared with reference masks; it changes no mask '
        '(default: mslesseg).',
    )


def _add_other(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Other options')
    group.add_argument(
        '-w',
        '--work-dir',
        '--work_dir',
        type=Path,
        default=Path('work'),
        metavar='DIR',
        help='Folder of intermediate results; keep it, and a second run recomputes nothing '
        '(default: ./work).',
    )
    group.add_argument(
        '--discard-intermediates',
        action='store_true',
        help='Remove the intermediate results of each exam from the work folder as soon as the '
        'exam is finished. A second run with the same settings still leaves it as it is; with '
        'other settings all of it is computed again (default: keep them).',
    )
    group.add_argument(
        '--write-graph',
        action='store_true',
        help='Write the workflow graph of an exam to logs/.',
    )
    group.add_argument(
        '--write-provenance',
        action='store_true',
        help="Write Nipype's W3C PROV record of the run to logs/.",
    )
    group.add_argument(
        '--resource-monitor', action='store_true', help="Record each node's time and memory."
    )
    group.add_argument(
        '--stop-on-first-crash',
        action='store_true',
        help='Stop everything when one exam fails, instead of finishing the others.',
    )
    group.add_argument(
        '--offline',
        action='store_true',
        default=parsing.environment_flag('MSLESSEG_OFFLINE'),
        help='Refuse every download (default: $MSLESSEG_OFFLINE). Nothing is downloaded without '
        'being asked for either way.',
    )
    group.add_argument(
        '--notrack', action='store_true', help='Accepted for compatibility: nothing is tracked.'
    )
    group.add_argument('-q', '--quiet', action='store_true', help='Print nothing but errors.')
    group.add_argument('-v', '--version', action='version', version=f'mslesseg {__version__}')
