"""Nodes that compare the sessions of a subject."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, TraitedSpec, isdefined, traits

from mslesseg_app.core.errors import AlignmentError, DataError
from mslesseg_app.participant.interfaces.base import GuardedInterface
from mslesseg_app.participant.interfaces.lesions import write_tsv
from mslesseg_app.spatial import grids

if TYPE_CHECKING:
    from mslesseg_app.lesions.agreement import Agreement
    from mslesseg_app.lesions.change import Comparison
    from mslesseg_app.lesions.difference import ChangedRegions, Difference
    from mslesseg_app.lesions.groups import Session
    from mslesseg_app.spatial.affines import Affine
    from mslesseg_app.spatial.matching import HalfWay


class _AlignPairInput(BaseInterfaceInputSpec):
    before_flair = File(mandatory=True, exists=True, desc='preprocessed FLAIR, earlier session')
    after_flair = File(mandatory=True, exists=True, desc='preprocessed FLAIR, later session')
    before_xfm = File(mandatory=True, exists=True, desc='ITK affine, template to earlier FLAIR')
    after_xfm = File(mandatory=True, exists=True, desc='ITK affine, template to later FLAIR')
    random_seed = traits.Int(1, usedefault=True)


class _AlignPairOutput(TraitedSpec):
    out_file = File(desc='how the sessions lie to each other, or why that is unknown, JSON')


class AlignPair(GuardedInterface):
    """Align two sessions rigidly, half-way between them; what cannot be aligned is reported."""

    input_spec = _AlignPairInput
    output_spec = _AlignPairOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.spatial.affines import read_itk
        from mslesseg_app.spatial.subject_alignment import align_pair

        given = self.inputs
        try:
            move = align_pair(
                [nb.load(given.before_flair), nb.load(given.after_flair)],
                [read_itk(Path(given.before_xfm)), read_itk(Path(given.after_xfm))],
                seed=given.random_seed,
            )
        except AlignmentError as error:
            content: dict[str, Any] = {'reason': error.message}
        else:
            content = {'after_from_before': move.tolist()}
        out = cwd / 'move.json'
        out.write_text(json.dumps(content, indent=2), encoding='utf-8')
        return {'out_file': str(out)}


class _CompareInput(BaseInterfaceInputSpec):
    move = File(mandatory=True, exists=True, desc='from AlignPair')
    before_flair = File(mandatory=True, exists=True, desc='preprocessed FLAIR, earlier session')
    after_flair = File(mandatory=True, exists=True, desc='preprocessed FLAIR, later session')
    before_brain = File(mandatory=True, exists=True, desc='brain mask on the earlier FLAIR')
    after_brain = File(mandatory=True, exists=True, desc='brain mask on the later FLAIR')
    t2w = traits.List(File(exists=True), desc='preprocessed T2w, earlier and later session')
    t2w_xfms = traits.List(
        File(exists=True), desc='ITK affines, template to each FLAIR, then to each T2w'
    )
    before_labels = File(mandatory=True, exists=True, desc='instances on the earlier FLAIR')
    after_labels = File(mandatory=True, exists=True, desc='instances on the later FLAIR')
    seed = traits.Float(5.0, usedefault=True, desc='difference that a change reaches, SD')
    extent = traits.Float(3.0, usedefault=True, desc='difference at the edge of a change, SD')
    min_volume = traits.Float(15.0, usedefault=True, desc='smallest change, mm3')
    before_prob = File(exists=True, desc='probability on the earlier FLAIR, for joint results')
    after_prob = File(exists=True, desc='probability on the later FLAIR')
    pair = traits.Dict(mandatory=True, desc='what is known of the pair: names, years, edited')


class _CompareOutput(TraitedSpec):
    image = File(desc='status of each lesion on the later FLAIR, uint8')
    before_image = File(desc='the same on the earlier FLAIR')
    difference = File(desc='difference of the images on the later FLAIR, standard deviations')
    before_difference = File(desc='the same on the earlier FLAIR')
    before_pull = File(desc='what the earlier probability gains from the later one')
    after_pull = File(desc='what the later probability gains from the earlier one')
    table = File(desc='one row per lesion, TSV')
    metadata = traits.Dict(desc='numbers of the pair')
    summary = traits.Dict(desc='row of the table of pairs')


@dataclass(frozen=True)
class _Result:
    """What is known of a pair: all of it, or why it was not compared."""

    agreement: Agreement
    comparison: Comparison | None = None
    difference: Difference | None = None
    regions: ChangedRegions | None = None


class CompareSessions(GuardedInterface):
    """Say of each lesion what became of it between two sessions."""

    input_spec = _CompareInput
    output_spec = _CompareOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        import pandas as pd

        from mslesseg_app.lesions.change import Comparison
        from mslesseg_app.lesions.change_record import PairRecord
        from mslesseg_app.lesions.change_table import CHANGE_COLUMNS, change_rows

        years = self.inputs.pair.get('years')
        result = self._compare()
        comparison = result.comparison or Comparison()
        summary = self._summary(result)
        table = cwd / 'change.tsv'
        rows = change_rows(comparison, years)
        write_tsv(pd.DataFrame(rows, columns=list(CHANGE_COLUMNS)), table)
        return {
            **self._images(result, cwd),
            **self._pulls(result, cwd),
            'table': str(table),
            'metadata': PairRecord.from_row(summary).to_metadata(),
            'summary': summary,
        }

    def _compare(self) -> _Result:
        """Compare the sessions unless their images do not agree."""
        from mslesseg_app.lesions.agreement import Agreement, check_agreement, edge_distance
        from mslesseg_app.lesions.change import compare_sessions
        from mslesseg_app.lesions.difference import ChangeLimits, compute_difference, find_changes
        from mslesseg_app.spatial.matching import to_half_way

        given = self.inputs
        move, reason = _read_move(given.move)
        if move is None:
            return _Result(Agreement(np.nan, np.nan, np.nan, 'fail', reason))
        brains = nb.load(given.before_brain), nb.load(given.after_brain)
        flairs = nb.load(given.before_flair), nb.load(given.after_flair)
        edge = edge_distance(*brains, move)
        try:
            pair = to_half_way(*flairs, *brains, move)
            difference = compute_difference(pair, self._other_images(pair))
        except DataError as error:
            return _Result(Agreement(edge, np.nan, np.nan, 'fail', error.message))
        matched = difference.matched
        in_plane = float(np.median(difference.pair.edges))
        agreement = check_agreement(edge, matched.correlation, matched.width_mm, in_plane)
        if agreement.status == 'fail':
            return _Result(agreement)
        before, after = _session(given.before_labels), _session(given.after_labels)
        regions = find_changes(
            difference, ChangeLimits(given.seed, given.extent, given.min_volume)
        )
        edited = given.pair.get('edited') or ()
        comparison = compare_sessions(
            before,
            after,
            difference,
            regions,
            near_mm=max(1.0, float(max(*before.edges, *after.edges)) / 2),
            edited=(
                given.pair.get('session_before') in edited,
                given.pair.get('session_after') in edited,
            ),
        )
        return _Result(agreement, comparison, difference, regions)

    def _other_images(self, flairs: HalfWay) -> dict[str, HalfWay]:
        """Return the T2w images on the grid of the FLAIRs, if both sessions have one."""
        from mslesseg_app.spatial.affines import compose, invert, read_itk
        from mslesseg_app.spatial.matching import of_other_images

        if not isdefined(self.inputs.t2w):
            return {}
        affines = [read_itk(Path(path)) for path in self.inputs.t2w_xfms]
        from_flair = [compose(affines[2 + k], invert(affines[k])) for k in (0, 1)]
        images = [nb.load(path) for path in self.inputs.t2w]
        try:
            return {'T2w': of_other_images(flairs, images, from_flair)}
        except DataError:
            return {}  # they do not show the brain; the FLAIRs do

    def _images(self, result: _Result, cwd: Path) -> dict[str, str]:
        """Write both maps on the grids of both sessions; empty where nothing was compared."""
        from mslesseg_app.lesions.change import change_image, native_map

        written = {}
        for later, prefix in ((True, ''), (False, 'before_')):
            path = self.inputs.after_labels if later else self.inputs.before_labels
            labels, session = nb.load(path), _session(path)
            codes = np.zeros(labels.shape, np.uint8)
            z = np.zeros(labels.shape, np.float32)
            if result.comparison and result.difference and result.regions:
                codes = change_image(
                    result.comparison, session, result.difference, result.regions, later=later
                )
                z = native_map(result.difference.z, session, result.difference, later)
            image = grids.like(labels, codes, np.uint8)
            written[f'{prefix}image'] = grids.save(image, cwd / f'{prefix}change.nii.gz')
            image = grids.like(labels, z.round(2), np.float32)
            written[f'{prefix}difference'] = grids.save(image, cwd / f'{prefix}difference.nii.gz')
        return written

    def _pulls(self, result: _Result, cwd: Path) -> dict[str, str]:
        """Write what each session's probability gains from the other; nothing by default."""
        from mslesseg_app.lesions.change import native_map
        from mslesseg_app.lesions.joint import agreement_weight, pull

        given = self.inputs
        if not (isdefined(given.before_prob) and isdefined(given.after_prob)):
            return {}
        maps: list[Any] = [None, None]
        difference = result.difference
        if difference is not None and result.regions is not None:
            weight = agreement_weight(difference, result.regions)
            images = nb.load(given.before_prob), nb.load(given.after_prob)
            own = [difference.pair.bring(one, later=k > 0) for k, one in enumerate(images)]
            maps = [pull(own[0], own[1], weight), pull(own[1], own[0], weight)]
        written = {}
        for later, name in enumerate(('before', 'after')):
            labels = nb.load(getattr(given, f'{name}_labels'))
            data = np.zeros(labels.shape, np.float32)
            if difference is not None and maps[later] is not None:
                session = _session(getattr(given, f'{name}_labels'))
                data = native_map(maps[later], session, difference, later > 0)
            image = grids.like(labels, data, np.float32)
            written[f'{name}_pull'] = grids.save(image, cwd / f'{name}_pull.nii.gz')
        return written

    def _summary(self, result: _Result) -> dict[str, Any]:
        from mslesseg_app.lesions.change_table import SUMMARY_COLUMNS, summary_row

        pair, agreement = dict(self.inputs.pair), result.agreement
        row = summary_row(result.comparison, pair.get('years')) if result.comparison else {}
        row |= pair | {
            'status': agreement.status,
            'reason': agreement.reason or None,
            'brain_edge_mm': agreement.edge_mm,
            'flair_correlation': agreement.correlation,
            'smoothing_mm': agreement.smoothing_mm,
            'noise_percent': 100 * result.difference.noise if result.difference else None,
            'edited': ', '.join(pair.get('edited') or ()) or None,
            'images': ', '.join(result.difference.images) if result.difference else None,
        }
        return {name: _json_number(row.get(name)) for name in SUMMARY_COLUMNS}


