"""``mslesseg hpc sbatch|status|train``: job scripts, how far they are, and trainings."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mslesseg_app.cli import bids_app, parsing
from mslesseg_app.core.errors import NoInputError, UsageError
from mslesseg_app.core.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from mslesseg_app.core.settings import Settings
    from mslesseg_app.deploy.hpc.participants import Participant
    from mslesseg_app.deploy.hpc.resources import JobResources
    from mslesseg_app.deploy.hpc.slurm import ArrayJob

#: Options of the App that the scripts set themselves.
OURS = {
    'participant_label': '--participant-label before the "--"',
    'nprocs': '--cpus before the "--"',
    'mem': '--mem before the "--"',
    'device': '--gpu before the "--"',
    'work_dir': '--work-dir or --scratch before the "--"',
    'dry_run': 'nothing: the scripts are there to be read',
    'reports_only': 'the command itself, it needs no cluster',
    'boilerplate_only': 'the command itself, it needs no cluster',
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``hpc``."""
    parser = parsing.Parser(
        prog='mslesseg hpc',
        description='Run the App or a training on a computing cluster with SLURM. Templates '
        'for other schedulers are in the folder hpc of the sources.',
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest='action', required=True, metavar='{sbatch,status,train}')
    for name, add, usage, text in (
        (
            'sbatch',
            _add_sbatch,
            'BIDS_DIR OUT_DIR [options] [-- options of the App]',
            'Write the scripts of a job array, one participant per task.',
        ),
        (
            'status',
            _add_status,
            'BIDS_DIR OUT_DIR [options]',
            'List which exams are done, failed or missing.',
        ),
        (
            'train',
            _add_train,
            '[options] -- arguments of mslesseg train',
            'Submit a training by submitit.',
        ),
    ):
        usage = f'mslesseg hpc {name} {usage}'
        add(actions.add_parser(name, help=text, usage=usage, allow_abbrev=False))
    return parser


def main(arguments: list[str]) -> int:
    """Do what is asked for; what follows ``--`` belongs to the App or the training."""
    cut = arguments.index('--') if '--' in arguments else len(arguments)
    options = build_parser().parse_args(arguments[:cut])
    rest = arguments[cut + 1 :]
    if options.action == 'status':
        return _status(options)
    return _sbatch(options, rest) if options.action == 'sbatch' else _train(options, rest)


def _sbatch(options: argparse.Namespace, rest: list[str]) -> int:
    from mslesseg_app.deploy.hpc.participants import find_participants, without_flair
    from mslesseg_app.deploy.hpc.slurm import write_scripts

    settings = _settings(options, rest)
    people = find_participants(settings.bids_dir, options.participant_label, settings.sessions)
    if without := without_flair(people):
        shown = ', '.join(without[:10]) + (' …' if len(without) > 10 else '')
        print(
            f'Warning: {len(without)} of {len(people)} participants have no FLAIR image, and '
            f'their tasks will fail: {shown}',
            file=sys.stderr,
        )
    _check_model(settings, inside=options.image is not None)
    if not (options.skip_bids_validation or settings.skip_bids_validation):
        from mslesseg_app.bids.validation import validate

        if warning := validate(settings.bids_dir):
            print(f'Warning: {warning}', file=sys.stderr)
    job = _job(options, rest, settings, people)
    written = write_scripts(job, options.scripts.absolute())
    if not options.quiet:
        _print_job(job, written)
    return 0


def _settings(options: argparse.Namespace, rest: list[str]) -> Settings:
    """Read the options of the App as the App would."""
    from mslesseg_app.deploy.hpc.slurm import check_path

    for path in (options.bids_dir, options.output_dir):
        check_path(path.absolute(), contained=options.image is not None)
    words = [str(options.bids_dir), str(options.output_dir), 'participant', *rest]
    parser = bids_app.build_parser()
    usual = {name: parser.get_default(name) for name in OURS}
    parser.set_defaults(**dict.fromkeys(OURS))  # None tells what was not given
    parsed = parser.parse_args(words)
    if parsed.analysis_level != ['participant']:
        raise UsageError('After "--" come options of the App, not the analysis level.')
    for name, instead in OURS.items():
        if getattr(parsed, name) is not None:
            option = f'--{name.replace("_", "-")}'
            raise UsageError(f'The scripts set {option} of the App themselves.', f'Use {instead}.')
        setattr(parsed, name, usual[name])
    # on scratch, only the node knows it
    parsed.work_dir = options.work_dir or Path('/nowhere/mslesseg')
    return bids_app.to_settings(parsed, '')


