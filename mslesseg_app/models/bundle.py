"""Reading MONAI bundles: what they say of a network, never what they would run.

A bundle is a folder or zip with ``configs/metadata.json``, ``configs/inference.json`` (or
``.yaml``) and ``models/model.pt`` (or ``.safetensors``); see "MONAI Bundle" in MONAI's
documentation. Its configuration may hold Python expressions (``$…``): they are not evaluated, and
where one stands for a number that is needed, the bundle is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.archives import FileTree
from mslesseg_app.models.networks import NETWORKS, edge_rule
from mslesseg_app.models.networks.spec import MonaiClass

_CONFIGS = ('inference.json', 'inference.yaml', 'inference.yml')
_WEIGHTS = ('model.safetensors', 'model.pt')

_IGNORED = {
    '_target_', '_disabled_', '_requires_', '_desc_', '_mode_', 'in_channels', 'img_size',
    'spatial_dims', 'use_checkpoint', 'norm_name', 'normalize', 'save_attn', 'res_block',
    'patch_size', 'out_channels', 'drop_rate', 'attn_drop_rate',
    'dropout_path_rate', 'dropout_rate',
}  # fmt: skip
"""Arguments that are handled one by one, or that count in training only."""

_NETWORKS: dict[str, tuple[str, MonaiClass]] = {
    spec.monai.name: (name, spec.monai) for name, spec in NETWORKS.items() if spec.monai
}
"""MONAI's class: our architecture."""

_MERGING_CORRECTED = (1, 5)
"""First MONAI whose SwinUNETR joins each neighbour once (its issue 8284)."""

_MODALITY = (
    (re.compile(r'flair', re.I), 'FLAIR'),
    (re.compile(r'^t1(w|n|-?weighted)?$', re.I), 'T1w'),
    (re.compile(r'^t2(w|-?weighted)?$', re.I), 'T2w'),
)


def is_bundle(path: Path) -> bool:
    """Whether a folder or zip holds the configuration of a bundle."""
    return any(name in _CONFIGS for name in _in_folder(FileTree(path), 'configs'))


def read_bundle(path: Path, staging: Path) -> tuple[dict[str, Any], Path]:
    """Return the fields of a model's description and the file of its weights.

    Parameters
    ----------
    path : Path
        Folder or zip.
    staging : Path
        Where the weights of a zip are unpacked to.

    Returns
    -------
    fields : dict
        Of `mslesseg_app.models.entry.ModelEntry`, as far as the bundle says them. The option
        ``lesion`` is None where one of several sigmoids has to be named.
    weights : Path

    Raises
    ------
    ModelError
        If something is missing or damaged, or the network is not one of ours.
    """
    tree = FileTree(path)
    configs = _in_folder(tree, 'configs')
    config_name = next(name for name in _CONFIGS if name in configs)
    config = _Config(tree.read_table(configs[config_name]), path)
    about = configs.get('metadata.json')
    metadata = tree.read_table(about) if about else {}
    definition = config.table('network_def')
    if not definition:
        raise ModelError(
            f'{path}: configs/{config_name} defines no network_def.',
            'Such a bundle cannot be imported; give its weights with --architecture.',
        )
    architecture, options = _network(definition, path)
    if options.get('merging') == 'merging':
        options['merging'] = _merging(metadata, path)
    if options['classes'] != 1 and _has_sigmoids(config):
        options['lesion'] = None
    fields: dict[str, Any] = {
        'name': re.sub('[^A-Za-z0-9]', '', str(metadata.get('name') or path.stem)) or architecture,
        'version': str(metadata.get('version') or '1'),
        'architecture': architecture,
        'options': options,
        'card': _card(metadata),
        **_windows(config, architecture, options),
        **_inputs(metadata, definition),
    }
    if isinstance(metadata.get('license'), str):
        fields['licence'] = metadata['license']
    if _normalises(config):
        fields['normalisation'] = 'zscore'
    return fields, _weights(tree, staging)


