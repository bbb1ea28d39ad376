"""Texts for users are plain, standard English: words that were replaced do not come back."""

from __future__ import annotations

import re
from pathlib import Path

#: What is refused, as a regular expression, and what to write instead.
REFUSED = {
    r'\b(an?|the) session before\b': 'previous session',
    r'\blamps?\b': 'status',
    r'\b(needs? a look|looks? at every|to look at|looked at)\b': 'review, flag',
    r'\bmaps? of doubt\b': 'uncertainty map',
    r'\b(one|lesion|point|slice|label|participant|reference) an? '
    r'(line|row|year|exam|task|subject)\b': 'one per …',
    r'\bstands? out\b': 'is flagged, is an outlier',
    r'\bbrought home\b|\*\*Home\.\*\*': 'resampled to native space',
    r'\btrained values\b': 'parameters',
    r'\bare joined\b': 'are combined',
    r'\bby heart\b': 'overfitted',
    r'\bknow better\b': 'are sure that',
    r'\btake the mark back\b': 'clear the mark',
    r'\bNothing was missing\b|\bNot there:': 'All sequences were available, Missing:',
    r'\bpage to look at\b|\bpage of (an?|the|each) (exam|subject)\b': 'report',
    r'\bjoins? (the masks|what)\b|\bwere joined\b|\bjoined map\b': 'combine',
    r'\bpages? of failed exams\b|\b(subject|group) pages?\b': 'report',
    r'\bit said:': 'output',
    r'\bA session more or less\b': 'adding or removing a session',
    r'\bwere told\b|\bare told with\b': 'are reported',
    r'\bmL\b': 'ml',
}
#: Files whose whole text is for users, and modules whose texts in quotes are.
PROSE = ('README.md', 'docs/*.md', 'mslesseg_app/reports/templates/**/*.html')
MODULES = (
    'mslesseg_app/cli/*.py',
    'mslesseg_app/group/*.py',
    'mslesseg_app/participant/interfaces/*.py',
    'mslesseg_app/reports/*.py',
    'mslesseg_app/participant/workflows/*.py',
)
_QUOTED = re.compile(r"(?<![\w\"'])f?'(?:[^'\\\n]|\\.)*'")
_MACHINE = re.compile(r'<(style|script)\b.*?</\1>|class="[^"]*"|\{[{%#].*?[}%#]\}', re.DOTALL)


def found(text: str) -> list[str]:
    return [
        f'{match.group()!r}: write {instead}'
        for pattern, instead in REFUSED.items()
        for match in re.finditer(pattern, text, re.IGNORECASE if pattern != r'\bmL\b' else 0)
    ]


def test_no_refused_word_in_texts_for_users(project_root: Path) -> None:
    problems = []
    for pattern in PROSE:
        for path in project_root.glob(pattern):
            text = path.read_text(encoding='utf-8')
            text = _MACHINE.sub('', text) if path.suffix == '.html' else text
            problems += [f'{path.relative_to(project_root)}: {one}' for one in found(text)]
    for pattern in MODULES:
        for path in project_root.glob(pattern):
            quoted = ' '.join(_QUOTED.findall(path.read_text(encoding='utf-8')))
            problems += [f'{path.relative_to(project_root)}: {one}' for one in found(quoted)]
    assert problems == []


def test_the_list_finds_what_it_refuses() -> None:
    for text in ('one a line', 'Change since the session before', 'a grey lamp', '5 mL'):
        assert found(text), text
    assert not found('one per line; change since the previous session; clamp; 5 ml')
