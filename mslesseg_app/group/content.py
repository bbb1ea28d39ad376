"""The sections of the group report and the tables for papers, from the rows of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mslesseg_app.group import quality
from mslesseg_app.group.collect import STATES
from mslesseg_app.group.content_tables import cell, data_file, plain_table
from mslesseg_app.group.longitudinal import PROGRESS_COLUMNS
from mslesseg_app.group.regions import REGION_COLUMNS, REGIONS
from mslesseg_app.reports.charts import Chart
from mslesseg_app.reports.group_report import Section
from mslesseg_app.reports.review import SectionImage
from mslesseg_app.reports.tabular import Column, Spread, Table

if TYPE_CHECKING:
    from pathlib import Path

    from mslesseg_app.group.frequency import Frequency


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
        files=(data_file('exams'),),
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
        files=(data_file('cohort'), data_file('volumes')),
    )


def cohort_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return mean ± SD, median and range, or the number of participants by value."""
    cells = []
    for row in rows:
        ends = (row.get('minimum'), row.get('maximum'))
        spread = Spread(row['mean'], row['sd']) if 'mean' in row else None
        reach = f'{ends[0]:.4g} to {ends[1]:.4g}' if ends[0] is not None else None
        head = (row['part'], row['variable'], cell(row.get('model')), row['n'])
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
        files=(data_file('outliers'),),
    )


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
        files=(data_file('regions'),),
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
        files=(data_file('progress'), 'group_change.tsv'),
    )
