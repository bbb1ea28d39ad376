"""Sections of the group report that compare with references, and models with each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mslesseg_app.group import summaries
from mslesseg_app.group.content_tables import (
    INTERVALS,
    TITLES,
    cell,
    data_file,
    interval_cell,
    mean_of,
    metrics_table,
    plain_table,
    summary_table,
)
from mslesseg_app.group.evaluation import RATER_COLUMNS
from mslesseg_app.group.models import SHOWN
from mslesseg_app.group.statistics import FEWEST_FOR_TEST
from mslesseg_app.reports.charts import Chart
from mslesseg_app.reports.group_report import Section
from mslesseg_app.reports.tabular import Cell, Column, Interval, Table

if TYPE_CHECKING:
    import pandas as pd


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
        files=(data_file('evaluation'), data_file('summary')),
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
        files=(data_file('comparison'),),
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
    files = [data_file('models')] * bool(rows)
    files += [data_file('model_pairs'), data_file('model_agreement')] * bool(pairs)
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
            cell(row['seconds']),
            cell(row['memory_gib']),
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
            *(interval_cell(found[one, two, measure]) for measure in titles),
            found[one, two, 'DSC']['n_exams'],
        )
        for one, two in names
    )
    return Table('model_agreement', 'Agreement between models', heads, cells, (INTERVALS,))


def agreement_section(rows: Sequence[dict[str, Any]], charts: Sequence[Chart]) -> Section:
    """Show how volumes agree."""
    cells = tuple(
        (
            row['model'],
            Interval(row['bias'], row['bias_ci_low'], row['bias_ci_high']),
            None
            if math.isnan(row['limit_low'])
            else f'{row["limit_low"]:.3g} to {row["limit_high"]:.3g}',
            cell(row['trend_p']),
            Interval(row['slope'], row['slope_ci_low'], row['slope_ci_high']),
            cell(row['intercept']),
            cell(row['r']),
            cell(row['ccc']),
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
        files=(data_file('agreement'),),
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
        files=(data_file('sizes'),),
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
        means = [mean_of([row.get(name) for row in part]) for name in names]
        in_c2 = sum(row['in_C2'] == 'yes' for row in part)
        cells.append((model, *means, in_c2 if model != 'reference' else None, len(part)))
    heads = [Column('model', 'model')]
    heads += [
        Column(name, TITLES.get(name, name), RATER_COLUMNS[name]['Description'], digits=3)
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
    return Section('consensus', 'Consensus', words, tables=(table,), files=(data_file('raters'),))
