"""``mslesseg_app.segment``: one exam from Python, by the code that the App runs.

The App's steps in its order, with the builtin spatial engine, in memory and without Nipype. What
the App hands from node to node in files passes through the same formats here, so that masks and
probabilities are the same bits.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.core.settings import DEFAULT_MODEL, MODALITIES
from mslesseg_app.participant import stages
from mslesseg_app.spatial import grids
from mslesseg_app.spatial.affines import Affine, invert, read_itk, write_itk
from mslesseg_app.spatial.brain import brain_mask as find_brain
from mslesseg_app.spatial.checks import check_loaded
from mslesseg_app.spatial.exam_alignment import ExamAlignment, align_exam, check_exam
from mslesseg_app.spatial.prepared import prepare, to_template
from mslesseg_app.spatial.reading import open_image, three_dimensional
from mslesseg_app.spatial.resample import resample, restore
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, is_template_grid

if TYPE_CHECKING:
    import pandas as pd

    from mslesseg_app.models.entry import ModelEntry
    from mslesseg_app.models.prediction.ensemble import AnyModel, Method
    from mslesseg_app.models.prediction.prediction import Prediction, Uncertainty
    from mslesseg_app.models.prediction.presets import Preset

Image = str | os.PathLike[str] | Any
"""Path of a NIfTI file, or a nibabel image."""


@dataclass(frozen=True)
class Segmentation:
    """What `segment` found in one exam.

    Attributes
    ----------
    mask : nibabel.Nifti1Image
        Lesions, uint8, on the grid of the FLAIR as it was given.
    probability : nibabel.Nifti1Image
        Lesion probability, float32, 0 to 1, same grid.
    instances : nibabel.Nifti1Image
        Number of the lesion that each voxel belongs to, 1 is the largest; same grid.
    brain : nibabel.Nifti1Image
        Brain mask, uint8, same grid.
    uncertainty : nibabel.Nifti1Image or None
        The uncertainty map that was requested, float32, same grid.
    regions : nibabel.Nifti1Image
        Number of the region of each lesion voxel, uint8, see
        `mslesseg_app.lesions.topography.REGIONS`; same grid.
    models : nibabel.Nifti1Image or None
        Which models of an ensemble mark a voxel, model n by the value of bit n; same grid.
    lesions : pandas.DataFrame
        One row per lesion, the columns of `mslesseg_app.lesions.table.LESION_COLUMNS`.
    volumes : dict
        ``lesion_count``, ``lesion_volume_ml``, ``largest_lesion_ml``, ``brain_volume_ml``,
        ``lesion_load_percent`` (None without a brain), and for each region
        ``<region>_lesions`` and ``<region>_volume_ml``.
    dissemination : dict
        Dissemination in space, see `mslesseg_app.lesions.dissemination`.
    transforms : dict of str to array (4, 4)
        For each modality, template points to points of the image (RAS+ mm).
    quality : list of dict
        Quality numbers with their statuses, see `mslesseg_app.spatial.qc.exam_quality`.
    probability_mni : nibabel.Nifti1Image
        Lesion probability on the 1 mm grid of MNI152NLin6Asym, before it was resampled.
    info : dict
        Model, version, digest, device, modalities used and missing; of an ensemble its
        ``members`` and their ``agreement``.
    edit : dict
        That and how the mask was edited; empty without `edited_mask`.
    """

    mask: Any
    probability: Any
    instances: Any
    brain: Any
    uncertainty: Any
    regions: Any
    models: Any
    lesions: pd.DataFrame
    volumes: dict[str, float | None]
    dissemination: dict[str, dict[str, Any]]
    transforms: dict[str, Affine]
    quality: list[dict[str, Any]]
    probability_mni: Any
    info: dict[str, Any]
    edit: dict[str, Any]


def segment(
    flair: Image,
    t1w: Image | None = None,
    t2w: Image | None = None,
    model: str | Sequence[str] = DEFAULT_MODEL,
    *,
    ensemble: Method | None = None,
    brain_mask: Image | None = None,
    edited_mask: str | os.PathLike[str] | None = None,
    model_dir: str | os.PathLike[str] | None = None,
    device: str = 'auto',
    threads: int | None = None,
    seed: int = 1,
    threshold: float | None = None,
    min_lesion_volume: float = 3.0,
    connectivity: Literal[6, 18, 26] = 6,
    strategy: Literal['anchored', 'independent'] = 'anchored',
    bias_correction: bool = True,
    on_failed_alignment: Literal['stop', 'flag'] = 'stop',
    preset: Preset = 'fast',
    uncertainty: Uncertainty = 'none',
) -> Segmentation:
    """Segment the MS lesions of one exam.

    Parameters
    ----------
    flair, t1w, t2w : path or nibabel image
        Whole heads, on grids of their own; or all on the 1 mm grid of MNI152 without skull, as
        in MSLesSeg, and then taken as they are.
    model : str or sequence of str
        Names of the registry (``mslesseg models list``); several are combined.
    ensemble : {'mean', 'majority', 'staple'}, optional
        How several models are combined; default: by the mean of their probabilities.
    brain_mask : path or nibabel image, optional
        On the grid of the FLAIR or of the template, instead of the mask that is computed.
    edited_mask : path, optional
        Lesion mask that a person has edited, on the grid of the FLAIR: it is described instead
        of what the model finds.
    model_dir : path, optional
        Folder with models of your own; default: the variable ``MSLESSEG_MODEL_DIR``.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    threads : int, optional
        CPU threads; default: one less than there are, at most 8.
    seed : int
        Same seed, same result.
    threshold : float, optional
        Probability at and above which a voxel is lesion; default: the model's.
    min_lesion_volume : float
        Smallest lesion that is kept, in mm3 on the grid of the FLAIR.
    connectivity : {6, 18, 26}
        Neighbours that make voxels one lesion.
    strategy, bias_correction, on_failed_alignment
        As the options of the App; ``independent`` does no bias correction.
    preset : {'fast', 'exact'}
        How thoroughly a network is asked, see `mslesseg_app.models.prediction.presets`.
    uncertainty : {'none', 'entropy', 'variance'}
        The uncertainty map that is wanted.

    Returns
    -------
    Segmentation

    Raises
    ------
    MSLesSegError
        As the App: `UsageError` (no such model or device), `DataError` (an image cannot be
        used, or one is missing that the model needs), `AlignmentError`, `ModelError`. The
        attribute ``hint`` says what to do.

    Examples
    --------
    >>> import mslesseg_app
    >>> done = mslesseg_app.segment('FLAIR.nii.gz', t1w='T1w.nii.gz')  # doctest: +SKIP
    >>> done.mask.to_filename('lesions.nii.gz')  # doctest: +SKIP
    """
    from mslesseg_app.models.check import check_model
    from mslesseg_app.models.prediction.device import choose_device
    from mslesseg_app.models.prediction.ensemble import final_threshold, models_of
    from mslesseg_app.models.prediction.presets import resolve
    from mslesseg_app.models.prediction.segment import check_modalities

    entry = _chosen(model, ensemble, model_dir)
    given = {
        name: image
        for name, image in zip(MODALITIES, (flair, t1w, t2w), strict=True)
        if image is not None
    }
    for one in models_of(entry):
        check_modalities(one, given)
        resolve(one, preset)
    if device not in ('auto', 'cpu'):
        choose_device(device)
    raw = {name: _load_image(image, name) for name, image in given.items()}
    mask = None if brain_mask is None else _load_mask(brain_mask, raw['FLAIR'])
    for one in models_of(entry):
        check_model(one)
    threads = threads or max(1, min(len(os.sched_getaffinity(0)) - 1, 8))
    exam = _align(raw, strategy, bias_correction, on_failed_alignment, seed)
    brain = _brain(mask, exam)
    how = {'device': device, 'threads': threads, 'seed': seed}
    predicted = _predict(entry, threshold, exam, brain, preset, how)
    rule = stages.LesionRule(final_threshold(entry, threshold), min_lesion_volume, connectivity)
    edited = None if edited_mask is None else Path(edited_mask)
    return _describe(exam, brain, predicted, rule, predicted.uncertainty(uncertainty), edited)


def _chosen(
    model: str | Sequence[str], method: Method | None, model_dir: str | os.PathLike[str] | None
) -> AnyModel:
    """Return the model or the ensemble that is asked for."""
    from mslesseg_app.models.prediction.ensemble import choose
    from mslesseg_app.models.registry import get_entry

    named = model_dir or os.environ.get('MSLESSEG_MODEL_DIR') or None
    folder = Path(named) if named else None
    names = [model] if isinstance(model, str) else list(model)
    return choose([get_entry(name, folder) for name in names], method)


@dataclass(frozen=True)
class _Exam:
    """An exam that lies on the template: images by modality, as given, prepared, and moved."""

    raw: dict[str, Any]
    prepared: dict[str, Any]
    mni: dict[str, Any]
    transforms: dict[str, Affine]
    alignment: ExamAlignment

    @property
    def flair(self) -> Any:
        """The FLAIR as it was given, three-dimensional."""
        return three_dimensional(self.raw['FLAIR'])

    def to_flair(self, data: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[np.float32]:
        """Resample a map from the template grid to that of the FLAIR."""
        image = restore(grids.on_template(data, dtype), self.flair, self.transforms['FLAIR'])
        found: npt.NDArray[np.float32] = np.asanyarray(image.dataobj)
        return found

    def like_flair(self, data: npt.NDArray[Any], dtype: npt.DTypeLike) -> nb.Nifti1Image:
        """Make an image on the grid of the FLAIR."""
        return _as_file(grids.like(self.flair, data, dtype))


def _align(
    raw: dict[str, Any],
    strategy: Literal['anchored', 'independent'],
    bias_correction: bool,
    on_failed: str,
    seed: int,
) -> _Exam:
    """Prepare the images and bring them to the template."""
    registered = all(is_template_grid(image) for image in raw.values())
    correct = bias_correction and strategy != 'independent' and not registered
    prepared = {name: _prepare(image, name, correct) for name, image in raw.items()}
    images = {name: grids.to_ras(image) for name, image in prepared.items()}
    alignment = (
        check_exam(images, None, dict.fromkeys(images, np.eye(4)))
        if registered
        else align_exam(images, strategy=strategy, seed=seed)
    )
    if on_failed == 'stop':
        alignment.demand_trust()
    transforms = {name: _as_itk(xfm) for name, xfm in alignment.moving_from_mni.items()}
    mni = {name: to_template(image, transforms[name]) for name, image in prepared.items()}
    return _Exam(raw, prepared, mni, transforms, alignment)


@dataclass(frozen=True)
class _Predicted:
    """What the model or the ensemble says: on the template, on the FLAIR's grid, each model."""

    pooled: Prediction
    prob: npt.NDArray[np.float32]
    native: npt.NDArray[np.float32]
    info: dict[str, Any]
    models: tuple[npt.NDArray[np.bool_], ...] = ()

    def uncertainty(self, kind: Uncertainty) -> npt.NDArray[np.float32] | None:
        """Return the uncertainty map on the template grid, if one is wanted."""
        from mslesseg_app.models.prediction.prediction import uncertainty

        return uncertainty(self.pooled, kind, self.info['model'])


