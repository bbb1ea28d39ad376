"""The command ``mslesseg``: the first word chooses a verb, anything else is the BIDS App."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from mslesseg_app.cli.terminal import prepare_streams
from mslesseg_app.core.errors import MSLesSegError, UsageError

#: Verb, the module of its command, and what it does.
VERBS = {
    'convert': ('convert', 'DICOM to a de-identified BIDS dataset'),
    'run': ('run', 'convert DICOM files, then segment them'),
    'demo': ('demo', 'run everything on a synthetic head'),
    'models': ('models', 'list, show, add, fetch, verify and remove models'),
    'import': ('dataset_import', 'turn MSLesSeg or another public data set into BIDS'),
    'train': ('train', 'train a network on exams with manual masks'),
    'crossval': ('crossval', "repeat the paper's cross-validation"),
    'export': ('export', 'labelled exams for a training of nnU-Net'),
    'hpc': ('hpc', 'job scripts for a cluster, and submitted trainings'),
    'evaluate': ('evaluate', 'compare lesion masks of any program with reference masks'),
    'consensus': ('consensus', 'combine the masks of several raters or models'),
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
    if argv is None and '_ARGCOMPLETE' in os.environ:
        from mslesseg_app.cli.completion import answer

        answer()
    prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(commands())
        return 0
    if meant := meant_command(arguments):
        _explain(UsageError(f'There is no command {arguments[0]!r}.', meant))
        return UsageError.exit_code
    name = VERBS[arguments.pop(0)][0] if arguments and arguments[0] in VERBS else 'bids_app'
    module = import_module(f'.{name}', __package__)
    command: Callable[[list[str]], int] = module.main
    return guarded(command, arguments)


def commands() -> str:
    """Return the commands in a list."""
    verbs = '\n'.join(f'  mslesseg {name:10} {text}' for name, (_, text) in VERBS.items())
    return (
        'Segment multiple sclerosis lesions in brain MRI.\n\ncommands:\n'
        '  mslesseg BIDS_DIR OUTPUT_DIR participant group\n'
        '                      segment the exams of a BIDS dataset, and summarise them\n'
        f'{verbs}\n\n'
        'help: mslesseg --help, mslesseg COMMAND --help\n'
        'For research use only; not a medical device.'
    )


def meant_command(arguments: Sequence[str]) -> str:
    """Return which command was probably meant, where the first word is none and no folder."""
    from pathlib import Path

    from mslesseg_app.core.text import did_you_mean

    word = arguments[0]
    is_app = {'participant', 'group', 'subject', 'dataset'} & set(arguments[1:])
    if word in VERBS or word.startswith('-') or is_app or '/' in word or Path(word).exists():
        return ''
    return did_you_mean(word, VERBS)


def guarded(command: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command and explain its errors instead of showing a traceback."""
    try:
        return command(arguments)
    except MSLesSegError as error:
        _explain(error)
        return error.exit_code
    except KeyboardInterrupt:
        print('Interrupted; run the same command again to continue.', file=sys.stderr)
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
        from mslesseg_app.core.files import explain_os_error

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
