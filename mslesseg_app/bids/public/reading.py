"""Is a case whole? Each of its files is read before any is taken over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mslesseg_app.bids.public.found_cases import MANUAL, Case
from mslesseg_app.core.errors import DataError, MSLesSegError, NoInputError
from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.spatial.checks import check_image
from mslesseg_app.spatial.grids import like
from mslesseg_app.spatial.masks import on_grid_of, read_mask
from mslesseg_app.spatial.reading import open_image


@dataclass
class Reading:
    """What reading a case gave.

    Attributes
    ----------
    case : Case
    images : dict
        Path of each sound image by modality.
    masks : dict
        Mask by rater, uint8, on the grid of the FLAIR.
    digest : str
        SHA256 of the voxels of the FLAIR: equal scans have equal digests.
    refused : str
        Why the whole case is left out; nothing if it goes in.
    lost : list of str
        Why single files are left out.
    remarks : list of str
        What is odd and was taken as it is.
    """

    case: Case
    images: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Any] = field(default_factory=dict)
    digest: str = ''
    refused: str = ''
    lost: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """``imported``, ``incomplete`` (something is absent or was left out) or ``left out``."""
        if self.refused:
            return 'left out'
        return (
            'imported' if len(self.images) == len(MODALITIES) and not self.lost else 'incomplete'
        )

    @property
    def volume_mm3(self) -> float:
        """Volume of the manual mask, zero without one."""
        mask = self.masks.get(MANUAL)
        if mask is None:
            return 0.0
        voxel = float(abs(np.linalg.det(mask.header.get_best_affine()[:3, :3])))
        return float((np.asanyarray(mask.dataobj) > 0).sum()) * voxel


def read_case(case: Case) -> Reading:
    """Read all files of a case.

    The case is refused if its FLAIR or its manual mask is damaged, or the mask is none, is empty
    or lies on another grid. Any other damaged file is left out alone. Cases without mask
    (test sets whose masks are secret) go in as they are.
    """
    reading = Reading(case)
    try:
        if case.problem:
            raise DataError(case.problem)
        flair = _read_flair(case, reading)
        for rater, path in case.masks.items():
            _read_mask(path, rater, flair, reading)
        for modality in MODALITIES[1:]:
            if modality in case.images:
                _read_image(case.images[modality], modality, reading)
    except MSLesSegError as error:
        reading.refused = _reason(error)
        return reading
    absent = [name for name in MODALITIES if name not in case.images]
    reading.remarks += [f'{name} is not there' for name in absent]
    if MANUAL not in case.masks:
        reading.remarks.append('no manual mask')
    return reading


def _read_flair(case: Case, reading: Reading) -> Any:
    if 'FLAIR' not in case.images:
        raise NoInputError('FLAIR is not there')
    path = case.images['FLAIR']
    image: Any = check_image(path)
    data = np.ascontiguousarray(image.dataobj, dtype=np.float32)
    reading.digest = hashlib.sha256(data.tobytes()).hexdigest()
    reading.images['FLAIR'] = path
    return open_image(path)


def _read_mask(path: Path, rater: str, flair: Any, reading: Reading) -> None:
    try:
        mask = on_grid_of(flair, read_mask(path), path, resampling=False, linear=False)
        data = np.asanyarray(mask.dataobj)
        if not data.any():
            raise DataError(f'{path} is empty: it marks no lesion.')
    except MSLesSegError as error:
        if rater == MANUAL:
            raise
        reading.lost.append(_reason(error))
        return
    reading.masks[rater] = like(flair, data.reshape(flair.shape), np.uint8)


def _read_image(path: Path, modality: str, reading: Reading) -> None:
    try:
        check_image(path)
    except DataError as error:
        reading.lost.append(_reason(error))
    else:
        reading.images[modality] = path


def _reason(error: MSLesSegError) -> str:
    return error.message.rstrip('.')


def refuse_duplicates(readings: list[Reading]) -> None:
    """Refuse every case that shows the same scan as an earlier one."""
    first: dict[str, str] = {}
    for reading in readings:
        if reading.refused:
            continue
        other = first.setdefault(reading.digest, reading.case.name)
        if other != reading.case.name:
            reading.refused = f'its FLAIR is the same scan as that of {other}'
