"""The four reduced networks on a real exam, through the whole App: each, and all together."""

from __future__ import annotations

from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.metrics.exam import accuracy

pytestmark = [pytest.mark.slow, pytest.mark.realdata]

NAMES = ('mssegdiffsmall', 'swinunetrsmall', 'transbtssmall', 'unetrsmall')


@pytest.fixture(scope='module')
def dsc_of(real_data: Path, run, tmp_path_factory):
    """Return a function that runs models on an exam that none was trained on; gives the DSC."""
    root = tmp_path_factory.mktemp('reduced')
    bids = real_data / 'mslesseg-more'
    name = 'sub-D1_space-orig_label-lesion_mask.nii.gz'
    truth = np.asarray(nb.load(bids / f'derivatives/manual/sub-D1/anat/{name}').dataobj) > 0

    def go(label: str, *arguments: str) -> float:
        done = run(
            bids, root / label, 'participant', '--participant-label', 'D1', '-w', root / 'work',
            '--skip-bids-validation', '--model', *arguments,
        )  # fmt: skip
        assert done.code == 0, done.stderr
        path = next(
            root.glob(f'{label}/sub-D1/anat/*space-orig_label-lesion_desc-{label}_mask.nii*')
        )
        return accuracy(np.asarray(nb.load(path).dataobj) > 0, truth, (1, 1, 1))['DSC']

    return go


@pytest.mark.parametrize('name', NAMES)
def test_each_segments_it(dsc_of, name):
    assert dsc_of(name, name) > 0.6


def test_all_four_together_segment_it(dsc_of):
    assert dsc_of('mean', *NAMES, '--ensemble', 'mean') > 0.65
