"""States of all random generators of a process."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state(device: str) -> dict[str, Any]:
    """Return the state of all generators of this process, as plain values and tensors."""
    kind, keys, place, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        'python': [version, list(internal), gauss],
        'numpy': [kind, [int(key) for key in keys], place, has_gauss, cached],
        'torch': torch.get_rng_state(),
    }
    if device.startswith('cuda'):
        state['cuda'] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: str) -> None:
    """Go on from a state that `random_state` gave."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal), gauss))
    kind, keys, place, has_gauss, cached = state['numpy']
    np.random.set_state((kind, np.array(keys, np.uint32), place, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state['torch'])
    if device.startswith('cuda') and 'cuda' in state:
        torch.cuda.set_rng_state(state['cuda'], device)


@contextmanager
def isolated_random_state() -> Iterator[None]:
    """Leave the generators as they were, whatever happens within."""
    state = random_state('cpu')
    try:
        yield
    finally:
        set_random_state(state, 'cpu')
