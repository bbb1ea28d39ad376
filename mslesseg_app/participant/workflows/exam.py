"""The workflow of one exam: it only connects."""

from __future__ import annotations

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline.engine import Node
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.workflow_names import exam_name
from mslesseg_app.core.settings import Settings
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.ensemble import (
    AnyModel,
    Ensemble,
    final_threshold,
    model_thresholds,
    models_of,
)
from mslesseg_app.models.prediction.presets import has_presets
from mslesseg_app.participant.interfaces.images import PrepareImage, RestoreToNative, ToTemplate
from mslesseg_app.participant.interfaces.lesions import (
    CombineModels,
    FindLesions,
    LabelsToMask,
    SegmentLesions,
)
from mslesseg_app.participant.interfaces.measure import MeasureExam
from mslesseg_app.participant.interfaces.regions import CheckSegmentation, DescribeLesions
from mslesseg_app.participant.interfaces.subject import TakeAnchor
from mslesseg_app.participant.workflows.align import init_builtin_align_wf
from mslesseg_app.participant.workflows.align_fsl import init_fsl_align_wf
from mslesseg_app.participant.workflows.outputs import init_outputs_wf

#: Threads and memory (GB) of the nodes that need more than the usual.
_BIAS_MEM_GB = 1.0


def init_exam_wf(
    *, exam: Exam, settings: Settings, engine: str, entry: AnyModel, shared: bool = False
) -> Workflow:
    """Build the workflow of one exam.

    Parameters
    ----------
    exam : Exam
        Subject, session and images; it must have no ``problem``.
    settings : Settings
        The run's settings; ``threshold`` None takes the model's.
    engine : {'fsl', 'builtin'}
        The spatial engine.
    entry : ModelEntry or Ensemble
        The model, or several combined.
    shared : bool
        The session shares a within-subject template: the workflow has an inputnode then, with
        ``flair`` (prepared) and ``place`` (its alignment), both from ``init_subject_wf``.

    Returns
    -------
    LiterateWorkflow
        Its outputs are written by the sub-workflow ``outputs_wf``.
    """
    workflow = Workflow(name=exam_name(exam))
    modalities = tuple(exam.images)
    prepare = _init_prepare_wf(exam, settings, shared)
    align = _init_align_wf(exam, settings, engine, shared)
    if shared:
        inputnode = Node(IdentityInterface(fields=['flair', 'place']), name='inputnode')
        workflow.connect([
            (inputnode, prepare, [('flair', 'inputnode.flair')]),
            (inputnode, align, [('place', 'inputnode.place')]),
        ])  # fmt: skip
    lesions = init_lesion_wf(exam=exam, settings=settings, entry=entry)
    outputs = init_outputs_wf(exam=exam, settings=settings, engine=engine, entry=entry)
    native = any(model.is_native for model in models_of(entry))
    for item in (name.lower() for name in modalities):
        if native:
            _connect_native(workflow, (prepare, align, lesions), item)
        _connect_image(workflow, (prepare, align, lesions, outputs), item)
    fields = lesion_fields(settings, exam, entry)
    workflow.connect([
        (align, lesions, [
            ('outputnode.brain_mask', 'inputnode.brain_mask'),
            ('outputnode.flair_xfm', 'inputnode.flair_xfm'),
            ('outputnode.quality', 'inputnode.quality'),
        ]),
        (align, outputs, [
            ('outputnode.brain_mask', 'inputnode.brain_mni'),
            ('outputnode.quality', 'inputnode.quality'),
            ('outputnode.subject_reference', 'inputnode.subject_reference'),
        ]),
        (lesions, outputs, [(f'outputnode.{name}', f'inputnode.{name}') for name in fields]),
    ])  # fmt: skip
    return workflow


def _init_align_wf(exam: Exam, settings: Settings, engine: str, shared: bool) -> Workflow:
    names, registered = tuple(exam.images), exam.registered
    if engine == 'fsl' and not registered:
        return init_fsl_align_wf(modalities=names, settings=settings)
    return init_builtin_align_wf(
        modalities=names, settings=settings, registered=registered, shared=shared
    )


