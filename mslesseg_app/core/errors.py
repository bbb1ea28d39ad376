"""The one family of errors that users meet.

Every error carries the exit code of the BIDS execution specification (BIDS Apps,
"outputs" chapter) and a hint that says what to do next.
"""

from __future__ import annotations


class MSLesSegError(Exception):
    """Base of all errors that are explained to the user without a traceback.

    Parameters
    ----------
    message : str
        What is wrong, naming the file or option.
    hint : str
        What the user can do about it.

    Attributes
    ----------
    exit_code : int
        Exit status of the command line when this error ends it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = '') -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class InvalidBIDSError(MSLesSegError):
    """The input folder is not a valid BIDS dataset."""

    exit_code = 16


class NothingSelectedError(MSLesSegError):
    """The filters leave no participant or session."""

    exit_code = 18


class UsageError(MSLesSegError):
    """An option, or a combination of options, cannot be honoured."""

    exit_code = 64


class DataError(MSLesSegError):
    """An input file is damaged or is not what it should be."""

    exit_code = 65


class NoInputError(MSLesSegError):
    """A file or folder that is needed does not exist."""

    exit_code = 66


class AlignmentError(DataError):
    """An image could not be aligned to the template in a way that can be trusted."""


class ModelError(DataError):
    """The weights or the description of a model are missing, damaged or do not fit."""


class OutputError(MSLesSegError):
    """The output cannot be created."""

    exit_code = 73


class DiskError(MSLesSegError):
    """Reading or writing failed, for example because the disk is full."""

    exit_code = 74


class BusyError(MSLesSegError):
    """Something else holds what is needed; trying again later may work."""

    exit_code = 75


def unforeseen(what: str, error: Exception) -> MSLesSegError:
    """Return the message for a failure that nobody foresaw.

    Parameters
    ----------
    what : str
        What could not be done, as the beginning of a sentence.
    error : Exception
        One of ours is returned as it is.
    """
    if isinstance(error, MSLesSegError):
        return error
    text = ' '.join(str(error).split()) or 'no message'
    return MSLesSegError(
        f'{what}: {type(error).__name__}: {text}',
        'Check the files of this exam, and please report it with the version of mslesseg.',
    )
