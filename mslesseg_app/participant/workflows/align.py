"""The two spatial engines: sub-workflows with the same inputs and outputs.

Inputs: ``flair``, ``t1w``, ``t2w`` (on the grids of the raw images). Outputs: for each of them
``<name>_xfm`` (ITK affine that maps points of the template to points of the image) and
``<name>_mni`` (the image on the template grid), ``brain_mask`` on the template grid,
``quality`` (JSON file: the numbers and the status for each image) and ``subject_reference``
(metadata: what the session was aligned through).
"""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface
from nipype.pipeline.engine import Node
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from mslesseg_app.core.settings import Settings
from mslesseg_app.participant.interfaces.images import ToTemplate
from mslesseg_app.participant.interfaces.spatial import AlignExam, ExtractBrain

#: Memory that alignment needs at the most, in GB (measured: see docs/performance.md).
ALIGN_MEM_GB = 2.0


def init_builtin_align_wf(
    *,
    modalities: tuple[str, ...],
    settings: Settings,
    registered: bool,
    shared: bool = False,
) -> Workflow:
    """Align and extract the brain without FSL.

    Parameters
    ----------
    modalities : tuple of str
        The images of the exam, among FLAIR, T1w and T2w.
    settings : Settings
        ``strategy``, ``on_failed_alignment`` and ``random_seed`` count.
    registered : bool
        The images lie on the template grid already: the identity is used.
    shared : bool
        The session shares a within-subject template with others: one more input, ``place``,
        says where it lies in it.
    """
    workflow = Workflow(name='align_wf')
    workflow.__desc__ = _methods_text(modalities, settings, registered, shared)
    names = [modality.lower() for modality in modalities]
    fields = [*names, 'place'] if shared else names
    inputnode = Node(IdentityInterface(fields=fields), name='inputnode')
    outputnode = Node(IdentityInterface(fields=output_fields(modalities)), name='outputnode')
    align = Node(
        AlignExam(
            strategy=settings.strategy,
            registered=registered,
            on_failed=settings.on_failed_alignment,
            random_seed=settings.random_seed,
        ),
        name='align',
        mem_gb=ALIGN_MEM_GB,
    )
    brain = Node(ExtractBrain(), name='brain', mem_gb=1.0)
    for item in names:
        resample = Node(ToTemplate(), name=f'resample_{item}', mem_gb=0.5)
        workflow.connect([
            (inputnode, align, [(item, item)]),
            (inputnode, resample, [(item, 'in_file')]),
            (align, resample, [(f'{item}_xfm', 'transform')]),
            (resample, brain, [('out_file', item)]),
            (resample, outputnode, [('out_file', f'{item}_mni')]),
            (align, outputnode, [(f'{item}_xfm', f'{item}_xfm')]),
        ])  # fmt: skip
    workflow.connect([
        (brain, outputnode, [('out_file', 'brain_mask')]),
        (align, outputnode, [('quality', 'quality'), ('subject_reference', 'subject_reference')]),
    ])  # fmt: skip
    if shared:
        workflow.connect(inputnode, 'place', align, 'place')
    return workflow


def output_fields(modalities: tuple[str, ...]) -> list[str]:
    """Return the fields of the outputnode that both engines share."""
    names = [modality.lower() for modality in modalities]
    return [f'{item}_{kind}' for kind in ('xfm', 'mni') for item in names] + [
        'brain_mask',
        'quality',
        'subject_reference',
    ]


def _methods_text(
    modalities: tuple[str, ...], settings: Settings, registered: bool, shared: bool
) -> str:
    if registered:
        return """
The images were on the 1 mm grid of *MNI152NLin6Asym* already and were not registered again.
"""
    if settings.strategy == 'independent':
        return f"""
Each image ({', '.join(modalities)}) was registered to the *MNI152NLin6Asym* template with an
affine transformation of 12 degrees of freedom (normalised mutual information).
A brain mask was computed on the template grid.
"""
    if shared:
        return f"""
Of the images ({', '.join(modalities)}) the FLAIR was taken to the *MNI152NLin6Asym* template
through the within-subject template, and the others rigidly to the FLAIR (normalised mutual
information).
Each image was resampled to the 1 mm template grid in one interpolation, and one brain mask was
computed from all of them.
"""
    return f"""
Of the images ({', '.join(modalities)}) the one that fitted best was registered to the
*MNI152NLin6Asym* template with an affine transformation of 12 degrees of freedom, the others to
it rigidly (normalised mutual information).
Each image was resampled to the 1 mm template grid in one interpolation, and one brain mask was
computed from all of them.
"""
