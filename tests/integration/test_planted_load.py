"""A brain full of lesions: 60 ml planted into a real exam, through the whole App."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from skeleton import path_of, write_dataset

from mslesseg_app.metrics.exam import accuracy
from mslesseg_app.models.prediction.normalise import normalise
from mslesseg_app.spatial.grids import on_template

pytestmark = [pytest.mark.slow, pytest.mark.realdata]

NAMES = ('FLAIR', 'T1w', 'T2w')
CONTRAST = (2.2, 2.5)
"""Height of the lesions above their surroundings, in standard deviations of the brain."""
REAL_MEDIAN = (1.4, 2.5)
"""Median height of real lesions above that of the brain, in standard deviations of the brain: 1.4
to 2.5 in seven exams of MSLesSeg, 1.75 to 2.5 in the four of these with 20 ml and more."""


def planted_exam(data: Path, bids: Path, load_ml: float) -> np.ndarray:
    """Write an exam with planted lesions on the template grid, and return their mask."""
    from mslesseg_app.models.registry import get_entry
    from mslesseg_app.training.augmentation import Patch, make_volume, plant, whole_brain
    from mslesseg_app.training.cases import LabelledCase, read_case
    from mslesseg_app.training.lesion_shapes import LesionShapes
    from mslesseg_app.training.random_fields import RandomStream

    folder = data / 'mslesseg-more/sub-Dtest/anat'
    images = {name: folder / f'sub-Dtest_{name}.nii.gz' for name in NAMES}
    case = read_case(LabelledCase('Dtest', 'Dtest', images, None), get_entry('unet'))
    volume, stream = make_volume(case), RandomStream(10)
    shapes = LesionShapes(data / 'lesion-shapes-mni/shapes.npz')
    places = shapes.draw(volume.marks.shape[1:], volume.corner, load_ml, stream)[None].float()
    lesion, negative, unknown, brain = (mark[None] for mark in volume.marks)
    patch = Patch(volume.images, lesion, negative, unknown, brain)
    plant(patch, places * brain, whole_brain(volume)[1], volume.present, stream, CONTRAST)
    box = tuple(
        slice(c, c + n) for c, n in zip(volume.corner, volume.marks.shape[1:], strict=True)
    )
    mask = np.zeros(case.brain.shape, bool)
    mask[box] = (patch.label[0].numpy() > 0.5) & (brain[0].numpy() > 0)
    write_dataset(bids, [])
    for number, name in enumerate(NAMES):
        whole = np.zeros(case.brain.shape, np.float32)
        whole[box] = 500 * patch.images[number].numpy()
        path = bids / path_of(f'sub-01_{name}')
        path.parent.mkdir(parents=True, exist_ok=True)
        nb.save(on_template(whole, np.float32), path)
        if name == 'FLAIR':
            height = float(np.median(normalise(whole, case.brain, 'clipped')[mask]))
            assert REAL_MEDIAN[0] < height < REAL_MEDIAN[1], 'as bright as real lesions'
    return mask


def test_a_load_of_sixty_millilitres_is_found(real_data, run, tmp_path):
    truth = planted_exam(real_data, tmp_path / 'bids', 75)
    assert 50_000 < truth.sum() < 80_000
    done = run(tmp_path / 'bids', tmp_path / 'out', 'participant', '-w', tmp_path / 'work')
    assert done.code == 0, done.stderr
    path = next((tmp_path / 'out').rglob('*MNI152NLin6Asym*label-lesion_desc-unet_mask.nii.gz'))
    found = accuracy(np.asarray(nb.load(path).dataobj) > 0, truth, (1, 1, 1))
    assert found['DSC'] > 0.7
    with next((tmp_path / 'out').rglob('*_metrics.tsv')).open() as file:
        (row,) = csv.DictReader(file, delimiter='\t')
    assert 0.72 < float(row['lesion_volume_ml']) / (truth.sum() / 1000) < 1.8
    assert row['selfcheck_status'] == 'pass'
