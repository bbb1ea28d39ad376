"""Networks of the registry in a size for tests: random weights, real code."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

#: Options that make each network small, and the window it then takes.
TINY: dict[str, tuple[dict[str, Any], int]] = {
    'unet': ({'channels': [2, 4, 6], 'fold': 1, 'blocks': 2}, 32),
    'mssegdiff': ({'features': [2, 2, 4, 4, 8, 2], 'time_width': 8, 'time_hidden': 16}, 64),
    'transbts': (
        {'edge': 64, 'base': 4, 'groups': 2, 'width': 16, 'heads': 2, 'layers': 1, 'hidden': 16},
        64,
    ),
    'unetr': (
        {'edge': 64, 'feature_size': 2, 'hidden_size': 24, 'mlp_dim': 32, 'num_heads': 2},
        64,
    ),
    'swinunetr': (
        {
            'feature_size': 12, 'depths': [1, 1, 1, 1], 'num_heads': [1, 1, 2, 2],
            'merging': 'merging',
        },
        64,
    ),
}  # fmt: skip


def tiny_network(architecture: str, inputs: int = 3) -> Any:
    """Return a network with random weights that are always the same."""
    import torch

    from mslesseg_app.models.networks import build

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(architecture, inputs, TINY[architecture][0]).eval()


def save_weights(architecture: str, path: Path, **changes: Any) -> Path:
    """Write the weights of a tiny network, as safetensors or as a checkpoint by the suffix.

    Parameters
    ----------
    **changes
        Tensors to put in the place of the network's own; None leaves one out.
    """
    import torch
    from safetensors.torch import save_file

    state = dict(tiny_network(architecture).state_dict())
    state = {k: v.contiguous() for k, v in {**state, **changes}.items() if v is not None}
    if path.suffix == '.safetensors':
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def overrides(architecture: str, **more: Any) -> dict[str, Any]:
    """Return what `mslesseg_app.models.store.add_model` is asked for a tiny network."""
    options, edge = TINY[architecture]
    return {
        'architecture': architecture,
        'options': options,
        'patch': (edge,) * 3,
        'channels': ('FLAIR', 'T1w', 'T2w'),
        'normalisation': 'zscore',
        **more,
    }


def add_tiny(architecture: str, folder: Path, **more: Any) -> Any:
    """Add a tiny network to a folder of models and return its entry."""
    from mslesseg_app.models.store import add_model

    folder.mkdir(parents=True, exist_ok=True)
    source = save_weights(architecture, folder / f'.{architecture}.safetensors')
    try:
        return add_model(source, folder, overrides(architecture, **more))
    finally:
        source.unlink()


def write_bundle(root: Path, network: dict[str, Any], **more: Any) -> Path:
    """Write a MONAI bundle with the weights of a tiny UNETR.

    Parameters
    ----------
    network : dict
        The ``network_def``.
    **more
        ``metadata``, ``config`` (both update what is there), ``yaml``, ``weights`` (a suffix or
        None).
    """
    metadata = {
        'name': 'Lesions of MS',
        'version': '0.3.1',
        'monai_version': '1.5.1',
        'references': ['A paper'],
        'network_data_format': {
            'inputs': {'image': {'channel_def': {'0': 'FLAIR', '1': 'T1', '2': 'T2w'}}}
        },
        **more.get('metadata', {}),
    }
    config = {
        'image_key': 'image',
        'roi': [64, 64, 64],
        'network_def': network,
        'network': '$@network_def.to(@device)',
        'preprocessing': {
            '_target_': 'Compose',
            'transforms': [
                {'_target_': 'LoadImaged', 'keys': '@image_key'},
                {
                    '_target_': 'NormalizeIntensityd',
                    'keys': '@image_key',
                    'nonzero': True,
                    'channel_wise': True,
                },
            ],
        },
        'inferer': {
            '_target_': 'SlidingWindowInferer',
            'roi_size': '@roi',
            'overlap': 0.5,
            'mode': 'gaussian',
        },
        **more.get('config', {}),
    }
    (root / 'configs').mkdir(parents=True)
    (root / 'models').mkdir()
    (root / 'configs' / 'metadata.json').write_text(json.dumps(metadata))
    text = json.dumps(config)  # which is YAML, too
    (root / 'configs' / f'inference.{"yaml" if more.get("yaml") else "json"}').write_text(text)
    suffix = more.get('weights', 'pt')
    if suffix:
        save_weights('unetr', root / 'models' / f'model.{suffix}')
    return root


def zipped(folder: Path) -> Path:
    """Pack a folder as the archives of MONAI's model zoo are, with the folder's name on top."""
    path = folder.with_suffix('.zip')
    with zipfile.ZipFile(path, 'w') as archive:
        for item in sorted(folder.rglob('*')):
            archive.write(item, Path(folder.name) / item.relative_to(folder))
    return path


TINY_UNETR = {
    '_target_': 'monai.networks.nets.UNETR',
    'in_channels': 3,
    'out_channels': 1,
    'img_size': '@roi',
    'feature_size': 2,
    'hidden_size': 24,
    'mlp_dim': 32,
    'num_heads': 2,
    'proj_type': 'perceptron',
    'norm_name': 'instance',
    'dropout_rate': 0.1,
}
"""A ``network_def`` that fits the weights of the tiny UNETR."""
