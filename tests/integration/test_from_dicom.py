"""``mslesseg run``: from DICOM files to lesion masks in one command."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from running import QUICK, RESOLUTION
from scanner import ANNA, FIRST, KINDS, NAMES, states

from mslesseg_app.cli.main import main
from mslesseg_app.demo.dicom import write_series
from mslesseg_app.demo.phantom import make_phantom, scan
from mslesseg_app.demo.protocols import session_protocols


@pytest.mark.slow
def test_dicom_files_become_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subject, protocols = make_phantom(1, RESOLUTION), session_protocols(1, RESOLUTION)
    for number, kind in enumerate(('FLAIR', 'T1w'), 2):
        image = scan(subject, protocols[kind], 1)
        write_series(
            nb.Nifti1Image(np.asanyarray(image.dataobj).astype('i2'), image.affine),
            tmp_path / 'source',
            vendor='ge',
            patient=ANNA,
            study=FIRST,
            number=number,
            description=NAMES[kind],
            sidecar=KINDS[kind],
        )
    before = states(tmp_path / 'source')
    command = ['run', 'source', 'out', '--analysis-level', 'participant', 'group', *QUICK]
    assert main(command) == 0
    assert states(tmp_path / 'source') == before
    raw, derived = tmp_path / 'out' / 'rawdata', tmp_path / 'out' / 'derivatives' / 'mslesseg'
    (flair,) = raw.rglob('*_FLAIR.nii.gz')
    (mask,) = derived.rglob('*_space-orig_label-lesion_desc-hyperintensity_mask.nii.gz')
    assert nb.load(mask).shape == nb.load(flair).shape
    assert np.asanyarray(nb.load(mask).dataobj).any()
    with (raw / 'series.tsv').open() as stream:
        assert [r['decision'] for r in csv.DictReader(stream, delimiter='\t')] == ['converted'] * 2
    assert (derived / 'group_lesions.html').is_file()
    assert (
        main(['convert', '--check', str(raw), '--subject-map', 'out-private/subjects.json']) == 0
    )
    assert not (tmp_path / 'out' / 'rawdata-private').exists()
