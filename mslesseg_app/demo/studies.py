"""The synthetic head as a hospital hands it out: DICOM studies of an invented person."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from mslesseg_app import __version__
from mslesseg_app.core.errors import DataError, OutputError
from mslesseg_app.core.files import explain_os_error, write_bytes, write_json, write_text
from mslesseg_app.demo.dicom import DemoStudy, Patient, write_series
from mslesseg_app.demo.phantom import make_phantom, scan, session_mask
from mslesseg_app.demo.protocols import SESSIONS, session_protocols
from mslesseg_app.spatial.grids import compressed

SUBJECT = 'demo'
BIDS_VERSION = '1.10.1'
AUTHORS = ['The mslesseg developers', 'The authors of the MNI152 2009 tissue maps']
ACQUIRED = ('2023-03-14T10:00:00', '2024-03-12T10:00:00')
VENDORS = ('siemens', 'enhanced')
PERSON = Patient(
    name='Inventada^Persona Completamente',
    patient_id='MSD-190385-7',
    birth_date=dt.date(1985, 3, 19),
    sex='F',
    address='Calle Imaginaria 190385',
    telephone='0190385719',
)
README_MANUAL = """# Known lesions of the synthetic head

The lesions were put into the images by formula; these masks hold the voxels that each lesion
fills most, as many as come closest to its true volume.
"""
_RECORD = 'demo.json'
_PARTS = ('dicom', 'bids', 'bids-private')
_LOCALIZER = {'ImageType': 'ORIGINAL\\PRIMARY\\M\\LOCALIZER'}
_REFORMAT = {'ImageType': 'DERIVED\\SECONDARY\\MPR'}


def write_studies(folder: Path, seed: int, resolution: float) -> Path:
    """Write the two visits of the synthetic head as DICOM series, with series that are of no use.

    The first visit is of a classic scanner (one file a slice), the second one of enhanced
    objects (one file a series). Each has a localizer and a reformatted image too, and headers
    with name, birth date and address of a person who was invented.

    Parameters
    ----------
    folder : Path
        Folder of the demo, absent, empty, or with an earlier demo; another one (other seed,
        resolution or version) is replaced, with what was converted of it.
    seed : int
    resolution : float
        Factor on the voxel size, 1 to 3.

    Returns
    -------
    Path
        The folder of the DICOM files, ``folder/dicom``.

    Raises
    ------
    OutputError, DiskError
        When the folder holds something else, or cannot be written.
    """
    plan = {'seed': seed, 'resolution': resolution, 'version': __version__}
    with _explained(folder):
        earlier = _earlier(folder)
        if earlier == plan | {'complete': True}:
            return folder / 'dicom'
        _clear(folder, bool(earlier))
        write_json(folder / _RECORD, plan | {'complete': False})
        phantom = make_phantom(seed, resolution)
        for session in range(1, len(SESSIONS) + 1):
            images = {
                name: (scan(phantom, protocol, session), protocol.sidecar)
                for name, protocol in session_protocols(session, resolution).items()
            }
            _write_study(folder / 'dicom', session, images)
        write_json(folder / _RECORD, plan | {'complete': True})
    return folder / 'dicom'


def write_references(bids_dir: Path, seed: int, resolution: float) -> Path:
    """Write the known lesions on the grid of each FLAIR that was converted from the studies.

    Returns
    -------
    Path
        Root of the derivative dataset with the masks, ``bids_dir/derivatives/manual``.

    Raises
    ------
    DataError
        If a FLAIR is absent, or not on the grid on which it was written as DICOM.
    OutputError, DiskError
        If the masks cannot be written.
    """
    manual_dir = bids_dir / 'derivatives' / 'manual'
    phantom = make_phantom(seed, resolution)
    with _explained(manual_dir):
        write_manual_description(manual_dir)
        for session in range(1, len(SESSIONS) + 1):
            mask = session_mask(phantom, session_protocols(session, resolution)['FLAIR'], session)
            anat = Path(f'sub-{SUBJECT}', f'ses-{session}', 'anat')
            flair = next((bids_dir / anat).glob('*_FLAIR.nii.gz'), None)
            if flair is None:
                raise DataError(f'No FLAIR came out of the conversion of session {session}.')
            save_reference(on_grid_of(mask, nb.load(flair)), manual_dir, anat / flair.name)
    return manual_dir


def write_manual_description(root: Path) -> None:
    """Write what makes a folder a derivative dataset of known masks."""
    description = {
        'Name': 'Known lesions of the synthetic head',
        'BIDSVersion': BIDS_VERSION,
        'DatasetType': 'derivative',
        'License': 'Apache-2.0',
        'Authors': AUTHORS,
        'GeneratedBy': [
            {
                'Name': 'manual',
                'Version': __version__,
                'Description': 'Written by mslesseg demo.',
            }
        ],
        'SourceDatasets': [{'URL': '../../'}],
        'DatasetLinks': {'raw': '../../'},
    }
    write_json(root / 'dataset_description.json', description)
    write_text(root / 'README.md', README_MANUAL)


def save_reference(mask: nb.Nifti1Image, manual_dir: Path, flair: Path) -> Path:
    """Write a known mask and its sidecar; ``flair`` is its image, relative to the raw dataset."""
    words = '_'.join(part for part in flair.name.split('_') if part[:4] in ('sub-', 'ses-'))
    stem = manual_dir / flair.parent / f'{words}_space-orig_label-lesion_mask'
    path = stem.with_name(f'{stem.name}.nii.gz')
    write_bytes(path, compressed(mask))
    uri = f'bids:raw:{flair.as_posix()}'
    sidecar = {
        'Type': 'Lesion',
        'Description': 'Known lesions of the synthetic head.',
        'Sources': [uri],
        'SpatialReference': uri,
        'Manual': False,
    }
    write_json(stem.with_name(f'{stem.name}.json'), sidecar)
    return path


def on_grid_of(mask: nb.Nifti1Image, image: nb.Nifti1Image) -> nb.Nifti1Image:
    """Return a mask with its axes exchanged and turned round as those of an image are.

    Raises
    ------
    DataError
        If the two grids differ by more than the order and direction of their axes (0.01 mm).
    """
    turn = nb.orientations.ornt_transform(
        nb.io_orientation(mask.affine), nb.io_orientation(image.affine)
    )
    affine = mask.affine @ nb.orientations.inv_ornt_aff(turn, mask.shape)
    data = nb.apply_orientation(np.asanyarray(mask.dataobj), turn)
    if data.shape != image.shape or not np.allclose(affine, image.affine, atol=0.01):
        raise DataError('The converted FLAIR does not lie on the grid on which it was written.')
    turned = nb.Nifti1Image(np.ascontiguousarray(data), image.affine)
    turned.header.set_xyzt_units('mm')
    return turned


def _write_study(
    folder: Path, session: int, images: dict[Any, tuple[nb.Nifti1Image, dict[str, Any]]]
) -> None:
    acquired = dt.datetime.fromisoformat(ACQUIRED[session - 1])
    study = DemoStudy(
        date=acquired.date(),
        time=acquired.time(),
        description='MS follow-up',
        institution='Clínica Imaginaria',
        referring_physician='Ficticio^Doctor',
        accession_number=f'A19038{session}',
    )
    anatomy, flair = images['T1w'], images['FLAIR']
    middle = anatomy[0].shape[2] // 2
    series = [
        ('localizer', anatomy[0].slicer[::4, ::4, middle : middle + 3], anatomy[1] | _LOCALIZER),
        *((said['SeriesDescription'], image, said) for image, said in images.values()),
        ('FLAIR MPR', flair[0].slicer[::2, ::2, :], flair[1] | _REFORMAT),
    ]
    for number, (description, image, said) in enumerate(series, 1):
        write_series(
            image,
            folder / f'study{session}',
            vendor=VENDORS[session - 1],
            patient=PERSON,
            study=study,
            number=number,
            description=description,
            sidecar={'MagneticFieldStrength': 3.0} | said,
            PatientAge='038Y',
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, folder) from error


def _earlier(folder: Path) -> dict[str, Any]:
    """Return what an earlier demo wrote of itself; nothing where there was none."""
    try:
        found = json.loads((folder / _RECORD).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _clear(folder: Path, ours: bool) -> None:
    """Remove the data of an earlier demo; refuse anything else."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f'{folder} is a file.', 'Name a new or empty folder.')
    for part in _PARTS:
        if ours:
            shutil.rmtree(folder / part, ignore_errors=True)
        elif (folder / part).exists():
            raise OutputError(
                f'{folder / part} exists and is not of an earlier demo.',
                'Name a new or empty folder.',
            )
