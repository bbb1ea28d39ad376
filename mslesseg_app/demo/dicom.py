"""Writing NIfTI images as DICOM series, in the dialects of the vendors.

For the demo and for tests: the people are invented, the geometry and the values are exact.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from pydicom import Dataset

VENDORS = ('siemens', 'ge', 'philips', 'enhanced')

#: As read on a screen: columns to the left or to the back, rows to the back or to the feet.
_VIEWS = {'S': 'LP', 'I': 'LP', 'R': 'PI', 'L': 'PI', 'A': 'LI', 'P': 'LI'}
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

#: Sidecar keys that are one DICOM keyword, with the factor of the unit.
_PLAIN = {
    'FlipAngle': 1.0,
    'MagneticFieldStrength': 1.0,
    'ImagingFrequency': 1.0,
    'NumberOfAverages': 1.0,
    'PixelBandwidth': 1.0,
    'SliceThickness': 1.0,
    'SpacingBetweenSlices': 1.0,
    'RepetitionTime': 1000.0,
    'EchoTime': 1000.0,
    'InversionTime': 1000.0,
}


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
class Study:
    """The visit of a header: one study of one scanner."""

    date: dt.date
    time: dt.time = dt.time(10)
    description: str = 'Brain'
    institution: str = ''
    referring_physician: str = ''
    accession_number: str = ''
    station: str = ''


class _Slices(NamedTuple):
    """An image in the order of DICOM, with its place in the patient (LPS, mm)."""

    pixels: npt.NDArray[Any]  # (slices, rows, columns)
    orientation: list[float]
    spacing: list[float]  # between rows, between columns
    positions: list[list[float]]
    thickness: float
    slope: float
    intercept: float


def write_series(
    image: nb.Nifti1Image,
    folder: Path,
    *,
    vendor: str,
    patient: Patient,
    study: Study,
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
    base: Dataset, slices: _Slices, vendor: str, sidecar: Mapping[str, Any], first: int
) -> list[Dataset]:
    """Return the data of each file."""
    if vendor == 'enhanced':
        return [_enhanced(base, slices, sidecar)]
    return [
        _classic(base, slices, k, vendor, sidecar, first + k) for k in range(len(slices.positions))
    ]


def _check(vendor: str, fields: Mapping[str, Any]) -> None:
    from pydicom.datadict import tag_for_keyword

    if vendor not in VENDORS:
        raise UsageError(f'"{vendor}" is no vendor.', f'Choose one of {", ".join(VENDORS)}.')
    unknown = [keyword for keyword in fields if tag_for_keyword(keyword) is None]
    if unknown:
        raise UsageError(f'"{unknown[0]}" is no keyword of DICOM.')


# -------------------------------------------------------------------------------- geometry


def _slices(image: nb.Nifti1Image) -> _Slices:
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
    return _Slices(
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


def _uid(*parts: object) -> str:
    """A UID of the root for UUIDs, the same for the same parts."""
    return f'2.25.{uuid.uuid5(uuid.NAMESPACE_OID, repr(parts)).int}'


def _base(patient: Patient, study: Study, number: int, description: str) -> Dataset:
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
    base.StudyInstanceUID = _uid(patient, study)
    base.FrameOfReferenceUID = _uid(patient, study, 'frame of reference')
    base.SeriesInstanceUID = _uid(patient, study, number, description)
    base.BodyPartExamined, base.PatientPosition = 'BRAIN', 'HFS'
    return base


def _words(value: Any) -> list[str]:
    """Parts of a value that a sidecar holds as a list or as DICOM text."""
    if not value:
        return []
    return value.split('\\') if isinstance(value, str) else [str(part) for part in value]


def _ds(value: float) -> Any:
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)


def _sequence(**values: Any) -> list[Dataset]:
    """A sequence of one item without what is not known."""
    from pydicom import Dataset

    item = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(item, keyword, value)
    return [item]


def _pixels(dataset: Dataset, pixels: npt.NDArray[Any]) -> None:
    """Put a slice, or slices as frames, into a dataset."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, 'MONOCHROME2'
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(pixels.dtype.kind == 'i')
    little = pixels.astype(pixels.dtype.newbyteorder('<'), copy=False)
    dataset.add_new('PixelData', 'OW', little.tobytes())


def _finish(dataset: Dataset, key: tuple[object, ...], fields: Mapping[str, Any]) -> None:
    dataset.SOPInstanceUID = _uid(*key)
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


# --------------------------------------------------------------------------------- classic


