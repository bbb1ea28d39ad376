"""Manual pages of every command, from its parser."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from argparse_manpage.manpage import Manpage

from mslesseg_app import __version__
from mslesseg_app.cli.main import VERBS

NOTICE = 'For research use only; not a medical device.'
SUMMARY = 'segment the lesions of multiple sclerosis in brain MRI'


def write(folder: Path) -> list[Path]:
    """Write ``mslesseg.1``, ``mslesseg-convert.1`` and so on, and return them.

    Parameters
    ----------
    folder : Path
        Where; made if it does not exist.

    Returns
    -------
    list of Path
        The pages, one for the App and one for each verb; a verb that has actions
        (``models``) describes them in its own page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault('SOURCE_DATE_EPOCH', '0')  # the date in the footer
    os.environ['COLUMNS'] = '80'
    written = []
    for name, parser in parsers():
        page = Manpage(parser)
        page.prog = name
        page.source = f'mslesseg {__version__}'
        page.manual = 'mslesseg'
        app = name == 'mslesseg'
        page.description = SUMMARY if app else first_sentence(parser.description or '')
        path = folder / f'{page.prog}.1'
        path.write_text(f'{page}\n{see_also(page.prog)}', encoding='utf-8')
        written.append(path)
    return written


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the name of the page and the parser of every command, the App first."""
    for name, module in [
        ('mslesseg', 'bids_app'),
        *((f'mslesseg-{v}', m) for v, (m, _) in VERBS.items()),
    ]:
        yield name, import_module(f'mslesseg_app.cli.{module}').build_parser()


def see_also(own: str) -> str:
    """Return the section that names the other pages."""
    pages = ['mslesseg', *(f'mslesseg-{verb}' for verb in VERBS)]
    others = [f'.BR {page} (1)' for page in pages if page != own]
    return '\n'.join(['.SH SEE ALSO', *others, '.PP', NOTICE, ''])


def first_sentence(text: str) -> str:
    """Return the first sentence as a fragment, as the NAME section wants it."""
    sentence = ' '.join(text.split()).partition('. ')[0].partition(': ')[0].rstrip('.')
    return sentence[:1].lower() + sentence[1:]
