"""Writing NIfTI images as DICOM series, in the dialects of the vendors.

For the demo and for tests: the people are invented, the geometry and the values are exact.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.demo.dialects import Slices, classic, enhanced, uid

if TYPE_CHECKING:
    from pydicom import Dataset

VENDORS = ('siemens', 'ge', 'philips', 'enhanced')

#: As read on a screen: columns to the left or to the back, rows to the back or to the feet.
_VIEWS = {'S': 'LP', 'I': 'LP', 'R': 'PI', 'L': 'PI', 'A': 'LI', 'P': 'LI'}
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Patient:
    """The person of a header; all of it must vanish on the way to BIDS."""

    name: str
    patient_id: str
    birth_date: dt.date | None = None
    sex: str = ''
    address: str = ''
    telephone: str = ''


@dataclass(frozen=True)
class DemoStudy:
    """The visit of a header: one study of one scanner."""

    date: dt.date
    time: dt.time = dt.time(10)
    description: str = 'Brain'
    institution: str = ''
    referring_physician: str = ''
    accession_number: str = ''
    station: str = ''


def write_series(
    image: nb.Nifti1Image,
    folder: Path,
    *,
    vendor: str,
    patient: Patient,
    study: DemoStudy,
    number: int,
    description: str,
    sidecar: Mapping[str, Any],
    first_instance: int = 1,
    **fields: Any,
) -> list[Path]:
    """Write an image as one DICOM MR series.

    Stored integers become pixels, scale factors the rescale slope and intercept: dcm2niix gives
    the same voxels and affine back. Same arguments, same bytes.

    Parameters
    ----------
    image : nibabel.Nifti1Image, shape (X, Y, Z)
        Integers of 16 bits or fewer; the slices are along Z.
    folder : Path
    vendor : {'siemens', 'ge', 'philips', 'enhanced'}
        The dialect: one classic file a slice, or one multi-frame file as of Siemens XA.
    patient, study : Patient, Study
        Series with equal ones belong together.
    number : int
        Of the series in its study.
    description : str
        Name of the series and of its protocol.
    sidecar : mapping
        Keys of BIDS in their units; what it does not say is absent from the headers.
    first_instance : int
        Number of the first file.
    **fields
        DICOM keywords that are set last on each file, over all else; None removes.

    Returns
    -------
    list of Path

    Raises
    ------
    DataError
        If the image is not three-dimensional, not of small integers, or sheared.
    UsageError
        If the vendor or a keyword of ``fields`` is unknown.
    """
    _check(vendor, fields)
    slices = _slices(image)
    base = _base(patient, study, number, description)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    made = _instances(base, slices, vendor, sidecar, first_instance)
    for index, dataset in enumerate(made, start=first_instance):
        _finish(dataset, (patient, study, number, description, index), fields)
        paths.append(folder / f'{number:04d}_{index:05d}.dcm')
        _save(dataset, paths[-1])
    return paths


def _instances(
    base: Dataset, slices: Slices, vendor: str, sidecar: Mapping[str, Any], first: int
) -> list[Dataset]:
    """Return the data of each file."""
    if vendor == 'enhanced':
        return [enhanced(base, slices, sidecar)]
    return [
        classic(base, slices, k, vendor, sidecar, first + k) for k in range(len(slices.positions))
    ]


def _check(vendor: str, fields: Mapping[str, Any]) -> None:
    from pydicom.datadict import tag_for_keyword

    if vendor not in VENDORS:
        raise UsageError(f'"{vendor}" is no vendor.', f'Choose one of {", ".join(VENDORS)}.')
    unknown = [keyword for keyword in fields if tag_for_keyword(keyword) is None]
    if unknown:
        raise UsageError(f'"{unknown[0]}" is no keyword of DICOM.')


# -------------------------------------------------------------------------------- geometry


def _slices(image: nb.Nifti1Image) -> Slices:
    """Turn an image so that its slices lie as a radiologist sees them."""
    if len(image.shape) != 3:
        raise DataError(f'An image of shape {image.shape} cannot be one series.')
    _, _, towards = nb.aff2axcodes(image.affine)
    seen = nb.orientations.axcodes2ornt((*_VIEWS[towards], towards))
    turn = nb.orientations.ornt_transform(nb.io_orientation(image.affine), seen)
    pixels, slope, intercept = _stored(image)
    pixels = nb.apply_orientation(pixels, turn)
    affine = _LPS_FROM_RAS @ image.affine @ nb.orientations.inv_ornt_aff(turn, image.shape)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / lengths
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise DataError('The axes of the image are not at right angles.', 'Resample it first.')
    return Slices(
        pixels=np.ascontiguousarray(pixels.transpose(2, 1, 0)),
        orientation=[*axes[:, 0], *axes[:, 1]],
        spacing=[lengths[1], lengths[0]],
        positions=[list(affine[:3, 3] + k * affine[:3, 2]) for k in range(pixels.shape[2])],
        thickness=lengths[2],
        slope=slope,
        intercept=intercept,
    )


def _stored(image: nb.Nifti1Image) -> tuple[npt.NDArray[Any], float, float]:
    """The integers of an image, as int16 or uint16, and their scale factors."""
    data: Any = image.dataobj
    if nb.is_proxy(data):
        stored, factors = data.get_unscaled(), (data.slope, data.inter)
    else:
        stored, factors = np.asanyarray(data), image.header.get_slope_inter()
    kind = np.dtype(np.int16 if stored.size and stored.min() < 0 else np.uint16)
    if stored.dtype.kind not in 'iub' or not np.array_equal(stored, stored.astype(kind)):
        raise DataError('The voxels of the image are not integers of 16 bits.', 'Round them.')
    slope, intercept = factors
    return stored.astype(kind), slope or 1.0, intercept or 0.0


# ------------------------------------------------------------------------- what all share


def _base(patient: Patient, study: DemoStudy, number: int, description: str) -> Dataset:
    """Header of a series without its images."""
    from pydicom import Dataset

    begun = dt.datetime.combine(study.date, study.time) + dt.timedelta(minutes=5 * number)
    date, time = begun.strftime('%Y%m%d'), begun.strftime('%H%M%S.%f')
    base = Dataset()
    base.SpecificCharacterSet = 'ISO_IR 192'
    base.Modality = 'MR'
    base.PatientName, base.PatientID = patient.name, patient.patient_id
    born = patient.birth_date
    base.PatientBirthDate = born.strftime('%Y%m%d') if born else ''
    base.PatientSex = patient.sex
    if patient.address:
        base.PatientAddress = patient.address
    if patient.telephone:
        base.PatientTelephoneNumbers = patient.telephone
    base.StudyDate, base.StudyTime = study.date.strftime('%Y%m%d'), f'{study.time:%H%M%S}'
    base.SeriesDate = base.AcquisitionDate = base.ContentDate = date
    base.SeriesTime = base.AcquisitionTime = base.ContentTime = time
    base.StudyDescription, base.InstitutionName = study.description, study.institution
    base.ReferringPhysicianName = study.referring_physician
    base.AccessionNumber, base.StationName = study.accession_number, study.station
    base.StudyID, base.SeriesNumber, base.AcquisitionNumber = '1', number, 1
    base.SeriesDescription = base.ProtocolName = description
    base.StudyInstanceUID = uid(patient, study)
    base.FrameOfReferenceUID = uid(patient, study, 'frame of reference')
    base.SeriesInstanceUID = uid(patient, study, number, description)
    base.BodyPartExamined, base.PatientPosition = 'BRAIN', 'HFS'
    return base


def _finish(dataset: Dataset, key: tuple[object, ...], fields: Mapping[str, Any]) -> None:
    dataset.SOPInstanceUID = uid(*key)
    for keyword, value in fields.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)


def _save(dataset: Dataset, path: Path) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
