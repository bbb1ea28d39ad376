"""MindGlide through the App's engine gives the labels of its own command line.

Its package needs an environment of its own: the test runs where the program ``mindglide`` is on
the PATH. The weights are random, in the official format, made by the official network.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.models.registry import get_entry, load_engine
from mslesseg_app.models.store import add_command

PROGRAM = shutil.which('mindglide') or ''
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM, reason='no program mindglide: pip install mindglide==1.3.0'),
]

WEIGHTS = """
import sys, torch
from mindglide.network import get_network
torch.manual_seed(0)
torch.save(get_network('cpu').state_dict(), sys.argv[1])
"""


def test_labels_are_those_of_the_program_itself(tmp_path: Path) -> None:
    python = Path(PROGRAM).read_text().splitlines()[0].removeprefix('#!')
    weights = tmp_path / 'weights.pt'
    subprocess.run([python, '-c', WEIGHTS, str(weights)], check=True)
    affine = np.array([[0, 0, -1.5, 30], [-1.1, 0, 0, 20], [0, 1.0, 0, -25], [0, 0, 0, 1]])
    data = np.random.default_rng(0).normal(100, 20, (56, 60, 40)).astype(np.float32)
    data[:4] = 0
    nb.Nifti1Image(data, affine).to_filename(tmp_path / 'flair.nii.gz')
    official = tmp_path / 'official.nii.gz'
    words = ['--device', 'cpu', '--model-path', str(weights)]
    subprocess.run(
        [PROGRAM, '-i', str(tmp_path / 'flair.nii.gz'), '-o', str(official), *words], check=True
    )
    labels = np.asarray(nb.load(official).dataobj)
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    label = int(values[np.argmax(counts)])  # random weights know no lesion
    add_command(
        f'{PROGRAM} -i {{flair}} -o {{output}} --device {{device}} --model-path {weights}',
        tmp_path / 'models',
        {'name': 'mindglide', 'options': {'labels': [label]}},
    )
    entry = get_entry('mindglide', tmp_path / 'models')
    assert entry.options['whole_head'] is True, 'what is not said comes from the shipped entry'
    found = load_engine(entry, 'cpu', 1, 1)(data[None], affine).prob
    np.testing.assert_array_equal(found, labels == label)
