"""The spatial engine on FSL's FLIRT and BET; same inputs and outputs as the builtin one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline.engine import Node
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from mslesseg_app.core.settings import Settings
from mslesseg_app.participant.interfaces.fsl import (
    CheckAlignment,
    CombineMasks,
    MaskToBrain,
    MatrixToTransform,
    StartMatrix,
)
from mslesseg_app.participant.interfaces.fsl_programs import ReportedBET, ReportedFLIRT
from mslesseg_app.participant.interfaces.images import ToTemplate, TurnToRas
from mslesseg_app.participant.workflows.align import output_fields

#: Whatever FSLOUTPUTTYPE says in the user's shell.
_TYPE = 'NIFTI_GZ'
#: Refines the start that it is given, where FLIRT's own would search.
_SCHEDULE = Path(__file__).parents[2] / 'data' / 'flirt_from_start.sch'


def template_path(name: str) -> str:
    """Return the path of one of FSL's standard images."""
    return str(Path(os.environ['FSLDIR']) / 'data' / 'standard' / name)


def init_fsl_align_wf(*, modalities: tuple[str, ...], settings: Settings) -> Workflow:
    """Align with FLIRT and extract the brain with BET.

    ``independent`` is the procedure of the MSLesSeg paper: FLIRT with 12 degrees of freedom and
    its default options takes each image to the whole-head template, then BET, with its default
    options, strips each registered image; the brain mask is the union of their brains.

    ``anchored`` takes the FLAIR to the template's brain (12 degrees of freedom) and the other
    images to the FLAIR (6), each from a start that our own coarse search finds, with normalised
    mutual information in the region of the brain, and resamples each original image once. BET
    strips the FLAIR; no alignment depends on it.

    Written for FSL 6.0 (FLIRT 6.0, BET 2.1); the options exist since FSL 5.

    Parameters
    ----------
    modalities : tuple of str
        The images of the exam; the FLAIR is among them.
    settings : Settings
    """
    independent = settings.strategy == 'independent'
    workflow = Workflow(name='align_wf')
    workflow.__desc__ = _INDEPENDENT if independent else _ANCHORED
    names = [modality.lower() for modality in modalities]
    inputnode = Node(IdentityInterface(fields=names), name='inputnode')
    turned = Node(TurnToRas(), name='conform_ras', mem_gb=0.5)
    outputnode = Node(IdentityInterface(fields=output_fields(modalities)), name='outputnode')
    check = Node(
        CheckAlignment(
            anchor='' if independent else 'FLAIR', on_failed=settings.on_failed_alignment
        ),
        name='align_check',
        mem_gb=1.0,
    )
    for field in ('quality', 'subject_reference'):
        workflow.connect(check, field, outputnode, field)
    for item in names:
        workflow.connect(inputnode, item, turned, item)
        workflow.connect(turned, item, check, item)
        # What the check lets pass goes on: a failed alignment stops here.
        workflow.connect(check, f'{item}_xfm', outputnode, f'{item}_xfm')
    parts = (workflow, turned, check, outputnode, names)
    if independent:
        _connect_independent(*parts)
    else:
        _connect_anchored(*parts, settings)
    _connect_commands(workflow, check)
    return workflow


def _connect_commands(workflow: Workflow, check: Node) -> None:
    """Hand the command lines of FLIRT and BET to the sidecars."""
    nodes = [workflow.get_node(name) for name in sorted(workflow.list_node_names())]
    programs = [node for node in nodes if isinstance(node.interface, (ReportedFLIRT, ReportedBET))]
    gather = Node(Merge(len(programs)), name='align_commands', run_without_submitting=True)
    for number, node in enumerate(programs, start=1):
        workflow.connect(node, 'command', gather, f'in{number}')
    workflow.connect(gather, 'out', check, 'commands')


def _connect_independent(
    workflow: Workflow, inputnode: Node, check: Node, outputnode: Node, names: list[str]
) -> None:
    head = template_path('MNI152_T1_1mm.nii.gz')
    masks = Node(Merge(len(names)), name='bet_masks', run_without_submitting=True)
    union = Node(CombineMasks(), name='brain_union')
    brain = Node(MaskToBrain(), name='brain')
    workflow.connect([
        (masks, union, [('out', 'in_files')]),
        (union, brain, [('out_file', 'in_file')]),
        (brain, outputnode, [('out_file', 'brain_mask')]),
    ])  # fmt: skip
    for number, item in enumerate(names, 1):
        flirt = Node(
            ReportedFLIRT(reference=head, dof=12, output_type=_TYPE),
            name=f'flirt_{item}',
            mem_gb=0.5,
        )
        bet = Node(ReportedBET(mask=True, output_type=_TYPE), name=f'bet_{item}', mem_gb=0.5)
        to_itk = Node(MatrixToTransform(reference=head), name=f'align_itk_{item}')
        workflow.connect([
            (inputnode, flirt, [(item, 'in_file')]),
            (inputnode, to_itk, [(item, 'in_file')]),
            (flirt, to_itk, [('out_matrix_file', 'matrix')]),
            (flirt, bet, [('out_file', 'in_file')]),
            (to_itk, check, [('out_file', f'{item}_matrix')]),
            (bet, outputnode, [('out_file', f'{item}_mni')]),
            (bet, masks, [('mask_file', f'in{number}')]),
        ])  # fmt: skip


