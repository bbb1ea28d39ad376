"""Nodes of the within-subject template; what one session lacks does not stop the others.

Files go between these nodes that hold either what is wanted or, in JSON, why it is missing, so
that a broken image ends its own exam and no other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nb
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    OutputMultiPath,
    TraitedSpec,
    traits,
)

from mslesseg_app.core.errors import DataError, MSLesSegError, NoInputError
from mslesseg_app.participant.interfaces.base import GuardedInterface, decode_error, encode_error
from mslesseg_app.participant.interfaces.images import PrepareImage
from mslesseg_app.spatial import grids

_ENDING = '.json'


class PrepareAnchor(PrepareImage):
    """Prepare an image; what is wrong with a broken one goes to a file and is not raised."""

    def _execute(self, cwd: Path) -> dict[str, Any]:
        try:
            return super()._execute(cwd)
        except (DataError, NoInputError) as error:
            path = cwd / f'problem{_ENDING}'
            path.write_text(encode_error(error), encoding='utf-8')
            return {'out_file': str(path)}


class _TakeInput(BaseInterfaceInputSpec):
    in_file = File(mandatory=True, exists=True, desc='from PrepareAnchor')


class _TakeOutput(TraitedSpec):
    out_file = File(desc='the image')


class TakeAnchor(GuardedInterface):
    """Hand on what :class:`PrepareAnchor` made, or fail with the reason that it gave."""

    input_spec = _TakeInput
    output_spec = _TakeOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        del cwd
        problem = _problem(self.inputs.in_file)
        if problem is not None:
            raise problem
        return {'out_file': self.inputs.in_file}


def _problem(path: str) -> MSLesSegError | None:
    """Return the error that a file holds; None for an image."""
    if not path.endswith(_ENDING):
        return None
    return decode_error(Path(path).read_text(encoding='utf-8'))


class _SubjectInput(BaseInterfaceInputSpec):
    anchors = InputMultiPath(
        File(exists=True), mandatory=True, desc='from PrepareAnchor, in the order of `sessions`'
    )
    sessions = traits.List(traits.Str, mandatory=True)
    random_seed = traits.Int(1, usedefault=True)


class _SubjectOutput(TraitedSpec):
    out_files = OutputMultiPath(
        File(exists=True), desc='for each session its alignment to the template, or why none, JSON'
    )


class AlignSubject(GuardedInterface):
    """Align the sessions of a subject through their within-subject template."""

    input_spec = _SubjectInput
    output_spec = _SubjectOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        sessions, anchors = self.inputs.sessions, self.inputs.anchors
        paths = dict(zip(sessions, anchors, strict=True))
        problems = {name: one for name, path in paths.items() if (one := _problem(path))}
        usable = {name: path for name, path in paths.items() if name not in problems}
        places = self._alignments(usable)
        files = []
        for name in sessions:
            path = cwd / f'place_{name}.json'
            content = places.get(name, {'reason': 'its FLAIR cannot be used'})
            path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding='utf-8')
            files.append(str(path))
        return {'out_files': files}

    def _alignments(self, usable: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Return for each session its transform and companions, or why it has none."""
        from mslesseg_app.spatial.subject_alignment import align_subject

        if len(usable) < 2:
            reason = 'the FLAIR of no other session of the subject can be used'
            return {name: {'reason': reason} for name in usable}
        found = align_subject(
            {name: grids.to_ras(nb.load(path)) for name, path in usable.items()},
            seed=self.inputs.random_seed,
        )
        together = sorted(found.session_from_middle)
        places: dict[str, dict[str, Any]] = {
            name: {'flair_from_mni': affine.tolist(), 'sessions': together}
            for name, affine in found.session_from_mni.items()
        }
        return places | {name: {'reason': why} for name, why in found.left_out.items()}
