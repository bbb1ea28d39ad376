"""FSL as it is installed: what is missing of it, and its version."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

#: Programs that nodes start by name.
PROGRAMS = ('flirt', 'bet')
#: Programs that these start: ``bet`` is a script, and ``bet -R`` computes with ``dc``.
HELPERS = ('bet2', 'fslval', 'fslstats', 'imtest', 'remove_ext')
CALCULATOR = 'dc'
_STANDARD = ('MNI152_T1_1mm.nii.gz', 'MNI152_T1_1mm_brain.nii.gz')


def missing_fsl() -> list[str]:
    """Return what of FSL the workflow needs and does not find.

    An FSL that lacks one of the programs that its own scripts call counts as incomplete: it
    would fail in the middle of an exam.
    """
    root = Path(os.environ.get('FSLDIR') or '/nowhere')
    missing = [name for name in (*PROGRAMS, CALCULATOR) if shutil.which(name) is None]
    missing += [
        name
        for name in HELPERS
        if shutil.which(name) is None and not os.access(root / 'bin' / name, os.X_OK)
    ]
    standard = root / 'data' / 'standard'
    return missing + [
        f'$FSLDIR/data/standard/{name}' for name in _STANDARD if not (standard / name).is_file()
    ]


def fsl_version() -> str:
    """Return the release of FSL, or the versions of its packages where it came from conda."""
    root = Path(os.environ.get('FSLDIR') or '/nowhere')
    release = root / 'etc' / 'fslversion'
    if release.is_file():
        return release.read_text(encoding='utf-8', errors='replace').split(':')[0].strip()
    packages = [_package(path) for path in sorted((root / 'conda-meta').glob('fsl-*.json'))]
    named = [text for text in packages if text.startswith(('fsl-flirt ', 'fsl-bet2 '))]
    return ', '.join(named) or 'unknown'


def _package(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        return f'{content["name"]} {content["version"]}'
    except (OSError, ValueError, KeyError, TypeError):
        return ''
