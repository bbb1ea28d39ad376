"""Reading trained models of nnU-Net v2: what they say, never what they would run.

A model is a trainer folder (``dataset.json``, ``plans.json``, ``fold_*/checkpoint_*.pth``), a
folder above it, or a zip as ``nnUNetv2_export_model_to_zip`` writes it. Checkpoints are opened as
tensors and plain values only. Each fold becomes a safetensors file with all that is needed to run
it in its header.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import ModelError, UsageError
from mslesseg_app.models.archives import FileTree
from mslesseg_app.models.entry import INPUT_OPTIONS
from mslesseg_app.models.nnunet_plans import (
    as_exported,
    channels_of,
    check_configuration,
    check_dataset,
    lesion_names,
)

if TYPE_CHECKING:
    from torch import Tensor

_HEADER = 'nnunet'
_OWN_OPTIONS = ('configuration', 'folds', 'checkpoint', 'lesion', 'mirroring', 'trainer')

_SCALARS = (
    'numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar', 'numpy.dtype',
    'numpy.dtypes.Float64DType', 'numpy.dtypes.Float32DType', 'numpy.dtypes.Int64DType',
)  # fmt: skip
"""Names of numpy scalars in the log of a checkpoint; they are passed over, not made."""


@dataclass(frozen=True)
class NnunetFold:
    """One fold: its tensors, and ``plans dataset configuration trainer mirror_axes``."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


def is_nnunet(path: Path) -> bool:
    """Whether a folder or zip looks like a model of nnU-Net, of version 2 or 1."""
    try:
        names = FileTree(path).names
    except (zipfile.BadZipFile, OSError):
        return False
    return any(
        n.name in ('plans.json', 'plans.pkl') or n.match('fold_*/checkpoint_*.pth') for n in names
    )


def read_nnunet(
    path: Path, staging: Path, overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Path]]:
    """Return the fields of a description, and a weights file for each fold.

    Parameters
    ----------
    path : Path
        Folder or zip.
    staging : Path
        Where the weights files are written to.
    overrides : mapping
        Fields that the user gave; of its ``options`` those in the module's documentation.

    Returns
    -------
    fields : dict
        Of `mslesseg_app.models.entry.ModelEntry`.
    weights : list of Path
        Safetensors files in `staging`.

    Raises
    ------
    ModelError
        If it cannot be run, with the reason.
    UsageError
        If something has to be said: channels, the label of lesions, one of several models.
    """
    _check_options(overrides.get('options', {}))
    try:
        return _read_model(path, staging, overrides)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f'{path}: its files are not as nnU-Net writes them ({error!r}).', 'Download it again.'
        ) from error


def _read_model(
    path: Path, staging: Path, overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Path]]:
    """Read a model whose JSON files may hold anything."""
    given = dict(overrides.get('options', {}))
    tree = FileTree(path)
    tree.check_paths()
    folder = _trainer_folder(tree, given.get('configuration'))
    plans, dataset = (tree.read_table(folder / name) for name in ('plans.json', 'dataset.json'))
    check_dataset(path, dataset)
    options = as_exported(dataset) | given
    folds = _folds(tree, folder, options)
    weights, abouts = [], []
    for number, place in folds.items():
        checkpoint = _read_checkpoint(tree, place, staging)
        about = _about(path, place, checkpoint, plans, dataset)
        target = staging / f'fold_{number}.safetensors'
        _save(checkpoint['network_weights'], about, target)
        weights.append(target)
        abouts.append({key: about[key] for key in ('configuration', 'trainer', 'mirror_axes')})
    if any(about != abouts[0] for about in abouts):
        raise ModelError(
            f'{path}: its folds were not trained in the same way.', 'Choose --option folds=…'
        )
    lesion = lesion_names(dataset, options.get('lesion'))
    fields: dict[str, Any] = {
        'name': 'nnunet',
        'version': '1',
        'architecture': 'nnunet',
        'channels': channels_of(path, dataset, overrides.get('channels')),
        'missing': 'refuse',
        'normalisation': 'own',
        'threshold': 0.5,
        'options': {
            'configuration': abouts[0]['configuration'],
            'trainer': options.get('trainer', abouts[0]['trainer']),
            'folds': [str(number) for number in folds],
            'checkpoint': options.get('checkpoint', 'final'),
            'lesion': list(lesion),
            'mirroring': options.get('mirroring', True),
            **{key: options[key] for key in INPUT_OPTIONS if key in options},
        },
        'card': {'title': f'nnU-Net v2, {plans.get("dataset_name", folder.name)}'},
    }
    return fields, weights


