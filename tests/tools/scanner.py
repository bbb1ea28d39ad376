"""Small DICOM series for the tests of the conversion."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from mslesseg_app.demo.dicom import DemoStudy, Patient, write_series

ANNA = Patient('Muster^Anna', 'ID-4711', dt.date(1980, 2, 3), 'F')
BERT = Patient('Beispiel^Bert', 'ID-0815', dt.date(1975, 11, 30), 'M')
FIRST = DemoStudy(dt.date(2021, 5, 6), dt.time(9))
SECOND = DemoStudy(dt.date(2022, 7, 8), dt.time(10))

_COMMON = {
    'MagneticFieldStrength': 3.0,
    'SequenceVariant': 'SK',
    'ImageType': 'ORIGINAL\\PRIMARY\\M',
}
KINDS: dict[str, dict[str, Any]] = {
    'FLAIR': {
        'RepetitionTime': 8.0,
        'EchoTime': 0.1,
        'InversionTime': 2.4,
        'FlipAngle': 150.0,
        'ScanningSequence': 'SE\\IR',
        'MRAcquisitionType': '2D',
    },
    'T1w': {
        'RepetitionTime': 2.0,
        'EchoTime': 0.003,
        'InversionTime': 0.9,
        'FlipAngle': 9.0,
        'ScanningSequence': 'GR\\IR',
        'MRAcquisitionType': '3D',
    },
    'T2w': {
        'RepetitionTime': 5.0,
        'EchoTime': 0.1,
        'FlipAngle': 150.0,
        'ScanningSequence': 'SE',
        'MRAcquisitionType': '2D',
    },
}
NAMES = {'FLAIR': 't2_tirm_tra_dark-fluid', 'T1w': 't1_mprage_sag', 'T2w': 't2_tse_tra'}


def head(seed: int = 0, shape: tuple[int, int, int] = (18, 16, 14)) -> nb.Nifti1Image:
    """An oblique image of noise: what is compared are voxels and places."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 2000, shape, dtype=np.int16)
    turn = np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.2, 1.2, 5.0])
    affine[:3, 3] = (11.0, -10.0, -30.0)
    return nb.Nifti1Image(data, affine)


def scan(
    folder: Path,
    kind: str = 'FLAIR',
    *,
    patient: Patient = ANNA,
    study: DemoStudy = FIRST,
    number: int = 2,
    vendor: str = 'siemens',
    seed: int = 0,
    description: str | None = None,
    sidecar: dict[str, Any] | None = None,
    **fields: Any,
) -> list[Path]:
    """Write a series as a scanner would; return its files."""
    return write_series(
        head(seed),
        folder,
        vendor=vendor,
        patient=patient,
        study=study,
        number=number,
        description=NAMES[kind] if description is None else description,
        sidecar=_COMMON | KINDS[kind] | (sidecar or {}),
        **fields,
    )


def states(folder: Path) -> dict[str, tuple[str, int]]:
    """Return SHA256 and time of change of all files of a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a dataset."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }
