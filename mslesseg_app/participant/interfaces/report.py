"""Nodes that draw the figures of an exam and write its record for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nb
from nipype.interfaces.base import BaseInterfaceInputSpec, File, TraitedSpec, traits

from mslesseg_app.participant.interfaces.base import GuardedInterface


class _FigureOutput(TraitedSpec):
    out_file = File(desc='SVG that carries its own caption')


class _DrawLesionsInput(BaseInterfaceInputSpec):
    flair = File(mandatory=True, exists=True, desc='FLAIR on its own grid')
    labels = File(mandatory=True, exists=True, desc='lesion instances on the same grid')
    prob = File(mandatory=True, exists=True, desc='probability on the same grid')
    brain = File(mandatory=True, exists=True, desc='brain mask on the same grid')


class DrawLesions(GuardedInterface):
    """Lesion contours on every slice of the FLAIR that has a lesion."""

    input_spec = _DrawLesionsInput
    output_spec = _FigureOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.reports.figures import lesion_contours

        out = cwd / 'lesions.svg'
        lesion_contours(
            nb.load(self.inputs.flair),
            nb.load(self.inputs.labels),
            out,
            prob=nb.load(self.inputs.prob),
            brain=nb.load(self.inputs.brain),
        )
        return {'out_file': str(out)}


class _BrainInput(BaseInterfaceInputSpec):
    image = File(mandatory=True, exists=True, desc='FLAIR on its own grid')
    mask = File(mandatory=True, exists=True, desc='brain mask on the same grid')


class DrawBrain(GuardedInterface):
    """Outline of the brain mask in three planes."""

    input_spec = _BrainInput
    output_spec = _FigureOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.reports.figures import brain_mask_overlay

        out = cwd / 'brain.svg'
        brain_mask_overlay(
            nb.load(self.inputs.image), nb.load(self.inputs.mask), out, modality='FLAIR'
        )
        return {'out_file': str(out)}


class _AlignmentInput(BaseInterfaceInputSpec):
    moving = File(mandatory=True, exists=True, desc='image on the template grid')
    modality = traits.Str(mandatory=True)


class DrawAlignment(GuardedInterface):
    """An image on the template grid that flickers with the template."""

    input_spec = _AlignmentInput
    output_spec = _FigureOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.reports.figures import alignment_flicker
        from mslesseg_app.spatial.template import load_template

        template = load_template()
        out = cwd / 'alignment.svg'
        alignment_flicker(
            nb.load(self.inputs.moving),
            template.brain,
            template.mask,
            out,
            modality=self.inputs.modality,
        )
        return {'out_file': str(out)}


class _DescribeExamInput(BaseInterfaceInputSpec):
    content = traits.Dict(mandatory=True, desc='what was known before the exam ran')
    lesions = File(mandatory=True, exists=True, desc='lesion table, TSV')
    summary = traits.Dict(mandatory=True, desc='count and volume of the lesions')
    info = traits.Dict(mandatory=True, desc='what the model used')
    qc = traits.List(mandatory=True, desc='quality numbers with their statuses')
    reference = traits.Dict(desc='accuracy, where there is a reference mask')
    subject_reference = traits.Dict(desc='what the session was aligned through')
    selfcheck = traits.Dict(desc='result of the self-check')


class _DescribeExamOutput(TraitedSpec):
    out_file = File(desc='record of the exam, JSON')


class DescribeExam(GuardedInterface):
    """Write all that the report says of an exam into one JSON file."""

    input_spec = _DescribeExamInput
    output_spec = _DescribeExamOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.reports.records import finished_content

        content = finished_content(
            dict(self.inputs.content),
            lesions=Path(self.inputs.lesions),
            summary=self.inputs.summary,
            info=self.inputs.info,
            qc=self.inputs.qc,
            accuracy=self.inputs.reference or {},
            subject_reference=self.inputs.subject_reference or {},
            selfcheck=self.inputs.selfcheck or {},
        )
        out = cwd / 'exam.json'
        # Not sorted: the order of the columns of a table is worth keeping.
        out.write_text(
            json.dumps(content.to_dict(), indent=2, ensure_ascii=False) + '\n', encoding='utf-8'
        )
        return {'out_file': str(out)}


class _MergeMetadataInput(BaseInterfaceInputSpec):
    first = traits.Dict(mandatory=True)
    second = traits.Dict(mandatory=True)


class _MergeMetadataOutput(TraitedSpec):
    out = traits.Dict()


class MergeMetadata(GuardedInterface):
    """Put the entries of two dictionaries into one."""

    input_spec = _MergeMetadataInput
    output_spec = _MergeMetadataOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        del cwd
        return {'out': {**self.inputs.first, **self.inputs.second}}
