"""Metadata of an image by BIDS' inheritance principle.

PyBIDS' own reader indexes the metadata of a whole dataset at once and gives up at the first
damaged file; here the few sidecars of one image are read, and a damaged one counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def inherited_metadata(path: Path, root: Path) -> dict[str, Any]:
    """Merge the sidecars that apply to an image.

    A sidecar applies if it lies in the folder of the image or above it, has the same suffix, and
    no entity that the image does not have. The nearer to the image, and the more entities, the
    more it counts.

    Parameters
    ----------
    path : Path
        Image within ``root``.
    root : Path
        Root of the dataset.
    """
    stem = path.name.split('.', 1)[0]
    *entities, suffix = stem.split('_')
    merged: dict[str, Any] = {}
    for folder in _folders(path.parent, root):
        fitting = [
            sidecar
            for sidecar in folder.glob(f'*{suffix}.json')
            if sidecar.stem.split('_')[-1] == suffix
            and set(sidecar.stem.split('_')[:-1]) <= set(entities)
        ]
        for sidecar in sorted(fitting, key=lambda item: (item.stem.count('_'), item.name)):
            merged |= _read(sidecar)
    return merged


def _folders(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the root, ``sub-01``, ``sub-01/ses-1`` and ``sub-01/ses-1/anat`` below it."""
    yield root
    parts = folder.relative_to(root).parts
    for count in range(1, len(parts) + 1):
        yield root.joinpath(*parts[:count])


def _read(sidecar: Path) -> dict[str, Any]:
    try:
        content = json.loads(sidecar.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
