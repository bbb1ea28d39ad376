"""One exam through one model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError
from mslesseg_app.models.networks import NETWORKS
from mslesseg_app.models.prediction.device import choose_device
from mslesseg_app.models.prediction.normalise import JOINT, check_shown, normalise
from mslesseg_app.models.prediction.prediction import Prediction
from mslesseg_app.models.prediction.presets import DEFAULT, has_presets, resolve
from mslesseg_app.models.prediction.white_matter import only_in_white_matter
from mslesseg_app.models.registry import load_engine, load_predictor
from mslesseg_app.spatial.grids import rounded_share
from mslesseg_app.spatial.template import TEMPLATE_AFFINE

if TYPE_CHECKING:
    from mslesseg_app.models.entry import ModelEntry
    from mslesseg_app.models.registry import Engine, Predictor

_KEPT = 4
"""Models that a process keeps: those of one ensemble, whose exams come one after the other."""


def segment_detailed(
    entry: ModelEntry,
    images: Mapping[str, npt.NDArray[np.generic]],
    brain: npt.NDArray[np.bool_],
    device: str = 'auto',
    threads: int = 1,
    seed: int = 1,
    preset: str = DEFAULT,
    affine: npt.NDArray[np.float64] = TEMPLATE_AFFINE,
) -> tuple[Prediction, dict[str, Any]]:
    """Compute the lesion probability of one exam and its variance on the grid of its images.

    Parameters
    ----------
    entry : ModelEntry
    images : mapping of modality to array (X, Y, Z)
        Keys among FLAIR, T1w, T2w; images that the model does not know are left aside.
    brain : bool array (X, Y, Z), on the same grid
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads : int
        CPU threads.
    seed : int
        For models that draw random numbers.
    preset : {'fast', 'exact'}
        See `mslesseg_app.models.prediction.presets`.
    affine : float64 array (4, 4)
        Of the grid, to millimetres (RAS+). That of the template for all models but external
        engines that work on the grid of the FLAIR (`mslesseg_app.models.prediction.native`).

    Returns
    -------
    prediction : Prediction
        Zero outside the brain.
    info : dict
        ``device`` and ``device_note``, ``seconds``, ``used`` and ``missing`` modalities, the
        ``policy`` for missing ones, ``model``, ``version``, ``digest``, ``preset``, ``notes``.

    Raises
    ------
    DataError
        If a modality is missing that the model needs, or an image is constant, empty or on
        another grid.
    ModelError
        If the model cannot be loaded.
    UsageError
        If the device cannot be used.
    BusyError
        If the memory is too small for one window.
    """
    start = time.perf_counter()
    brain = np.asarray(brain, dtype=bool)
    missing = check_modalities(entry, images)
    where, note = _device(entry, device)
    channels = stack_channels(entry, images, brain)
    found = _predict(entry, preset, (where, threads, seed), channels, brain, missing, affine)
    _check_result(entry, found.prob, brain)
    found = _where_lesions_are(entry, found, brain)
    info = _info(entry, found, preset, missing) | {'device': where, 'device_note': note}
    return found, info | {'seconds': time.perf_counter() - start}


def _where_lesions_are(
    entry: ModelEntry, found: Prediction, brain: npt.NDArray[np.bool_]
) -> Prediction:
    for values in (found.prob, found.variance):
        if values is not None:
            values[~brain] = 0
    prob = only_in_white_matter(found.prob, entry.threshold, entry.least_white_matter)
    return replace(found, prob=rounded_share(prob, down=True))


def _predict(
    entry: ModelEntry,
    preset: str,
    how: tuple[str, int, int],
    channels: npt.NDArray[np.float32],
    brain: npt.NDArray[np.bool_],
    missing: Sequence[str],
    affine: npt.NDArray[np.float64],
) -> Prediction:
    """Ask the engine or the network; ``how`` is device, threads and seed."""
    if entry.is_engine:
        return _engine(entry, entry.digest, *how)(channels, affine)
    chosen = resolve(entry, preset)
    present = tuple(name not in missing for name in entry.channels)
    return _ask(_loaded(chosen, chosen.digest, *how), channels, brain, present)


def _info(
    entry: ModelEntry, found: Prediction, preset: str, missing: Sequence[str]
) -> dict[str, Any]:
    info = {
        'model': entry.name,
        'version': entry.version,
        'digest': entry.digest,
        'used': [name for name in entry.channels if name not in missing],
        'missing': missing,
        'policy': entry.missing,
    }
    if has_presets(entry):
        info['preset'] = preset
    if found.notes:
        info['notes'] = list(found.notes)
    return info


def varies(entry: ModelEntry, preset: str = DEFAULT) -> bool:
    """Whether a model gives several answers, so that they have a variance."""
    if entry.is_engine:
        return False
    sampler = resolve(entry, preset).sampler
    spec = NETWORKS.get(entry.architecture)
    chains = sampler.get('chains', 4) if spec and spec.diffusion else 1
    return len(entry.members) > 1 or bool(sampler.get('flips')) or chains > 1


def _ask(
    predictor: Predictor,
    channels: npt.NDArray[np.float32],
    brain: npt.NDArray[np.bool_],
    present: tuple[bool, ...],
) -> Prediction:
    """Get all that a predictor can tell."""
    detailed = getattr(predictor, 'detailed', None)
    if detailed is not None:
        return cast(Prediction, detailed(channels, brain, present))
    return Prediction(np.array(predictor(channels, brain, present), dtype=np.float32))


def check_modalities(entry: ModelEntry, images: Mapping[str, object]) -> list[str]:
    """Return the modalities that the model knows and the exam lacks, if it may lack them."""
    missing = [name for name in entry.channels if name not in images]
    needed = [n for n in missing if n in entry.required or entry.missing == 'refuse']
    if needed:
        raise DataError(
            f'The model {entry.name!r} needs {" and ".join(needed)}, which this exam lacks.',
            'Choose a model that does without (mslesseg models list), or leave this exam out.',
        )
    return missing


def stack_channels(
    entry: ModelEntry,
    images: Mapping[str, npt.NDArray[np.generic]],
    brain: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """Normalise the images and stack them as (C, X, Y, Z), zeros where one is missing.

    An external engine is given intensities as they are, within the brain or the whole head.
    """
    channels = np.zeros((len(entry.channels), *brain.shape), dtype=np.float32)
    if entry.normalisation == JOINT:
        brain = _seen_by_any([images[name] for name in entry.channels if name in images], brain)
    for index, name in enumerate(entry.channels):
        if name not in images:
            continue
        try:
            if entry.is_engine:
                check_shown(images[name], brain)
                head = bool(entry.options.get('whole_head', False))
                channels[index] = images[name] if head else np.where(brain, images[name], 0)
            else:
                channels[index] = normalise(images[name], brain, entry.normalisation)
        except DataError as error:
            raise DataError(f'{name}: {error.message}', error.hint) from error
    return channels


def _seen_by_any(
    images: Sequence[npt.NDArray[np.generic]], brain: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return where in the brain any image is not zero; images on another grid are left aside."""
    shown = [image != 0 for image in images if image.shape == brain.shape]
    return brain & np.any(shown, axis=0) if shown else brain


def _device(entry: ModelEntry, request: str) -> tuple[str, str]:
    if entry.needs_weights or entry.is_engine:
        return choose_device(request)
    return 'cpu', f'CPU: {entry.name} uses no other device.'


@lru_cache(maxsize=_KEPT)
def _loaded(entry: ModelEntry, digest: str, device: str, threads: int, seed: int) -> Predictor:
    """Load a model once for all exams of a process."""
    return load_predictor(entry, device, threads, seed)


@lru_cache(maxsize=_KEPT)
def _engine(entry: ModelEntry, digest: str, device: str, threads: int, seed: int) -> Engine:
    """Load an external engine once for all exams of a process."""
    return load_engine(entry, device, threads, seed)


def _check_result(
    entry: ModelEntry, prob: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_]
) -> None:
    if prob.shape != brain.shape or not np.isfinite(prob).all():
        raise DataError(
            f'The model {entry.name!r} gave no valid probability for this exam.',
            'Please report this with the version of mslesseg and the log.',
        )
