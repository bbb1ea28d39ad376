"""The workflow that compares the sessions of subjects, once their exams are done.

It starts from what the output folder holds, so that sessions that were run in different jobs are
compared too, and a failed exam does not prevent the other sessions from being compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import Merge
from nipype.pipeline.engine import Node
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from mslesseg_app.bids.dates import in_order, session_date, years_between
from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import output_entities, output_path, sidecar_of
from mslesseg_app.bids.sidecars import CONNECTIVITY_KEY, SMALLEST_KEY, THRESHOLD_KEY
from mslesseg_app.bids.workflow_names import change_name, top_name
from mslesseg_app.core.errors import DataError
from mslesseg_app.core.settings import Settings
from mslesseg_app.lesions.change import STATUS_CODES
from mslesseg_app.lesions.change_table import CHANGE_COLUMNS, SUMMARY_COLUMNS
from mslesseg_app.participant.interfaces.change import (
    AlignPair,
    CombineSessions,
    CompareSessions,
    WriteChanges,
)
from mslesseg_app.participant.interfaces.sink import DerivativesDataSink
from mslesseg_app.participant.workflows.align import ALIGN_MEM_GB
from mslesseg_app.reports.records import read_record


@dataclass(frozen=True)
class Visit:
    """A finished exam of a subject, as the output folder holds it.

    Attributes
    ----------
    flair : str
        Path of the raw FLAIR, relative to the raw dataset.
    date : datetime or None
    edited : bool
        Whether a person has edited its mask.
    how : dict
        Model and rules that made its mask.
    """

    exam: Exam
    model: str
    flair: str
    date: datetime | None
    edited: bool
    how: dict[str, Any]

    @property
    def name(self) -> str:
        """Label of the session."""
        return self.exam.session or ''

    def path(self, key: str, **extra: str) -> Path:
        """Return the path of one of its files, relative to the output folder."""
        return output_path(self.exam, key, **extra)

    def files(self, out_dir: Path) -> dict[str, str]:
        """Return the files that are compared."""
        found = {
            'flair': self.path('preproc_native', suffix='FLAIR'),
            'xfm': self.path('to_mni', **{'from': 'FLAIR'}),
            'brain': self.path('brain_native'),
            'labels': self.path('instances_native', desc=self.model),
        }
        return {key: str(out_dir / path) for key, path in found.items()}

    def t2w(self, out_dir: Path) -> tuple[str, str] | None:
        """Return its T2w image and the transform from the template to it, if it has them."""
        if 'T2w' not in self.exam.images:
            return None
        keys = ('preproc_native', {'suffix': 'T2w'}), ('to_mni', {'from': 'T2w'})
        found = [out_dir / self.path(key, **extra) for key, extra in keys]
        return (str(found[0]), str(found[1])) if all(p.is_file() for p in found) else None

    def probability(self, out_dir: Path) -> Path | None:
        """Return the probability map, where it is there and no person has edited the mask."""
        path = out_dir / self.path('prob_native', desc=self.model)
        return path if path.is_file() and not self.edited else None


def find_visits(subject: str, settings: Settings, model: str) -> list[Visit]:
    """Return the finished exams of a subject in the order of time.

    An exam whose last run failed does not count, whatever an earlier run left of it.
    """
    records = output_path(Exam(subject, '*', {}), 'exam', desc=model)
    visits = {}
    for path in sorted(settings.out_dir.glob(str(records))):
        visit = _visit(subject, path, settings, model)
        if visit is not None:
            visits[visit.name] = visit
    return [visits[name] for name in in_order({k: v.date for k, v in visits.items()})]


def _visit(subject: str, path: Path, settings: Settings, model: str) -> Visit | None:
    try:
        record = read_record(path)
    except DataError:
        return None
    flair = next((item.path for item in record.images if item.modality == 'FLAIR'), None)
    if record.status != 'ok' or not record.session or flair is None:
        return None
    paths = {item.modality: settings.bids_dir / item.path for item in record.images}
    exam = Exam(subject, record.session, paths)
    sidecar = settings.out_dir / sidecar_of(output_path(exam, 'lesion_native', desc=model))
    try:
        content = json.loads(sidecar.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        content = {}
    keys = ('Model', THRESHOLD_KEY, SMALLEST_KEY, CONNECTIVITY_KEY)
    visit = Visit(
        exam,
        model,
        flair,
        session_date(settings.bids_dir, subject, record.session, flair),
        bool(content.get('Edited')),
        {key: content.get(key) for key in keys},
    )
    there = all(Path(one).is_file() for one in visit.files(settings.out_dir).values())
    return visit if there else None


def init_change_wf(*, subjects: Iterable[str], settings: Settings, model: str) -> Workflow | None:
    """Build the workflow that compares the sessions of subjects.

    Parameters
    ----------
    subjects : iterable of str
        Labels without ``sub-``; those with fewer than two finished sessions are left out.
    settings : Settings
    model : str
        Name of the model or ensemble whose masks are compared.

    Returns
    -------
    LiterateWorkflow or None
        None when there is nothing to compare.
    """
    workflow = Workflow(name=f'{top_name()}_change', base_dir=str(settings.work_dir))
    workflow.__desc__ = _DESCRIPTION.format(
        threshold=settings.change_threshold,
        extent=settings.change_extent,
        volume=settings.min_change_volume,
    )
    for subject in sorted(set(subjects)):
        visits = find_visits(subject, settings, model)
        if len(visits) > 1:
            workflow.add_nodes([init_subject_change_wf(visits, settings)])
    return workflow if workflow.list_node_names() else None


def init_subject_change_wf(visits: list[Visit], settings: Settings) -> Workflow:
    """Compare each session with the one before it, and the last of several with the first."""
    workflow = Workflow(name=change_name(visits[0].exam.subject))
    pairs = list(pairwise(visits))
    if len(visits) > 2:
        pairs.append((visits[0], visits[-1]))
    joint: dict[str, list[tuple[Node, str]]] = {visit.name: [] for visit in visits}
    merge = Node(Merge(len(pairs)), name='gather_pairs', run_without_submitting=True)
    for number, (before, after) in enumerate(pairs, start=1):
        whole = number > len(visits) - 1
        compare = _add_pair(workflow, before, after, settings, whole)
        workflow.connect(compare, 'summary', merge, f'in{number}')
        if not whole:
            _add_sinks(workflow, compare, before, after, settings)
            if _segmented_jointly(before, after, settings):
                joint[before.name].append((compare, 'before_pull'))
                joint[after.name].append((compare, 'after_pull'))
    for visit in visits:
        if joint[visit.name]:
            _add_joint(workflow, visit, joint[visit.name], settings)
    write = Node(WriteChanges(), name='describe_changes', run_without_submitting=True)
    sink = _sink(visits, settings, 'changes', SUMMARY_COLUMNS, desc=visits[0].model)
    workflow.connect([
        (merge, write, [('out', 'rows')]),
        (write, sink, [('out_file', 'in_file')]),
    ])  # fmt: skip
    return workflow


def _add_pair(
    workflow: Workflow, before: Visit, after: Visit, settings: Settings, whole: bool
) -> Node:
    """Add the nodes that align and compare two sessions; return the last."""
    old, new = before.files(settings.out_dir), after.files(settings.out_dir)
    suffix = f'{before.name}_{after.name}'
    align = Node(
        AlignPair(
            before_flair=old['flair'],
            after_flair=new['flair'],
            before_xfm=old['xfm'],
            after_xfm=new['xfm'],
            random_seed=settings.random_seed,
        ),
        name=f'align_{suffix}',
        mem_gb=ALIGN_MEM_GB,
    )
    compare = Node(
        CompareSessions(
            **{f'before_{key}': old[key] for key in ('flair', 'brain', 'labels')},
            **{f'after_{key}': new[key] for key in ('flair', 'brain', 'labels')},
            seed=settings.change_threshold,
            extent=settings.change_extent,
            min_volume=settings.min_change_volume,
            pair=_described(before, after, whole),
        ),
        name=f'compare_{suffix}',
        mem_gb=2.0,
    )
    t2w = [one.t2w(settings.out_dir) for one in (before, after)]
    if t2w[0] and t2w[1]:
        compare.inputs.t2w = [t2w[0][0], t2w[1][0]]
        compare.inputs.t2w_xfms = [old['xfm'], new['xfm'], t2w[0][1], t2w[1][1]]
    if not whole and _segmented_jointly(before, after, settings):
        compare.inputs.before_prob = str(before.probability(settings.out_dir))
        compare.inputs.after_prob = str(after.probability(settings.out_dir))
    workflow.connect(align, 'out_file', compare, 'move')
    return compare


def _segmented_jointly(before: Visit, after: Visit, settings: Settings) -> bool:
    """Whether two sessions are segmented together."""
    known = [one.probability(settings.out_dir) for one in (before, after)]
    return settings.longitudinal == 'joint' and None not in known and before.how == after.how


def _add_joint(
    workflow: Workflow, visit: Visit, pulls: list[tuple[Node, str]], settings: Settings
) -> None:
    """Add the joint segmentation of a session, in files of its own."""
    how = visit.how
    node = Node(
        CombineSessions(
            probability=str(visit.probability(settings.out_dir)),
            threshold=float(how.get(THRESHOLD_KEY) or 0.5),
            connectivity=int(how.get(CONNECTIVITY_KEY) or settings.connectivity),
            min_volume=float(how.get(SMALLEST_KEY) or 0.0),
        ),
        name=f'combine_{visit.name}',
        mem_gb=0.5,
    )
    merge = Node(Merge(len(pulls)), name=f'gather_{visit.name}', run_without_submitting=True)
    for number, (compare, field) in enumerate(pulls, start=1):
        workflow.connect(compare, field, merge, f'in{number}')
    workflow.connect(merge, 'out', node, 'pulls')
    metadata = {
        'Description': 'Joint segmentation: where the FLAIRs of the sessions do not differ, their '
        'probabilities are averaged.',
        'Sources': [f'bids::{visit.path("prob_native", desc=visit.model).as_posix()}'],
        'SpatialReference': f'bids:raw:{visit.flair}',
    }
    for key, field in (('joint_native', 'mask'), ('joint_prob_native', 'probability')):
        sink = _sink([visit], settings, key, metadata, desc=visit.model)
        workflow.connect(node, field, sink, 'in_file')
        workflow.connect(node, 'metadata', sink, 'meta_dict')


def _described(before: Visit, after: Visit, whole: bool) -> dict[str, Any]:
    """Return what is known of a pair before it is compared."""
    years = years_between(before.date, after.date)
    return {
        'participant_id': f'sub-{after.exam.subject}',
        'model': after.model,
        'session_before': f'ses-{before.name}',
        'session_after': f'ses-{after.name}',
        'pair': 'first-last' if whole else 'consecutive',
        'years': None if years is None else round(years, 6),
        'edited': [f'ses-{one.name}' for one in (before, after) if one.edited],
    }


def _add_sinks(
    workflow: Workflow, compare: Node, before: Visit, after: Visit, settings: Settings
) -> None:
    texts = _texts(before, after, settings)
    earlier = texts | {
        'Description': 'Change of the lesions until the next session.',
        'SpatialReference': f'bids:raw:{before.flair}',
    }
    units = {'Units': 'standard deviations'}
    wanted = {
        'change_native': ('image', after, texts | {'Labels': _labels()}),
        'change_next_native': ('before_image', before, earlier | {'Labels': _labels()}),
        'difference_native': ('difference', after, texts | units),
        'difference_next_native': ('before_difference', before, earlier | units),
        'change': ('table', after, texts | CHANGE_COLUMNS),
    }
    for key, (field, visit, metadata) in wanted.items():
        sink = _sink([visit], settings, key, metadata, desc=visit.model)
        workflow.connect(compare, field, sink, 'in_file')
        workflow.connect(compare, 'metadata', sink, 'meta_dict')


def _sink(
    visits: list[Visit], settings: Settings, key: str, metadata: dict[str, Any], **entities: str
) -> Node:
    names = output_entities(key, **entities)
    sink = DerivativesDataSink(
        base_directory=str(settings.out_dir),
        source_file=[str(visit.exam.images['FLAIR']) for visit in visits],
        compress='extension' not in names,
        **names,
        **metadata,
    )
    name = f'ds_{key}' + (f'_{visits[0].name}' if len(visits) == 1 else '')
    return Node(sink, name=name, run_without_submitting=True)


def _texts(before: Visit, after: Visit, settings: Settings) -> dict[str, Any]:
    """Return what the sidecars of a comparison say before it is done."""
    notes = []
    if years_between(before.date, after.date) is None:
        notes.append(
            'The interval is not known (acq_time of sessions.tsv or scans.tsv), so there are no '
            'rates per year.'
        )
    if before.how != after.how:
        notes.append('The masks of the two sessions were made by different models or settings.')
    visits = (before, after)
    return {
        'Description': 'Change of the lesions since the previous session.',
        'Sources': [
            f'bids::{visit.path("instances_native", desc=visit.model).as_posix()}'
            for visit in visits
        ],
        'SpatialReference': f'bids:raw:{after.flair}',
        'SessionDates': [one.date.isoformat() if one.date else 'n/a' for one in visits],
        'ChangeThreshold': settings.change_threshold,
        'ChangeExtent': settings.change_extent,
        'MinimumChangeVolume_mm3': settings.min_change_volume,
        **({'Notes': notes} if notes else {}),
    }


def _labels() -> dict[str, int]:
    return {str(status): code for status, code in STATUS_CODES.items()}


_DESCRIPTION = """
Sessions of a participant were registered rigidly to each other, and both FLAIRs, and T2w images
where both sessions had them, were resampled once into the space half-way between them. The sharper
image was smoothed to the resolution of the other, intensities were matched locally (standardised
major axis), and the difference was divided by its local standard deviation. With T2w images, the
differences of both sequences were added and divided by the square root of two. Changes are regions
of at least {volume:g} mm³ and {extent:g} standard deviations that reach {threshold:g}, where at
least one session shows lesion tissue. Each lesion was called stable, new, enlarging, shrinking or
resolved by these regions, not by the difference of the masks.
"""