def _predict(
    entry: AnyModel,
    threshold: float | None,
    exam: _Exam,
    brain: Any,
    preset: Preset,
    how: dict[str, Any],
) -> _Predicted:
    """Run the model, or each model of an ensemble, and combine them."""
    from mslesseg_app.models.prediction.ensemble import Ensemble, model_thresholds, models_of

    members = [_ask(one, exam, brain, preset, how) for one in models_of(entry)]
    if not isinstance(entry, Ensemble):
        return members[0]
    limits = model_thresholds(entry, threshold)
    pooled, infos = [one.pooled for one in members], [one.info for one in members]
    done = stages.combine_models(pooled, infos, limits, entry.method)
    masks = tuple(one.native >= limit for one, limit in zip(members, limits, strict=True))
    native = exam.to_flair(done.prob, np.float32)
    return _Predicted(done.pooled, done.prob, native, done.info, masks)


def _ask(
    entry: ModelEntry, exam: _Exam, brain: Any, preset: Preset, how: dict[str, Any]
) -> _Predicted:
    """Run one model."""
    from mslesseg_app.models.prediction.native import segment_native
    from mslesseg_app.models.prediction.segment import segment_detailed

    if entry.is_native:
        done = segment_native(entry, exam.prepared, exam.transforms, brain, **how)
        native = np.asanyarray(done.native.dataobj)
        return _Predicted(done.template, done.template.prob, native, done.info)
    found, info = segment_detailed(
        entry,
        {name: np.asanyarray(image.dataobj) for name, image in exam.mni.items()},
        np.asanyarray(brain.dataobj) > 0,
        preset=preset,
        **how,
    )
    return _Predicted(found, found.prob, exam.to_flair(found.prob, np.float32), info)


