"""The shipped model `unet`: what its card says, its folds, and a weaker form of its figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from probability import segment_exam
from scipy import ndimage

from mslesseg_app.metrics.exam import accuracy
from mslesseg_app.models.registry import get_entry

NAMES = {'FLAIR': 'FLAIR', 'T1w': 'T1', 'T2w': 'T2'}
PAGES = Path(__file__).parents[2] / 'docs' / 'models'


def rows() -> list[dict[str, str]]:
    """Return the table of the exams that a network never saw."""
    with (PAGES / 'unet-out-of-fold.tsv').open() as file:
        return list(csv.DictReader(file, delimiter='\t'))


def test_the_card_states_the_means_of_the_table() -> None:
    entry = get_entry('unet')
    assert entry.weights_path.stat().st_size < 25e6
    table = [row for row in rows() if row['run'].startswith('long')]
    for figure in entry.card['figures']:
        chosen = [float(r['DSC']) for r in table if r['images'] == figure['modalities']]
        assert figure['exams'] == len(chosen)
        assert entry.threshold == float(table[0]['threshold'])
        assert figure['DSC'] == pytest.approx(np.mean(chosen), abs=5e-4)


def test_everybody_is_left_out_of_the_run_that_judges_them() -> None:
    folds = json.loads((PAGES / 'unet-folds.json').read_text())
    people = [name for fold in folds['folds'] for name in fold]
    known = [name for names in folds['sources'].values() for name in names]
    assert sorted(people) == sorted(known)
    assert len(set(people)) == len(people)
    for row in rows():
        kind, _, which = row['run'].partition('-')
        person = row['exam'].split('_')[0].removeprefix('sub-')
        left = folds['sources'][which] if kind == 'source' else folds['folds'][int(which) - 1]
        assert person in left


@pytest.mark.realdata
@pytest.mark.parametrize('used', [('FLAIR', 'T1w', 'T2w'), ('FLAIR',)])
def test_an_exam_of_the_training_is_segmented(real_data: Path, used: tuple[str, ...]) -> None:
    folder = real_data / 'ljubljana-mni/patient26'
    images = {key: np.asarray(nb.load(folder / f'{NAMES[key]}.nii.gz').dataobj) for key in used}
    labels, _ = ndimage.label(images['FLAIR'] > 0)
    brain = ndimage.binary_fill_holes(labels == np.argmax(np.bincount(labels.flat)[1:]) + 1)
    reference = np.asarray(nb.load(folder / 'MASK.nii.gz').dataobj) > 0
    entry = get_entry('unet')
    prob, _ = segment_exam(entry, images, brain)
    found = accuracy(prob >= entry.threshold, reference, (1, 1, 1))
    assert found['DSC'] > 0.65
    assert found['PPV'] > 0.6
