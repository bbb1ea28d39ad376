"""No identifier planted in a DICOM file comes out of it, and the image does."""

from __future__ import annotations

import datetime as dt
import io
import stat
import subprocess
from pathlib import Path

import nibabel as nb
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from mslesseg_app.core.errors import DataError
from mslesseg_app.dicom.deidentify.identifying_text import Speech
from mslesseg_app.dicom.deidentify.removal import deidentify, deidentify_file
from mslesseg_app.dicom.deidentify.values import shifted_date
from mslesseg_app.dicom.identity import SubjectIdentity

SUBJECT = SubjectIdentity('007', -45_000, bytes(range(32)))
OTHER = SubjectIdentity('008', -50_000, bytes(32))
NAME, NUMBER, PLACE, UID = 'Zwergenmutze', 'QX77123', 'Wolkenkuckucksheim', '1.3.12.2.1107.77.4711'
MR = '1.2.840.10008.5.1.4.1.1.4'


def plain(syntax=ExplicitVRLittleEndian):
    """A small MR image without anybody's name."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = MR
    dataset.file_meta.MediaStorageSOPInstanceUID = '1.2.3.4.5'
    dataset.SpecificCharacterSet = 'ISO_IR 100'
    dataset.SOPClassUID, dataset.SOPInstanceUID = MR, '1.2.3.4.5'
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = '1.2.3.4', '1.2.3.4.1'
    dataset.ImageType = ['ORIGINAL', 'PRIMARY', 'M', 'ND']
    dataset.Modality, dataset.Manufacturer = 'MR', 'SIEMENS'
    dataset.SeriesDescription, dataset.ProtocolName = 't2_space_dark-fluid_sag', 'FLAIR 3D'
    dataset.SequenceName, dataset.MRAcquisitionType = '*spcir_252ns', '3D'
    dataset.RepetitionTime, dataset.EchoTime, dataset.InversionTime = '5000', '387', '1800'
    dataset.StudyDate, dataset.AcquisitionDate = '20240229', '20240229'
    dataset.AcquisitionTime = '101112.500000'
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [1, 2, 3], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [1, 1], '1'
    dataset.PatientAge, dataset.PatientSex = '044Y', 'F'
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = 'MONOCHROME2'
    dataset.PixelData = np.arange(64, dtype='<u2').tobytes()
    return dataset


def values(**given):
    def plant(dataset):
        for keyword, value in given.items():
            setattr(dataset, keyword, value)

    return plant


def nested(keyword, **given):
    def plant(dataset):
        item = Dataset()
        values(**given)(item)
        setattr(dataset, keyword, Sequence([item]))

    return plant


def deep(dataset):
    inner = dataset
    for keyword in ('SharedFunctionalGroupsSequence', 'MRTimingAndRelatedParametersSequence'):
        item = Dataset()
        item.ReferringPhysicianName, item.ImageComments = f'{NAME}^A', NUMBER
        item.add_new(0x00091010, 'LO', NAME)
        setattr(inner, keyword, Sequence([item]))
        inner = item


def private(group, creator, element, representation, value):
    def plant(dataset):
        dataset.private_block(group, creator, create=True).add_new(element, representation, value)

    return plant


def overlay(dataset):
    dataset.add_new(0x60000010, 'US', 8)
    dataset.add_new(0x60000022, 'LO', NAME)
    dataset.add_new(0x60000040, 'CS', 'G')
    dataset.add_new(0x60003000, 'OW', NUMBER.ljust(64).encode())


def curve(dataset):
    dataset.add_new(0x50000030, 'SH', NAME)
    dataset.add_new(0x50003000, 'OW', NUMBER.encode() + b' ')


def report(dataset):
    text = Dataset()
    text.ValueType, text.TextValue = 'TEXT', f'Patient {NAME} of {PLACE}'
    person = Dataset()
    person.ValueType, person.PersonName = 'PNAME', f'{NAME}^Anselm'
    text.ContentSequence = Sequence([person])
    dataset.ContentSequence = Sequence([text])


def icon(dataset):
    item = Dataset()
    item.Rows, item.Columns, item.BitsAllocated = 1, 12, 8
    item.add_new('PixelData', 'OW', NAME.encode())
    dataset.IconImageSequence = Sequence([item])


def meta(dataset):
    dataset.file_meta.SourceApplicationEntityTitle = NUMBER
    dataset.file_meta.ImplementationVersionName = PLACE[:16]
    dataset.file_meta.PrivateInformationCreatorUID = UID
    dataset.file_meta.PrivateInformation = NAME.encode()


def descriptions(dataset):
    dataset.PatientName, dataset.PatientID = f'{NAME}^Anselm', NUMBER
    dataset.SeriesDescription = f't2 FLAIR {NAME.upper()} Anselm 29.02.2024'
    dataset.ProtocolName = f'FLAIR {NUMBER.lower()}_20240229'


def umlauts(dataset):
    dataset.PatientName = 'Größenwahn^Änne'
    dataset.SeriesDescription = 'FLAIR Groessenwahn, GRÖSSENWAHN, anne'


def wrong_kinds(dataset):
    """Text where the standard has numbers and codes."""
    for tag, representation in ((0x00180080, 'DS'), (0x00200013, 'IS'), (0x00180015, 'CS')):
        element = pydicom.DataElement(tag, 'LO', NAME)
        element.VR = representation
        dataset._dict[element.tag] = element
    dataset.add_new(0x00180022, 'LT', PLACE)


#: What is planted where, and what must not be met afterwards.
PLACES = {
    'patient name': (values(PatientName=f'{NAME}^Anselm'), [NAME, 'Anselm']),
    'patient number': (values(PatientID=NUMBER, IssuerOfPatientID=PLACE), [NUMBER, PLACE]),
    'birth date and time': (
        values(PatientBirthDate='19800314', PatientBirthTime='031415'),
        ['19800314', '031415'],
    ),
    'other numbers': (values(OtherPatientIDs=[NUMBER, 'QY88']), [NUMBER, 'QY88']),
    'other numbers, nested': (nested('OtherPatientIDsSequence', PatientID=NUMBER), [NUMBER]),
    'other names': (
        values(OtherPatientNames=f'{NAME}^B', PatientBirthName=f'{NAME}^C'),
        [NAME],
    ),
    'mother': (values(PatientMotherBirthName=f'{NAME}^Mater'), [NAME, 'Mater']),
    'address and telephone': (
        values(PatientAddress=f'1 {PLACE} Road', PatientTelephoneNumbers='0699123456'),
        [PLACE, '0699123456'],
    ),
    'patient comments': (values(PatientComments=f'{NAME} lives in {PLACE}'), [NAME, PLACE]),
    'history, occupation, religion': (
        values(AdditionalPatientHistory=PLACE, Occupation=NAME, PatientReligiousPreference=NUMBER),
        [NAME, PLACE, NUMBER],
    ),
    'accession and study': (values(AccessionNumber=NUMBER, StudyID='S4711'), [NUMBER, 'S4711']),
    'dates': (
        values(
            SeriesDate='20240229', ContentDate='20240229', AcquisitionDateTime='20240229101112'
        ),
        ['20240229'],
    ),
    'dates of the procedure': (
        values(PerformedProcedureStepStartDate='20240228', InstanceCreationDate='20240227'),
        ['20240228', '20240227'],
    ),
    'referring physician': (
        values(ReferringPhysicianName=f'{NAME}^Doc', ReferringPhysicianAddress=PLACE),
        [NAME, PLACE],
    ),
    'other physicians and operators': (
        values(
            PerformingPhysicianName=f'{NAME}^P',
            OperatorsName=f'{PLACE}^O',
            PhysiciansOfRecord=f'{NUMBER}^R',
        ),
        [NAME, PLACE, NUMBER],
    ),
    'institution': (
        values(
            InstitutionName=PLACE, InstitutionAddress=f'{NAME} Street 1', StationName=NUMBER
        ),
        [PLACE, NAME, NUMBER],
    ),
    'department and telephone': (
        values(InstitutionalDepartmentName=PLACE, ReferringPhysicianTelephoneNumbers=NUMBER),
        [PLACE, NUMBER],
    ),
    'serial numbers of devices': (
        values(DeviceSerialNumber=NUMBER, DeviceUID=UID, DetectorID='D4711'),
        [NUMBER, UID, 'D4711'],
    ),
    'AE titles': (
        values(
            RetrieveAETitle=NUMBER, StationAETitle=PLACE[:16], PerformedStationAETitle='AE4711'
        ),
        [NUMBER, PLACE[:16], 'AE4711'],
    ),
    'request attributes': (
        nested(
            'RequestAttributesSequence',
            RequestedProcedureID=NUMBER,
            ScheduledProcedureStepDescription=f'head of {NAME}',
        ),
        [NUMBER, NAME],
    ),
    'procedure': (
        values(RequestedProcedureDescription=NAME, PerformedProcedureStepDescription=PLACE),
        [NAME, PLACE],
    ),
    'visit': (values(AdmissionID=NUMBER, CurrentPatientLocation=PLACE), [NUMBER, PLACE]),
    'study description': (values(StudyDescription=f'Brain {NAME}'), [NAME]),
    'series and protocol': (descriptions, [NAME, 'Anselm', NUMBER, '29.02.2024', '20240229']),
    'umlauts': (umlauts, ['Größenwahn', 'Groessenwahn', 'Grossenwahn', 'anne']),
    'image comments': (values(ImageComments=f'moved: {NAME}'), [NAME]),
    'acquisition comments': (
        values(AcquisitionComments=NAME, DerivationDescription=PLACE),
        [NAME, PLACE],
    ),
    'study and visit comments': (values(StudyComments=NAME, VisitComments=PLACE), [NAME, PLACE]),
    'contributing equipment': (
        nested(
            'ContributingEquipmentSequence',
            InstitutionName=PLACE,
            OperatorsName=f'{NAME}^Tech',
            StationName=NUMBER,
        ),
        [PLACE, NAME, NUMBER],
    ),
    'UIDs': (
        values(StudyInstanceUID=UID, SeriesInstanceUID=f'{UID}.1', FrameOfReferenceUID=f'{UID}.2'),
        [UID],
    ),
    'UIDs of source images': (
        nested('SourceImageSequence', ReferencedSOPInstanceUID=f'{UID}.3'),
        [UID],
    ),
    'UIDs of referenced images': (
        nested('ReferencedImageSequence', ReferencedSOPInstanceUID=f'{UID}.4'),
        [UID],
    ),
    'original attributes': (
        nested('OriginalAttributesSequence', ModifyingSystem=PLACE, SourceOfPreviousValues=NAME),
        [PLACE, NAME],
    ),
    'digital signatures': (nested('DigitalSignaturesSequence', DigitalSignatureUID=UID), [UID]),
    'Siemens CSA': (
        private(0x0029, 'SIEMENS CSA HEADER', 0x10, 'OB', f'SV10 {NAME} {NUMBER} '.encode()),
        [NAME, NUMBER],
    ),
    'Siemens MEDCOM': (
        private(0x0029, 'SIEMENS MEDCOM HEADER', 0x20, 'LO', PLACE),
        [PLACE],
    ),
    'GE private': (private(0x0009, 'GEMS_IDEN_01', 0x04, 'SH', NUMBER), [NUMBER]),
    'Philips private': (
        private(0x2001, 'Philips Imaging DD 001', 0xC8, 'LO', f'Exam of {NAME}'),
        [NAME],
    ),
    'a creator of private elements': (private(0x0011, f'{NAME} PACS', 0x01, 'LO', 'x'), [NAME]),
    'a safe private element misused': (
        private(0x2005, 'Philips MR Imaging DD 001', 0x0E, 'LO', NAME),
        [NAME],
    ),
    'unknown elements': (
        lambda dataset: dataset.add_new(0x00187FFE, 'LO', NAME),
        [NAME],
    ),
    'overlay': (overlay, [NAME, NUMBER]),
    'curve': (curve, [NAME, NUMBER]),
    'structured report': (report, [NAME, PLACE, 'Anselm']),
    'encapsulated document': (
        values(EncapsulatedDocument=NAME.encode(), DocumentTitle=PLACE),
        [NAME, PLACE],
    ),
    'icon image': (icon, [NAME]),
    'deeply nested': (deep, [NAME, NUMBER]),
    'file meta information': (meta, [NUMBER, PLACE[:16], UID, NAME]),
    'padding': (
        lambda dataset: dataset.add_new(0xFFFCFFFC, 'OB', NAME.encode()),
        [NAME],
    ),
    'behind the pixels': (
        lambda dataset: setattr(dataset, 'PixelData', dataset.PixelData + NAME.encode()),
        [NAME],
    ),
    'text where numbers belong': (wrong_kinds, [NAME, PLACE]),
    'clinical trial': (
        values(ClinicalTrialSubjectID=NUMBER, ClinicalTrialSiteName=PLACE),
        [NUMBER, PLACE],
    ),
}  # fmt: skip


def written(dataset, **encoding):
    whole = io.BytesIO()
    pydicom.dcmwrite(whole, dataset, enforce_file_format=True, **encoding)
    return whole.getvalue()


def met(raw: bytes, planted: str) -> bool:
    """Whether a text is in raw bytes in any of the usual encodings, in any case."""
    lowered = raw.lower()
    return any(
        form.encode(encoding, 'ignore') in (lowered if form.islower() or form.isdigit() else raw)
        for form in (planted.lower(), planted, planted.upper())
        for encoding in ('latin-1', 'utf-8', 'utf-16-le', 'utf-16-be')
    )


@pytest.mark.parametrize('syntax', [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize('place', PLACES)
def test_what_is_planted_does_not_come_out(tmp_path, place, syntax):
    plant, planted = PLACES[place]
    dataset = plain(syntax)
    plant(dataset)
    raw = written(dataset)
    assert any(met(raw, text) for text in planted), 'nothing was planted'
    source, target = tmp_path / 'source.dcm', tmp_path / 'target.dcm'
    source.write_bytes(raw)
    deidentify_file(source, target, SUBJECT)
    clean = target.read_bytes()
    assert [text for text in planted if met(clean, text)] == []
    assert source.read_bytes() == raw
    after = pydicom.dcmread(target)
    np.testing.assert_array_equal(after.pixel_array, np.arange(64).reshape(8, 8))
    assert after.SeriesDescription.startswith(
        't2' if 'FLAIR' not in after.SeriesDescription else ''
    )


def test_there_are_more_than_thirty_places():
    assert len(PLACES) >= 50


def test_a_preamble_and_what_follows_the_data_set_are_left_behind(tmp_path):
    raw = bytearray(written(plain()))
    raw[:12] = NAME.encode()
    raw += b'\xfe\xff\x00\xe0' + NUMBER.encode() * 5
    deidentify_file(io.BytesIO(bytes(raw)), tmp_path / 'x.dcm', SUBJECT)
    clean = (tmp_path / 'x.dcm').read_bytes()
    assert clean[:132] == bytes(128) + b'DICM'
    assert not met(clean, NAME)
    assert not met(clean, NUMBER)


def test_what_conversion_needs_stays(tmp_path):
    before = plain()
    private(0x2005, 'Philips MR Imaging DD 001', 0x0E, 'FL', 1.5)(before)
    private(0x0043, 'GEMS_PARM_01', 0x2F, 'SS', 3)(before)
    deidentify_file(io.BytesIO(written(before)), tmp_path / 'x.dcm', SUBJECT)
    after = pydicom.dcmread(tmp_path / 'x.dcm')
    kept = (
        'SOPClassUID ImageType Modality Manufacturer SeriesDescription ProtocolName SequenceName '
        'MRAcquisitionType RepetitionTime EchoTime InversionTime AcquisitionTime PixelSpacing '
        'ImagePositionPatient ImageOrientationPatient PatientAge PatientSex Rows PixelData'
    )
    for keyword in kept.split():
        assert after[keyword].value == before[keyword].value, keyword
    assert after.get_private_item(0x2005, 0x0E, 'Philips MR Imaging DD 001').value == 1.5
    assert after.get_private_item(0x0043, 0x2F, 'GEMS_PARM_01').value == 3
    assert (after.PatientName, after.PatientID) == ('007', '007')
    assert after.PatientIdentityRemoved == 'YES'
    assert after.DeidentificationMethodCodeSequence[0].CodeValue == '113100'
    assert stat.S_IMODE((tmp_path / 'x.dcm').stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ['x.dcm']


def cleaned(tmp_path, dataset, subject=SUBJECT):
    deidentify_file(io.BytesIO(written(dataset)), tmp_path / 'out.dcm', subject)
    return pydicom.dcmread(tmp_path / 'out.dcm')


def test_intervals_between_dates_stay(tmp_path):
    first, second = plain(), plain()
    first.StudyDate, second.StudyDate = '20240229', '20250301'
    second.FrameOfReferenceUID = first.FrameOfReferenceUID = generate_uid()
    days = [dt.date.fromisoformat(cleaned(tmp_path, one).StudyDate) for one in (first, second)]
    assert days[1] - days[0] == dt.date(2025, 3, 1) - dt.date(2024, 2, 29)
    assert days[0] == shifted_date(dt.date(2024, 2, 29), SUBJECT)
    assert dt.date(2024, 2, 29) - days[0] == dt.timedelta(days=45_000)


def test_uids_are_the_same_for_a_person_and_differ_between_persons(tmp_path):
    one, two = plain(), plain()
    two.SOPInstanceUID = '1.2.3.4.6'
    mine, mine_too = cleaned(tmp_path, one), cleaned(tmp_path, two)
    theirs = cleaned(tmp_path, one, OTHER)
    assert mine.SeriesInstanceUID == mine_too.SeriesInstanceUID
    assert len({mine.SOPInstanceUID, mine_too.SOPInstanceUID, theirs.SOPInstanceUID}) == 3
    assert mine.StudyInstanceUID != theirs.StudyInstanceUID
    assert mine.SOPInstanceUID == mine.file_meta.MediaStorageSOPInstanceUID
    assert mine.SOPInstanceUID.is_valid
    assert mine.SOPClassUID == MR


@pytest.mark.parametrize(
    ('age', 'kept'), [('044Y', '044Y'), ('089Y', '089Y'), ('090Y', '090Y'), ('103Y', '090Y'),
                      ('006M', '006M'), ('Otto', None)],
)  # fmt: skip
def test_age(tmp_path, age, kept):
    dataset = plain()
    dataset['PatientAge'] = pydicom.DataElement('PatientAge', 'AS', age, validation_mode=0)
    assert cleaned(tmp_path, dataset).get('PatientAge') == kept


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({}, ''),
        ({'BurnedInAnnotation': 'YES'}, 'burnt in'),
        ({'BurnedInAnnotation': 'NO'}, ''),
        ({'SOPClassUID': '1.2.840.10008.5.1.4.1.1.7'}, 'secondary capture'),
        ({'ConversionType': 'WSD'}, 'secondary capture'),
        ({'ImageType': ['DERIVED', 'SECONDARY', 'SCREEN SAVE']}, 'screen save'),
        ({'Modality': 'OT'}, 'not an MR image'),
        ({'Modality': 'MR', 'SOPClassUID': '1.2.840.10008.5.1.4.1.1.2'}, 'not an MR image'),
    ],
)
def test_text_in_the_pixels_is_suspected_and_said_why(tmp_path, changes, reason):
    dataset = plain()
    values(**changes)(dataset)
    removed = deidentify_file(io.BytesIO(written(dataset)), tmp_path / 'x', SUBJECT)
    assert reason in removed.burnt_in
    assert bool(removed.burnt_in) == bool(reason)


def test_an_overlay_in_the_bits_of_the_pixels_is_suspected(tmp_path):
    dataset = plain()
    dataset.add_new(0x60000102, 'US', 12)
    removed = deidentify_file(io.BytesIO(written(dataset)), tmp_path / 'x', SUBJECT)
    assert 'overlay' in removed.burnt_in


def test_the_identifiers_are_told(tmp_path):
    dataset = plain()
    descriptions(dataset)
    dataset.PatientBirthDate = '19800314'
    nested('OtherPatientIDsSequence', PatientID='MRN-4711')(dataset)
    found = deidentify_file(io.BytesIO(written(dataset)), tmp_path / 'x', SUBJECT).identifiers
    assert {NAME, 'Anselm', f'Anselm {NAME}', NUMBER, 'MRN-4711', '1.2.3.4', '1.2.3.4.5'} <= found
    assert {'19800314', '1980-03-14', '14.03.1980', '20240229', '2024-02-29'} <= found


def test_words_of_protocols_are_not_taken_for_names(tmp_path):
    dataset = plain()
    dataset.PatientName, dataset.PatientID = 'Tse^Sag May', '3'
    dataset.SeriesDescription = 'T2_TSE_sag 3mm'
    assert cleaned(tmp_path, dataset).SeriesDescription == 'T2_TSE_sag 3mm'
    dataset.SeriesDescription = 'T2_TSE_sag 3mm sag-may tse'
    assert 'may' not in cleaned(tmp_path, dataset).SeriesDescription


@pytest.mark.parametrize('syntax', [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_unusual_encodings(tmp_path, syntax):
    dataset = plain(syntax)
    dataset.PatientName, dataset.PatientID = f'{NAME}^A', NUMBER
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.arange(64, dtype='>u2').tobytes()
        dataset['PixelData'].VR = 'OW'
    after = cleaned(tmp_path, dataset)
    assert after.RepetitionTime == 5000
    np.testing.assert_array_equal(after.pixel_array.ravel(), np.arange(64))
    assert not met((tmp_path / 'out.dcm').read_bytes(), NAME)


def test_a_file_without_preamble_and_meta(tmp_path):
    dataset = plain()
    dataset.PatientName = f'{NAME}^A'
    del dataset.file_meta
    for implicit in (True, False):
        bare = io.BytesIO()
        pydicom.dcmwrite(bare, dataset, implicit_vr=implicit, little_endian=True)
        raw = bare.getvalue()
        deidentify_file(io.BytesIO(raw), tmp_path / 'x.dcm', SUBJECT)
        after = pydicom.dcmread(tmp_path / 'x.dcm')
        assert after.file_meta.TransferSyntaxUID.is_implicit_VR == implicit
        assert after.InversionTime == 1800
        assert after.PatientName == '007'


def test_sequences_of_undefined_length(tmp_path):
    dataset = plain()
    inner, item = Dataset(), Dataset()
    inner.EchoTime, inner.PatientName = '12', f'{NAME}^A'
    item.MREchoSequence = Sequence([inner])
    dataset.PerFrameFunctionalGroupsSequence = Sequence([item])
    for sequence, one in (
        (dataset['PerFrameFunctionalGroupsSequence'], item),
        (item['MREchoSequence'], inner),
    ):
        sequence.is_undefined_length = one.is_undefined_length_sequence_item = True
    after = cleaned(tmp_path, dataset)
    assert after.PerFrameFunctionalGroupsSequence[0].MREchoSequence[0].EchoTime == 12
    assert not met((tmp_path / 'out.dcm').read_bytes(), NAME)


@pytest.mark.parametrize(
    'raw',
    [b'', b'GIF89a', b'sub-01\tFLAIR\n' * 50, bytes(4096), b'\0' * 128 + b'DICM', b'\2\0' * 99],
)
def test_what_is_no_dicom_is_refused(tmp_path, raw):
    with pytest.raises(DataError, match='no DICOM file'):
        deidentify_file(io.BytesIO(raw), tmp_path / 'x', SUBJECT)
    assert list(tmp_path.iterdir()) == []


def test_cut_off_files_are_refused_or_hold_nothing_of_the_person(tmp_path):
    dataset = plain()
    dataset.PatientName, dataset.ImageComments = f'{NAME}^A', NAME
    raw = written(dataset)
    for end in range(150, len(raw), 37):
        target = tmp_path / f'{end}'
        try:
            deidentify_file(io.BytesIO(raw[:end]), target, SUBJECT)
        except DataError:
            assert not target.exists()
        else:
            assert not met(target.read_bytes(), NAME)


def test_in_memory(tmp_path):
    dataset = plain()
    descriptions(dataset)
    removed = deidentify(dataset, SUBJECT)
    assert NAME in removed.identifiers
    assert dataset.PatientName == '007'
    assert NAME.lower() not in str(dataset).lower()
    del dataset.file_meta
    deidentify(dataset, SUBJECT)
    assert dataset.EchoTime == 387


@pytest.mark.realdata
@pytest.mark.parametrize(
    ('archive', 'folder'),
    [
        ('ge-mprage.tgz', 'T1_GE_mprage/In/05_3D_Ax_T1_MP_RAGE_R22'),
        ('siemens-xa30-mprage.tgz', 'T1_Siemens_XA30_2mm/In/5001_anat-T1w_acq-tfl'),
    ],
)
def test_real_series_give_the_same_image(real_data, tmp_path, archive, folder):
    import dcm2niix

    subprocess.run(['tar', 'xzf', real_data / 'dicom-t1' / archive, '-C', tmp_path], check=True)
    (tmp_path / 'clean').mkdir()
    identifiers = set()
    for number, path in enumerate(sorted((tmp_path / folder).iterdir())):
        removed = deidentify_file(path, tmp_path / 'clean' / f'{number:04}.dcm', SUBJECT)
        identifiers |= removed.identifiers
        assert removed.burnt_in == ''
    images = {}
    for name, source in (('raw', tmp_path / folder), ('deidentified', tmp_path / 'clean')):
        command = [dcm2niix.bin, '-z', 'n', '-f', name, '-o', tmp_path, source]
        subprocess.run(command, check=True, capture_output=True)
        images[name] = nb.load(tmp_path / f'{name}.nii')
    before, after = images['raw'], images['deidentified']
    np.testing.assert_array_equal(before.affine, after.affine)
    np.testing.assert_array_equal(np.asarray(before.dataobj), np.asarray(after.dataobj))
    raw = b''.join(
        Path(path).read_bytes() for path in sorted((tmp_path / 'clean').iterdir())[::40]
    )
    assert [text for text in identifiers if len(text) > 5 and met(raw, text)] == []


@pytest.mark.parametrize(
    ('maker', 'place', 'identifies'),
    [
        ('GE MEDICAL SYSTEMS', 'GE Medical Systems', False),
        ('Hitachi Medical Corporation', 'HITACHI', False),
        ('UIH', 'UIH', False),
        ('Siemens Healthineers', 'Siemens Healthineers Berlin Mitte', True),
        ('Quaxmann Praxis', 'Quaxmann Praxis', True),  # no maker of scanners
    ],
)
def test_a_maker_that_is_entered_as_institution_tells_nobody(maker, place, identifies):
    speech = Speech(b'', [('phrase', place.encode()), ('maker', maker.encode())])
    assert bool(speech.identifiers) == identifies
    if not identifies:
        assert speech.clean(maker.encode()) == maker.encode()


def test_names_are_found_in_capitals_with_sharp_s():
    speech = Speech(b'ISO_IR 100', [('name', 'Größenwahn^Eva'.encode('latin-1'))])
    assert speech.clean('FLAIR GRÖSSENWAHN'.encode('latin-1')) == b'FLAIR '
