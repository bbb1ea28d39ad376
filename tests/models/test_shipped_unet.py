"""The shipped model `unet`: what its card says, and a weaker form of its figures."""

from __future__ import annotations

import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mslesseg_app.inference.run import segment_exam
from mslesseg_app.metrics.exam import accuracy
from mslesseg_app.models.registry import get_entry

CARDS = Path(__file__).parents[2] / 'docs/models/unet-2026-11-26'
PEOPLE = ('ljubljana-patient07', 'ljubljana-patient26', 'mslesseg-P18')
NAMES = {'FLAIR': 'FLAIR', 'T1w': 'T1', 'T2w': 'T2'}


@pytest.mark.parametrize('person', PEOPLE)
def test_no_file_of_the_left_out_person_took_part(person: str) -> None:
    card = tomllib.loads((CARDS / f'{person}.toml').read_text())['card']
    token = person.rpartition('-')[2]
    assert card['not_trained_on'] == [person]
    assert len(card['training_data']) > 30
    assert not [name for name in card['training_data'] if token in name]


def test_the_start_knew_none_of_the_three() -> None:
    card = tomllib.loads((CARDS / 'start.toml').read_text())['card']
    assert sorted(card['not_trained_on']) == sorted(PEOPLE)
    tokens = [person.rpartition('-')[2] for person in PEOPLE]
    assert not [name for name in card['training_data'] for token in tokens if token in name]


def test_the_card_gives_a_figure_for_each_person() -> None:
    entry = get_entry('unet')
    figures = entry.card['figures']
    assert {f['exam'].split(', ')[1] for f in figures} == {'patient07', 'patient26', 'P18'}
    assert all(0 < f['DSC'] < 1 and 'left out' in f['exam'] for f in figures)
    assert entry.weights_path.stat().st_size < 20e6


@pytest.mark.realdata
@pytest.mark.parametrize('used', [('FLAIR', 'T1w', 'T2w'), ('FLAIR',)])
def test_an_exam_of_the_training_is_segmented(real_data: Path, used: tuple[str, ...]) -> None:
    folder = real_data / 'ljubljana-mni/patient26'
    images = {key: np.asarray(nib.load(folder / f'{NAMES[key]}.nii.gz').dataobj) for key in used}
    labels, _ = ndimage.label(images['FLAIR'] > 0)
    brain = ndimage.binary_fill_holes(labels == np.argmax(np.bincount(labels.flat)[1:]) + 1)
    reference = np.asarray(nib.load(folder / 'MASK.nii.gz').dataobj) > 0
    entry = get_entry('unet')
    prob, _ = segment_exam(entry, images, brain)
    found = accuracy(prob >= entry.threshold, reference, (1, 1, 1))
    assert found['DSC'] > 0.65
    assert found['PPV'] > 0.6
