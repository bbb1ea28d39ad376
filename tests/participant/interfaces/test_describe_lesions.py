"""The node that tells where lesions lie, on files."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.lesions import description as describe
from mslesseg_app.lesions.regions import template_landmarks
from mslesseg_app.lesions.table import LESION_COLUMNS, lesion_table
from mslesseg_app.participant.interfaces.lesions import write_tsv
from mslesseg_app.participant.interfaces.regions import DescribeLesions
from mslesseg_app.spatial.affines import write_itk
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, load_template

AFFINE = np.array([[0, 0, 3.0, -60], [-1.0, 0, 0, 90], [0, -1.0, 0, 100], [0, 0, 0, 1]])
#: Native shift of the head against MNI, mm.
SHIFT = np.array([4.0, -3.0, 2.0])


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An exam whose FLAIR is sagittal; the fit of the landmarks has tests of its own."""
    monkeypatch.setattr(
        describe, 'fit_landmarks', lambda images, brain, lesions: template_landmarks(lesions)
    )
    native_from_mni = np.eye(4)
    native_from_mni[:3, 3] = SHIFT
    brain = np.asarray(load_template().mask.dataobj)
    paths = {'transform': write_itk(tmp_path / 'xfm.txt', native_from_mni)}
    for name, value in (('flair', 100), ('t2w', 50)):
        image = nb.Nifti1Image((brain * value).astype(np.float32), TEMPLATE_AFFINE)
        paths[name] = tmp_path / f'{name}.nii.gz'
        image.to_filename(paths[name])
    nb.Nifti1Image(brain, TEMPLATE_AFFINE).to_filename(tmp_path / 'brain.nii.gz')
    paths['brain_mask'] = tmp_path / 'brain.nii.gz'
    return {key: str(path) for key, path in paths.items()}


def run(files: dict[str, str], tmp_path: Path, places: list[tuple[float, float, float]]):
    labels = np.zeros((180, 170, 41), np.int16)
    for number, place in enumerate(places, start=1):
        voxel = np.linalg.inv(AFFINE) @ [*(place + SHIFT), 1]
        x, y, z = np.rint(voxel[:3]).astype(int)
        labels[x - 1 : x + 2, y - 1 : y + 2, z] = number
    image = nb.Nifti1Image(labels, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    image.to_filename(tmp_path / 'labels.nii.gz')
    write_tsv(lesion_table(labels, AFFINE), tmp_path / 'before.tsv')
    return (
        DescribeLesions(
            labels_file=str(tmp_path / 'labels.nii.gz'),
            table_file=str(tmp_path / 'before.tsv'),
            **files,
        )
        .run(cwd=tmp_path)
        .outputs
    )


def test_regions_of_three_lesions(files, tmp_path):
    done = run(files, tmp_path, [(30, -48, 12), (-26, -12, 37), (3, -26, -34)])
    with open(done.table_file, encoding='utf-8') as file:
        rows = list(csv.DictReader(file, delimiter='\t'))
    regions = ['periventricular', 'deep_white_matter', 'infratentorial']
    assert [row['region'] for row in rows] == regions
    assert list(rows[0]) == list(LESION_COLUMNS)
    assert {(row['flair_ratio'], row['t2w_ratio'], row['t1w_ratio']) for row in rows} == {
        ('1', '1', 'n/a')
    }
    image, labels = nb.load(done.regions_file), nb.load(tmp_path / 'labels.nii.gz')
    assert image.get_data_dtype() == np.uint8
    assert image.affine.tobytes() == labels.affine.tobytes()
    by_label = np.array([0, 1, 4, 3])
    assert np.array_equal(image.dataobj, by_label[np.asarray(labels.dataobj)])
    assert done.columns['periventricular_lesions'] == 1
    assert done.columns['juxtacortical_lesions'] == 0
    assert done.columns['infratentorial_volume_ml'] == pytest.approx(0.027)
    assert done.columns['dissemination_2024'] == 'met'
    assert done.metadata['Landmarks']['Source'] == 'template'
    assert done.metadata['DisseminationInSpace']['2024']['NotAssessed'] == [
        'spinal_cord',
        'optic_nerve',
    ]


def test_an_exam_without_lesions(files, tmp_path):
    done = run(files, tmp_path, [])
    lines = Path(done.table_file).read_text(encoding='utf-8').splitlines()
    assert lines == ['\t'.join(LESION_COLUMNS)]
    assert not np.asarray(nb.load(done.regions_file).dataobj).any()
    assert done.columns['dissemination_2017'] == 'not met by the brain alone'
