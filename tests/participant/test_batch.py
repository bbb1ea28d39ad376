"""Many exams through the real scheduler and real workers; only what the steps do is made up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from skeleton import write_dataset
from stubs import Recorder, StubReport, result_of, stub_workflow
from traits.api import TraitError

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.workflow_names import exam_name
from mslesseg_app.core.files import write_json
from mslesseg_app.core.settings import Settings
from mslesseg_app.models.registry import get_entry
from mslesseg_app.participant import subjects
from mslesseg_app.participant.batch import Batch
from mslesseg_app.participant.context import RunOutcome
from mslesseg_app.participant.workflows import base

STEPS = ('conform', 'align', 'segment', 'ds_result')
Run = Callable[..., tuple[RunOutcome, Recorder]]


class Study:
    """A dataset of stub exams, and runs of it."""

    def __init__(self, root: Path, number: int) -> None:
        self.root = root
        names = [f'sub-{k:03}_FLAIR' for k in range(number)]
        bids = root / 'bids'
        if not bids.exists():
            write_dataset(bids, names)
        image = 'anat/sub-{0}_FLAIR.nii.gz'
        self.exams = [
            Exam(label, None, {'FLAIR': bids / f'sub-{label}' / image.format(label)})
            for label in (name[4:7] for name in names)
        ]
        self.broken: set[str] = set()
        self.built: list[str] = []

    def settings(self, **options: object) -> Settings:
        for name in ('out', 'work'):
            (self.root / name).mkdir(exist_ok=True)
        return Settings(
            self.root / 'bids', self.root / 'out', self.root / 'work',
            **{'nprocs': 2, 'model': 'hyperintensity', 'run_uuid': 'run', **options},
        )  # fmt: skip

    def take_place(self, put: Callable[[object, str, object], object]) -> None:
        """Put stub exams in the place of real ones."""
        put(base, 'init_run_wf', self.build)
        put(subjects, 'ReportStep', StubReport)
        put(subjects, 'expected_outputs', lambda exam, *_: [result_of(exam)])

    def build(self, *, exams: list[Exam], settings: Settings, **_: object) -> object:
        (exam,) = exams
        self.built.append(exam.label)
        return stub_workflow(exam, settings, exam.label in self.broken)

    def run(
        self,
        interrupt_at: str = '',
        kill_at: str = '',
        clock: Cost | None = None,
        **options: object,
    ) -> tuple[RunOutcome, Recorder]:
        batch = Batch(
            self.exams, self.settings(**options), 'builtin', get_entry('hyperintensity'), True
        )
        labels = {exam_name(exam): exam.label for exam in self.exams}
        recorder = batch.progress = Recorder(labels, True)
        recorder.interrupt_at, recorder.kill_at = interrupt_at, kill_at
        recorder.clock = clock or (lambda: (0, 0.0))
        return batch.run(), recorder

    def diary(self) -> Counter[str]:
        """How often each step was run, in all runs together."""
        text = (self.root / 'work' / 'diary.txt').read_text()
        return Counter(line.split()[0] for line in text.splitlines())

    def workers(self) -> set[str]:
        text = (self.root / 'work' / 'diary.txt').read_text()
        return {line.split()[1] for line in text.splitlines() if 'ds_result' not in line}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Study]:
    def make(number: int, name: str = '') -> Study:
        made = Study(tmp_path / name, number)
        made.take_place(monkeypatch.setattr)
        return made

    return make


def check(made: Study, outcome: RunOutcome, told: Recorder) -> None:
    """Check order, flight, failures and what was left behind of a first run."""
    names = [exam_name(exam) for exam in made.exams]
    assert told.names('begin') == names, 'in their order'
    assert told.most_in_flight() <= 4, 'two more than processors'
    begun = {name: told.events.index(('begin', name)) for name in names}
    over = {name: told.events.index(('over', name)) for name in names}
    assert all(over[one] < begun[later] for one, later in zip(names, names[4:], strict=False)), (
        'depth first: an exam is over before the fourth after it begins'
    )
    assert set(outcome.problems) == {f'sub-{label}' for label in bare(made.broken)}
    assert {error.exit_code for error in outcome.problems.values()} <= {65}
    done = [exam for exam in made.exams if exam.label not in made.broken]
    steps = {f'{exam.label}.{step}' for exam in done for step in STEPS}
    steps |= {f'{label}.{step}' for label in made.broken for step in STEPS[:2]}
    assert made.diary() == Counter(dict.fromkeys(steps, 1)), 'each once, nothing after a failure'
    assert len(made.workers()) <= 2, 'the same processes from the first exam to the last'
    for exam in made.exams:
        assert (made.root / 'out' / f'{exam.label}.html').is_file()
        crashes = list((made.root / 'out' / exam.folder).glob('log/run/crash-*.txt'))
        assert len(crashes) == (exam.label in made.broken)
    rows = (made.root / 'out/logs/mslesseg-run_timings.txt').read_text().splitlines()[1:]
    assert len(rows) == len(steps)


def bare(labels: set[str]) -> set[str]:
    return {label.removeprefix('sub-') for label in labels}


def test_order_flight_failures_and_resume(study) -> None:
    made = study(12)
    made.broken = {'sub-002', 'sub-007'}
    outcome, told = made.run()
    check(made, outcome, told)
    before = made.diary()

    made.broken = {'sub-007'}
    outcome, told = made.run(run_uuid='again')
    assert set(outcome.problems) == {'sub-007'}
    assert sorted(told.names('begin')) == ['sub_002_wf', 'sub_007_wf']
    assert len(told.names('skip')) == 10
    assert made.diary() - before == Counter(
        ['sub-002.align', 'sub-002.segment', 'sub-002.ds_result', 'sub-007.align']
    ), 'the cache knows the steps before the failure'
    assert len(outcome.reports) == 12


def test_an_exam_whose_graph_cannot_be_built_is_lost_alone(study, monkeypatch) -> None:
    """Such as one whose image vanished since it was found: Nipype raises an error of its own."""
    made = study(3)

    def build(*, exams: list[Exam], **others: object) -> object:
        if exams[0].label == 'sub-001':
            raise TraitError('The "in_file" trait must be the path of a file')
        return made.build(exams=exams, **others)

    monkeypatch.setattr(base, 'init_run_wf', build)
    outcome, _ = made.run()
    assert list(outcome.problems) == ['sub-001']
    assert 'cannot be prepared: TraitError' in str(outcome.problems['sub-001'])
    assert outcome.problems['sub-001'].hint
    assert len(outcome.reports) == 3


@pytest.mark.parametrize(
    'change',
    ['input', 'output changed', 'output lost', 'threshold', 'note damaged'],
)
def test_what_is_not_as_it_was_is_taken_up_again(study, change) -> None:
    made = study(3)
    made.run()
    exam = made.exams[1]
    result = made.root / 'out' / result_of(exam)
    options = {'threshold': 0.3} if change == 'threshold' else {}
    if change == 'input':
        exam.images['FLAIR'].touch()
    elif change == 'output changed':
        result.write_text('sub-001 ')
    elif change == 'output lost':
        result.unlink()
    elif change == 'note damaged':
        (note,) = (made.root / 'work/finished').glob('sub-001-*.json')
        note.write_text('{')
    _, told = made.run(**options)
    wanted = ['sub_000_wf', 'sub_001_wf', 'sub_002_wf'] if options else ['sub_001_wf']
    assert told.names('begin') == wanted


@pytest.mark.parametrize('options', [{'nprocs': 1}, {'mem_gb': 2.0}, {'omp_nthreads': 3}])
def test_other_resources_change_nothing(study, options) -> None:
    made = study(2)
    made.run()
    _, told = made.run(**options)
    assert told.names('begin') == []


#: A run of its own process, which is killed when it comes to a step.
KILLED = """
import sys
from pathlib import Path

