"""Nodes that compare the sessions of a subject."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    TraitedSpec,
    traits,
)

from ..errors import AlignmentError
from ..spatial import grids
from .base import GuardedInterface
from .lesions import write_tsv

if TYPE_CHECKING:
    from ..lesions.change import Comparison, Session
    from ..lesions.change_guard import Agreement, ContrastChange
    from ..spatial.affines import Affine


class _AlignInput(BaseInterfaceInputSpec):
    before_flair = File(mandatory=True, exists=True, desc='preprocessed FLAIR, earlier session')
    after_flair = File(mandatory=True, exists=True, desc='preprocessed FLAIR, later session')
    before_xfm = File(mandatory=True, exists=True, desc='ITK affine, template to earlier FLAIR')
    after_xfm = File(mandatory=True, exists=True, desc='ITK affine, template to later FLAIR')
    random_seed = traits.Int(1, usedefault=True)
    num_threads = traits.Int(1, usedefault=True, nohash=True, desc='CPU threads')


class _AlignOutput(TraitedSpec):
    out_file = File(desc='how the sessions lie to each other, or why that is unknown, JSON')


class AlignPair(GuardedInterface):
    """Align two sessions rigidly, half-way between them; what cannot be aligned is told."""

    input_spec = _AlignInput
    output_spec = _AlignOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        from ..spatial.affines import read_itk
        from ..spatial.subject import align_pair

        given = self.inputs
        try:
            move = align_pair(
                [nb.load(given.before_flair), nb.load(given.after_flair)],
                [read_itk(Path(given.before_xfm)), read_itk(Path(given.after_xfm))],
                threads=given.num_threads,
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
    before_labels = File(mandatory=True, exists=True, desc='instances on the earlier FLAIR')
    after_labels = File(mandatory=True, exists=True, desc='instances on the later FLAIR')
    lesions = File(mandatory=True, exists=True, desc='lesion table of the later session')
    record = File(mandatory=True, exists=True, desc='record of the later exam, JSON')
    rules = traits.Str('anima', usedefault=True)
    pair = traits.Dict(mandatory=True, desc='what is known of the pair: names, years, edited')


class _CompareOutput(TraitedSpec):
    image = File(desc='status of each lesion on the later FLAIR, uint8')
    table = File(desc='one row a lesion, TSV')
    metadata = traits.Dict(desc='numbers of the pair')
    summary = traits.Dict(desc='row of the table of pairs')
    lesions = File(desc='the lesion table with the column status filled')
    record = File(desc='the record with the same column filled')


class CompareSessions(GuardedInterface):
    """Say of each lesion what became of it between two sessions."""

    input_spec = _CompareInput
    output_spec = _CompareOutput

    def _execute(self, cwd: Path) -> dict[str, Any]:
        import pandas as pd

        from ..lesions.change import Comparison
        from ..lesions.change_table import CHANGE_COLUMNS, as_metadata, change_rows

        years = self.inputs.pair.get('years')
        found, agreement, image = self._compare()
        comparison = found or Comparison()
        summary = self._summary(found, agreement)
        table = cwd / 'change.tsv'
        rows = change_rows(comparison, years)
        write_tsv(pd.DataFrame(rows, columns=list(CHANGE_COLUMNS)), table)
        statuses: dict[int, str] = {
            number: status or 'n/a' for number, status in comparison.statuses().items()
        }
        return {
            'image': grids.save(image, cwd / 'change.nii.gz'),
            'table': str(table),
            'metadata': as_metadata(summary),
            'summary': summary,
            'lesions': self._fill_table(statuses, cwd),
            'record': self._fill_record(statuses, cwd),
        }

    def _compare(self) -> tuple[Comparison | None, Agreement, nb.Nifti1Image]:
        """Compare the sessions unless their images do not agree."""
        from ..lesions.change import change_image, compare_sessions
        from ..lesions.change_guard import Agreement
        from ..lesions.change_rules import get_change_rules

        labels = nb.load(self.inputs.after_labels)
        before, after = _session(self.inputs.before_labels), _session(self.inputs.after_labels)
        nothing = grids.like(labels, np.zeros(labels.shape), np.uint8)
        move, reason = _read_move(self.inputs.move)
        if move is None:
            return None, Agreement(np.nan, np.nan, 'failed', reason), nothing
        agreement, contrast = self._judge(before, after, move)
        if agreement.verdict == 'failed':
            return None, agreement, nothing
        found = compare_sessions(
            before,
            after,
            move,
            get_change_rules(self.inputs.rules),
            near_mm=max(1.0, float(max(*before.edges, *after.edges)) / 2),
            contrast=contrast,
            trust_contrast=not self.inputs.pair.get('edited'),
        )
        image = change_image(found, before, after, move)
        return found, agreement, grids.like(labels, image, np.uint8)

    def _judge(
        self, before: Session, after: Session, move: Affine
    ) -> tuple[Agreement, ContrastChange]:
        from ..lesions.change_guard import ContrastChange, edge_distance, judge_agreement

        brains = nb.load(self.inputs.before_brain), nb.load(self.inputs.after_brain)
        contrast = ContrastChange(
            nb.load(self.inputs.before_flair),
            nb.load(self.inputs.after_flair),
            brains[1],
            after.labels > 0,
            move,
        )
        return judge_agreement(edge_distance(*brains, move), contrast.correlation), contrast

    def _summary(self, found: Comparison | None, agreement: Agreement) -> dict[str, Any]:
        from ..lesions.change_table import SUMMARY_COLUMNS, summary_row

        pair = dict(self.inputs.pair)
        row = summary_row(found, pair.get('years')) if found else {}
        row |= pair | {
            'verdict': agreement.verdict,
            'reason': agreement.reason or None,
            'rules': self.inputs.rules,
            'brain_edge_mm': agreement.edge_mm,
            'flair_correlation': agreement.correlation,
            'edited': ', '.join(pair.get('edited') or ()) or None,
        }
        return {name: _plain(row.get(name)) for name in SUMMARY_COLUMNS}

    def _fill_table(self, statuses: dict[int, str], cwd: Path) -> str:
        import pandas as pd

        table = pd.read_csv(self.inputs.lesions, sep='\t', dtype=str, keep_default_na=False)
        table['status'] = [statuses.get(int(number), 'n/a') for number in table['lesion_id']]
        out = cwd / 'lesions.tsv'
        write_tsv(table, out)
        return str(out)

    def _fill_record(self, statuses: dict[int, str], cwd: Path) -> str:
        content = json.loads(Path(self.inputs.record).read_text(encoding='utf-8'))
        for row in content.get('lesions', ()):
            status = statuses.get(int(row['lesion_id']), 'n/a')
            row['status'] = None if status == 'n/a' else status
        out = cwd / 'exam.json'
        out.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
        return str(out)


def _session(path: str) -> Session:
    from ..lesions.change import Session

    image = nb.load(path)
    return Session(np.asanyarray(image.dataobj), image.affine)


def _read_move(path: str) -> tuple[Affine | None, str]:
    content = json.loads(Path(path).read_text(encoding='utf-8'))
    move = content.get('after_from_before')
    return (None, content.get('reason', '')) if move is None else (np.array(move), '')


def _plain(value: Any) -> Any:
    """Return what JSON can hold; None for what is not a number."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


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

        from ..lesions.change_table import SUMMARY_COLUMNS

        out = cwd / 'changes.tsv'
        write_tsv(pd.DataFrame(self.inputs.rows, columns=list(SUMMARY_COLUMNS)), out)
        return {'out_file': str(out)}