def _in_folder(tree: FileTree, folder: str) -> dict[str, PurePosixPath]:
    """Return the files of a folder of the bundle by their names."""
    found = (n for n in tree.names if n.parent.name == folder and len(n.parts) <= 3)
    return {name.name: name for name in found}


def _weights(tree: FileTree, staging: Path) -> Path:
    """Return the file of the weights, unpacked where need be."""
    found = _in_folder(tree, 'models')
    name = next((one for one in _WEIGHTS if one in found), None)
    if name is None:
        raise ModelError(
            f'{tree.path} holds neither models/{" nor models/".join(_WEIGHTS)}.',
            'A TorchScript file (model.ts) is not enough; download the whole bundle.',
        )
    return tree.unpacked(found[name], staging / f'bundle-{name}')


@dataclass(frozen=True)
class _Config:
    """A bundle's configuration, in which ``@name`` points to another place of it."""

    values: Mapping[str, Any]
    path: Path

    def table(self, key: str) -> dict[str, Any]:
        """Return a table with its references followed; empty if there is none."""
        found = self.follow(self.values.get(key), 0)
        return found if isinstance(found, dict) else {}

    def follow(self, value: Any, depth: int) -> Any:
        """Replace references by what they point to; expressions stay as they are."""
        if depth > 20:
            raise ModelError(f'{self.path}: its configuration refers to itself.', 'Correct it.')
        if isinstance(value, str) and value.startswith('@'):
            return self.follow(self._look_up(value[1:]), depth + 1)
        if isinstance(value, dict):
            return {key: self.follow(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.follow(item, depth + 1) for item in value]
        return value

    def _look_up(self, name: str) -> Any:
        place: Any = self.values
        for word in re.split('#|::', name):
            if isinstance(place, dict) and word in place:
                place = place[word]
            elif isinstance(place, list) and word.isdigit() and int(word) < len(place):
                place = place[int(word)]
            else:
                return f'$@{name}'  # as unknown as an expression
        return place


def _network(definition: Mapping[str, Any], path: Path) -> tuple[str, dict[str, Any]]:
    """Return architecture and options of a ``network_def``."""
    target = str(definition.get('_target_', definition.get('_name_', ''))).rpartition('.')[2]
    if target not in _NETWORKS:
        raise ModelError(
            f'{path} holds the network {target or "without a name"!r}, which mslesseg does not '
            'have.',
            f'Bundles of {" and ".join(_NETWORKS)} can be imported.',
        )
    architecture, monai = _NETWORKS[target]
    given = {monai.renamed.get(key, key): value for key, value in definition.items()}
    for key, value in given.items():
        if _is_expression(value):
            raise ModelError(
                f'{path}: {key} of the network is an expression, and expressions of a bundle '
                'are not run.',
                'Write the number itself into a copy of the bundle, or give its weights with '
                '--architecture and --option.',
            )
    _check_arguments(given, monai, path)
    options = {key: given.get(key, value) for key, value in monai.defaults.items()}
    options |= {key: given[key] for key in monai.renamed.values() if key in given}
    options['classes'] = given.get('out_channels', 1)
    return architecture, options


def _merging(metadata: Mapping[str, Any], path: Path) -> str:
    """Return which way of joining neighbours ``merging`` meant in the MONAI of this bundle."""
    match = re.match(r'(\d+)\.(\d+)', str(metadata.get('monai_version', '')))
    if match is None:
        raise ModelError(
            f'{path}: its metadata do not say for which MONAI it was made (monai_version).',
            'SwinUNETR computes something else before MONAI 1.5: add it to metadata.json.',
        )
    return 'legacy' if (int(match[1]), int(match[2])) < _MERGING_CORRECTED else 'merging'


def _check_arguments(given: Mapping[str, Any], monai: MonaiClass, path: Path) -> None:
    strange = sorted({*given} - {*monai.defaults, *monai.renamed.values(), *_IGNORED})
    other = sorted(key for key, value in monai.fixed.items() if given.get(key, value) != value)
    if strange or other:
        key = (strange or other)[0]
        raise ModelError(
            f'{path}: the network has {key} = {given[key]!r}, which mslesseg does not support.',
            'This bundle cannot be imported.',
        )


def _is_expression(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_expression, value))
    return isinstance(value, str) and value.startswith(('$', '%'))