def _connect_image(workflow: Workflow, parts: tuple[Workflow, ...], item: str) -> None:
    """Hand an image, and where it lies on the template, from part to part."""
    prepare, align, lesions, outputs = parts
    workflow.connect([
        (prepare, align, [(f'outputnode.{item}', f'inputnode.{item}')]),
        (prepare, outputs, [(f'outputnode.{item}', f'inputnode.{item}_native')]),
        (align, lesions, [(f'outputnode.{item}_mni', f'inputnode.{item}_mni')]),
        (align, outputs, [
            (f'outputnode.{item}_mni', f'inputnode.{item}_mni'),
            (f'outputnode.{item}_xfm', f'inputnode.{item}_xfm'),
        ]),
    ])  # fmt: skip


def _connect_native(workflow: Workflow, parts: tuple[Workflow, ...], item: str) -> None:
    """Hand an image on its own grid, and its alignment, to the engines that work there."""
    prepare, align, lesions = parts
    workflow.connect(prepare, f'outputnode.{item}', lesions, f'inputnode.{item}_native')
    if item != 'flair':
        workflow.connect(align, f'outputnode.{item}_xfm', lesions, f'inputnode.{item}_xfm')


def _init_prepare_wf(exam: Exam, settings: Settings, shared: bool) -> Workflow:
    """Check each image and remove its bias field.

    The FLAIR of a session that shares a template was prepared for that already.
    """
    workflow = Workflow(name='prepare_wf')
    correct = settings.bias_correction and not exam.registered
    workflow.__desc__ = (
        '\nThe intensities of each image were corrected for the bias field with *N4* (Tustison et '
        'al., IEEE Trans. Med. Imaging 2010).\n'
        if correct
        else '\nNo bias-field correction was done.\n'
    )
    names = [name.lower() for name in exam.images]
    outputnode = Node(IdentityInterface(fields=names), name='outputnode')
    for item, path in zip(names, exam.images.values(), strict=True):
        ready = shared and item == 'flair'
        one = PrepareImage(in_file=str(path), correct_bias=correct)
        conform = Node(TakeAnchor() if ready else one, name=f'conform_{item}', mem_gb=_BIAS_MEM_GB)
        if ready:
            inputnode = Node(IdentityInterface(fields=['flair']), name='inputnode')
            workflow.connect(inputnode, 'flair', conform, 'in_file')
        workflow.connect(conform, 'out_file', outputnode, item)
    return workflow


#: What the lesion workflow hands to the outputs.
LESION_FIELDS = (
    'prob_mni',
    'prob_native',
    'brain_native',
    'lesion_native',
    'lesion_mni',
    'instances_native',
    'instances_mni',
    'regions_native',
    'regions',
    'lesions',
    'metrics',
    'summary',
    'metadata',
    'info',
    'qc',
    'reference',
    'selfcheck',
    'selfcheck_metadata',
)


def lesion_fields(settings: Settings, exam: Exam, entry: AnyModel) -> tuple[str, ...]:
    """Return the fields of the lesion workflow; uncertainty, edits and models only if any."""
    fields = (*LESION_FIELDS, 'edit') if exam.edited else LESION_FIELDS
    fields = (*fields, 'models_native') if isinstance(entry, Ensemble) else fields
    if settings.uncertainty == 'none':
        return fields
    return (*fields, 'uncertainty_native', 'uncertainty_mni')


