"""Trained models of nnU-Net v2 in a size for tests: random weights, made by its own classes."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

TRAINER = 'nnUNetTrainer'

_ARCHITECTURE: dict[str, Any] = {
    'network_class_name': 'dynamic_network_architectures.architectures.unet.PlainConvUNet',
    'arch_kwargs': {
        'n_stages': 2,
        'features_per_stage': [4, 6],
        'conv_op': 'torch.nn.modules.conv.Conv3d',
        'kernel_sizes': [[3, 3, 3], [3, 3, 3]],
        'strides': [[1, 1, 1], [2, 2, 2]],
        'n_conv_per_stage': [1, 1],
        'n_conv_per_stage_decoder': [1],
        'conv_bias': True,
        'norm_op': 'torch.nn.modules.instancenorm.InstanceNorm3d',
        'norm_op_kwargs': {'eps': 1e-05, 'affine': True},
        'dropout_op': None,
        'dropout_op_kwargs': None,
        'nonlin': 'torch.nn.LeakyReLU',
        'nonlin_kwargs': {'inplace': True},
    },
    '_kw_requires_import': ['conv_op', 'norm_op', 'dropout_op', 'nonlin'],
}


def plans(channels: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a ``plans.json``.

    Parameters
    ----------
    **changes
        Of the configuration ``3d_fullres``, or (``plans``) of the plans themselves.
    """
    resampling = {'is_seg': False, 'order': 3, 'order_z': 0, 'force_separate_z': None}
    configuration = {
        'data_identifier': 'nnUNetPlans_3d_fullres',
        'preprocessor_name': 'DefaultPreprocessor',
        'batch_size': 2,
        'patch_size': [16, 24, 20],
        'median_image_size_in_voxels': [30.0, 40.0, 36.0],
        'spacing': [1.0, 1.0, 1.0],
        'normalization_schemes': ['ZScoreNormalization'] * channels,
        'use_mask_for_norm': [False] * channels,
        'resampling_fn_data': 'resample_data_or_seg_to_shape',
        'resampling_fn_seg': 'resample_data_or_seg_to_shape',
        'resampling_fn_data_kwargs': resampling,
        'resampling_fn_seg_kwargs': resampling | {'is_seg': True, 'order': 1},
        'resampling_fn_probabilities': 'resample_data_or_seg_to_shape',
        'resampling_fn_probabilities_kwargs': resampling | {'order': 1},
        'architecture': deepcopy(_ARCHITECTURE),
        'batch_dice': False,
    }
    general = changes.pop('plans', {})
    properties = dict.fromkeys(
        ('max', 'mean', 'median', 'min', 'percentile_00_5', 'percentile_99_5', 'std'), 1.0
    )
    return {
        'dataset_name': 'Dataset004_WML',
        'plans_name': 'nnUNetPlans',
        'original_median_spacing_after_transp': [1.0, 1.0, 1.0],
        'original_median_shape_after_transp': [30, 40, 36],
        'image_reader_writer': 'SimpleITKIO',
        'transpose_forward': [0, 1, 2],
        'transpose_backward': [0, 1, 2],
        'configurations': {'3d_fullres': configuration | changes},
        'experiment_planner_used': 'ExperimentPlanner',
        'label_manager': 'LabelManager',
        'foreground_intensity_properties_per_channel': {
            str(n): properties for n in range(channels)
        },
        **general,
    }


def dataset(names: tuple[str, ...] = ('FLAIR',), **changes: Any) -> dict[str, Any]:
    """Return a ``dataset.json``."""
    return {
        'channel_names': {str(n): name for n, name in enumerate(names)},
        'labels': {'background': 0, 'lesion': 1},
        'numTraining': 2,
        'file_ending': '.nii.gz',
        **changes,
    }


def checkpoint(
    plan: dict[str, Any], data: dict[str, Any], seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """Return the content of a checkpoint, its network made and named by the official classes."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(deepcopy(plan))
    configuration = manager.get_configuration('3d_fullres')
    heads = manager.get_label_manager(data).num_segmentation_heads
    with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(seed)
        network = nnUNetTrainer.build_network_architecture(
            manager, configuration, len(data['channel_names']), heads, False
        )
    return plain_checkpoint(plan, data, network.state_dict(), **changes)


def plain_checkpoint(
    plan: dict[str, Any], data: dict[str, Any], weights: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    """Return the content of a checkpoint with these weights."""
    import numpy as np
    import torch

    arguments = {
        'plans': plan,
        'configuration': '3d_fullres',
        'fold': 0,
        'dataset_json': data,
        'device': torch.device('cpu'),
    }
    return {
        'network_weights': weights,
        'optimizer_state': {},
        'grad_scaler_state': None,
        'logging': {'ema_fg_dice': [np.float64(0.5), np.float32(0.6)], 'lrs': [0.01]},
        '_best_ema': np.float64(0.6),
        'current_epoch': 1,
        'init_args': arguments,
        'trainer_name': TRAINER,
        'inference_allowed_mirroring_axes': (0, 1, 2),
        **changes,
    }


def some_tensors(seed: int = 0) -> dict[str, Any]:
    """Return tensors, one of which has two names, as the encoder in the decoder of a network."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(3, 2, generator=generator)
    second = torch.randn(4, generator=generator)
    return {'encoder.a': first, 'decoder.encoder.a': first, 'decoder.b': second}


def write_model(
    root: Path,
    plan: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    folds: tuple[int | str, ...] = (0,),
    name: str = 'checkpoint_final.pth',
    official: bool = True,
    **changes: Any,
) -> Path:
    """Write a trainer folder as a training leaves it, and return it.

    Parameters
    ----------
    official : bool
        With the network of the plans, for which nnunetv2 is needed; else with a few tensors.
    **changes
        Of the content of each checkpoint.
    """
    import torch

    data = data or dataset()
    plan = plan or plans(len(data['channel_names']))
    folder = root / 'Dataset004_WML' / f'{TRAINER}__nnUNetPlans__3d_fullres'
    folder.mkdir(parents=True)
    (folder / 'plans.json').write_text(json.dumps(plan))
    (folder / 'dataset.json').write_text(json.dumps(data))
    for number, fold in enumerate(folds):
        (folder / f'fold_{fold}').mkdir()
        if official:
            content = checkpoint(plan, data, number, **changes)
        else:
            content = plain_checkpoint(plan, data, some_tensors(number), **changes)
        torch.save(content, folder / f'fold_{fold}' / name)
    return folder


def export(folder: Path, path: Path) -> Path:
    """Zip a trainer folder as ``nnUNetv2_export_model_to_zip`` does."""
    with zipfile.ZipFile(path, 'w') as archive:
        for item in sorted(folder.rglob('*')):
            if item.is_file():
                archive.write(item, item.relative_to(folder.parents[1]))
    return path
