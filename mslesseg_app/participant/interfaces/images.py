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


class _ConformInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, desc='raw image')


class _ConformOutput(TraitedSpec):
    out_file = File(desc='the image, float32, axes closest to RAS')


class ConformImage(GuardedInterface):
    """Check an image (:func:`mslesseg_app.spatial.checks.check_image`) and turn it to RAS."""

    input_spec = _ConformInput
    output_spec = _ConformOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.checks import check_image

        image = check_image(Path(self.inputs.in_file))
        return {'out_file': grids.save(grids.to_ras(image), cwd / 'conformed.nii.gz')}


class _BiasInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='image')


class _BiasOutput(TraitedSpec):
    out_file = File(desc='image without bias field')


class CorrectBias(GuardedInterface):
    """Remove the bias field by N4."""

    input_spec = _BiasInput
    output_spec = _BiasOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.bias import correct_bias

        corrected = correct_bias(nb.load(self.inputs.in_file))
        return {'out_file': grids.save(corrected, cwd / 'corrected.nii.gz')}


class _NativeInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='image, axes closest to RAS')
    original = File(mandatory=True, exists=True, desc='raw image that gives the grid')


class _NativeOutput(TraitedSpec):
    out_file = File(desc='the image in the axis order and with the header of the raw one')


class ToNativeGrid(GuardedInterface):
    """Turn a preprocessed image back to the axes of the raw one."""

    input_spec = _NativeInput
    output_spec = _NativeOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        original = open_image(Path(self.inputs.original))
        data = grids.from_ras(nb.load(self.inputs.in_file), original)
        image = grids.like(original, data, np.float32)
        return {'out_file': grids.save(image, cwd / 'preproc.nii.gz')}


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
        from mslesseg_app.spatial.resample import resample
        from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

        image = nb.load(self.inputs.in_file)
        nearest = self.inputs.interpolation == 'nearest'
        moved = resample(
            image,
            TEMPLATE_SHAPE,
            TEMPLATE_AFFINE,
            read_itk(Path(self.inputs.transform)),
            order='nearest' if nearest else 1,
        )
        dtype = image.get_data_dtype() if nearest else np.float32
        result = grids.on_template(np.asanyarray(moved.dataobj), dtype)
        return {'out_file': grids.save(result, cwd / 'on_template.nii.gz')}


class _RestoreInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='map on the template grid, 0 to 1')
    original = File(mandatory=True, exists=True, desc='raw image that gives the grid')
    transform = File(mandatory=True, exists=True, desc='ITK affine, template to raw image')
    threshold = traits.Float(desc='binarise at this value')


class _RestoreOutput(TraitedSpec):
    out_file = File(desc='the map on the grid of the raw image, bit for bit')


class RestoreToNative(GuardedInterface):
    """Bring a map from the template grid home to the subject's own image."""

    input_spec = _RestoreInput
    output_spec = _RestoreOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.affines import read_itk
        from mslesseg_app.spatial.resample import restore

        original = open_image(Path(self.inputs.original))
        native_from_mni = read_itk(Path(self.inputs.transform))
        home = restore(nb.load(self.inputs.in_file), original, native_from_mni)
        data = np.asanyarray(home.dataobj)
        if isdefined(self.inputs.threshold):
            image = grids.like(original, data >= self.inputs.threshold, np.uint8)
        else:
            image = grids.like(original, np.clip(data, 0, 1), np.float32)
        return {'out_file': grids.save(image, cwd / 'native.nii.gz')}