sys.path[:0] = sys.argv[3:]
from test_batch import Study

made = Study(Path(sys.argv[1]), 50)
made.take_place(setattr)
made.run(kill_at=sys.argv[2])
"""


def test_interrupted_killed_and_repeated(study, tmp_path) -> None:
    """Fifty exams in three runs: the bytes are those of one that nothing disturbed."""
    made = study(50)
    with pytest.raises(KeyboardInterrupt):
        made.run(interrupt_at='sub_012_wf.align')
    half = made.diary()
    assert half['sub-012.align'] == 1
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / 'tools')]
    command = [sys.executable, '-c', KILLED, str(tmp_path), 'sub_030_wf.align', *folders]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL

    outcome, told = made.run()
    assert outcome.problems == {}
    assert {f'sub_{k:03}_wf' for k in range(27)} <= set(told.names('skip'))
    assert 'sub_030_wf' in told.names('begin')
    diary = made.diary()
    assert set(diary) == {f'sub-{k:03}.{step}' for k in range(50) for step in STEPS}
    assert diary['sub-012.conform'] == diary['sub-030.conform'] == 1, 'cached'
    assert diary.total() <= 4 * 50 + 2 * 4, 'only what was under way is done again'
    results = {
        f'sub-{k:03}_result.txt': ''.join(f'sub-{k:03}.{step}\n' for step in STEPS).encode()
        for k in range(50)
    }
    reports = {f'sub-{k:03}.html': b'report' for k in range(50)}
    paths = [*made.root.glob('out/sub-*/anat/*'), *made.root.glob('out/*.html')]
    assert {path.name: path.read_bytes() for path in paths} == results | reports


def test_the_first_failure_stops_everything_if_asked_to(study) -> None:
    made = study(8)
    made.broken = {'sub-001'}
    outcome, _ = made.run(stop_on_first_crash=True)
    assert set(outcome.problems) == {'sub-001'}
    # others may have ended before the failure; four at most were under way beside them
    assert set(outcome.stopped) >= {'sub-006', 'sub-007'}
    assert len(made.built) <= 6
    assert (made.root / 'out/sub-001/log/sub-001_desc-hyperintensity_exam.json').is_file()


def test_intermediate_results_can_be_discarded(study) -> None:
    made = study(3)
    made.broken = {'sub-001'}
    made.run(discard_intermediates=True)
    left = [path.name for path in (made.root / 'work/mslesseg_0_1_wf').iterdir()]
    assert left == ['sub_001_wf'], 'what failed is kept'
    made.broken = set()
    _, told = made.run(discard_intermediates=True)
    assert told.names('begin') == ['sub_001_wf'], 'what is finished stays finished'
    assert made.diary()['sub-000.conform'] == 1


def test_an_exam_that_another_run_holds_is_left_alone(study) -> None:
    from filelock import FileLock

    made = study(3)
    record = made.root / 'out/sub-001/log/sub-001_desc-hyperintensity_exam.json'
    write_json(record, {'status': 'of the other run'})
    (made.root / 'work/locks').mkdir(parents=True)
    with FileLock(made.root / 'work/locks/sub-001.lock'):
        outcome, told = made.run()
    assert {label: error.exit_code for label, error in outcome.problems.items()} == {'sub-001': 75}
    assert told.names('begin') == ['sub_000_wf', 'sub_002_wf']
    assert 'other run' in record.read_text()


@pytest.mark.slow
def test_two_hundred_exams(study) -> None:
    """The same, and: what the main process does for an exam does not grow with their number.

    Calls of functions are counted, which a busy machine does not change; the time of the main
    thread is looked at too, because the collection of garbage is one call only.
    """
    made = study(200)
    made.broken = {'sub-007', 'sub-050', 'sub-150'}
    with Cost() as cost:
        outcome, told = made.run(clock=cost)
    check(made, outcome, told)
    calls, seconds = told.costs('over')
    assert calls[-1] < 1.1 * calls[0]
    assert seconds[-1] < 1.5 * seconds[0]

    made.broken = set()
    outcome, told = made.run(run_uuid='again')
    assert told.names('begin') == ['sub_007_wf', 'sub_050_wf', 'sub_150_wf']
    assert outcome.problems == {}
    with Cost() as cost:
        _, told = made.run(clock=cost, run_uuid='third')
    assert told.names('begin') == []
    looked, seconds = told.costs('skip')
    assert looked[-1] < 1.1 * looked[0]
    assert max(looked) < 0.3 * min(calls), 'only looked at'
    assert max(seconds) < 0.1, 'of the processor, an exam'


class Cost:
    """Calls of functions and seconds of processor time of this thread until now."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> tuple[int, float]:
        return self.number, time.thread_time()

    def __enter__(self) -> Cost:
        def count(frame: object, event: str, _: object) -> None:
            self.number += event in ('call', 'c_call')

        sys.setprofile(count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
