"""Edited masks: found by their names, checked before anything is computed."""

from __future__ import annotations

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.bids.edits import with_edits
from mslesseg_app.bids.exam import Exam
from mslesseg_app.core.errors import NoInputError

SHAPE = (12, 14, 10)
AFFINE = np.array([[-0.9, 0, 0, 5], [0, 1, -0.3, -3], [0, 0.1, 3, 8], [0, 0, 0, 1.0]])


def write(path: Path, data=None, affine=AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if data is None:
        data = np.zeros(SHAPE, np.uint8)
        data[4:6, 5:8, 3:5] = 1
    nb.Nifti1Image(data, affine).to_filename(path)
    return path


@pytest.fixture
def exam(tmp_path: Path) -> Exam:
    image = np.random.default_rng(1).normal(100, 5, SHAPE).astype(np.float32)
    return Exam('01', '1', {'FLAIR': write(tmp_path / 'raw/sub-01_ses-1_FLAIR.nii.gz', image)})


def edited(exam: Exam, root: Path, model: str = 'hyperintensity') -> Exam:
    (found,) = with_edits([exam], root, model)
    return found


def test_a_mask_is_found_wherever_it_lies(exam, tmp_path):
    name = 'sub-01_ses-1_space-orig_label-lesion_desc-hyperintensity_mask.nii.gz'
    for number, folder in enumerate(('', 'sub-01/ses-1/anat', 'by/anna')):
        root = tmp_path / f'edited{number}'
        path = write(root / folder / name)
        found = edited(exam, root)
        assert found.edited == path
        assert found.problem is None
        assert name in found.notes[-1]


def test_which_of_several_is_taken(exam, tmp_path):
    root = tmp_path / 'edited'
    stem = 'sub-01_ses-1_space-orig_label-lesion'
    write(root / f'{stem}_desc-other_mask.nii.gz')
    assert edited(exam, root).edited is None
    expected = [
        write(root / 'sub-01_ses-1_label-lesion_mask.nii.gz'),
        write(root / f'{stem}_desc-hyperintensity_mask.nii.gz'),
        write(root / f'{stem}_desc-edited_mask.nii.gz'),
    ]
    for path in reversed(expected):
        assert edited(exam, root).edited == path
        path.unlink()


def test_masks_of_other_exams_spaces_and_tissues_do_not_count(exam, tmp_path):
    root = tmp_path / 'edited'
    for name in (
        'sub-01_ses-10_label-lesion_mask.nii.gz',
        'sub-01_label-lesion_mask.nii.gz',
        'sub-011_ses-1_label-lesion_mask.nii.gz',
        'sub-01_ses-1_space-MNI152NLin6Asym_res-1_label-lesion_mask.nii.gz',
        'sub-01_ses-1_desc-brain_mask.nii.gz',
    ):
        write(root / name)
    assert edited(exam, root) == exam
    alone = Exam('01', None, exam.images)
    assert edited(alone, root).edited.name == 'sub-01_label-lesion_mask.nii.gz'


def test_two_of_one_rank_are_a_problem_of_the_exam(exam, tmp_path):
    root = tmp_path / 'edited'
    for folder in ('anna', 'bert'):
        write(root / folder / 'sub-01_ses-1_label-lesion_desc-edited_mask.nii.gz')
    found = edited(exam, root)
    assert found.problem.exit_code == 16
    assert 'several edited masks' in found.problem.message


@pytest.mark.parametrize('content', ['nothing', 'no folder'])
def test_a_folder_without_masks_is_an_error(exam, tmp_path, content):
    root = tmp_path / 'edited'
    if content == 'nothing':
        root.mkdir()
    with pytest.raises(NoInputError):
        edited(exam, root)


def other_grid(kind: str) -> tuple[np.ndarray, np.ndarray]:
    data = np.zeros(SHAPE, np.uint8)
    if kind == 'shape':
        return np.zeros((12, 14, 11), np.uint8), AFFINE
    if kind == 'place':
        affine = AFFINE.copy()
        affine[0, 3] += 0.5
        return data, affine
    data = data.astype(np.float32)
    data[3, 3, 3] = {'two labels': 2, 'probability': 0.5, 'nan': np.nan}[kind]
    return data, AFFINE


@pytest.mark.parametrize('kind', ['shape', 'place', 'two labels', 'probability', 'nan'])
def test_wrong_masks_are_a_problem_of_their_exam(exam, tmp_path, kind):
    root = tmp_path / 'edited'
    write(root / 'sub-01_ses-1_label-lesion_mask.nii.gz', *other_grid(kind))
    found = edited(exam, root)
    assert found.edited is None
    assert found.problem.exit_code == 65
    assert found.problem.hint
    grid = kind in ('shape', 'place')
    assert ('another grid' if grid else 'is not a mask') in found.problem.message


def test_a_damaged_file_is_a_problem(exam, tmp_path):
    path = write(tmp_path / 'edited' / 'sub-01_ses-1_label-lesion_mask.nii.gz')
    path.write_bytes(path.read_bytes()[:40])
    assert edited(exam, tmp_path / 'edited').problem.exit_code == 65


def test_an_empty_mask_is_a_finding(exam, tmp_path):
    path = write(tmp_path / 'edited/sub-01_ses-1_label-lesion_mask.nii.gz', np.zeros(SHAPE, 'u1'))
    assert edited(exam, tmp_path / 'edited').edited == path


def test_exams_with_a_problem_keep_it(exam, tmp_path):
    from dataclasses import replace

    write(tmp_path / 'edited/sub-01_ses-1_label-lesion_mask.nii.gz')
    broken = replace(exam, problem=NoInputError('no image'))
    assert edited(broken, tmp_path / 'edited') == broken
