"""Maps of change against a reference, with numbers that can be counted by hand."""

from __future__ import annotations

import csv

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.cli.main import main
from mslesseg_app.metrics.change import (
    CHANGE_EVALUATION_COLUMNS,
    change_cohort,
    evaluate_change,
    evaluate_change_files,
)
from mslesseg_app.metrics.pairs import find_pairs

SHAPE = (40, 40, 20)


def cubes(**places) -> np.ndarray:
    """Draw cubes of edge n at (x, y, z) with a code: name=(n, (x, y, z), code)."""
    data = np.zeros(SHAPE, np.int64)
    for edge, (x, y, z), code in places.values():
        data[x : x + edge, y : y + edge, z : z + edge] = code
    return data


# 64, 27 and 8 mm³; the prediction has the first, shifted by one voxel, and a false one of 27
REFERENCE = cubes(a=(4, (2, 2, 2), 2), b=(3, (20, 20, 5), 4), c=(2, (30, 5, 5), 3))
PREDICTION = cubes(
    a=(4, (3, 2, 2), 2),
    b=(3, (20, 20, 5), 5),
    false=(3, (10, 30, 10), 3),
    stable=(5, (30, 30, 2), 1),
)


def row(rows, direction, size):
    (found,) = [r for r in rows if (r['direction'], r['size']) == (direction, size)]
    return found


def test_counts_by_size_and_direction():
    rows = evaluate_change(PREDICTION, REFERENCE, 1.0)
    whole = row(rows, 'all', 'all')
    assert whole['dsc'] == pytest.approx(2 * (48 + 27) / (64 + 27 + 27 + 64 + 27 + 8))
    assert (whole['n_reference'], whole['n_found']) == (3, 2)
    assert (whole['n_predicted'], whole['n_false']) == (3, 1)
    precision, sensitivity = 2 / 3, 2 / 3
    assert whole['f1'] == pytest.approx(2 * precision * sensitivity / (precision + sensitivity))
    assert row(rows, 'all', '30-100')['sensitivity'] == 1
    assert row(rows, 'all', '3-30')['sensitivity'] == 0.5
    assert np.isnan(row(rows, 'all', '100-')['sensitivity'])
    brighter, darker = (row(rows, name, 'all') for name in ('brighter', 'darker'))
    assert (brighter['n_reference'], brighter['n_found'], brighter['n_false']) == (2, 1, 1)
    assert (darker['dsc'], darker['n_false']) == (1, 0)
    assert whole['volume_predicted_ml'] == pytest.approx(0.118)


def test_a_mask_has_no_directions():
    rows = evaluate_change(PREDICTION, (REFERENCE > 0).astype(int), 1.0)
    assert {r['direction'] for r in rows} == {'all'}
    assert row(rows, 'all', 'all')['n_found'] == 2


def test_nothing_against_nothing():
    empty = np.zeros(SHAPE, int)
    whole = row(evaluate_change(empty, empty, 1.0), 'all', 'all')
    assert np.isnan(whole['dsc'])
    assert np.isnan(whole['f1'])
    false = row(evaluate_change(PREDICTION, empty, 1.0), 'all', 'all')
    assert (false['dsc'], false['n_false'], false['false_discovery_rate']) == (0, 3, 1)


def save(path, data):
    path.parent.mkdir(exist_ok=True)
    nb.Nifti1Image(data.astype(np.uint8), np.eye(4)).to_filename(path)


def test_command(tmp_path, capsys):
    for name in ('sub-1', 'sub-2'):
        save(tmp_path / 'p' / f'{name}_mask.nii.gz', PREDICTION)
        save(tmp_path / 'r' / f'{name}_mask.nii.gz', REFERENCE)
    out = tmp_path / 'change.tsv'
    command = ['evaluate', str(tmp_path / 'p'), str(tmp_path / 'r'), '--change', '-o', str(out)]
    assert main(command) == 0
    with out.open(encoding='utf-8', newline='') as stream:
        table = list(csv.DictReader(stream, delimiter='\t'))
    assert list(table[0]) == list(CHANGE_EVALUATION_COLUMNS)
    assert len(table) == 2 * 3 * 5
    assert (tmp_path / 'change_cohort.tsv').is_file()
    save(tmp_path / 'p' / 'sub-2_mask.nii.gz', np.full(SHAPE, 9))
    assert main(command) == 65
    assert 'no map of change' in capsys.readouterr().err
    assert main([*command, '--label', '1']) == 64


def test_agreement_of_volumes(tmp_path):
    """Differences of 0.010 and 0.030 ml: bias 0.020, standard deviation 0.0141."""
    for number, more in enumerate((10, 30), start=1):
        data = REFERENCE.copy()
        data[35, :more, 15] = 2
        save(tmp_path / 'p' / f'sub-{number}.nii.gz', data)
        save(tmp_path / 'r' / f'sub-{number}.nii.gz', REFERENCE)
    pairs = find_pairs(tmp_path / 'p', tmp_path / 'r', None).pairs
    cohort = change_cohort(evaluate_change_files(pairs)).iloc[0]
    assert cohort['volume_bias_ml'] == pytest.approx(0.020)
    assert cohort['volume_upper_ml'] == pytest.approx(0.020 + 1.96 * 0.01 * np.sqrt(2))
