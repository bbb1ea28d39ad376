"""Series that must not be converted, or not end the conversion of the others."""

from __future__ import annotations

import copy
import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from scanner import FIRST, contents, head, scan

from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError
from mslesseg_app.dicom.convert.verify import verify_image
from mslesseg_app.dicom.fast_header import Header, read_header

NO_SESSION = ('--session-from', 'none')


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(*arguments: object) -> int:
    return main(['convert', *map(str, arguments), '--no-deface', '--nprocs', '1', *NO_SESSION])


def rows(bids: str = 'bids') -> dict[str, dict[str, str]]:
    """Return the table of the series by number; of several of one number, the largest."""
    with Path(bids, 'series.tsv').open(encoding='utf-8') as stream:
        found = sorted(csv.DictReader(stream, delimiter='\t'), key=lambda row: int(row['slices']))
    return {row['series_number']: row for row in found}


def change(path: Path, edit: Callable[[Any], object]) -> None:
    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)


def put(dataset: Any, keyword: str, representation: str, value: bytes) -> None:
    """Set an element to bytes that are no value of its kind."""
    tag = Tag(keyword)
    raw = RawDataElement(tag, representation, len(value), value, 0, False, True)
    dataset._dict[tag] = raw


# ------------------------------------------------------------------------------- irregular


def gap(paths: list[Path]) -> None:
    for path in paths[5:7]:
        path.unlink()


def uneven(paths: list[Path]) -> None:
    change(paths[4], lambda d: setattr(d, 'ImagePositionPatient', list(
        np.array(d.ImagePositionPatient) + 1.5 * np.cross(
            d.ImageOrientationPatient[:3], d.ImageOrientationPatient[3:]))))  # fmt: skip


def again(paths: list[Path]) -> None:
    dataset = pydicom.dcmread(paths[5])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = '1.2.3.98'
    dataset.InstanceNumber = 99
    dataset.PixelData = bytes(len(dataset.PixelData) - 2) + b'\1\0'
    dataset.save_as(paths[5].with_name('again.dcm'))


def same_uid(paths: list[Path]) -> None:
    dataset = pydicom.dcmread(paths[5])
    dataset.PixelData = bytes(len(dataset.PixelData) - 2) + b'\1\0'
    dataset.save_as(paths[5].with_name('again.dcm'))


def truncated(paths: list[Path]) -> None:
    paths[-1].write_bytes(paths[-1].read_bytes()[:-200])  # the last slice: no gap


def cut_in_header(paths: list[Path]) -> None:
    raw = paths[-1].read_bytes()
    paths[-1].write_bytes(raw[: raw.index(b'\xe0\x7f\x10\0')])


def all_truncated(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:-200])


def without(*keywords: str) -> Callable[[list[Path]], None]:
    def remove(paths: list[Path]) -> None:
        for path in paths:
            change(path, lambda d: [delattr(d, key) for key in keywords])

    return remove


def no_directions(paths: list[Path]) -> None:
    for path in paths:
        change(path, lambda d: setattr(d, 'ImageOrientationPatient', [1, 0, 0, 1, 0, 0]))


IRREGULAR = {
    'gap': (gap, '2 slices are missing between the others'),
    'uneven': (uneven, 'slices are unevenly spaced'),
    'again': (again, 'several images are at one position (1 image too many)'),
    'same UID': (same_uid, '1 image is there twice under one UID, with other pixels'),
    'truncated': (truncated, '1 of its files is truncated'),
    'cut in its header': (cut_in_header, '1 of its files is truncated'),
    'all truncated': (all_truncated, '14 of its files are truncated'),
    'no orientation': (without('ImageOrientationPatient'), 'no Image Orientation (Patient)'),
    'no position': (without('ImagePositionPatient'), '14 of its 14 images have no Image Position'),
    'no spacing': (without('PixelSpacing'), 'no Pixel Spacing'),
    'no directions': (no_directions, 'not two perpendicular directions'),
}


def test_irregular_series_are_named_and_not_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scan(tmp_path / 'source' / 'good', 'T1w', number=1)
    for number, (spoil, _) in enumerate(IRREGULAR.values(), 2):
        spoil(scan(tmp_path / 'source' / str(number), number=number, seed=number))
    assert convert('source', 'bids') == 1
    (image,) = (tmp_path / 'bids').rglob('*.nii.gz')
    assert image.name == 'sub-001_acq-3D_T1w.nii.gz'
    found = rows()
    assert found['1']['decision'] == 'converted'
    for number, (kind, (_, reason)) in enumerate(IRREGULAR.items(), 2):
        row = found[str(number)]
        assert (row['decision'], row['output']) == ('failed', 'n/a'), kind
        assert reason in row['reason'], kind
    assert capsys.readouterr().err.count('mslesseg: failed:') == len(IRREGULAR)
    capsys.readouterr()
    assert convert('source', 'dry', '--dry-run') == 1
    shown = capsys.readouterr().out
    assert f'{len(IRREGULAR)} series would fail' in shown
    assert '1 series would be converted' in shown
    assert 'series.tsv' not in shown


