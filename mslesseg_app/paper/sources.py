"""Where the tables of the paper come from, and how their rows are read."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.core.files import read_any_text
from mslesseg_app.reports.tabular import Cell, Spread


@dataclass(frozen=True)
class Sources:
    """Where the tables come from.

    Attributes
    ----------
    clinical : Path or None
        Table of patients: ``clinical_data.csv`` of the release, or a ``participants.tsv``.
    bids : Path or None
        BIDS dataset: its ``participants.tsv`` and the acquisition of its images.
    scanners : Path or None
        Folder with ``patient_scanners_info_*.csv``; comes before `bids`.
    out : Path or None
        Output folder with the tables of the group level.
    evaluations : tuple of Path
        TSV files with the columns ``model`` and the metrics, maybe ``fold``.
    raters : dict
        Folder of masks by the name of the rater.
    reference : Path or None
        Folder of reference masks for the raters.
    """

    clinical: Path | None = None
    bids: Path | None = None
    scanners: Path | None = None
    out: Path | None = None
    evaluations: tuple[Path, ...] = ()
    raters: Mapping[str, Path] = field(default_factory=dict)
    reference: Path | None = None


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a TSV as dictionaries of text.

    Raises
    ------
    NoInputError
        If there is no such file.
    DataError
        If it is no table of text.
    """
    if not path.is_file():
        raise NoInputError(f'{path} does not exist.')
    try:
        text = read_any_text(path)
    except (OSError, ValueError) as error:
        raise DataError(f'{path} cannot be read as text: {error}') from error
    rows = csv.DictReader(text.splitlines(), delimiter='\t')
    return [{str(key): str(value or '') for key, value in row.items() if key} for row in rows]


def number(text: str | None) -> float:
    """Read a number; NaN where there is none."""
    try:
        return float(text or 'nan')
    except ValueError:
        return math.nan


def frozen(rows: Iterable[Iterable[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    """Return the cells of a table as tuples."""
    return tuple(tuple(row) for row in rows)


def mean(values: Iterable[float]) -> float:
    """Return the mean of the finite values; NaN of none."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def mean_sd(values: Iterable[float]) -> Spread:
    """Return mean and sample standard deviation (n - 1) of the finite values."""
    known = np.array([value for value in values if math.isfinite(value)])
    if not known.size:
        return Spread(math.nan)
    return Spread(float(known.mean()), float(known.std(ddof=1)) if known.size > 1 else math.nan)
