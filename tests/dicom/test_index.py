"""What is found in the sources, and how it is sorted, with every trap that hospitals lay."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pydicom
import pytest
from scanner import ANNA, BERT, FIRST, SECOND, head, scan

from mslesseg_app.demo.dicom import Patient, write_series
from mslesseg_app.dicom.convert import index as index_module
from mslesseg_app.dicom.convert.index import Index
from mslesseg_app.dicom.convert.progress import ConversionProgress
from mslesseg_app.dicom.convert.series import Series, find_series


def look(*sources: Path, work: Path) -> Index:
    work.mkdir(exist_ok=True)
    index = Index(work)
    index.update(sources, None, ConversionProgress('files', quiet=True))
    return index


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / 'source'
    folder.mkdir()
    return folder


def sort(source: Path) -> list[Series]:
    return find_series(look(source, work=source.parent / 'work'))


def change(path: Path, **fields: object) -> None:
    dataset = pydicom.dcmread(path)
    for keyword, value in fields.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def only(series: list[Series]) -> Series:
    assert len(series) == 1
    return series[0]


# --------------------------------------------------------------------------------- files


def test_everything_that_is_no_image_has_its_reason(source: Path) -> None:
    scan(source)
    (source / 'notes.txt').write_text('Anna Muster, see the film')
    (source / 'empty.dcm').touch()
    (source / 'page.IMA').write_text('<html>not found</html>')
    (source / '._resource.dcm').write_bytes(b'Mac OS X')
    (source / 'done').touch()
    (source / 'gone.dcm').symlink_to(source / 'nowhere')
    os.mkfifo(source / 'pipe')
    noise = bytearray(os.urandom(4000))
    noise[128:132] = b'DICM'
    (source / 'noise.dcm').write_bytes(noise)
    one = scan(source / 'more', number=7)
    for number, path in enumerate(one[3:], 3):
        path.unlink()
        del number
    change(one[0], Modality='CT')
    report = pydicom.dcmread(one[1])
    del report.PixelData, report.Rows, report.Columns
    report.Modality = 'SR'
    report.save_as(one[1])
    one[2].write_bytes(one[2].read_bytes()[:-100])
    index = look(source, work=source.parent / 'work')
    reasons = {Path(name).name: reason for name, reason in index.left_out()}
    assert reasons == {
        'notes.txt': 'no DICOM',
        'empty.dcm': 'named as DICOM, but empty',
        'page.IMA': 'named as DICOM, but none',
        '._resource.dcm': 'no DICOM',
        'done': 'empty file',
        'gone.dcm': 'broken link',
        'pipe': 'no regular file',
        'noise.dcm': reasons['noise.dcm'],
        one[0].name: 'not MR (CT)',
        one[1].name: 'no image (SR)',
    }
    assert reasons['noise.dcm'] in ('damaged DICOM', 'no DICOM', 'no image (no modality)')
    whole, cut = find_series(index)
    assert (whole.files, whole.damaged) == (14, '')
    assert (cut.files, cut.damaged) == (1, '1 of its files is truncated')
    assert sum(index.reasons().values()) == len(reasons)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may read everything')
def test_files_without_permission_are_listed(source: Path) -> None:
    path = scan(source)[0]
    path.chmod(0)
    assert (
        'cannot be read' in dict(look(source, work=source.parent / 'work').left_out())[str(path)]
    )


def test_names_and_preambles_do_not_matter(source: Path) -> None:
    paths = scan(source)
    for number, path in enumerate(paths):
        raw = path.read_bytes()
        path.unlink()
        (source / f'IM{number}').write_bytes(raw[132:] if number % 2 else raw)
    assert only(sort(source)).files == len(paths)


def test_a_dicomdir_stands_for_its_folder(source: Path) -> None:
    from pydicom.fileset import FileSet

    media = FileSet()
    for path in scan(source / 'in'):
        media.add(path)
    media.write(source / 'cd')
    index = look(source / 'cd' / 'DICOMDIR', work=source.parent / 'work')
    assert only(find_series(index)).files == 14
    assert index.reasons() == {'DICOMDIR': 1}


def test_links_are_followed_and_nothing_is_read_twice(source: Path) -> None:
    scan(source / 'real')
    (source / 'loop').symlink_to(source, target_is_directory=True)
    (source / 'again').symlink_to(source / 'real', target_is_directory=True)
    (source / 'file.dcm').symlink_to(next((source / 'real').iterdir()))
    series = only(sort(source))
    assert series.files == 14
    assert series.remarks == ('1 duplicate file',)


def test_only_what_is_new_is_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = scan(source)
    work = source.parent / 'work'
    look(source, work=work).close()
    read: list[Path] = []
    plain = index_module.read_header
    monkeypatch.setattr(
        index_module, 'read_header', lambda path: (read.append(path), plain(path))[1]
    )
    look(source, work=work).close()
    assert read == []
    change(paths[0], SeriesDescription='other')
    paths[1].unlink()
    (source / 'new').mkdir()
    shutil.copy(paths[2], source / 'new' / 'copy')
    index = look(source, work=work)
    assert sorted(read) == sorted([paths[0], source / 'new' / 'copy'])
    assert index.count() == 14


def test_a_damaged_index_is_explained(source: Path) -> None:
    from mslesseg_app.core.errors import DiskError

    work = source.parent / 'work'
    work.mkdir()
    (work / 'index.sqlite3').write_bytes(b'no database' * 1000)
    with pytest.raises(DiskError, match='cannot be used') as caught:
        Index(work)
    assert caught.value.hint


# -------------------------------------------------------------------------------- patients


def test_patients_and_studies_are_told_apart_in_one_folder(source: Path) -> None:
    for patient, study in ((ANNA, FIRST), (BERT, FIRST), (ANNA, SECOND)):
        paths = scan(source / 'x', patient=patient, study=study)
        for path in paths:
            path.rename(source / f'{patient.patient_id}-{study.date}-{path.name}')
    series = sort(source)
    assert len({item.patient for item in series}) == 2
    assert len({item.study for item in series}) == 3
    assert {item.files for item in series} == {14}


def test_people_of_whom_nothing_is_known_are_not_one(source: Path) -> None:
    nobody = Patient('', '')
    scan(source / 'a', patient=nobody, study=FIRST)
    scan(source / 'b', patient=nobody, study=SECOND)
    assert len({item.patient for item in sort(source)}) == 2


def test_absent_fields(source: Path) -> None:
    absent = dict.fromkeys(
        ('StudyInstanceUID', 'SeriesInstanceUID', 'SeriesNumber', 'StudyDate', 'Modality')
    )
    scan(source, **absent)
    series = only(sort(source))
    assert series.files == 14
    assert series.date == '20210506'  # the series'
    assert series.number == -1


@pytest.mark.parametrize(
    ('keyword', 'value'),
    [('SeriesNumber', 'two'), ('EchoTime', 'long'), ('StudyDate', '00000000'), ('Rows', 0)],
)
def test_wrong_fields(source: Path, keyword: str, value: object) -> None:
    for path in scan(source):
        raw = pydicom.dcmread(path)
        if isinstance(value, str):
            raw[keyword]._value = value
            pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        else:
            setattr(raw, keyword, value)
        raw.save_as(path)
    index = look(source, work=source.parent / 'work')
    found = find_series(index)
    assert (len(found) == 1) is (keyword != 'Rows')
    assert index.count() == 14


# --------------------------------------------------------------------------------- series


def test_duplicates_are_taken_once(source: Path) -> None:
    paths = scan(source / 'a')
    shutil.copytree(source / 'a', source / 'b')
    change(source / 'b' / paths[0].name, InstitutionName='elsewhere')  # same image, other header
    series = only(sort(source))
    assert series.files == 14
    assert series.remarks == ('14 duplicate files',)


def test_same_uids_but_other_pixels_are_kept_apart(source: Path) -> None:
    scan(source / 'a', seed=0)
    scan(source / 'b', seed=1)
    series = sort(source)
    assert [item.files for item in series] == [14, 14]
    assert 'other pixels' in ' '.join(series[1].remarks)
    assert 'other pixels' not in ' '.join(series[0].remarks)


def test_missing_slices_are_counted(source: Path) -> None:
    paths = scan(source)
    for path in paths[5:7]:
        path.unlink()
    series = only(sort(source))
    assert (series.files, series.missing) == (12, 2)
    assert series.remarks == ('2 slices missing',)


@pytest.mark.parametrize(
    'other',
    [
        {'sidecar': {'ImageType': 'ORIGINAL\\PRIMARY\\P'}},
        {'sidecar': {'EchoTime': 0.02}},
        {'description': 'another'},
        {'ImageOrientationPatient': [1, 0, 0, 0, 1, 0]},
        {'Rows': 18, 'Columns': 16},
        {'AcquisitionNumber': 2},
    ],
    ids=['image type', 'echo', 'description', 'orientation', 'matrix', 'repeat'],
)
def test_two_series_under_one_uid(source: Path, other: dict[str, object]) -> None:
    uid = '1.2.3.4'
    scan(source / 'a', SeriesInstanceUID=uid)
    arguments = {'seed': 1, 'first_instance': 101, 'SeriesInstanceUID': uid} | other
    scan(source / 'b', **arguments)  # type: ignore[arg-type]
    series = sort(source)
    assert [item.files for item in series] == [14, 14]
    assert all('one of 2 series under one UID' in item.remarks for item in series)
    index = look(source, work=source.parent / 'work')
    find_series(index)
    for item, folder in zip(series, ('a', 'b'), strict=True):
        assert {Path(p).parent.name for p in index.files(item.group, item.part)} == {folder}


def test_many_volumes_stay_one_series(source: Path) -> None:
    for number in range(6):
        scan(source, first_instance=1 + 14 * number, seed=number, AcquisitionNumber=number + 1)
    assert only(sort(source)).files == 84


def test_multiframe_objects(source: Path) -> None:
    (path,) = scan(source, vendor='enhanced')
    series = only(sort(source))
    assert (series.files, series.frames, series.missing) == (1, 14, 0)
    dataset = pydicom.dcmread(path)
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    dataset.PerFrameFunctionalGroupsSequence = frames[:4] + frames[6:]
    dataset.NumberOfFrames = 12
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) * 12 // 14]
    dataset.save_as(path)
    assert only(sort(source)).missing == 2


def test_parts_do_not_take_long_where_every_file_is_its_own(source: Path) -> None:
    image = head()
    paths = write_series(
        image,
        source,
        vendor='ge',
        patient=ANNA,
        study=FIRST,
        number=1,
        description='x',
        sidecar={},
    )
    for number, path in enumerate(paths):
        change(path, SeriesDescription=f'slice {number}')
    assert len(sort(source)) == len(paths)