def test_only_irregular_series(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    gap(scan(tmp_path / 'source'))
    assert convert('source', 'bids') == 1
    assert rows()['2']['decision'] == 'failed'
    assert f'Table of the series: {tmp_path / "bids" / "series.tsv"}' in capsys.readouterr().out


def test_no_table_is_named_that_was_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scan(tmp_path / 'source', description='localizer')
    assert convert('source', 'bids') == 65
    shown = capsys.readouterr()
    assert 'series.tsv' not in shown.out
    assert '1 × localizer' in shown.err


def test_a_truncated_copy_of_a_whole_image_does_no_harm(tmp_path: Path) -> None:
    paths = scan(tmp_path / 'source')
    (tmp_path / 'source' / 'copy.dcm').write_bytes(paths[3].read_bytes()[:-200])
    assert convert('source', 'bids') == 0


def test_pixels_that_end_within_a_fragment(tmp_path: Path) -> None:
    path = scan(tmp_path)[0]
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(path)
    whole = read_header(path)
    assert isinstance(whole, Header)
    assert whole.reason == ''
    path.write_bytes(path.read_bytes()[:-40])
    cut = read_header(path)
    assert isinstance(cut, Header)
    assert cut.reason == 'truncated file'


# ------------------------------------------------------------------------------- multi-frame


def enhanced(folder: Path, number: int, edit: Callable[[Any], object]) -> None:
    (path,) = scan(folder / str(number), vendor='enhanced', number=number, seed=number)
    change(path, edit)


def lose_place(dataset: Any) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def move_frame(dataset: Any) -> None:
    place = dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0]
    place.ImagePositionPatient = [x + 2 for x in place.ImagePositionPatient]


def turn_frame(dataset: Any) -> None:
    item = pydicom.Dataset()
    item.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    dataset.PerFrameFunctionalGroupsSequence[3].PlaneOrientationSequence = [item]


def test_bad_multi_frame_objects_do_not_end_the_conversion(tmp_path: Path) -> None:
    source = tmp_path / 'source'
    scan(source / 'good', 'T1w', number=1)
    enhanced(source, 2, lambda d: delattr(d, 'PerFrameFunctionalGroupsSequence'))
    enhanced(source, 3, lambda d: delattr(d, 'SharedFunctionalGroupsSequence'))
    enhanced(source, 4, lose_place)
    enhanced(source, 5, move_frame)
    enhanced(source, 6, lambda d: setattr(d, 'NumberOfFrames', 12))
    enhanced(source, 7, turn_frame)
    enhanced(source, 8, lambda d: setattr(d, 'PerFrameFunctionalGroupsSequence', []))
    assert convert('source', 'bids') == 1
    found = rows()
    assert found['1']['decision'] == 'converted'
    assert len(list((tmp_path / 'bids').rglob('*.nii.gz'))) == 1
    for number in '24568':
        assert found[number]['decision'] == 'failed', found[number]
    assert 'Image Position' in found['4']['reason']
    assert all(found[number]['decision'] in ('failed', 'left out') for number in '37')


def test_times_and_geometry_of_multi_frame_objects_are_read(tmp_path: Path) -> None:
    (path,) = scan(tmp_path, 'T1w', vendor='enhanced')
    header = read_header(path)
    assert isinstance(header, Header)
    assert (header.tr, header.ti, header.flip) == (2000, 900, 9)
    assert header.spacing == '1.200x1.200'
    places = np.array(json.loads(header.positions))
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    np.testing.assert_allclose(steps, 5.0, atol=1e-3)


def test_single_frames_with_functional_groups_are_one_series(tmp_path: Path) -> None:
    """As Siemens XA writes 2D series: one frame a file, its place in the functional groups."""
    (path,) = scan(tmp_path / 'source', vendor='enhanced')
    whole = pydicom.dcmread(path)
    path.unlink()
    size = len(whole.PixelData) // 14
    for k, frame in enumerate(whole.PerFrameFunctionalGroupsSequence):
        one = copy.deepcopy(whole)
        one.NumberOfFrames, one.InstanceNumber = 1, k + 1
        one.PerFrameFunctionalGroupsSequence = [frame]
        one.PixelData = whole.PixelData[k * size : (k + 1) * size]
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f'1.2.3.{k}'
        one.save_as(tmp_path / 'source' / f'{k}.dcm')
    assert convert('source', 'bids') == 0
    (image,) = (nb.load(path) for path in (tmp_path / 'bids').rglob('*_FLAIR.nii.gz'))
    truth = nb.as_closest_canonical(head(0))
    mine = nb.as_closest_canonical(image)
    np.testing.assert_array_equal(mine.dataobj, truth.dataobj)
    np.testing.assert_allclose(mine.affine, truth.affine, atol=1e-3)


