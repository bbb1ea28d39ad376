"""``.bidsignore``: patterns as in ``.gitignore``, as the BIDS validator reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class _Rule:
    """One pattern: what it matches, whether only folders, and whether it takes back."""

    pattern: re.Pattern[str]
    folders_only: bool
    negated: bool


class IgnoredFiles:
    """The files of a dataset that its ``.bidsignore`` names.

    Parameters
    ----------
    root : Path
        Root of the dataset; without ``.bidsignore`` nothing is ignored.

    Examples
    --------
    >>> ignored = IgnoredFiles.from_lines(['extra/', '*_acq-bad_*', '!sub-02/**'])
    >>> [path in ignored for path in ('extra/a.nii', 'sub-01/anat/sub-01_acq-bad_T1w.nii')]
    [True, True]
    >>> 'sub-02/anat/sub-02_acq-bad_T1w.nii' in ignored
    False
    """

    def __init__(self, root: Path) -> None:
        try:
            lines = (root / '.bidsignore').read_text('utf-8', errors='replace').splitlines()
        except OSError:
            lines = []
        self._rules = [rule for line in lines if (rule := _rule(line))]

    @classmethod
    def from_lines(cls, lines: list[str]) -> IgnoredFiles:
        """Take the lines of a ``.bidsignore``."""
        made = cls.__new__(cls)
        made._rules = [rule for line in lines if (rule := _rule(line))]
        return made

    def __contains__(self, path: object) -> bool:
        """Whether a file (relative to the root, with ``/``) is ignored, or a folder around it."""
        parts = PurePosixPath(str(path)).parts
        return any(
            self._matches('/'.join(parts[:count]), count < len(parts))
            for count in range(1, len(parts) + 1)
        )

    def ignores_folder(self, path: str) -> bool:
        """Whether a folder, and with it all that it holds, is ignored."""
        return path in self or self._matches(path, folder=True)

    def _matches(self, path: str, folder: bool) -> bool:
        ignored = False
        for rule in self._rules:
            if (folder or not rule.folders_only) and rule.pattern.fullmatch(path):
                ignored = not rule.negated
        return ignored


def _rule(line: str) -> _Rule | None:
    text = line.strip()
    if not text or text.startswith('#'):
        return None
    negated = text.startswith('!')
    text = text.removeprefix('!').removeprefix('\\')
    folders_only = text.endswith('/')
    text = text.rstrip('/')
    start = '' if '/' in text else '(?:.*/)?'
    text = text.removeprefix('/')
    try:
        pattern = re.compile(start + _as_regex(text))
    except re.error:  # such as the class [z-a]: it means itself
        pattern = re.compile(start + re.escape(text))
    return _Rule(pattern, folders_only, negated)


def _as_regex(pattern: str) -> str:
    """Translate a glob; ``**`` crosses folders."""
    parts = re.split(r'(\*\*/|/\*\*$|\*\*|\*|\?|\[[^\]]+\])', pattern)
    known = {'**/': '(?:.*/)?', '/**': '/.*', '**': '.*', '*': '[^/]*', '?': '[^/]'}
    return ''.join(
        known.get(part) or (_as_class(part) if part.startswith('[') else re.escape(part))
        for part in parts
        if part
    )


def _as_class(part: str) -> str:
    inner = part[1:-1].replace('\\', '\\\\')
    return f'[^{inner[1:]}]' if inner.startswith('!') else f'[{inner}]'
