"""What dataset and plans of an nnU-Net say: classes, channels, and whether it can be run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import ModelError, UsageError

if TYPE_CHECKING:
    pass

EXPORT_KEY = 'mslesseg'
"""In ``dataset.json``: how `mslesseg_app.training.experiments.nnunet_export` made the images."""


_READERS = ('SimpleITKIO', 'NibabelIO', 'NibabelIOWithReorient')


_TRUSTED = ('dynamic_network_architectures.', 'torch.nn.')
"""Where classes that plans name may come from."""


_MODALITY = (
    (re.compile(r'flair', re.I), 'FLAIR'),
    (re.compile(r'^t1[ _-]?(w|n|we|weighted|mprage)?$|^mprage$|^mp2rage$', re.I), 'T1w'),
    (re.compile(r'^t2[ _-]?(w|we|weighted|tse|fse)?$', re.I), 'T2w'),
)


def lesion_names(dataset: Mapping[str, Any], wanted: Any) -> tuple[str, ...]:
    """Return the names of the labels that are lesions.

    Parameters
    ----------
    dataset : mapping
        ``dataset.json``.
    wanted : str, int, list of these, or None
        Names or values that the user gave.

    Raises
    ------
    UsageError
        If there are several labels and none is given, or there is none of this name.
    """
    labels = dataset['labels']
    known = [n for n, v in labels.items() if n != 'ignore' and n != 'background' and v != 0]
    shown = ', '.join(f'{name} ({labels[name]})' for name in known)
    if wanted is None:
        if len(known) == 1:
            return (known[0],)
        raise UsageError(
            f'The model has several labels: {shown}.',
            'Say which of them is the lesion: --option lesion=NAME',
        )
    asked = wanted if isinstance(wanted, list | tuple) else (wanted,)
    by_value = {str(labels[name]): name for name in known}
    names = [str(a) if str(a) in known else by_value.get(str(a), '') for a in asked]
    if not names or not all(names):
        raise UsageError(f'The model has no label {wanted!r}.', f'It has: {shown}.')
    if len(names) > 1 and any(isinstance(labels[name], list) for name in known):
        raise UsageError(
            'The labels of this model overlap, so that only one of them can be the lesion.',
            f'Choose one: {shown}.',
        )
    return tuple(dict.fromkeys(names))


def as_exported(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return grid and skull of images that ``mslesseg export nnunet`` wrote, where it did."""
    made = dataset.get(EXPORT_KEY)
    if not isinstance(made, dict):
        return {}
    return {key: made[key] for key in ('space', 'whole_head') if key in made}


def check_dataset(path: Path, dataset: Mapping[str, Any]) -> None:
    labels = dataset.get('labels')
    names = dataset.get('channel_names', dataset.get('modality'))
    if not isinstance(labels, dict) or not isinstance(names, dict) or not names:
        raise ModelError(
            f'{path}: dataset.json has no tables labels and channel_names.',
            'Use the dataset.json that it was trained with.',
        )
    if not all(isinstance(v, int | list) for v in labels.values()):
        raise ModelError(
            f'{path}: the labels of dataset.json are not names with numbers.',
            'nnU-Net v1 wrote them the other way round; only models of v2 can be run.',
        )


def check_configuration(path: Path, plans: Mapping[str, Any], name: str) -> None:
    """Refuse what cannot be run, and classes from elsewhere than nnU-Net and PyTorch."""
    configurations = plans.get('configurations')
    if not isinstance(configurations, dict) or name not in configurations:
        raise ModelError(
            f'{path}: plans.json has no configuration {name!r}.', 'Download it again.'
        )
    merged: dict[str, Any] = {}
    for table in reversed(list(_inherited(path, configurations, name))):
        merged |= table
    if len(merged.get('patch_size', ())) != 3:
        raise ModelError(
            f'{path} is a 2D configuration ({name}), which is not supported.',
            'Give the model of a 3D configuration.',
        )
    if merged.get('previous_stage'):
        raise ModelError(
            f'{path} is the second stage of a cascade ({name}), which is not supported.',
            'Give the model of 3d_fullres or 3d_lowres.',
        )
    reader = plans.get('image_reader_writer', _READERS[0])
    if reader not in _READERS:
        raise ModelError(
            f'{path} reads its images by {reader!r}, which is not supported.',
            f'Supported: {", ".join(_READERS)}.',
        )
    for value in _classes(merged.get('architecture', {})):
        if not value.startswith(_TRUSTED):
            raise ModelError(
                f'{path}: its plans name the class {value!r}, which is refused.',
                'Only classes of dynamic_network_architectures and torch.nn are made.',
            )


def _inherited(
    path: Path, configurations: Mapping[str, Any], name: str
) -> Iterator[Mapping[str, Any]]:
    """Yield a configuration and those that it inherits from."""
    for _ in range(len(configurations) + 1):
        table = configurations.get(name)
        if not isinstance(table, dict):
            raise ModelError(f'{path}: plans.json has no configuration {name!r}.')
        yield table
        if 'inherits_from' not in table:
            return
        name = str(table['inherits_from'])
    raise ModelError(f'{path}: the configurations of plans.json inherit from each other.')


def _classes(architecture: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of all classes that the plans of a network ask to import."""
    if not architecture:
        return
    yield str(architecture.get('network_class_name'))
    arguments = architecture.get('arch_kwargs', {})
    for key in architecture.get('_kw_requires_import', ()):
        if arguments.get(key) is not None:
            yield str(arguments[key])


def channels_of(
    path: Path, dataset: Mapping[str, Any], given: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the modality of each channel: what the user says, else by the channel's name."""
    names = dataset.get('channel_names', dataset.get('modality', {}))
    ordered = [str(names[key]) for key in sorted(names, key=fold_number)]
    if given:
        if len(given) != len(ordered):
            raise UsageError(
                f'{path} has {len(ordered)} channels ({", ".join(ordered)}), not {len(given)}.',
                'Give as many to --channels, in their order.',
            )
        return tuple(given)
    found = tuple(_modality(name) for name in ordered)
    if '' in found or len(set(found)) < len(found):
        raise UsageError(
            f'Which images the channels of {path} are is not clear: {", ".join(ordered)}.',
            'Say it in their order: --channels FLAIR T1w',
        )
    return found


def fold_number(key: str) -> int:
    return int(key) if str(key).isdigit() else 0


def _modality(text: str) -> str:
    return next((name for pattern, name in _MODALITY if pattern.search(text.strip())), '')
