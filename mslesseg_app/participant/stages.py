"""The stages of an exam as plain functions: nodes and `mslesseg_app.segment` both call them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.spatial import grids

if TYPE_CHECKING:
    import pandas as pd

    from mslesseg_app.metrics.consensus import Consensus
    from mslesseg_app.models.prediction.ensemble import Method
    from mslesseg_app.models.prediction.prediction import Prediction

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Combined:
    """What several models say together.

    Attributes
    ----------
    pooled : Prediction
        Mean of the models, whatever the method; the uncertainty is that of this mean.
    prob : float32 array (X, Y, Z)
        The combined map, of which the mask is made.
    info : dict
        As of one model, with ``members`` and ``agreement``.
    """

    pooled: Prediction
    prob: Floats
    info: dict[str, Any]


def combine_models(
    predictions: Sequence[Prediction],
    infos: Sequence[dict[str, Any]],
    thresholds: Sequence[float],
    method: Method,
) -> Combined:
    """Combine the predictions of several models (`mslesseg_app.models.prediction.ensemble`).

    Parameters
    ----------
    predictions : sequence of Prediction
        One per model, on one grid.
    infos : sequence of dict
        What each model used.
    thresholds : sequence of float
        From which each model's probability is lesion.
    method : {'mean', 'majority', 'staple'}

    Raises
    ------
    DataError
        If the predictions do not share one grid.
    """
    from mslesseg_app.models.prediction.ensemble import combine, models_agreement

    pooled, prob, agreed = combine(predictions, thresholds, method)
    info = _combined_info(method, infos, agreed)
    names = [member['Name'] for member in info['members']]
    info['agreement'] = models_agreement(names, predictions, thresholds)
    return Combined(pooled, prob, info)


def _combined_info(
    method: str, infos: Sequence[dict[str, Any]], agreed: Consensus
) -> dict[str, Any]:
    """Tell of an ensemble what a model tells of itself, and of each model what is its own."""
    known = [name for name in MODALITIES if any(name in i['used'] + i['missing'] for i in infos)]
    used = [name for name in known if any(name in info['used'] for info in infos)]
    notes = [f'{info["model"]}: {note}' for info in infos for note in info.get('notes', [])]
    return {
        'model': method,
        'device': ', '.join(dict.fromkeys(info['device'] for info in infos)),
        'device_note': _worst_note([info['device_note'] for info in infos]),
        'used': used,
        'missing': [name for name in known if name not in used],
        'policy': ', '.join(dict.fromkeys(info['policy'] for info in infos)),
        'members': [_member(index, info, agreed) for index, info in enumerate(infos)],
        'notes': notes + ([f'{method}: {agreed.note}'] if agreed.note else []),
    }


def _member(index: int, info: dict[str, Any], agreed: Consensus) -> dict[str, Any]:
    member = {
        'Name': info['model'],
        'Modalities': {'used': info['used'], 'missing': info['missing']},
    }
    rates = {'Sensitivity': agreed.sensitivity, 'Specificity': agreed.specificity}
    for name, values in rates.items():
        if values:
            member[name] = round(values[index], 6) if np.isfinite(values[index]) else 'n/a'
    return member


def _worst_note(notes: list[str]) -> str:
    """Return the note that says that a GPU could not be used, if there is one."""
    return next((note for note in notes if note.startswith('CPU, because')), notes[0])


@dataclass(frozen=True)
class LesionRule:
    """What counts as a lesion on the grid of the FLAIR.

    Attributes
    ----------
    threshold : float
        Probability at and above which a voxel is lesion.
    min_volume : float
        Smallest lesion that is kept, in mm³.
    connectivity : {6, 18, 26}
        Neighbours that make voxels one lesion.
    """

    threshold: float
    min_volume: float
    connectivity: int


@dataclass(frozen=True)
class FoundLesions:
    """Lesions on the grid of the FLAIR.

    Attributes
    ----------
    labels : int array (X, Y, Z)
        Number of the lesion of each voxel, 1 is the largest.
    table : pandas.DataFrame
        The columns of `mslesseg_app.lesions.table.LESION_COLUMNS`.
    summary : dict
        ``LesionCount``, ``LesionVolume_mm3`` and ``LargestLesion_mm3``.
    edit : dict
        That and how a person edited the mask; empty where nobody did.
    """

    labels: npt.NDArray[np.integer]
    table: pd.DataFrame
    summary: dict[str, Any]
    edit: dict[str, Any]


def find_lesions(
    image: Any,
    rule: LesionRule,
    mni_from_native: npt.NDArray[np.float64],
    *,
    uncertainty: npt.NDArray[np.floating] | None = None,
    models: Sequence[npt.NDArray[np.bool_]] = (),
    edited: Path | None = None,
) -> FoundLesions:
    """Threshold a probability, drop what is too small, number the lesions and measure them.

    An edited mask takes the place of what the model found, as it is: nothing is dropped.

    Parameters
    ----------
    image : nibabel image
        Lesion probability on the grid of the FLAIR.
    rule : LesionRule
    mni_from_native : array (4, 4)
        Points of the FLAIR to template points, RAS+ mm.
    uncertainty : array (X, Y, Z), optional
    models : sequence of bool arrays (X, Y, Z)
        The mask of each model of an ensemble.
    edited : Path, optional
        Lesion mask that a person has edited.

    Raises
    ------
    DataError
        If the edited mask cannot be read or lies on another grid.
    """
    from mslesseg_app.lesions.components import label_lesions
    from mslesseg_app.lesions.table import lesion_table

    prob = np.asanyarray(image.dataobj)
    voxel = float(abs(np.linalg.det(image.affine[:3, :3])))
    labels: npt.NDArray[np.integer]
    labels = label_lesions(prob >= rule.threshold, voxel, rule.connectivity, rule.min_volume)
    edit: dict[str, Any] = {}
    if edited is not None:
        labels, edit = _edited(image, labels, edited, voxel, rule.connectivity)
    table = lesion_table(labels, image.affine, prob, mni_from_native, uncertainty, models)
    return FoundLesions(labels, table, _summary(labels, voxel), edit)


def _edited(
    image: Any, labels: npt.NDArray[np.integer], path: Path, voxel: float, connectivity: int
) -> tuple[npt.NDArray[np.integer], dict[str, Any]]:
    """Return the lesions of the edited mask, and how it differs; else what was found."""
    from mslesseg_app.lesions.components import label_lesions
    from mslesseg_app.lesions.edited import describe_edit, read_edited

    mask = read_edited(path, image)
    difference = describe_edit(mask, labels > 0, voxel)
    if not difference:
        return labels, {}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit = {'Edited': True, 'EditedMask': {'Name': path.name, 'SHA256': digest} | difference}
    return label_lesions(mask, voxel, connectivity), edit


def _summary(labels: npt.NDArray[np.integer], voxel: float) -> dict[str, Any]:
    sizes = np.bincount(labels.ravel())[1:]
    return {
        'LesionCount': len(sizes),
        'LesionVolume_mm3': round(float(sizes.sum() * voxel), 3),
        'LargestLesion_mm3': round(float(sizes.max(initial=0) * voxel), 3),
    }


def volumes(summary: dict[str, Any], brain: Any) -> dict[str, float | None]:
    """Return the volumes of an exam (ml) as its metrics have them.

    Parameters
    ----------
    summary : dict
        Of `FoundLesions`.
    brain : nibabel image
        Brain mask on the grid of the FLAIR.

    Returns
    -------
    dict
        ``lesion_count``, ``lesion_volume_ml``, ``largest_lesion_ml``, ``brain_volume_ml`` and
        ``lesion_load_percent`` (None without a brain).
    """
    voxel = float(abs(np.linalg.det(brain.affine[:3, :3])))
    brain_ml = float((np.asanyarray(brain.dataobj) > 0).sum()) * voxel / 1000
    lesions_ml = summary['LesionVolume_mm3'] / 1000
    return {
        'lesion_count': summary['LesionCount'],
        'lesion_volume_ml': lesions_ml,
        'largest_lesion_ml': summary['LargestLesion_mm3'] / 1000,
        'brain_volume_ml': brain_ml,
        'lesion_load_percent': 100 * lesions_ml / brain_ml if brain_ml else None,
    }


def quality(
    flair: Any,
    flair_mni: Any,
    brain: Any,
    brain_mni: Any,
    alignment: Any,
    summary: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the quality checks of an exam, with a note where one lesion dominates.

    Parameters
    ----------
    flair, flair_mni, brain, brain_mni, alignment
        As in `mslesseg_app.spatial.qc.exam_quality`.
    summary : dict
        Of `FoundLesions`.
    """
    from mslesseg_app.lesions.dissemination import dominating_note
    from mslesseg_app.spatial.qc import exam_quality, with_note

    checks = exam_quality(flair, flair_mni, brain, brain_mni, alignment)
    note = dominating_note(summary['LargestLesion_mm3'], summary['LesionVolume_mm3'])
    return with_note(checks, 'dominating_lesion', 'One lesion dominates', note)


def models_image(image: Any, models: Sequence[npt.NDArray[np.bool_]]) -> Any:
    """Return an image of which models mark a voxel, model n by the value of bit n.

    Parameters
    ----------
    image : nibabel image
        Gives the grid.
    models : sequence of bool arrays (X, Y, Z)
    """
    bits = np.zeros(image.shape[:3], np.int32)
    for number, mask in enumerate(models):
        bits[mask] += 1 << number
    return grids.like(image, bits, np.uint8 if len(models) <= 8 else np.int32)
