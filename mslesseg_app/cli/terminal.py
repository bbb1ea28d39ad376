"""Standard streams that can always be written to: closed ones, and terminals without Unicode."""

from __future__ import annotations

import codecs
import os
import sys

_HANDLER = 'mslesseg-plain'
#: What a terminal that knows only ASCII shows instead.
_PLAIN = {
    '…': '...', '–': '-', '—': '-', '×': 'x', '³': '3', '²': '2', '°': ' deg', 'µ': 'u', '≤': '<=',
    '≥': '>=', '→': '->', '“': '"', '”': '"', '’': "'", '·': '-',
}  # fmt: skip


def prepare_streams() -> None:
    """Let nothing that is printed end the program.

    A closed stream goes to the null device: otherwise the next file that is opened would take
    its number and receive what is printed. A character that the encoding of a stream lacks, or a
    byte of a file name that is not UTF-8, is printed in another way.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, which is this one
    for name in ('stdin', 'stdout', 'stderr'):
        if getattr(sys, name) is None:
            mode = 'r' if name == 'stdin' else 'w'
            setattr(sys, name, open(os.devnull, mode, encoding='utf-8'))  # noqa: SIM115
    codecs.register_error(_HANDLER, _plainly)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors=_HANDLER)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    plain = (_PLAIN.get(one) or one.encode('ascii', 'backslashreplace').decode() for one in part)
    return ''.join(plain), error.end
