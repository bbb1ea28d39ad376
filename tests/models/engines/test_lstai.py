"""LST-AI through the App's engine gives the map that the program itself writes.

Its package needs an environment of its own: the test runs where the program ``lst`` is on the
PATH. The weights are random and the networks narrow, in the official format, made by the official
class; the atlas, which is no part of the package, is the App's template.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.models.registry import get_entry, load_engine
from mslesseg_app.spatial.template import load_template

PROGRAM = shutil.which('lst') or ''
pytestmark = [
    pytest.mark.slow,
    pytest.mark.realdata,
    pytest.mark.skipif(not PROGRAM, reason='no program lst: pip install lst-ai==2.0.0rc1'),
]

WEIGHTS = """
import sys, torch
from lst_ai.model import NNUNet3D, SHIPPED_VARIANTS

torch.manual_seed(0)
for name, shipped in SHIPPED_VARIANTS.items():
    config = {'in_channels': 2, **shipped, 'n_filters': 2, 'bottleneck_filters': 4}
    network = NNUNet3D(**config)
    network.out_seg.bias.data.fill_(1.5)  # LST-AI is slow where lesions are thousands
    content = {'variant': name, 'config': config, 'state_dict': network.state_dict()}
    torch.save(content, f'{sys.argv[1]}/UNet3D_MS_final_{name}.pt')
"""


def random_weights(root: Path) -> Path:
    """Make a folder as ``LST_AI_DATA_DIR`` names it."""
    for name in ('atlas', 'model'):
        (root / name).mkdir(parents=True)
    python = Path(PROGRAM).read_text().splitlines()[0].removeprefix('#!').split()[0]
    subprocess.run([python, '-c', WEIGHTS, str(root / 'model')], check=True)
    brain, margin = load_template().brain, 6  # at least 192 voxels each way, as its own atlas
    affine = brain.affine @ nb.affines.from_matvec(np.eye(3), [-margin] * 3)
    atlas = nb.Nifti1Image(np.pad(np.asarray(brain.dataobj), margin), affine)
    atlas.to_filename(root / 'atlas' / 'sub-mni152_space-mni_t1bet.nii.gz')
    return root


def exam(real_data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return FLAIR and T1w of one real exam on one grid, without skull, and their affine."""
    anat = real_data / 'ms3seg-bids' / 'sub-T104899' / 'anat'
    manual = real_data / 'ms3seg-bids' / 'derivatives' / 'manual' / 'sub-T104899' / 'anat'
    brain = nb.load(manual / 'sub-T104899_space-orig_desc-brain_mask.nii.gz').get_fdata() > 0
    images = [nb.load(anat / f'sub-T104899_{name}.nii.gz') for name in ('FLAIR', 'T1w')]
    channels = np.stack([np.where(brain, image.get_fdata(), 0) for image in images])
    return channels.astype(np.float32), images[0].affine


def keep_what_it_does(folder: Path, kept: Path) -> Path:
    """Make a program ``lst`` that runs the real one, and copies its images and its results."""
    folder.mkdir()
    kept.mkdir()
    script = folder / 'lst'
    script.write_text(
        f"""#!/bin/sh
"{PROGRAM}" "$@" || exit $?
while [ $# -gt 0 ]; do
    case "$1" in
        --t1 | --flair | --temp) cp -r "$2" "{kept}/$(basename "$2")" ;;
    esac
    shift
done
"""
    )
    script.chmod(0o755)
    return folder


def values(path: Path) -> np.ndarray:
    return np.asarray(nb.load(path).dataobj, np.float32)


@pytest.mark.timeout(3600)  # it aligns the images first
def test_the_map_is_that_of_the_program_itself(real_data, tmp_path, monkeypatch):
    """Two images of a real exam without skull, by the entry as it is shipped.

    LST-AI aligns its images at random: run twice on the same images it differs by up to 0.17, at
    71 % of the voxels. So the map is compared with what this very run of the program wrote.
    """
    monkeypatch.setenv('LST_AI_DATA_DIR', str(random_weights(tmp_path / 'data')))
    kept = tmp_path / 'kept'
    program = keep_what_it_does(tmp_path / 'bin', kept)
    monkeypatch.setenv('PATH', f'{program}{os.pathsep}{os.environ["PATH"]}')
    images, affine = exam(real_data)
    entry = get_entry('lst-ai')
    assert not entry.lacks
    found = load_engine(entry, 'cpu', 1, 1)(images, affine).prob
    for name, image in zip(('flair', 't1w'), images, strict=True):
        np.testing.assert_array_equal(values(kept / f'{name}.nii.gz'), image)
    expected = values(kept / 'temp' / 'sub-X_ses-Y_space-FLAIR_seg-lst_prob.nii.gz')
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert 0.001 < (expected >= 0.5).mean() < 0.999, 'the test needs both'
    assert expected[expected > 0].std() > 0.01
    np.testing.assert_array_equal(found >= 0.5, expected >= 0.5)