def _connect_anchored(
    workflow: Workflow,
    inputnode: Node,
    check: Node,
    outputnode: Node,
    names: list[str],
    settings: Settings,
) -> None:
    start = Node(_start(settings), name='start_flair', mem_gb=1.0)
    to_template = Node(_flirt(12, reference=_brain()), name='flirt_flair', mem_gb=0.5)
    workflow.connect([
        (inputnode, start, [('flair', 'in_file')]),
        (inputnode, to_template, [('flair', 'in_file')]),
        (start, to_template, [('out_file', 'in_matrix_file'), ('weight', 'ref_weight')]),
    ])  # fmt: skip
    for item in names:
        to_itk = Node(MatrixToTransform(reference=_brain()), name=f'align_itk_{item}')
        workflow.connect([
            (inputnode, to_itk, [(item, 'in_file')]),
            (to_itk, check, [('out_file', f'{item}_matrix')]),
        ])  # fmt: skip
        if item == 'flair':
            workflow.connect(to_template, 'out_matrix_file', to_itk, 'matrix')
        else:
            workflow.connect(to_template, 'out_matrix_file', to_itk, 'via_matrix')
            _connect_rigid(workflow, settings, inputnode, start, to_itk, item)
        resample = Node(ToTemplate(), name=f'resample_{item}', mem_gb=0.5)
        workflow.connect([
            (inputnode, resample, [(item, 'in_file')]),
            (check, resample, [(f'{item}_xfm', 'transform')]),
            (resample, outputnode, [('out_file', f'{item}_mni')]),
        ])  # fmt: skip
    _connect_brain(workflow, inputnode, check, outputnode)


def _brain() -> str:
    return template_path('MNI152_T1_1mm_brain.nii.gz')


def _start(settings: Settings) -> StartMatrix:
    return StartMatrix(template=_brain(), random_seed=settings.random_seed)


def _flirt(dof: int, **inputs: Any) -> ReportedFLIRT:
    """Return FLIRT that starts from a given pose and weighs the brain's region only."""
    return ReportedFLIRT(
        dof=dof,
        cost='normmi',
        no_search=True,
        schedule=str(_SCHEDULE),
        output_type=_TYPE,
        **inputs,
    )


def _connect_rigid(
    workflow: Workflow, settings: Settings, inputnode: Node, flair: Node, to_itk: Node, item: str
) -> None:
    """Take another image to the FLAIR by 6 DOF; its matrix is chained with the FLAIR's."""
    start = Node(_start(settings), name=f'start_{item}', mem_gb=1.0)
    rigid = Node(_flirt(6), name=f'flirt_{item}', mem_gb=0.5)
    workflow.connect([
        (inputnode, start, [(item, 'in_file'), ('flair', 'anchor')]),
        (flair, start, [('out_file', 'anchor_start'), ('in_weight', 'anchor_weight')]),
        (inputnode, rigid, [(item, 'in_file'), ('flair', 'reference')]),
        (flair, rigid, [('in_weight', 'ref_weight')]),
        (start, rigid, [('out_file', 'in_matrix_file')]),
        (rigid, to_itk, [('out_matrix_file', 'matrix')]),
        (inputnode, to_itk, [('flair', 'via')]),
    ])  # fmt: skip


def _connect_brain(workflow: Workflow, inputnode: Node, check: Node, outputnode: Node) -> None:
    """Extract the FLAIR's brain and bring its mask to the template."""
    bet = Node(
        ReportedBET(mask=True, robust=True, output_type=_TYPE), name='bet_flair', mem_gb=0.5
    )
    to_mni = Node(ToTemplate(interpolation='nearest'), name='brain_mni', mem_gb=0.5)
    brain = Node(MaskToBrain(), name='brain')
    workflow.connect([
        (inputnode, bet, [('flair', 'in_file')]),
        (bet, to_mni, [('mask_file', 'in_file')]),
        (check, to_mni, [('flair_xfm', 'transform')]),
        (to_mni, brain, [('out_file', 'in_file')]),
        (brain, outputnode, [('out_file', 'brain_mask')]),
    ])  # fmt: skip


_INDEPENDENT = """
Each image was registered on its own to the whole-head *MNI152* template (1 mm) with *FLIRT*
(12 degrees of freedom, default options; Jenkinson and Smith, Med Image Anal 2001; Jenkinson et
al., NeuroImage 2002), and the brain was extracted from each registered image with *BET* (default
options; Smith, Hum Brain Mapp 2002), as in the preparation of the MSLesSeg dataset; the brain
mask is the union of the brains of the images. In one thing this departs from it: the axes of each
image were brought into the order right, anterior, superior first.
"""

_ANCHORED = """
The FLAIR was registered to the *MNI152* brain template (1 mm) with *FLIRT* (12 degrees of
freedom; Jenkinson and Smith, Med Image Anal 2001; Jenkinson et al., NeuroImage 2002), the other
images to the FLAIR (6 degrees of freedom); each registration began at the
result of a coarse search by *mslesseg* and maximised normalised mutual information in the region
of the brain.
Each image was then resampled in one interpolation, and the brain was extracted from the FLAIR
with *BET* (robust centre estimation; Smith, Hum Brain Mapp 2002).
"""
