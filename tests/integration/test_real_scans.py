"""Real scans: a whole-head exam of three modalities, and a case of MSLesSeg as published."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from skeleton import path_of, write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


def accepted(out: Path) -> bool:
    from mslesseg_app.bids.validation import find_validator

    program = find_validator()
    if program is None:
        pytest.skip('bids-validator-deno is not installed')
    done = subprocess.run([program, str(out)], capture_output=True, text=True)
    return done.returncode == 0


def metrics(out: Path) -> dict[str, str]:
    with next(out.rglob('*_metrics.tsv')).open() as file:
        (row,) = csv.DictReader(file, delimiter='\t')
    return row


@pytest.fixture(scope='module')
def whole_head(real_data, run, tmp_path_factory) -> Path:
    """Output of sub-LJ12, session 1: 2D scans of the whole head with three modalities."""
    bids = real_data / 'ljubljana-bids'
    if not bids.is_dir():
        pytest.skip('the data have no ljubljana-bids')
    root = tmp_path_factory.mktemp('ljubljana')
    select = ['--participant-label', 'LJ12', '--session-label', '1']
    done = run(bids, root / 'out', 'participant', '-w', root / 'work', '--nprocs', '2', *select)
    assert done.code == 0, done.stderr
    return root / 'out'


def test_whole_head(whole_head, real_data):
    row = metrics(whole_head)
    assert row['participant_id'] == 'sub-LJ12'
    for name in ('FLAIR', 'T1w', 'T2w'):
        assert row[f'alignment_{name}_status'] == 'pass'
    assert int(row['lesion_count']) > 3
    assert 900 < float(row['brain_volume_ml']) < 2000
    assert accepted(whole_head)
    raw = nb.load(real_data / 'ljubljana-bids/sub-LJ12/ses-1/anat/sub-LJ12_ses-1_FLAIR.nii.gz')
    for path in whole_head.rglob('*space-orig*.nii.gz'):
        made = nb.load(path)
        assert made.shape == raw.shape
        assert made.affine.tobytes() == raw.affine.tobytes()


def test_lesions_of_a_whole_head_are_bright(whole_head, real_data):
    raw = nb.load(real_data / 'ljubljana-bids/sub-LJ12/ses-1/anat/sub-LJ12_ses-1_FLAIR.nii.gz')
    flair = np.asarray(raw.dataobj, dtype=float)
    mask = np.asarray(nb.load(next(whole_head.rglob('*orig_label-lesion*_mask.nii.gz'))).dataobj)
    brain = np.asarray(nb.load(next(whole_head.rglob('*1_desc-brain_mask.nii.gz'))).dataobj)
    brain = (
        brain
        if brain.shape == flair.shape
        else np.asarray(
            nb.load(
                whole_head / 'sub-LJ12/ses-1/anat/sub-LJ12_ses-1_desc-brain_mask.nii.gz'
            ).dataobj
        )
    )
    assert np.median(flair[mask > 0]) > np.percentile(flair[brain > 0], 85)


def test_alignment_agrees_with_that_of_the_authors(whole_head, real_data):
    """Where the authors of the data put T1w and T2w on the FLAIR (ITK text, FLAIR to moving)."""
    import SimpleITK as sitk

    derivatives = real_data / 'ljubljana-bids/derivatives/reference/sub-LJ12/ses-1/anat'
    anat = whole_head / 'sub-LJ12/ses-1/anat'
    brain = nb.load(anat / 'sub-LJ12_ses-1_desc-brain_mask.nii.gz')
    voxels = np.argwhere(np.asarray(brain.dataobj) > 0)[::997]
    points = nb.affines.apply_affine(brain.affine, voxels) * [-1, -1, 1]
    stem = 'sub-LJ12_ses-1_from-'
    to_mni = sitk.ReadTransform(str(anat / f'{stem}MNI152NLin6Asym_to-FLAIR_mode-image_xfm.txt'))
    for name in ('T1w', 'T2w'):
        theirs = sitk.ReadTransform(str(derivatives / f'{stem}{name}_to-FLAIR_mode-image_xfm.txt'))
        ours = sitk.ReadTransform(
            str(anat / f'{stem}{name}_to-MNI152NLin6Asym_mode-image_xfm.txt')
        )
        gaps = [
            np.linalg.norm(
                np.array(theirs.TransformPoint(point))
                - np.array(ours.TransformPoint(to_mni.TransformPoint(point)))
            )
            for point in points.tolist()
        ]
        assert np.median(gaps) < 2.0, name
        assert max(gaps) < 4.0, name


@pytest.fixture(scope='module')
def published(real_data, run, tmp_path_factory) -> Path:
    """Root of a run on a case of MSLesSeg, put into BIDS with its mask."""
    case = real_data / 'mslesseg/train/P18/T1'
    if not case.is_dir():
        pytest.skip('the data have no case P18 of MSLesSeg')
    root = tmp_path_factory.mktemp('mslesseg')
    bids, masks = write_dataset(root / 'bids', []), root / 'masks'
    write_dataset(masks, [], kind='derivative')
    places = {
        'P18_T1_FLAIR.nii.gz': bids / path_of('sub-P18_ses-T1_FLAIR'),
        'P18_T1_T1.nii.gz': bids / path_of('sub-P18_ses-T1_T1w'),
        'P18_T1_MASK.nii.gz': masks / path_of('sub-P18_ses-T1_label-lesion_mask'),
    }
    for name, target in places.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(case / name, target)
    done = run(
        bids, root / 'out', 'participant', '-w', root / 'work', '--nprocs', '2',
        '-d', f'manual={masks}',
    )  # fmt: skip
    assert done.code == 0, done.stderr
    return root


def test_a_published_case_is_not_registered_again(published):
    anat = published / 'out/sub-P18/ses-T1/anat'
    for path in anat.glob('*_xfm.txt'):
        line = next(line for line in path.read_text().splitlines() if 'Parameters' in line)
        numbers = [float(word) for word in line.split()[1:]]
        assert numbers == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    stem = 'sub-P18_ses-T1_'
    for modality in ('FLAIR', 'T1w'):
        raw = nb.load(published / 'bids' / path_of(f'{stem}{modality}'))
        made = nb.load(anat / f'{stem}space-MNI152NLin6Asym_res-1_desc-preproc_{modality}.nii.gz')
        assert np.allclose(made.dataobj, raw.dataobj, rtol=1e-6)
        sidecar = json.loads((anat / f'{stem}desc-preproc_{modality}.json').read_text())
        assert sidecar['SkullStripped'] is True


def test_a_published_case_is_measured_and_its_missing_image_recorded(published):
    row = metrics(published / 'out')
    assert row['alignment_T2w_status'] == 'n/a'
    assert row['reference_grid'] == 'orig'
    assert float(row['DSC']) > 0.1, 'any model finds something of it'
    assert 'No T2w image in this exam' in (published / 'out/sub-P18.html').read_text()
    assert accepted(published / 'out')
