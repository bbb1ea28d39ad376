"""The report of the cohort: one HTML file that needs nothing else, in light and dark."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from mslesseg_app.bids.names import group_path
from mslesseg_app.core.files import write_text
from mslesseg_app.reports.charts import STYLE, Chart
from mslesseg_app.reports.participant_report import environment, source
from mslesseg_app.reports.review import ReviewRow, SectionImage, in_order
from mslesseg_app.reports.tabular import Cell, Table

#: Images of more exams than this lie beside the report: it would take long to open.
MOST_EMBEDDED = 100


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes
    ----------
    key : str
        Its anchor.
    words : tuple of str
        Paragraphs above the tables.
    warnings : tuple of str
        What the reader must not miss; in a box.
    files : tuple of str
        Files that hold the same, relative to the report.
    """

    key: str
    title: str
    words: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    images: tuple[SectionImage, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """A number at the top of the report."""

    value: str
    name: str


def write_group_report(
    path: Path,
    *,
    title: str,
    folder: str,
    facts: Sequence[Fact],
    sections: Sequence[Section],
    version: str,
    review: Sequence[ReviewRow] = (),
    review_model: str = '',
) -> Path:
    """Write the report; equal content gives equal bytes.

    Parameters
    ----------
    review : sequence of ReviewRow
        Exams to mark; without any the report has no such part. Their images are embedded, but
        for more than `MOST_EMBEDDED`, which are shown from where they lie.
    review_model : str
        Whose lesions their images show.

    Raises
    ------
    OutputError, DiskError
        If it cannot be written.
    """
    script = source('marks.js') + source('sort.js') + (source('review.js') if review else '')
    beside = sum(row.image is not None for row in review) > MOST_EMBEDDED
    style = source('style.css') + source('group.css') + source('review.css') + STYLE
    html = (
        environment()
        .get_template('group.html')
        .render(
            title=title,
            folder=folder,
            facts=facts,
            sections=sections,
            version=version,
            style=Markup(style),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            value_of=value_of,
            drawn=drawn,
            figures=group_path('figures').as_posix(),
            review=in_order(review),
            review_model=review_model,
            beside=beside,
            image_of=lambda row: address(row, path.parent) if beside else row.source,
            review_file=group_path('review').as_posix(),
        )
    )
    write_text(path, html)
    return path


def address(row: ReviewRow, folder: Path) -> str:
    """Return where the image of an exam lies, as seen from a folder; empty without one."""
    return quote(Path(os.path.relpath(row.image, folder)).as_posix()) if row.image else ''


def drawn(chart: Chart) -> Markup:
    """Return the drawing of a chart for the report; every text in it was escaped before."""
    return Markup(chart.markup())


def value_of(cell: Cell) -> float | None:
    """Return the number by which a cell is sorted."""
    number = getattr(cell, 'mean', getattr(cell, 'value', cell))
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return float(number) if number == number else None