def read_fold(path: Path) -> NnunetFold:
    """Read a weights file that `read_nnunet` wrote.

    Raises
    ------
    ModelError
        If it is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='pt') as file:
            about = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(
            f'{path} is no weights file of an nnU-Net: {error}', 'Add the model again.'
        ) from error
    tensors |= {name: tensors[same] for name, same in about.pop('same').items()}
    return NnunetFold(tensors, about)


# ------------------------------------------------------------------------------- files


def _trainer_folder(tree: FileTree, wanted: str | None) -> PurePosixPath:
    """Return the folder with ``plans.json`` and ``dataset.json``, of one 3D configuration."""
    names = set(tree.names)
    found = sorted({n.parent for n in names if n.name == 'plans.json'})
    found = [folder for folder in found if folder / 'dataset.json' in names]
    if not found:
        raise _no_model(tree.path, names)
    if len(found) == 1:
        return found[0]
    kinds = {folder.name.rpartition('__')[2]: folder for folder in found}
    usable = [kind for kind in kinds if kind != '2d' and 'cascade' not in kind]
    if wanted in kinds:
        return kinds[str(wanted)]
    if wanted is None and len(usable) == 1:
        return kinds[usable[0]]
    raise UsageError(
        f'{tree.path} holds several models: {", ".join(sorted(kinds))}.',
        'Choose one: --option configuration=3d_fullres',
    )


def _no_model(path: Path, names: set[PurePosixPath]) -> ModelError:
    if any(name.name == 'plans.pkl' for name in names):
        return ModelError(
            f'{path} is a model of nnU-Net v1 (plans.pkl), which cannot be run.',
            'Only models of nnU-Net v2 can: dataset.json, plans.json, fold_*/checkpoint_*.pth.',
        )
    return ModelError(
        f'{path} holds no folder with plans.json and dataset.json.',
        'Give the folder of the trainer (nnUNetTrainer__nnUNetPlans__3d_fullres), or the zip of '
        'nnUNetv2_export_model_to_zip.',
    )


def _folds(
    tree: FileTree, folder: PurePosixPath, options: Mapping[str, Any]
) -> dict[str, PurePosixPath]:
    """Return the checkpoint of each fold that is wanted: all, unless the user says which."""
    kind = str(options.get('checkpoint', 'final'))
    name = f'checkpoint_{kind}.pth'
    every = [n for n in tree.names if n.parent.parent == folder and n.suffix == '.pth']
    there = {n.parent.name.removeprefix('fold_'): n for n in every if n.name == name}
    asked = options.get('folds')
    if asked is None:
        numbered = [fold for fold in there if fold != 'all']
        wanted = numbered or list(there)
    else:
        wanted = [str(fold) for fold in (asked if isinstance(asked, list | tuple) else [asked])]
    absent = [fold for fold in wanted if fold not in there]
    if absent or not wanted:
        others = sorted({n.name for n in every} - {name})
        raise ModelError(
            f'{tree.path} has no {name} of fold {", ".join(absent) or "0"}; folds with one: '
            f'{", ".join(sorted(there)) or "none"}.',
            f'There is also {", ".join(others)}: --option checkpoint=best'
            if 'checkpoint_best.pth' in others
            else 'Choose folds that are there: --option folds=[0]',
        )
    return {fold: there[fold] for fold in sorted(dict.fromkeys(wanted))}


# -------------------------------------------------------------------------- checkpoint


class _Passed:
    """Stands for the numpy scalars in the log of a training."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError,
    AttributeError,
)  # fmt: skip


def _read_checkpoint(tree: FileTree, name: PurePosixPath, staging: Path) -> dict[str, Any]:
    """Open a checkpoint without running anything in it.

    Raises
    ------
    ModelError
        If it holds other Python objects than numpy scalars, naming the first; or is none of v2.
    """
    import torch

    place = tree.unpacked(name, staging / 'checkpoint.pth')
    allowed: list[Any] = [(_Passed, scalar) for scalar in _SCALARS]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # on pickle protocols; what matters is an error
            content = torch.load(place, map_location='cpu', weights_only=True)
    except _UNREADABLE as error:
        match = re.search(r'GLOBAL (\S+)', str(error))
        why = f'it would run {match[1]}, which is refused' if match else 'it is damaged'
        raise ModelError(
            f'{tree.path}: {name} cannot be read safely: {why}.',
            'Ask its authors for a checkpoint that nnU-Net itself has written.',
        ) from error
    finally:
        if place.parent == staging:
            place.unlink()
    wanted = ('network_weights', 'trainer_name', 'init_args')
    absent = [key for key in wanted if not isinstance(content, dict) or key not in content]
    if absent:
        raise ModelError(
            f'{tree.path}: {name} is no checkpoint of nnU-Net v2 (it has no {absent[0]}).',
            'Models of nnU-Net v1, and of other programs, cannot be run this way.',
        )
    return dict(content)


def _about(
    path: Path,
    place: PurePosixPath,
    checkpoint: Mapping[str, Any],
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a fold needs besides its tensors, as plain values."""
    configuration = str(checkpoint['init_args'].get('configuration'))
    check_configuration(path, plans, configuration)
    axes = checkpoint.get('inference_allowed_mirroring_axes')
    return {
        'plans': plans,
        'dataset': dataset,
        'configuration': configuration,
        'trainer': str(checkpoint['trainer_name']),
        'mirror_axes': [int(axis) for axis in axes] if axes else None,
    }


def _save(tensors: Mapping[str, Any], about: dict[str, Any], target: Path) -> None:
    """Write tensors, each once though a network may name it twice, and what goes with them."""
    import torch
    from safetensors.torch import save_file

    kept: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    places: dict[Any, str] = {}
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise ModelError(f'{name} in the checkpoint is not a plain tensor.')
        if not bool(value.isfinite().all()):
            raise ModelError(f'{name} in the checkpoint holds values that are not numbers.')
        where = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if value.numel() and where in places:
            same[name] = places[where]
            continue
        places[where] = name
        kept[name] = value.detach().contiguous().clone()
    header = json.dumps(about | {'same': same}, separators=(',', ':'))
    # one entry only: the library writes several in an order that changes, and so the SHA256
    save_file(kept, target, metadata={_HEADER: header})


# ------------------------------------------------------------------------------ checks


def _check_options(options: Mapping[str, Any]) -> None:
    known = (*_OWN_OPTIONS, *INPUT_OPTIONS)
    strange = sorted(set(options) - set(known))
    if strange:
        raise UsageError(
            f'An nnU-Net has no option {strange[0]!r}.', f'Known: {", ".join(known)}.'
        )
    if not isinstance(options.get('mirroring', True), bool):
        raise UsageError('mirroring is neither true nor false.', 'Say --option mirroring=false')
    if options.get('checkpoint', 'final') not in ('final', 'best'):
        raise UsageError('checkpoint is neither final nor best.', 'Say --option checkpoint=best')
