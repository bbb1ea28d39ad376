"""From what people have (checkpoints, bundles, safetensors) to one safetensors file."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.bundle import is_bundle, read_bundle

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal['safetensors', 'checkpoint', 'bundle']

_PICKLE = b'\x80'
_ZIP = b'PK\x03\x04'
_HEAD = 9
"""Bytes of a safetensors file before its table: the table's length and an opening brace."""


def kind_of(path: Path) -> Kind:
    """Tell what a file or folder of weights is, by its content and not by its name.

    Raises
    ------
    ModelError
        If it is none of what can be read.
    """
    if path.is_dir():
        if is_bundle(path):
            return 'bundle'
        raise _no_tensors(path, 'a folder without configs/, so no MONAI bundle')
    with path.open('rb') as stream:
        head = stream.read(_HEAD)
    if head.startswith(_ZIP):
        return _kind_of_archive(path)
    if len(head) == _HEAD and head[8:9] == b'{':
        return 'safetensors'
    if head.startswith(_PICKLE):
        return 'checkpoint'
    raise _no_tensors(path, 'an empty file' if not head else 'something else')


def _kind_of_archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise _no_tensors(path, f'a damaged archive ({error})') from error
    if any(name.endswith('data.pkl') for name in names):
        return 'checkpoint'
    if is_bundle(path):
        return 'bundle'
    raise _no_tensors(path, 'a zip archive of something else')


def _no_tensors(path: Path, what: str) -> ModelError:
    return ModelError(
        f'{path} is no tensor file: it is {what}.',
        'Give a safetensors file, a PyTorch checkpoint of one of the known networks, or a MONAI '
        'bundle (folder or zip).',
    )


def unpack(source: Path, staging: Path) -> tuple[dict[str, Any], Path]:
    """Return what a source says of its model, and the file with its tensors.

    Parameters
    ----------
    source : Path
        File or folder.
    staging : Path
        Folder for what has to be unpacked.

    Returns
    -------
    fields : dict
        Fields of `mslesseg_app.models.entry.ModelEntry`; empty unless it is a bundle.
    raw : Path
        Safetensors file or checkpoint.
    """
    if kind_of(source) != 'bundle':
        return {}, source
    return read_bundle(source, staging)


def to_safetensors(
    raw: Path, target: Path, architecture: str, options: Mapping[str, Any], inputs: int
) -> None:
    """Write the tensors of a source as safetensors, by the names of our networks.

    A safetensors file that has these names is taken over byte by byte. Checkpoints are read
    without running any code in them. Official names are translated by
    `mslesseg_app.models.official`.

    Parameters
    ----------
    raw : Path
        Safetensors file or checkpoint.
    target : Path
        With the suffix ``.safetensors``.
    architecture : str
    options : mapping
    inputs : int
        Image channels.

    Raises
    ------
    ModelError
        If the source cannot be read or belongs to another network.
    """
    from mslesseg_app.models.networks import get_spec
    from mslesseg_app.models.official import convert, read_checkpoint
    from mslesseg_app.models.size import empty_network

    source, plain = raw, kind_of(raw) == 'safetensors'
    if plain:
        source = target
        shutil.copyfile(raw, target)
    tensors = read_checkpoint(source)
    own = empty_network(architecture, inputs, options).state_dict()
    shapes = [{name: tuple(t.shape) for name, t in one.items()} for one in (tensors, own)]
    if shapes[0] != shapes[1] and get_spec(architecture).official:  # tells what does not fit, too
        tensors = convert(source, architecture, options, inputs)
    elif plain:
        return
    _save(tensors, target)


def _save(tensors: Mapping[str, Tensor], target: Path) -> None:
    from safetensors.torch import save_file

    found = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu()
        found[name] = (value.float() if value.is_floating_point() else value).clone().contiguous()
    save_file(found, target, metadata={'format': 'pt'})