def _classic(
    base: Dataset, slices: _Slices, k: int, vendor: str, sidecar: Mapping[str, Any], instance: int
) -> Dataset:
    """One slice as MR Image Storage."""
    from pydicom import Dataset
    from pydicom.uid import MRImageStorage

    dataset = Dataset()
    dataset.update(base)
    dataset.SOPClassUID = MRImageStorage
    dataset.InstanceNumber = instance
    for key, factor in _PLAIN.items():
        if key in sidecar:
            setattr(dataset, key, _ds(factor * sidecar[key]))
    dataset.SliceThickness = dataset.get('SliceThickness') or _ds(slices.thickness)
    for key in ('ScanningSequence', 'SequenceVariant', 'ScanOptions'):
        if sidecar.get(key):
            setattr(dataset, key, _words(sidecar[key]))
    for key in ('MRAcquisitionType', 'EchoTrainLength', 'EchoNumbers'):
        if key in sidecar:
            setattr(dataset, key, sidecar[key])
    dataset.ImageOrientationPatient = [_ds(x) for x in slices.orientation]
    dataset.ImagePositionPatient = [_ds(x) for x in slices.positions[k]]
    row, column = np.reshape(slices.orientation, (2, 3))
    dataset.SliceLocation = _ds(float(np.cross(row, column) @ slices.positions[k]))
    dataset.PixelSpacing = [_ds(x) for x in slices.spacing]
    _DIALECTS[vendor](dataset, slices, sidecar)
    dataset.ImageType = _words(sidecar.get('ImageType')) or dataset.ImageType
    _pixels(dataset, slices.pixels[k])
    return dataset


def _rescale(dataset: Dataset, slices: _Slices) -> None:
    dataset.RescaleIntercept, dataset.RescaleSlope = _ds(slices.intercept), _ds(slices.slope)
    dataset.RescaleType = 'US'


def _siemens_name(sidecar: Mapping[str, Any]) -> str | None:
    """Name of a sequence with its turbo factor: ``*tir2d1_16``."""
    name = sidecar.get('SequenceName')
    train = sidecar.get('EchoTrainLength')
    return f'*{name}1' + (f'_{train}' if train else '') if name else None


def _siemens(dataset: Dataset, slices: _Slices, sidecar: Mapping[str, Any]) -> None:
    dataset.Manufacturer, dataset.ManufacturerModelName = 'SIEMENS', 'mslesseg phantom'
    dataset.SoftwareVersions = 'syngo MR E11'
    dataset.ImageType = ['ORIGINAL', 'PRIMARY', 'M', 'ND']
    name = _siemens_name(sidecar)
    if name:
        dataset.SequenceName = name
    if (slices.slope, slices.intercept) != (1, 0):
        _rescale(dataset, slices)


def _ge(dataset: Dataset, slices: _Slices, sidecar: Mapping[str, Any]) -> None:
    """GE: no standard sequence name, the type of the image also in a private tag."""
    dataset.Manufacturer = 'GE MEDICAL SYSTEMS'
    dataset.ManufacturerModelName = 'mslesseg phantom'
    dataset.SoftwareVersions = ['28', 'LX', 'MR29.1_EA_2039.g']
    dataset.ImageType = ['ORIGINAL', 'PRIMARY', 'OTHER']
    dataset.SpacingBetweenSlices = _ds(slices.thickness)
    dataset.ImagesInAcquisition = len(slices.positions)
    if sidecar.get('SequenceName'):
        block = dataset.private_block(0x0019, 'GEMS_ACQU_01', create=True)
        block.add_new(0x9C, 'LO', str(sidecar['SequenceName']))
    parameters = dataset.private_block(0x0043, 'GEMS_PARM_01', create=True)
    parameters.add_new(0x2F, 'SS', 0)  # magnitude
    if (slices.slope, slices.intercept) != (1, 0):
        _rescale(dataset, slices)


def _philips(dataset: Dataset, slices: _Slices, sidecar: Mapping[str, Any]) -> None:
    """Philips: one scanning sequence, and the true scale in private tags.

    The value on the console is PV RS + RI, the true one (PV RS + RI) / (RS SS); SS is chosen so
    that both are the value of the image.
    """
    kinds = dataset.get('ScanningSequence', [])
    kind = 'IR' if 'IR' in kinds and 'GR' not in kinds else 'GR' if 'GR' in kinds else 'SE'
    if kinds:
        dataset.ScanningSequence = kind
    short = {'GR': 'FFE'}.get(kind, kind)
    dataset.Manufacturer = 'Philips Medical Systems'
    dataset.ManufacturerModelName = 'mslesseg phantom'
    dataset.SoftwareVersions = ['5.7.1', '5.7.1.1']
    dataset.ImageType = ['ORIGINAL', 'PRIMARY', f'M_{short}', 'M', short]
    dataset.SpacingBetweenSlices = _ds(slices.thickness)
    _rescale(dataset, slices)
    block = dataset.private_block(0x2005, 'Philips MR Imaging DD 001', create=True)
    block.add_new(0x0D, 'FL', slices.intercept)
    block.add_new(0x0E, 'FL', 1 / slices.slope)


_DIALECTS = {'siemens': _siemens, 'ge': _ge, 'philips': _philips}


# -------------------------------------------------------------------------------- enhanced


