"""The tables of the MSLesSeg paper (1, 2, 3, 5 and 6), made from anybody's data.

Each function takes plain rows and gives a :class:`Table`; :func:`make_tables` finds the inputs.
With ``beside`` the paper's values stand in columns or rows of their own that say so.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mslesseg_app.bids.names import group_path
from mslesseg_app.bids.public import acquisition
from mslesseg_app.bids.public.clinical import Cohort, Scan, read_cohort
from mslesseg_app.core.errors import DataError, MSLesSegError, NoInputError
from mslesseg_app.core.files import read_any_text
from mslesseg_app.metrics.consensus import Method, consensus
from mslesseg_app.metrics.exam import voxel_agreement
from mslesseg_app.metrics.pairs import find_pairs
from mslesseg_app.paper import published as paper
from mslesseg_app.reports.tabular import Cell, Column, Spread, Table
from mslesseg_app.spatial.masks import on_grid_of, read_mask

NUMBERS = (1, 2, 3, 5, 6)

_PAPER = 'paper'
_MODEL_NAMES = {name.lower(): name for name in paper.MODELS}


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
        3: _consensus_from,
        5: lambda found, side: models_table(_evaluations(found), beside=side),
        6: lambda found, side: folds_table(_evaluations(found), beside=side),
    }
    tables, missing = [], {}
    for number in which:
        try:
            tables.append(makers[number](sources, beside))
        except MSLesSegError as error:
            missing[number] = error
    return tables, missing


def mean_sd(values: Iterable[float]) -> Spread:
    """Return mean and sample standard deviation (n - 1) of the finite values."""
    known = np.array([value for value in values if math.isfinite(value)])
    if not known.size:
        return Spread(math.nan)
    return Spread(float(known.mean()), float(known.std(ddof=1)) if known.size > 1 else math.nan)


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
    return Table('table-1', 'Table 1. Cohort', tuple(columns), _frozen(rows), tuple(notes))


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
                volume_mm3=1000 * _number(row.get('volume_reference_ml')),
                lesions=_number(row.get('n_reference')),
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
    return Table('table-2', title, tuple(columns), _frozen(rows), tuple(notes))


def _acquisition_from(sources: Sources, beside: bool) -> Table:
    if sources.scanners is not None:
        return acquisition_table(acquisition.read_scanner_tables(sources.scanners), beside=beside)
    if sources.bids is not None:
        return acquisition_table(acquisition.read_bids(sources.bids), beside=beside)
    raise NoInputError(
        'Table 2 needs the sidecars of images.', 'Give --bids DIR, or --scanners DIR.'
    )


# ------------------------------------------------------------------ Table 3: consensus


def consensus_table(
    rows: Sequence[Mapping[str, Any]], *, notes: Sequence[str] = (), beside: bool = False
) -> Table:
    """Return Table 3: Dice of the reference and each rater against reference, C1 and C2.

    Parameters
    ----------
    rows : sequence of dict
        ``rater``, ``DSC_reference``, ``DSC_C1``, ``DSC_C2``, ``in_C2``; the reference first.
    """
    columns = [
        Column('rater', 'rater'),
        Column('DSC_reference', 'against the reference', digits=2),
        Column('DSC_C1', 'against C1', digits=2),
        Column('DSC_C2', 'against C2', digits=2),
        Column('in_C2', 'in C2'),
    ]
    keys = ('DSC_reference', 'DSC_C1', 'DSC_C2')
    cells: list[list[Cell]] = [
        [row['rater'], *(row[key] for key in keys), 'yes' if row['in_C2'] else 'no']
        for row in rows
    ]
    words = [
        (
            'Dice coefficient, mean over scans. C1: STAPLE of all raters and the reference; C2: '
            'STAPLE of the best five raters.'
        ),
        *notes,
    ]
    if beside:
        columns += [Column(f'paper_{key}', f'paper: {key[4:]}', digits=2) for key in keys]
        places = range(max(len(cells), len(paper.CONSENSUS['DSC_C1'])))
        for place in places:
            if place == len(cells):
                cells.append([f'paper: team {place}', None, None, None, None])
            cells[place] += (
                [paper.CONSENSUS[key][place] for key in keys] if place < 16 else [None] * 3
            )
        words += [
            (
                f'Paper: {paper.CITED}; its teams are other methods than our raters, row by row '
                'from the best.'
            ),
            *paper.CAUTIONS[3],
        ]
    title = 'Table 3. Raters against the reference and two consensuses'
    return Table('table-3', title, tuple(columns), _frozen(cells), tuple(words))


def rater_experiments(
    cases: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]],
    *,
    best: int = 5,
    method: Method = 'staple',
) -> list[dict[str, Any]]:
    """Run the paper's two experiments over several scans.

    The raters of C2 are the best over all scans by mean Dice against the reference, the same
    for every scan.

    Parameters
    ----------
    cases : sequence of (dict of bool arrays, bool array)
        For each scan the masks by rater and the reference, on one grid.

    Returns
    -------
    list of dict
        As :func:`mslesseg_app.metrics.consensus.experiments`, means over scans.
    """
    names = sorted({name for raters, _ in cases for name in raters})
    scores = {
        name: _mean(_dice(raters[name], truth) for raters, truth in cases if name in raters)
        for name in names
    }
    ranked = sorted(names, key=lambda name: (-scores[name], name))
    against: dict[str, dict[str, list[float]]] = {}
    for raters, truth in cases:
        chosen = [raters[name] for name in ranked[:best] if name in raters]
        joint = {'DSC_C1': consensus([*raters.values(), truth], method).mask}
        joint['DSC_C2'] = consensus(chosen, method).mask if chosen else np.zeros_like(truth)
        for name, mask in {**raters, 'reference': truth}.items():
            for key, mask_of in joint.items():
                against.setdefault(name, {}).setdefault(key, []).append(_dice(mask, mask_of))
    return [
        {
            'rater': name,
            'DSC_reference': scores.get(name, 1.0),
            **{key: _mean(values) for key, values in against[name].items()},
            'in_C2': name in ranked[:best],
        }
        for name in ['reference', *ranked]
    ]


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return voxel_agreement(first, second)['DSC']


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _consensus_from(sources: Sources, beside: bool) -> Table:
    if sources.raters and sources.reference is not None:
        cases, notes = _read_cases(sources.raters, sources.reference)
        return consensus_table(rater_experiments(cases), notes=notes, beside=beside)
    path = sources.out / group_path('raters') if sources.out is not None else None
    if path is None or not path.is_file():
        raise NoInputError(
            'Table 3 needs masks of several raters and a reference.',
            'Give --rater NAME=DIR for each and --reference DIR, or --out DIR after the group '
            'level has evaluated two models or more.',
        )
    rows, notes = _from_group(path)
    return consensus_table(rows, notes=notes, beside=beside)


def _from_group(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Average the consensus rows of the group level."""
    rows = read_rows(path)
    keys = ('DSC_reference', 'DSC_C1', 'DSC_C2')
    parts: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        parts.setdefault(row['model'], []).append(row)
    found: list[dict[str, Any]] = [
        {
            'rater': model,
            **{key: _mean(_number(row.get(key)) for row in part) for key in keys},
            'in_C2': any(row.get('in_C2') == 'yes' for row in part),
        }
        for model, part in parts.items()
    ]
    found.sort(key=lambda row: (row['rater'] != 'reference', -row['DSC_reference'], row['rater']))
    exams = len({(row['participant_id'], row['session_id']) for row in rows})
    return found, [f'From {path.name}: {exams} exams; the best five are chosen exam by exam.']


