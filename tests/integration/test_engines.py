"""External engines through the whole App: on the grid of the FLAIR, and in an ensemble."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from running import QUICK

import mslesseg_app

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
import nibabel as nb
import numpy as np

flair, t1w = (np.asarray(nb.load(path).dataobj) for path in sys.argv[1:3])
assert flair.shape == t1w.shape and t1w.any()
image = nb.load(sys.argv[1])
bright = flair > np.percentile(flair[flair > 0], 99)
nb.Nifti1Image(bright.astype('uint8') * 99, image.affine).to_filename(sys.argv[3])
"""


def values(path: Path) -> np.ndarray:
    return np.asanyarray(nb.load(path).dataobj)


def test_a_program_segments_the_flair_of_an_exam(finished, run, tmp_path):
    """Its mask is on the raw FLAIR, voxel by voxel what the program gave within the brain."""
    (tmp_path / 'program.py').write_text(PROGRAM)
    program = shlex.join([sys.executable, str(tmp_path / 'program.py')])
    added = run(
        *('models', 'add', '--name', 'samseg', '--model-dir', tmp_path / 'models'),
        *('--engine-command', f'{program} {{flair}} {{t1w}} {{folder}}/seg.nii.gz'),
        *('--option', 'result=seg.nii.gz'),
    )
    assert added.code == 0, added.stderr
    done = run(
        *(finished.bids, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *QUICK),
        *('--model-dir', tmp_path / 'models', '--model', 'samseg'),
    )
    assert done.code == 0, done.stderr
    anat = next((tmp_path / 'out').glob('sub-*/ses-*/anat'))
    stem = next(anat.glob('*_desc-samseg_lesions.tsv')).name.partition('_desc')[0]
    raw = nb.load(finished.raw('FLAIR'))
    prob = nb.load(anat / f'{stem}_space-orig_label-lesion_desc-samseg_probseg.nii.gz')
    assert prob.affine.tobytes() == raw.affine.tobytes()
    found = np.asanyarray(prob.dataobj)
    assert set(np.unique(found)) == {0, 1}, 'no interpolation on the way'
    mask = values(anat / f'{stem}_space-orig_label-lesion_desc-samseg_mask.nii.gz')
    assert mask.any()
    assert not (mask > found).any()
    sidecar = json.loads(
        (anat / f'{stem}_space-orig_label-lesion_desc-samseg_mask.json').read_text()
    )
    assert sidecar['Model']['Architecture'] == 'command'
    assert sidecar['Modalities']['used'] == ['FLAIR', 'T1w']
    assert (tmp_path / 'out' / f'{stem.partition("_")[0]}.html').is_file()
    python = mslesseg_app.segment(
        *(finished.raw(modality) for modality in ('FLAIR', 'T1w', 'T2w')),
        model='samseg', model_dir=tmp_path / 'models', threads=1,
    )  # fmt: skip
    assert np.array_equal(python.probability.dataobj, found), 'the App and segment() agree'
    assert python.probability.affine.tobytes() == raw.affine.tobytes()


@pytest.mark.skipif(
    importlib.util.find_spec('nnunetv2') is None,
    reason='nnunetv2 is not installed: pip install "mslesseg[nnunet]"',
)
def test_our_network_and_an_nnunet_make_an_ensemble(registered, run, tmp_path):
    from tiny_nnunet import export, plans, write_model

    plan = plans(spacing=[6.0, 6.0, 6.0], patch_size=[32, 40, 32])
    folder = write_model(tmp_path, plan, inference_allowed_mirroring_axes=None)
    models = tmp_path / 'models'
    added = run(
        *('models', 'add', export(folder, tmp_path / 'model.zip')),
        *('--name', 'my-nnunet', '--model-dir', models),
    )
    assert added.code == 0, added.stderr
    done = run(
        *(registered, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *QUICK),
        *('--model-dir', models, '--model', 'unet', 'my-nnunet', '--ensemble', 'mean'),
    )
    assert done.code == 0, done.stderr
    anat = tmp_path / 'out' / 'sub-01' / 'ses-1' / 'anat'
    stem = 'sub-01_ses-1_space-orig_label-lesion_desc-mean_'
    assert values(anat / f'{stem}mask.nii.gz').any()
    sidecar = json.loads((anat / f'{stem}mask.json').read_text())
    assert [m['Name'] for m in sidecar['Model']['Members']] == ['unet', 'mynnunet']
    assert (anat / 'sub-01_ses-1_desc-mean_lesions.tsv').is_file()
    assert 'mynnunet' in (tmp_path / 'out' / 'sub-01.html').read_text()
