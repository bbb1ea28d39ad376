"""Commands of the documentation: found in the pages, and what stands for their placeholders."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

PAGES = ('README.md', 'docs/*.md')
#: Lines outside of fences that are commands all the same.
INDENTED = re.compile(r'^ {4}((?:\.venv/bin/|mslesseg |make |python |bash ).*)$')
FENCE = re.compile(r'^ {0,3}(`{3,}|:{3,}|~{3,})\s*(\w*)')
SHELLS = ('sh', 'bash', 'shell', 'console')

#: What a user would write in place of these words.
PLACEHOLDERS = {
    'BIDS_DIR': 'bids', 'BIDS': 'bids', 'OTHER_BIDS': 'bids', 'bids_dir': 'bids',
    'OUT_DIR': 'out', 'OUT': 'out', 'WORK': 'work', 'DERIVATIVES': 'out',
    'DICOM_DIR': 'demo/dicom', 'DICOM': 'demo/dicom', 'SOURCE': 'demo/dicom',
    'MASKS': 'references', 'REFERENCES': 'references',
    'PRED': 'prediction.nii.gz', 'REF': 'reference.nii.gz',
    'TABLES': 'tables', 'FIGURES': 'figures', 'MODELS': 'models', 'DIR': 'models', 'NAME': 'mine',
}  # fmt: skip
#: Other words for them where the usual ones would do harm.
SPECIAL = [
    (re.compile(r'^mslesseg convert (?!--check)'), {'BIDS_DIR': 'converted'}),
    (re.compile(r'^mslesseg convert --check'), {'BIDS_DIR': 'demo/bids'}),
    (re.compile(r'^mslesseg run '), {'OUT_DIR': 'straight'}),
    (re.compile(r'^mslesseg demo DIR'), {'DIR': 'demo'}),
    # $MODEL is the name of the model whose masks are there
    (
        re.compile(r'^mslesseg report '),
        {'DIR': 'handed_on', 'NAME': '$MODEL'},
    ),
    (re.compile(r'^mslesseg report roi '), {'BIDS_DIR': 'fmriprep_input'}),
]
MASKS = ('rater1.nii.gz', 'rater2.nii.gz', 'rater3.nii.gz')


@dataclass(frozen=True)
class Example:
    """A command in a page.

    Attributes
    ----------
    page : str
        Name of the file.
    line : int
        Where it begins, from 1.
    command : str
        On one line, without comment and prompt.
    language : str
        ``sh``, or ``python`` for a whole block.
    """

    page: str
    line: int
    command: str
    language: str = 'sh'

    def __str__(self) -> str:
        return f'{self.page}:{self.line}: {self.command}'


def find_examples(root: Path) -> list[Example]:
    """Return every command of every page."""
    found = list[Example]()
    for pattern in PAGES:
        for path in sorted(root.glob(pattern)):
            found += examples_of(path.name, path.read_text(encoding='utf-8'))
    return found


def examples_of(page: str, text: str) -> list[Example]:
    """Return the commands of one page."""
    found = list[Example]()
    fence = language = ''
    block: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        match = FENCE.match(line)
        if not fence and match and match.group(1)[0] != ':':
            fence, language, block = match.group(1), match.group(2), []
        elif fence and match and match.group(1) == fence and not match.group(2):
            found += _of_block(page, language, block)
            fence = ''
        elif fence:
            block.append((number, line))
        elif indented := INDENTED.match(line):
            found.append(Example(page, number, bare(indented.group(1))))
    return found


def _of_block(page: str, language: str, block: list[tuple[int, str]]) -> list[Example]:
    if language == 'python':
        code = '\n'.join(line for _, line in block)
        return [Example(page, block[0][0], code, 'python')]
    if language not in SHELLS:
        return []
    found, start, held = list[Example](), 0, ''
    for number, line in block:
        start = start if held else number
        held += bare(line)
        if held.endswith('\\'):
            held = held[:-1]
            continue
        if held:
            found.append(Example(page, start, ' '.join(held.split())))
        held = ''
    return found


def bare(line: str) -> str:
    """Return a line without comment and prompt."""
    return re.sub(r'(^|\s+)#.*$', '', line).strip().removeprefix('$ ')


def read_table(text: str) -> dict[str, str]:
    """Return patterns and reasons of the table of ``docs/examples.md``."""
    rows = re.findall(r'^\| `(.+?)` \| (.+?) \|$', text, re.M)
    return {pattern.replace('\\|', '|'): reason for pattern, reason in rows}


def reason_for(example: Example, table: dict[str, str]) -> str:
    """Return why an example is not run, or nothing.

    In a pattern ``*`` stands for any text; all else is meant as it is.
    """
    for pattern, reason in table.items():
        if fnmatch.fnmatchcase(example.command, pattern.replace('[', '[[]')):
            return reason
    return ''


def filled(command: str) -> str:
    """Return a command with paths in place of its placeholders."""
    command = re.sub(r'(?<=[A-Z]) \.\.\.(?= )', '', command).replace('.venv/bin/', '')
    words = dict(PLACEHOLDERS)
    for pattern, other in SPECIAL:
        if pattern.match(command):
            words |= other
    masks = iter(MASKS)
    command = re.sub(r'\bMASK\b', lambda _: next(masks), command)
    pattern = re.compile(rf'(?<![\w-])({"|".join(sorted(words, key=len, reverse=True))})(?![\w-])')
    return pattern.sub(lambda match: words[match.group(1)], command)