def _check_model(settings: Settings, *, inside: bool) -> None:
    """Find out now, not in ten thousand tasks, that a model does not exist or has no weights."""
    from mslesseg_app.models.check import check_model
    from mslesseg_app.models.prediction.ensemble import models_of
    from mslesseg_app.participant.run import chosen_model

    if inside and settings.model_dir is None:
        return  # the image may have other models than this installation
    for model in models_of(chosen_model(settings)):
        check_model(model)


def _job(
    options: argparse.Namespace, rest: list[str], settings: Settings, people: list[Participant]
) -> ArrayJob:
    from mslesseg_app.deploy.hpc.options import for_tasks
    from mslesseg_app.deploy.hpc.resources import JobResources
    from mslesseg_app.deploy.hpc.slurm import GROUP, ArrayJob, Site

    if options.image is not None and not options.image.is_file():
        raise NoInputError(f'The image {options.image} does not exist.', 'Give the .sif file.')
    words, paths = for_tasks(rest, settings)
    group = JobResources(
        cpus=options.group_cpus or GROUP.cpus,
        memory_mb=options.group_mem or GROUP.memory_mb,
        minutes=options.group_time or GROUP.minutes,
    )
    return ArrayJob(
        bids_dir=settings.bids_dir,
        out_dir=settings.out_dir,
        labels=tuple(one.label for one in people),
        resources=_resources(options, settings, max(one.exams for one in people)),
        group=group,
        site=Site(
            partition=options.partition,
            account=options.account,
            qos=options.qos,
            constraint=options.constraint,
            setup=tuple(options.setup),
            block=options.block,
            limit=options.limit or 0,
        ),
        program=tuple(options.program or (sys.executable, '-m', 'mslesseg_app')),
        image=options.image.absolute() if options.image else None,
        bound=tuple(path for path in paths if not path.is_relative_to(settings.bids_dir)),
        options=words,
        work_dir=options.work_dir.absolute() if options.work_dir else None,
        scratch=options.scratch,
        restarts=options.restarts,
    )


def _resources(options: argparse.Namespace, settings: Settings, exams: int) -> JobResources:
    """Estimate, and use what was given instead."""
    from mslesseg_app.deploy.hpc.resources import architectures, estimate

    inside = options.image is not None
    kinds = architectures(settings.model, settings.model_dir, inside=inside)
    if options.gpu and set(kinds) == {'hyperintensity'}:
        print('Warning: hyperintensity uses no GPU; leave --gpu out.', file=sys.stderr)
    found = estimate(
        kinds,
        preset=settings.preset,
        exams=exams,
        cpus=options.cpus,
        gpu=options.gres if options.gpu else '',
    )
    return replace(
        found,
        memory_mb=options.mem or found.memory_mb,
        minutes=options.time or found.minutes,
    )


def _print_job(job: ArrayJob, written: list[Path]) -> None:
    asked = job.resources
    print(f'{len(job.labels)} participants, one per task.')
    gpu = f', {asked.gpu}' if asked.gpu else ''
    print(f'Per task: {asked.cpus} cores, {asked.memory_mb} MiB, {asked.time}{gpu}.')
    for line in asked.why:
        print(f'  {line}')
    for path in written:
        print(f'Wrote {path}')
    print(f'Submit: bash {shlex.quote(str(written[-1]))}')