def _load_image(image: Image, name: str) -> nb.Nifti1Image:
    """Return a given image, checked, three-dimensional, with its own header."""
    if not isinstance(image, str | os.PathLike):
        if not hasattr(image, 'dataobj'):
            raise UsageError(
                f'The {name} is neither a path nor a nibabel image but {type(image).__name__}.'
            )
        return image
    return open_image(Path(image))


def _prepare(image: nb.Nifti1Image, name: str, correct: bool) -> nb.Nifti1Image:
    """Check an image and remove its bias field; it stays on its own grid."""
    called = Path(image.get_filename() or f'The {name} image')
    original, checked = three_dimensional(image), check_loaded(image, called)
    return _as_file(prepare(checked, original, correct=correct))


def _as_file(image: nb.Nifti1Image) -> nb.Nifti1Image:
    """Return an image as it would be read back from a file, its affine in single precision."""
    return type(image).from_bytes(image.to_bytes())


def _as_itk(affine: Affine) -> Affine:
    """Return an affine as it would be read back from ITK text."""
    with tempfile.TemporaryDirectory(prefix='mslesseg-') as folder:
        path = Path(folder) / 'xfm.txt'
        write_itk(path, affine)
        return read_itk(path)


def _load_mask(given: Image, flair: Any) -> nb.Nifti1Image:
    """Return the user's brain mask, uint8, if it fits the FLAIR or the template."""
    mask = three_dimensional(_load_image(given, 'brain mask'))
    inside = np.asanyarray(mask.dataobj) > 0
    if not inside.any():
        raise DataError('The brain mask is empty.', 'Check that it is the right file.')
    shape, affine = flair.shape[:3], flair.affine
    fits = mask.shape == shape and np.allclose(mask.affine, affine, atol=1e-3)
    if not fits and not is_template_grid(mask):
        raise DataError(
            'The brain mask lies neither on the grid of the FLAIR nor on that of the template.',
            'Resample it to the FLAIR.',
        )
    return nb.Nifti1Image(inside.astype(np.uint8), mask.affine)


