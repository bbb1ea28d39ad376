"""The sections of the group report and the tables for papers, from the rows of the tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mslesseg_app.bids.names import group_path
from mslesseg_app.group import quality, summaries
from mslesseg_app.group.collect import STATES
from mslesseg_app.group.evaluation import RATER_COLUMNS
from mslesseg_app.group.longitudinal import PROGRESS_COLUMNS
from mslesseg_app.group.models import SHOWN
from mslesseg_app.group.regions import REGION_COLUMNS, REGIONS
from mslesseg_app.group.statistics import FEWEST_FOR_TEST, RESAMPLES
from mslesseg_app.reports.charts import Chart
from mslesseg_app.reports.group_report import Section
from mslesseg_app.reports.review import SectionImage
from mslesseg_app.reports.tabular import Cell, Column, Interval, Spread, Table

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from mslesseg_app.group.frequency import Frequency

_INTERVALS = (
    f'Intervals are 95 % percentile intervals of {RESAMPLES} resamples of the patients, each with '
    'all scans: they say how the mean would vary with other patients of the same kind, not how '
    'single exams vary.'
)
_TITLES = {
    'participant_id': 'participant',
    'session_id': 'session',
    'n_exams': 'exams',
    'n_patients': 'patients',
    'n_models': 'models',
    'n_lesions': 'lesions',
    'n_found': 'found',
    'robust_z': 'robust z',
    'p_holm': 'p (Holm)',
    'p_wilcoxon': 'p (Wilcoxon)',
    'p_permutation': 'p (permutation)',
    'DSC_majority': 'DSC: majority',
    'DSC_reference': 'DSC: reference',
    'DSC_C1': 'DSC: C1',
    'DSC_C2': 'DSC: C2',
    'in_C2': 'in C2',
    'n_with': 'exams with ≥ 1 lesion',
    'share_lesions': 'share of lesions',
    'share_volume': 'share of volume',
    'volume_ml': 'volume',
    'mean_volume_ml': 'mean volume',
    'median_volume_ml': 'median volume',
    'n_pairs': 'pairs',
    'n_left_out': 'left out',
    'n_participants': 'participants',
    'n_active': 'pairs with activity',
    'mean_difference_ml': 'mean difference',
    **{f'n_{name}': name for name in ('new', 'enlarging', 'shrinking', 'resolved', 'stable')},
}


def plain_table(
    key: str,
    title: str,
    rows: Sequence[dict[str, Any]],
    columns: dict[str, dict[str, Any]],
    chosen: Iterable[str] = (),
    notes: tuple[str, ...] = (),
) -> Table:
    """Show rows as they are, all columns or those chosen."""
    names = list(chosen) or list(columns)
    heads = tuple(
        Column(
            name,
            _TITLES.get(name, name.replace('_', ' ') if name.islower() else name),
            str(columns[name].get('Description', '')),
            str(columns[name].get('Units', '')),
        )
        for name in names
    )
    cells = tuple(tuple(_cell(row.get(name)) for name in names) for row in rows)
    return Table(key, title, heads, cells, notes)


def _cell(value: Any) -> Cell:
    if value is None or value == 'n/a' or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool | str | int | float):
        return value
    return str(value)


def _file(key: str) -> str:
    return group_path(key).as_posix()


def exams_section(rows: Sequence[dict[str, Any]], raw_known: bool) -> Section:
    """Say which exams have no result, or only an earlier one."""
    left_out = sorted(
        {f'{row["participant_id"]} {row["session_id"]}'.removesuffix(' n/a') for row in rows
         if row['state'] == 'excluded'}
    )  # fmt: skip
    open_rows = [row for row in rows if row['state'] != 'done']
    counts = {state: sum(row['state'] == state for row in rows) for state in STATES}
    parts = [f'{count} {state}' for state, count in counts.items() if count]
    words = [f'{len(rows)} exams × models: {", ".join(parts)}.']
    if not raw_known:
        words.append(
            'The raw data were not found: exams that were never processed cannot be listed.'
        )
    tables: tuple[Table, ...] = ()
    if open_rows:
        columns = {name: {'Description': ''} for name in open_rows[0]}
        tables = (plain_table('exams', 'Exams that are not complete', open_rows, columns),)
    warnings = (
        (f'Left out of all statistics by the review: {", ".join(left_out)}.',) if left_out else ()
    )
    return Section(
        'exams',
        'Exams',
        words=tuple(words),
        warnings=warnings,
        tables=tables,
        files=(_file('exams'),),
    )


def cohort_section(
    rows: Sequence[dict[str, Any]], charts: Sequence[Chart], source: str
) -> Section:
    """Describe participants, lesion volumes and counts."""
    words = f'Participants are described by {source}.' if source else ''
    empty = (
        () if source else ('No participants.tsv: age, sex and other variables are not available.',)
    )
    return Section(
        'cohort',
        'Cohort',
        words=(words,) if words else empty,
        tables=(cohort_table(rows),),
        charts=tuple(charts),
        files=(_file('cohort'), _file('volumes')),
    )


def cohort_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return mean ± SD, median and range, or the number of participants by value."""
    cells = []
    for row in rows:
        ends = (row.get('minimum'), row.get('maximum'))
        spread = Spread(row['mean'], row['sd']) if 'mean' in row else None
        reach = f'{ends[0]:.4g} to {ends[1]:.4g}' if ends[0] is not None else None
        head = (row['part'], row['variable'], _cell(row.get('model')), row['n'])
        cells.append((*head, spread, row.get('median'), reach, row.get('levels')))
    titles = ('part', 'variable', 'model', 'n', 'mean ± SD', 'median', 'range', 'values')
    heads = tuple(Column(title, title) for title in titles)
    notes = (
        'SD with n - 1. Age and sex: one value per participant.',
        'Volumes and counts: one value per exam.',
    )
    return Table('cohort', 'Cohort', heads, tuple(cells), notes)


