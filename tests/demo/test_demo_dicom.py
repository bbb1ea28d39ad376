"""DICOM series of the phantom: dcm2niix must give the NIfTI back."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pydicom
import pytest

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.demo.dicom import VENDORS, DemoStudy, Patient, write_series
from mslesseg_app.demo.protocols import FLAIR_2D, MPRAGE, TSE

PATIENT = Patient('Muster^Änne', 'ID-77', dt.date(1980, 2, 29), 'F', 'Ring 1', '555')
STUDY = DemoStudy(dt.date(2023, 3, 14), dt.time(9, 30), 'MS', 'Clinic', 'Doe^Jo', 'A1', 'MR7')


def noise(protocol: Any, slope: float = 1.0) -> nb.Nifti1Image:
    """Integers without any symmetry on the coarse grid of a protocol."""
    coarse = protocol.coarser(3.0)
    values = np.random.default_rng(3).integers(0, 4000, coarse.shape, dtype=np.int16)
    image = nb.Nifti1Image(values, coarse.affine)
    image.header.set_slope_inter(slope, 0)
    return image


def write(image: nb.Nifti1Image, folder: Path, vendor: str, **changes: Any) -> list[Path]:
    arguments: dict[str, Any] = {
        'patient': PATIENT,
        'study': STUDY,
        'number': 4,
        'description': 'a series',
        'sidecar': FLAIR_2D.sidecar,
    }
    return write_series(image, folder, vendor=vendor, **(arguments | changes))


def convert(folder: Path, out: Path, venv_bin: Path) -> tuple[nb.Nifti1Image, dict[str, Any]]:
    out.mkdir()
    command = [venv_bin / 'dcm2niix', '-b', 'y', '-ba', 'n', '-z', 'n', '-f', 'x', '-o', out]
    done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in out.iterdir()) == ['x.json', 'x.nii'], done.stdout
    return nb.load(out / 'x.nii'), json.loads((out / 'x.json').read_text())


@pytest.mark.parametrize('vendor', VENDORS)
@pytest.mark.parametrize(
    ('protocol', 'slope'),
    [(TSE, 1.0), (FLAIR_2D, 0.37), (MPRAGE, 1.0)],
    ids=['T2w', 'FLAIR', 'T1w'],
)
def test_dcm2niix_gives_voxels_affine_and_physics_back(
    tmp_path: Path, venv_bin: Path, vendor: str, protocol: Any, slope: float
) -> None:
    image = noise(protocol, slope)
    sidecar = {**protocol.sidecar, 'MagneticFieldStrength': 3}
    write(image, tmp_path / 'dicom', vendor, sidecar=sidecar)
    back, said = convert(tmp_path / 'dicom', tmp_path / 'nifti', venv_bin)
    turn = nb.orientations.ornt_transform(
        nb.io_orientation(back.affine), nb.io_orientation(image.affine)
    )
    turned = back.as_reoriented(turn)
    np.testing.assert_allclose(turned.affine, image.affine, atol=2e-5)
    expected = np.asarray(image.dataobj) * np.float64(slope)
    np.testing.assert_allclose(turned.get_fdata(), expected, rtol=1e-6)
    for key in ('RepetitionTime', 'EchoTime', 'InversionTime', 'FlipAngle', 'SliceThickness'):
        if key in protocol.sidecar:
            assert said[key] == pytest.approx(sidecar[key]), key
        else:
            assert key not in said
    assert said['MagneticFieldStrength'] == 3
    assert said['MRAcquisitionType'] == protocol.acquisition
    assert said['SeriesDescription'] == 'a series'
    maker = {'siemens': 'Siemens', 'enhanced': 'Siemens', 'ge': 'GE', 'philips': 'Philips'}
    assert said['Manufacturer'] == maker[vendor]


@pytest.mark.parametrize('vendor', VENDORS)
def test_same_arguments_give_same_bytes_and_valid_files(tmp_path: Path, vendor: str) -> None:
    image = noise(TSE)
    one, two = (write(image, tmp_path / name, vendor) for name in 'ab')
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    assert len(one) == (1 if vendor == 'enhanced' else image.shape[2])
    headers = [pydicom.dcmread(path) for path in one]
    assert len({header.SOPInstanceUID for header in headers}) == len(one)
    assert {str(header.PatientName) for header in headers} == {'Muster^Änne'}
    assert {header.PatientBirthDate for header in headers} == {'19800229'}
    assert len({header.SeriesInstanceUID for header in headers}) == 1


def test_series_of_one_study_share_its_uids_and_no_others(tmp_path: Path) -> None:
    image = noise(TSE)
    later = DemoStudy(dt.date(2024, 3, 12))
    first, second, other = (
        pydicom.dcmread(write(image, tmp_path / str(number), 'ge', number=number, study=study)[0])
        for number, study in ((1, STUDY), (2, STUDY), (3, later))
    )
    assert first.StudyInstanceUID == second.StudyInstanceUID != other.StudyInstanceUID
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID != other.FrameOfReferenceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


@pytest.mark.parametrize('vendor', VENDORS)
def test_what_the_sidecar_does_not_say_is_absent(tmp_path: Path, vendor: str) -> None:
    path = write(noise(TSE), tmp_path, vendor, sidecar={})[0]
    names = {element.keyword for element in pydicom.dcmread(path).iterall()}
    unsaid = {'RepetitionTime', 'EchoTime', 'EffectiveEchoTime', 'InversionTime', 'FlipAngle'}
    unsaid |= {'InversionTimes', 'ScanningSequence', 'EchoPulseSequence', 'MRAcquisitionType'}
    assert not names & unsaid


def test_fields_are_set_last_and_none_removes(tmp_path: Path) -> None:
    paths = write(
        noise(TSE),
        tmp_path,
        'siemens',
        PatientComments='tall',
        EchoTime=None,
        SeriesInstanceUID='1.2.3',
        first_instance=11,
    )
    header = pydicom.dcmread(paths[0])
    assert (header.PatientComments, header.SeriesInstanceUID) == ('tall', '1.2.3')
    assert 'EchoTime' not in header
    assert header.InstanceNumber == 11
    assert paths[0].name == '0004_00011.dcm'


def test_a_saved_image_is_written_by_its_stored_integers(tmp_path: Path) -> None:
    image = noise(TSE, 0.25)
    nb.save(image, tmp_path / 'x.nii')
    kept = write(image, tmp_path / 'a', 'philips')
    saved = write(nb.load(tmp_path / 'x.nii'), tmp_path / 'b', 'philips')
    for one, two in zip(map(pydicom.dcmread, kept), map(pydicom.dcmread, saved), strict=True):
        assert (one.PixelData, one.RescaleSlope) == (two.PixelData, two.RescaleSlope)
        assert one.RescaleSlope == 0.25


def test_what_cannot_be_a_series_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    with pytest.raises(DataError, match='not integers'):
        write(nb.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), affine), tmp_path, 'ge')
    with pytest.raises(DataError, match='shape'):
        write(nb.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), affine), tmp_path, 'ge')
    sheared = affine.copy()
    sheared[0, 1] = 0.2
    with pytest.raises(DataError, match='right angles'):
        write(nb.Nifti1Image(np.zeros((4, 4, 4), np.int16), sheared), tmp_path, 'ge')
    with pytest.raises(UsageError, match='no vendor'):
        write(noise(TSE), tmp_path, 'canon')
    with pytest.raises(UsageError, match='no keyword'):
        write(noise(TSE), tmp_path, 'ge', PatientNmae='x')
