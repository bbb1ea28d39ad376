"""Reference masks of exams: from ``--derivatives manual=PATH``, or from the raw data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import nibabel as nb

from mslesseg_app.bids.exam import named_exam
from mslesseg_app.bids.names import files_by_model
from mslesseg_app.core.errors import NoInputError
from mslesseg_app.core.settings import Settings
from mslesseg_app.group.collect import Key
from mslesseg_app.spatial.checks import UNREADABLE

_LESION = re.compile(r'_label-(lesion|L|WMH)_')
_SESSION = re.compile(r'_(ses-[A-Za-z0-9+]+)_')


def find_references(exams: Iterable[Key], settings: Settings) -> dict[Key, Path]:
    """Find the reference mask of each exam that has one.

    ``--derivatives manual=PATH`` decides; without it, lesion masks in the raw data
    (``sub-*/**/anat/*_label-lesion_*mask.nii.gz``) are taken. Where an exam has several, one on
    the grid of its own lesion masks is preferred, then the first by name.

    Parameters
    ----------
    exams : iterable of Key
        Without a model.

    Raises
    ------
    NoInputError
        If the folder that was named does not exist.
    """
    named = settings.derivatives.get('manual')
    root = settings.bids_dir if named is None else named
    if not root.is_dir():
        if named is None:
            return {}
        raise NoInputError(
            f'The folder of reference masks {root} does not exist.',
            'Check --derivatives manual=PATH.',
        )
    found = {}
    for exam in exams:
        masks = _masks_of(exam, root, settings.out_dir)
        if len(masks) > 1:
            shape = _shape_in(settings.out_dir, exam)
            masks.sort(key=lambda path: (_shape(path) != shape, path.name))
        if masks:
            found[exam] = masks[0]
    return found


def _masks_of(exam: Key, root: Path, out_dir: Path) -> list[Path]:
    """Return the lesion masks of an exam in a dataset, our own output left out."""
    masks = []
    for path in sorted((root / exam.subject).glob('**/*_mask.nii*')):
        session = _SESSION.search(path.name)
        if session is not None and session.group(1) != exam.session:
            continue
        if _LESION.search(path.name) and out_dir not in path.parents:
            masks.append(path)
    return masks


def _shape_in(out_dir: Path, exam: Key) -> tuple[int, ...] | None:
    """Return the shape of the exam's native lesion masks."""
    masks = files_by_model(out_dir, named_exam(exam.exam), 'lesion_native')
    return next(map(_shape, masks.values()), None)


def _shape(path: Path) -> tuple[int, ...] | None:
    try:
        shape: tuple[int, ...] = nb.load(path).shape
    except UNREADABLE:
        return None
    return shape