def outlier_section(rows: Sequence[dict[str, Any]], chart: Chart | None, n_exams: int) -> Section:
    """List the flagged exams."""
    words = [
        (
            f'An exam is listed when a number is further than {quality.LIMIT} robust z from the '
            'median of all exams, when a quality check at the participant level did not pass, or '
            'when the self-check of its segmentation did not. Review these exams; a flag '
            'alone is no reason to exclude one.'
        )
    ]
    warnings: tuple[str, ...] = ()
    if n_exams < quality.FEWEST:
        warnings = (
            (
                f'Outliers are not computed for fewer than {quality.FEWEST} exams; only quality '
                'checks that did not pass are listed.'
            ),
        )
    if not rows:
        words.append('No exam is flagged.')
    columns = ('participant_id', 'session_id', 'model', 'column', 'value', 'median', 'robust_z')
    table = plain_table(
        'outliers', 'Flagged exams', rows, quality.OUTLIER_COLUMNS, (*columns, 'reason')
    )
    return Section(
        'outliers',
        'Flagged exams',
        words=tuple(words),
        warnings=warnings,
        tables=(table,) if rows else (),
        charts=(chart,) if chart else (),
        files=(_file('outliers'),),
    )


def metrics_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return models × metrics: mean ± SD over exams."""
    metrics = summaries.compared(dict.fromkeys(row['metric'] for row in rows))
    models = list(dict.fromkeys(row['model'] for row in rows))
    found = {(row['model'], row['metric']): row for row in rows}
    heads = (Column('model', 'model'), *(Column(name, name) for name in metrics))
    cells = []
    for model in models:
        known = [found.get((model, metric)) for metric in metrics]
        spreads = [None if row is None else Spread(row['mean'], row['sd']) for row in known]
        cells.append((model, *spreads))
    notes = ('Mean ± SD over exams; AVD in percent, distances in mm.',)
    return Table('models', 'Models and metrics', heads, tuple(cells), notes)


def _interval(row: dict[str, Any] | None) -> Cell:
    return None if row is None else Interval(row['mean'], row['ci_low'], row['ci_high'])


def summary_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return one row per model and metric: mean, interval, SD and median."""
    heads = (
        Column('metric', 'metric'),
        Column('model', 'model'),
        Column('mean', 'mean (95 % interval)'),
        Column('sd', 'SD'),
        Column('median', 'median'),
        Column('quartiles', 'quartiles'),
        Column('n_exams', 'exams'),
        Column('n_patients', 'patients'),
        Column('n_undefined', 'not defined'),
    )
    order = {name: place for place, name in enumerate(dict.fromkeys(r['metric'] for r in rows))}
    cells = tuple(
        (
            row['metric'],
            row['model'],
            _interval(row),
            _cell(row['sd']),
            _cell(row['median']),
            f'{row["q1"]:.4g} to {row["q3"]:.4g}' if row['n_exams'] else None,
            row['n_exams'],
            row['n_patients'],
            row['n_undefined'],
        )
        for row in sorted(rows, key=lambda row: order[row['metric']])
    )
    return Table('summary', 'Accuracy by model', heads, cells, (_INTERVALS,))


