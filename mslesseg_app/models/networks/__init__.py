"""Trained networks behind the one predictor protocol.

PyTorch is imported when a network is loaded, not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks.edges import RULES
from mslesseg_app.models.networks.edges import EdgeRule as EdgeRule
from mslesseg_app.models.networks.edges import edge_rule as edge_rule

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mslesseg_app.models.registry import ModelEntry, Predictor

_HERE = 'mslesseg_app.models.networks'
BUILDERS = {name: f'{_HERE}.{name}' for name in RULES}
"""Module of each network; it offers ``build(inputs, options) -> torch.nn.Module``."""


def load(
    entry: ModelEntry,
    weights: Path | tuple[Path, ...] | None,
    device: str,
    *,
    threads: int,
    seed: int = 1,
) -> Predictor:
    """Build the network of an entry, fill it with its weights and return its predictor.

    Parameters
    ----------
    entry : ModelEntry
    weights : Path or tuple of Path
        Safetensors file whose hash was checked; several are folds, whose mean is taken.
    device : str
        ``cpu`` or ``cuda:N``.
    threads : int
        CPU threads.
    seed : int
        Of diffusion chains; the other networks draw no random numbers.

    Raises
    ------
    ModelError
        If the architecture is unknown here, or the weights are no tensors or do not fit it.
    """
    if weights is None:
        raise ModelError(f'The model {entry.name!r} needs weights.', 'Train or fetch them.')
    from mslesseg_app.models.prediction.predictor import NetworkPredictor, PooledPredictor

    folds = []
    for path in weights if isinstance(weights, tuple) else (weights,):
        network = build(entry.architecture, len(entry.channels), entry.options)
        fill(network, path)
        folds.append(NetworkPredictor(network, entry, device, threads, seed))
    return folds[0] if len(folds) == 1 else PooledPredictor(folds)


def build(architecture: str, inputs: int, options: dict[str, Any]) -> nn.Module:
    """Return an untrained network of this architecture."""
    if architecture not in BUILDERS:
        raise ModelError(
            f'The network {architecture!r} cannot be built by this version.',
            f'Known: {", ".join(sorted(BUILDERS))}.',
        )
    make: Callable[..., nn.Module] = importlib.import_module(BUILDERS[architecture]).build
    try:
        return make(inputs, options)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f'The options of {architecture!r} do not make a network: {error}.',
            'Correct the options in its description.',
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; ModelError where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f'{path} is no safetensors file: {error}', 'Fetch or train the weights again.'
        ) from error


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes in a safetensors file, not its numbers; ModelError where it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='np') as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f'{path} is no safetensors file: {error}', 'Fetch or train the weights again.'
        ) from error


def check_fit(
    path: Path, own: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]
) -> None:
    """Make sure that the tensors of a file are those of a network.

    Parameters
    ----------
    path : Path
        Of the file, for messages.
    own, found : mapping of name to shape
        Of the network and of the file. What only training needs may be absent.

    Raises
    ------
    ModelError
        If one is missing, unknown or of another shape.
    """
    needed = {key for key in own if not key.startswith('auxiliary.')}
    absent, strange = sorted(needed - set(found)), sorted(set(found) - set(own))
    wrong = [k for k in sorted(needed & set(found)) if tuple(own[k]) != tuple(found[k])]
    if absent or strange or wrong:
        example = (absent or strange or wrong)[0]
        raise ModelError(
            f'{path} holds the weights of another network: {len(absent)} tensors are missing, '
            f'{len(strange)} unknown, {len(wrong)} of another shape, for example {example!r}.',
            'Choose the weights that belong to this description.',
        )


def fill(network: nn.Module, path: Path) -> None:
    """Load weights into a network; every inference weight must be there and fit."""
    tensors = read_tensors(path)
    own = network.state_dict()
    shapes = [{key: tuple(t.shape) for key, t in one.items()} for one in (own, tensors)]
    check_fit(path, *shapes)
    floats = {key for key, tensor in own.items() if tensor.is_floating_point()}
    odd = [k for k in sorted(floats & set(tensors)) if not tensors[k].is_floating_point()]
    if odd:
        raise ModelError(
            f'{path} holds {odd[0]!r} as {tensors[odd[0]].dtype}: real numbers are needed.',
            'Store the weights as float32, float16 or bfloat16.',
        )
    values = {key: tensor.float() for key, tensor in tensors.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in values.values()):
        raise ModelError(f'{path} holds values that are not numbers.', 'Train it again.')
    network.load_state_dict(values, strict=False)
