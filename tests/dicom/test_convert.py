"""The whole way: DICOM series in, a BIDS dataset without anybody's name out."""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import nibabel as nb
import numpy as np
import pydicom
import pytest
from scanner import ANNA, BERT, FIRST, SECOND, contents, head, scan, states

from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import AlignmentError
from mslesseg_app.demo.dicom import DemoStudy, Patient


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(*arguments: object, deface: bool = False) -> int:
    options = ['--deface' if deface else '--no-deface', '--nprocs', '1']
    try:
        return main(['convert', *map(str, arguments), *options])
    except SystemExit as error:
        return int(error.code or 0)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding='utf-8') as stream:
        return list(csv.DictReader(stream, delimiter='\t'))


def validated(bids: Path) -> list[str]:
    """Errors of the BIDS validator."""
    command = [str(Path(sys.executable).with_name('bids-validator-deno')), '--json', str(bids)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)['issues']['issues']
    return [f'{i["code"]} {i.get("location")}' for i in issues if i['severity'] == 'error']


def by_dcm2niix(files: Path, out: Path) -> nb.Nifti1Image:
    """What dcm2niix alone makes of a folder."""
    out.mkdir()
    command = [shutil.which('dcm2niix') or '', '-z', 'y', '-f', 'x', '-o', str(out), str(files)]
    subprocess.run(command, check=True, capture_output=True)
    (image,) = out.glob('*.nii.gz')
    return nb.load(image)


def assert_same_image(one: nb.Nifti1Image, other: nb.Nifti1Image) -> None:
    np.testing.assert_array_equal(np.asanyarray(one.dataobj), np.asanyarray(other.dataobj))
    for field in (
        'qoffset_x',
        'quatern_b',
        'quatern_c',
        'quatern_d',
        'srow_x',
        'srow_y',
        'srow_z',
    ):
        np.testing.assert_array_equal(one.header[field], other.header[field])
    for field in ('dim', 'pixdim', 'datatype', 'scl_slope', 'scl_inter', 'xyzt_units'):
        np.testing.assert_array_equal(one.header[field], other.header[field])


# -------------------------------------------------------------------------- the plain way


