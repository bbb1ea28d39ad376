"""What an exam leaves in the output dataset: files, sidecars, figures and its record."""

from __future__ import annotations

from typing import Any

from nipype.interfaces.utility import IdentityInterface, Merge
from nipype.pipeline.engine import Node
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import output_entities
from mslesseg_app.bids.sidecars import Sidecars
from mslesseg_app.core.settings import Settings
from mslesseg_app.models.prediction.ensemble import AnyModel, Ensemble
from mslesseg_app.participant.interfaces.report import (
    DescribeExam,
    DrawAlignment,
    DrawBrain,
    DrawLesions,
    MergeMetadata,
)
from mslesseg_app.participant.interfaces.sink import DerivativesDataSink
from mslesseg_app.participant.interfaces.spatial import InvertTransform


def init_outputs_wf(*, exam: Exam, settings: Settings, engine: str, entry: AnyModel) -> Workflow:
    """Write everything that one exam leaves behind.

    The inputs are those of the alignment and lesion workflows; there are no outputs but files.
    """
    workflow = Workflow(name='outputs_wf')
    names = [modality.lower() for modality in exam.images]
    fields = [f'{item}_{kind}' for item in names for kind in ('native', 'mni', 'xfm')]
    fields += ['brain_native', 'brain_mni', 'prob_native', 'prob_mni', 'summary']
    fields += ['lesion_native', 'lesion_mni', 'instances_native', 'instances_mni']
    fields += ['lesions', 'metrics', 'info', 'qc', 'reference', 'metadata', 'subject_reference']
    fields += ['quality', 'regions_native', 'regions', *(['edit'] if exam.edited else [])]
    fields += ['selfcheck', 'selfcheck_metadata']
    fields += ['models_native'] if isinstance(entry, Ensemble) else []
    uncertain = () if settings.uncertainty == 'none' else ('uncertainty',)
    fields += [f'{kind}_{space}' for kind in uncertain for space in ('native', 'mni')]
    inputnode = Node(IdentityInterface(fields=fields), name='inputnode')
    sinks = _Sinks(workflow, inputnode, exam, settings)
    texts = Sidecars(exam, settings, entry, engine)
    for modality in exam.images:
        _add_image(sinks, texts, modality)
    reference = (inputnode, 'subject_reference')
    both = _merge_metadata(workflow, 'describe_lesions', (inputnode, 'metadata'), reference)
    checked = _merge_metadata(
        workflow, 'describe_checked', both, (inputnode, 'selfcheck_metadata')
    )
    sinks.feeds += [both, checked]
    marked, edit = _add_edit(sinks, exam, checked)
    for space in ('native', 'mni'):
        sinks.add('brain_' + space, texts.brain(space), extra=reference)
        for kind in ('lesion', 'prob', 'instances', *uncertain):
            extra = marked if kind in ('lesion', 'instances') else both
            sinks.add(f'{kind}_{space}', texts.lesion(kind, space), extra=extra, desc=entry.name)
    regions = (inputnode, 'regions')
    sinks.add('regions_native', texts.lesion('regions', 'native'), extra=regions, desc=entry.name)
    if isinstance(entry, Ensemble):
        models = texts.lesion('models', 'native')
        sinks.add('models_native', models, extra=both, desc=entry.name)
    sinks.add('lesions', texts.lesion_table(), extra=edit, desc=entry.name)
    measured = (inputnode, 'selfcheck_metadata')
    if edit:
        measured = _merge_metadata(workflow, 'describe_measured', measured, edit)
    sinks.add('metrics', texts.metrics(), extra=measured, desc=entry.name)
    figures = _add_figures(sinks, exam, entry)
    record = _add_record(sinks, exam, settings, engine, entry)
    sinks.wait_for([record, *figures])
    return workflow


class _Sinks:
    """Add sinks to a workflow, all alike."""

    def __init__(
        self, workflow: Workflow, inputnode: Node, exam: Exam, settings: Settings
    ) -> None:
        self.workflow = workflow
        self.inputnode = inputnode
        self.source = str(exam.images['FLAIR'])
        self.out_dir = str(settings.out_dir)
        self.all: list[Node] = []
        self.feeds: list[tuple[Node, str]] = []

    def add(
        self,
        key: str,
        metadata: dict[str, Any] | None = None,
        *,
        field: str = '',
        source: tuple[Node, str] | None = None,
        extra: tuple[Node, str] | None = None,
        name: str = '',
        **entities: Any,
    ) -> None:
        """Sink one output.

        Parameters
        ----------
        key : str
            Kind of output in ``io_spec.json``.
        metadata : dict, optional
            Content of the sidecar.
        field, source
            Field of the inputnode (default: ``key``), or node and field, that gives the file.
        extra
            Node and field that give metadata which are known only when the exam has run.
        """
        names = output_entities(key, **entities)
        sink = Node(
            DerivativesDataSink(
                base_directory=self.out_dir,
                source_file=self.source,
                compress='extension' not in names,  # those without are images
                **names,
                **(metadata or {}),
            ),
            name='ds_' + (name or key),
            run_without_submitting=True,
        )
        node, output = source or (self.inputnode, field or key)
        self.workflow.connect(node, output, sink, 'in_file')
        self.all.append(sink)
        self.feeds.append((node, output))
        if extra:
            self.workflow.connect(*extra, sink, 'meta_dict')

    def wait_for(self, nodes: list[Node]) -> None:
        """Let no sink write before all of ``nodes``, and all that the sinks write, is there.

        An exam that fails half-way then leaves what an earlier run wrote as it is.
        """
        needed = list(dict.fromkeys([*self.feeds, *((node, 'out_file') for node in nodes)]))
        gate = Node(Merge(len(needed)), name='describe_end', run_without_submitting=True)
        for number, (node, field) in enumerate(needed, start=1):
            self.workflow.connect(node, field, gate, f'in{number}')
        for sink in self.all:
            self.workflow.connect(gate, 'out', sink, 'after')


