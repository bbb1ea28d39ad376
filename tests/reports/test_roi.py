"""Masks as fMRIPrep reads them, found by fMRIPrep's own search."""

from __future__ import annotations

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import NoInputError
from mslesseg_app.reports.roi import write_roi
from mslesseg_app.spatial.affines import write_itk

EXAM = 'sub-01_ses-1'
START = f'sub-01/ses-1/anat/{EXAM}_'


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A FLAIR of thick slices and a finer T1w, which lie 4 mm apart."""
    root = tmp_path / 'out'
    (root / START).parent.mkdir(parents=True)
    mask = np.zeros((30, 30, 12), np.uint8)
    mask[10:20, 8:16, 4:7] = 1
    name = 'space-orig_label-lesion_desc-unet_mask'
    nb.Nifti1Image(mask, np.diag([1, 1, 3, 1])).to_filename(root / f'{START}{name}.nii.gz')
    anatomy = nb.Nifti1Image(np.ones((40, 30, 36), np.float32), np.eye(4))
    anatomy.to_filename(root / f'{START}desc-preproc_T1w.nii.gz')
    shift = np.eye(4)
    shift[0, 3] = 4.0
    for name, affine in (('FLAIR', np.eye(4)), ('T1w', shift)):
        xfm = f'{START}from-{name}_to-MNI152NLin6Asym_mode-image_xfm.txt'
        write_itk(root / xfm, affine)
    return root


def test_mask_lies_on_the_t1w_where_the_lesion_is(out: Path, tmp_path: Path) -> None:
    path = write_roi(out, EXAM, 'unet', tmp_path / 'raw')
    assert path == tmp_path / 'raw' / f'{START}label-lesion_roi.nii.gz'
    image = nb.load(path)
    anatomy = nb.load(out / f'{START}desc-preproc_T1w.nii.gz')
    assert image.shape == anatomy.shape
    np.testing.assert_array_equal(image.affine, anatomy.affine)
    places = nb.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj)))
    expected = [10 + 4 + 4.5, 8 + 3.5, 15.0]  # a point of the FLAIR is 4 mm further in the T1w
    np.testing.assert_allclose(places.mean(axis=0), expected, atol=0.5)
    assert len(places) == pytest.approx(10 * 8 * 9, rel=0.15)


def test_fmriprep_finds_it(out: Path, tmp_path: Path) -> None:
    from niworkflows.utils.bids import collect_data

    raw = tmp_path / 'raw'
    command = ['report', 'roi', '--out', str(out), '--exam', EXAM, '--model', 'unet', '-q']
    assert main([*command, '--output', str(raw)]) == 0
    (raw / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    found, _ = collect_data(raw, '01', bids_validate=False)
    assert [Path(path).name for path in found['roi']] == [f'{EXAM}_label-lesion_roi.nii.gz']


def test_exam_without_t1w_is_told(out: Path, tmp_path: Path) -> None:
    (out / f'{START}desc-preproc_T1w.nii.gz').unlink()
    with pytest.raises(NoInputError, match='T1w'):
        write_roi(out, EXAM, 'unet', tmp_path)