def _enhanced(base: Dataset, slices: _Slices, sidecar: Mapping[str, Any]) -> Dataset:
    """All slices as one Enhanced MR Image Storage object, as of Siemens XA."""
    from pydicom import Dataset
    from pydicom.uid import EnhancedMRImageStorage

    dataset = Dataset()
    dataset.update(base)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.InstanceNumber = 1
    dataset.Manufacturer = 'Siemens Healthineers'
    dataset.ManufacturerModelName = 'mslesseg phantom'
    dataset.SoftwareVersions = 'syngo MR XA30'
    dataset.AcquisitionDateTime = base.AcquisitionDate + base.AcquisitionTime
    dataset.ContentQualification = 'PRODUCT'
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = 'NO', '00'
    dataset.PresentationLUTShape = 'IDENTITY'
    dataset.ImageType = _words(sidecar.get('ImageType')) or ['ORIGINAL', 'PRIMARY', 'M', 'NONE']
    dataset.PixelPresentation, dataset.VolumetricProperties = 'MONOCHROME', 'VOLUME'
    dataset.ComplexImageComponent, dataset.AcquisitionContrast = 'MAGNITUDE', 'UNKNOWN'
    _enhanced_sequence(dataset, sidecar)
    dataset.NumberOfFrames = len(slices.positions)
    organisation = _uid(base.SeriesInstanceUID, 'dimensions')
    dataset.DimensionOrganizationSequence = _sequence(DimensionOrganizationUID=organisation)
    dataset.DimensionIndexSequence = [
        *_dimension(organisation, 0x00209056),  # stack
        *_dimension(organisation, 0x00209057),  # place in the stack
    ]
    dataset.SharedFunctionalGroupsSequence = _shared(dataset, slices, sidecar)
    dataset.PerFrameFunctionalGroupsSequence = [
        _frame(base, position, k) for k, position in enumerate(slices.positions, start=1)
    ]
    _pixels(dataset, slices.pixels)
    return dataset


def _enhanced_sequence(dataset: Dataset, sidecar: Mapping[str, Any]) -> None:
    """What the sequence is, in the attributes of the whole object."""
    kinds = _words(sidecar.get('ScanningSequence'))
    if kinds:
        gradient, spin = 'GR' in kinds, 'SE' in kinds
        dataset.EchoPulseSequence = (
            'BOTH' if gradient and spin else 'GRADIENT' if gradient else 'SPIN'
        )
    for key in ('MRAcquisitionType', 'MagneticFieldStrength'):
        if key in sidecar:
            setattr(dataset, key, sidecar[key])
    name = _siemens_name(sidecar)
    if name:
        dataset.PulseSequenceName = name


def _dimension(organisation: str, pointer: int) -> list[Dataset]:
    return _sequence(
        DimensionOrganizationUID=organisation,
        DimensionIndexPointer=pointer,
        FunctionalGroupPointer=0x00209111,  # frame content
    )


def _milliseconds(sidecar: Mapping[str, Any], key: str) -> float | None:
    return round(1000.0 * sidecar[key], 9) if key in sidecar else None


def _shared(dataset: Dataset, slices: _Slices, sidecar: Mapping[str, Any]) -> list[Dataset]:
    """What all frames have in common."""
    tr, ti = _milliseconds(sidecar, 'RepetitionTime'), _milliseconds(sidecar, 'InversionTime')
    flip = sidecar.get('FlipAngle')
    return _sequence(
        MRTimingAndRelatedParametersSequence=_sequence(
            RepetitionTime=None if tr is None else _ds(tr),
            FlipAngle=None if flip is None else _ds(flip),
            EchoTrainLength=sidecar.get('EchoTrainLength'),
        ),
        MREchoSequence=_sequence(EffectiveEchoTime=_milliseconds(sidecar, 'EchoTime')),
        MRModifierSequence=_sequence(
            InversionRecovery='NO' if ti is None else 'YES',
            InversionTimes=ti,
        ),
        PixelMeasuresSequence=_sequence(
            SliceThickness=_ds(sidecar.get('SliceThickness', slices.thickness)),
            SpacingBetweenSlices=_ds(slices.thickness),
            PixelSpacing=[_ds(x) for x in slices.spacing],
        ),
        PlaneOrientationSequence=_sequence(
            ImageOrientationPatient=[_ds(x) for x in slices.orientation]
        ),
        PixelValueTransformationSequence=_sequence(
            RescaleIntercept=_ds(slices.intercept),
            RescaleSlope=_ds(slices.slope),
            RescaleType='US',
        ),
        MRImageFrameTypeSequence=_sequence(
            FrameType=list(dataset.ImageType),
            PixelPresentation=dataset.PixelPresentation,
            VolumetricProperties=dataset.VolumetricProperties,
            ComplexImageComponent=dataset.ComplexImageComponent,
            AcquisitionContrast=dataset.AcquisitionContrast,
        ),
    )


def _frame(base: Dataset, position: list[float], k: int) -> Dataset:
    """What is of one frame only: its place."""
    (frame,) = _sequence(
        FrameContentSequence=_sequence(
            StackID='1',
            InStackPositionNumber=k,
            DimensionIndexValues=[1, k],
            FrameAcquisitionDateTime=base.AcquisitionDate + base.AcquisitionTime,
        ),
        PlanePositionSequence=_sequence(ImagePositionPatient=[_ds(x) for x in position]),
    )
    return frame
