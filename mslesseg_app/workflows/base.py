"""The workflow of a whole run, its configuration and its execution."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nipype import config
from nipype.interfaces.utility import IdentityInterface
from niworkflows.engine.workflows import LiterateWorkflow as Workflow

from .. import __version__
from ..bids.exams import Exam, share_template
from ..errors import MSLesSegError, UsageError
from ..files import publish, write_text
from ..inference.ensemble import AnyModel
from ..interfaces.base import error_in
from ..progress import Progress
from ..settings import Settings
from .exam import init_exam_wf
from .names import exam_name, stage_of, subject_name, top_name
from .plugin import ExamPlugin, Listener, log_to_file
from .subject import init_subject_wf, session_key

_POLL_S = 0.1


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


def missing_fsl() -> list[str]:
    """Return what of FSL the workflow needs and does not find."""
    missing = [name for name in ('flirt', 'bet') if shutil.which(name) is None]
    standard = Path(os.environ.get('FSLDIR', '/nowhere')) / 'data' / 'standard'
    for name in ('MNI152_T1_1mm.nii.gz', 'MNI152_T1_1mm_brain.nii.gz'):
        if not (standard / name).is_file():
            missing.append(f'$FSLDIR/data/standard/{name}')
    return missing


def init_run_wf(
    *, exams: list[Exam], settings: Settings, engine: str, entry: AnyModel
) -> Workflow:
    """Build the workflow of all exams of a run.

    They do not depend on each other, but for those of a subject whose sessions share a
    within-subject template.

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
        _keep_crashes(part, settings.out_dir / f'sub-{subject}' / 'log' / settings.run_uuid)
        workflow.add_nodes([part])
    for exam in exams:
        group = exam in sharing.get(exam.subject, [])
        part = init_exam_wf(exam=exam, settings=settings, engine=engine, entry=entry, shared=group)
        _keep_crashes(part, settings.out_dir / exam.folder / 'log' / settings.run_uuid)
        workflow.add_nodes([part])
        if group:
            key = session_key(exam)
            workflow.connect([(shared[exam.subject], part, [
                (f'outputnode.flair_{key}', 'inputnode.flair'),
                (f'outputnode.place_{key}', 'inputnode.place'),
            ])])  # fmt: skip
    return workflow


def _keep_crashes(part: Workflow, folder: Path) -> None:
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
            'poll_sleep_duration': _POLL_S,
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
        picture = target.with_suffix('.svg')
        subprocess.run(['dot', '-Tsvg', str(target), '-o', str(picture)], check=False)
    return target


def execute(
    workflow: Workflow, exams: list[Exam], settings: Settings, quiet: bool = False
) -> tuple[dict[str, ExamFailure], Progress]:
    """Run a workflow to its end; exams that fail do not stop the others.

    Returns
    -------
    failures : dict
        First failure of each exam that failed, by the exam's label.
    progress : Progress
        With the seconds that each node took.
    """
    owners = {exam_name(exam): [exam.label] for exam in exams}
    labels = {name: label for name, (label,) in owners.items()}
    shared = share_template(exams, settings)
    owners |= {subject_name(one): [exam.label for exam in group] for one, group in shared.items()}
    labels |= {subject_name(one): f'sub-{one}' for one in shared}
    names = [subject_name(one) for one in shared]
    failures: dict[str, ExamFailure] = {}
    with Progress(_nodes(workflow), labels, quiet, shared=names) as progress:

        def listen(fullname: str, status: str, traceback: str) -> None:
            _, name, *rest = fullname.split('.')
            if status == 'exception':
                failure = _failure(rest[-1], traceback)
                for label in owners[name]:
                    failures.setdefault(label, failure)
            progress(name, rest[-1], status)

        _run(workflow, settings, listen, failures)
    return failures, progress


