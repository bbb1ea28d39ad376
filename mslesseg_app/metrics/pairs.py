"""Which prediction belongs to which reference: two files, two folders or a table of pairs."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from mslesseg_app.core.errors import DataError, NoInputError, UsageError
from mslesseg_app.core.files import read_any_text

_ENDINGS = ('.nii.gz', '.nii')
#: Words at the end of a name that say what a file is, not whose it is.
_KIND = re.compile(
    r'[-_.](masks?|seg(mentation)?|lesions?|pred(iction|icted)?|ref(erence)?|gt|labels?|manual)$',
    re.IGNORECASE,
)
_COLUMNS = ('prediction', 'reference')


@dataclass(frozen=True)
class MaskPair:
    """A prediction and its reference.

    Attributes
    ----------
    name : str
        Whose mask it is: ``sub-01_ses-1`` or the name of the file.
    prediction, reference : Path
    probability : Path or None
    """

    name: str
    prediction: Path
    reference: Path
    probability: Path | None = None


@dataclass(frozen=True)
class Pairs:
    """The pairs, in the order of their names, and what found no partner."""

    pairs: tuple[MaskPair, ...]
    without_reference: tuple[Path, ...] = ()
    without_prediction: tuple[Path, ...] = ()


def find_pairs(prediction: Path, reference: Path | None, probability: Path | None = None) -> Pairs:
    """Find the pairs of two files, two folders, or a TSV of pairs.

    Parameters
    ----------
    prediction : Path
        File, folder, or, without a `reference`, a TSV with the columns ``prediction`` and
        ``reference`` (paths are relative to the table) and maybe ``name`` and ``probability``.
    reference : Path, optional
        File or folder, as the prediction is.
    probability : Path, optional
        Map of the same kind: a file with files, a folder with folders (same names or entities).

    Raises
    ------
    NoInputError
        If something does not exist, or no pair is found.
    UsageError
        If a file and a folder are mixed, or the reference is missing.
    DataError
        If a table cannot be read, or a reference has several candidates.
    """
    for path in (prediction, reference, probability):
        if path is not None and not path.exists():
            raise NoInputError(f'{path} does not exist.')
    if reference is None:
        if probability is not None:
            raise UsageError(
                '--probability has no use with a table of pairs.',
                'Give the table a column "probability".',
            )
        return Pairs(_from_table(prediction))
    given = [path for path in (prediction, reference, probability) if path is not None]
    if len({path.is_dir() for path in given}) == 2:
        raise UsageError('Files and folders are mixed.', 'Give files only, or folders only.')
    if prediction.is_dir():
        return _from_folders(prediction, reference, probability)
    return Pairs((MaskPair(owner(prediction), prediction, reference, probability),))


# ---------------------------------------------------------------------------- table


def _from_table(path: Path) -> tuple[MaskPair, ...]:
    if path.is_dir() or path.name.endswith(_ENDINGS):
        raise UsageError(
            f'{path} has no reference to be compared with.', 'Give PRED and REF, or a TSV.'
        )
    try:
        text = read_any_text(path)
    except (OSError, ValueError) as error:
        raise DataError(f'{path} is not a table of text: {error}') from error
    rows = list(csv.DictReader(text.splitlines(), delimiter='\t'))
    if not rows:
        raise NoInputError(f'{path} has no pair.', 'Give it a header and one line a pair.')
    if missing := [name for name in _COLUMNS if name not in rows[0]]:
        raise DataError(
            f'{path} lacks the column {" and ".join(missing)}.',
            'A table of pairs has columns, parted by tabs, named prediction and reference.',
        )
    return tuple(_pair_of_row(path, number, row) for number, row in enumerate(rows, start=2))


def _pair_of_row(path: Path, line: int, row: dict[str, str]) -> MaskPair:
    empty = {'', 'n/a', None}
    if any(row[name] in empty for name in _COLUMNS):
        raise DataError(f'Line {line} of {path} has no prediction or no reference.')
    prediction, reference = (path.parent / row[name] for name in _COLUMNS)
    probability = row.get('probability')
    return MaskPair(
        row.get('name') or owner(prediction),
        prediction,
        reference,
        None if probability in empty else path.parent / str(probability),
    )


# -------------------------------------------------------------------------- folders


def _from_folders(predictions: Path, references: Path, probabilities: Path | None) -> Pairs:
    masks, truths = masks_in(predictions), masks_in(references)
    by_owner = _grouped(truths)
    maps = _grouped(_images_in(probabilities)) if probabilities is not None else {}
    spaces = {name: {_space(p) for p in group} for name, group in _grouped(masks).items()}
    pairs, alone = [], []
    for mask in masks:
        name = owner(mask)
        truth = _partner(mask, by_owner.get(name, []), alone_is_enough=len(spaces[name]) == 1)
        if truth is None:
            alone.append(mask)
            continue
        pairs.append(MaskPair(name, mask, truth, _partner(mask, maps.get(name, []), True)))
    if not pairs:
        raise NoInputError(
            f'No mask of {predictions} has a reference in {references}.',
            'Files belong together by sub-, ses- and run- in their names, or by the same name.',
        )
    used = {pair.reference for pair in pairs}
    unused = tuple(truth for truth in truths if truth not in used)
    return Pairs(tuple(pairs), tuple(alone), unused)


def masks_in(folder: Path) -> list[Path]:
    """Return the masks in a folder and below, sorted.

    Where names say ``label-lesion``, only these masks count; where names end in ``mask``, only
    these; otherwise all NIfTI files. Hidden files and folders do not count.
    """
    images = _images_in(folder)
    if not images:
        raise NoInputError(f'{folder} holds no NIfTI file.')
    masks = [path for path in images if stem(path).lower().endswith('mask')]
    lesions = [path for path in masks if 'label-lesion' in path.name]
    return lesions or masks or images


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob('*')
        if path.name.endswith(_ENDINGS)
        and path.is_file()
        and not any(part.startswith('.') for part in path.relative_to(folder).parts)
    )


def _grouped(paths: list[Path]) -> dict[str, list[Path]]:
    groups = defaultdict(list)
    for path in paths:
        groups[owner(path)].append(path)
    return groups


def _partner(mask: Path, candidates: list[Path], alone_is_enough: bool) -> Path | None:
    """Choose the candidate of the same file name, else of the same space (and model)."""
    same = [path for path in candidates if path.name == mask.name]
    if len(same) == 1:
        return same[0]
    fitting = [path for path in candidates if _space(path) == _space(mask)]
    if not fitting and alone_is_enough:
        fitting = candidates
    if len(fitting) > 1:
        model = entities(mask).get('desc')
        fitting = [path for path in fitting if entities(path).get('desc') == model] or fitting
    if len(fitting) > 1:
        listed = ', '.join(path.name for path in fitting)
        raise DataError(
            f'{mask.name} could be compared with several files: {listed}.',
            'Give a TSV of pairs (columns prediction and reference) instead of folders.',
        )
    return fitting[0] if fitting else None


# ---------------------------------------------------------------------------- names


def stem(path: Path) -> str:
    """Return the name of a NIfTI file without its ending."""
    return re.sub(r'\.nii(\.gz)?$', '', path.name)


def entities(path: Path) -> dict[str, str]:
    """Return the BIDS entities in a file name.

    Examples
    --------
    >>> entities(Path('sub-01_ses-1_label-lesion_mask.nii.gz'))
    {'sub': '01', 'ses': '1', 'label': 'lesion'}
    """
    return dict(re.findall(r'(?:^|_)([a-z]+)-([A-Za-z0-9+]+)(?=_|$)', stem(path)))


def owner(path: Path) -> str:
    """Return whose mask a file is.

    Examples
    --------
    >>> owner(Path('sub-01_ses-1_space-orig_label-lesion_desc-unet_mask.nii.gz'))
    'sub-01_ses-1'
    >>> owner(Path('P18_T1_MASK.nii.gz')), owner(Path('case7_seg.nii'))
    ('P18_T1', 'case7')
    """
    found = entities(path)
    if 'sub' in found:
        return '_'.join(f'{key}-{found[key]}' for key in ('sub', 'ses', 'run') if key in found)
    name = stem(path)
    while (shorter := _KIND.sub('', name)) not in ('', name):
        name = shorter
    return name


def _space(path: Path) -> str:
    """Return the space of a name; the subject's own may be spelled or left out."""
    space = entities(path).get('space', 'orig')
    return 'orig' if space == 'FLAIR' else space
