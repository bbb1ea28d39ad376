"""Nodes between FSL's files and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

from mslesseg_app.core.errors import DataError
from mslesseg_app.core.fsl import fsl_version
from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.participant.interfaces.base import GuardedInterface
from mslesseg_app.participant.interfaces.images import _ImagesInput
from mslesseg_app.participant.interfaces.spatial import _AlignExamOutput, _images, write_alignment
from mslesseg_app.spatial import grids
from mslesseg_app.spatial.affines import Affine


class _MatrixInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='moving image')
    matrix = File(mandatory=True, exists=True, desc='FLIRT matrix of the moving image')
    reference = File(mandatory=True, exists=True, desc='template')
    via = File(exists=True, desc='image that `matrix` leads to, where not the template')
    via_matrix = File(exists=True, desc='FLIRT matrix from there to the template')


class _MatrixOutput(TraitedSpec):
    out_file = File(desc='ITK affine, template to moving image')


class MatrixToTransform(GuardedInterface):
    """Turn FLIRT's matrix, or a chain of two, into an ITK affine."""

    input_spec = _MatrixInput
    output_spec = _MatrixOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.affines import compose, fsl_to_ras, write_itk

        moving, template = nb.load(self.inputs.in_file), nb.load(self.inputs.reference)
        if isdefined(self.inputs.via):
            via = nb.load(self.inputs.via)
            moving_from_via = fsl_to_ras(read_matrix(self.inputs.matrix), moving, via)
            via_from_mni = fsl_to_ras(read_matrix(self.inputs.via_matrix), via, template)
            moving_from_mni = compose(moving_from_via, via_from_mni)
        else:
            moving_from_mni = fsl_to_ras(read_matrix(self.inputs.matrix), moving, template)
        path = cwd / 'transform.txt'
        write_itk(path, moving_from_mni)
        return {'out_file': str(path)}


def read_matrix(path: str | Path) -> np.ndarray:
    """Read FLIRT's 4 × 4 matrix.

    Raises
    ------
    DataError
        If the file does not hold one.
    """
    try:
        lines = Path(path).read_text(encoding='ascii').splitlines()
        matrix = np.array([line.split() for line in lines if line.strip()], dtype=float)
    except ValueError as error:
        raise DataError(f'{path} is not a FLIRT matrix: {error}') from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise DataError(
            f'{path} is not a FLIRT matrix of 4 by 4 numbers.',
            'FLIRT failed on this image; try --engine builtin.',
        )
    return matrix


class _StartInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='moving image')
    template = File(mandatory=True, exists=True, desc="the template's brain")
    anchor = File(exists=True, desc='anchor of the session, where it is not the template')
    anchor_weight = File(exists=True, desc='where the anchor counts')
    anchor_start = File(exists=True, desc='FLIRT matrix from the anchor to the template')
    random_seed = traits.Int(1, usedefault=True)


class _StartOutput(TraitedSpec):
    out_file = File(desc='FLIRT matrix to start from')
    weight = File(desc='where the template counts: its brain with a rim')
    in_weight = File(desc='the same region of the moving image')


class StartMatrix(GuardedInterface):
    """Find FLIRT a start: a head on the template's brain, or an image on its session's anchor."""

    input_spec = _StartInput
    output_spec = _StartOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.affines import fsl_to_ras, ras_to_fsl
        from mslesseg_app.spatial.initial_pose import rough_to_anchor, rough_to_template

        moving, template = nb.load(self.inputs.in_file), nb.load(self.inputs.template)
        seed, path = self.inputs.random_seed, cwd / 'start.mat'
        if not isdefined(self.inputs.anchor):
            start = rough_to_template(moving, seed=seed)
            write_matrix(path, ras_to_fsl(start, moving, template))
            return {'out_file': str(path), **_weights(moving, template, start, cwd)}
        anchor = nb.load(self.inputs.anchor)
        anchor_from_mni = fsl_to_ras(read_matrix(self.inputs.anchor_start), anchor, template)
        mask = nb.load(self.inputs.anchor_weight)
        start = rough_to_anchor(moving, anchor, mask, anchor_from_mni, seed=seed)
        write_matrix(path, ras_to_fsl(start, moving, anchor))
        return {'out_file': str(path)}


