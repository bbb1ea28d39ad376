"""A network is one file with a ``SPEC`` and one description: the rest follows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NETWORK = '''
"""A network of one convolution."""

from mslesseg_app.models.networks.edges import EdgeRule
from mslesseg_app.models.networks.spec import InferenceCost, NetworkSpec


def build(inputs, options):
    from torch import nn

    from mslesseg_app.models.networks.heads import LesionHead

    class Probe(LesionHead, nn.Module):
        def __init__(self, inputs, width=2):
            super().__init__()
            self.lesion = None
            self.body, self.out = nn.Conv3d(inputs, width, 3, padding=1), nn.Conv3d(width, 1, 1)

        def logits(self, image):
            return self.out(self.body(image).relu())

    return Probe(inputs, **options)


SPEC = NetworkSpec(
    build,
    lambda **_: EdgeRule(8),
    InferenceCost(1.0, 1.0, 0.5),
    default={'patch': 16, 'epochs': 1, 'steps_per_epoch': 2, 'validate_every': 0},
    citation='Nobody: Nothing.',
)
'''
DESCRIPTION = """
name = 'probe'
version = '1'
architecture = 'probe'
channels = ['FLAIR', 'T1w', 'T2w']
required = ['FLAIR']
missing = 'zero'
normalisation = 'zscore'
threshold = 0.5
licence = 'Apache-2.0'
patch = [16, 16, 16]
[options]
width = 3
"""
PROGRAM = """
import sys
from pathlib import Path

import numpy as np
from conftest import write_case

from mslesseg_app.models.registry import get_entry, load_predictor
from mslesseg_app.training.description import entry_of
from mslesseg_app.training.experiments.publish import publish
from mslesseg_app.training.loop import Trainer
from mslesseg_app.training.patches import CaseDataset
from mslesseg_app.training.presets import preset

folder = Path(sys.argv[1])
cases = [write_case(folder / 'data', f'sub-{n}', 1, n) for n in (1, 2)]
plan = preset('default', 'probe')
dataset = CaseDataset(cases, plan, entry_of(plan), folder / 'cache')
trainer = Trainer(folder / 'run', plan, dataset, None)
assert trainer.train() and trainer.progress.step == 2
weights = trainer.export(folder / 'weights.safetensors')
publish(weights, folder / 'models', 'mine', plan, {'run': '0' * 64}, 'CC0-1.0')
entry = get_entry('mine', folder / 'models')
predictor = load_predictor(entry)
brain = np.ones((20, 16, 24), bool)
found = predictor(np.ones((3, *brain.shape), np.float32), brain, (True, True, True))
print(entry.architecture, entry.options, entry.card['citation'][0], found.shape)
print(0 < found.min() <= found.max() < 1)
"""
NO_TORCH = """
import sys
from mslesseg_app.deploy.hpc.resources import estimate
from mslesseg_app.models.overview import table
from mslesseg_app.models.registry import list_entries
print('probe' in table(list_entries()), len(estimate(['probe']).why), 'torch' in sys.modules)
"""


@pytest.fixture(scope='module')
def package(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    """A copy of the package with one more network."""
    copied = tmp_path_factory.mktemp('copy') / 'mslesseg_app'
    shutil.copytree(
        project_root / 'mslesseg_app', copied, copy_function=os.symlink,
        ignore=shutil.ignore_patterns('__pycache__'),
    )  # fmt: skip
    (copied / 'models/networks/probe.py').write_text(NETWORK)
    (copied / 'data/models/probe.toml').write_text(DESCRIPTION)
    return copied.parent


def run(package: Path, *words: str) -> str:
    path = os.pathsep.join([str(package), str(Path(__file__).parents[2] / 'training')])
    environment = {**os.environ, 'PYTHONPATH': path}
    found = subprocess.run(
        [sys.executable, *words], env=environment, cwd=package, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_it_is_trained_described_and_run(package, tmp_path):
    out = run(package, '-c', PROGRAM, str(tmp_path)).splitlines()
    assert out[-2:] == ["probe {'width': 3} Nobody: Nothing. (20, 16, 24)", 'True']


def test_the_command_line_knows_it_and_nothing_imports_torch(package):
    assert run(package, '-c', NO_TORCH) == 'True 3 False\n'
    assert 'probe' in run(package, '-m', 'mslesseg_app', 'train', '--help')
