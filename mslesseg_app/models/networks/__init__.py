"""Networks: each is found by its `NetworkSpec`.

PyTorch is imported when a network is built, not before.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks.edges import EdgeRule
from mslesseg_app.models.networks.spec import AUXILIARY, NetworkSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHARED = ('edges', 'heads', 'spec')


def _found() -> Iterator[tuple[str, NetworkSpec]]:
    for module in pkgutil.iter_modules(__path__):
        if module.name not in _SHARED:
            yield module.name, importlib.import_module(f'{__name__}.{module.name}').SPEC


NETWORKS: Mapping[str, NetworkSpec] = dict(_found())
"""All networks, by the name of their modules."""


def get_spec(architecture: str) -> NetworkSpec:
    """Return what a network tells of itself; ModelError for an unknown one."""
    if architecture not in NETWORKS:
        raise ModelError(
            f'The network {architecture!r} cannot be built by this version.',
            f'Known: {", ".join(NETWORKS)}.',
        )
    return NETWORKS[architecture]


def edge_rule(architecture: str, options: Mapping[str, Any]) -> EdgeRule:
    """Return which window edges a network takes.

    Parameters
    ----------
    architecture : str
        A key of `NETWORKS`.
    options : mapping
        Those of the model's description; what is not there has the paper's value.

    Raises
    ------
    ModelError
        For an unknown architecture, or options that say nothing sensible about edges.
    """
    try:
        return get_spec(architecture).edges(**options)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f'The options of {architecture!r} do not say which windows it takes: {error}.',
            'Correct the options in its description.',
        ) from error


def build(architecture: str, inputs: int, options: Mapping[str, Any]) -> nn.Module:
    """Return an untrained network of this architecture; ModelError for what makes none."""
    spec = get_spec(architecture)
    try:
        network: Any = spec.build(inputs, options)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f'The options of {architecture!r} do not make a network: {error}.',
            'Correct the options in its description.',
        ) from error
    network.rule = edge_rule(architecture, options)
    built: nn.Module = network
    return built


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
    needed = {key for key in own if not key.startswith(AUXILIARY)}
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
