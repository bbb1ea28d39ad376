"""What is shown while exams run."""

from __future__ import annotations

import io
import re

import pytest

from mslesseg_app.bids.workflow_names import STAGES, stage_of
from mslesseg_app.participant.progress import RunProgress, duration

NODES = {'one': ['conform_flair', 'align', 'segment'], 'two': ['conform_flair', 'align']}
LABELS = {'one': 'sub-01', 'two': 'sub-02'}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(quiet: bool = False, stream: io.StringIO | None = None) -> tuple[list[str], RunProgress]:
    stream = stream or io.StringIO()
    with RunProgress(LABELS, quiet, stream) as progress:
        progress.begin(NODES)
        for exam, nodes in NODES.items():
            for node in nodes:
                progress(exam, node, 'start')
                progress(exam, node, 'end')
    return stream.getvalue().splitlines(), progress


def begun() -> RunProgress:
    progress = RunProgress(LABELS, stream=io.StringIO())
    progress.begin(NODES)
    return progress


def test_a_line_with_the_time_per_exam_where_it_is_no_terminal():
    lines, _ = told()
    assert len(lines) == 4
    assert all(re.match(r'\d\d:\d\d:\d\d \[', line) for line in lines)
    assert lines[0].endswith('[1 of 2] sub-01: started')
    assert '[1 of 2] sub-01: done in 0 s (about ' in lines[1]
    assert '[2 of 2] sub-02: started' in lines[2]
    assert lines[3].endswith('sub-02: done in 0 s')
    assert not any('\x1b' in line or '\r' in line for line in lines)


def test_the_time_left_follows_from_measured_nodes(monkeypatch):
    """Two exams of 10 + 90 s, of which one is done: as long again, whatever the estimates say."""
    now = [0.0]
    monkeypatch.setattr('mslesseg_app.participant.progress.time.monotonic', lambda: now[0])
    progress = RunProgress(LABELS, stream=io.StringIO())
    progress.begin({name: ['conform_flair', 'ds_mask'] for name in LABELS})
    for node, end in (('conform_flair', 10.0), ('ds_mask', 100.0)):
        progress('one', node, 'start')
        now[0] = end
        progress('one', node, 'end')
    assert progress._remaining() == 'about 2 min left'
    assert progress._share() == pytest.approx(0.5)
    assert '1 of 2 exams done' in progress._counts()
    assert '00:01:40 elapsed' in progress._counts()


def test_quiet_is_quiet():
    lines, progress = told(quiet=True)
    assert lines == []
    assert len(progress.seconds) == 5


def test_quiet_on_a_terminal():
    assert told(quiet=True, stream=Terminal())[0] == []


def test_a_live_display_on_a_terminal():
    lines, _ = told(stream=Terminal())
    text = re.sub(r'\x1b\[[0-9;?]*[a-z]', '', '\n'.join(lines), flags=re.IGNORECASE)
    assert '2 of 2 exams done' in text
    assert '100%' in text


def test_cached_nodes_are_counted_but_not_timed():
    progress = begun()
    progress('one', 'conform_flair', 'end')
    assert progress.seconds == {}
    assert progress._remaining() == ''


def test_failures_end_a_node_too():
    progress = begun()
    progress('one', 'align', 'start')
    progress('one', 'align', 'exception')
    assert 'one.align' in progress.seconds


@pytest.mark.parametrize(
    ('seconds', 'words'),
    [(0, '0 s'), (89, '89 s'), (90, '2 min'), (5300, '88 min'), (5400, '1 h 30 min')],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_every_node_of_a_workflow_has_a_stage(tmp_path):
    from skeleton import write_dataset

    from mslesseg_app.bids.exams import find_exams
    from mslesseg_app.core.settings import Settings
    from mslesseg_app.models.registry import get_entry
    from mslesseg_app.participant.workflows.exam import init_exam_wf

    root = write_dataset(tmp_path / 'bids', [f'sub-01_{name}' for name in ('FLAIR', 'T1w', 'T2w')])
    settings = Settings(bids_dir=root, out_dir=tmp_path / 'out', work_dir=tmp_path / 'work')
    (exam,) = find_exams(settings)
    workflow = init_exam_wf(
        exam=exam, settings=settings, engine='builtin', entry=get_entry('hyperintensity')
    )
    words = {name.rsplit('.', 1)[-1].split('_', 1)[0] for name in workflow.list_node_names()}
    assert words - set(STAGES) <= {'inputnode', 'outputnode'}
    assert stage_of('inputnode') == 'preparing'


def test_exams_that_did_not_reach_their_end():
    progress = begun()
    for node in NODES['two']:
        progress('two', node, 'start')
        progress('two', node, 'end')
    assert progress.unfinished() == ['sub-01']


def test_exams_that_were_done_before():
    progress = RunProgress({'zero': 'sub-00', **LABELS}, stream=io.StringIO())
    progress.skip('zero')
    assert progress.unfinished() == ['sub-01', 'sub-02']
    assert '1 of 3 exams done' in progress._counts()


def test_exams_that_did_not_begin_count_as_those_that_did():
    """Their nodes are not known yet: a tenth is done when one of ten is."""
    names = {f'{k}': f'sub-{k:02}' for k in range(10)}
    progress = RunProgress(names, stream=io.StringIO())
    for k in range(2):
        progress.begin({f'{k}': ['align', 'find']})
    for node in ('align', 'find'):
        progress('0', node, 'start')
        progress('0', node, 'end')
    assert progress._share() == pytest.approx(0.1)


def test_what_is_over_is_forgotten():
    progress = begun()
    progress('one', 'align', 'start')
    progress('one', 'align', 'exception')
    assert '1 failed' in progress._counts()
    assert 'one' in progress._stages
    assert set(progress.end('one')) == {'one.align'}
    assert progress.seconds == {}
    assert 'one' not in progress._stages
    assert progress.unfinished() == ['sub-01', 'sub-02']


def test_what_exams_share_is_no_exam():
    stream = io.StringIO()
    nodes = {'both': ['align_sessions'], **NODES}
    labels = {'both': 'sub-01', **LABELS}
    with RunProgress(labels, stream=stream, shared=['both']) as progress:
        progress.begin(nodes)
        progress('both', 'align_sessions', 'start')
        assert progress.unfinished() == ['sub-01', 'sub-02']
        progress('both', 'align_sessions', 'end')
        for node in NODES['two']:
            progress('two', node, 'start')
            progress('two', node, 'end')
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith(' sub-01: registration')
    assert '[2 of 2] sub-02: started' in lines[1]
    assert progress.unfinished() == ['sub-01']
    assert '1 of 2 exams done' in progress._counts()
