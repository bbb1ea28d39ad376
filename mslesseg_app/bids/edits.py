"""Masks that a person has edited, found for each exam (``--derivatives edited=PATH``)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from mslesseg_app.bids.exam import Exam
from mslesseg_app.core.errors import InvalidBIDSError, MSLesSegError, NoInputError
from mslesseg_app.lesions.edited import read_edited
from mslesseg_app.spatial.reading import open_image

_SPACES = (None, 'orig')
_LABELS = ('lesion', 'L', 'WMH')


def with_edits(exams: list[Exam], root: Path, model: str) -> list[Exam]:
    """Give each exam its edited mask, or the problem that the mask has.

    A mask belongs to an exam when its name begins with that of the exam and has
    ``label-lesion`` and the suffix ``mask``; its folder does not matter. Of several, one with
    ``desc-edited`` comes first, then one with the ``desc`` of the model, then one without
    ``desc``; masks in other spaces than that of the FLAIR, and of other ``desc``, do not count.

    Parameters
    ----------
    model : str
        Name of the model or ensemble.

    Raises
    ------
    NoInputError
        If the folder does not exist or holds no lesion mask at all.
    """
    if not root.is_dir():
        raise NoInputError(
            f'The folder of edited masks {root} does not exist.',
            'Check --derivatives edited=PATH.',
        )
    files = sorted(path for path in root.rglob('sub-*_mask.nii*') if _label_of(path) in _LABELS)
    if not files:
        raise NoInputError(
            f'{root} holds no lesion mask (sub-…_label-lesion_…_mask.nii.gz).',
            'Keep the name of the file that you edited, or write desc-edited into it.',
        )
    return [exam if exam.problem else _with_edit(exam, files, root, model) for exam in exams]


def _with_edit(exam: Exam, files: list[Path], root: Path, model: str) -> Exam:
    try:
        path = _choose(exam, files, model)
        if path is None or 'FLAIR' not in exam.images:
            return exam
        try:
            flair = open_image(exam.images['FLAIR'])
        except MSLesSegError:
            return exam  # the first node says what is wrong with it
        read_edited(path, flair)
    except MSLesSegError as error:
        return replace(exam, problem=error)
    name = path.relative_to(root).as_posix()
    return replace(exam, edited=path, notes=(*exam.notes, f'Edited mask given: {name}.'))


def _choose(exam: Exam, files: list[Path], model: str) -> Path | None:
    ranks = {'edited': 0, model: 1, None: 2}
    found = [
        path
        for path in files
        if _is_of(exam, path.name)
        and _entity(path, 'space') in _SPACES
        and _entity(path, 'desc') in ranks
    ]
    best = min((ranks[_entity(path, 'desc')] for path in found), default=None)
    first = [path for path in found if ranks[_entity(path, 'desc')] == best]
    if len(first) > 1:
        raise InvalidBIDSError(
            f'{exam.label} has several edited masks: {", ".join(map(str, first))}.',
            'Leave one of them in the folder, or write desc-edited into its name.',
        )
    return first[0] if first else None


def _is_of(exam: Exam, name: str) -> bool:
    return name.startswith(exam.label + '_') and (
        exam.session is not None or not re.match(r'sub-[^_]+_ses-', name)
    )


def _label_of(path: Path) -> str | None:
    return _entity(path, 'label')


def _entity(path: Path, name: str) -> str | None:
    found = re.search(rf'_{name}-([A-Za-z0-9+]+)_', path.name)
    return found.group(1) if found else None
