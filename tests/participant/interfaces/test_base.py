"""Errors of nodes reach the user with their exit code and hint, through Nipype's tracebacks."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.base import BaseInterfaceInputSpec, TraitedSpec, traits
from nipype.pipeline.engine import Node
from nipype.pipeline.engine.nodes import NodeExecutionError

from mslesseg_app.core.errors import DataError, DiskError
from mslesseg_app.participant.interfaces.base import GuardedInterface, encode_error, error_in


class _Input(BaseInterfaceInputSpec):
    kind = traits.Str()


class _Output(TraitedSpec):
    answer = traits.Int()


class Failing(GuardedInterface):
    """A node that fails as it is told."""

    input_spec = _Input
    output_spec = _Output

    def _execute(self, cwd: Path) -> dict[str, Any]:
        if self.inputs.kind == 'data':
            raise DataError('sub-01 is "damaged" – 50 % of it\nis missing', 'Copy {it} again.')
        if self.inputs.kind == 'full':
            raise OSError(errno.ENOSPC, 'No space left on device', str(cwd / 'x'))
        if self.inputs.kind == 'memory':
            raise MemoryError
        if self.inputs.kind == 'chain':
            try:
                raise ValueError('inner')
            except ValueError as error:
                raise DataError('outer') from error
        if self.inputs.kind == 'bug':
            raise KeyError('unexpected')
        return {'answer': 42}


def traceback_of(kind: str, tmp_path: Path) -> str:
    node = Node(Failing(kind=kind), name='failing', base_dir=str(tmp_path))
    with pytest.raises(NodeExecutionError) as caught:
        node.run()
    return str(caught.value)


def test_success(tmp_path):
    node = Node(Failing(), name='fine', base_dir=str(tmp_path))
    assert node.run().outputs.answer == 42


def test_an_error_of_ours(tmp_path):
    error = error_in(traceback_of('data', tmp_path))
    assert error is not None
    assert error.exit_code == 65
    assert error.message == 'sub-01 is "damaged" – 50 % of it\nis missing'
    assert error.hint == 'Copy {it} again.'


@pytest.mark.parametrize(
    ('kind', 'code', 'text'),
    [
        ('full', 74, 'No space left'),
        ('memory', 75, 'out of memory'),
        ('chain', 65, 'outer'),
    ],
)
def test_other_failures(kind, code, text, tmp_path):
    error = error_in(traceback_of(kind, tmp_path))
    assert error is not None
    assert error.exit_code == code
    assert text in str(error)


def test_what_is_not_ours_is_not_explained(tmp_path):
    assert error_in(traceback_of('bug', tmp_path)) is None
    assert error_in('') is None


def test_a_full_disk_that_nipype_met():
    text = (
        'Traceback (most recent call last):\n  File "x.py", line 3, in save\n'
        "OSError: [Errno 28] No space left on device: '/scratch/result.pklz'\n"
    )
    error = error_in(text)
    assert error is not None
    assert error.exit_code == DiskError.exit_code
    assert '/scratch/result.pklz' in str(error)
    bare = error_in('OSError: [Errno 28] No space left on device\n')
    assert bare is not None
    assert bare.exit_code == DiskError.exit_code


def test_errors_survive_as_one_line():
    line = encode_error(DataError('a\nb', 'c'))
    assert '\n' not in line
    assert error_in(f'noise\nmslesseg-error:{line}\nmore').message == 'a\nb'
