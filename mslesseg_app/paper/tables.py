"""The tables of the MSLesSeg paper (1, 2, 3, 5 and 6), made from anybody's data.

Each function takes plain rows and gives a :class:`Table`; :func:`make_tables` finds the inputs.
With ``beside`` the paper's values stand in columns or rows of their own that say so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mslesseg_app.bids.names import group_path
from mslesseg_app.bids.public import acquisition
from mslesseg_app.bids.public.clinical import Cohort, Scan, read_cohort
from mslesseg_app.core.errors import DataError, MSLesSegError, NoInputError
from mslesseg_app.core.text import natural_key
from mslesseg_app.paper import published as paper
from mslesseg_app.paper.rater_tables import consensus_from
from mslesseg_app.paper.sources import Sources, frozen, mean, mean_sd, number, read_rows
from mslesseg_app.reports.tabular import Cell, Column, Spread, Table

NUMBERS = (1, 2, 3, 5, 6)

_PAPER = 'paper'
_MODEL_NAMES = {name.lower(): name for name in paper.MODELS}


def make_tables(
    which: Iterable[int], sources: Sources, *, beside: bool = False
) -> tuple[list[Table], dict[int, MSLesSegError]]:
    """Make the tables that were asked for.

    Returns
    -------
    tables : list of Table
    missing : dict
        By number of table, why it could not be made.
    """
    makers: dict[int, Callable[[Sources, bool], Table]] = {
        1: _cohort_from,
        2: _acquisition_from,
        3: consensus_from,
        5: lambda found, side: models_table(_evaluations(found), beside=side),
        6: lambda found, side: folds_table(_evaluations(found), beside=side),
    }
    tables, missing = [], {}
    for table in which:
        try:
            tables.append(makers[table](sources, beside))
        except MSLesSegError as error:
            missing[table] = error
    return tables, missing


# --------------------------------------------------------------------- Table 1: cohort


def cohort_table(cohort: Cohort, *, beside: bool = False) -> Table:
    """Return Table 1: patients, sex, MS type, age, EDSS, lesion volume and count, by split.

    Age and EDSS count once a patient (at the first scan that has them), lesion volume and count
    once a scan.
    """
    splits = {name: [s for s in cohort.scans if s.split == name] for name in _splits(cohort)}
    columns = [Column('variable', 'variable')]
    columns += [Column(name or 'all', _split_title(name)) for name in splits]
    described = [_described(scans) for scans in splits.values()]
    names = list(dict.fromkeys(name for part in described for name in part))
    order = [n for n in _ORDER if n in names] + [n for n in names if n not in _ORDER]
    rows: list[list[Cell]] = [
        [_TITLES.get(name, name), *(part.get(name, _absent(name)) for part in described)]
        for name in order
    ]
    notes = [
        (
            'Mean ± SD with n - 1; age and EDSS over patients, volume and number of lesions over '
            'scans.'
        ),
        *cohort.notes,
    ]
    if beside:
        columns += [
            Column(f'paper_{name}', f'paper, {_split_title(name)}') for name in ('train', 'test')
        ]
        for name, row in zip(order, rows, strict=True):
            row += paper.COHORT.get(name, (None, None))
        notes += [f'Paper: {paper.CITED}.', *paper.CAUTIONS[1]]
    return Table('table-1', 'Table 1. Cohort', tuple(columns), frozen(rows), tuple(notes))


_ORDER: tuple[str, ...] = (
    'patients',
    'scans',
    'male',
    'female',
    'RRMS',
    'SPMS',
    'PPMS',
    'age',
    'EDSS',
)
_ORDER += ('lesion volume', 'lesions')
_TITLES = {
    'age': 'age (years)',
    'lesion volume': 'lesion volume (mm³)',
    'lesions': 'number of lesions',
}


def _absent(name: str) -> Cell:
    """Nobody of a kind is zero; a number that is not known is nothing."""
    return None if name in ('age', 'EDSS', 'lesion volume', 'lesions') else 0


def _splits(cohort: Cohort) -> list[str]:
    found = {scan.split for scan in cohort.scans}
    first = [name for name in ('train', 'test') if name in found]
    return first + sorted(found - set(first))


def _split_title(name: str) -> str:
    return {'train': 'training', 'test': 'testing', '': 'all'}.get(name, name)


def _described(scans: Sequence[Scan]) -> dict[str, Cell]:
    patients: dict[str, list[Scan]] = {}
    for scan in scans:
        patients.setdefault(scan.patient, []).append(scan)
    first = [
        {what: _first(rows, what) for what in ('sex', 'ms_type', 'age', 'edss')}
        for rows in patients.values()
    ]
    found: dict[str, Cell] = {'patients': len(patients), 'scans': len(scans)}
    for what in ('sex', 'ms_type'):
        words = [str(person[what]) for person in first]
        found |= {word: words.count(word) for word in sorted(set(words)) if word}
    numbers = {
        'age': mean_sd(float(person['age']) for person in first),
        'EDSS': mean_sd(float(person['edss']) for person in first),
        'lesion volume': mean_sd(scan.volume_mm3 for scan in scans),
        'lesions': mean_sd(scan.lesions for scan in scans),
    }
    return found | {name: value for name, value in numbers.items() if math.isfinite(value.mean)}


def _first(rows: Sequence[Scan], what: str) -> Any:
    """Return the first value of a patient that is known."""
    values = [getattr(row, what) for row in sorted(rows, key=lambda row: row.timepoint)]
    known = [v for v in values if v and not (isinstance(v, float) and math.isnan(v))]
    return known[0] if known else values[0]


def _cohort_from(sources: Sources, beside: bool) -> Table:
    path = sources.clinical
    if path is None:
        folders = [folder for folder in (sources.out, sources.bids) if folder is not None]
        tables = [folder / 'participants.tsv' for folder in folders]
        path = next((table for table in tables if table.is_file()), None)
    if path is None:
        raise NoInputError(
            'Table 1 needs a table of patients.',
            'Give --clinical clinical_data.csv, or --bids DIR with a participants.tsv.',
        )
    cohort = read_cohort(path)
    if all(math.isnan(scan.volume_mm3) for scan in cohort.scans) and sources.out is not None:
        cohort = _with_volumes(cohort, sources.out)
    return cohort_table(cohort, beside=beside)


def _with_volumes(cohort: Cohort, out: Path) -> Cohort:
    """Add lesion volumes and counts of the reference masks from the group level."""
    path = out / group_path('evaluation')
    if not path.is_file():
        note = f'Lesion volumes are not known: there is no {path.name} in the output folder.'
        return Cohort(cohort.scans, (*cohort.notes, note))
    people = {scan.patient.removeprefix('sub-'): scan for scan in cohort.scans}
    exams = {}
    for row in read_rows(path):
        patient = row['participant_id'].removeprefix('sub-')
        if patient in people:
            exams[patient, row.get('session_id', '')] = replace(
                people[patient],
                timepoint=row.get('session_id', ''),
                volume_mm3=1000 * number(row.get('volume_reference_ml')),
                lesions=number(row.get('n_reference')),
            )
    rest = [scan for name, scan in people.items() if name not in {key[0] for key in exams}]
    return Cohort((*exams.values(), *rest), cohort.notes)


# ---------------------------------------------------------------- Table 2: acquisition

_FIELD_TITLES = {
    'matrix': ('rows, columns', ''),
    'spacing': ('pixel spacing', 'mm'),
    'thickness': ('slice thickness', 'mm'),
    'TR': ('TR', 'ms'),
    'TE': ('TE', 'ms'),
    'TI': ('TI', 'ms'),
    'flip': ('flip angle', '°'),
}


def acquisition_table(
    images: Mapping[str, Sequence[dict[str, float]]], *, beside: bool = False
) -> Table:
    """Return Table 2: matrix, spacing, thickness, TR, TE, TI and flip angle by modality.

    Parameters
    ----------
    images : dict
        As :func:`~.acquisition.read_bids` gives them.
    """
    columns = [Column('modality', 'modality'), Column('n', 'images')]
    columns += [
        Column(name, f'{title} ({unit})' if unit else title, units=unit, digits=2)
        for name, (title, unit) in _FIELD_TITLES.items()
    ]
    rows: list[list[Cell]] = []
    notes = ['Mean ± SD with n - 1; matrix: mean of rows and columns of a slice.']
    for modality, found in images.items():
        known = {name: acquisition.column(found, name) for name in acquisition.FIELDS}
        spreads = [mean_sd(known[name]) if known[name] else None for name in _FIELD_TITLES]
        rows.append([modality, len(found), *spreads])
        part = [f'{name} in {len(v)}' for name, v in known.items() if 0 < len(v) < len(found)]
        if part:
            notes.append(f'{modality}: of {len(found)} images, known are {", ".join(part)}.')
        nothing = [name for name, v in known.items() if found and not v]
        if nothing:
            notes.append(f'{modality}: no image states {", ".join(nothing)}.')
        if not found:
            notes.append(f'There is no {modality} image.')
        if beside:
            rows.append([f'{modality} ({_PAPER})', None, *paper.ACQUISITION[modality]])
    if beside:
        notes += [f'Paper: {paper.CITED}.', *paper.CAUTIONS[2]]
    title = 'Table 2. Acquisition'
    return Table('table-2', title, tuple(columns), frozen(rows), tuple(notes))


def _acquisition_from(sources: Sources, beside: bool) -> Table:
    if sources.scanners is not None:
        return acquisition_table(acquisition.read_scanner_tables(sources.scanners), beside=beside)
    if sources.bids is not None:
        return acquisition_table(acquisition.read_bids(sources.bids), beside=beside)
    raise NoInputError(
        'Table 2 needs the sidecars of images.', 'Give --bids DIR, or --scanners DIR.'
    )


# ------------------------------------------------------ Tables 5 and 6: models and folds


def models_table(rows: Sequence[Mapping[str, str]], *, beside: bool = False) -> Table:
    """Return Table 5: models × metrics, the mean of the folds' means.

    Parameters
    ----------
    rows : sequence of dict
        One row a scan with ``model``, maybe ``fold``, and the metrics.

    Notes
    -----
    The paper averages the test scans of each fold, then the folds. The SD is that of the folds'
    means; without folds it is that of the scans.
    """
    names = [name for name in paper.METRICS if any(name in row for row in rows)]
    if not names:
        raise DataError(f'No evaluation has a column of {", ".join(paper.METRICS)}.')
    columns = [Column('model', 'model'), Column('folds', 'folds'), Column('n', 'scans')]
    columns += [Column(name, _metric_title(name)) for name in names]
    cells: list[list[Cell]] = []
    for model, part in _grouped(rows, 'model').items():
        folds = _grouped(part, 'fold')
        spreads = [_over_folds(folds, name) for name in names]
        cells.append([model, len(folds) if '' not in folds else None, len(part), *spreads])
        if beside and model.lower() in _MODEL_NAMES:
            cells.append(_paper_models(_MODEL_NAMES[model.lower()], names))
    notes = [
        (
            'Mean over folds of the means over scans ± SD of the folds (n - 1); without folds, '
            'mean over scans ± SD of the scans.'
        )
    ]
    notes += _undefined_note(rows, names)
    if beside:
        shown = {str(row[0]) for row in cells}
        cells += [
            _paper_models(model, names)
            for model in paper.MODELS
            if f'{model} ({_PAPER})' not in shown
        ]
        notes += [f'Paper: {paper.CITED}.', *paper.CAUTIONS[5]]
    return Table('table-5', 'Table 5. Models', tuple(columns), frozen(cells), tuple(notes))


def _paper_models(model: str, names: Sequence[str]) -> list[Cell]:
    values = dict(zip(paper.METRICS, paper.MODELS[model], strict=True))
    digits = {'AVD_percent': 2, 'ASSD': 3}
    shown = [f'{values[name]:.{digits.get(name, 4)}f}' for name in names]
    return [f'{model} ({_PAPER})', 5, None, *shown]


def _metric_title(name: str) -> str:
    return {'AVD_percent': 'AVD (%)', 'ASSD': 'ASSD (mm)'}.get(name, name)


def _over_folds(folds: Mapping[str, Sequence[Mapping[str, str]]], name: str) -> Spread:
    if len(folds) == 1:
        (rows,) = folds.values()
        return mean_sd(number(row.get(name)) for row in rows)
    return mean_sd(mean(number(row.get(name)) for row in rows) for rows in folds.values())


def _undefined_note(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    counts = {
        name: sum(not math.isfinite(number(row.get(name))) for row in rows) for name in names
    }
    open_ones = [f'{name} in {count}' for name, count in counts.items() if count]
    if not open_ones:
        return []
    return [f'Of {len(rows)} scans, not defined and left out: {", ".join(open_ones)}.']


def folds_table(rows: Sequence[Mapping[str, str]], *, beside: bool = False) -> Table:
    """Return Table 6: models × folds, the mean DSC over the scans of each fold."""
    if not any(row.get('fold') for row in rows):
        raise NoInputError(
            'Table 6 needs the fold of each row.',
            'Give files with a column "fold", or with fold-<n> in their names.',
        )
    folds = sorted({row['fold'] for row in rows if row.get('fold')}, key=natural_key)
    columns = [Column('model', 'model')]
    columns += [Column(f'fold_{fold}', f'fold {fold}', digits=4) for fold in folds]
    cells: list[list[Cell]] = []
    for model, part in _grouped(rows, 'model').items():
        by_fold = _grouped(part, 'fold')
        means = [mean(number(row.get('DSC')) for row in by_fold.get(f, ())) for f in folds]
        cells.append([model, *means])
    notes = ['Mean DSC over the scans of each fold.']
    if beside:
        for model, values in paper.FOLDS.items():
            by_name = {str(place): value for place, value in enumerate(values, 1)}
            cells.append([f'{model} ({_PAPER})', *(by_name.get(fold) for fold in folds)])
        notes += [f'Paper: {paper.CITED}.', *paper.CAUTIONS[6]]
    return Table('table-6', 'Table 6. DSC by fold', tuple(columns), frozen(cells), tuple(notes))


def _grouped(rows: Sequence[Mapping[str, str]], key: str) -> dict[str, list[Mapping[str, str]]]:
    groups: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault(row.get(key, ''), []).append(row)
    return groups


def _evaluations(sources: Sources) -> list[dict[str, str]]:
    """Read all evaluation tables; models that are joint masks of others are left out."""
    paths = list(sources.evaluations)
    if not paths and sources.out is not None:
        path = sources.out / group_path('evaluation')
        paths = [path] if path.is_file() else []
    if not paths:
        raise NoInputError(
            'Tables 5 and 6 need evaluations of models.',
            'Give --evaluation FILE … (columns model, fold, DSC, …), or --out DIR after the '
            'group level has evaluated masks.',
        )
    rows = []
    for path in paths:
        fold = re.search(r'fold-?(\d+)', path.as_posix().rsplit('/', 1)[-1])
        for row in read_rows(path):
            if not row.get('model'):
                raise DataError(
                    f'{path} has no column "model".', 'Each row needs the name of its model.'
                )
            if row['model'].startswith('consensus-'):
                continue
            known = row.get('fold', '')
            row['fold'] = known if known not in {'', 'n/a'} else (fold.group(1) if fold else '')
            rows.append(row)
    if not rows:
        raise DataError('The evaluations hold no row of any model.')
    return rows
