"""``mslesseg crossval BIDS_DIR OUT_DIR``: the paper's cross-validation, to Tables 5 and 6."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mslesseg_app.cli import parsing
from mslesseg_app.cli.train import UNFINISHED, add_common, make_job, make_plan
from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.networks import NETWORKS

if TYPE_CHECKING:
    from mslesseg_app.training.experiments.crossval import CrossValidation

PAPER = tuple(name for name, spec in NETWORKS.items() if spec.paper)
#: A test holds them to `mslesseg_app.training.folds.SCHEMES`.
SCHEMES = ('table4', 'table4-printed', 'even')


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``crossval``."""
    parser = parsing.Parser(
        prog='mslesseg crossval',
        description='Train networks on the folds of the MSLesSeg paper (Table 4), evaluate each '
        'on the test set, and make Tables 5 and 6 beside those of the paper. Folds may run as '
        'separate jobs: --fold K, then --gather.',
        allow_abbrev=False,
    )
    parser.add_argument('data', type=Path, metavar='BIDS_DIR', help='Imported dataset.')
    parser.add_argument('out_dir', type=Path, metavar='OUT_DIR', help='Folder of the results.')
    parser.add_argument(
        '--network',
        nargs='+',
        choices=tuple(NETWORKS),
        default=list(PAPER),
        metavar='NAME',
        help=f'Networks, of {", ".join(NETWORKS)} (default: the four of the paper).',
    )
    parser.add_argument(
        '--folds',
        choices=SCHEMES,
        default='table4',
        help='Table 4 with patient 23 not in the training of fold 4 (default); as printed, with '
        'patient 23 on both sides; or even folds by patient.',
    )
    parser.add_argument(
        '--fold-count', type=parsing.count, default=5, metavar='N', help='Of even folds (5).'
    )
    parser.add_argument(
        '--fold',
        nargs='+',
        type=parsing.count,
        metavar='K',
        help='Run these folds only, and gather nothing.',
    )
    parser.add_argument(
        '--gather', action='store_true', help='Train nothing; make tables and models of the folds.'
    )
    add_common(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Run the folds, gather them, and print the tables."""
    options = build_parser().parse_args(arguments)
    from mslesseg_app.training.experiments.crossval import gather, run_fold

    study = _study(options)
    wanted = [fold for fold in study.folds if fold.number in (options.fold or _all(study))]
    if options.fold and len(wanted) < len(set(options.fold)):
        raise UsageError(f'There are folds 1 to {len(study.folds)}.', 'Choose --fold among them.')

    def say(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    for note in dict.fromkeys(note for fold in wanted for note in fold.split.notes):
        say(note)
    for network in study.plans if not options.gather else ():
        for fold in wanted:
            say(f'{network}, fold {fold.number} of {len(study.folds)}')
            if not run_fold(study, network, fold):
                print('Not finished; run the same command again to go on.', file=sys.stderr)
                return UNFINISHED
    if options.fold:
        say('When all folds are there: the same command with --gather and without --fold.')
        return 0
    return _show(gather(study, say), options)


def _all(study: CrossValidation) -> list[int]:
    return [fold.number for fold in study.folds]


def _study(options: argparse.Namespace) -> CrossValidation:
    from mslesseg_app.training.experiments.crossval import CrossValidation
    from mslesseg_app.training.experiments.labelled_exams import dataset_licence, find_cases
    from mslesseg_app.training.folds import make_folds

    job = make_job(options, options.out_dir, 'fold')
    plans = {network: make_plan(options, network) for network in dict.fromkeys(options.network)}
    cases = find_cases(
        options.data,
        job.cache,
        masks=options.masks,
        preprocessed=options.preprocessed,
        exclude=options.exclude,
        threads=job.threads,
    )
    seed = next(iter(plans.values())).seed
    folds = make_folds(cases, options.folds, options.fold_count, seed)
    if not folds[0].split.test:
        raise UsageError(
            f'{options.data} has no test exams.',
            'participants.tsv needs a column "split" with train and test.',
        )
    if not options.licence:
        job = replace(job, licence=dataset_licence(options.data))
    return CrossValidation(options.out_dir, plans, tuple(folds), job)


def _show(tables: dict, options: argparse.Namespace) -> int:
    from mslesseg_app.reports.tabular import to_markdown

    for rules, made in tables.items():
        for table in made if not options.quiet else ():
            print(to_markdown(table))
        if not options.quiet:
            print(f'Wrote {options.out_dir / "tables" / rules}')
    return 0
