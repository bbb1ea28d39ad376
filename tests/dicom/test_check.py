"""The search finds each kind of leak where it is planted, and nothing in a clean tree."""

from __future__ import annotations

import gzip
import json

import nibabel as nb
import numpy as np
import pydicom
import pytest
from nibabel.nifti1 import Nifti1DicomExtension, Nifti1Extension

from mslesseg_app.core.errors import NoInputError
from mslesseg_app.dicom.deidentify.identifiers import Identifiers, date_forms, name_forms
from mslesseg_app.dicom.deidentify.leaks import check_tree, masked

NAME, NUMBER, UID = 'Müller-Lüdenscheidt^Björn', 'QX77123', '1.3.12.2.1107.5.2.43.67093.2.4711'
IDENTIFIERS = {
    *name_forms(NAME),
    *name_forms('Doe^Jane'),
    *name_forms('May^Ax'),
    NUMBER,
    '1',
    '007',
    '4711',
    UID,
    'Wolkenstrasse 12, Kuckucksheim',
    *(form for day in ('19800314', '20240229') for form in date_forms(pydicom.valuerep.DA(day))),
}


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def save_image(path, descrip='', extension=None, more=b'', name='', seconds=0):
    image = nb.Nifti1Image(np.arange(512, dtype='i2').reshape(8, 8, 8), np.eye(4))
    image.header['descrip'] = descrip
    if extension is not None:
        image.header.extensions.append(extension)
    with path.open('wb') as raw, gzip.GzipFile(name, 'wb', fileobj=raw, mtime=seconds) as stream:
        stream.write(image.to_bytes() + more)


@pytest.fixture
def tree(tmp_path):
    """A clean dataset whose texts come close to identifiers."""
    root = tmp_path / 'bids'
    save(root / 'dataset_description.json', {'Name': 'May 2024: T1', 'Authors': ['A. Doerr']})
    save(root / 'README', 'Scans of 4 people in May 2026; janes and does are not names here.\n')
    save(root / 'participants.tsv', 'participant_id\tage\tsex\nsub-001\t44\tF\n')
    anat = root / 'sub-001' / 'ses-01' / 'anat'
    save(
        anat / 'sub-001_ses-01_FLAIR.json',
        {
            'Manufacturer': 'Siemens',
            'SeriesDescription': 't2_space_dark-fluid_sag',
            'EchoTime': 0.47110,
            'ImagingFrequency': 123.4711,
            'ConversionSoftwareVersion': 'v1.0.20250505',
            'ImageOrientationPatientDICOM': [1, 0, 0, 0, 1, 0.007],
            'AcquisitionTime': '10:11:12.5',
        },
    )
    save(
        root / 'sub-001' / 'ses-01' / 'sub-001_ses-01_scans.tsv',
        'filename\tacq_time\nanat/sub-001_ses-01_FLAIR.nii.gz\t1901-02-03T10:11:12\n',
    )
    save_image(anat / 'sub-001_ses-01_FLAIR.nii.gz', descrip='TE=0.39;phase=1')
    return root


SIDECAR = 'sub-001/ses-01/anat/sub-001_ses-01_FLAIR.json'
IMAGE = 'sub-001/ses-01/anat/sub-001_ses-01_T1w.nii.gz'


def sidecar(**more):
    def plant(root):
        content = json.loads((root / SIDECAR).read_text())
        save(root / SIDECAR, content | more)

    return plant


def text(name, content):
    return lambda root: save(root / name, content)


def image(**given):
    return lambda root: save_image(root / IMAGE, **given)


def dicom(root):
    dataset = pydicom.Dataset()
    dataset.PatientID, dataset.SOPClassUID = 'x', '1.2.840.10008.5.1.4.1.1.4'
    dataset.SOPInstanceUID = '2.25.1'
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(root / 'sourcedata', enforce_file_format=True)


def picture(root):
    noise = np.random.default_rng(1).integers(0, 256, 5000, dtype='u1').tobytes()
    (root / 'qc.png').write_bytes(noise + b'tEXtAuthor\0Mueller-Luedenscheidt' + noise)