def _status(options: argparse.Namespace) -> int:
    """Print what became of the exams; 0 when all are done, else 1."""
    from mslesseg_app.core.files import write_text
    from mslesseg_app.deploy.hpc.status import DONE, FAILED, MISSING, left_over, read_states

    states = read_states(
        options.bids_dir,
        options.output_dir,
        options.model,
        options.participant_label,
        options.session_label,
    )
    counts = {name: sum(one.status == name for one in states) for name in (DONE, FAILED, MISSING)}
    print(', '.join(f'{number} {name}' for name, number in counts.items()))
    for one in states:
        if one.status == FAILED:
            print(f'{one.label}: {one.reason}')
    rest = left_over(states)
    if options.rest is not None and rest:
        write_text(options.rest, '\n'.join(rest) + '\n')
        words = ['mslesseg', 'hpc', 'sbatch', options.bids_dir, options.output_dir]
        words += ['--participant-label', options.rest]
        print(f'Wrote {options.rest} ({len(rest)} participants). For an array of them:')
        print(f'  {shlex.join(map(str, words))}')
    return 1 if rest else 0


def _train(options: argparse.Namespace, rest: list[str]) -> int:
    from mslesseg_app.cli import train
    from mslesseg_app.deploy.hpc.training import TrainingRequest, submit, with_absolute_paths

    if not rest:
        raise UsageError(
            'There is nothing to train.',
            'After "--" come the arguments of mslesseg train: '
            'mslesseg hpc train --jobs JOBS -- BIDS RUN_DIR --network unetr',
        )
    parsed = train.build_parser().parse_args(rest)
    if parsed.minutes != math.inf:
        raise UsageError(
            'A job has no use for --minutes: it is stopped in time, and goes on by itself.',
            'Use --time before the "--".',
        )
    train.make_plan(parsed, parsed.network)  # its complaints now, not on the node
    paths = (
        *parsed.data, parsed.run_dir, parsed.masks, parsed.preprocessed, parsed.cache,
        parsed.model_dir, parsed.start_from, parsed.lesion_shapes,
    )  # fmt: skip
    request = TrainingRequest(
        arguments=with_absolute_paths(rest, paths),
        folder=options.jobs.absolute(),
        local=options.local,
        nodes=options.nodes,
        processes=options.processes,
        gpus=options.gpus,
        cpus=options.cpus,
        memory_mb=options.mem or 16384,
        minutes=options.time or 1440,
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        constraint=options.constraint,
        setup=tuple(options.setup),
        restarts=options.restarts,
    )
    return submit(request, wait=options.wait, quiet=options.quiet)


