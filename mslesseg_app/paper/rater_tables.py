"""Table 3 of the paper: raters against the reference and two consensuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mslesseg_app.bids.names import group_path
from mslesseg_app.core.errors import NoInputError
from mslesseg_app.metrics.consensus import consensus
from mslesseg_app.metrics.exam import voxel_agreement
from mslesseg_app.metrics.pairs import find_pairs
from mslesseg_app.paper import published as paper
from mslesseg_app.paper.sources import Sources, frozen, mean, number, read_rows
from mslesseg_app.reports.tabular import Cell, Column, Table
from mslesseg_app.spatial.masks import on_grid_of, read_mask


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
    return Table('table-3', title, tuple(columns), frozen(cells), tuple(words))


def rater_experiments(
    cases: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> list[dict[str, Any]]:
    """Run the paper's two experiments over several scans, by STAPLE.

    The raters of C2 are the five best over all scans by mean Dice against the reference, the same
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
        name: mean(_dice(raters[name], truth) for raters, truth in cases if name in raters)
        for name in names
    }
    ranked = sorted(names, key=lambda name: (-scores[name], name))
    best = ranked[:5]
    against: dict[str, dict[str, list[float]]] = {}
    for raters, truth in cases:
        chosen = [raters[name] for name in best if name in raters]
        joint = {'DSC_C1': consensus([*raters.values(), truth], 'staple').mask}
        joint['DSC_C2'] = consensus(chosen, 'staple').mask if chosen else np.zeros_like(truth)
        for name, mask in {**raters, 'reference': truth}.items():
            for key, mask_of in joint.items():
                against.setdefault(name, {}).setdefault(key, []).append(_dice(mask, mask_of))
    return [
        {
            'rater': name,
            'DSC_reference': scores.get(name, 1.0),
            **{key: mean(values) for key, values in against[name].items()},
            'in_C2': name in best,
        }
        for name in ['reference', *ranked]
    ]


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return voxel_agreement(first, second)['DSC']


def consensus_from(sources: Sources, beside: bool) -> Table:
    """Return Table 3 from masks of raters, or from the table of the group level."""
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
            **{key: mean(number(row.get(key)) for row in part) for key in keys},
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
