"""``mslesseg export nnunet BIDS_DIR nnUNet_raw/DatasetXXX_NAME``: labelled exams for nnU-Net."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mslesseg_app.cli import parsing
from mslesseg_app.cli.crossval import SCHEMES
from mslesseg_app.cli.train import add_cases, add_datasets


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``export``."""
    parser = parsing.Parser(
        prog='mslesseg export',
        description='Write labelled exams as another program wants them for its training.',
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest='action', required=True, metavar='{nnunet}')
    text = (
        'A raw dataset of nnU-Net v2: images, masks, dataset.json, and splits_final.json with '
        'folds by participant.'
    )
    _add_nnunet(actions.add_parser('nnunet', help=text, description=text, allow_abbrev=False))
    return parser


def _add_nnunet(parser: argparse.ArgumentParser) -> None:
    add_datasets(parser)
    add = parser.add_argument
    add('target', type=Path, metavar='DATASET', help='Folder: nnUNet_raw/DatasetXXX_NAME.')
    add(
        '--space',
        choices=('native', 'template'),
        default='native',
        help='Grid of the images: that of each FLAIR (default), or MNI152 at 1 mm. Images that '
        'are on the template already stay there.',
    )
    add(
        '--channels',
        nargs='+',
        type=parsing.modality,
        default=[],
        metavar='MODALITY',
        help='FLAIR, T1w, T2w, in this order (default: those that all exams have).',
    )
    add('--whole-head', action='store_true', help='Keep what lies outside the brain.')
    add(
        '--folds',
        choices=SCHEMES,
        default='even',
        help='Even folds by participant (default), or those of Table 4 of the MSLesSeg paper.',
    )
    add('--fold-count', type=parsing.count, default=5, metavar='N', help='Of even folds (5).')
    add('--random-seed', type=parsing.seed, default=1, metavar='N', help='Of even folds (1).')
    add_cases(parser)
    add(
        '--cache',
        type=Path,
        metavar='DIR',
        help='For images on the way (default: cache_DATASET beside the dataset).',
    )
    add('--omp-nthreads', type=parsing.count, metavar='N', help='CPU threads (default: all).')
    add('-q', '--quiet', action='store_true', help='Print nothing but errors.')


def main(arguments: list[str]) -> int:
    """Write the dataset, and say how to train on it."""
    options = build_parser().parse_args(arguments)
    from mslesseg_app.training.experiments.labelled_exams import dataset_licence, find_cases
    from mslesseg_app.training.experiments.nnunet_export import Export, check_target, export_nnunet

    target: Path = options.target.absolute()
    check_target(target)
    cases = find_cases(
        options.data,
        options.cache or target.with_name(f'cache_{target.name}'),
        masks=options.masks,
        preprocessed=options.preprocessed,
        exclude=options.exclude,
        native=options.space == 'native',
        threads=options.omp_nthreads or len(os.sched_getaffinity(0)),
    )
    licences = {dataset_licence(path) for path in options.data}
    export = Export(
        target=target,
        whole_head=options.whole_head,
        channels=tuple(options.channels),
        scheme=options.folds,
        count=options.fold_count,
        seed=options.random_seed,
        licence=licences.pop() if len(licences) == 1 else 'NOASSERTION',
    )

    def tell(number: int, count: int, name: str) -> None:
        if not options.quiet:
            print(f'[{number} of {count}] {name}', flush=True)

    done = export_nnunet(cases, export, tell)
    if not options.quiet:
        for note in done.notes:
            print(f'mslesseg: note: {note}', file=sys.stderr)
        print(
            f'{target}: {len(done.training)} exams for training, {len(done.test)} for testing; '
            f'channels: {", ".join(done.channels)}.'
        )
    return 0