def _read_cases(
    raters: Mapping[str, Path], reference: Path
) -> tuple[list[tuple[dict[str, np.ndarray], np.ndarray]], list[str]]:
    """Read the masks that all raters have, cut to the box that holds them."""
    pairs = {name: find_pairs(folder, reference).pairs for name, folder in raters.items()}
    by_scan: dict[Path, dict[str, Path]] = {}
    for name, found in pairs.items():
        for pair in found:
            by_scan.setdefault(pair.reference, {})[name] = pair.prediction
    whole = {scan: files for scan, files in by_scan.items() if len(files) == len(raters)}
    if not whole:
        raise NoInputError(
            f'No scan of {reference} has a mask of all {len(raters)} raters.',
            'Masks and references must have the same names or BIDS entities.',
        )
    notes = [f'{len(whole)} scans, {len(raters)} raters.']
    if len(whole) < len(by_scan):
        notes.append(f'{len(by_scan) - len(whole)} scans that some raters lack were left out.')
    return [_read_case(scan, files) for scan, files in sorted(whole.items())], notes


def _read_case(scan: Path, files: Mapping[str, Path]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    reference = read_mask(scan)
    masks = {'': np.asanyarray(reference.dataobj) > 0}
    for name, path in files.items():
        image = on_grid_of(reference, read_mask(path), path, resampling=False, linear=False)
        masks[name] = np.asanyarray(image.dataobj) > 0
    union = np.logical_or.reduce(list(masks.values()))
    box = []
    for axis in range(3):
        used = np.flatnonzero(union.any(axis=tuple(a for a in range(3) if a != axis)))
        ends = (int(used[0]), int(used[-1])) if used.size else (0, 0)
        box.append(slice(max(0, ends[0] - 2), ends[1] + 3))
    cut = {name: np.ascontiguousarray(mask[tuple(box)]) for name, mask in masks.items()}
    return {name: mask for name, mask in cut.items() if name}, cut['']


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
    return Table('table-5', 'Table 5. Models', tuple(columns), _frozen(cells), tuple(notes))


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
        return mean_sd(_number(row.get(name)) for row in rows)
    return mean_sd(_mean(_number(row.get(name)) for row in rows) for rows in folds.values())


def _undefined_note(rows: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    counts = {
        name: sum(not math.isfinite(_number(row.get(name))) for row in rows) for name in names
    }
    open_ones = [f'{name} in {count}' for name, count in counts.items() if count]
    if not open_ones:
        return []
    return [f'Of {len(rows)} scans, not defined and left out: {", ".join(open_ones)}.']


def folds_table(
    rows: Sequence[Mapping[str, str]], *, metric: str = 'DSC', beside: bool = False
) -> Table:
    """Return Table 6: models × folds, the mean of one metric over the scans of each fold."""
    if not any(row.get('fold') for row in rows):
        raise NoInputError(
            'Table 6 needs the fold of each row.',
            'Give files with a column "fold", or with fold-<n> in their names.',
        )
    folds = sorted({row['fold'] for row in rows if row.get('fold')}, key=_natural)
    columns = [Column('model', 'model')]
    columns += [Column(f'fold_{fold}', f'fold {fold}', digits=4) for fold in folds]
    cells: list[list[Cell]] = []
    for model, part in _grouped(rows, 'model').items():
        by_fold = _grouped(part, 'fold')
        means = [_mean(_number(row.get(metric)) for row in by_fold.get(f, ())) for f in folds]
        cells.append([model, *means])
    notes = [f'Mean {metric} over the scans of each fold.']
    if beside:
        for model, values in paper.FOLDS.items():
            by_name = {str(place): value for place, value in enumerate(values, 1)}
            cells.append([f'{model} ({_PAPER})', *(by_name.get(fold) for fold in folds)])
        notes += [f'Paper: {paper.CITED}.', *paper.CAUTIONS[6]]
    title = f'Table 6. {metric} by fold'
    return Table('table-6', title, tuple(columns), _frozen(cells), tuple(notes))


def _natural(text: str) -> tuple[int, str]:
    return (int(text), '') if text.isdigit() else (10**9, text)


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


# ----------------------------------------------------------------------------- pieces


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


def _number(text: str | None) -> float:
    try:
        return float(text or 'nan')
    except ValueError:
        return math.nan


def _frozen(rows: Iterable[Iterable[Cell]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(row) for row in rows)