def evaluation_section(
    table: pd.DataFrame,
    rows: Sequence[dict[str, Any]],
    charts: Sequence[Chart],
    problems: Sequence[str],
) -> Section:
    """Show how the models agree with the reference masks."""
    patients = table['participant_id'].nunique()
    exams = len(table.drop_duplicates(['participant_id', 'session_id']))
    rules = ', '.join(sorted(set(table['rules'])))
    words = (
        (
            f'{exams} exams of {patients} patients have a reference mask. Rule set: {rules}. The '
            'mean is that of all exams in which the metric is defined; docs/group.md gives the '
            'formulas.'
        ),
    )
    warnings = list(problems)
    if 'mslesseg-official' in rules:
        warnings.append(
            "mslesseg-official repeats the faults of the paper's published code: it serves to "
            "compare with the paper's tables, not to judge a model."
        )
    if patients < FEWEST_FOR_TEST:
        warnings.append(
            f'Only {patients} patient{"s" if patients > 1 else ""}: intervals of so few say '
            'little, and there are none for a single one.'
        )
    return Section(
        'accuracy',
        'Agreement with the reference',
        words=words,
        warnings=tuple(warnings),
        tables=(metrics_table(rows), summary_table(rows)),
        charts=tuple(charts),
        files=(_file('evaluation'), _file('summary')),
    )


def comparison_section(rows: Sequence[dict[str, Any]]) -> Section:
    """Show the paired comparisons of models."""
    cells = tuple(
        (
            row['metric'],
            f'{row["model_a"]} − {row["model_b"]}',
            Interval(row['mean_difference'], row['ci_low'], row['ci_high']),
            row['median_difference'],
            row['p_wilcoxon'],
            row['p_permutation'],
            row['p_holm'],
            row['p_holm_all'],
            row['n_patients'],
        )
        for row in rows
    )
    heads = (
        Column('metric', 'metric'),
        Column('pair', 'models'),
        Column('difference', 'mean difference (95 % interval)'),
        Column('median', 'median difference'),
        Column('p_wilcoxon', 'p (Wilcoxon)'),
        Column('p_permutation', 'p (permutation)'),
        Column('p_holm', 'p (Holm, pairs)'),
        Column('p_holm_all', 'p (Holm, all rows)'),
        Column('n_patients', 'patients'),
    )
    few = max((row['n_patients'] for row in rows), default=0) < FEWEST_FOR_TEST
    warning = (
        f'With fewer than {FEWEST_FOR_TEST} patients the tests cannot give p < 0.05, whatever the '
        'difference.'
    )
    notes = (
        (
            'Differences of the same exams, averaged within each patient; two-sided tests over '
            'patients. Holm corrects the Wilcoxon p over the pairs of models of one metric, and '
            'over all rows. Metrics depend on each other.'
        ),
    )
    table = Table('comparison', 'Paired comparison of models', heads, cells, notes)
    return Section(
        'comparison',
        'Comparison of models',
        warnings=(warning,) if few else (),
        tables=(table,),
        files=(_file('comparison'),),
    )