def _brain(mask: nb.Nifti1Image | None, exam: _Exam) -> nb.Nifti1Image:
    """Return the brain mask on the template grid, the user's own if there is one."""
    if mask is None:
        found = find_brain(exam.mni)
    elif is_template_grid(mask):
        found = mask
    else:
        transform = exam.transforms['FLAIR']
        found = resample(mask, TEMPLATE_SHAPE, TEMPLATE_AFFINE, transform, order='nearest')
    return grids.on_template(np.asanyarray(found.dataobj) > 0, np.uint8)


def _describe(
    exam: _Exam,
    brain_mni: Any,
    predicted: _Predicted,
    rule: stages.LesionRule,
    uncertainty_mni: npt.NDArray[np.float32] | None,
    edited: Path | None,
) -> Segmentation:
    """Find the lesions on the grid of the FLAIR and describe them."""
    from mslesseg_app.lesions.description import describe_lesions, region_columns

    prob = exam.like_flair(np.clip(predicted.native, 0, 1), np.float32)
    inside = np.asanyarray(brain_mni.dataobj)
    brain = exam.like_flair(exam.to_flair(inside, np.uint8) >= 0.5, np.uint8)
    uncertain = None
    if uncertainty_mni is not None:
        uncertain = np.clip(exam.to_flair(uncertainty_mni, np.float32), 0, 1)
    from_native = invert(exam.transforms['FLAIR'])
    found = stages.find_lesions(
        prob, rule, from_native, uncertainty=uncertain, models=predicted.models, edited=edited
    )
    labels = found.labels
    images = {name: np.asanyarray(image.dataobj) for name, image in exam.mni.items()}
    described = describe_lesions(found.table, labels, prob.affine, from_native, images, inside > 0)
    return Segmentation(
        mask=exam.like_flair(labels > 0, np.uint8),
        probability=prob,
        instances=exam.like_flair(labels, np.int32),
        brain=brain,
        uncertainty=None if uncertain is None else exam.like_flair(uncertain, np.float32),
        regions=exam.like_flair(described.regions, np.uint8),
        models=stages.models_image(prob, predicted.models) if predicted.models else None,
        lesions=described.table,
        volumes=stages.volumes(found.summary, brain) | region_columns(described.table),
        dissemination=described.metadata['DisseminationInSpace'],
        transforms=exam.transforms,
        quality=stages.quality(
            exam.flair,
            exam.mni['FLAIR'],
            brain,
            brain_mni,
            exam.alignment.checks(),
            found.summary,
        ),
        probability_mni=grids.on_template(predicted.prob, np.float32),
        info=predicted.info,
        edit=found.edit,
    )