def execute_change(
    workflow: Workflow, settings: Settings
) -> tuple[dict[str, ExamFailure], dict[str, float]]:
    """Run the workflow that compares sessions; one subject's failure stops no other.

    Returns
    -------
    failures : dict
        First failure of each subject, by ``sub-<label>``.
    seconds : dict
        Time that each node took.
    """
    failures: dict[str, ExamFailure] = {}
    started: dict[str, float] = {}
    seconds: dict[str, float] = {}

    def listen(fullname: str, status: str, traceback: str) -> None:
        _, name, node = fullname.split('.')
        key = f'{name}.{node}'
        if status == 'start':
            started[key] = time.monotonic()
        elif key in started:
            seconds[key] = time.monotonic() - started.pop(key)
        if status == 'exception':
            label = 'sub-' + name.removeprefix('sub_').removesuffix('_change_wf')
            failures.setdefault(label, _failure(node, traceback))

    for name in {one.partition('.')[0] for one in workflow.list_node_names()}:
        part = workflow.get_node(name)
        subject = 'sub-' + name.removeprefix('sub_').removesuffix('_change_wf')
        _keep_crashes(part, settings.out_dir / subject / 'log' / settings.run_uuid)
    _run(workflow, settings, listen, failures, part='_change')
    return failures, seconds


def _run(
    workflow: Workflow,
    settings: Settings,
    listen: Listener,
    failures: Mapping[str, ExamFailure],
    part: str = '',
) -> None:
    """Run a workflow to its end, whatever fails in it."""
    # Nipype's records of nodes go to the current folder; it shall not be the user's.
    with (
        TemporaryDirectory(
            dir=settings.work_dir, prefix='run-', ignore_cleanup_errors=True
        ) as here,
        chdir(here),
    ):
        plugin = ExamPlugin(_plugin_args(settings), listen, log_path(settings))
        # Nipype collects garbage after every node: spare it what was there before.
        gc.freeze()
        try:
            workflow.run(plugin=plugin)
        except RuntimeError:
            if not failures:
                raise
        finally:
            plugin.pool.shutdown(wait=False, cancel_futures=True)
    _keep_records(workflow, settings, part)


def _keep_records(workflow: Workflow, settings: Settings, part: str) -> None:
    """Bring what Nipype records on request from the work folder to ``logs/``."""
    logs = settings.out_dir / 'logs'
    stem = f'mslesseg-{settings.run_uuid}{part}'
    for path in settings.work_dir.glob('workflow_provenance_*'):
        publish(path, logs / f'{stem}_prov{path.suffix}')
        path.unlink()
    monitor = settings.work_dir / workflow.name / 'resource_monitor.json'
    if settings.resource_monitor and monitor.is_file():
        publish(monitor, logs / f'{stem}_resources.json')


def _plugin_args(settings: Settings) -> dict[str, object]:
    args: dict[str, object] = {'n_procs': settings.nprocs, 'raise_insufficient': False}
    if settings.mem_gb is not None:
        args['memory_gb'] = settings.mem_gb
    if settings.device.startswith('cuda'):
        args['n_gpu_procs'] = 1
    return args


def _nodes(workflow: Workflow) -> Mapping[str, list[str]]:
    """Return the names of the nodes that each exam's workflow runs."""
    nodes: dict[str, list[str]] = {}
    for name in workflow.list_node_names():
        # Nodes that only hand on what they get are not run.
        if not isinstance(workflow.get_node(name).interface, IdentityInterface):
            exam, _, node = name.partition('.')
            nodes.setdefault(exam, []).append(node.rsplit('.', 1)[-1])
    return nodes


def _failure(node: str, traceback: str) -> ExamFailure:
    error = error_in(traceback)
    if error is None:
        lines = [line.strip() for line in traceback.strip().splitlines() if line.strip()]
        error = MSLesSegError(
            f'The step {node} failed unexpectedly: {lines[-1] if lines else "no message"}',
            'The crash file has the details; please report it with the version of mslesseg.',
        )
    return ExamFailure(error, stage_of(node), node)