def models_section(rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> Section:
    """Show the models side by side, and how far they agree."""
    tables, words = [], []
    if rows:
        tables.append(_side_by_side(rows))
    if pairs:
        tables.append(_agreement_table(pairs))
        words.append(
            'Agreement compares the masks of two models on the grid of the FLAIR; it needs no '
            'reference, and two models that agree may both be wrong. Exams on which the models '
            'agree unusually little are among the flagged exams.'
        )
    files = [_file('models')] * bool(rows)
    files += [_file('model_pairs'), _file('model_agreement')] * bool(pairs)
    return Section(
        'models', 'Models side by side', words=tuple(words), tables=tuple(tables),
        files=tuple(files),
    )  # fmt: skip


def _side_by_side(rows: Sequence[dict[str, Any]]) -> Table:
    shown = [name for name in SHOWN if any(row.get(name) is not None for row in rows)]
    heads = (
        Column('model', 'model'),
        Column('n_exams', 'exams'),
        *(Column(name, name.replace('_', ' ')) for name in shown),
        Column('seconds', 'time', '', 's'),
        Column('memory_gib', 'memory', '', 'GiB'),
    )
    cells = tuple(
        (
            row['model'],
            row.get('n_exams'),
            *(_interval_of(row, name) for name in shown),
            _cell(row['seconds']),
            _cell(row['memory_gib']),
        )
        for row in rows
    )
    note = (
        'Mean over exams with a reference (95 % interval). Time: median of the inference of an '
        'exam, on the machines of the runs; memory: highest, of runs with --resource-monitor.'
    )
    return Table('side_by_side', 'Accuracy and cost of each model', heads, cells, (note,))


def _interval_of(row: dict[str, Any], name: str) -> Cell:
    if row.get(name) is None:
        return None
    return Interval(row[name], row[f'{name}_ci_low'], row[f'{name}_ci_high'])


def _agreement_table(pairs: Sequence[dict[str, Any]]) -> Table:
    titles = {
        'DSC': 'DSC',
        'volume_difference_ml': 'volume difference (ml)',
        'shared_a': 'lesions of the first met by the second',
        'shared_b': 'lesions of the second met by the first',
    }
    found = {(row['model_a'], row['model_b'], row['measure']): row for row in pairs}
    names = list(dict.fromkeys((row['model_a'], row['model_b']) for row in pairs))
    heads = (
        Column('pair', 'models'),
        *(Column(name, title) for name, title in titles.items()),
        Column('n_exams', 'exams'),
    )
    cells = tuple(
        (
            f'{one} − {two}',
            *(_interval(found[one, two, measure]) for measure in titles),
            found[one, two, 'DSC']['n_exams'],
        )
        for one, two in names
    )
    return Table('model_agreement', 'Agreement between models', heads, cells, (_INTERVALS,))


def agreement_section(rows: Sequence[dict[str, Any]], charts: Sequence[Chart]) -> Section:
    """Show how volumes agree."""
    cells = tuple(
        (
            row['model'],
            Interval(row['bias'], row['bias_ci_low'], row['bias_ci_high']),
            None
            if math.isnan(row['limit_low'])
            else f'{row["limit_low"]:.3g} to {row["limit_high"]:.3g}',
            _cell(row['trend_p']),
            Interval(row['slope'], row['slope_ci_low'], row['slope_ci_high']),
            _cell(row['intercept']),
            _cell(row['r']),
            _cell(row['ccc']),
            row['n_exams'],
        )
        for row in rows
    )
    heads = (
        Column('model', 'model'),
        Column('bias', 'bias (95 % interval)', units='ml'),
        Column('limits', 'limits of agreement', units='ml'),
        Column('trend_p', 'p of a trend'),
        Column('slope', 'slope (95 % interval)'),
        Column('intercept', 'intercept', units='ml'),
        Column('r', 'r'),
        Column('ccc', 'concordance'),
        Column('n_exams', 'exams'),
    )
    notes = (
        (
            'Bias: mean of predicted minus reference volume; limits of agreement: bias ± 1.96 SD '
            'of the differences (Bland and Altman 1986), scans taken as independent. Least '
            'squares of predicted on reference volume; concordance: Lin 1989.'
        ),
    )
    return Section(
        'volumes',
        'Agreement of volumes',
        tables=(Table('agreement', 'Agreement of volumes', heads, cells, notes),),
        charts=tuple(charts),
        files=(_file('agreement'),),
    )


def size_section(
    rows: Sequence[dict[str, Any]], charts: Sequence[Chart], columns: dict[str, dict[str, Any]]
) -> Section:
    """Show how results depend on the size of lesions."""
    sizes = list(dict.fromkeys(row['size'] for row in rows))
    classes = [
        f'{size} ({_class_words(columns[f"LTPR_{size}"]["Description"])})'
        for size in sizes
        if f'LTPR_{size}' in columns
    ]
    words = [f'Classes of reference lesions by volume: {", ".join(classes)}.'] if classes else []
    table = plain_table(
        'sizes',
        'Reference lesions found, by size',
        rows,
        summaries.SIZE_COLUMNS,
        ('size', 'model', 'n_lesions', 'n_found', 'n_exams'),
    )
    shares = Column('share', 'share found (95 % interval)', digits=3)
    cells = tuple(
        (*cells, Interval(row['share'], row['ci_low'], row['ci_high']))
        for cells, row in zip(table.rows, rows, strict=True)
    )
    table = Table('sizes', table.title, (*table.columns, shares), cells)
    return Section(
        'sizes',
        'Dependence on lesion size',
        words=tuple(words),
        tables=(table,) if rows else (),
        charts=tuple(charts),
        files=(_file('sizes'),),
    )


def _class_words(description: str) -> str:
    """Return ``below 10 mm³`` from the description of a column of that class."""
    return description.split('reference lesions of ')[-1].split(';')[0]


def consensus_section(rows: Sequence[dict[str, Any]]) -> Section:
    """Show the agreement of models with one another, as means over exams."""
    names = ['sensitivity', 'specificity', 'DSC_majority', 'DSC_reference', 'DSC_C1', 'DSC_C2']
    models = list(dict.fromkeys(row['model'] for row in rows))
    models.sort(key=lambda model: (model == 'reference', model))
    cells = []
    for model in models:
        part = [row for row in rows if row['model'] == model]
        means = [_mean([row.get(name) for row in part]) for name in names]
        in_c2 = sum(row['in_C2'] == 'yes' for row in part)
        cells.append((model, *means, in_c2 if model != 'reference' else None, len(part)))
    heads = [Column('model', 'model')]
    heads += [
        Column(name, _TITLES.get(name, name), RATER_COLUMNS[name]['Description'], digits=3)
        for name in names
    ]
    heads += [Column('in_C2', 'exams in C2'), Column('n_exams', 'exams')]
    notes = (
        (
            'Means over exams. C1: STAPLE of all models and the reference; C2: STAPLE of the best '
            "five models of each exam (all, where there are no more). Models share a model's "
            'errors: a high agreement among them is no proof that they are right.'
        ),
    )
    table = Table('consensus', 'Models and their consensus', tuple(heads), tuple(cells), notes)
    words = (
        (
            'The joint masks of all models (majority, mean, STAPLE) stand beside the models in '
            'the tables above, as consensus-majority, consensus-mean and consensus-staple.'
        ),
    )
    return Section('consensus', 'Consensus', words, tables=(table,), files=(_file('raters'),))


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(v) for v in values if v is not None and math.isfinite(v)]
    return sum(known) / len(known) if known else None


