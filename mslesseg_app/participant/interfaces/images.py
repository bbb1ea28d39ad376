"""Nodes that read, turn, correct and move images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, TraitedSpec, isdefined, traits

from mslesseg_app.participant.interfaces.base import GuardedInterface
from mslesseg_app.spatial import grids
from mslesseg_app.spatial.reading import open_image


class _PrepareInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, desc='raw image')
    correct_bias = traits.Bool(True, usedefault=True)


class _PrepareOutput(TraitedSpec):
    out_file = File(desc='the image, float32, with the axes and the header of the raw one')


class PrepareImage(GuardedInterface):
    """Check an image (:func:`mslesseg_app.spatial.checks.check_image`), remove its bias field."""

    input_spec = _PrepareInput
    output_spec = _PrepareOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        return {'out_file': grids.save(self._prepared(), cwd / 'prepared.nii.gz')}

    def _prepared(self) -> nb.Nifti1Image:
        from mslesseg_app.spatial.checks import check_image
        from mslesseg_app.spatial.prepared import prepare

        path = Path(self.inputs.in_file)
        return prepare(check_image(path), open_image(path), correct=self.inputs.correct_bias)


class _ImagesInput(BaseInterfaceInputSpec):
    flair = File(exists=True, desc='FLAIR')
    t1w = File(exists=True, desc='T1w')
    t2w = File(exists=True, desc='T2w')


class _TurnOutput(TraitedSpec):
    flair = File(desc='FLAIR, axes closest to RAS')
    t1w = File(desc='T1w, axes closest to RAS')
    t2w = File(desc='T2w, axes closest to RAS')


class TurnToRas(GuardedInterface):
    """Write images with their axes closest to RAS, for programs that read files."""

    input_spec = _ImagesInput
    output_spec = _TurnOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        paths = {name: path for name, path in self.inputs.get().items() if isdefined(path)}
        return {
            name: grids.save(grids.to_ras(nb.load(path)), cwd / f'{name}.nii.gz')
            for name, path in paths.items()
        }


class _ToTemplateInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='moving image or labels')
    transform = File(mandatory=True, exists=True, desc='ITK affine, template to moving')
    interpolation = traits.Enum('linear', 'nearest', usedefault=True)


class _ToTemplateOutput(TraitedSpec):
    out_file = File(desc='on the template grid')


class ToTemplate(GuardedInterface):
    """Resample an image to the template grid in one interpolation.

    An image that lies there already, by the identity, is taken over voxel by voxel.
    """

    input_spec = _ToTemplateInput
    output_spec = _ToTemplateOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.affines import read_itk
        from mslesseg_app.spatial.prepared import to_template
        from mslesseg_app.spatial.resample import resample
        from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

        image = nb.load(self.inputs.in_file)
        transform = read_itk(Path(self.inputs.transform))
        if self.inputs.interpolation == 'linear':
            result = to_template(image, transform)
        else:
            moved = resample(image, TEMPLATE_SHAPE, TEMPLATE_AFFINE, transform, order='nearest')
            result = grids.on_template(np.asanyarray(moved.dataobj), image.get_data_dtype())
        return {'out_file': grids.save(result, cwd / 'on_template.nii.gz')}


class _RestoreInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='map on the template grid, 0 to 1')
    original = File(mandatory=True, exists=True, desc='raw image that gives the grid')
    transform = File(mandatory=True, exists=True, desc='ITK affine, template to raw image')
    threshold = traits.Float(desc='binarise at this value')


class _RestoreOutput(TraitedSpec):
    out_file = File(desc='the map on the grid of the raw image, bit for bit')


class RestoreToNative(GuardedInterface):
    """Resample a map from the template grid to native space: the subject's own image."""

    input_spec = _RestoreInput
    output_spec = _RestoreOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.affines import read_itk
        from mslesseg_app.spatial.resample import restore

        original = open_image(Path(self.inputs.original))
        native_from_mni = read_itk(Path(self.inputs.transform))
        native = restore(nb.load(self.inputs.in_file), original, native_from_mni)
        data = np.asanyarray(native.dataobj)
        if isdefined(self.inputs.threshold):
            image = grids.like(original, data >= self.inputs.threshold, np.uint8)
        else:
            image = grids.like(original, data, np.float32)
        return {'out_file': grids.save(image, cwd / 'native.nii.gz')}
