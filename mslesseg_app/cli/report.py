"""``mslesseg report``: tables and figures of the MSLesSeg paper, and results for other tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mslesseg_app.cli import parsing
from mslesseg_app.core.errors import UsageError


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the verb ``report``."""
    parser = parsing.Parser(
        prog='mslesseg report',
        description='Make the tables (1, 2, 3, 5, 6) or figures (1 to 4) of the MSLesSeg paper '
        'from your own data, or hand a result on: as DICOM to a PACS, as a mask to fMRIPrep.',
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(
        dest='action', required=True, metavar='{tables,figures,dicom,roi}'
    )
    _add_tables(actions.add_parser('tables', help='Tables as TSV, Markdown and LaTeX.'))
    _add_figures(actions.add_parser('figures', help='Figures as SVG.'))
    _add_dicom(
        actions.add_parser('dicom', help='DICOM SEG and structured report on the source series.')
    )
    _add_roi(actions.add_parser('roi', help='Lesion mask on the T1w grid, as fMRIPrep reads it.'))
    return parser


def main(arguments: list[str]) -> int:
    """Make what is asked for."""
    options = build_parser().parse_args(arguments)
    makers = {'tables': _tables, 'figures': _figures, 'dicom': _dicom, 'roi': _roi}
    return makers[options.action](options)


def _tables(options: argparse.Namespace) -> int:
    from mslesseg_app.paper.sources import Sources
    from mslesseg_app.paper.tables import NUMBERS, make_tables
    from mslesseg_app.reports.tabular import to_markdown, write_table

    which = _numbers(options.which, NUMBERS)
    sources = Sources(
        clinical=options.clinical,
        bids=options.bids,
        scanners=options.scanners,
        out=options.out,
        evaluations=tuple(options.evaluation),
        raters=dict(options.rater),
        reference=options.reference,
    )
    tables, missing = make_tables(which, sources, beside=options.beside_paper)
    for table in tables:
        write_table(table, options.output)
        if not options.quiet:
            print(to_markdown(table))
    for number, error in missing.items():
        print(f'Table {number} was not made: {error}', file=sys.stderr)
        if error.hint:
            print(f'  {error.hint}', file=sys.stderr)
    codes = {error.exit_code for error in missing.values()}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


def _figures(options: argparse.Namespace) -> int:
    from mslesseg_app.paper.figures import NUMBERS, Wanted, make_figures

    wanted = Wanted(
        out=options.out,
        exam=options.exam,
        models=tuple(options.model),
        reference=options.reference,
        output=options.output,
    )
    written, missing = make_figures(_numbers(options.which, NUMBERS), wanted)
    if not options.quiet:
        for path in written:
            print(f'Wrote {path}')
    for number, error in missing.items():
        print(f'Figure {number} was not made: {error}', file=sys.stderr)
        if error.hint:
            print(f'  {error.hint}', file=sys.stderr)
    codes = {error.exit_code for error in missing.values()}
    return 0 if not codes else codes.pop() if len(codes) == 1 else 1


def _dicom(options: argparse.Namespace) -> int:
    from mslesseg_app.dicom.export.exam import export

    written, notes = export(
        options.out,
        options.exam,
        options.source,
        options.output,
        model=options.model,
        segments=options.segments,
        series_uid=options.series_uid,
    )
    if not options.quiet:
        for line in (*notes, *(f'Wrote {path}' for path in written)):
            print(line)
    return 0


def _roi(options: argparse.Namespace) -> int:
    from mslesseg_app.reports.roi import write_roi

    path = write_roi(options.out, options.exam, options.model, options.output)
    if not options.quiet:
        print(f'Wrote {path}')
    return 0


def _numbers(text: str, known: tuple[int, ...]) -> list[int]:
    """Read ``1,2,5`` or ``all``."""
    if text == 'all':
        return list(known)
    parts = [part.strip() for part in text.split(',')]
    if not all(part.isdigit() and int(part) in known for part in parts):
        shown = ', '.join(map(str, known))
        raise UsageError(f'--which {text} is not known.', f'Choose of {shown}, with commas.')
    return list(dict.fromkeys(int(part) for part in parts))


def _add_tables(parser: argparse.ArgumentParser) -> None:
    _add_common(
        parser, 'Tables, with commas: 1 cohort, 2 acquisition, 3 consensus, 5 models, 6 folds'
    )
    parser.add_argument(
        '--clinical', type=Path, metavar='FILE', help='clinical_data.csv or participants.tsv.'
    )
    parser.add_argument(
        '--bids', type=Path, metavar='DIR', help='BIDS dataset: participants.tsv and sidecars.'
    )
    parser.add_argument(
        '--scanners',
        type=Path,
        metavar='DIR',
        help="Folder with the release's patient_scanners_info_*.csv, instead of sidecars.",
    )
    parser.add_argument(
        '--out', type=Path, metavar='DIR', help='Output folder of the App after its group level.'
    )
    parser.add_argument(
        '--evaluation',
        type=Path,
        nargs='+',
        default=[],
        metavar='FILE',
        help='TSV with the columns model, fold (or fold-<n> in its name), DSC, ….',
    )
    parser.add_argument(
        '--rater',
        type=parsing.package_path,
        nargs='+',
        default=[],
        metavar='NAME=DIR',
        help='Masks of a rater, for table 3.',
    )
    parser.add_argument(
        '--reference', type=Path, metavar='DIR', help='Reference masks for the raters.'
    )
    parser.add_argument(
        '--beside-paper', action='store_true', help="Print the paper's values beside ours."
    )


def _add_figures(parser: argparse.ArgumentParser) -> None:
    _add_common(
        parser,
        'Figures, with commas: 1 modalities with lesions boxed, 2 brain and lesions in 3D, 3 '
        'errors of the mean mask, 4 models side by side',
    )
    parser.add_argument(
        '--out', type=Path, required=True, metavar='DIR', help='Output folder of the App.'
    )
    parser.add_argument(
        '--exam', required=True, metavar='EXAM', help='Exam, such as sub-01_ses-1.'
    )
    parser.add_argument(
        '--model',
        nargs='+',
        default=[],
        metavar='NAME',
        help='Models whose masks are shown (default: all that the exam has).',
    )
    parser.add_argument(
        '--reference', type=Path, metavar='FILE', help='Reference mask of the exam.'
    )


def _add_dicom(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'source',
        type=Path,
        metavar='DICOM_DIR',
        help='Folder of the source FLAIR series (other series may be there too).',
    )
    _add_exam(parser)
    parser.add_argument(
        '--model', default='', metavar='NAME', help='Needed if the exam has several masks.'
    )
    parser.add_argument(
        '--segments',
        choices=('lesions', 'mask'),
        default='lesions',
        help='One segment per lesion, or one for all (default: lesions).',
    )
    parser.add_argument(
        '--series-uid', default='', metavar='UID', help='Needed if several series fit the mask.'
    )


def _add_roi(parser: argparse.ArgumentParser) -> None:
    _add_exam(parser)
    parser.add_argument('--model', required=True, metavar='NAME', help='Whose mask.')


def _add_exam(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--out', type=Path, required=True, metavar='DIR', help='Output folder of the App.'
    )
    parser.add_argument(
        '--exam', required=True, metavar='EXAM', help='Exam, such as sub-01_ses-1.'
    )
    parser.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='Folder to write to.'
    )
    parser.add_argument('-q', '--quiet', action='store_true', help='Print nothing but errors.')


def _add_common(parser: argparse.ArgumentParser, which: str) -> None:
    parser.add_argument('--which', default='all', metavar='LIST', help=f'{which} (default: all).')
    parser.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='Folder to write to.'
    )
    parser.add_argument('-q', '--quiet', action='store_true', help='Print nothing but errors.')
