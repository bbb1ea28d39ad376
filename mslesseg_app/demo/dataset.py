"""Writing the phantom as a BIDS dataset, with its known lesions as a derivative dataset."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app import __version__
from mslesseg_app.demo.lesions import Lesion, in_session
from mslesseg_app.demo.phantom import Phantom, make_phantom, scan, session_mask
from mslesseg_app.demo.protocols import SESSIONS, session_protocols, sidecar
from mslesseg_app.core.errors import DiskError, OutputError, UsageError
from mslesseg_app.spatial.grids import compressed

GENERATOR = 'mslesseg demo'
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
BIDS_VERSION = '1.10.1'
AUTHORS = ['The mslesseg developers', 'The authors of the MNI152 2009 tissue maps']
ACQUIRED = ('2023-03-14T10:00:00', '2024-03-12T10:00:00')

README = """# Synthetic head with multiple sclerosis lesions

Made by `mslesseg demo`: no person was scanned. One subject, T1w, T2w and FLAIR on different
grids; in the second session one lesion is new, one has grown and one is gone. The brain is
bent from the MNI152 2009 tissue maps that nilearn ships; skull, face and neck are painted
around it. `derivatives/manual` holds the exact lesions on the grid of each FLAIR.

Seed {seed}, resolution {resolution:g} mm. The same seed gives the same files.
"""
README_MANUAL = """# Known lesions of the synthetic head

