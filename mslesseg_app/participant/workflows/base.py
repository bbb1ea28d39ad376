"""The workflow of exams, Nipype's configuration, and the graphs and records it gives."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import networkx as nx
from nipype import config
from nipype.pipeline.engine import Node
from nipype.pipeline.engine.utils import write_workflow_prov, write_workflow_resources
from nipype.pipeline.plugins.tools import report_crash
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from mslesseg_app import __version__
from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.exams import share_template
from mslesseg_app.bids.workflow_names import stage_of, top_name
from mslesseg_app.core.errors import MSLesSegError, UsageError
from mslesseg_app.core.files import publish, write_text
from mslesseg_app.core.fsl import missing_fsl
from mslesseg_app.core.settings import Settings
from mslesseg_app.models.prediction.ensemble import AnyModel
from mslesseg_app.participant.interfaces.base import error_in
from mslesseg_app.participant.workflows.exam import init_exam_wf
from mslesseg_app.participant.workflows.subject import init_subject_wf, session_key
from mslesseg_app.participant.workflows.workers import log_to_file


@dataclass(frozen=True)
class ExamFailure:
    """Why an exam's workflow did not reach its end.

    Attributes
    ----------
    step : str
        Stage in the user's words.
    node : str
        Nipype's name of the node.
    """

    error: MSLesSegError
    step: str
    node: str


def choose_engine(settings: Settings) -> str:
    """Return the spatial engine, ``fsl`` where FSL is installed unless asked otherwise.

    Only ``builtin`` has the within-subject template.

    Raises
    ------
    UsageError
        If ``fsl`` is asked for and FSL is not installed.
    """
    if settings.engine == 'builtin' or settings.unbiased:
        return 'builtin'
    missing = missing_fsl()
    if not missing:
        return 'fsl'
    if settings.engine == 'fsl':
        raise UsageError(
            f'--engine fsl needs FSL, and this is missing: {", ".join(missing)}.',
            'Install FSL and set FSLDIR, or use --engine builtin, which needs nothing more.',
        )
    return 'builtin'


def init_run_wf(
    *, exams: list[Exam], settings: Settings, engine: str, entry: AnyModel
) -> Workflow:
    """Build the workflow of some exams.

    They do not depend on each other, but for those of a subject whose sessions share a
    within-subject template. A run builds one for each exam, or for all of such a subject.

    Parameters
    ----------
    exams : list of Exam
        Without those that have a ``problem``.
    """
    workflow = Workflow(name=top_name(), base_dir=str(settings.work_dir))
    workflow.__desc__ = (
        f'Results were made with *mslesseg* {__version__}, a BIDS App built on *Nipype*.\n'
    )
    sharing = share_template(exams, settings)
    shared = {subject: init_subject_wf(exams=group, settings=settings)
              for subject, group in sharing.items()}  # fmt: skip
    for subject, part in shared.items():
        keep_crashes(part, settings.out_dir / f'sub-{subject}' / 'log' / settings.run_uuid)
        workflow.add_nodes([part])
    for exam in exams:
        group = exam in sharing.get(exam.subject, [])
        part = init_exam_wf(exam=exam, settings=settings, engine=engine, entry=entry, shared=group)
        keep_crashes(part, settings.out_dir / exam.folder / 'log' / settings.run_uuid)
        workflow.add_nodes([part])
        if group:
            key = session_key(exam)
            workflow.connect([(shared[exam.subject], part, [
                (f'outputnode.flair_{key}', 'inputnode.flair'),
                (f'outputnode.place_{key}', 'inputnode.place'),
            ])])  # fmt: skip
    return workflow


def keep_crashes(part: Workflow, folder: Path) -> None:
    """Let the nodes of a workflow leave their crash files in a folder."""
    part.config['execution']['crashdump_dir'] = str(folder)
    for name in part.list_node_names():
        part.get_node(name).config = deepcopy(part.config)


@contextmanager
def configured_nipype(settings: Settings) -> Iterator[None]:
    """Set what Nipype keeps globally, for the length of one run.

    Caching goes by content, nothing goes to the network, crash files are text.
    """
    wanted = {
        'execution': {
            'hash_method': 'content',
            'crashfile_format': 'txt',
            'check_version': False,
            'create_report': False,
            'remove_unnecessary_outputs': False,
            'stop_on_first_crash': settings.stop_on_first_crash,
            'write_provenance': settings.write_provenance,
            'get_linked_libs': False,
        },
        'monitoring': {
            'enabled': settings.resource_monitor,
            'sample_frequency': '0.5',
            'summary_append': True,
        },
    }
    before = {
        section: {name: config.get(section, name) for name in values}
        for section, values in wanted.items()
    }
    monitored = config.resource_monitor
    config.update_config(wanted)
    config.resource_monitor = settings.resource_monitor
    log_to_file(log_path(settings))
    try:
        yield
    finally:
        config.update_config({
            section: {name: value for name, value in values.items() if value is not None}
            for section, values in before.items()
        })  # fmt: skip
        config.resource_monitor = monitored


def log_path(settings: Settings) -> Path:
    """Return the file that keeps what Nipype says in this run."""
    return settings.out_dir / 'logs' / f'mslesseg-{settings.run_uuid}.log'


def write_graph(workflow: Workflow, settings: Settings) -> Path:
    """Draw the workflow into ``logs/`` (Graphviz source, and SVG where ``dot`` is installed)."""
    drawn = workflow.write_graph(graph2use='colored', format='dot')
    target = settings.out_dir / 'logs' / f'{workflow.name}.dot'
    write_text(target, Path(drawn).read_text(encoding='utf-8'))
    if shutil.which('dot') is not None:
        figure = target.with_suffix('.svg')
        subprocess.run(['dot', '-Tsvg', str(target), '-o', str(figure)], check=False)
    return target


def take_graph(workflow: Workflow) -> nx.DiGraph:
    """Return the graph of a workflow as Nipype prepares it for a plugin.

    Provenance and resources, which Nipype writes after a plugin, are left to ``keep_records``.
    """
    plugin = _GraphPlugin()
    workflow.config['execution']['write_provenance'] = 'false'
    monitored, config.resource_monitor = config.resource_monitor, False
    try:
        workflow.run(plugin=plugin)
    finally:
        config.resource_monitor = monitored
    return plugin.graph


class _GraphPlugin:
    """A plugin of Nipype that runs nothing and keeps the graph."""

    def __init__(self) -> None:
        self.plugin_args: dict[str, Any] = {}
        self.graph = nx.DiGraph()

    def run(self, graph: nx.DiGraph, config: Any, updatehash: bool = False) -> None:
        """Keep the graph."""
        self.graph = graph


def part_of(node: Node) -> str:
    """Return the name of the workflow right below the whole one, ``sub_01_ses_1_wf``."""
    return str(node.fullname).split('.')[1]


def nodes_of(graph: nx.DiGraph) -> dict[str, list[str]]:
    """Return the names of the nodes that each part of a graph runs."""
    nodes: dict[str, list[str]] = {}
    for node in graph:
        nodes.setdefault(part_of(node), []).append(node.name)
    return nodes


def keep_records(graph: nx.DiGraph, settings: Settings, name: str) -> None:
    """Write to ``logs/`` what Nipype records of a finished graph on request.

    Parameters
    ----------
    name : str
        Label for the files of provenance; those of resources have the names of the parts.
    """
    stem = settings.out_dir / 'logs' / f'mslesseg-{settings.run_uuid}'
    with TemporaryDirectory(dir=settings.work_dir) as folder:
        if settings.write_provenance:
            write_workflow_prov(graph, f'{folder}/prov', format='all')
        if settings.resource_monitor:
            for part in nodes_of(graph):
                nodes = [node for node in graph if part_of(node) == part]
                target = f'{folder}/{part}_resources.json'
                write_workflow_resources(graph.subgraph(nodes), target, append=False)
        for path in Path(folder).iterdir():
            own = path.name if path.name.endswith('_resources.json') else f'{name}_{path.name}'
            publish(path, stem.with_name(f'{stem.name}_{own}'))


def failure_of(node: str, traceback: str) -> ExamFailure:
    """Return why an exam did not reach its end, from the traceback of a node."""
    error = error_in(traceback)
    if error is None:
        lines = [line.strip() for line in traceback.strip().splitlines() if line.strip()]
        error = MSLesSegError(
            f'The step {node} failed unexpectedly: {lines[-1] if lines else "no message"}',
            'The crash file has the details; please report it with the version of mslesseg.',
        )
    return ExamFailure(error, stage_of(node), node)


def write_crash_file(node: Node, traceback: str) -> None:
    """Leave a crash file in the log folder of the node's exam, if there is room for it."""
    with suppress(OSError):
        report_crash(node, traceback=traceback.splitlines(keepends=True))
