"""One run of the group level, from settings to exit code."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mslesseg_app import __version__
from mslesseg_app.bids.dataset import check_output_folder
from mslesseg_app.bids.names import group_path
from mslesseg_app.bids.review import Review, current_review, excluded_exams, keep_review
from mslesseg_app.core.errors import NoInputError
from mslesseg_app.core.files import atomic_path, write_json, write_text
from mslesseg_app.core.settings import Settings
from mslesseg_app.group import change, content, quality, regions, summaries
from mslesseg_app.group import charts as plots
from mslesseg_app.group import longitudinal as progress
from mslesseg_app.group.accuracy import (
    compare_models,
    evaluate_masks,
    exam_of,
    show_models,
    with_agreement,
)
from mslesseg_app.group.collect import (
    STATES,
    Holdings,
    Key,
    exam_states,
    find_holdings,
    gather,
    join_participants,
    participant_columns,
)
from mslesseg_app.group.evaluation import CONSENSUS
from mslesseg_app.group.frequency import FrequencySum, write_frequency
from mslesseg_app.group.references import find_references
from mslesseg_app.group.report_parts import ReportParts
from mslesseg_app.group.review_rows import Looked, review_rows
from mslesseg_app.group.thumbnails import Thumbnail, make_views, shown_model, view_tasks
from mslesseg_app.lesions.change_table import SUMMARY_COLUMNS
from mslesseg_app.metrics.columns import metric_columns
from mslesseg_app.metrics.rules import get_rules
from mslesseg_app.reports.charts import Chart, ChartSeries
from mslesseg_app.reports.group_report import Fact, Section, write_group_report
from mslesseg_app.reports.tabular import Table, to_latex, to_markdown

if TYPE_CHECKING:
    import pandas as pd

_EXAM_COLUMNS: dict[str, dict[str, Any]] = {
    'participant_id': {'Description': 'Participant.'},
    'session_id': {'Description': 'Session; n/a where the dataset has none.'},
    'model': {'Description': 'Model; n/a where none has been run.'},
    'state': {'Description': 'Whether there is a result.', 'Levels': STATES},
    'reason': {'Description': 'Why the last run failed, or what to do.'},
    'reference': {'Description': 'Reference mask, relative to its dataset; n/a without one.'},
}


def run_group(settings: Settings, *, quiet: bool = False) -> int:
    """Write the tables and the report of all exams in the output folder.

    Parameters
    ----------
    settings : Settings
        Only the output folder must exist. References come from ``derivatives``, or from the raw
        data where they are there; ``participants``, ``sessions``, ``rules``, ``nprocs`` and
        ``random_seed`` hold as at the participant level.

    Returns
    -------
    int
        0; or the exit code of what could not be evaluated (65 for damaged masks, 66 where
        references were named and no exam has one), after all else has been written.

    Raises
    ------
    NoInputError
        If the folder holds no finished exam, the review excludes all, or the folder of
        references or the file of marks does not exist.
    DataError
        If a metrics table, ``participants.tsv``, the changes or the marks cannot be read.
    OutputError
        If the folder is another pipeline's, or cannot be written.
    """
    get_rules(settings.rules)
    holdings = find_holdings(settings)
    if not holdings.metrics:
        _raise_nothing(settings, holdings)
    check_output_folder(settings.out_dir)
    review = current_review(settings)
    keep_review(settings, review)
    everything, holdings = holdings, holdings.without(excluded_exams(review))
    if not holdings.metrics:
        raise NoInputError(
            'The review excludes every exam that has metrics.',
            f'Change the marks in {group_path("review")} or in the file of --review.',
        )
    report = ReportParts(settings)
    volumes, people, source = _volumes(report, holdings)
    references = find_references(
        {exam_of(key) for key in holdings.metrics | holdings.masks}, settings
    )
    _exams(report, everything, references, review)
    _change(report)
    _cohort(report, volumes, people, source)
    views, total = _views(report, everything, review)
    _frequency(report, total)
    _regions(report, volumes)
    _progress(report, volumes, review)
    pairs = compare_models(report, holdings)
    outliers = _outliers(report, with_agreement(volumes, pairs))
    means = evaluate_masks(report, holdings, references)
    show_models(report, means, pairs)
    shown = Looked(everything, review, views, outliers, settings.out_dir)
    _write_texts(report, volumes, holdings, len(references), shown)
    if not quiet:
        _tell(report, volumes, holdings)
    return _code(report.codes)


def _raise_nothing(settings: Settings, holdings: Holdings) -> None:
    failed = [
        f'{row["participant_id"]} {row["session_id"]} ({row["model"]}): {row["reason"]}'
        for row in exam_states(holdings)
        if row['state'] == 'failed'
    ]
    why = f' Failed: {"; ".join(failed[:20])}.' if failed else ''
    raise NoInputError(
        f'{settings.out_dir} holds no metrics of any exam that was asked for.{why}',
        'Run the participant level first.',
    )


# ------------------------------------------------------------------- tables of the exams


def _volumes(report: ReportParts, holdings: Holdings) -> tuple[pd.DataFrame, list[str], str]:
    """Write the merged metrics tables; return them, the participants' columns and their file."""
    table = gather(holdings.metrics.values())
    before = list(table)
    folders = (report.settings.out_dir, report.settings.bids_dir)
    table, path = join_participants(table, folders)
    people = [str(name) for name in table if name not in before]
    with atomic_path(report.path('volumes')) as temporary:
        table.to_csv(temporary, sep='\t', index=False, na_rep='n/a', float_format='%.6g')
    known = metric_columns() | participant_columns(path, people)
    other = {'Description': 'Column of a metrics table of another version.'}
    columns = {str(name): known.get(str(name), other) for name in table}
    write_json(report.path('volumes').with_suffix('.json'), known | columns)
    missing = [name for name in ('lesion_volume_ml', 'lesion_count') if name not in table]
    if missing:
        report.said.append(f'No table has the column {" or ".join(missing)}.')
    return table, people, os.path.relpath(path, report.settings.out_dir) if path else ''


