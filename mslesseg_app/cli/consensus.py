"""``mslesseg consensus MASK... -o OUT``: one mask of many."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mslesseg_app.cli import parsing
from mslesseg_app.cli.evaluate import check_output
from mslesseg_app.core.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from mslesseg_app.metrics.consensus import Consensus
    from mslesseg_app.metrics.raters import Raters

_IMAGE = '.nii.gz'
_PRINTED = ('rater', 'volume_ml', 'sensitivity', 'specificity', 'DSC_others')
_PRINTED_WITH_REFERENCE = (*_PRINTED, 'DSC_reference', 'DSC_C1', 'DSC_C2')


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``consensus``."""
    parser = parsing.Parser(
        prog='mslesseg consensus',
        description='Combine the lesion masks of several raters or models of one image.',
        allow_abbrev=False,
    )
    parser.add_argument(
        'masks',
        type=Path,
        nargs='+',
        metavar='MASK',
        help='One mask per rater (for mean also probability maps); the grid of the first decides.',
    )
    parser.add_argument(
        '-o', '--output', type=Path, required=True, metavar='OUT.nii.gz', help='Mask to write.'
    )
    parser.add_argument(
        '--method',
        choices=['staple', 'majority', 'mean'],
        default='staple',
        help='staple weighs the raters, majority wants more than half of them, mean averages '
        '(default: staple).',
    )
    parser.add_argument(
        '--threshold',
        type=parsing.number(0.001, 1),
        metavar='P',
        help='Probability at and above which a voxel is lesion, for staple and mean (default: '
        '0.5).',
    )
    _add_outputs(parser)
    parser.add_argument(
        '--resample',
        action='store_true',
        help='Bring masks on another grid to that of the first (nearest voxel).',
    )
    parser.add_argument(
        '--label', type=parsing.count, metavar='N', help='Value of the lesions in label images.'
    )
    return parser


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--probability', type=Path, metavar='OUT.nii.gz', help="Write the consensus' probability."
    )
    parser.add_argument(
        '--agreement', type=Path, metavar='OUT.nii.gz', help='Write how many marked each voxel.'
    )
    parser.add_argument(
        '--raters',
        type=Path,
        metavar='FILE.tsv',
        help='Write sensitivity, specificity and agreement with the others of each rater.',
    )
    parser.add_argument(
        '--reference',
        type=Path,
        metavar='REF',
        help="Reference mask: adds the MSLesSeg paper's two experiments to the table (C1: "
        'consensus of all raters and the reference; C2: of the best raters).',
    )
    parser.add_argument(
        '--best',
        type=parsing.count,
        metavar='K',
        help='Number of raters in C2 (default: 5).',
    )


def main(arguments: list[str]) -> int:
    """Combine the masks and write what is asked for."""
    options = build_parser().parse_args(arguments)
    _check(options)
    from mslesseg_app.core.files import write_json
    from mslesseg_app.metrics import raters as work

    threshold = 0.5 if options.threshold is None else options.threshold
    raters = work.read_raters(
        options.masks,
        options.method,
        reference=options.reference,
        threshold=threshold,
        resample=options.resample,
        label=options.label,
    )
    combined = work.combine(raters, options.method, threshold)
    table = work.rater_table(
        raters, combined, options.method, threshold=threshold, best=options.best or 5
    )
    work.write_image(raters, combined.mask.view('u1'), options.output)
    sidecar = options.output.name.removesuffix(_IMAGE) + '.json'
    content = work.describe(raters, combined, options.method, threshold)
    write_json(options.output.with_name(sidecar), content)
    _write_more(options, raters, combined, table)
    _print_result(table, combined, options)
    return 0


def _write_more(
    options: argparse.Namespace, raters: Raters, combined: Consensus, table: pd.DataFrame
) -> None:
    from mslesseg_app.metrics.batch import write_table
    from mslesseg_app.metrics.raters import rater_columns, write_image

    if options.probability is not None:
        write_image(raters, combined.probability, options.probability)
    if options.agreement is not None:
        write_image(raters, combined.agreement, options.agreement)
    if options.raters is not None:
        columns = rater_columns(raters.reference is not None)
        write_table(table, options.raters, columns)


def _check(options: argparse.Namespace) -> None:
    """Make sure that options fit together and no output lands on an input or another output."""
    inputs = [*options.masks, options.reference]
    outputs = [options.output, options.probability, options.agreement]
    for path in outputs:
        if path is not None:
            check_output(path, inputs, _IMAGE)
    if options.raters is not None:
        check_output(options.raters, inputs)
    given = [path.resolve() for path in (*outputs, options.raters) if path is not None]
    if len(set(given)) < len(given):
        raise UsageError('Two results have the same name.', 'Give each its own.')
    if options.best is not None and options.reference is None:
        raise UsageError('--best needs --reference: best by what?', 'Give a reference mask.')
    if options.threshold is not None and options.method == 'majority':
        raise UsageError('A majority has no --threshold.', 'Use --method mean, or leave it out.')


def _print_result(table: pd.DataFrame, combined: Consensus, options: argparse.Namespace) -> None:
    wanted = _PRINTED if options.reference is None else _PRINTED_WITH_REFERENCE
    columns = [name for name in wanted if table[name].notna().any()]
    print(table[columns].to_string(index=False, float_format='%.3f', na_rep='n/a'))
    if combined.note:
        print(f'mslesseg: note: {combined.note}', file=sys.stderr)
    print(f'{options.method} of {len(options.masks)} masks: {options.output}')
