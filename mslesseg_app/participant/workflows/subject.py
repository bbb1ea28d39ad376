"""The workflow that the sessions of a subject share: their within-subject template."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface, Merge, Select
from nipype.pipeline.engine import Node
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.workflow_names import subject_name
from mslesseg_app.core.settings import Settings
from mslesseg_app.participant.interfaces.subject import AlignSubject, PrepareAnchor
from mslesseg_app.participant.workflows.align import ALIGN_MEM_GB

_BIAS_MEM_GB = 1.0


def session_key(exam: Exam) -> str:
    """Return the word for an exam's session in the names of nodes and fields."""
    return exam.session or 'none'


def init_subject_wf(*, exams: list[Exam], settings: Settings) -> Workflow:
    """Align the FLAIRs of several sessions through a template made of all of them.

    Its outputnode has for each session ``flair_<session>`` (checked, without bias field) and
    ``place_<session>`` (its alignment, JSON). For a session whose image is broken
    the first says why, and the others go on without it.

    Parameters
    ----------
    exams : list of Exam
        Two or more exams of one subject, from ``share_template``.
    settings : Settings
        ``bias_correction`` and ``random_seed`` count.
    """
    workflow = Workflow(name=subject_name(exams[0].subject))
    workflow.__desc__ = _DESCRIPTION
    keys = [session_key(exam) for exam in exams]
    fields = [f'{kind}_{key}' for key in keys for kind in ('flair', 'place')]
    outputnode = Node(IdentityInterface(fields=fields), name='outputnode')
    gather = Node(Merge(len(exams)), name='gather', run_without_submitting=True)
    align = Node(
        AlignSubject(sessions=keys, random_seed=settings.random_seed),
        name='align_sessions',
        mem_gb=ALIGN_MEM_GB,
    )
    workflow.connect(gather, 'out', align, 'anchors')
    for number, (key, exam) in enumerate(zip(keys, exams, strict=True)):
        prepare = PrepareAnchor(
            in_file=str(exam.images['FLAIR']),
            correct_bias=settings.bias_correction,
        )
        anchor = Node(prepare, name=f'anchor_{key}', mem_gb=_BIAS_MEM_GB)
        place = Node(Select(index=[number]), name=f'place_{key}', run_without_submitting=True)
        workflow.connect([
            (anchor, gather, [('out_file', f'in{number + 1}')]),
            (anchor, outputnode, [('out_file', f'flair_{key}')]),
            (align, place, [('out_files', 'inlist')]),
            (place, outputnode, [('out', f'place_{key}')]),
        ])  # fmt: skip
    return workflow


_DESCRIPTION = """
The FLAIR images of all sessions of a participant were registered rigidly to each other, in the
space half-way between them; their average there was registered to the *MNI152NLin6Asym* template
with one affine transformation of 12 degrees of freedom, which all sessions share.
"""
