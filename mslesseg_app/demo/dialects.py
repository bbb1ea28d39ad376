"""One image as the scanners of different vendors write it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pydicom import Dataset

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


class Slices(NamedTuple):
    """An image in the order of DICOM, with its place in the patient (LPS, mm)."""

    pixels: npt.NDArray[Any]  # (slices, rows, columns)
    orientation: list[float]
    spacing: list[float]  # between rows, between columns
    positions: list[list[float]]
    thickness: float
    slope: float
    intercept: float


def uid(*parts: object) -> str:
    """A UID of the root for UUIDs, the same for the same parts."""
    return f'2.25.{uuid.uuid5(uuid.NAMESPACE_OID, repr(parts)).int}'


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


# --------------------------------------------------------------------------------- classic


def classic(
    base: Dataset, slices: Slices, k: int, vendor: str, sidecar: Mapping[str, Any], instance: int
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


def _rescale(dataset: Dataset, slices: Slices) -> None:
    dataset.RescaleIntercept, dataset.RescaleSlope = _ds(slices.intercept), _ds(slices.slope)
    dataset.RescaleType = 'US'


def _siemens_name(sidecar: Mapping[str, Any]) -> str | None:
    """Name of a sequence with its turbo factor: ``*tir2d1_16``."""
    name = sidecar.get('SequenceName')
    train = sidecar.get('EchoTrainLength')
    return f'*{name}1' + (f'_{train}' if train else '') if name else None


def _siemens(dataset: Dataset, slices: Slices, sidecar: Mapping[str, Any]) -> None:
    dataset.Manufacturer, dataset.ManufacturerModelName = 'SIEMENS', 'mslesseg phantom'
    dataset.SoftwareVersions = 'syngo MR E11'
    dataset.ImageType = ['ORIGINAL', 'PRIMARY', 'M', 'ND']
    name = _siemens_name(sidecar)
    if name:
        dataset.SequenceName = name
    if (slices.slope, slices.intercept) != (1, 0):
        _rescale(dataset, slices)


def _ge(dataset: Dataset, slices: Slices, sidecar: Mapping[str, Any]) -> None:
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


def _philips(dataset: Dataset, slices: Slices, sidecar: Mapping[str, Any]) -> None:
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


def enhanced(base: Dataset, slices: Slices, sidecar: Mapping[str, Any]) -> Dataset:
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
    organisation = uid(base.SeriesInstanceUID, 'dimensions')
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


def _shared(dataset: Dataset, slices: Slices, sidecar: Mapping[str, Any]) -> list[Dataset]:
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