def test_a_classic_file_with_one_frame_and_functional_groups(tmp_path: Path) -> None:
    extra = pydicom.Dataset()
    extra.FrameAcquisitionNumber = 1
    group = pydicom.Dataset()
    group.FrameContentSequence = [extra]
    for path in scan(tmp_path / 'source'):
        dataset = pydicom.dcmread(path)
        dataset.NumberOfFrames = 1
        dataset.PerFrameFunctionalGroupsSequence = [group]
        dataset.save_as(path)
    assert convert('source', 'bids') == 0


# -------------------------------------------------------------------------------- odd values


def test_odd_values_lose_no_series(tmp_path: Path) -> None:
    """Values that foreign de-identification or a vendor left, each in a series of its own."""
    odd = [
        ('SeriesDate', 'DA', b'*** '),
        ('SeriesTime', 'TM', b'******'),
        ('AcquisitionDateTime', 'DT', b'REMOVED '),
        ('EchoTrainLength', 'IS', b'none'),
        ('PatientAge', 'AS', b'old '),
        ('PatientWeight', 'DS', b'heavy '),
        ('ContentDate', 'DA', b'00000000'),
        ('StudyDate', 'DA', b'2021.05.06'),
    ]
    for number, (keyword, representation, value) in enumerate(odd, 1):
        for path in scan(tmp_path / 'source' / str(number), number=number, seed=number):
            change(path, lambda d, k=keyword, r=representation, v=value: put(d, k, r, v))
    convert('source', 'bids')
    found = rows()
    assert {row['decision'] for row in found.values()} == {'converted'}, found
    assert len(found) == len(odd)


TEXTS = {
    'ISO_IR 100': 'FLAIR axial Schädel',
    'ISO_IR 192': 'FLAIR axial Schädel',
    '': 'FLAIR axial Schädel',  # Latin-1 that is not declared
    'ISO 2022 IR 87': 'FLAIR 頭部',
    'ISO_IR 144': 'FLAIR голова',
}


def test_texts_in_any_character_set(tmp_path: Path) -> None:
    vendors = ('ge', 'siemens', 'philips', 'ge', 'ge')
    for number, ((code, text), vendor) in enumerate(zip(TEXTS.items(), vendors, strict=True), 1):
        for path in scan(tmp_path / 'source' / str(number), number=number, vendor=vendor,
                         seed=number):  # fmt: skip
            dataset = pydicom.dcmread(path)
            dataset.SpecificCharacterSet = ['', code] if '2022' in code else code or 'ISO_IR 100'
            dataset.SeriesDescription = dataset.ProtocolName = text
            dataset.save_as(path)
            if not code:
                raw = path.read_bytes()
                assert b'ISO_IR 100' in raw
                path.write_bytes(raw.replace(b'ISO_IR 100', b'          '))
    assert convert('source', 'bids') == 0
    found = rows()
    for number, text in enumerate(TEXTS.values(), 1):
        row = found[str(number)]
        assert (row['decision'], row['description']) == ('converted', text)
        sidecar = (tmp_path / 'bids' / row['output'].replace('.nii.gz', '.json')).read_bytes()
        assert json.loads(sidecar)['SeriesDescription'] == text