def init_lesion_wf(*, exam: Exam, settings: Settings, entry: AnyModel) -> Workflow:
    """Run the model, restore its probability, make masks, instances, table and numbers."""
    workflow = Workflow(name='lesion_wf')
    threshold = final_threshold(entry, settings.threshold)
    workflow.__desc__ = _describe_lesions(settings, entry, threshold)
    names = [modality.lower() for modality in exam.images]
    ports = [f'{item}_{kind}' for item in names for kind in ('mni', 'native', 'xfm')]
    inputnode = Node(IdentityInterface(fields=[*ports, 'brain_mask', 'quality']), name='inputnode')
    outputnode = Node(
        IdentityInterface(fields=list(lesion_fields(settings, exam, entry))), name='outputnode'
    )
    flair = str(exam.images['FLAIR'])
    segment = _add_models(workflow, inputnode, names, settings, entry)
    prob, prob_field = _restore_to_native(workflow, inputnode, segment, entry, flair)
    find = Node(
        FindLesions(
            threshold=threshold,
            min_volume=settings.min_lesion_volume,
            connectivity=settings.connectivity,
        ),
        name='find',
        mem_gb=1.0,
    )
    workflow.connect([
        (inputnode, find, [('flair_xfm', 'transform')]),
        (segment, find, [('info', 'info')]),
        (prob, find, [(prob_field, 'prob_file')]),
        (segment, outputnode, [('prob_file', 'prob_mni'), ('info', 'info')]),
        (prob, outputnode, [(prob_field, 'prob_native')]),
        (find, outputnode, [('mask_file', 'lesion_native'), ('labels_file', 'instances_native'),
                            ('summary', 'summary'), ('metadata', 'metadata')]),
    ])  # fmt: skip
    ends = (inputnode, find, outputnode)
    measure = _add_measure(workflow, ends, exam, entry)
    workflow.connect(segment, 'info', measure, 'info')
    _add_description(workflow, ends, measure, names)
    if exam.edited:
        find.inputs.edited_file = str(exam.edited)
        workflow.connect(find, 'edit', outputnode, 'edit')
    if isinstance(entry, Ensemble):
        _add_agreement(workflow, inputnode, find, settings, entry, flair)
        workflow.connect(find, 'models_file', outputnode, 'models_native')
    if settings.uncertainty != 'none':
        _add_uncertainty(workflow, (inputnode, segment, find, outputnode), flair)
    return workflow


def _add_measure(
    workflow: Workflow, ends: tuple[Node, Node, Node], exam: Exam, entry: AnyModel
) -> Node:
    """Add the numbers of the exam, and the brain mask in native space, which they need."""
    inputnode, find, outputnode = ends
    restore = Node(
        RestoreToNative(original=str(exam.images['FLAIR']), threshold=0.5),
        name='restore_brain',
        mem_gb=1.0,
    )
    measure = Node(_measure(exam, entry), name='measure', mem_gb=1.0)
    workflow.connect([
        (inputnode, restore, [('flair_xfm', 'transform'), ('brain_mask', 'in_file')]),
        (inputnode, measure, [('quality', 'quality'), ('brain_mask', 'brain_mni'),
                              ('flair_mni', 'flair_mni'), ('flair_xfm', 'transform')]),
        (find, measure, [('mask_file', 'mask_native'), ('summary', 'summary')]),
        (restore, measure, [('out_file', 'brain_native')]),
        (restore, outputnode, [('out_file', 'brain_native')]),
        (measure, outputnode, [('out_file', 'metrics'), ('qc', 'qc'),
                               ('reference_info', 'reference')]),
    ])  # fmt: skip
    return measure


