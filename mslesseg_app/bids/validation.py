"""Validation of the input with the official BIDS validator (deno build, works offline)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from mslesseg_app.core.errors import InvalidBIDSError

_PROGRAM = 'bids-validator-deno'


def find_validator() -> str | None:
    """Return the validator's path: beside the running Python first, then on the PATH."""
    beside = Path(sys.executable).parent / _PROGRAM
    return str(beside) if beside.is_file() else shutil.which(_PROGRAM)


def validate(bids_dir: Path) -> str | None:
    """Validate a dataset.

    Parameters
    ----------
    bids_dir : Path
        Root of the dataset.

    Returns
    -------
    str or None
        A warning for the user where the validation could not be done.

    Raises
    ------
    InvalidBIDSError
        If the validator finds errors; the message lists the first of them.
    """
    if (link := _endless_link(bids_dir)) is not None:
        return (
            f'The input was not validated: {link} is a link to a folder of the dataset, which the '
            'validator would follow without end. Remove the link.'
        )
    program = find_validator()
    if program is None:
        return (
            'The input was not validated: bids-validator-deno is not installed '
            '(pip install bids-validator-deno).'
        )
    # Damaged images are found and reported exam by exam, so headers are not looked at here.
    command = [program, str(bids_dir), '--format', 'json', '--ignoreWarnings']
    command += ['--ignoreNiftiHeaders']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    errors = _errors(done.stdout)
    if errors is not None and not errors:
        return None
    if errors is None:
        return f'The input was not validated: {_PROGRAM} failed ({done.stderr.strip()[:200]}).'
    listed = '\n'.join(f'  {line}' for line in errors[:5])
    more = f'\n  … and {len(errors) - 5} more' if len(errors) > 5 else ''
    raise InvalidBIDSError(
        f'{bids_dir} is not valid BIDS:\n{listed}{more}',
        f'Run "{_PROGRAM} {bids_dir}" for the whole list, or go on all the same with '
        '--skip-bids-validation.',
    )


def _endless_link(root: Path) -> Path | None:
    """Return a link to a folder that holds it or is another of the dataset, relative to it."""
    top = root.resolve()
    for folder, names, _ in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                continue
            target = path.resolve()
            if target == top or top in target.parents or target in top.parents:
                return path.relative_to(root)
    return None


def _errors(output: str) -> list[str] | None:
    try:
        issues = json.loads(output)['issues']['issues']
    except (ValueError, KeyError, TypeError):
        return None
    return [
        ' '.join(filter(None, [item.get('code'), item.get('subCode'), item.get('location')]))
        for item in issues
        if item.get('severity') == 'error' and item.get('code') != 'EMPTY_FILE'
    ]
