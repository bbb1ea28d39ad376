"""What the user is told while exams run."""

from __future__ import annotations

import io
import re

import pytest

from mslesseg_app.progress import Progress, duration
from mslesseg_app.workflows.names import STAGES, stage_of

NODES = {'one': ['conform_flair', 'align', 'segment'], 'two': ['conform_flair', 'align']}
LABELS = {'one': 'sub-01', 'two': 'sub-02'}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(quiet: bool = False, stream: io.StringIO | None = None) -> tuple[list[str], Progress]:
    stream = stream or io.StringIO()
    with Progress(NODES, LABELS, quiet, stream) as progress:
        for exam, nodes in NODES.items():
            for node in nodes:
                progress(exam, node, 'start')
                progress(exam, node, 'end')
    return stream.getvalue().splitlines(), progress


def test_plain_lines_where_it_is_no_terminal():
    lines, _ = told()
    assert len(lines) == 5
    assert lines[0] == '[1 of 2] sub-01: reading'
    assert lines[1].startswith('[1 of 2] sub-01: alignment')
    assert lines[3].startswith('[2 of 2] sub-02: reading')
    assert not any('\x1b' in line or '\r' in line for line in lines)


def test_the_time_that_is_left_is_told_when_it_can_be_judged():
    lines, _ = told()
    assert 'left' not in lines[0]
    assert 'left)' in lines[2]


def test_a_stage_is_told_once():
    stream = io.StringIO()
    with Progress({'one': ['ds_a', 'find', 'ds_b']}, LABELS, stream=stream) as progress:
        for node in ('ds_a', 'find', 'ds_b'):
            progress('one', node, 'start')
    assert stream.getvalue().count('writing') == 1


def test_quiet_is_quiet():
    lines, progress = told(quiet=True)
    assert lines == []
    assert len(progress.seconds) == 5


def test_quiet_on_a_terminal():
    assert told(quiet=True, stream=Terminal())[0] == []


def test_a_live_line_on_a_terminal():
    lines, _ = told(stream=Terminal())
    text = re.sub(r'\x1b\[[0-9;?]*[a-z]', '', '\n'.join(lines), flags=re.IGNORECASE)
    assert '100%  2 of 2 exams done  finishing' in text


def test_cached_nodes_are_counted_but_not_timed():
    progress = Progress(NODES, LABELS, stream=io.StringIO())
    progress('one', 'conform_flair', 'end')
    assert progress.seconds == {}
    assert progress._remaining() == ''


def test_failures_end_a_node_too():
    progress = Progress(NODES, LABELS, stream=io.StringIO())
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
    from mslesseg_app.models.registry import get_entry
    from mslesseg_app.settings import Settings
    from mslesseg_app.workflows.exam import init_exam_wf

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
    progress = Progress(NODES, LABELS, stream=io.StringIO())
    for node in NODES['two']:
        progress('two', node, 'start')
        progress('two', node, 'end')
    assert progress.unfinished() == ['sub-01']


def test_nodes_that_are_not_run_are_not_waited_for(tmp_path):
    from nipype.interfaces.utility import Function, IdentityInterface
    from nipype.pipeline.engine import Node, Workflow

    from mslesseg_app.workflows.base import _nodes

    exam = Workflow(name='exam')
    exam.connect(
        Node(IdentityInterface(fields=['x']), name='inputnode'),
        'x',
        Node(Function(input_names=['x'], output_names=['y']), name='work'),
        'x',
    )
    whole = Workflow(name='whole')
    whole.add_nodes([exam])
    assert _nodes(whole) == {'exam': ['work']}


def test_what_exams_share_is_no_exam():
    stream = io.StringIO()
    nodes = {'both': ['align_sessions'], **NODES}
    labels = {'both': 'sub-01', **LABELS}
    with Progress(nodes, labels, stream=stream, shared=['both']) as progress:
        progress('both', 'align_sessions', 'start')
        assert progress.unfinished() == ['sub-01', 'sub-02']
        progress('both', 'align_sessions', 'end')
        for node in NODES['two']:
            progress('two', node, 'start')
            progress('two', node, 'end')
    lines = stream.getvalue().splitlines()
    assert lines[0] == '[all of 2] sub-01: alignment'
    assert lines[1].startswith('[2 of 2] sub-02: reading')
    assert progress.unfinished() == ['sub-01']
    assert '1 of 2 exams done' in progress._line()