def _merge_metadata(
    workflow: Workflow, name: str, first: tuple[Node, str], second: tuple[Node, str]
) -> tuple[Node, str]:
    """Add a node that puts two dictionaries of metadata into one."""
    node = Node(MergeMetadata(), name=name, run_without_submitting=True)
    workflow.connect(*first, node, 'first')
    workflow.connect(*second, node, 'second')
    return node, 'out'


def _add_edit(
    sinks: _Sinks, exam: Exam, metadata: tuple[Node, str]
) -> tuple[tuple[Node, str], tuple[Node, str] | None]:
    """Mark what follows from an edited mask: return what masks, and what tables say of it."""
    if not exam.edited:
        return metadata, None
    edit = (sinks.inputnode, 'edit')
    marked = _merge_metadata(sinks.workflow, 'describe_edited', metadata, edit)
    sinks.feeds.append(marked)
    return marked, edit


def _add_image(sinks: _Sinks, texts: Sidecars, modality: str) -> None:
    item = modality.lower()
    for space in ('native', 'mni'):
        sinks.add(
            f'preproc_{space}',
            texts.preproc(modality, space),
            field=f'{item}_{space}',
            name=f'preproc_{item}_{space}',
            extra=(sinks.inputnode, 'subject_reference') if space == 'mni' else None,
            suffix=modality,
        )
    invert = Node(InvertTransform(), name=f'native_xfm_{item}', run_without_submitting=True)
    sinks.workflow.connect(sinks.inputnode, f'{item}_xfm', invert, 'in_file')
    # ITK resamples by mapping points of the target to points of the source: the file that
    # brings the FLAIR to MNI maps MNI points to the FLAIR.
    sinks.add('to_mni', field=f'{item}_xfm', name=f'to_mni_{item}', **_from(modality))
    sinks.add('from_mni', source=(invert, 'out_file'), name=f'from_mni_{item}', to=modality)


def _from(modality: str) -> dict[str, Any]:
    return {'from': modality}  # a word that Python keeps for itself


def _add_figures(sinks: _Sinks, exam: Exam, entry: AnyModel) -> list[Node]:
    workflow, inputnode = sinks.workflow, sinks.inputnode
    lesions = Node(DrawLesions(), name='figure_lesions', mem_gb=0.5)
    brain = Node(DrawBrain(), name='figure_brain', mem_gb=0.5)
    workflow.connect([
        (inputnode, lesions, [('flair_native', 'flair'), ('instances_native', 'labels'),
                              ('prob_native', 'prob'), ('brain_native', 'brain')]),
        (inputnode, brain, [('flair_native', 'image'), ('brain_native', 'mask')]),
    ])  # fmt: skip
    sinks.add('figure_lesions', source=(lesions, 'out_file'), desc=entry.name)
    sinks.add('figure_brain', source=(brain, 'out_file'))
    figures = [lesions, brain]
    for modality in exam.images:
        item = modality.lower()
        flicker = Node(DrawAlignment(modality=modality), name=f'figure_{item}', mem_gb=0.5)
        workflow.connect(inputnode, f'{item}_mni', flicker, 'moving')
        sinks.add(
            'figure_alignment',
            source=(flicker, 'out_file'),
            name=f'figure_alignment_{item}',
            suffix=modality,
        )
        figures.append(flicker)
    return figures


def _add_record(
    sinks: _Sinks,
    exam: Exam,
    settings: Settings,
    engine: str,
    entry: AnyModel,
) -> Node:
    """Keep what the report says of this exam, so that it can be written again at any time."""
    from mslesseg_app.reports.records import static_content

    describe = Node(
        DescribeExam(content=static_content(exam, settings, engine, entry)), name='describe'
    )
    fields = ('lesions', 'summary', 'info', 'qc', 'reference', 'subject_reference', 'selfcheck')
    for field in fields:
        sinks.workflow.connect(sinks.inputnode, field, describe, field)
    sinks.add('exam', source=(describe, 'out_file'), desc=entry.name)
    return describe
