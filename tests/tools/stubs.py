"""Exams of steps that do next to nothing, for the real scheduler and its real workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    TraitedSpec,
    isdefined,
    traits,
)
from nipype.pipeline.engine import Node, Workflow

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.workflow_names import exam_name, top_name
from mslesseg_app.core.errors import DataError
from mslesseg_app.core.files import publish
from mslesseg_app.core.settings import Settings
from mslesseg_app.participant.interfaces.base import GuardedInterface
from mslesseg_app.participant.progress import RunProgress
from mslesseg_app.participant.workflows.base import keep_crashes


class _Input(BaseInterfaceInputSpec):
    name = traits.Str(mandatory=True)
    diary = traits.Str(mandatory=True, nohash=True, desc='file that notes what was run')
    target = traits.Str(desc='file of the output folder that is written')
    in_file = File(exists=True)
    fail = traits.Bool(False, usedefault=True, nohash=True)


class _Output(TraitedSpec):
    out_file = File()


class Stub(GuardedInterface):
    """Write a line after those of the step before."""

    input_spec = _Input
    output_spec = _Output

    def _execute(self, cwd: Path) -> dict[str, Any]:
        with Path(self.inputs.diary).open('a') as file:
            file.write(f'{self.inputs.name} {os.getpid()}\n')
        if self.inputs.fail:
            raise DataError(f'{self.inputs.name} is broken.')
        out = cwd / 'out.txt'
        given = isdefined(self.inputs.in_file)
        before = Path(self.inputs.in_file).read_text() if given else ''
        out.write_text(f'{before}{self.inputs.name}\n')
        if self.inputs.target:
            publish(out, Path(self.inputs.target))
        return {'out_file': str(out)}


def result_of(exam: Exam) -> Path:
    """Return the one output of a stub exam, relative to the output folder."""
    return exam.folder / 'anat' / f'{exam.label}_result.txt'


def stub_workflow(exam: Exam, settings: Settings, broken: bool) -> Workflow:
    """Build a workflow of four steps, the last of them for the main process."""
    part = Workflow(name=exam_name(exam))
    steps = []
    for name in ('conform', 'align', 'segment', 'ds_result'):
        interface = Stub(
            name=f'{exam.label}.{name}',
            diary=str(settings.work_dir / 'diary.txt'),
            fail=broken and name == 'align',
        )
        if name == 'ds_result':
            interface.inputs.target = str(settings.out_dir / result_of(exam))
        steps.append(Node(interface, name=name, run_without_submitting=name == 'ds_result'))
    for before, after in pairwise(steps):
        part.connect(before, 'out_file', after, 'in_file')
    keep_crashes(part, settings.out_dir / exam.folder / 'log' / settings.run_uuid)
    workflow = Workflow(name=top_name(), base_dir=str(settings.work_dir))
    workflow.add_nodes([part])
    return workflow


class StubReport:
    """A report of one word, written by a worker."""

    n_procs = 1
    mem_gb = 0.1
    run_without_submitting = False
    name = 'report'

    def __init__(self, settings: Settings, subject: str) -> None:
        self.path = settings.out_dir / f'sub-{subject}.html'
        self.fullname = f'sub-{subject}.report'

    def run(self) -> None:
        self.path.write_text('report')

    def is_cached(self) -> tuple[bool, bool]:
        return False, False

    def is_gpu_node(self) -> bool:
        return False


class PlainStep:
    """A step of a hand-made graph, with what it needs."""

    def __init__(
        self, name: str, n_procs: int = 1, mem_gb: float = 0.1, gpu: bool = False
    ) -> None:
        self.fullname = self.name = name
        self.n_procs = n_procs
        self.mem_gb = mem_gb
        self.run_without_submitting = False
        self._gpu = gpu

    def run(self) -> None:
        """Do nothing."""

    def is_cached(self) -> tuple[bool, bool]:
        return False, False

    def is_gpu_node(self) -> bool:
        return self._gpu


def chain(*steps: PlainStep) -> nx.DiGraph:
    """Return a graph of steps one after another."""
    graph = nx.DiGraph()
    nx.add_path(graph, steps)
    return graph


class Recorder(RunProgress):
    """Progress that keeps what it is told: (event, exam or exam.node)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: list[tuple[str, str]] = []
        self.interrupt_at = self.kill_at = ''
        self.clock: Callable[[], tuple[int, float]] = lambda: (0, 0.0)
        self._costs: dict[str, list[tuple[int, float]]] = {}

    def begin(self, nodes: Any) -> None:
        self.events += [('begin', name) for name in nodes]
        super().begin(nodes)

    def end(self, name: str) -> dict[str, float]:
        self.events.append(('over', name))
        self._costs.setdefault('over', []).append(self.clock())
        return super().end(name)

    def skip(self, name: str) -> None:
        self.events.append(('skip', name))
        self._costs.setdefault('skip', []).append(self.clock())
        super().skip(name)

    def __call__(self, exam: str, node: str, status: str) -> None:
        self.events.append((status, f'{exam}.{node}'))
        if status == 'end' and f'{exam}.{node}' == self.interrupt_at:
            raise KeyboardInterrupt
        if status == 'end' and f'{exam}.{node}' == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        super().__call__(exam, node, status)

    def names(self, event: str) -> list[str]:
        """Return what an event was told of, in order."""
        return [name for kind, name in self.events if kind == event]

    def costs(self, event: str, step: int = 45) -> tuple[list[float], list[float]]:
        """Return calls and seconds an event, of each ``step`` events after the first ten."""
        marks = self._costs[event][10::step]
        pairs = list(pairwise(marks))
        return (
            [(new[0] - old[0]) / step for old, new in pairs],
            [(new[1] - old[1]) / step for old, new in pairs],
        )

    def most_in_flight(self) -> int:
        """Return how many workflows were begun and not over at most."""
        flight = most = 0
        for kind, _ in self.events:
            flight += {'begin': 1, 'over': -1}.get(kind, 0)
            most = max(most, flight)
        return most