#: What is planted, where it must be found, and what kind it is.
PLANTED = {
    'name in a sidecar': (sidecar(ImageComments='Bjorn moved'), 'ImageComments', 'name'),
    'other order and case': (sidecar(A='BJÖRN müller lüdenscheidt'), 'key A', 'name'),
    'two letters for one': (sidecar(A='Mueller-Luedenscheidt'), 'key A', 'name'),
    'without accents': (sidecar(A='luDENScheidt'), 'key A', 'name'),
    'short name among capitals': (sidecar(A='T1DoeFlair'), 'key A', 'name'),
    'a common word within a full name': (sidecar(A='may_ax'), 'key A', 'name'),
    'deep in lists': (sidecar(A=[{'B': ['x', {'C': NUMBER.lower()}]}]), 'A.B.C', 'number'),
    'a key': (sidecar(Doe=1), 'key ***', 'name'),
    'a number as a number': (sidecar(A=20240229), 'key A', 'date'),
    'UID': (sidecar(A=UID), 'key A', 'DICOM UID'),
    'UID of nobody known': (sidecar(A='1.2.826.0.1.3680043.2.1.4.5'), 'key A', 'DICOM UID'),
    'ISO date': (sidecar(A='on 2024-02-29'), 'key A', 'date'),
    'German date': (sidecar(A='am 29.02.2024'), 'key A', 'date'),
    'address': (sidecar(A='wolkenstraße 12; KUCKUCKSHEIM'), 'key A', 'number'),
    'key of identity': (sidecar(PatientName='anybody'), 'PatientName', 'key of identity'),
    'date that is not shifted': (
        sidecar(AcquisitionDateTime='2019-05-06T07:08:09'),
        'AcquisitionDateTime',
        'date not shifted',
    ),
    'acq_time': (
        text('sub-001/sub-001_scans.tsv', 'filename\tacq_time\nx\t2019-05-06T07:08:09\n'),
        'row 2, column acq_time',
        'date not shifted',
    ),
    'a cell': (text('x.tsv', 'participant_id\tnote\nsub-001\tJane Doe\n'), 'note', 'name'),
    'a column': (text('x.tsv', 'participant_id\tdob\nsub-001\t1.1.80\n'), 'dob', 'column of'),
    'a great age': (text('participants.tsv', 'participant_id\tage\nsub-001\t94\n'), 'age', 'age'),
    'text': (text('README', 'one\nof jane\n'), 'line 2', 'name'),
    'broken JSON': (text('x.json', '{"A": "Jane"'), 'text', 'name'),
    'a log': (text('code/run.log', f'read {NUMBER}.dcm'), 'line 1', 'number'),
    'file name': (text('code/jane-notes.txt', ''), 'name', 'name'),
    'folder name': (text('code/doe_jane/x.txt', ''), 'name', 'name'),
    'date in a name': (text('sub-001/ses-20190506/x.txt', ''), 'name', 'date not shifted'),
    'NIfTI descrip': (image(descrip='Jane'), 'header descrip', 'name'),
    'NIfTI extension': (image(extension=Nifti1Extension(6, b'of JANE')), 'extension', 'name'),
    'NIfTI extension, wide': (
        image(extension=Nifti1Extension(6, 'of Jane'.encode('utf-16-le'))),
        'extension',
        'name',
    ),
    'DICOM within NIfTI': (
        image(extension=Nifti1DicomExtension(2, pydicom.Dataset())),
        'extension',
        'DICOM header',
    ),
    'behind the voxels': (image(more=b'\0\0Jane'), 'behind the voxels', 'name'),
    'gzip name': (image(name='Doe_Jane.nii'), 'gzip name', 'name'),
    'gzip time': (image(seconds=1_709_200_000), 'gzip time', 'date'),
    'a picture': (picture, 'bytes', 'name'),
    'DICOM file': (dicom, 'file', 'DICOM file'),
    'a file that is no image': (text(IMAGE, 'no gzip'), 'file', 'cannot be searched'),
}  # fmt: skip


def test_a_clean_tree_has_no_leak(tree):
    assert check_tree(tree, IDENTIFIERS) == []


@pytest.mark.parametrize('case', PLANTED)
def test_what_is_planted_is_found(tree, case):
    plant, where, kind = PLANTED[case]
    plant(tree)
    found = check_tree(tree, IDENTIFIERS)
    assert [leak for leak in found if where in leak.where and kind in leak.kind], found


def test_nothing_that_was_found_can_be_read(tree):
    sidecar(ImageComments='Jane Doe', PatientName='Bjorn', Lüdenscheidt='x')(tree)
    found = check_tree(tree, IDENTIFIERS)
    assert len(found) >= 4
    told = ' '.join(f'{leak.where} {leak.kind} {leak.shown}' for leak in found).lower()
    assert not [name for name in ('jane', 'doe', 'bjorn', 'denscheidt') if name in told]


def test_an_image_that_is_cut_off_is_told(tree):
    path = tree / 'sub-001/ses-01/anat/sub-001_ses-01_FLAIR.nii.gz'
    path.write_bytes(path.read_bytes()[:200])
    assert [leak.kind for leak in check_tree(tree)] == ['cannot be searched']


def test_a_missing_folder(tmp_path):
    with pytest.raises(NoInputError):
        check_tree(tmp_path / 'none', [])


@pytest.mark.parametrize(
    ('identifier', 'text', 'found'),
    [
        ('Tom', 'tom', True), ('Tom', 'anatomy', False), ('Tom', 'Tom_Flair', True),
        ('Li', 'Li', False), ('Martin', 'xmartiny', True), ('1234', '1234', True),
        ('1234', '0.1234', False), ('1234', '12345', False), ('123', '123', False),
        ('20240229', 'a20240229b', True), ('2024-02-29', '2024_02_29', True),
        ('Grant', 'grant R01', False), ('山田', 'x 山田 y', True), ('Ødegård', 'odegard', True),
        ('Nuñez', 'NUN\u0303EZ', True), ('A-17', 'a17', False), ('AB-1776', 'ab1776', True),
        ('Mueller', 'MÜLLER', True), ('Müller', 'mueller', True), ('Weiss', 'Weiß', True),
    ],
)  # fmt: skip
def test_how_identifiers_are_met(identifier, text, found):
    assert bool(Identifiers([identifier]).find(text)) == found


def test_cleaning_keeps_the_rest():
    wanted = Identifiers(name_forms('Doe^Jane'))
    assert wanted.clean('T1_Jané_DOE_sag, doe') == 'T1__sag, '
    assert wanted.clean('T1 sag') == 'T1 sag'


def test_masking():
    assert masked('Dupont') == 'D***t'