def _add_description(
    workflow: Workflow, ends: tuple[Node, Node, Node], measure: Node, names: list[str]
) -> None:
    """Add the lesions on the template, their regions, and the self-check of the mask."""
    inputnode, find, outputnode = ends
    labels_mni = Node(ToTemplate(interpolation='nearest'), name='labels_mni', mem_gb=0.5)
    mask_mni = Node(LabelsToMask(), name='labels_mask_mni', mem_gb=0.5)
    regions = Node(DescribeLesions(), name='regions', mem_gb=1.5)
    selfcheck = Node(CheckSegmentation(), name='selfcheck', mem_gb=0.5)
    workflow.connect([
        (inputnode, labels_mni, [('flair_xfm', 'transform')]),
        (find, labels_mni, [('labels_file', 'in_file')]),
        (labels_mni, mask_mni, [('out_file', 'in_file')]),
        (inputnode, regions, [('flair_xfm', 'transform'), ('brain_mask', 'brain_mask')]
                             + [(f'{item}_mni', item) for item in names]),
        (find, regions, [('labels_file', 'labels_file'), ('table_file', 'table_file')]),
        (regions, measure, [('columns', 'regions')]),
        (inputnode, selfcheck, [('flair_mni', 'flair'), ('brain_mask', 'brain_mask'),
                                ('flair_xfm', 'transform')]),
        (mask_mni, selfcheck, [('out_file', 'mask')]),
        (selfcheck, measure, [('columns', 'selfcheck')]),
        (mask_mni, measure, [('out_file', 'mask_mni')]),
        (selfcheck, outputnode, [('record', 'selfcheck'), ('metadata', 'selfcheck_metadata')]),
        (regions, outputnode, [('table_file', 'lesions'), ('regions_file', 'regions_native'),
                               ('metadata', 'regions')]),
        (labels_mni, outputnode, [('out_file', 'instances_mni')]),
        (mask_mni, outputnode, [('out_file', 'lesion_mni')]),
    ])  # fmt: skip


def _restore_to_native(
    workflow: Workflow, inputnode: Node, segment: Node, entry: AnyModel, flair: str
) -> tuple[Node, str]:
    """Return the node, and its output, that holds the probability on the grid of the FLAIR.

    An engine that works there gives it itself; other probabilities are resampled to native space.
    """
    if not isinstance(entry, Ensemble) and entry.is_native:
        return segment, 'native_file'
    restore = Node(RestoreToNative(original=flair), name='restore_prob', mem_gb=1.0)
    workflow.connect([
        (inputnode, restore, [('flair_xfm', 'transform')]),
        (segment, restore, [('prob_file', 'in_file')]),
    ])  # fmt: skip
    return restore, 'out_file'


def _add_models(
    workflow: Workflow, inputnode: Node, names: list[str], settings: Settings, entry: AnyModel
) -> Node:
    """Add one inference node a model, and return the node that gives the combined map."""
    nodes = []
    for model in models_of(entry):
        segment = _segment_node(settings, model, alone=not isinstance(entry, Ensemble))
        for item in names:
            grid = 'native' if model.is_native else 'mni'
            workflow.connect(inputnode, f'{item}_{grid}', segment, item)
            if model.is_native:
                workflow.connect(inputnode, f'{item}_xfm', segment, f'{item}_xfm')
        workflow.connect(inputnode, 'brain_mask', segment, 'brain_mask')
        nodes.append(segment)
    if not isinstance(entry, Ensemble):
        return nodes[0]
    probs, infos = (Merge(len(nodes), no_flatten=True) for _ in range(2))
    merged = [Node(probs, name='model_probs'), Node(infos, name='model_infos')]
    combine = Node(
        CombineModels(
            method=entry.method,
            thresholds=list(model_thresholds(entry, settings.threshold)),
            uncertainty=settings.uncertainty,
        ),
        name='combine_models',
        mem_gb=1.0,
    )
    for node, output, field in zip(
        merged, ('prob_file', 'info'), ('prob_files', 'infos'), strict=True
    ):
        node.run_without_submitting = True
        for number, segment in enumerate(nodes, start=1):
            workflow.connect(segment, output, node, f'in{number}')
        workflow.connect(node, 'out', combine, field)
    return combine


def _add_agreement(
    workflow: Workflow,
    inputnode: Node,
    find: Node,
    settings: Settings,
    entry: Ensemble,
    flair: str,
) -> None:
    """Restore the probability of each model, to tell which agree on a lesion."""
    merge = Node(
        Merge(len(entry.models), no_flatten=True),
        name='model_natives',
        run_without_submitting=True,
    )
    for number, model in enumerate(entry.models, start=1):
        if model.is_native:
            segment = workflow.get_node(f'segment_{model.name}')
            workflow.connect(segment, 'native_file', merge, f'in{number}')
            continue
        restore = Node(
            RestoreToNative(original=flair), name=f'restore_model_{model.name}', mem_gb=1.0
        )
        workflow.connect([
            (inputnode, restore, [('flair_xfm', 'transform')]),
            (workflow.get_node(f'segment_{model.name}'), restore, [('prob_file', 'in_file')]),
            (restore, merge, [('out_file', f'in{number}')]),
        ])  # fmt: skip
    find.inputs.model_thresholds = list(model_thresholds(entry, settings.threshold))
    workflow.connect(merge, 'out', find, 'model_files')


