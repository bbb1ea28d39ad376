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
#: Old terms of the glossary in `docs/contributing.md`: refused in code, templates and docs.
OLD_TERMS = {
    r'\bdoubt\w*|\w*_doubt\w*': 'uncertainty; or uncertain',
    r'\w*verdict\w*|\bsuspect\b|\blamps?\b': 'status: pass, check or fail',
    r'\bpictures?\b|\w+_pictures?\b': 'image or figure',
    r'\bwish(es)?\b|\bwishes_of\b': 'overrides',
    r'\bmended\b': 'default (the preset); or corrected',
    r'\b\w*(?<![a-z])Chance\b': 'random stream',
    r'\b(Case|Augmented)?Feed\b': 'dataset',
    r'\b(Case)?Judge\b(?! )|\bJudgement\b': 'validator; or check',
    r'\b(brought|brings?|bring_)(\s?\w+){0,4}?\s?home\b': 'native space',
    r'\bJoin(Models|Masks|Metadata|Sessions)\b|\bjoined (models|masks|maps?|tables?)\b': 'combine',
    r'\b(subject|group|participant) pages?\b|\bwrite_\w*pages?\b': 'report',
    r'\btrained[ _]values\b': 'parameters',
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
SOURCES = (
    'README.md',
    'docs/**/*.md',
    'mslesseg_app/**/*.py',
    'mslesseg_app/reports/templates/**/*',
    'release/*.py',
)
_GLOSSARY = re.compile(r'^## Glossary$.*?(?=^## )', re.MULTILINE | re.DOTALL)
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
            text = _GLOSSARY.sub('', text) if path.name == 'contributing.md' else text
            text = _MACHINE.sub('', text) if path.suffix == '.html' else text
            problems += [f'{path.relative_to(project_root)}: {one}' for one in found(text)]
    for pattern in MODULES:
        for path in project_root.glob(pattern):
            quoted = ' '.join(_QUOTED.findall(path.read_text(encoding='utf-8')))
            problems += [f'{path.relative_to(project_root)}: {one}' for one in found(quoted)]
    assert problems == []


def old_terms(text: str) -> list[str]:
    return [
        f'{match.group()!r}: write {instead}'
        for pattern, instead in OLD_TERMS.items()
        for match in re.finditer(pattern, text)
    ]


def test_no_old_term_in_code_templates_and_docs(project_root: Path) -> None:
    problems = []
    for pattern in SOURCES:
        for path in filter(Path.is_file, project_root.glob(pattern)):
            text = _GLOSSARY.sub('', path.read_text(encoding='utf-8'))
            problems += [f'{path.relative_to(project_root)}: {one}' for one in old_terms(text)]
    assert problems == []


def test_the_old_terms_of_the_glossary_are_refused(project_root: Path) -> None:
    text = (project_root / 'docs' / 'contributing.md').read_text(encoding='utf-8')
    (glossary,) = _GLOSSARY.findall(text)
    rows = re.findall(r'^\| \*(.+?)\* \|.*\|(.*?)\|$', glossary, re.M)
    assert len(rows) >= 25
    old = [word for _, words in rows for word in re.findall(r'"(.+?)"', words)]
    assert len(old) >= 12
    assert [word for word in old if not (old_terms(word) or found(word))] == []


def test_the_list_finds_what_it_refuses() -> None:
    for text in ('one a line', 'Change since the session before', 'a grey lamp', '5 mL'):
        assert found(text), text
    assert not found('one per line; change since the previous session; clamp; 5 ml')