def _session(path: str) -> Session:
    from mslesseg_app.lesions.groups import Session

    image = nb.load(path)
    return Session(np.asanyarray(image.dataobj), image.affine)


def _read_move(path: str) -> tuple[Affine | None, str]:
    content = json.loads(Path(path).read_text(encoding='utf-8'))
    move = content.get('after_from_before')
    return (None, content.get('reason', '')) if move is None else (np.array(move), '')


def _json_number(value: Any) -> Any:
    """Return what JSON can hold; None for what is not a number."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


class _JointInput(BaseInterfaceInputSpec):
    probability = File(mandatory=True, exists=True, desc='probability on the FLAIR')
    pulls = traits.List(File(exists=True), mandatory=True, desc='from CompareSessions')
    threshold = traits.Float(mandatory=True)
    connectivity = traits.Int(mandatory=True)
    min_volume = traits.Float(mandatory=True, desc='smallest lesion, mm3')


class _JointOutput(TraitedSpec):
    probability = File(desc='joint probability on the FLAIR')
    mask = File(desc='joint lesion mask on the FLAIR, uint8')
    metadata = traits.Dict(desc='volume and number of sessions')


class CombineSessions(GuardedInterface):
    """Segment a session together with those that it was compared with."""

    input_spec = _JointInput
    output_spec = _JointOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from mslesseg_app.lesions.joint import combine, joint_mask

        given = self.inputs
        image = nb.load(given.probability)
        voxel = float(abs(np.linalg.det(image.affine[:3, :3])))
        pulls = [np.asarray(nb.load(path).dataobj, dtype=np.float32) for path in given.pulls]
        found = combine(np.asarray(image.dataobj, dtype=np.float32), pulls)
        mask = joint_mask(
            found,
            voxel,
            threshold=given.threshold,
            connectivity=given.connectivity,
            min_volume_mm3=given.min_volume,
        )
        prob = grids.like(image, found, np.float32)
        return {
            'probability': grids.save(prob, cwd / 'probability.nii.gz'),
            'mask': grids.save(grids.like(image, mask, np.uint8), cwd / 'mask.nii.gz'),
            'metadata': {
                'LesionVolume_ml': round(float(np.count_nonzero(mask)) * voxel / 1000, 6),
                'Threshold': given.threshold,
            },
        }


class _TableInput(BaseInterfaceInputSpec):
    rows = traits.List(traits.Dict(), mandatory=True, desc='one for each pair of sessions')


class _TableOutput(TraitedSpec):
    out_file = File(desc='TSV')


class WriteChanges(GuardedInterface):
    """Write the table of pairs of a subject."""

    input_spec = _TableInput
    output_spec = _TableOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        import pandas as pd

        from mslesseg_app.lesions.change_table import SUMMARY_COLUMNS

        out = cwd / 'changes.tsv'
        write_tsv(pd.DataFrame(self.inputs.rows, columns=list(SUMMARY_COLUMNS)), out)
        return {'out_file': str(out)}