def _windows(config: _Config, architecture: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return patch and sampler of the inferer, as far as it says them in numbers."""
    inferer = config.table('inferer')
    fields: dict[str, Any] = {}
    edges = _edges(inferer.get('roi_size', options.get('edge')))
    if edges is not None:
        fields['patch'] = edges
        if edge_rule(architecture, {}).fixed:
            options.setdefault('edge', list(edges))
    overlap, blending = inferer.get('overlap', 0.25), inferer.get('mode', 'constant')
    if isinstance(overlap, int | float) and blending in ('constant', 'gaussian'):
        # what MONAI's inferer does with them
        fixed = {'average': 'logits', 'layout': 'stepped', 'margin': 0}
        fields['sampler'] = {'overlap': overlap, 'blending': blending, **fixed}
        sigma = inferer.get('sigma_scale', 0.125)
        if blending == 'gaussian' and isinstance(sigma, float):
            fields['sampler']['sigma'] = sigma
    return fields


def _edges(size: Any) -> tuple[int, int, int] | None:
    values = [size] * 3 if isinstance(size, int) else size
    if not isinstance(values, list | tuple) or len(values) != 3:
        return None
    if not all(isinstance(n, int) and n > 0 for n in values):
        return None
    return values[0], values[1], values[2]


def _inputs(metadata: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the channels, where the bundle names modalities that we know, in order."""
    formats = metadata.get('network_data_format')
    inputs = formats.get('inputs') if isinstance(formats, dict) else None
    image = inputs.get('image') if isinstance(inputs, dict) else None
    named = image.get('channel_def') if isinstance(image, dict) else None
    if not isinstance(named, dict):
        return {}
    keys = sorted(named, key=lambda key: int(key) if str(key).isdigit() else 0)
    channels = [_modality(str(named[key])) for key in keys]
    if None in channels or len(channels) != definition.get('in_channels'):
        return {}
    return {'channels': tuple(channels)}


def _modality(text: str) -> str | None:
    return next((name for pattern, name in _MODALITY if pattern.search(text.strip())), None)


def _normalises(config: _Config) -> bool:
    """Whether the preprocessing is the z-score of non-zero voxels, channel by channel."""
    wanted = {'nonzero': True, 'channel_wise': True}
    return any(
        str(step.get('_target_', '')).rpartition('.')[2] == 'NormalizeIntensityd'
        and all(step.get(key) == value for key, value in wanted.items())
        for step in _steps(config.table('preprocessing'))
    )


def _has_sigmoids(config: _Config) -> bool:
    """Whether the postprocessing takes each output channel for a probability of its own."""
    return any(
        str(step.get('_target_', '')).rpartition('.')[2].startswith('Activations')
        and step.get('sigmoid') is True
        for step in _steps(config.table('postprocessing'))
    )


def _steps(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _steps(item)
    elif isinstance(value, list):
        for item in value:
            yield from _steps(item)


def _card(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the card can take over from the metadata."""
    named = {
        'title': 'name', 'description': 'description', 'authors': 'authors',
        'training_data': 'data_source', 'citation': 'references', 'copyright': 'copyright',
        'intended_use': 'intended_use',
    }  # fmt: skip
    card = {key: metadata[name] for key, name in named.items() if metadata.get(name)}
    figures = metadata.get('eval_metrics')
    if isinstance(figures, dict) and figures:
        card['figures'] = [{k: v for k, v in figures.items() if isinstance(v, int | float | str)}]
    return {'title': 'Imported from a MONAI bundle', **card}
