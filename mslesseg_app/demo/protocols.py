"""The sequences of the demo's two sessions: their grids differ as in a real follow-up."""

from __future__ import annotations

from typing import Any

from mslesseg_app import __version__
from mslesseg_app.demo.contrast import Modality
from mslesseg_app.demo.phantom import Protocol

SCANNER: dict[str, Any] = {
    'Modality': 'MR',
    'MagneticFieldStrength': 3,
    'Manufacturer': 'mslesseg phantom',
    'ManufacturersModelName': 'synthetic head',
    'DeviceSerialNumber': '1',
    'StationName': 'PHANTOM',
    'SoftwareVersions': f'mslesseg {__version__}',
    'InstitutionName': 'none (synthetic image)',
    'InstitutionAddress': 'none (synthetic image)',
    'InstitutionalDepartmentName': 'none (synthetic image)',
    'ReceiveCoilName': 'simulated coil',
    'ReceiveCoilActiveElements': '1',
    'MatrixCoilMode': 'none',
    'CoilCombinationMethod': 'none (one channel)',
    'NonlinearGradientCorrection': False,
    'PulseSequenceDetails': 'simulated by mixing tissue intensities, not by the Bloch equations',
    'BodyPart': 'BRAIN',
    'PatientPosition': 'HFS',
    'DwellTime': 1e-05,
}

MPRAGE = Protocol(
    modality='T1w',
    orientation='PSR',
    spacing=(1.0, 1.0, 1.0),
    field_of_view=(232.0, 232.0, 184.0),
    centre=(0.0, -8.0, -8.0),
    tilt=0.0,
    acquisition='3D',
    noise=2.8,
    shading=0.07,
    gain=4.1,
    sidecar={
        'SeriesDescription': 'T1 MPRAGE sagittal 3D',
        'PulseSequenceType': 'MPRAGE',
        'SequenceName': 'tfl3d',
        'ScanningSequence': 'GR\\IR',
        'SequenceVariant': 'SK\\SP\\MP',
        'MRAcquisitionType': '3D',
        'RepetitionTime': 2.3,
        'EchoTime': 0.00298,
        'InversionTime': 0.9,
        'FlipAngle': 9,
        'SliceThickness': 1.0,
    },
)
TSE = Protocol(
    modality='T2w',
    orientation='LAS',
    spacing=(0.8, 0.8, 4.0),
    field_of_view=(217.6, 230.4, 144.0),
    centre=(1.0, -8.0, 0.0),
    tilt=9.0,
    acquisition='2D',
    noise=3.2,
    shading=0.05,
    gain=3.6,
    sidecar={
        'SeriesDescription': 'T2 TSE axial',
        'PulseSequenceType': 'TSE',
        'SequenceName': 'tse2d',
        'ScanningSequence': 'SE',
        'SequenceVariant': 'SK',
        'MRAcquisitionType': '2D',
        'RepetitionTime': 5.2,
        'EchoTime': 0.1,
        'FlipAngle': 150,
        'EchoTrainLength': 15,
        'SliceThickness': 4.0,
        'SpacingBetweenSlices': 4.0,
    },
)
FLAIR_2D = Protocol(
    modality='FLAIR',
    orientation='LAS',
    spacing=(0.9, 0.9, 3.0),
    field_of_view=(216.0, 234.0, 150.0),
    centre=(0.0, -9.0, 7.0),
    tilt=6.0,
    acquisition='2D',
    noise=3.2,
    shading=0.06,
    gain=2.9,
    sidecar={
        'SeriesDescription': 'T2 FLAIR axial',
        'PulseSequenceType': 'FLAIR TSE',
        'SequenceName': 'tir2d',
        'ScanningSequence': 'SE\\IR',
        'SequenceVariant': 'SK\\SP',
        'MRAcquisitionType': '2D',
        'RepetitionTime': 9.0,
        'EchoTime': 0.09,
        'InversionTime': 2.5,
        'FlipAngle': 150,
        'EchoTrainLength': 16,
        'SliceThickness': 3.0,
        'SpacingBetweenSlices': 3.0,
    },
)
FLAIR_3D = Protocol(
    modality='FLAIR',
    orientation='PSR',
    spacing=(1.0, 1.0, 1.2),
    field_of_view=(230.0, 224.0, 180.0),
    centre=(0.0, -8.0, -2.0),
    tilt=-2.0,
    acquisition='3D',
    noise=4.0,
    shading=0.07,
    gain=3.3,
    sidecar={
        'SeriesDescription': 'T2 FLAIR SPACE sagittal 3D',
        'PulseSequenceType': 'SPACE FLAIR',
        'SequenceName': 'spcir3d',
        'ScanningSequence': 'SE\\IR',
        'SequenceVariant': 'SK\\SP\\MP',
        'MRAcquisitionType': '3D',
        'RepetitionTime': 5.0,
        'EchoTime': 0.393,
        'InversionTime': 1.8,
        'FlipAngle': 120,
        'EchoTrainLength': 278,
        'SliceThickness': 1.2,
    },
)

SESSIONS: tuple[dict[Modality, Protocol], ...] = (
    {'T1w': MPRAGE, 'T2w': TSE, 'FLAIR': FLAIR_2D},
    {'T1w': MPRAGE, 'T2w': TSE, 'FLAIR': FLAIR_3D},
)


def session_protocols(session: int, resolution: float = 1.0) -> dict[Modality, Protocol]:
    """Protocols of session 1 or 2, with voxels ``resolution`` times as large."""
    protocols = SESSIONS[session - 1]
    return {name: protocol.coarser(resolution) for name, protocol in protocols.items()}


def sidecar(protocol: Protocol) -> dict[str, Any]:
    """BIDS metadata of one image, in the order: scanner, sequence."""
    content = {**SCANNER, **protocol.sidecar}
    content['SliceThickness'] = protocol.spacing[2]
    if protocol.acquisition == '2D':
        content['SliceTiming'] = interleaved(protocol.shape[2], content['RepetitionTime'])
    return content


def interleaved(slices: int, repetition_time: float) -> list[float]:
    """Time (s) of each slice when first the even and then the odd ones are acquired."""
    order = [*range(0, slices, 2), *range(1, slices, 2)]
    times = [0.0] * slices
    for rank, index in enumerate(order):
        times[index] = round(rank * repetition_time / slices, 4)
    return times