def _add_sbatch(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = (
        'Write participant.sbatch, group.sbatch and submit.sh. Each task is one participant '
        '(all sessions), works on scratch, and starts again after exit code 75. The group level '
        'waits for all of them. Nothing is submitted.'
    )
    add('bids_dir', type=Path, metavar='BIDS_DIR', help='BIDS dataset, seen by all nodes.')
    add('output_dir', type=Path, metavar='OUT_DIR', help='Output, seen by all nodes.')
    add(
        '--scripts',
        type=Path,
        default=Path('mslesseg-jobs'),
        metavar='DIR',
        help='Folder of the scripts and logs (default: ./mslesseg-jobs).',
    )
    add(
        '--participant-label',
        nargs='+',
        default=(),
        action=parsing.labels('sub-'),
        metavar='LABEL',
        help='Participants, or a file with one per line (default: all).',
    )
    add(
        '--skip-bids-validation',
        action='store_true',
        help='Do not validate the dataset now; tasks never do.',
    )
    work = parser.add_mutually_exclusive_group()
    work.add_argument(
        '--scratch',
        default='',
        metavar='DIR',
        help="Folder of the node for the work, removed at the end; '$NAME' for a variable of the "
        'node (default: $SLURM_TMPDIR, else $TMPDIR, else /tmp).',
    )
    work.add_argument(
        '-w',
        '--work-dir',
        type=Path,
        metavar='DIR',
        help='Instead: a shared folder that is kept. A restarted task continues there.',
    )
    add('--image', type=Path, metavar='FILE', help='Apptainer image of the App.')
    add(
        '--program',
        type=shlex.split,
        default=(),
        metavar='WORDS',
        help='How the App is started without an image (default: as this command was).',
    )
    _add_resources(parser)
    _add_site(parser)


def _add_resources(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('--cpus', type=parsing.count, default=2, metavar='N', help='Cores per task (default: 2).')
    _add_asked(parser, 'per task (default: from measured values)')
    add('--gpu', action='store_true', help='Run networks on a GPU of the node.')
    add('--gres', default='gpu:1', metavar='WORD', help='What --gpu asks for (default: gpu:1).')
    add('--group-cpus', type=parsing.count, metavar='N', help='Cores of the group level.')
    add('--group-mem', type=parsing.mebibytes, metavar='SIZE', help='Memory of the group level.')
    add('--group-time', type=parsing.minutes, metavar='TIME', help='Wall time of the group level.')
    add('--limit', type=parsing.count, metavar='N', help='Tasks at the same time (default: all).')
    add(
        '--block',
        type=parsing.count,
        default=1000,
        metavar='N',
        help="Tasks of one array, less than the cluster's MaxArraySize (default: 1000).",
    )


def _add_status(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = (
        'Read from OUT_DIR which exams of BIDS_DIR are done, failed or missing. The exit code is '
        '0 when all are done, else 1.'
    )
    add('bids_dir', type=Path, metavar='BIDS_DIR', help='BIDS dataset.')
    add('output_dir', type=Path, metavar='OUT_DIR', help='Output of the tasks.')
    for kind, prefix in (('participant', 'sub-'), ('session', 'ses-')):
        add(
            f'--{kind}-label',
            nargs='+',
            default=(),
            action=parsing.labels(prefix),
            metavar='LABEL',
            help=f'{kind.capitalize()}s, or a file with one per line (default: all).',
        )
    add(
        '--model',
        default=DEFAULT_MODEL,
        metavar='NAME',
        help='Model whose results are searched, or the method that combined several (default: '
        '%(default)s).',
    )
    add(
        '--rest',
        type=Path,
        metavar='FILE',
        help='Write the participants with an unfinished exam, one per line, for '
        'mslesseg hpc sbatch --participant-label FILE.',
    )


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = (
        'Submit a training by submitit (pip install "mslesseg[hpc]"). When its time is over, or '
        'it is preempted, it is put into the queue again and goes on.'
    )
    add(
        '--jobs',
        type=Path,
        default=Path('mslesseg-jobs'),
        metavar='DIR',
        help="Folder of submitit's files and logs, seen by all nodes (default: ./mslesseg-jobs).",
    )
    add('--nodes', type=parsing.count, default=1, metavar='N', help='Machines (default: 1).')
    add(
        '--processes',
        type=parsing.count,
        default=1,
        metavar='N',
        help='Processes of the training per machine (default: 1).',
    )
    add('--gpus', type=parsing.seed, default=0, metavar='N', help='GPUs per machine (default: 0).')
    add(
        '--cpus',
        type=parsing.count,
        default=2,
        metavar='N',
        help='Cores per process (default: 2).',
    )
    _add_asked(parser, 'per machine (default: 16G, 24 hours)')
    add('--local', action='store_true', help='Run on this machine instead, by submitit too.')
    add('--wait', action='store_true', help='Wait for the end, and leave with its exit code.')
    _add_site(parser)


def _add_asked(parser: argparse.ArgumentParser, whose: str) -> None:
    add = parser.add_argument
    add('--mem', type=parsing.mebibytes, metavar='SIZE', help=f'Memory {whose}.')
    add('--time', type=parsing.minutes, metavar='TIME', help=f'Wall time {whose}.')


def _add_site(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    for name in ('partition', 'account', 'qos', 'constraint'):
        add(f'--{name}', default='', metavar='NAME', help=f'As in sbatch --{name}.')
    add(
        '--setup',
        action='append',
        default=[],
        metavar='LINE',
        help='A line of shell to begin with, such as "module load apptainer"; may be repeated.',
    )
    add(
        '--restarts',
        type=parsing.seed,
        default=3,
        metavar='N',
        help='How often a job may start again by itself (default: 3).',
    )
    add('-q', '--quiet', action='store_true', help='Print nothing but errors.')