The lesions were put into the images by formula; these masks hold the voxels that each lesion
fills most, as many as come closest to its true volume.
"""


@dataclass(frozen=True)
class DemoDataset:
    """What `make_dataset` wrote.

    Attributes
    ----------
    bids_dir : Path
        Root of the raw dataset.
    manual_dir : Path
        Root of the derivative dataset with the known masks.
    subject : str
        Label without ``sub-``.
    sessions : tuple of str
        Labels without ``ses-``.
    images : dict
        ``(session, modality)`` to the path of the image.
    masks : dict
        Session to the path of the known mask, on the grid of that session's FLAIR.
    lesions : dict
        Session to the lesions that are there, exact (`Lesion.volume_mm3`).
    scanner_from_subject : dict
        ``(session, modality)`` to the true 4x4 rigid position of the head, RAS+ mm; from it
        follow the true transforms between the images.
    """

    bids_dir: Path
    manual_dir: Path
    subject: str
    sessions: tuple[str, ...]
    images: dict[tuple[str, str], Path]
    masks: dict[str, Path]
    lesions: dict[str, tuple[Lesion, ...]]
    scanner_from_subject: dict[tuple[str, str], npt.NDArray[np.float64]]


def make_dataset(
    out_dir: Path,
    *,
    seed: int = 1,
    n_sessions: int = 2,
    subject: str = 'demo',
    resolution: float = 1.0,
    overwrite: bool = False,
) -> DemoDataset:
    """Write a small BIDS dataset of a synthetic head with lesions of known shape.

    Parameters
    ----------
    out_dir : Path
        Root of the dataset: absent, empty, or an earlier demo, which is replaced.
    seed : int
        Decides anatomy, lesions, positions and noise; same seed, same bytes.
    n_sessions : int
        1 or 2.
    subject : str
        Participant label, letters and digits.
    resolution : float
        Factor on the voxel size, 1 to 3: at 2 everything takes seconds (thick slices keep
        their thickness).
    overwrite : bool
        Write into a folder that holds other things; these are left alone.

    Returns
    -------
    DemoDataset

    Raises
    ------
    UsageError
        For an argument out of its range.
    OutputError
        When the folder holds something else, or cannot be written.
    DiskError
        When the disk is full or fails.
    """
    _check_arguments(seed, n_sessions, subject, resolution)
    out_dir = Path(out_dir)
    try:
        _prepare(out_dir, overwrite)
        return _write(out_dir, seed, n_sessions, subject, resolution)
    except OSError as error:
        kind = DiskError if error.errno in DISK_TROUBLE else OutputError
        raise kind(
            f'The demo cannot be written to {out_dir}: {error.strerror or error}',
            'Choose a folder that you may write to, on a disk with 50 MB free.',
        ) from error


def _check_arguments(seed: int, n_sessions: int, subject: str, resolution: float) -> None:
    if not 1 <= n_sessions <= len(SESSIONS):
        raise UsageError(f'The demo has 1 or {len(SESSIONS)} sessions, not {n_sessions}.')
    if not (subject.isascii() and subject.isalnum()):
        raise UsageError(
            f'"{subject}" cannot be a participant label.', 'Use letters and digits only.'
        )
    if not 1.0 <= resolution <= 3.0:
        raise UsageError(f'The resolution of the demo is 1 to 3 mm, not {resolution:g}.')
    if seed < 0:
        raise UsageError(f'The seed is {seed}.', 'Use a number of 0 or more.')


def _prepare(out_dir: Path, overwrite: bool) -> None:
    """Make the root; remove an earlier demo from it; refuse anything else."""
    if out_dir.exists() and not out_dir.is_dir():
        raise OutputError(f'{out_dir} is a file.', 'Name a new or empty folder.')
    out_dir.mkdir(parents=True, exist_ok=True)
    if is_demo(out_dir):
        for old in [*out_dir.glob('sub-*'), out_dir / 'derivatives' / 'manual']:
            if old.is_dir():
                shutil.rmtree(old)
    elif not overwrite and any(out_dir.iterdir()):
        raise OutputError(
            f'{out_dir} is not empty and does not hold an earlier demo.',
            'Name a new or empty folder.',
        )


def is_demo(folder: Path) -> bool:
    """True where the dataset description says that the demo wrote this folder."""
    try:
        description = json.loads((folder / 'dataset_description.json').read_text('utf-8'))
        return bool(description['GeneratedBy'][0]['Name'] == GENERATOR)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _write(
    out_dir: Path, seed: int, n_sessions: int, subject: str, resolution: float
) -> DemoDataset:
    """Write all files; the descriptions first, so that an interrupted demo is known as one."""
    manual_dir = out_dir / 'derivatives' / 'manual'
    sessions = tuple(str(k) for k in range(1, n_sessions + 1))
    _write_raw_tables(out_dir, subject, sessions, seed, resolution)
    write_manual_description(manual_dir)
    phantom = make_phantom(seed, resolution)
    dataset = DemoDataset(out_dir, manual_dir, subject, sessions, {}, {}, {}, {})
    for session in sessions:
        _write_session(dataset, phantom, session, resolution)
    return dataset


def _write_session(
    dataset: DemoDataset, phantom: Phantom, session: str, resolution: float
) -> None:
    """Write the images and the mask of one session and enter them in ``dataset``."""
    number = int(session)
    stem = f'sub-{dataset.subject}_ses-{session}'
    folder = Path(f'sub-{dataset.subject}', f'ses-{session}', 'anat')
    protocols = session_protocols(number, resolution)
    for modality, protocol in protocols.items():
        path = dataset.bids_dir / folder / f'{stem}_{modality}.nii.gz'
        save_nifti(scan(phantom, protocol, number), path)
        _write_json(_sidecar_of(path), sidecar(protocol))
        dataset.images[session, modality] = path
        dataset.scanner_from_subject[session, modality] = phantom.scanner_from_subject(
            modality, number
        )
    mask = session_mask(phantom, protocols['FLAIR'], number)
    path = save_reference(mask, dataset.manual_dir, folder / f'{stem}_FLAIR.nii.gz')
    dataset.masks[session] = path
    dataset.lesions[session] = in_session(phantom.lesions, number)


def save_reference(mask: nb.Nifti1Image, manual_dir: Path, flair: Path) -> Path:
    """Write a known mask and its sidecar; ``flair`` is its image, relative to the raw dataset."""
    stem = '_'.join(part for part in flair.name.split('_') if part[:4] in ('sub-', 'ses-'))
    path = manual_dir / flair.parent / f'{stem}_space-orig_label-lesion_mask.nii.gz'
    save_nifti(mask, path)
    _write_json(_sidecar_of(path), _mask_sidecar(flair))
    return path


def save_nifti(image: nb.Nifti1Image, path: Path) -> None:
    """Write ``.nii.gz``: same data, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(compressed(image))


