"""Nodes for inference, lesions and their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    TraitedSpec,
    isdefined,
    traits,
)

from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.participant.interfaces.base import GuardedInterface
from mslesseg_app.spatial import grids

if TYPE_CHECKING:
    from mslesseg_app.models.prediction.prediction import Prediction


class _SegmentInput(BaseInterfaceInputSpec):
    flair = File(mandatory=True, exists=True, desc='FLAIR on the template grid, or its own')
    t1w = File(exists=True, desc='T1w on the template grid, or its own')
    t2w = File(exists=True, desc='T2w on the template grid, or its own')
    flair_xfm = File(exists=True, desc='ITK affine, template to FLAIR, where on its own grid')
    t1w_xfm = File(exists=True, desc='ITK affine, template to T1w, where on its own grid')
    t2w_xfm = File(exists=True, desc='ITK affine, template to T2w, where on its own grid')
    brain_mask = File(mandatory=True, exists=True, desc='brain on the template grid')
    model = traits.Str(mandatory=True, desc='name in the registry')
    model_digest = traits.Str(mandatory=True, desc='SHA256 of description and weights')
    random_seed = traits.Int(1, usedefault=True)
    preset = traits.Str('', usedefault=True, desc='of a model that has presets')
    uncertainty = traits.Enum('none', 'entropy', 'variance', usedefault=True)
    model_dir = traits.Str('', usedefault=True, nohash=True, desc="folder of the user's models")
    device = traits.Str('auto', usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc='takes a GPU slot')
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc='CPU threads')


class _SegmentOutput(TraitedSpec):
    prob_file = File(desc='lesion probability on the template grid')
    native_file = File(desc='the same on the grid of the FLAIR, of an engine that works there')
    uncertainty_file = File(desc='uncertainty map on the template grid, if requested')
    info = traits.Dict(desc='device, modalities used and missing, policy')


class SegmentLesions(GuardedInterface):
    """Run a model; threads and device do not count for the cache."""

    input_spec = _SegmentInput
    output_spec = _SegmentOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.models.registry import get_entry

        folder = Path(self.inputs.model_dir) if self.inputs.model_dir else None
        entry = get_entry(self.inputs.model, folder)
        images = self._images()
        brain = nb.load(self.inputs.brain_mask)
        how = {
            'device': self.inputs.device,
            'threads': self.inputs.num_threads,
            'seed': self.inputs.random_seed,
        }
        if entry.is_native:
            return self._native(entry, images, brain, how, cwd)
        return self._on_template(entry, images, brain, how, cwd)

    def _on_template(
        self, entry: Any, images: dict[str, Any], brain: Any, how: dict[str, Any], cwd: Path
    ) -> dict[str, Any]:
        from mslesseg_app.models.prediction.presets import DEFAULT
        from mslesseg_app.models.prediction.segment import segment_detailed

        found, info = segment_detailed(
            entry,
            {name: np.asanyarray(image.dataobj) for name, image in images.items()},
            np.asanyarray(brain.dataobj) > 0,
            preset=self.inputs.preset or DEFAULT,
            **how,
        )
        info.pop('seconds')
        return _maps(found, found.prob, self.inputs.uncertainty, info, cwd)

    def _native(
        self, entry: Any, images: dict[str, Any], brain: Any, how: dict[str, Any], cwd: Path
    ) -> dict[str, Any]:
        from mslesseg_app.models.prediction.native import segment_native
        from mslesseg_app.spatial.affines import read_itk

        transforms = {
            name: read_itk(Path(getattr(self.inputs, f'{name.lower()}_xfm'))) for name in images
        }
        done = segment_native(entry, images, transforms, brain, **how)
        done.info.pop('seconds')
        maps = _maps(done.template, done.template.prob, self.inputs.uncertainty, done.info, cwd)
        return maps | {'native_file': grids.save(done.native, cwd / 'native.nii.gz')}

    def _images(self) -> dict[str, Any]:
        """Return the images that the exam has."""
        paths = {name: getattr(self.inputs, name.lower()) for name in MODALITIES}
        return {name: nb.load(path) for name, path in paths.items() if isdefined(path)}


def _maps(
    found: Prediction, prob: np.ndarray, kind: str, info: dict[str, Any], cwd: Path
) -> dict[str, Any]:
    """Save a probability and, if requested, the uncertainty map."""
    from mslesseg_app.models.prediction.prediction import uncertainty

    image = grids.on_template(prob, np.float32)
    outputs = {'prob_file': grids.save(image, cwd / 'probability.nii.gz'), 'info': info}
    uncertain = uncertainty(found, kind, info['model'])
    if uncertain is not None:
        image = grids.on_template(uncertain, np.float32)
        outputs['uncertainty_file'] = grids.save(image, cwd / 'uncertainty.nii.gz')
    return outputs


class _CombineModelsInput(BaseInterfaceInputSpec):
    prob_files = InputMultiPath(
        File(exists=True), mandatory=True, desc='probability of each model on the template grid'
    )
    infos = traits.List(traits.Dict(), mandatory=True, desc='what each model used')
    thresholds = traits.List(traits.Float(), mandatory=True, desc='of each model')
    method = traits.Enum('mean', 'majority', 'staple', mandatory=True)
    uncertainty = traits.Enum('none', 'entropy', 'variance', usedefault=True)


class CombineModels(GuardedInterface):
    """Combine models (:func:`mslesseg_app.models.prediction.ensemble.combine`).

    The uncertainty map is that of the mean probability, whatever the method.
    """

    input_spec = _CombineModelsInput
    output_spec = _SegmentOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.models.prediction.prediction import Prediction
        from mslesseg_app.participant.stages import combine_models

        found = [
            Prediction(np.asanyarray(nb.load(path).dataobj, dtype=np.float32))
            for path in self.inputs.prob_files
        ]
        asked = self.inputs
        done = combine_models(found, asked.infos, asked.thresholds, asked.method)
        return _maps(done.pooled, done.prob, asked.uncertainty, done.info, cwd)


class _LesionsInput(BaseInterfaceInputSpec):
    prob_file = File(mandatory=True, exists=True, desc='probability on the native grid')
    transform = File(mandatory=True, exists=True, desc='ITK affine, template to native')
    threshold = traits.Float(mandatory=True)
    min_volume = traits.Float(mandatory=True, desc='mm³')
    connectivity = traits.Enum(6, 18, 26, usedefault=True)
    uncertainty_file = File(exists=True, desc='uncertainty map on the native grid')
    model_files = InputMultiPath(
        File(exists=True), desc='probability of each model of an ensemble on the native grid'
    )
    model_thresholds = traits.List(traits.Float(), desc='of each of these models')
    info = traits.Dict(desc='what the model tells of this exam')
    edited_file = File(exists=True, desc='mask that a person has edited, on the native grid')


class _LesionsOutput(TraitedSpec):
    mask_file = File(desc='lesion mask, uint8')
    labels_file = File(desc='lesion instances, int16 or int32')
    table_file = File(desc='one row per lesion, TSV')
    summary = traits.Dict(desc='LesionCount, LesionVolume_mm3, LargestLesion_mm3')
    metadata = traits.Dict(desc='the summary, notes of the model and the models of an ensemble')
    edit = traits.Dict(desc='that and how the mask was edited')
    models_file = File(desc='which models of an ensemble mark a voxel: bit n for model n')


class FindLesions(GuardedInterface):
    """Threshold a probability, drop what is too small, number the lesions and measure them.

    An edited mask takes the place of what the model found, as it is: nothing is dropped.
    """

    input_spec = _LesionsInput
    output_spec = _LesionsOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.participant.stages import LesionRule, find_lesions, models_image
        from mslesseg_app.spatial.affines import invert, read_itk

        asked = self.inputs
        image = nb.load(asked.prob_file)
        models = self._models()
        found = find_lesions(
            image,
            LesionRule(asked.threshold, asked.min_volume, asked.connectivity),
            invert(read_itk(Path(asked.transform))),
            uncertainty=self._uncertainty(),
            models=models,
            edited=Path(asked.edited_file) if isdefined(asked.edited_file) else None,
        )
        labels = found.labels
        table_file = cwd / 'lesions.tsv'
        write_tsv(found.table, table_file)
        bits = grids.save(models_image(image, models), cwd / 'models.nii.gz') if models else None
        return ({'models_file': bits} if bits else {}) | {
            'mask_file': grids.save(grids.like(image, labels > 0, np.uint8), cwd / 'mask.nii.gz'),
            'labels_file': grids.save(
                grids.like(image, labels, label_dtype(labels)), cwd / 'labels.nii.gz'
            ),
            'table_file': str(table_file),
            'summary': found.summary | found.edit,
            'metadata': found.summary | _noted(asked.info or {}),
            'edit': found.edit,
        }

    def _uncertainty(self) -> np.ndarray | None:
        if not isdefined(self.inputs.uncertainty_file):
            return None
        return np.asanyarray(nb.load(self.inputs.uncertainty_file).dataobj)

    def _models(self) -> list[np.ndarray]:
        if not isdefined(self.inputs.model_files):
            return []
        pairs = zip(self.inputs.model_files, self.inputs.model_thresholds, strict=True)
        return [np.asanyarray(nb.load(path).dataobj) >= limit for path, limit in pairs]


def _noted(info: dict[str, Any]) -> dict[str, Any]:
    """Return what a sidecar should tell of a model's work on this exam."""
    noted: dict[str, Any] = {}
    if info.get('notes'):
        noted['Notes'] = list(info['notes'])
    if info.get('members'):
        noted['Models'] = list(info['members'])
    if info.get('agreement'):
        noted['ModelAgreement'] = dict(info['agreement'])
    return noted


def label_dtype(labels: np.ndarray) -> type[np.signedinteger]:
    """Return the smallest signed type that holds the labels (int16 is what viewers like)."""
    return np.int16 if labels.max(initial=0) < 2**15 else np.int32


def write_tsv(table: Any, path: Path) -> None:
    """Write a data frame as BIDS wants it: tabs, ``n/a`` for what is missing, six digits."""
    table.to_csv(path, sep='\t', index=False, na_rep='n/a', float_format='%.6g')


class _BinariseInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='labels')


class _BinariseOutput(TraitedSpec):
    out_file = File(desc='uint8 mask of all labels')


class LabelsToMask(GuardedInterface):
    """Make the mask of all labels, with the header of the labels."""

    input_spec = _BinariseInput
    output_spec = _BinariseOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        image = nb.load(self.inputs.in_file)
        mask = grids.like(image, np.asanyarray(image.dataobj) > 0, np.uint8)
        return {'out_file': grids.save(mask, cwd / 'mask.nii.gz')}
