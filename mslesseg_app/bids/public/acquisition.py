"""How images were acquired: from BIDS sidecars and image headers, or the release's CSV files."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nb

from mslesseg_app.bids.metadata import Metadata
from mslesseg_app.bids.public.clinical import number, who
from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.spatial.checks import UNREADABLE

MODALITIES = ('FLAIR', 'T1w', 'T2w')

#: What is tabulated, in the order of the paper's Table 2; times in ms, lengths in mm.
FIELDS = ('matrix', 'spacing', 'thickness', 'TR', 'TE', 'TI', 'flip')

_PATIENT_HEADINGS = ('patient', 'paziente', 'subject', 'participant', 'id')
_TIMEPOINT_HEADINGS = ('timepoint', 'time point', 'session', 'visit', 'time')
_SCANNER_HEADINGS = {
    'rows': ('rows', 'righe', 'height'),
    'columns': ('columns', 'cols', 'colonne', 'width'),
    'spacing': ('pixel', 'spacing'),
    'thickness': ('thickness',),
    'TR': ('repetition', 'tr'),
    'TE': ('echo', 'te'),
    'TI': ('inversion', 'ti'),
    'flip': ('flip',),
}


def read_bids(root: Path) -> dict[str, list[dict[str, float]]]:
    """Read the acquisition of every FLAIR, T1w and T2w image of a BIDS dataset.

    Sidecars count by BIDS' inheritance principle. The matrix is the mean of the rows and columns
    of the slices, spacing their pixel size; without ``SliceThickness`` the distance of the slices
    in the header stands for it.

    Returns
    -------
    dict
        One dictionary of `FIELDS` per image, by modality; NaN where a field is not known.

    Raises
    ------
    NoInputError
        If the folder holds no such image.
    """
    metadata = Metadata(root)
    found = {
        modality: [_image(path, metadata) for path in _images(root, modality)]
        for modality in MODALITIES
    }
    if not any(found.values()):
        raise NoInputError(f'{root} holds no FLAIR, T1w or T2w image.')
    return found


def _images(root: Path, modality: str) -> list[Path]:
    patterns = (f'sub-*/anat/*_{modality}.nii*', f'sub-*/ses-*/anat/*_{modality}.nii*')
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def _image(path: Path, metadata: Metadata) -> dict[str, float]:
    said = metadata.of(path)
    values = _geometry(path)
    thickness = _float(said.get('SliceThickness'))
    return values | {
        'thickness': thickness if math.isfinite(thickness) else values['thickness'],
        'TR': 1000 * _float(said.get('RepetitionTime')),
        'TE': 1000 * _float(said.get('EchoTime')),
        'TI': 1000 * _float(said.get('InversionTime')),
        'flip': _float(said.get('FlipAngle')),
    }


def _float(value: Any) -> float:
    """Return a number, also one that was written as text; NaN for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _geometry(path: Path) -> dict[str, float]:
    """Return matrix, spacing and slice distance; the slice axis is the one that is unlike."""
    try:
        image: Any = nb.load(path)
        header, shape = image.header, image.shape[:3]
        sizes = [float(size) for size in nb.affines.voxel_sizes(image.affine)]
        slices = header.get_dim_info()[2] if hasattr(header, 'get_dim_info') else None
    except UNREADABLE:
        return dict.fromkeys(FIELDS, math.nan)
    if len(shape) < 3:
        return dict.fromkeys(FIELDS, math.nan)
    if slices is None:
        thickest = max(range(3), key=lambda axis: sizes[axis])
        slices = thickest if sizes[thickest] > 1.05 * sorted(sizes)[1] else _odd_axis(shape)
    plane = [axis for axis in range(3) if axis != slices]
    return {
        'matrix': sum(shape[axis] for axis in plane) / 2,
        'spacing': sum(sizes[axis] for axis in plane) / 2,
        'thickness': sizes[slices],
    }