def test_file_names_that_are_no_utf8(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    odd = Path(os.fsdecode(b'M\xfcller'))
    for number, path in enumerate(scan(tmp_path / odd / 'source')):
        path.rename(path.with_name(os.fsdecode(b'Sch\xe4del%d' % number)))
    (tmp_path / odd / 'source' / os.fsdecode(b'\xff.txt')).write_text('x')
    (tmp_path / odd / 'source' / os.fsdecode(b'\xfe.lnk')).symlink_to('nowhere')
    assert convert(odd / 'source', 'bids') == 1  # for the broken link
    assert len(list((tmp_path / 'bids').rglob('*.nii.gz'))) == 1
    assert 'datalad get' in capsys.readouterr().err
    shown = next((tmp_path / 'bids-private').rglob('sources.tsv')).read_text(encoding='utf-8')
    assert 'Sch\\xe4del3' in shown
    before = contents(tmp_path / 'bids')
    assert convert(odd / 'source', 'bids') == 1
    assert contents(tmp_path / 'bids') == before


# ------------------------------------------------------------------------------- not lost


def test_files_that_cannot_be_read_set_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scan(tmp_path / 'source')
    (tmp_path / 'source' / 'annex').symlink_to('../.git/annex/objects/x')
    (tmp_path / 'source' / 'archive.zip').write_bytes(b'PK\x03\x04 nothing of the kind')
    (tmp_path / 'source' / 'IM0099.dcm').touch()  # the last slice, lost in a copy: no gap
    assert convert('source', 'bids') == 1
    shown = capsys.readouterr().err
    assert '3 files could not be read' in shown
    assert '1 × broken link' in shown
    assert '1 × named as DICOM, but empty' in shown
    assert rows()['2']['decision'] == 'converted'


def test_raw_data_and_spectra_are_no_images_and_no_damage(tmp_path: Path) -> None:
    for kind in ('1.2.840.10008.5.1.4.1.1.66', '1.3.46.670589.11.0.0.12.1'):
        path = scan(tmp_path)[0]
        dataset = pydicom.dcmread(path)
        del dataset.PixelData
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
        dataset.save_as(path)
        header = read_header(path)
        assert isinstance(header, Header)
        assert header.reason == 'no image (MR)'


def test_a_program_error_in_one_series_is_its_failure_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mslesseg_app.dicom.convert import conversion, heuristic, series

    scan(tmp_path / 'source' / '1', 'T1w', number=1)
    for number in (2, 3, 4):
        scan(tmp_path / 'source' / str(number), number=number, seed=number)

    def spoil(module: Any, name: str, number: int, place: Callable[..., int]) -> None:
        plain = getattr(module, name)

        def failing(*arguments: Any) -> Any:
            if place(*arguments) == number:
                raise ZeroDivisionError
            return plain(*arguments)

        monkeypatch.setattr(module, name, failing)

    spoil(series, '_parts', 2, lambda found: found[0]['number'])
    spoil(heuristic, '_sequence_info', 3, lambda _, item, *__: item.number)
    read = pydicom.dcmread
    spoil(conversion, '_convert', 4, lambda _, files, __: read(files[0]).SeriesNumber)
    assert convert('source', 'bids') == 1
    found = rows()
    assert [found[n]['decision'] for n in '1234'] == ['converted', *['failed'] * 3]
    assert all('ZeroDivisionError' in found[n]['reason'] for n in '234')


# ------------------------------------------------------------------------------ verification


@pytest.fixture
def pair(tmp_path: Path) -> tuple[nb.Nifti1Image, list[str]]:
    return head(0), [str(path) for path in scan(tmp_path / 'dicom')]


def verify(image: nb.Nifti1Image, files: list[str]) -> None:
    nb.save(image, 'x.nii')
    verify_image(Path('x.nii'), files)


def test_an_image_of_the_series_passes_in_any_storage_order(
    pair: tuple[nb.Nifti1Image, list[str]],
) -> None:
    image, files = pair
    verify(image, files)
    verify(nb.as_closest_canonical(image), files[::-1])


def test_another_image_is_refused(pair: tuple[nb.Nifti1Image, list[str]]) -> None:
    image, files = pair
    data = np.asanyarray(image.dataobj)
    shifted, stretched = image.affine.copy(), image.affine.copy()
    shifted[:3, 3] += image.affine[:3, 2] * 0.05
    stretched[:3, 2] *= 1.02
    swapped = data.copy()
    swapped[..., [3, 4]] = data[..., [4, 3]]
    for wrong, message in (
        (nb.Nifti1Image(data[..., :-1], image.affine), 'its grid is'),
        (nb.Nifti1Image(data, shifted), 'lies elsewhere'),
        (nb.Nifti1Image(data, stretched), 'lies elsewhere'),
        (nb.Nifti1Image(swapped, image.affine), '2 slices lie elsewhere'),
        (nb.Nifti1Image(data[:, ::-1].copy(), image.affine), '14 slices lie elsewhere'),
    ):
        with pytest.raises(DataError, match=message):
            verify(wrong, files)


def test_an_image_without_sidecar_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mslesseg_app.dicom.convert import conversion

    plain = conversion._convert

    def lose(task: Any, files: list[str], stage: Path) -> None:
        plain(task, files, stage)
        for path in stage.rglob('*.json'):
            path.unlink()

    scan(tmp_path / 'source', study=FIRST)
    monkeypatch.setattr(conversion, '_convert', lose)
    assert convert('source', 'bids') == 1
    assert 'without its sidecar' in rows()['2']['reason']