def _add_uncertainty(workflow: Workflow, nodes: tuple[Node, Node, Node, Node], flair: str) -> None:
    """Resample the uncertainty map to native space and add it to the table."""
    inputnode, segment, find, outputnode = nodes
    restore = Node(RestoreToNative(original=flair), name='restore_uncertainty', mem_gb=1.0)
    workflow.connect([
        (inputnode, restore, [('flair_xfm', 'transform')]),
        (segment, restore, [('uncertainty_file', 'in_file')]),
        (restore, find, [('out_file', 'uncertainty_file')]),
        (segment, outputnode, [('uncertainty_file', 'uncertainty_mni')]),
        (restore, outputnode, [('out_file', 'uncertainty_native')]),
    ])  # fmt: skip


def _segment_node(settings: Settings, entry: ModelEntry, alone: bool) -> Node:
    """Make the inference node; on a GPU it takes one GPU slot, whatever its threads."""
    on_gpu = (entry.needs_weights or entry.is_engine) and settings.device.startswith('cuda')
    return Node(
        SegmentLesions(
            model=entry.name,
            model_digest=entry.digest,
            model_dir=str(settings.model_dir or ''),
            random_seed=settings.random_seed,
            preset=settings.preset if has_presets(entry) else '',
            uncertainty=settings.uncertainty if alone else 'none',
            device=settings.device,
            use_gpu=on_gpu,
            num_threads=settings.omp_nthreads,
        ),
        name='segment' if alone else f'segment_{entry.name}',
        n_procs=1 if on_gpu else settings.omp_nthreads,
        mem_gb=entry.memory_gb,
    )


def _measure(exam: Exam, entry: AnyModel) -> MeasureExam:
    measure = MeasureExam(
        participant=exam.subject,
        session=exam.session or '',
        model=entry.name,
        original=str(exam.images['FLAIR']),
    )
    if exam.reference is not None:
        measure.inputs.reference = str(exam.reference)
    return measure


def _describe_lesions(settings: Settings, entry: AnyModel, threshold: float) -> str:
    return f"""
White-matter lesions were segmented with {_describe_models(settings, entry)}.
{_joined_map(entry)} was brought back to the grid of the subject's own FLAIR and thresholded at
{threshold:g}; {settings.connectivity}-connected components of at least
{settings.min_lesion_volume:g} mm³ were kept.
Each lesion was assigned to a region of the McDonald criteria by its distances to ventricles and
cortex, which come from FreeSurfer's average brain in MNI152 space (Desikan et al., NeuroImage
2006), fitted to the exam and refined by its own fluid and grey matter.
The mask was compared with the clearly hyperintense tissue of the FLAIR by a self-check that does
not depend on the model.
"""


def _describe_models(settings: Settings, entry: AnyModel) -> str:
    """Name the model, or the models and how they were combined."""
    named = [
        f'*{model.name}* (version {model.version}, SHA256 {model.digest[:12]}…'
        + (f', preset {settings.preset})' if has_presets(model) else ')')
        for model in models_of(entry)
    ]
    if not isinstance(entry, Ensemble):
        return f'the model {named[0]}'
    how = {
        'mean': 'combined by the mean of their probabilities',
        'majority': 'combined by majority vote',
        'staple': 'combined by *STAPLE* (Warfield et al., IEEE Trans. Med. Imaging 2004)',
    }
    return f'the models {", ".join(named[:-1])} and {named[-1]}, {how[entry.method]}'


def _joined_map(entry: AnyModel) -> str:
    return 'The combined map' if isinstance(entry, Ensemble) else 'Its probability'
