"""SAMSEG itself, with its own atlas and lesion model, through ``--engine-command``.

Its package needs TensorFlow, and so an environment of its own; ``MSLESSEG_SAMSEG`` names its
program ``run_samseg``. A quarter of an hour or more on one thread, so that it runs only where it
is asked for: ``pytest -m samseg``.
"""

from __future__ import annotations

import csv
import os
import shlex
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.samseg, pytest.mark.realdata]

EXAM = 'sub-T110218'


@pytest.mark.timeout(3 * 3600)
def test_lesions_of_a_real_exam_are_found(start, real_data: Path, tmp_path: Path) -> None:
    """FLAIR and T1w of thick slices; the manual mask has 14.5 ml."""
    bids, models = real_data / 'ms3seg-bids', tmp_path / 'models'
    program = shlex.quote(os.environ['MSLESSEG_SAMSEG'])
    words = '-i {t1w} -i {flair} -o {folder} --lesion --lesion-mask-pattern 0 1'
    add = ('models', 'add', '--name', 'samseg', '--model-dir', models)
    assert _run(start, *add, '--engine-command', f'{program} {words} --threads {{threads}}') == 0
    code = _run(
        start,
        *(bids, tmp_path / 'out', 'participant', '--participant-label', EXAM[4:]),
        *('-w', tmp_path / 'work', '--model-dir', models, '--model', 'samseg'),
        *('-d', f'manual={bids / "derivatives" / "manual"}', '--nprocs', '1'),
    )
    assert code == 0
    anat = tmp_path / 'out' / EXAM / 'anat'
    prob = nb.load(anat / f'{EXAM}_space-orig_label-lesion_desc-samseg_probseg.nii.gz')
    assert np.array_equal(
        prob.affine, nb.load(bids / EXAM / 'anat' / f'{EXAM}_FLAIR.nii.gz').affine
    )
    assert set(np.unique(prob.dataobj)) == {0, 1}, 'its label, voxel by voxel'
    with (anat / f'{EXAM}_desc-samseg_metrics.tsv').open() as stream:
        (row,) = csv.DictReader(stream, delimiter='\t')
    assert row['modalities_used'] == 'FLAIR,T1w'
    assert float(row['DSC']) > 0.5


def _run(start, *arguments: object) -> int:
    process = start(*arguments)
    stdout, stderr = process.communicate()
    assert 'Traceback' not in stdout + stderr, stderr
    return int(process.returncode)