def _odd_axis(shape: tuple[int, ...]) -> int:
    """Return the axis whose length differs where the other two agree, else the last."""
    for axis in range(3):
        one, two = (shape[other] for other in range(3) if other != axis)
        if one == two and shape[axis] != one:
            return axis
    return 2


def read_scanner_tables(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Read ``patient_scanners_info_{FLAIR,T1,T2}.csv`` of the MSLesSeg release.

    Headings are recognised by words; rows that hold nothing but ``NONE`` are left out.

    Raises
    ------
    NoInputError
        If there is none of the three.
    DataError
        If one has no column that is known.
    """
    return {
        modality: [values for _, values in rows]
        for modality, rows in read_scanner_rows(folder).items()
    }


def read_scanner_rows(
    folder: Path,
) -> dict[str, list[tuple[tuple[str, str], dict[str, float]]]]:
    """Read the same tables with patient and timepoint (empty where not said) of each row."""
    found: dict[str, list[tuple[tuple[str, str], dict[str, float]]]] = {}
    for modality, word in zip(MODALITIES, ('FLAIR', 'T1', 'T2'), strict=True):
        paths = sorted(folder.glob(f'**/*scanners_info_{word}.csv'))
        found[modality] = _scanner_rows(paths[0]) if paths else []
    if not any(found.values()):
        raise NoInputError(f'{folder} holds no patient_scanners_info_*.csv with a value.')
    return found


def _scanner_rows(path: Path) -> list[tuple[tuple[str, str], dict[str, float]]]:
    lines = path.read_text(encoding='utf-8-sig', errors='replace').splitlines()
    delimiter = max(';\t,', key=(lines or [''])[0].count)
    header, *rows = [*csv.reader(lines, delimiter=delimiter)] or [[]]
    names = [name.strip().lower() for name in header]
    columns = _scanner_columns(names)
    if not columns:
        raise DataError(f'{path} has no column that is known.')
    made = []
    for line, row in enumerate(rows, start=2):
        values = {
            what: _pair_mean(row[place] if place < len(row) else '', f'{path}, line {line}')
            for what, place in columns.items()
        }
        if any(math.isfinite(value) for value in values.values()):
            patient, timepoint = (
                _cell(row, names, words) for words in (_PATIENT_HEADINGS, _TIMEPOINT_HEADINGS)
            )
            made.append((who(patient, timepoint), _matrix(values)))
    return made


def _cell(row: list[str], names: list[str], words: tuple[str, ...]) -> str:
    """Return the cell below the first heading that begins with one of some words."""
    fitting = (i for i, name in enumerate(names) if name.startswith(words) and i < len(row))
    place = next(fitting, None)
    return '' if place is None else row[place].strip()


def _scanner_columns(names: list[str]) -> dict[str, int]:
    columns = {}
    for what, words in _SCANNER_HEADINGS.items():
        places = [
            place
            for place, name in enumerate(names)
            if any(word == name or (len(word) > 2 and word in name) for word in words)
        ]
        if places:
            columns[what] = places[0]
    return columns


def _pair_mean(text: str, where: str) -> float:
    """Read a number, or the mean of several such as ``[0.5, 0.5]`` or ``0.5\\0.5``."""
    parts = [p for p in re.split(r'[\[\]()\\/\s|]+|,\s+', text.strip()) if p.strip(" ',")]
    values = [number(part.strip(" ',"), where) for part in parts]
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _matrix(values: dict[str, float]) -> dict[str, float]:
    sides = [values.pop(key) for key in ('rows', 'columns') if key in values]
    known = [side for side in sides if math.isfinite(side)]
    mean = sum(known) / len(known) if known else math.nan
    return {**dict.fromkeys(FIELDS, math.nan), **values, 'matrix': mean}


def column(images: Iterable[dict[str, float]], field: str) -> list[float]:
    """Return the known values of a field."""
    return [v for image in images if math.isfinite(v := image.get(field, math.nan))]
