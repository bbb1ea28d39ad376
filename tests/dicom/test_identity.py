"""The map of subjects: the same for ever, for its owner only, outside of what is shared."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pydicom
import pytest

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.dicom.identity import SubjectMap, patient_key


def header(**values):
    dataset = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def test_a_patient_keeps_label_shift_and_secret(tmp_path):
    path = tmp_path / 'owner' / 'map.json'
    first = SubjectMap(path).subject('["A1"]')
    second = SubjectMap(path).subject('["A2"]')
    assert (first.label, second.label) == ('001', '002')
    assert SubjectMap(path).subject('["A1"]') == first
    assert first.secret != second.secret
    assert len(first.secret) == 32
    assert -54_810 < first.days <= -40_200


def test_shifts_differ_between_patients(tmp_path):
    subjects = SubjectMap(tmp_path / 'owner' / 'map.json')
    assert len({subjects.subject(str(number)).days for number in range(20)}) > 10


def test_only_the_owner_has_access(tmp_path):
    path = tmp_path / 'a' / 'owner' / 'map.json'
    SubjectMap(path).subject('x')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    others = [file for file in path.parent.iterdir() if file.stat().st_mode & 0o077]
    assert others == []


@pytest.mark.parametrize('open_what', ['folder', 'file'])
def test_access_of_others_is_refused(tmp_path, open_what):
    path = tmp_path / 'owner' / 'map.json'
    SubjectMap(path).subject('x')
    (path if open_what == 'file' else path.parent).chmod(0o750)
    with pytest.raises(UsageError) as caught:
        SubjectMap(path)
    assert 'chmod' in caught.value.hint


@pytest.mark.parametrize('where', ['', 'code/private'])
def test_a_bids_tree_is_no_place_for_it(tmp_path, where):
    (tmp_path / 'dataset_description.json').write_text('{}')
    with pytest.raises(UsageError, match='must not lie in the BIDS dataset'):
        SubjectMap(tmp_path / where / 'map.json')
    assert not (tmp_path / 'code').exists()


def test_a_link_into_a_bids_tree_is_seen(tmp_path):
    inside = tmp_path / 'bids' / 'code'
    inside.mkdir(parents=True, mode=0o700)
    (tmp_path / 'bids' / 'dataset_description.json').write_text('{}')
    (tmp_path / 'elsewhere').symlink_to(inside)
    with pytest.raises(UsageError):
        SubjectMap(tmp_path / 'elsewhere' / 'map.json')


def test_labels_that_are_asked_for(tmp_path):
    subjects = SubjectMap(tmp_path / 'owner' / 'map.json')
    assert subjects.subject('x', 'MS07').label == 'MS07'
    assert subjects.subject('x', 'MS07').label == 'MS07'
    with pytest.raises(UsageError, match='another patient'):
        subjects.subject('y', 'MS07')
    with pytest.raises(UsageError, match='known as sub-MS07'):
        subjects.subject('x', 'MS08')
    with pytest.raises(UsageError, match='no BIDS label'):
        subjects.subject('z', '../z')
    assert subjects.subject('z', '001').label == '001'
    assert subjects.subject('new').label == '002'


@pytest.mark.parametrize('name', ['../../etc/passwd', '$(touch x); rm -rf ~', 'a\n"b\\', 'é^山田'])
def test_names_that_are_paths_or_commands_are_only_text(tmp_path, name):
    path = tmp_path / 'owner' / 'map.json'
    subject = SubjectMap(path).subject(name)
    assert subject.label == '001'
    assert list(json.loads(path.read_text())['patients']) == [name]
    assert [one.name for one in tmp_path.iterdir()] == ['owner']


def test_a_damaged_map_is_not_replaced(tmp_path):
    path = tmp_path / 'owner' / 'map.json'
    subjects = SubjectMap(path)
    subjects.subject('x')
    path.write_text('{"patients": {"x": {"label": "001"}}}')
    with pytest.raises(DataError, match='damaged'):
        subjects.subject('x')
    assert 'secret' not in path.read_text()


def label_of(task):
    path, patient = task
    return SubjectMap(path).subject(patient)


def test_several_processes_at_once(tmp_path):
    tasks = [(tmp_path / 'owner' / 'map.json', f'patient {number % 6}') for number in range(24)]
    with ProcessPoolExecutor(3, mp_context=get_context('fork')) as pool:
        found = list(pool.map(label_of, tasks))
    by_patient = {task[1]: subject for task, subject in zip(tasks, found, strict=True)}
    assert [by_patient[task[1]] for task in tasks] == found
    assert sorted(one.label for one in by_patient.values()) == [f'{n:03}' for n in range(1, 7)]
    left = {file.name for file in Path(tasks[0][0]).parent.iterdir()} - {'.map.json.lock'}
    assert left == {'map.json'}


def test_the_key_is_number_and_issuer_else_name_and_birth_date():
    one = header(PatientID=' 12  3 ', IssuerOfPatientID='North', PatientName='A^B')
    assert json.loads(patient_key(one)) == ['12 3', 'North']
    assert patient_key(header(PatientID='12 3', IssuerOfPatientID='South')) != patient_key(one)
    nameless = header(PatientID='', PatientName='Doe^Jane', PatientBirthDate='19700101')
    same = header(PatientName='DOE^JANE', PatientBirthDate='19700101')
    assert patient_key(nameless) == patient_key(same) != ''
    assert patient_key(header(Modality='MR')) == ''
