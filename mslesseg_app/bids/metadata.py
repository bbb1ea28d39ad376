"""Metadata of an image by BIDS' inheritance principle.

PyBIDS' own reader indexes the metadata of a whole dataset at once and gives up at the first
damaged file; here the few sidecars of one image are read, and a damaged one counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mslesseg_app.core.files import read_any_text


class Metadata:
    """Metadata of the images of a dataset; each folder is listed once.

    Parameters
    ----------
    root : Path
        Root of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[Path, list[Path]] = {}

    def of(self, path: Path) -> dict[str, Any]:
        """Merge the sidecars that apply to an image within the dataset.

        A sidecar applies if it lies in the folder of the image or above it, has the same suffix,
        and no entity that the image does not have. The nearer to the image, and the more
        entities, the more it counts.
        """
        *entities, suffix = path.name.split('.', 1)[0].split('_')
        merged: dict[str, Any] = {}
        for folder in _folders(path.parent, self.root):
            for sidecar in self._sidecars(folder):
                *theirs, kind = sidecar.stem.split('_')
                if kind == suffix and set(theirs) <= set(entities):
                    merged |= _read_sidecar(sidecar)
        return merged

    def _sidecars(self, folder: Path) -> list[Path]:
        """Return the sidecars in a folder, those with fewer entities first."""
        if folder not in self._listed:
            self._listed[folder] = sorted(
                folder.glob('*.json'), key=lambda item: (item.stem.count('_'), item.name)
            )
        return self._listed[folder]


def _folders(folder: Path, root: Path) -> Iterator[Path]:
    """Yield the root, ``sub-01``, ``sub-01/ses-1`` and ``sub-01/ses-1/anat`` below it."""
    yield root
    parts = folder.relative_to(root).parts
    for count in range(1, len(parts) + 1):
        yield root.joinpath(*parts[:count])


def _read_sidecar(sidecar: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_any_text(sidecar))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
