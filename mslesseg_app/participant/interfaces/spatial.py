"""Nodes of the spatial engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, TraitedSpec, isdefined, traits

from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.participant.interfaces.base import GuardedInterface
from mslesseg_app.participant.interfaces.images import _ImagesInput
from mslesseg_app.spatial import grids
from mslesseg_app.spatial.exam_alignment import ExamAlignment


def _images(inputs: Any, suffix: str = '') -> dict[str, Any]:
    """Load the images that are connected, by modality."""
    paths = {name: getattr(inputs, name.lower() + suffix) for name in MODALITIES}
    return {name: nb.load(path) for name, path in paths.items() if isdefined(path)}


class _AlignExamInput(_ImagesInput):
    strategy = traits.Enum('anchored', 'independent', usedefault=True)
    registered = traits.Bool(False, usedefault=True, desc='on the template grid already')
    on_failed = traits.Enum('stop', 'flag', usedefault=True)
    random_seed = traits.Int(1, usedefault=True)
    place = File(exists=True, desc='alignment to the within-subject template, from AlignSubject')


class _AlignExamOutput(TraitedSpec):
    flair_xfm = File(desc='ITK affine, template to FLAIR')
    t1w_xfm = File(desc='ITK affine, template to T1w')
    t2w_xfm = File(desc='ITK affine, template to T2w')
    quality = File(desc='numbers and status for each image, JSON')
    subject_reference = traits.Dict(desc='what the session was aligned through, for sidecars')


class AlignExam(GuardedInterface):
    """Align all images of an exam to the template with the builtin engine."""

    input_spec = _AlignExamInput
    output_spec = _AlignExamOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.exam_alignment import align_exam, check_exam

        images = {name: grids.to_ras(image) for name, image in _images(self.inputs).items()}
        place = _read_alignment(self.inputs.place)
        if self.inputs.registered:
            alignment = check_exam(images, None, dict.fromkeys(images, np.eye(4)))
        else:
            affine = place.get('flair_from_mni')
            alignment = align_exam(
                images,
                strategy=self.inputs.strategy,
                seed=self.inputs.random_seed,
                flair_from_mni=None if affine is None else np.array(affine),
            )
        return write_alignment(alignment, cwd, self.inputs.on_failed, place)


def _read_alignment(path: Any) -> dict[str, Any]:
    """Read what AlignSubject says of a session; empty where it was not asked."""
    if not isdefined(path):
        return {}
    place: dict[str, Any] = json.loads(Path(path).read_text(encoding='utf-8'))
    return place


def _subject_reference(place: dict[str, Any]) -> dict[str, Any]:
    """Say what a session was aligned through, in the words of the sidecars."""
    key = 'SubjectAnatomicalReference'
    if 'sessions' in place:
        return {key: 'unbiased', key + 'Sessions': place['sessions']}
    if 'reason' in place:
        return {key: 'sessionwise', key + 'Note': f'unbiased was not possible: {place["reason"]}'}
    return {key: 'sessionwise'}


def write_alignment(
    alignment: ExamAlignment, cwd: Path, on_failed: str, place: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write affines and quality; a failed alignment ends the exam unless it is to be flagged.

    Raises
    ------
    AlignmentError
        If an image could not be aligned and ``on_failed`` is ``stop``.
    """
    from mslesseg_app.spatial.affines import write_itk

    if on_failed == 'stop':
        alignment.demand_trust()
    outputs: dict[str, Any] = {}
    for name, affine in alignment.moving_from_mni.items():
        path = cwd / f'from-{name}_to-MNI152NLin6Asym_xfm.txt'
        write_itk(path, affine)
        outputs[f'{name.lower()}_xfm'] = str(path)
    quality = cwd / 'quality.json'
    content = json.dumps(alignment.checks(), indent=2, sort_keys=True)
    quality.write_text(content, encoding='utf-8')
    reference = _subject_reference(place or {})
    return outputs | {'quality': str(quality), 'subject_reference': reference}


class _BrainOutput(TraitedSpec):
    out_file = File(desc='brain mask on the template grid')


class ExtractBrain(GuardedInterface):
    """Brain mask on the template grid from all images of the exam."""

    input_spec = _ImagesInput
    output_spec = _BrainOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.brain import brain_mask

        mask = brain_mask(_images(self.inputs))
        image = grids.on_template(np.asanyarray(mask.dataobj) > 0, np.uint8)
        return {'out_file': grids.save(image, cwd / 'brain.nii.gz')}


class _InvertInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='ITK affine')


class _InvertOutput(TraitedSpec):
    out_file = File(desc='its inverse')


class InvertTransform(GuardedInterface):
    """Invert an affine."""

    input_spec = _InvertInput
    output_spec = _InvertOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.affines import invert, read_itk, write_itk

        path = cwd / 'inverse_xfm.txt'
        write_itk(path, invert(read_itk(Path(self.inputs.in_file))))
        return {'out_file': str(path)}