def frequency_section(drawn: Sequence[tuple[Frequency, Path, Path]], folder: Path) -> Section:
    """Show where lesions are on the template.

    Parameters
    ----------
    drawn : sequence of (Frequency, Path, Path)
        Map, its NIfTI file and its image.
    folder : Path
        That of the report.
    """
    if not drawn:
        words = ('No exam has a lesion mask on the template grid: there is no map of lesions.',)
        return Section('frequency', 'Where lesions are', warnings=words)
    images = []
    for found, _, path in drawn:
        peak, place = found.peak
        where = f'x {place[0]}, y {place[1]}, z {place[2]} mm'
        counts = f'{found.participants} participants, {found.exams} exams'
        highest = f'highest {100 * peak:.3g} % at {where}' if peak else 'no lesion anywhere'
        images.append(
            SectionImage(
                path,
                f'Lesion frequency, {found.model}',
                f'Share of participants with a lesion ({counts}); {highest}. Axial slices of '
                "MNI152NLin6Asym, left of the image is the participants' right.",
                f'Axial brain slices coloured by lesion frequency of {found.model}: {highest}.',
            )
        )
    files = tuple(path.relative_to(folder).as_posix() for _, path, _ in drawn)
    words = ('Each participant has equal weight (mean over that participant’s exams).',)
    return Section(
        'frequency', 'Where lesions are', words=words, images=tuple(images), files=files
    )


def region_section(
    rows: Sequence[dict[str, Any]], charts: Sequence[Chart], words: Sequence[str]
) -> Section:
    """Show how lesions are distributed over regions."""
    if not rows:
        none = ('No table of an exam assigns lesions to regions.',)
        return Section('regions', 'Regions', words=none)
    named = [row | {'region': REGIONS[row['region']]} for row in rows]
    table = plain_table('regions', 'Lesions by region', named, REGION_COLUMNS)
    return Section(
        'regions',
        'Regions',
        words=tuple(words),
        tables=(table,),
        charts=tuple(charts),
        files=(_file('regions'),),
    )


def progress_section(rows: Sequence[dict[str, Any]], charts: Sequence[Chart]) -> Section:
    """Show what changed between sessions."""
    if not rows:
        none = ('There is no table of changes between sessions.',)
        return Section('change', 'Change between sessions', words=none)
    left_out = sum(row['n_left_out'] for row in rows if row['part'] == 'all')
    warnings = (
        (f'{left_out} pairs of sessions cannot be compared and are not in the numbers.',)
        if left_out
        else ()
    )
    table = plain_table('progress', 'Change between sessions', rows, PROGRESS_COLUMNS)
    return Section(
        'change',
        'Change between sessions',
        words=('Pairs of consecutive sessions of one participant.',),
        warnings=warnings,
        tables=(table,),
        charts=tuple(charts),
        files=(_file('progress'), 'group_change.tsv'),
    )
