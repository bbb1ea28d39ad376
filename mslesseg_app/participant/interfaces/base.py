"""What all nodes share: errors that reach the user with their exit code and hint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nipype.interfaces.base import SimpleInterface

from mslesseg_app.core.errors import BusyError, MSLesSegError
from mslesseg_app.core.files import explain_os_error

_MARK = 'mslesseg-error:'


class GuardedInterface(SimpleInterface):
    """A node around plain functions.

    Sub-classes write ``_execute(cwd) -> dict`` that returns the outputs. Nipype hands a
    failure on as the text of a traceback; a note within it carries exit code, message and hint
    (:func:`error_in`).
    """

    def _run_interface(self, runtime: Any) -> Any:
        try:
            self._results.update(self._execute(Path(runtime.cwd)))
        except MSLesSegError as error:
            raise _marked(error) from error.__cause__
        except OSError as error:
            raise _marked(explain_os_error(error, runtime.cwd)) from error
        except MemoryError as error:
            raise _marked(
                BusyError('The machine ran out of memory.', 'Give more memory, or lower --nprocs.')
            ) from error
        return runtime

    def _execute(self, cwd: Path) -> dict[str, Any]:
        raise NotImplementedError


def _marked(error: MSLesSegError) -> MSLesSegError:
    """Add the note to an error that :func:`error_in` finds in the text of a traceback."""
    error.add_note(_MARK + encode_error(error))
    return error


def encode_error(error: MSLesSegError) -> str:
    """Return an error as one line of JSON."""
    return json.dumps(
        {'code': error.exit_code, 'message': error.message, 'hint': error.hint}, sort_keys=True
    )


def error_in(traceback: str) -> MSLesSegError | None:
    """Find the error that a node raised in the text of its traceback.

    Returns
    -------
    MSLesSegError or None
        None where the failure is not one of ours.
    """
    match = re.search(re.escape(_MARK) + r'(\{.*\})', traceback)
    return decode_error(match.group(1)) if match else _system_error_in(traceback)


def decode_error(text: str) -> MSLesSegError:
    """Return the error that :func:`encode_error` wrote."""
    content = json.loads(text)
    error = MSLesSegError(content['message'], content['hint'])
    error.exit_code = content['code']
    return error


def _system_error_in(traceback: str) -> MSLesSegError | None:
    """Find a full disk that Nipype itself met, while it kept the books of its nodes."""
    match = re.search(r"\[Errno (28|122)\][^\n]*?(?:: '([^'\n]*)')?$", traceback, re.MULTILINE)
    if match is None:
        return None
    return explain_os_error(OSError(int(match.group(1)), '', match.group(2)), 'the work folder')
