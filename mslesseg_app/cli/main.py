"""The command ``mslesseg``: the first word chooses a verb, anything else is the BIDS App."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from .terminal import prepare_streams

#: Verb, the module of its command, and what it does.
VERBS = {
    'convert': ('convert', 'DICOM files to a BIDS dataset without names in it'),
    'run': ('run', 'convert DICOM files and run the App on them'),
    'demo': ('demo', 'write DICOM files of a synthetic head, convert them, run the App'),
    'models': ('models', 'list, show, add, fetch, verify and remove models'),
    'import': ('dataset_import', 'turn MSLesSeg or another public data set into BIDS'),
    'train': ('train', 'train a network on exams with manual masks'),
    'crossval': ('crossval', "repeat the paper's cross-validation"),
    'hpc': ('hpc', 'job scripts for a cluster, and trainings submitted to it'),
    'evaluate': ('evaluate', 'compare lesion masks of any program with reference masks'),
    'consensus': ('consensus', 'join the masks of several raters or models'),
    'report': ('report', 'tables and figures of the paper, from your data; results as DICOM'),
    'completion': ('completion', 'print a completion script for bash, zsh or fish'),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default: those of the process.

    Returns
    -------
    int
        Exit status of the BIDS execution specification.
    """
    prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = VERBS[arguments.pop(0)][0] if arguments and arguments[0] in VERBS else 'bids_app'
    module = import_module(f'.{name}', __package__)
    command: Callable[[list[str]], int] = module.main
    return guarded(command, arguments)


def guarded(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command and explain its errors instead of showing a traceback."""
    from ..errors import MSLesSegError, UsageError

    try:
        return command(arguments)
    except MSLesSegError as error:
        _explain(error)
        return error.exit_code
    except KeyboardInterrupt:
        print('Interrupted; run the same command again to go on.', file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except UnicodeEncodeError as error:
        part = error.object[max(error.start - 40, 0) : error.end + 40]
        _explain(UsageError(
            f'A name has bytes that are not UTF-8: {part!a}.',
            'Rename the file or folder.',
        ))  # fmt: skip
        return UsageError.exit_code
    except OSError as error:
        from ..files import explain_os_error

        explained = explain_os_error(error, 'a file')
        _explain(explained)
        return explained.exit_code


def _explain(error: Exception) -> None:
    print(f'mslesseg: error: {error}', file=sys.stderr)
    hint = getattr(error, 'hint', '')
    if hint:
        print(f'  {hint}', file=sys.stderr)


if __name__ == '__main__':
    sys.exit(main())
