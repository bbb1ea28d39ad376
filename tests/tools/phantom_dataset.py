"""The phantom as a BIDS dataset, with its known lesions as a derivative dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mslesseg_app import __version__
from mslesseg_app.core.files import write_bytes, write_json, write_text
from mslesseg_app.demo.lesions import Lesion, in_session
from mslesseg_app.demo.phantom import Phantom, make_phantom, scan, session_mask
from mslesseg_app.demo.protocols import session_protocols, sidecar
from mslesseg_app.demo.studies import (
    ACQUIRED,
    AUTHORS,
    BIDS_VERSION,
    save_reference,
    write_manual_description,
)
from mslesseg_app.spatial.grids import compressed

README = """# Synthetic head with multiple sclerosis lesions

No person was scanned. One subject, T1w, T2w and FLAIR on different
grids; in the second session one lesion is new, one has grown and one is gone. The brain is
bent from the MNI152 2009 tissue maps that nilearn ships; skull, face and neck are painted
around it. `derivatives/manual` holds the exact lesions on the grid of each FLAIR.

Seed {seed}, resolution {resolution:g} mm. The same seed gives the same files.
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
) -> DemoDataset:
    """Write a small BIDS dataset of a synthetic head with lesions of known shape.

    Parameters
    ----------
    out_dir : Path
        Root of the dataset.
    seed : int
        Decides anatomy, lesions, positions and noise; same seed, same bytes.
    n_sessions : int
        1 or 2.
    subject : str
        Participant label, letters and digits.
    resolution : float
        Factor on the voxel size, 1 to 3: at 2 everything takes seconds (thick slices keep
        their thickness).

    Returns
    -------
    DemoDataset
    """
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
        write_bytes(path, compressed(scan(phantom, protocol, number)))
        write_json(path.with_suffix('').with_suffix('.json'), sidecar(protocol))
        dataset.images[session, modality] = path
        dataset.scanner_from_subject[session, modality] = phantom.scanner_from_subject(
            modality, number
        )
    mask = session_mask(phantom, protocols['FLAIR'], number)
    path = save_reference(mask, dataset.manual_dir, folder / f'{stem}_FLAIR.nii.gz')
    dataset.masks[session] = path
    dataset.lesions[session] = in_session(phantom.lesions, number)


def _write_table(path: Path, rows: list[tuple[str, ...]]) -> None:
    write_text(path, ''.join('\t'.join(row) + '\n' for row in rows))


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
        'GeneratedBy': [{'Name': 'phantom_dataset', 'Version': __version__}],
        'SourceDatasets': [{'DOI': 'doi:10.1016/j.neuroimage.2010.07.033'}],
    }
    write_json(root / 'dataset_description.json', description)
    write_text(root / 'README.md', README.format(seed=seed, resolution=resolution))
    header, row = ('participant_id', 'age', 'sex', 'group'), (f'sub-{subject}', '38', 'F', 'MS')
    _write_table(root / 'participants.tsv', [header, row])
    write_json(root / 'participants.json', PARTICIPANT_COLUMNS)
    folder = root / f'sub-{subject}'
    rows: list[tuple[str, ...]] = [('session_id', 'acq_time')]
    rows += [(f'ses-{s}', ACQUIRED[int(s) - 1]) for s in sessions]
    _write_table(folder / f'sub-{subject}_sessions.tsv', rows)
    write_json(folder / f'sub-{subject}_sessions.json', SESSION_COLUMNS)


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
