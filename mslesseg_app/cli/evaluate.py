"""``mslesseg evaluate PRED REF -o FILE.tsv``: accuracy of masks, of whatever program."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mslesseg_app.cli import parsing
from mslesseg_app.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mslesseg_app.metrics.batch import PairOutcome
    from mslesseg_app.metrics.change import ChangeOutcome
    from mslesseg_app.metrics.pairs import Pairs

    _AnyOutcome = PairOutcome | ChangeOutcome

#: Names of the rule sets (a test holds them to `mslesseg_app.metrics.rules`).
RULE_SETS = ('mslesseg', 'isbi2015', 'msseg2016', 'mslesseg-official')
#: Fewer pairs than this are compared sooner than a process has started.
_FEW = 4


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``evaluate``."""
    parser = parsing.Parser(
        prog='mslesseg evaluate',
        description='Compare lesion masks, of any program, with reference masks.',
        allow_abbrev=False,
    )
    parser.add_argument(
        'prediction',
        type=Path,
        metavar='PRED',
        help='Mask, folder of masks, or (without REF) a TSV with the columns prediction and '
        'reference.',
    )
    parser.add_argument(
        'reference', type=Path, nargs='?', metavar='REF', help='Reference mask, or folder of them.'
    )
    parser.add_argument(
        '-o', '--output', type=Path, required=True, metavar='FILE.tsv', help='Table to write.'
    )
    parser.add_argument(
        '--rules',
        nargs='+',
        choices=RULE_SETS,
        default=['mslesseg'],
        metavar='NAME',
        help=f'Rule sets, one row each: {", ".join(RULE_SETS)} (default: mslesseg).',
    )
    _add_reading(parser)
    parser.add_argument(
        '--nprocs',
        '--n-cpus',
        type=parsing.count,
        metavar='N',
        help='Number of processes (default: all).',
    )
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how the files are read."""
    parser.add_argument(
        '--resample',
        action='store_true',
        help='Resample masks to the grid of the reference (nearest voxel).',
    )
    parser.add_argument(
        '--label',
        type=parsing.count,
        metavar='N',
        help='Value of the lesions in a prediction that holds several labels.',
    )
    parser.add_argument(
        '--reference-label', type=parsing.count, metavar='N', help='The same in a reference.'
    )
    parser.add_argument(
        '--probability',
        type=Path,
        metavar='PATH',
        help='Probability map, or folder of them, for the numbers of calibration.',
    )
    parser.add_argument(
        '--change',
        action='store_true',
        help='The files are maps of change between two sessions (masks, or change images of '
        "mslesseg): Dice, and lesions by MSSEG-2's rules, by size and direction.",
    )


def main(arguments: list[str]) -> int:
    """Compare, write the table and say what is missing from it."""
    options = build_parser().parse_args(arguments)
    check_output(options.output, [options.prediction, options.reference, options.probability])
    from mslesseg_app.metrics import batch
    from mslesseg_app.metrics.pairs import find_pairs

    found = find_pairs(options.prediction, options.reference, options.probability)
    if options.change:
        return _evaluate_change(found, options)
    rules = tuple(dict.fromkeys(options.rules))
    how = batch.Options(rules, options.resample, options.label, options.reference_label)
    count = len(found.pairs)
    nprocs = options.nprocs or (len(os.sched_getaffinity(0)) if count >= _FEW else 1)
    outcomes = batch.evaluate_pairs(found.pairs, how, nprocs)
    if count == 1 and outcomes[0].error is not None:
        raise outcomes[0].error
    table = batch.to_table(outcomes, rules)
    batch.write_table(table, options.output, batch.table_columns(rules))
    if count > 1:
        cohort = options.output.with_name(f'{options.output.stem}_cohort.tsv')
        batch.write_table(batch.cohort_table(outcomes, rules), cohort, batch.COHORT_COLUMNS)
    print(batch.result_in_words(outcomes, rules))
    print(f'{count - len(failures(outcomes))} of {count} pairs compared: {options.output}')
    return _complain(found, outcomes)


def _evaluate_change(found: Pairs, options: argparse.Namespace) -> int:
    from mslesseg_app.metrics import change
    from mslesseg_app.metrics.batch import write_table

    if options.probability or options.label or options.reference_label:
        raise UsageError('--change takes no --probability, --label or --reference-label.')
    outcomes = change.evaluate_change_files(found.pairs, options.resample)
    if len(outcomes) == 1 and outcomes[0].error is not None:
        raise outcomes[0].error
    columns = change.CHANGE_EVALUATION_COLUMNS
    write_table(change.change_table(outcomes), options.output, columns)
    if len(outcomes) > 1:
        cohort = options.output.with_name(f'{options.output.stem}_cohort.tsv')
        write_table(change.change_cohort(outcomes), cohort, change.CHANGE_COHORT_COLUMNS)
    done = len(outcomes) - len(failures(outcomes))
    print(f'{done} of {len(outcomes)} pairs compared: {options.output}')
    return _complain(found, outcomes)


def failures(outcomes: Sequence[_AnyOutcome]) -> list[_AnyOutcome]:
    """Return the pairs that could not be compared."""
    return [outcome for outcome in outcomes if outcome.error is not None]


def _complain(found: Pairs, outcomes: Sequence[_AnyOutcome]) -> int:
    """Name what is not in the table; a mask without a reference alone is no failure."""
    code = 0
    for path in found.without_reference:
        print(f'mslesseg: warning: {path} has no reference', file=sys.stderr)
    for path in found.without_prediction:
        print(f'mslesseg: error: no prediction for {path}', file=sys.stderr)
        code = 1
    for outcome in failures(outcomes):
        if outcome.error is not None:
            print(f'mslesseg: error: {outcome.pair.name}: {outcome.error}', file=sys.stderr)
            if outcome.error.hint:
                print(f'  {outcome.error.hint}', file=sys.stderr)
            code = outcome.error.exit_code
    return code


def check_output(output: Path, inputs: list[Path | None], suffix: str = '.tsv') -> None:
    """Make sure that a result has a proper name and overwrites no input.

    Raises
    ------
    UsageError
        Otherwise.
    """
    if not output.name.endswith(suffix) or output.name == suffix:
        raise UsageError(f'{output} does not end in {suffix}.', f'Write FILE{suffix}.')
    if output.is_dir():
        raise UsageError(f'{output} is a folder.', 'Name a file.')
    for path in inputs:
        if path is not None and path.exists() and path.resolve() == output.resolve():
            raise UsageError(f'{output} is an input; it would be lost.', 'Choose another name.')
