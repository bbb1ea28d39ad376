"""One small demo dataset for all tests of this folder."""

from __future__ import annotations

import pytest
from phantom_dataset import DemoDataset, make_dataset

from mslesseg_app.demo.phantom import Phantom, make_phantom


@pytest.fixture(scope='session')
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoDataset:
    """Both sessions of seed 1 at 2 mm."""
    return make_dataset(tmp_path_factory.mktemp('demo') / 'bids', seed=1, resolution=2.0)


@pytest.fixture(scope='session')
def phantom() -> Phantom:
    """The subject of the dataset."""
    return make_phantom(seed=1, resolution=2.0)
