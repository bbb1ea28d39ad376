"""Which step is given to the workers when, with workers that the test plays itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import networkx as nx
import pytest
from nipype import Function, Node
from stubs import PlainStep, chain

from mslesseg_app.participant.workflows.queue import FreeResources, Scheduler, WorkflowJob


class Workers:
    """End steps one after another, in the order in which they were submitted.

    The scheduler waits for results only when it has nothing else to do; a step that was
    submitted ends when that comes.
    """

    def __init__(self, failing: Iterable[str] = ()) -> None:
        self.log: list[str] = []
        self.running: list[tuple[PlainStep, Callable[[str], None]]] = []
        self.failing = set(failing)

    def submit(self, step: PlainStep, tell: Callable[[str], None]) -> None:
        self.log.append(step.name)
        self.running.append((step, tell))

    def end_one(self) -> None:
        step, tell = self.running.pop(0)
        tell('Traceback' if step.name in self.failing else '')


class Played(Scheduler):
    """A scheduler that lets a step end whenever it waits."""

    def _collect(self, *, wait: bool) -> None:
        if wait:
            self._workers.end_one()
        super()._collect(wait=wait)


def play(
    jobs: Iterable[WorkflowJob | None],
    processors: int = 2,
    memory_gb: float = 8.0,
    **options: object,
) -> Workers:
    failing = options.pop('failing', ())
    workers = Workers(failing)
    scheduler = Played(workers, FreeResources(processors, memory_gb), **options)
    scheduler.run(iter(jobs))
    return workers


def quiet(*_: object) -> None:
    """Hear nothing."""


def job(
    *steps: PlainStep, end: Callable[[bool], Iterable[WorkflowJob]] = lambda _: ()
) -> WorkflowJob:
    return WorkflowJob(chain(*steps), quiet, end)


def test_the_oldest_job_comes_first() -> None:
    jobs = [job(PlainStep(f'a{k}'), PlainStep(f'b{k}')) for k in range(3)]
    assert play(jobs, processors=1).log == ['a0', 'b0', 'a1', 'b1', 'a2', 'b2']


def test_a_job_is_made_when_a_processor_is_free_for_it() -> None:
    made: list[int] = []

    def jobs() -> Iterator[WorkflowJob]:
        for k in range(5):
            made.append(k)
            graph = nx.DiGraph()
            graph.add_nodes_from([PlainStep(f'a{k}'), PlainStep(f'b{k}')])
            yield WorkflowJob(graph, quiet)

    seen: list[int] = []

    class Watched(Workers):
        def end_one(self) -> None:
            seen.append(len(made))
            super().end_one()

    workers = Watched()
    Played(workers, FreeResources(2, 8.0)).run(jobs())
    assert seen[0] == 1, 'the first job keeps both processors busy'
    assert len(workers.log) == 10


def test_jobs_in_flight_are_few_also_when_they_wait() -> None:
    """Each needs both processors after its first step: the others may begin, but not all."""
    began: list[int] = []
    over: list[int] = []

    def jobs() -> Iterator[WorkflowJob]:
        for k in range(20):
            began.append(k)
            assert len(began) - len(over) <= 4
            steps = PlainStep(f'a{k}'), PlainStep(f'b{k}', n_procs=2)
            yield WorkflowJob(chain(*steps), quiet, lambda _, k=k: over.append(k) or ())

    workers = play(jobs(), processors=2)
    assert sorted(over) == list(range(20))
    assert len(workers.log) == 40


@pytest.mark.parametrize(
    ('needs', 'at_once'),
    [
        ({'n_procs': 2}, 2),
        ({'n_procs': 9}, 1),
        ({'mem_gb': 3.0}, 2),
        ({'mem_gb': 99.0}, 1),
        ({'gpu': True}, 1),
        ({}, 4),
    ],
)
def test_no_more_at_once_than_there_is(needs, at_once) -> None:
    most = 0

    class Watched(Workers):
        def end_one(self) -> None:
            nonlocal most
            most = max(most, len(self.running))
            super().end_one()

    workers = Watched()
    scheduler = Played(workers, FreeResources(4, 8.0))
    scheduler.run(iter([job(PlainStep(f's{k}', **needs)) for k in range(8)]))
    assert most == at_once
    assert len(workers.log) == 8


def test_a_failure_takes_what_needs_it_and_nothing_else() -> None:
    steps = {name: PlainStep(name) for name in ('read', 'align', 'find', 'draw', 'report')}
    graph = nx.DiGraph()
    nx.add_path(graph, [steps['read'], steps['align'], steps['find'], steps['report']])
    nx.add_path(graph, [steps['read'], steps['draw'], steps['report']])
    ends: list[bool] = []
    other = job(PlainStep('other'), end=lambda done: ends.append(done) or ())
    broken = WorkflowJob(graph, quiet, lambda done: ends.append(done) or ())
    log = play([broken, other], processors=1, failing={'align'}).log
    assert sorted(log) == ['align', 'draw', 'other', 'read']
    assert ends == [False, True]


def test_what_follows_takes_the_place_of_the_job() -> None:
    def follow(_: bool) -> list[WorkflowJob]:
        return [job(PlainStep('page'))]

    jobs = [job(PlainStep('a'), end=follow), job(PlainStep('b')), None, job(PlainStep('c'))]
    assert play(jobs, processors=1).log == ['a', 'page', 'b', 'c']


def test_the_first_failure_can_stop_all() -> None:
    jobs = [job(PlainStep(f's{k}')) for k in range(5)]
    workers = play(jobs, processors=1, failing={'s1'}, stop_on_failure=True)
    assert workers.log == ['s0', 's1']


def test_cached_steps_are_told_as_ended_and_not_run() -> None:
    heard: list[tuple[str, str]] = []
    first, second = PlainStep('first'), PlainStep('second')
    first.is_cached = lambda: (True, True)
    one = WorkflowJob(
        chain(first, second), lambda step, status, _: heard.append((step.name, status))
    )
    assert play([one]).log == ['second']
    assert heard == [('first', 'end'), ('second', 'start'), ('second', 'end')]


def test_short_steps_run_here_and_may_fail() -> None:
    def fail() -> None:
        raise ValueError('no')

    short, broken, after = (PlainStep(name) for name in ('short', 'broken', 'after'))
    short.run_without_submitting = broken.run_without_submitting = True
    broken.run = fail
    heard: list[tuple[str, str, bool]] = []
    one = WorkflowJob(
        chain(short, broken, after),
        lambda step, status, text: heard.append((step.name, status, 'ValueError: no' in text)),
    )
    assert play([one]).log == []
    assert heard[-1] == ('broken', 'exception', True)
    assert ('short', 'end', False) in heard


def interrupted() -> None:
    """Be interrupted, as the main process may be at any time."""
    raise KeyboardInterrupt


def test_an_interruption_in_a_short_step_of_nipype_is_one(tmp_path) -> None:
    """Nipype catches it, and would have the exam fail."""
    node = Node(Function(function=interrupted), name='short', base_dir=str(tmp_path))
    node.run_without_submitting = True
    with pytest.raises(KeyboardInterrupt):
        play([job(node)])


def test_an_empty_job_ends_at_once() -> None:
    ends: list[bool] = []
    play([WorkflowJob(nx.DiGraph(), quiet, lambda done: ends.append(done) or ())])
    assert ends == [True]
