"""Manual pages of every command, from its parser."""

from __future__ import annotations

import os
from pathlib import Path

from argparse_manpage.manpage import Manpage

from mslesseg_app import __version__
from mslesseg_app.cli.completion import parsers
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
    for words, parser in parsers():
        if len(words) > 1:
            continue
        page = Manpage(parser)
        page.prog = '-'.join(['mslesseg', *words])
        page.source = f'mslesseg {__version__}'
        page.manual = 'mslesseg'
        page.description = SUMMARY if not words else first_sentence(parser.description or '')
        path = folder / f'{page.prog}.1'
        path.write_text(f'{page}\n{see_also(page.prog)}', encoding='utf-8')
        written.append(path)
    return written


def see_also(own: str) -> str:
    """Return the section that names the other pages."""
    pages = ['mslesseg', *(f'mslesseg-{verb}' for verb in VERBS)]
    others = [f'.BR {page} (1)' for page in pages if page != own]
    return '\n'.join(['.SH SEE ALSO', *others, '.PP', NOTICE, ''])


def first_sentence(text: str) -> str:
    """Return the first sentence as a fragment, as the NAME section wants it."""
    sentence = ' '.join(text.split()).partition('. ')[0].partition(': ')[0].rstrip('.')
    return sentence[:1].lower() + sentence[1:]