@pytest.fixture(scope='module')
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two patients, one of them twice, in one folder; converted once for several tests."""
    place = tmp_path_factory.mktemp('study')
    source = place / 'source'
    for patient, session, seed in ((ANNA, FIRST, 0), (BERT, FIRST, 10), (ANNA, SECOND, 20)):
        for number, kind in enumerate(('FLAIR', 'T1w', 'T2w'), 2):
            scan(source / str(seed), kind, patient=patient, study=session, number=number,
                 seed=seed + number, PatientAge='041Y')  # fmt: skip
    scan(source / '0', number=1, description='localizer')
    before = states(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert convert(source, 'bids') == 0
    assert states(source) == before
    return source, place / 'bids'


def test_the_dataset_is_valid_and_tells_nothing(study: tuple[Path, Path]) -> None:
    _, bids = study
    assert validated(bids) == []
    assert main(['convert', '--check', str(bids)]) == 0


def test_every_series_is_where_it_belongs(study: tuple[Path, Path]) -> None:
    _, bids = study
    rows = table(bids / 'series.tsv')
    assert len(rows) == 10
    assert {row['participant_id'] for row in rows} == {'sub-001', 'sub-002'}
    left = [row for row in rows if row['decision'] != 'converted']
    assert [row['description'] for row in left] == ['localizer']
    assert 'localizer' in left[0]['reason']
    for row in rows:
        if row['decision'] == 'converted':
            suffix = {'2': 'FLAIR', '3': 'T1w', '4': 'T2w'}[row['series_number']]
            assert row['output'].endswith(f'_{suffix}.nii.gz')
            assert (bids / row['output']).is_file()
    images = {path.relative_to(bids).as_posix() for path in bids.rglob('*.nii.gz')}
    assert images == {row['output'] for row in rows} - {'n/a'}


def test_images_are_those_of_the_scanner(study: tuple[Path, Path]) -> None:
    _, bids = study
    seeds = {}
    for path in bids.rglob('*.nii.gz'):
        image = nb.load(path)
        data = np.sort(np.asanyarray(image.dataobj), axis=None)
        seed = next(s for s in range(30) if np.array_equal(data, np.sort(head(s).dataobj, None)))
        seeds[path.name] = seed
        truth = nb.as_closest_canonical(head(seed))
        mine = nb.as_closest_canonical(image)
        np.testing.assert_array_equal(mine.dataobj, truth.dataobj)
        np.testing.assert_allclose(mine.affine, truth.affine, atol=1e-4)
    assert len(set(seeds.values())) == 9


def test_dates_are_shifted_and_intervals_kept(study: tuple[Path, Path]) -> None:
    _, bids = study
    sessions = table(bids / 'sub-001' / 'sub-001_sessions.tsv')
    days = [dt.datetime.fromisoformat(row['acq_time']) for row in sessions]
    assert days[1] - days[0] == dt.timedelta(days=(SECOND.date - FIRST.date).days)
    assert all(day.year < 1925 for day in days)
    for row, day in zip(sessions, days, strict=True):
        assert row['session_id'] == f'ses-{day:%Y%m%d}'
        scans = table(next((bids / 'sub-001' / row['session_id']).glob('*_scans.tsv')))
        assert {scan['acq_time'] for scan in scans} == {row['acq_time']}
        assert all((bids / 'sub-001' / row['session_id'] / s['filename']).is_file() for s in scans)
    assert table(bids / 'participants.tsv') == [
        {'participant_id': 'sub-001', 'age': '41', 'sex': 'F'},
        {'participant_id': 'sub-002', 'age': '41', 'sex': 'M'},
    ]


def test_gzip_and_headers_hold_no_names_and_times(study: tuple[Path, Path]) -> None:
    _, bids = study
    for path in bids.rglob('*.nii.gz'):
        raw = path.read_bytes()
        assert raw[:2] == b'\x1f\x8b'
        assert raw[3] == 0  # neither name nor comment
        assert raw[4:8] == bytes(4)
        header = nb.load(path).header
        assert [bytes(header[key].tobytes()).strip(b'\0') for key in ('descrip', 'aux_file')] == [
            b'',
            b'',
        ]


def test_who_is_who_is_kept_for_the_owner_only(study: tuple[Path, Path]) -> None:
    _, bids = study
    private = bids.parent / 'bids-private'
    for path in [private, *private.rglob('*')]:
        assert path.stat().st_mode & 0o077 == 0, path
    text = ''.join(p.read_text() for p in private.rglob('sources.tsv'))
    assert 'ID-4711' in text
    assert str(study[0]) in text
    assert (bids.parent / 'work' / 'dicom').stat().st_mode & 0o777 == 0o700


def test_nothing_identified_is_left_in_the_work_folder(study: tuple[Path, Path]) -> None:
    work = study[1].parent / 'work'
    assert [
        p.name
        for p in work.rglob('*')
        if p.is_file() and 'index' not in p.name and p.stat().st_size
    ] == []


def test_a_second_run_does_nothing(
    study: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, bids = study
    before = states(bids)
    monkeypatch.chdir(bids.parent)
    monkeypatch.setattr(
        'mslesseg_app.dicom.convert.run.convert_series', lambda _: pytest.fail('it ran')
    )
    assert convert(source, 'bids') == 0
    assert states(bids) == before


def test_parallel_is_serial(study: tuple[Path, Path], tmp_path: Path) -> None:
    source, bids = study
    shutil.copytree(bids.parent / 'bids-private', 'bids-private')
    shutil.rmtree('bids-private/subjects-bids')
    code = main(['convert', str(source), 'bids', '--no-deface', '--nprocs', '2', '-q'])
    assert code == 0
    assert contents(tmp_path / 'bids') == contents(bids)


def test_archives_give_the_same_bytes(study: tuple[Path, Path], tmp_path: Path) -> None:
    source, bids = study
    with tarfile.open('study.tgz', 'w:gz') as tar:
        tar.add(source, 'study')
    shutil.copytree(bids.parent / 'bids-private', 'bids-private')
    shutil.rmtree('bids-private/subjects-bids')
    assert convert('study.tgz', 'bids') == 0
    assert contents(tmp_path / 'bids') == contents(bids)
    assert not (tmp_path / 'work' / 'dicom' / 'archives').exists()


# ----------------------------------------------------------------------------------- faces


def test_a_series_whose_face_stays_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise AlignmentError('no head in it')

    scan(tmp_path / 'source')
    monkeypatch.setattr('mslesseg_app.reports.defacing.deface_with_figure', fail)
    assert convert('source', 'bids', deface=True) == 1
    assert not list((tmp_path / 'bids').rglob('*.nii.gz'))
    assert 'could not be removed: no head in it' in capsys.readouterr().err
    (row,) = table(tmp_path / 'bids' / 'series.tsv')
    assert (row['decision'], row['output']) == ('failed', 'n/a')
    assert convert('source', 'bids') == 0


def test_the_readme_and_the_table_report_what_became_of_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deface(path: Path, *_: object) -> str:
        path.write_bytes(path.read_bytes()[:-8] + bytes(8))
        return ''

    monkeypatch.setattr('mslesseg_app.reports.defacing.deface_with_figure', deface)
    scan(tmp_path / 'source')
    readme = tmp_path / 'bids' / 'README.md'
    assert convert('source', 'bids', deface=True) == 0
    assert 'Faces were removed from all images' in readme.read_text()
    scan(tmp_path / 'more', patient=BERT)
    assert convert('more', 'bids') == 0
    assert 'NOT removed from 1 of 2 images' in ' '.join(readme.read_text().split())
    faces = [row['face'] for row in table(tmp_path / 'bids' / 'series.tsv')]
    assert sorted(faces) == ['kept', 'removed']
    readme.write_text('my own words')
    assert convert('more', 'bids') == 0
    assert readme.read_text() == 'my own words'


@pytest.mark.slow
def test_faces_are_removed(tmp_path: Path) -> None:
    from scanner import KINDS

    from mslesseg_app.demo.dicom import write_series
    from mslesseg_app.demo.phantom import make_phantom
    from mslesseg_app.demo.phantom import scan as scanned
    from mslesseg_app.demo.protocols import session_protocols

    image = scanned(make_phantom(1, 2.0), session_protocols(1, 2.0)['T1w'], 1)
    write_series(
        nb.Nifti1Image(np.asanyarray(image.dataobj).astype('i2'), image.affine),
        tmp_path / 'source',
        vendor='siemens',
        patient=ANNA,
        study=FIRST,
        number=2,
        description='t1_mprage_sag',
        sidecar=KINDS['T1w'],
    )
    assert convert('source', 'bids', deface=True) == 0
    assert convert('source', 'faces') == 0
    (after,) = (nb.load(path) for path in (tmp_path / 'bids').rglob('*.nii.gz'))
    (before,) = (nb.load(path) for path in (tmp_path / 'faces').rglob('*.nii.gz'))
    old, new = np.asanyarray(before.dataobj), np.asanyarray(after.dataobj)
    gone = new != old
    assert 0.01 < gone.mean() < 0.3
    assert not new[gone].any()
    np.testing.assert_array_equal(before.affine, after.affine)
    (picture,) = (tmp_path / 'bids-private').rglob('*.png')
    assert picture.stat().st_mode & 0o077 == 0
    assert not list((tmp_path / 'bids').rglob('*.png'))


# -------------------------------------------------------------------------- interruptions


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    study: tuple[Path, Path], tmp_path: Path, project_root: Path
) -> None:
    source, bids = study
    shutil.copytree(bids.parent / 'bids-private', 'bids-private')
    shutil.rmtree('bids-private/subjects-bids')
    command = [sys.executable, '-m', 'mslesseg_app', 'convert', str(source), 'bids', '--no-deface',
               '--nprocs', '1']  # fmt: skip
    environment = {**os.environ, 'PYTHONPATH': str(project_root)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(Path('bids').rglob('*.nii.gz')) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(list(Path('bids').rglob('*.nii.gz')))
    assert 0 < done < 9
    assert convert(source, 'bids') == 0
    assert contents(tmp_path / 'bids') == contents(bids)
    assert [p.name for p in Path('bids').rglob('.*') if p.name != '.bidsignore'] == []


def test_two_conversions_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from mslesseg_app.dicom.deidentify.private_records import alone

    scan(tmp_path / 'source')
    (tmp_path / 'bids-private').mkdir(mode=0o700)
    with alone(tmp_path / 'work' / 'dicom'):
        assert convert('source', 'bids') == 75
    with alone(tmp_path / 'bids-private' / 'subjects-bids'):
        assert convert('source', 'bids') == 75
    assert 'Another conversion' in capsys.readouterr().err


# ------------------------------------------------------------------------ existing datasets


def test_an_ordinary_user_converts(tmp_path: Path) -> None:
    without = ['setpriv', '--inh-caps=-all', '--bounding-set=-dac_override,-dac_read_search']
    if os.geteuid() == 0 and shutil.which('setpriv') is None:
        pytest.skip('root may write everything, and there is no setpriv to take that right away')
    rights = without if os.geteuid() == 0 else []
    scan(tmp_path / 'source')
    command = [sys.executable, '-m', 'mslesseg_app', 'convert', 'source', 'bids', '--no-deface']
    done = subprocess.run([*rights, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / 'bids').rglob('*_FLAIR.nii.gz'))


def test_a_later_study_is_added(tmp_path: Path) -> None:
    scan(tmp_path / 'one')
    scan(tmp_path / 'two', study=SECOND, seed=5)
    assert convert('one', 'bids') == 0
    before = states(tmp_path / 'bids')
    assert convert('two', 'bids') == 0
    after = states(tmp_path / 'bids')
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {'README.md', 'series.tsv', 'sub-001/sub-001_sessions.tsv'}
    assert len(table(tmp_path / 'bids/sub-001/sub-001_sessions.tsv')) == 2
    assert len(table(tmp_path / 'bids/series.tsv')) == 2
    assert len(list((tmp_path / 'bids').glob('sub-*'))) == 1


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scan(tmp_path / 'source')
    scan(tmp_path / 'source', 'T1w', number=3, seed=3)
    assert convert('source', 'bids', '--session-from', 'none') == 0
    path = next((tmp_path / 'bids').rglob('*_FLAIR.nii.gz'))
    path.write_bytes(b'mine')
    assert convert('source', 'bids', '--session-from', 'none') == 1
    assert path.read_bytes() == b'mine'
    assert 'there already' in capsys.readouterr().err
    (row,) = [r for r in table(tmp_path / 'bids/series.tsv') if r['decision'] == 'failed']
    assert 'nothing is overwritten' in row['reason']
    path.unlink()
    assert convert('source', 'bids', '--session-from', 'none') == 0
    assert {r['decision'] for r in table(tmp_path / 'bids/series.tsv')} == {'converted'}


def test_subjects_from_elsewhere_are_not_mixed_up(tmp_path: Path) -> None:
    (tmp_path / 'bids' / 'sub-001').mkdir(parents=True)
    scan(tmp_path / 'source')
    assert convert('source', 'bids') == 0
    assert list((tmp_path / 'bids').glob('sub-002/ses-*/anat/*_FLAIR.nii.gz'))
    assert not list((tmp_path / 'bids' / 'sub-001').iterdir())
    scan(tmp_path / 'more', patient=BERT)
    assert convert('more', 'other', '--subject-map', 'map/s.json') == 0
    assert convert('more', 'bids', '--subject-map', 'map/s.json') == 64


def test_one_patient_id_for_several_people_is_told(tmp_path: Path) -> None:
    scan(tmp_path / 'source/a')
    twin = Patient('Muster^Eva', ANNA.patient_id, dt.date(1990, 1, 1), 'F')
    scan(tmp_path / 'source/b', patient=twin, study=SECOND)
    assert convert('source', 'bids') == 0
    rows = table(tmp_path / 'bids' / 'series.tsv')
    assert ['several dates of birth' in row['remarks'] for row in rows] == [True, True]


def test_sessions_by_order_and_runs_of_one_day(tmp_path: Path) -> None:
    scan(tmp_path / 'source/a')
    again = DemoStudy(FIRST.date, dt.time(11), 'repeat')
    scan(tmp_path / 'source/b', study=again, seed=1)
    scan(tmp_path / 'source/c', study=SECOND, seed=2)
    assert convert('source', 'bids', '--session-from', 'order', '--subject', 'sub-X7') == 0
    names = sorted(p.name for p in (tmp_path / 'bids').rglob('*.nii.gz'))
    assert [name.split('_')[:2] for name in names] == [['sub-X7', 'ses-1']] * 2 + [
        ['sub-X7', 'ses-2']
    ]
    assert ['run-01' in names[0], 'run-02' in names[1]] == [True, True]
    assert validated(tmp_path / 'bids') == []


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    scan(tmp_path / 'source')
    assert convert('source', 'bids', '--dry-run') == 0
    assert not (tmp_path / 'bids').exists()
    assert not (tmp_path / 'bids-private').exists()
    assert 'would become sub-001_ses-' in capsys.readouterr().out


# --------------------------------------------------------------------------------- vendors


@pytest.mark.parametrize('vendor', ['siemens', 'ge', 'philips', 'enhanced'])
def test_vendors_with_every_trap(tmp_path: Path, vendor: str) -> None:
    source = tmp_path / 'source'
    for number, kind in enumerate(('FLAIR', 'T1w', 'T2w'), 2):
        scan(source / kind, kind, vendor=vendor, number=number, seed=number)
    shutil.copytree(source / 'FLAIR', source / 'copy')
    (source / 'report.pdf').write_text('Anna Muster')
    scan(source / 'T1w', 'T1w', vendor=vendor, number=3, seed=9, first_instance=201,
         description='t1_mprage +KM')  # fmt: skip
    if vendor != 'enhanced':
        sorted((source / 'T2w').iterdir())[6].unlink()
    uid = pydicom.dcmread(next((source / 'T1w').iterdir())).SeriesInstanceUID
    for path in (source / 'T1w').iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = uid
        dataset.save_as(path)
    holes = vendor != 'enhanced'
    assert convert('source', 'bids', '--session-from', 'none') == holes
    bids = tmp_path / 'bids'
    assert validated(bids) == []
    assert main(['convert', '--check', str(bids)]) == 0
    images = {path.name for path in bids.rglob('*.nii.gz')}
    assert images == {
        'sub-001_acq-2D_FLAIR.nii.gz',
        'sub-001_acq-3D_T1w.nii.gz',
        'sub-001_acq-3D_ce-gadolinium_T1w.nii.gz',
        *([] if holes else ['sub-001_acq-2D_T2w.nii.gz']),
    }
    remarks = {
        row['output'].rpartition('_')[2]: row['remarks'] for row in table(bids / 'series.tsv')
    }
    assert 'duplicate file' in remarks['FLAIR.nii.gz']
    assert 'under one UID' in remarks['T1w.nii.gz']
    if holes:
        (row,) = [r for r in table(bids / 'series.tsv') if r['decision'] == 'failed']
        assert row['reason'] == '1 slice is missing between the others'
    plain = by_dcm2niix(source / 'copy', tmp_path / 'plain')
    assert_same_image(nb.load(next(bids.rglob('*_FLAIR.nii.gz'))), plain)


def test_two_echoes_of_one_multiframe_file(tmp_path: Path) -> None:
    (path,) = scan(tmp_path / 'source', 'T2w', vendor='enhanced', description='assiale DP-T2')
    dataset = pydicom.dcmread(path)
    frames = dataset.PerFrameFunctionalGroupsSequence
    shared = dataset.SharedFunctionalGroupsSequence[0]
    del shared.MREchoSequence
    made = []
    for time_ms in (15.0, 100.0):
        for number, frame in enumerate(frames):
            copy = pydicom.Dataset()
            copy.update(
                {element.tag: element for element in pydicom.Dataset.from_json(frame.to_json())}
            )
            item = pydicom.Dataset()
            item.EffectiveEchoTime = time_ms
            copy.MREchoSequence = [item]
            copy.FrameContentSequence[0].DimensionIndexValues = [1, number + 1, 1 + (time_ms > 50)]
            made.append(copy)
    index = pydicom.Dataset()
    index.update(dataset.DimensionIndexSequence[0])
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00189082, 0x00189114
    dataset.DimensionIndexSequence = [*dataset.DimensionIndexSequence, index]
    dataset.PerFrameFunctionalGroupsSequence = made
    dataset.NumberOfFrames = len(made)
    dataset.PixelData = dataset.PixelData * 2
    dataset.save_as(path)
    assert convert('source', 'bids', '--session-from', 'none') == 0
    suffixes = {p.name.split('_')[-1]: p for p in (tmp_path / 'bids').rglob('*.nii.gz')}
    assert set(suffixes) == {'PDw.nii.gz', 'T2w.nii.gz'}
    for suffix, seconds in (('PDw', 0.015), ('T2w', 0.1)):
        sidecar = suffixes[f'{suffix}.nii.gz'].with_suffix('').with_suffix('.json')
        assert json.loads(sidecar.read_text())['EchoTime'] == pytest.approx(seconds)


# ---------------------------------------------------------------------------- ill will


HOSTILE = [
    Patient('../../../evil^Name', '../../evil'),
    Patient('$(touch evil)^`touch evil`', '; touch evil #'),
    Patient('-rf /^--help', '--check'),
    Patient('a\\b^c%s%d{0}', "'; drop table files; --"),
]


@pytest.mark.parametrize('patient', HOSTILE, ids=str)
def test_hostile_names_are_only_names(tmp_path: Path, patient: Patient) -> None:
    scan(tmp_path / 'in' / 'source', patient=patient, description='flair $(touch evil) ../../evil')
    assert convert('in/source', 'in/bids') == 0
    assert list(tmp_path.rglob('*evil*')) == []
    assert {p.name for p in tmp_path.iterdir()} == {'in', 'work'}
    (image,) = (tmp_path / 'in/bids').rglob('*.nii.gz')
    assert image.name.startswith('sub-001_ses-')


PLACES = (
    'PatientComments',
    'OtherPatientNames',
    'ImageComments',
    'OperatorsName',
    'PerformingPhysicianName',
    'NameOfPhysiciansReadingStudy',
    'InstitutionAddress',
    'InstitutionalDepartmentName',
    'DeviceSerialNumber',
    'RequestedProcedureDescription',
    'PerformedProcedureStepDescription',
    'StudyComments',
    'AdmittingDiagnosesDescription',
    'AdditionalPatientHistory',
    'Occupation',
    'PatientMotherBirthName',
    'ContrastBolusAgent',
    'AcquisitionComments',
    'FrameComments',
)


def test_planted_identifiers_never_arrive(tmp_path: Path) -> None:
    """Thirty places of the headers, the names of files and folders, and a report between."""
    planted = [f'Zq{number:02}Xylophonist{number:02}' for number in range(40)]
    words = iter(planted)
    used: list[str] = []

    def word() -> str:
        used.append(next(words))
        return used[-1]

    patient = Patient(f'{word()}^{word()}', word(), address=word(), telephone=word())
    visit = DemoStudy(FIRST.date, FIRST.time, word(), word(), word(), word(), word()[:16])
    used[-1] = used[-1][:16]
    folder = tmp_path / 'source' / word()
    fields = {name: word() for name in PLACES}
    paths = scan(folder, patient=patient, study=visit, **fields)
    inside = word()
    for path in paths:
        dataset = pydicom.dcmread(path)
        item = pydicom.Dataset()
        item.PatientName, item.RequestedProcedureComments = inside, inside
        dataset.RequestAttributesSequence = [item]
        private = dataset.private_block(0x0029, 'SOME VENDOR', create=True)
        private.add_new(0x10, 'LO', inside)
        private.add_new(0x11, 'OB', inside.encode() + b'\0')
        dataset.add_new(0x60004000, 'LT', inside)
        dataset.SeriesDescription = f't2_tirm_dark-fluid {used[0]}'
        dataset.save_as(path)
        path.rename(path.with_name(f'{used[0]}-{path.name}'))
    assert len(used) >= 30
    assert convert('source', 'bids') == 0
    assert list((tmp_path / 'bids').rglob('*_FLAIR.nii.gz'))
    assert main(['convert', '--check', 'bids']) == 0
    import gzip

    wanted = [text.lower().encode() for text in (*used, '20210506', '19800203')]
    for path in (tmp_path / 'bids').rglob('*'):
        name = path.relative_to(tmp_path).as_posix().lower().encode()
        raw = path.read_bytes() if path.is_file() else b''
        raw += gzip.decompress(raw) if path.suffix == '.gz' else b''
        raw += raw.replace(b'\0', b'')  # UTF-16
        assert [text for text in wanted if text in name or text in raw.lower()] == [], path


def test_check_finds_what_was_put_there_afterwards(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scan(tmp_path / 'source')
    assert convert('source', 'bids') == 0
    (tmp_path / 'bids' / 'CHANGES').write_text('Frau Muster called')
    assert main(['convert', '--check', 'bids']) == 1
    shown = capsys.readouterr()
    assert 'CHANGES' in shown.err
    assert 'Muster' not in shown.err + shown.out


def test_check_uses_the_map_for_derivatives_and_the_whole_output(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """As ``mslesseg run`` lays it out: the map lies beside OUT_DIR, not beside the dataset."""
    scan(tmp_path / 'source')
    assert convert('source', 'out/rawdata', '--subject-map', 'out-private/subjects.json') == 0
    log = tmp_path / 'out' / 'derivatives' / 'mslesseg' / 'logs' / 'run.toml'
    log.parent.mkdir(parents=True)
    log.write_text("command = 'mslesseg run x'\n")
    for folder in ('out', 'out/derivatives/mslesseg', 'out/rawdata'):
        assert main(['convert', '--check', folder]) == 0, folder
    log.write_text("command = 'mslesseg run /archive/MUSTER_ANNA'\n")
    for folder, code in (('out', 1), ('out/derivatives/mslesseg', 1), ('out/rawdata', 0)):
        assert main(['convert', '--check', folder]) == code, folder
    (tmp_path / 'out-private').rename(tmp_path / 'elsewhere')
    capsys.readouterr()
    for folder in ('out', 'out/derivatives/mslesseg'):
        assert main(['convert', '--check', folder]) == 66
    shown = capsys.readouterr()
    assert 'nothing' not in shown.out
    assert '--subject-map' in shown.err
    assert main(['convert', '--check', 'out', '--subject-map', 'elsewhere/subjects.json']) == 1


# ------------------------------------------------------------------------------ exit codes


def test_exit_codes_of_sources(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'texts').mkdir()
    (tmp_path / 'texts/a.txt').write_text('x')
    scan(tmp_path / 'ct', Modality='CT')
    scan(tmp_path / 'loc', description='localizer')
    assert convert('absent', 'bids') == 66
    assert convert('empty', 'bids') == 66
    assert convert('texts', 'bids') == 66
    assert convert('ct', 'bids') == 65
    assert convert('loc', 'bids') == 65
    assert '1 × no DICOM' in capsys.readouterr().err
    assert not (tmp_path / 'bids').exists()


def test_exit_codes_of_places(tmp_path: Path) -> None:
    scan(tmp_path / 'source')
    (tmp_path / 'file').touch()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/thesis.txt').touch()
    assert convert('source', 'source/bids') == 64
    assert convert('source', 'source') == 64
    assert convert('source', 'bids', '-w', 'source/work') == 64
    assert convert('source', 'bids', '-w', 'bids/work') == 64
    assert convert('source', 'bids', '--subject-map', 'source/map/s.json') == 64
    assert convert('source', 'bids', '--subject-map', 'bids/s.json') == 64
    assert convert('source', 'other') == 73
    assert convert('source', 'bids', '-w', 'file/work') == 73
    assert convert('source', 'file/bids') == 73
    assert states(tmp_path / 'source') == states(tmp_path / 'source')


def test_exit_codes_of_patients(tmp_path: Path) -> None:
    scan(tmp_path / 'source')
    scan(tmp_path / 'source/b', patient=BERT)
    assert convert('source', 'bids', '--subject', 'X') == 64
    scan(tmp_path / 'source/c', study=SECOND)
    assert convert('source', 'bids', '--session-from', 'none') == 64


def test_a_series_that_dcm2niix_cannot_read_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scan(tmp_path / 'source')
    for path in scan(tmp_path / 'source', 'T1w', number=3, seed=1):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = '1.2.840.10008.1.2.4.90'
        raw = b'\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x08\x00\x00\x00nojpeg2k'
        dataset.PixelData = raw + b'\xfe\xff\xdd\xe0\x00\x00\x00\x00'
        dataset['PixelData'].is_undefined_length = True
        dataset.save_as(path)
    assert convert('source', 'bids') == 1
    assert len(list((tmp_path / 'bids').rglob('*.nii.gz'))) == 1
    assert 'Traceback' not in capsys.readouterr().err


@pytest.mark.parametrize(
    'content', ['x = 1', 'def infotodict(s): 1 / 0', 'import nothing_of_this', '(']
)
def test_heuristics_that_are_none(tmp_path: Path, content: str) -> None:
    scan(tmp_path / 'source')
    path = tmp_path / f'heuristic_{abs(hash(content))}.py'
    path.write_text(content)
    assert convert('source', 'bids', '--heuristic', path) == 64
    assert convert('source', 'bids', '--heuristic', 'absent.py') == 66


def test_a_heuristic_of_ones_own(tmp_path: Path) -> None:
    scan(tmp_path / 'source')
    (tmp_path / 'own_heuristic.py').write_text(
        'def infotodict(seqinfo):\n'
        "    key = ('sub-{subject}/{session}/anat/sub-{subject}_{session}_acq-own_FLAIR',\n"
        "           ('nii.gz', 'dicom'), None)\n"
        '    return {key: [s.series_id for s in seqinfo]}\n'
    )
    assert convert('source', 'bids', '--heuristic', 'own_heuristic.py') == 0
    assert len(list((tmp_path / 'bids').rglob('*_acq-own_FLAIR.nii.gz'))) == 1
    assert not (tmp_path / 'bids/sourcedata').exists()


def test_reproin_names(tmp_path: Path) -> None:
    scan(tmp_path / 'source', 'T1w', description='anat-T1w_acq-mprage')
    assert convert('source', 'bids', '--heuristic', 'reproin') == 0
    (image,) = (tmp_path / 'bids').rglob('*.nii.gz')
    assert image.name.endswith('_acq-mprage_T1w.nii.gz')


# ------------------------------------------------------------------------------- real data


@pytest.mark.realdata
@pytest.mark.slow
def test_real_series_are_those_of_dcm2niix(tmp_path: Path, real_data: Path) -> None:
    archives = sorted((real_data / 'dicom-t1').glob('*.tgz'))
    assert convert(*archives, 'bids') == 0
    bids = tmp_path / 'bids'
    assert validated(bids) == []
    assert main(['convert', '--check', str(bids)]) == 0
    for archive in archives:
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path / 'plain' / archive.stem, filter='data')
    folders = {
        path.parent
        for path in (tmp_path / 'plain').rglob('*')
        if path.is_file() and path.suffix != '.json'
    }
    plain = [by_dcm2niix(folder, tmp_path / f'o{n}') for n, folder in enumerate(sorted(folders))]
    ours = [nb.load(path) for path in bids.rglob('*_T1w.nii.gz')]
    assert len(ours) == len(plain) == 4
    sums = {int(np.asanyarray(image.dataobj).astype('i8').sum()): image for image in ours}
    for image in plain:
        assert_same_image(sums[int(np.asanyarray(image.dataobj).astype('i8').sum())], image)
    rows = table(bids / 'series.tsv')
    assert {row['vendor'] for row in rows} == {'GE', 'Siemens', 'n/a'}
    absent = next(row for row in rows if row['vendor'] == 'n/a')
    assert 'name' in absent['reason']
