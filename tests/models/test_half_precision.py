"""The shipped weights in the rounding of bfloat16: what processors that have it would find."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_network

from mslesseg_app.models.prediction.presets import resolve
from mslesseg_app.models.registry import get_entry


@pytest.fixture
def bench(project_root: Path) -> Iterator[Any]:
    folder = project_root / 'benchmarks'
    if not folder.is_dir():
        pytest.skip('needs the benchmarks of a checkout')
    sys.path.insert(0, str(folder))
    import inference

    yield inference
    sys.path.remove(str(folder))
    del sys.modules['inference']


def test_rounding_is_imitated(bench: Any) -> None:
    """Every weight of a product and every output has the bits of bfloat16."""
    image = torch.randn(1, 3, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    network = tiny_network('unet')
    with torch.inference_mode():
        exact = network(image)
        bench.imitate_bfloat16(network)
        rounded = network(image)
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert torch.equal(network.head.weight, network.head.weight.bfloat16().float())
    assert 0 < float((rounded - exact).abs().max()) < 0.05 * float(exact.abs().max())


@pytest.mark.slow
@pytest.mark.realdata
def test_the_mask_of_the_default_model_stays_the_same(
    bench: Any, real_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exam of a low load; the whole study is the part ``precision`` of the benchmark."""
    bench.precision(real_data, 1, ['patient07'], resolve(get_entry('unet')))
    row = next(x for x in capsys.readouterr().out.splitlines() if x.startswith('| patient07'))
    _, voxels, _, dice, *_ = (cell.strip() for cell in row.strip('|').split('|'))
    assert int(voxels) > 100
    assert float(dice) >= 0.995
