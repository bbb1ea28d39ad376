"""Weights that were trained with the public code of a network, read as ours.

A checkpoint is opened as tensors only (``weights_only=True``): what else is in it, such as whole
Python objects, is refused. Its names are translated, and then every tensor of the network must
have come from exactly one tensor of the file and have its shape; nothing may be left over. Which
names are which, each network says in its `OfficialWeights`.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.networks import NETWORKS, build
from mslesseg_app.models.networks.spec import OfficialWeights, Rule

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, 'Tensor']

WRAPPERS = ('state_dict', 'model_state_dict', 'model_state', 'model', 'network', 'net', 'weights')
"""Keys under which training code puts the state dict of the network."""

PREFIXES = ('module.', '_orig_mod.')
"""What parallel and compiled networks put before each name."""

_SHOWN = 6
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)

CONSTANT = r'\.norm_cross_attn\.|\.relative_position_index$|\.num_batches_tracked$'
"""Our names of tensors that an older file may lack, because no result depends on their values."""


def rename(name: str, rules: list[Rule]) -> str:
    """Return our name of an official tensor."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


# ----------------------------------------------------------------------------- reading


class _Forgotten:
    """Stands for the few harmless objects that training code leaves beside the tensors."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


FORGOTTEN = (
    'numpy.core.multiarray.scalar',
    'numpy._core.multiarray.scalar',
    'numpy.dtype',
    'argparse.Namespace',
)
"""Python names in checkpoints of the public code (best score, settings) that are passed over."""


def read_checkpoint(path: Path) -> Tensors:
    """Return the named tensors of a checkpoint.

    Parameters
    ----------
    path : Path
        A file of ``torch.save``, or a safetensors file.

    Raises
    ------
    ModelError
        If it is neither, holds Python objects, or no state dict.
    """
    if path.suffix == '.safetensors':
        from mslesseg_app.models.networks import read_tensors

        return _without_prefix(read_tensors(path))
    return _without_prefix(_state_dict(path, _load_tensors(path)))


def _load_tensors(path: Path) -> object:
    import torch

    allowed: list[Any] = [(_Forgotten, name) for name in FORGOTTEN]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # on pickle protocols; what matters is an error
            return torch.load(path, map_location='cpu', weights_only=True)
    except _UNREADABLE as error:
        first = next((line for line in str(error).splitlines() if 'GLOBAL' in line), '')
        why = f'it holds Python objects ({first.strip()})' if first else type(error).__name__
        raise ModelError(
            f'{path} is no checkpoint that can be read safely: {why}.',
            'Give the state dict alone, saved by torch.save(network.state_dict(), file).',
        ) from error


def _state_dict(path: Path, content: object) -> Tensors:
    """Return the innermost state dict of what was loaded."""
    import torch

    if isinstance(content, Mapping):
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is not None:
            return _state_dict(path, inner)
        tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
        if tensors and len(tensors) == len(content) and all(isinstance(k, str) for k in tensors):
            return tensors
    raise ModelError(
        f'{path} holds no state dict of a network.',
        'Give a state dict, or a checkpoint that has one under: ' + ', '.join(WRAPPERS) + '.',
    )


def _without_prefix(tensors: Tensors) -> Tensors:
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


# -------------------------------------------------------------------------- conversion


def convert(
    path: Path, architecture: str, options: Mapping[str, Any], inputs: int | None = None
) -> Tensors:
    """Return official weights under our names.

    Parameters
    ----------
    path : Path
        Checkpoint of the public code.
    architecture : str
        Of a network that has `OfficialWeights`.
    options : mapping
        Those of the model's description.
    inputs : int, optional
        Image channels that the model has; those of the file if not given.

    Returns
    -------
    dict of Tensor
        The whole state dict of ``build(architecture, inputs, options)``, float32 and integers.

    Raises
    ------
    ModelError
        If the file cannot be read safely, or does not hold exactly this network.
    """
    official = _official(architecture)
    found = _renamed(path, architecture, official.names(options))
    stem = found.get(official.stem)
    if inputs is None:
        inputs = int(stem.shape[1]) if stem is not None and stem.ndim == 5 else 3
    own = build(architecture, inputs, dict(options)).state_dict()
    for name in set(own) - set(found):
        if re.search(CONSTANT, name):
            found[name] = own[name]
    unused = official.dropped
    if unused:
        found = {k: v for k, v in found.items() if k in own or not re.search(unused, k)}
    _check(path, architecture, found, own, inputs)
    return {name: _dense_copy(path, name, found[name], own[name]) for name in own}


def _official(architecture: str) -> OfficialWeights:
    known = {name: spec.official for name, spec in NETWORKS.items() if spec.official}
    if architecture not in known:
        raise ModelError(
            f'There is no public code whose weights the network {architecture!r} can take.',
            f'Known: {", ".join(known)}.',
        )
    return known[architecture]


def _renamed(path: Path, architecture: str, rules: list[Rule]) -> Tensors:
    found: Tensors = {}
    for name, value in read_checkpoint(path).items():
        ours = rename(name, rules)
        if ours in found:
            raise ModelError(
                f'{path} holds {ours!r} of {architecture} twice.', 'Give an official checkpoint.'
            )
        found[ours] = value
    return found


def _check(path: Path, architecture: str, found: Tensors, own: Tensors, inputs: int) -> None:
    """Raise ModelError unless names and shapes are those of the network."""
    official = _official(architecture)
    absent = [name for name in own if name not in found]
    strange = [name for name in found if name not in own]
    wrong = [name for name in own if name in found and own[name].shape != found[name].shape]
    if not (absent or strange or wrong):
        return
    shapes = [f'{n} {tuple(found[n].shape)} instead of {tuple(own[n].shape)}' for n in wrong]
    parts = [
        f'{len(names)} {what} ({_some(names)})'
        for what, names in (
            ('missing', absent),
            ('unknown', strange),
            ('of another shape', shapes),
        )
        if names
    ]
    raise ModelError(
        f'{path} does not hold a {architecture} of these options: tensors {"; ".join(parts)}.',
        _channels_advice(found.get(official.stem), inputs)
        or _advice(official, absent, strange, {n: found[n].shape[0] for n in wrong}),
    )


def _channels_advice(stem: Tensor | None, inputs: int) -> str:
    """Return what to say of weights that take another number of images; nothing otherwise."""
    if stem is None or stem.ndim != 5 or stem.shape[1] == inputs:
        return ''
    return (
        f'It takes {stem.shape[1]} images, not {inputs}: say which, in the order of its training, '
        'by --channels.'
    )


def _some(names: list[str]) -> str:
    more = f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''
    return ', '.join(names[:_SHOWN]) + more


def _advice(
    official: OfficialWeights, absent: list[str], strange: list[str], wrong: Mapping[str, int]
) -> str:
    """Return which option is probably wrong; `wrong` has the first edge of each tensor."""
    for pattern, text in official.advice:
        if any(re.search(pattern, name) for name in strange):
            return text
    if not absent and not strange:
        if all(name.startswith(official.head) for name in wrong):
            count = next(iter(wrong.values()))
            return (
                f'It has {count} output channels: set the option classes={count}; and lesion=K, '
                'the channel of lesions from 0, if each is a sigmoid of its own.'
            )
        if all(name == official.positions for name in wrong):
            return 'It was trained on windows of another size: set the option edge.'
    return 'Check the architecture, the number of channels and the options against the training.'


def _dense_copy(path: Path, name: str, tensor: Tensor, like: Tensor) -> Tensor:
    """Return a dense copy of the kind that the network has; finite numbers only."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        raise ModelError(f'{path} holds {name!r} in a form that is not plain numbers.')
    if not bool(tensor.isfinite().all()):
        raise ModelError(
            f'{path} holds values in {name!r} that are not numbers.', 'Train it again.'
        )
    return tensor.detach().to(like.dtype, copy=True).contiguous()