def write_matrix(path: Path, matrix: Affine) -> None:
    """Write a matrix as FLIRT reads it."""
    np.savetxt(path, matrix, fmt='%.10f')


def _weights(moving: Any, template: Any, start: Affine, cwd: Path) -> dict[str, str]:
    """Write the brain's region on the grids of the template and of the moving image."""
    from mslesseg_app.spatial.affines import invert
    from mslesseg_app.spatial.exam_alignment import search_region
    from mslesseg_app.spatial.resample import resample

    outputs = {}
    grids_of = {'weight': (template, np.eye(4)), 'in_weight': (moving, invert(start))}
    for name, (image, mni_from_image) in grids_of.items():
        region = resample(search_region(), image.shape, image.affine, mni_from_image, 'nearest')
        weight = grids.like(image, np.asarray(region.dataobj), np.float32)
        outputs[name] = grids.save(weight, cwd / f'{name}.nii.gz')
    return outputs


class _CheckAlignmentInput(_ImagesInput):
    flair_matrix = File(exists=True, desc='ITK affine, template to FLAIR')
    t1w_matrix = File(exists=True, desc='ITK affine, template to T1w')
    t2w_matrix = File(exists=True, desc='ITK affine, template to T2w')
    anchor = traits.Str('', usedefault=True)
    on_failed = traits.Enum('stop', 'flag', usedefault=True)
    commands = traits.List(traits.Str(), desc='commands that FSL ran, for sidecars')


class CheckAlignment(GuardedInterface):
    """Judge affines that another program found, as the builtin engine judges its own."""

    input_spec = _CheckAlignmentInput
    output_spec = _AlignExamOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.affines import read_itk
        from mslesseg_app.spatial.exam_alignment import check_exam

        paths = {name: getattr(self.inputs, f'{name.lower()}_matrix') for name in MODALITIES}
        affines = {name: read_itk(Path(path)) for name, path in paths.items() if isdefined(path)}
        alignment = check_exam(_images(self.inputs), self.inputs.anchor or None, affines)
        outputs = write_alignment(alignment, cwd, self.inputs.on_failed)
        if isdefined(self.inputs.commands):
            outputs['subject_reference'] |= {
                'FSLVersion': fsl_version(),
                'FSLCommands': list(self.inputs.commands),
            }
        return outputs


class _MaskInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='mask on the template grid')


class _MaskOutput(TraitedSpec):
    out_file = File(desc='uint8, with the header of the template')


class MaskToBrain(GuardedInterface):
    """Give a mask that another program wrote the type and header of our brain masks."""

    input_spec = _MaskInput
    output_spec = _MaskOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        mask = np.asanyarray(nb.load(self.inputs.in_file).dataobj) > 0
        if not mask.any():
            raise DataError('BET found no brain.', 'Try --engine builtin.')
        return {'out_file': grids.save(grids.on_template(mask, np.uint8), cwd / 'brain.nii.gz')}


class _MasksInput(BaseInterfaceInputSpec):
    in_files = InputMultiPath(File(exists=True), mandatory=True, desc='masks on one grid')


class _CombinedOutput(TraitedSpec):
    out_file = File(desc='their union, uint8')


class CombineMasks(GuardedInterface):
    """Combine brain masks of several images; each of them has to hold a brain."""

    input_spec = _MasksInput
    output_spec = _CombinedOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        images = [nb.load(path) for path in self.inputs.in_files]
        masks = [np.asanyarray(image.dataobj) > 0 for image in images]
        if not all(mask.any() for mask in masks):
            raise DataError('BET found no brain in one of the images.', 'Try --engine builtin.')
        union = grids.like(images[0], np.logical_or.reduce(masks), np.uint8)
        return {'out_file': grids.save(union, cwd / 'union.nii.gz')}