def _exams(
    report: ReportParts, holdings: Holdings, references: dict[Key, Path], review: Review
) -> None:
    rows = exam_states(holdings)
    left_out = excluded_exams(review)
    root = report.settings.derivatives.get('manual', report.settings.bids_dir)
    for row in rows:
        session = '' if row['session_id'] == 'n/a' else row['session_id']
        path = references.get(Key(row['participant_id'], session))
        if (key := (row['participant_id'], session)) in left_out:
            row |= {'state': 'excluded', 'reason': review[key].note or 'marked in the review'}
        row['reference'] = path.relative_to(root).as_posix() if path else 'n/a'
    report.records('exams', rows, _EXAM_COLUMNS)
    report.sections.append(content.exams_section(rows, bool(holdings.raw)))
    for row in rows:
        if row['state'] != 'done':
            report.said.append(_state_words(row))


def _change(report: ReportParts) -> None:
    """Merge the tables of change of all subjects, where there are any."""
    rows = change.gather_changes(report.settings)
    if rows:
        report.records('change', rows, SUMMARY_COLUMNS)


def _state_words(row: dict[str, Any]) -> str:
    session = '' if row['session_id'] == 'n/a' else f'_{row["session_id"]}'
    name = f'{row["participant_id"]}{session} ({row["model"]})'
    words = {
        'earlier result': 'failed in the last run: an earlier result is in the table',
        'failed': 'failed in the last run; not included in the table',
        'no metrics': 'has no metrics table; not included in the table',
        'no result': 'has no result; not included in the table',
        'excluded': 'is left out, as the review asks for',
    }
    return f'{name} {words[row["state"]]}'


def _cohort(report: ReportParts, volumes: pd.DataFrame, people: list[str], source: str) -> None:
    rows = summaries.cohort(volumes, people)
    report.records('cohort', rows, summaries.COHORT_COLUMNS)
    charts = plots.cohort_charts(volumes, _colours(volumes))
    report.sections.append(content.cohort_section(rows, charts, source))


def _views(
    report: ReportParts, holdings: Holdings, review: Review
) -> tuple[list[Thumbnail], FrequencySum]:
    """Draw the exams; those of other models than the shown one only give their lesions."""
    settings = report.settings
    model, left_out = shown_model(holdings), excluded_exams(review)
    tasks = [
        task if task.key.model == model else dataclasses.replace(task, mask=None)
        for task in view_tasks(holdings, settings.out_dir, report.path('figures') / 'exams')
    ]
    views, total = list[Thumbnail](), FrequencySum()
    for view in make_views(tasks, settings.nprocs, settings.work_dir):
        if (view.key.subject, view.key.session) not in left_out:
            total.add(view)
        views.append(dataclasses.replace(view, voxels=None))
    report.said += [f'{view.problem}: not shown' for view in views if view.problem]
    return views, total


def _frequency(report: ReportParts, total: FrequencySum) -> None:
    drawn = []
    for found in total.maps():
        image, figure = write_frequency(found, report.path('frequency'))
        drawn.append((found, image, figure))
    report.sections.append(content.frequency_section(drawn, report.settings.out_dir))


def _regions(report: ReportParts, volumes: pd.DataFrame) -> None:
    rows = regions.region_rows(volumes)
    if rows:
        report.records('regions', rows, regions.REGION_COLUMNS)
    charts = regions.region_charts(volumes, _colours(volumes))
    report.sections.append(content.region_section(rows, charts, regions.dissemination(volumes)))