def _sidecar_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix('.nii.gz') + '.json')


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + '\n', 'utf-8')


def _write_table(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join('\t'.join(row) + '\n' for row in rows), 'utf-8')


def _mask_sidecar(flair: Path) -> dict[str, Any]:
    uri = f'bids:raw:{flair.as_posix()}'
    return {
        'Type': 'Lesion',
        'Description': 'Known lesions of the synthetic head.',
        'Sources': [uri],
        'SpatialReference': uri,
        'Manual': False,
    }


def _write_raw_tables(
    root: Path, subject: str, sessions: tuple[str, ...], seed: int, resolution: float
) -> None:
    """Everything of the raw dataset but its images."""
    description = {
        'Name': 'Synthetic head with multiple sclerosis lesions',
        'BIDSVersion': BIDS_VERSION,
        'DatasetType': 'raw',
        'License': 'Apache-2.0',
        'Authors': AUTHORS,
        'HowToAcknowledge': 'Name mslesseg and its version.',
        'GeneratedBy': [{'Name': GENERATOR, 'Version': __version__}],
        'SourceDatasets': [{'DOI': 'doi:10.1016/j.neuroimage.2010.07.033'}],
    }
    _write_json(root / 'dataset_description.json', description)
    (root / 'README.md').write_text(README.format(seed=seed, resolution=resolution), 'utf-8')
    header, row = ('participant_id', 'age', 'sex', 'group'), (f'sub-{subject}', '38', 'F', 'MS')
    _write_table(root / 'participants.tsv', [header, row])
    _write_json(root / 'participants.json', PARTICIPANT_COLUMNS)
    folder = root / f'sub-{subject}'
    rows: list[tuple[str, ...]] = [('session_id', 'acq_time')]
    rows += [(f'ses-{s}', ACQUIRED[int(s) - 1]) for s in sessions]
    _write_table(folder / f'sub-{subject}_sessions.tsv', rows)
    _write_json(folder / f'sub-{subject}_sessions.json', SESSION_COLUMNS)


def write_manual_description(root: Path) -> None:
    """Write what makes a folder a derivative dataset of known masks."""
    description = {
        'Name': 'Known lesions of the synthetic head',
        'BIDSVersion': BIDS_VERSION,
        'DatasetType': 'derivative',
        'License': 'Apache-2.0',
        'Authors': AUTHORS,
        'GeneratedBy': [
            {'Name': 'manual', 'Version': __version__, 'Description': f'Written by {GENERATOR}.'}
        ],
        'SourceDatasets': [{'URL': '../../'}],
        'DatasetLinks': {'raw': '../../'},
    }
    _write_json(root / 'dataset_description.json', description)
    (root / 'README.md').write_text(README_MANUAL, 'utf-8')


PARTICIPANT_COLUMNS: dict[str, Any] = {
    'participant_id': {'Description': 'Label of the synthetic subject.'},
    'age': {'Description': 'Age that the synthetic subject pretends to have.', 'Units': 'year'},
    'sex': {
        'Description': 'Sex that the synthetic subject pretends to have.',
        'Levels': {'F': 'female', 'M': 'male'},
    },
    'group': {'Description': 'Diagnosis.', 'Levels': {'MS': 'multiple sclerosis, synthetic'}},
}
SESSION_COLUMNS: dict[str, Any] = {
    'session_id': {'Description': 'Label of the session.'},
    'acq_time': {'Description': 'Pretended time of the scan.'},
}
