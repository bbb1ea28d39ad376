"""Images in MSLesSeg's own form are neither corrected, registered nor stripped again."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from skeleton import TEMPLATE_AFFINE, files_below

STEM = 'sub-01_ses-1_'


@pytest.fixture
def anat(quick_run: Path) -> Path:
    return quick_run / 'out' / 'sub-01' / 'ses-1' / 'anat'


def test_the_files_are_exactly_those_expected(quick_run):
    listed = Path(__file__).parents[1] / 'participant' / 'workflows' / 'expected' / 'flair_t1w.txt'
    exam = [
        line.replace('sub-01/', 'sub-01/ses-1/', 'figures' not in line).replace(
            'sub-01_', 'sub-01_ses-1_'
        )
        for line in listed.read_text().split()
    ]
    assert files_below(quick_run / 'out' / 'sub-01') == sorted(
        name.removeprefix('sub-01/') for name in exam
    )


@pytest.mark.parametrize('modality', ['FLAIR', 'T1w'])
def test_transforms_are_the_identity(anat, modality):
    for name in (
        f'from-{modality}_to-MNI152NLin6Asym_mode-image_xfm.txt',
        f'from-MNI152NLin6Asym_to-{modality}_mode-image_xfm.txt',
    ):
        lines = (anat / f'{STEM}{name}').read_text().splitlines()
        parameters = next(line for line in lines if line.startswith('Parameters'))
        assert [float(n) for n in parameters.split()[1:]] == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize('modality', ['FLAIR', 'T1w'])
def test_intensities_are_untouched(anat, quick_run, modality):
    raw = nb.load(quick_run / f'bids/sub-01/ses-1/anat/{STEM}{modality}.nii.gz')
    for space in ('', 'space-MNI152NLin6Asym_res-1_'):
        made = nb.load(anat / f'{STEM}{space}desc-preproc_{modality}.nii.gz')
        assert np.array_equal(np.asarray(made.dataobj), np.asarray(raw.dataobj))
        assert np.array_equal(made.affine, TEMPLATE_AFFINE)


def test_native_and_template_results_are_the_same(anat):
    desc = 'desc-hyperintensity_'
    for kind in ('label-lesion_{}mask', 'label-lesion_{}probseg'):
        native = nb.load(anat / f'{STEM}space-orig_{kind.format(desc)}.nii.gz')
        mni = nb.load(anat / f'{STEM}space-MNI152NLin6Asym_res-1_{kind.format(desc)}.nii.gz')
        assert np.allclose(native.dataobj, mni.dataobj, atol=1e-6)
    native = nb.load(anat / f'{STEM}space-orig_label-lesion_{desc}mask.nii.gz')
    assert np.asarray(native.dataobj).any()


def test_the_brain_is_what_is_not_zero(anat, quick_run):
    raw = nb.load(quick_run / f'bids/sub-01/ses-1/anat/{STEM}FLAIR.nii.gz')
    brain = nb.load(anat / f'{STEM}desc-brain_mask.nii.gz')
    inside, given = np.asarray(brain.dataobj) > 0, np.asarray(raw.dataobj) > 0
    assert 2 * (inside & given).sum() / (inside.sum() + given.sum()) > 0.97


def test_sidecars_say_so(anat):
    content = json.loads((anat / f'{STEM}desc-preproc_FLAIR.json').read_text())
    assert content['SkullStripped'] is True
    assert 'no bias-field correction' in content['Description']


def test_accuracy_is_not_available_without_a_reference(anat):
    with (anat / f'{STEM}desc-hyperintensity_metrics.tsv').open() as file:
        (row,) = csv.DictReader(file, delimiter='\t')
    for name in ('DSC', 'TPR', 'PPV', 'LTPR', 'LFPR', 'AVD', 'ASSD', 'reference_grid'):
        assert row[name] == 'n/a'
    assert row['alignment_T2w'] == row['alignment_T2w_status'] == 'n/a'
    assert row['alignment_FLAIR_status'] == 'pass'


def test_page_and_methods_say_so(quick_run):
    page = (quick_run / 'out' / 'sub-01.html').read_text()
    assert 'not registered again' in page
    assert 'No T2w image in this exam' in page
    text = (quick_run / 'out' / 'logs' / 'CITATION.md').read_text()
    assert 'not registered again' in text
    assert 'N4' not in text


def test_the_validator_accepts_the_output(quick_run):
    from mslesseg_app.bids.validation import find_validator

    program = find_validator()
    if program is None:
        pytest.skip('bids-validator-deno is not installed')
    done = subprocess.run([program, str(quick_run / 'out')], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