def _progress(report: ReportParts, volumes: pd.DataFrame, review: Review) -> None:
    table = progress.read_changes(report.settings.out_dir / 'group_change.tsv')
    if table is None or not len(table):
        report.sections.append(content.progress_section([], []))
        return
    table = progress.without(table, excluded_exams(review))
    rows = progress.progress_rows(table, volumes)
    report.records('progress', rows, progress.PROGRESS_COLUMNS)
    charts = progress.progress_charts(table, _colours(volumes))
    report.sections.append(content.progress_section(rows, charts))


def _outliers(report: ReportParts, volumes: pd.DataFrame) -> list[dict[str, Any]]:
    rows = quality.outliers(volumes)
    report.records('outliers', rows, quality.OUTLIER_COLUMNS)
    chart = plots.outlier_chart(rows, _scores(volumes))
    exams = len(volumes.drop_duplicates(['participant_id', 'session_id']))
    report.sections.append(content.outlier_section(rows, chart, exams))
    listed = {(row['participant_id'], row['session_id']) for row in rows}
    if listed:
        report.said.append(f'{len(listed)} exams flagged: see {report.path("outliers").name}')
    return rows


def _scores(volumes: pd.DataFrame) -> dict[str, ChartSeries]:
    """Return the robust z values that the outliers are judged by, by column (and model)."""
    scores = {}
    for column, judged in quality.OUTLIER_RULES.items():
        for model, part in quality.parts(volumes, judged.by_model):
            values = quality.numbers(part, column)
            known = np.isfinite(values)
            if known.sum() < quality.FEWEST:
                continue
            name = judged.title if model == 'n/a' else f'{judged.title}, {model}'
            z = quality.robust_z(np.asarray(judged.scale(values[known])), judged.floor)
            scores[name] = ChartSeries(name, z, labels=plots.exam_names(part[known]))
    return scores


def _colours(volumes: pd.DataFrame) -> dict[str, int]:
    return plots.palette([*sorted(set(volumes['model'])), *CONSENSUS.values()])


# ------------------------------------------------------------------------- accuracy


# -------------------------------------------------------------------- models side by side


# ---------------------------------------------------------------------------- texts


def _write_texts(
    report: ReportParts, volumes: pd.DataFrame, holdings: Holdings, references: int, shown: Looked
) -> None:
    """Write figures with their data, Markdown, LaTeX and the report."""
    charts = [chart for section in report.sections for chart in section.charts]
    for chart in charts:
        chart.write(report.path('figures'))
    tables = [table for section in report.sections for table in section.tables]
    write_text(report.path('markdown'), '\n'.join(map(to_markdown, tables)))
    write_text(report.path('latex'), _latex_document(tables))
    write_group_report(
        report.path('report'),
        title='Group report',
        folder=report.settings.out_dir.name,
        facts=_facts(volumes, holdings, references),
        sections=[*report.sections, _files_section(charts)],
        version=__version__,
        review=review_rows(shown),
        review_model=shown_model(shown.holdings),
    )


def _latex_document(tables: Sequence[Table]) -> str:
    head = '% Tables of the group level of mslesseg; \\usepackage{booktabs} is needed.\n\n'
    return head + '\n'.join(map(to_latex, tables))


def _facts(volumes: pd.DataFrame, holdings: Holdings, references: int) -> list[Fact]:
    done = volumes.drop_duplicates(['participant_id', 'session_id'])
    models = volumes['model'].nunique()
    rows = exam_states(holdings)
    failed = sum(row['state'] in ('failed', 'earlier result') for row in rows)
    missing = sum(row['state'] in ('no result', 'no metrics') for row in rows)
    facts = [
        Fact(str(done['participant_id'].nunique()), 'participants'),
        Fact(str(len(done)), 'exams with a result'),
        Fact(str(models), 'model' if models == 1 else 'models'),
        Fact(str(references), 'exams with a reference'),
    ]
    facts += [Fact(str(failed), 'failed')] if failed else []
    return facts + ([Fact(str(missing), 'without a result')] if missing else [])


def _files_section(charts: Sequence[Chart]) -> Section:
    words = (
        (
            f'Every table is a TSV file with a JSON dictionary beside this report; all of them in '
            f'Markdown and LaTeX are {group_path("markdown")} and {group_path("latex")}. The '
            f'{len(charts)} figures are SVG files in {group_path("figures")}/, each with its data '
            'as TSV.'
        ),
    )
    return Section('files', 'Files', words)


def _tell(report: ReportParts, volumes: pd.DataFrame, holdings: Holdings) -> None:
    people = volumes['participant_id'].nunique()
    print(f'{len(volumes)} exams of {people} participants: {report.path("volumes")}')
    for text in report.said:
        print(f'  {text}')
    print(f'  {report.path("report")}')
    if report.codes:
        print('Some masks could not be evaluated; see above.', file=sys.stderr)


def _code(codes: Sequence[int]) -> int:
    found = set(codes)
    return 0 if not found else found.pop() if len(found) == 1 else 1
