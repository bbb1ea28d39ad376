"""nnU-Net v2 as an engine: the networks, preprocessing and windows of the package ``nnunetv2``.

The weights files of an entry are made by `mslesseg_app.models.nnunet`: one per fold, each with
plans, labels and the like in its header. Options, besides those of every engine: ``lesion`` (name
of the label), ``mirroring`` (default true), ``trainer`` (default the one it was trained with).

Reference: Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical
image segmentation. Nature Methods (2021).
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes

from mslesseg_app.core.errors import BusyError, DataError, ModelError
from mslesseg_app.models.nnunet import read_fold
from mslesseg_app.models.nnunet_plans import lesion_names
from mslesseg_app.models.prediction.prediction import Prediction
from mslesseg_app.spatial import grids

if TYPE_CHECKING:
    from mslesseg_app.models.entry import ModelEntry

LOGGER = logging.getLogger(__name__)

INSTALL = 'pip install "mslesseg[nnunet]"'
_REORIENTS = 'NibabelIOWithReorient'
Probabilities = npt.NDArray[np.float32]


def missing(entry: ModelEntry) -> str:
    """Say that the package is not installed; nothing if it is."""
    if importlib.util.find_spec('nnunetv2') is None:
        return f'the package nnunetv2 is not installed ({INSTALL})'
    return ''


def load(
    entry: ModelEntry, weights: Path | tuple[Path, ...], device: str, *, threads: int, seed: int
) -> NNUNetEngine:
    """Return the folds of an entry as one engine."""
    paths = weights if isinstance(weights, tuple) else (weights,)
    return NNUNetEngine(entry, paths, device, threads)


class NNUNetEngine:
    """A predictor of ``nnunetv2`` behind the engine protocol.

    Folds are combined as there, by the mean of their logits. Where labels exclude each other, the
    map holds the share of the lesion in it and the strongest other label, so that 0.5 is
    nnU-Net's own decision; with two labels this is the probability itself.

    Parameters
    ----------
    entry : ModelEntry
    paths : tuple of Path
        A weights file for each fold.
    device : str
        ``cpu`` or ``cuda:N``.
    threads : int
        CPU threads.

    Raises
    ------
    ModelError
        If the package, the trainer or a module of the network is missing, or weights do not fit.
    """

    def __init__(
        self, entry: ModelEntry, paths: tuple[Path, ...], device: str, threads: int
    ) -> None:
        lacking = missing(entry)
        if lacking:
            raise ModelError(f'The model {entry.name!r} cannot run: {lacking}.', INSTALL)
        self.name, self.threads, self.device = entry.name, threads, device
        folds = [read_fold(path) for path in paths]
        self.about, parameters = folds[0].about, [fold.tensors for fold in folds]
        self.mirroring = bool(entry.options.get('mirroring', True))
        with _quiet():
            trainer = str(entry.options.get('trainer', self.about['trainer']))
            self.parts = _build(self.about, trainer, entry.name)
            _check_fit(self.parts.network, parameters, entry.name)
            self.predictor = self._predictor(parameters, device)
        self.regions = self.parts.labels.has_regions
        self.heads = _heads(entry, self.about['dataset'], self.regions)
        if len(entry.channels) != self.parts.channels:
            raise ModelError(
                f'The model {entry.name!r} has {len(entry.channels)} channels, its network '
                f'{self.parts.channels}.',
                'Correct channels in its description.',
            )

    def __call__(
        self, channels: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]
    ) -> Prediction:
        """Return the probability of lesions, computed as ``nnUNetv2_predict`` does.

        Raises
        ------
        BusyError
            If the machine has too little memory.
        DataError
            If nnU-Net fails on these images.
        """
        from mslesseg_app.models.prediction.windows import (
            free_memory,
            is_out_of_memory,
            torch_threads,
        )

        notes: tuple[str, ...] = ()
        with torch_threads(self.threads), _quiet():
            try:
                found = self._classes(channels, affine)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise self._failed(error) from error
                if self.device == 'cpu':
                    raise self._too_small() from error
                notes = (f'{self.device} had too little memory, so the CPU was used.',)
                LOGGER.warning('%s: %s', self.name, notes[0])
                free_memory()
                found = self._on_cpu(channels, affine)
            except (AssertionError, LookupError, TypeError, ValueError) as error:
                raise self._failed(error) from error
        return Prediction(_score(found, self.heads, self.regions), notes=notes)

    def _on_cpu(
        self, channels: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]
    ) -> Probabilities:
        from mslesseg_app.models.prediction.windows import is_out_of_memory

        usual = self.predictor
        try:
            self.predictor = self._predictor(usual.list_of_parameters, 'cpu')
            return self._classes(channels, affine)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_small() from error
        finally:
            self.parts.network.to(self.device)
            self.predictor = usual

    def _classes(
        self, channels: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]
    ) -> Probabilities:
        """Return the probability of each label (or region), (K, X, Y, Z)."""
        turned = self.parts.plans.plans.get('image_reader_writer') == _REORIENTS
        images = [nb.Nifti1Image(data, affine) for data in channels]
        given = [grids.to_ras(image) for image in images] if turned else images
        planes = [np.asanyarray(i.dataobj, np.float32).transpose(2, 1, 0) for i in given]
        stack = np.ascontiguousarray(np.stack(planes))  # the order decides how means are rounded
        spacing = [float(size) for size in voxel_sizes(given[0].affine)[::-1]]
        _, found = self.predictor.predict_single_npy_array(
            stack, {'spacing': spacing}, None, None, True
        )
        classes = np.asarray(found, np.float32).transpose(0, 3, 2, 1)
        if turned:
            back = [grids.from_ras(nb.Nifti1Image(c, given[0].affine), images[0]) for c in classes]
            classes = np.stack(back)
        return classes

    def _predictor(self, parameters: list[Any], device: str) -> Any:
        import torch
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            use_mirroring=self.mirroring, device=torch.device(device), allow_tqdm=False
        )
        axes = self.about['mirror_axes']
        predictor.manual_initialization(
            self.parts.network.to(device),
            self.parts.plans,
            self.parts.configuration,
            parameters,
            self.about['dataset'],
            self.about['trainer'],
            tuple(axes) if axes else None,
        )
        return predictor

    def _failed(self, error: BaseException) -> DataError:
        return DataError(
            f'nnU-Net failed on this exam with the model {self.name!r}: {error}',
            'Choose another model for this exam.',
        )

    def _too_small(self) -> BusyError:
        return BusyError(
            f'The machine has too little memory for the model {self.name!r}.',
            'Give more memory, lower --nprocs, or choose a smaller model.',
        )


class _Parts:
    """Plans, configuration, labels and network of one model, made by the package."""

    def __init__(self, about: Mapping[str, Any], trainer: Any) -> None:
        from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        self.plans = PlansManager(about['plans'])
        self.configuration = self.plans.get_configuration(about['configuration'])
        self.labels = self.plans.get_label_manager(about['dataset'])
        self.channels = determine_num_input_channels(
            self.plans, self.configuration, about['dataset']
        )
        build, config = trainer.build_network_architecture, self.configuration
        sizes = (self.channels, self.labels.num_segmentation_heads)
        if 'plans_manager' in inspect.signature(build).parameters:
            network = build(self.plans, config, *sizes, enable_deep_supervision=False)
        else:  # trainers written for nnU-Net before 2.8
            kinds = (config.network_arch_class_name, config.network_arch_init_kwargs)
            imports = config.network_arch_init_kwargs_req_import
            network = build(*kinds, imports, *sizes, enable_deep_supervision=False)
        self.network = network.eval()


def _build(about: Mapping[str, Any], trainer: str, name: str) -> _Parts:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        kind = recursive_find_trainer_class_by_name(trainer)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f'The model {name!r} was trained by {trainer!r}, which nnunetv2 does not have.',
            'Put its class where nnunetv2 finds it (variable nnUNet_extTrainer); or, if it '
            'changes the training only, build the usual network: --option trainer=nnUNetTrainer',
        ) from error
    try:
        return _Parts(about, kind)
    except (ImportError, RuntimeError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise ModelError(
            f'The network of the model {name!r} cannot be built from its plans: {error}',
            'Use the plans.json and dataset.json that it was trained with.',
        ) from error


def _check_fit(network: Any, parameters: list[Any], name: str) -> None:
    """Raise ModelError unless each fold has the tensors of the network."""
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    for tensors in parameters:
        given = {key: tuple(value.shape) for key, value in tensors.items()}
        wrong = sorted(key for key in {*own, *given} if own.get(key) != given.get(key))
        if wrong:
            raise ModelError(
                f'The weights of the model {name!r} do not fit the network of its plans: '
                f'{len(wrong)} tensors differ, such as {wrong[0]}.',
                'Use the plans.json that it was trained with.',
            )


def _heads(entry: ModelEntry, dataset: Mapping[str, Any], regions: bool) -> tuple[int, ...]:
    """Return the output channels of lesions."""
    names = lesion_names(dataset, entry.options.get('lesion'))
    labels = {key: value for key, value in dataset['labels'].items() if key != 'ignore'}
    if not regions:
        return tuple(int(labels[name]) for name in names)
    order = [key for key in labels if key != 'background']
    return tuple(order.index(name) for name in names)


def _score(classes: Probabilities, heads: tuple[int, ...], regions: bool) -> Probabilities:
    """Return the score of lesions (X, Y, Z) from probabilities of all labels (K, X, Y, Z).

    A tie, which the half precision of nnU-Net makes common, is no lesion, as there.
    """
    lesion = classes[list(heads)].max(axis=0)
    below = np.nextafter(np.float32(0.5), np.float32(0))
    if regions:
        return np.where(lesion == 0.5, below, lesion)
    others = np.delete(classes, heads, axis=0).max(axis=0)
    total = lesion + others
    share = np.divide(lesion, total, out=np.zeros_like(lesion), where=total > 0)
    return np.where(lesion > others, np.maximum(share, np.float32(0.5)), np.minimum(share, below))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the package prints for the log."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        for line in said.getvalue().splitlines():
            LOGGER.debug('nnunetv2: %s', line)
