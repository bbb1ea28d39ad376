"""FLIRT and BET as nodes whose failures are reported in full: command, exit code, last words."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path
from typing import Any

from nipype.interfaces.base import CommandLine, isdefined, traits
from nipype.interfaces.fsl import BET, FLIRT
from nipype.interfaces.fsl.preprocess import BETOutputSpec, FLIRTOutputSpec

from mslesseg_app.core.errors import BusyError, DataError, MSLesSegError, UsageError
from mslesseg_app.participant.interfaces.base import _marked

#: Shells report a signal n as 128 + n.
_SHELL = 128
_CANNOT_RUN = (126, 127)
_LAST_LINES = 3


class _FlirtOutput(FLIRTOutputSpec):
    command = traits.Str(desc='the command line, folders left out')


class ReportedFLIRT(FLIRT):
    """FLIRT; a failure carries the command, its exit code or signal, and its last words."""

    output_spec = _FlirtOutput

    def _run_interface(self, runtime: Any) -> Any:
        return run_reported(self, runtime, ('out_file', 'out_matrix_file'))

    def _list_outputs(self) -> Any:
        outputs = super()._list_outputs()
        outputs['command'] = without_folders(self.cmdline)
        return outputs


class _BetOutput(BETOutputSpec):
    command = traits.Str(desc='the command line, folders left out')


class ReportedBET(BET):
    """BET; a warning on its standard error is no failure when the mask is there."""

    output_spec = _BetOutput

    def _run_interface(self, runtime: Any) -> Any:
        return run_reported(self, runtime, ('out_file', 'mask_file'))

    def _list_outputs(self) -> Any:
        outputs = super()._list_outputs()
        outputs['command'] = without_folders(self.cmdline)
        return outputs


def run_reported(node: Any, runtime: Any, wanted: tuple[str, ...]) -> Any:
    """Run a program, and make sure that it wrote its results.

    Parameters
    ----------
    node : nipype CommandLine
    runtime : Bunch
        Nipype's record of the run.
    wanted : tuple of str
        Outputs whose files must be there, where they are asked for.

    Raises
    ------
    BusyError
        If the program was killed, as when memory runs out.
    UsageError
        If it cannot be started, for example for want of a library.
    DataError
        If it failed, or wrote nothing.
    """
    try:
        runtime = CommandLine._run_interface(node, runtime)
    except (RuntimeError, OSError) as error:
        raise _marked(_failure(node, runtime, str(error))) from error
    outputs = node._list_outputs()
    missing = [
        name
        for name in wanted
        if isdefined(outputs.get(name)) and not Path(str(outputs[name])).is_file()
    ]
    if missing:
        raise _marked(_failure(node, runtime, ''))
    return runtime


def _failure(node: Any, runtime: Any, otherwise: str) -> MSLesSegError:
    """Explain a run by its exit code and what the program said last."""
    code = getattr(runtime, 'returncode', None)
    said = _last_lines(getattr(runtime, 'stderr', None) or getattr(runtime, 'stdout', None) or '')
    told = f' Its output: {said}' if said else ''
    command = f'The command was: {node.cmdline}'
    name = f"FSL's {node.cmd}"
    if code is None:
        first = otherwise.splitlines()[0] if otherwise else 'it could not be started'
        return UsageError(f'{name} could not be started: {first} {command}', _INSTALL)
    if (killed := _signal(code)) is not None:
        return BusyError(
            f'{name} was ended from outside ({killed}).{told} {command}',
            'Probably the memory did not suffice: give more, or lower --nprocs, and run again.',
        )
    if code in _CANNOT_RUN or 'error while loading shared libraries' in said:
        return UsageError(f'{name} cannot run here (exit code {code}).{told} {command}', _INSTALL)
    what = f'failed (exit code {code})' if code else 'wrote no result (exit code 0)'
    return DataError(
        f'{name} {what}.{told} {command}', 'Inspect the image, or try --engine builtin.'
    )


_INSTALL = 'Install FSL completely, or use --engine builtin, which does without it.'


def _signal(code: int) -> str | None:
    """Return the name of the signal that ended a program, or None."""
    number = -code if code < 0 else code - _SHELL
    try:
        return signal.Signals(number).name if number > 0 else None
    except ValueError:
        return None


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ' / '.join(lines[-_LAST_LINES:])


def without_folders(command: str) -> str:
    """Return a command line whose files are named without their folders.

    Examples
    --------
    >>> without_folders('flirt -in /data/a/conformed.nii.gz -ref /opt/fsl/T1.nii.gz -dof 12')
    'flirt -in conformed.nii.gz -ref T1.nii.gz -dof 12'
    """
    return ' '.join(re.sub(r'^.*/', '', word) for word in shlex.split(command))
