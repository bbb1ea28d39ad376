"""A release in MSLesSeg's exact layout, with all its quirks, into BIDS; and other layouts."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.bids.public.dataset import import_release
from mslesseg_app.bids.public.layouts import KNOWN, read_release
from mslesseg_app.bids.validation import find_validator
from mslesseg_app.cli.dataset_import import LAYOUTS
from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError, NoInputError, OutputError

SHAPE = (14, 15, 13)
AFFINE = np.array([[-1, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1.0]])
CLINICAL = """Patient;Timepoint;Sex;Age;MS Type;EDSS;Lesion Number;Lesion Volume;
P1;T1;M;34,5;SMRR;1,5;;24.0;1
P1;T2;M;35,5;SMRR;2,0;;24;1
P18;T1;F;40,1;SMSP;4;;24;1
NONE;NONE;NONE;NONE;NONE;NONE;NONE;NONE;NONE
P54;T1;F;36,4;SMPP;2;;919;4
P77;T1;M;50,0;SMRR;6,5;;24;1
"""
SCANNER = """Patient;Timepoint;Rows;Columns;Slice Thickness;Repetition Time;Echo Time
P1;T2;256;512;3;9000;120
P18;T1;NONE;NONE;NONE;NONE;NONE
"""


def write(path: Path, data: np.ndarray, code: int = 4, affine: np.ndarray = AFFINE) -> None:
    image = nb.Nifti1Image(data.astype(np.float32), affine)
    image.set_qform(affine, code)
    image.set_sform(affine, code)
    image.header.set_xyzt_units('mm')
    path.parent.mkdir(parents=True, exist_ok=True)
    nb.save(image, path)


def lesion() -> np.ndarray:
    mask = np.zeros(SHAPE)
    mask[4:8, 5:8, 6:8] = 1
    return mask


def write_case(folder: Path, stem: str, seed: int, modalities: str = 'FLAIR T1 T2') -> None:
    rng = np.random.default_rng(seed)
    for modality in modalities.split():
        write(folder / f'{stem}_{modality}.nii.gz', rng.integers(0, 900, SHAPE))
    write(folder / f'{stem}_MASK.nii.gz', lesion(), code=1)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Two visits of P1, P18 without T2, test patients 54 and 77."""
    root = tmp_path / 'source' / 'MSLesSeg Dataset'
    write_case(root / 'train/P1/T1', 'P1_T1', 1)
    write_case(root / 'train/P1/T2', 'P1_T2', 2)
    write_case(root / 'train/P18/T1', 'P18_T1', 3, 'FLAIR T1')
    write_case(root / 'test/P54', 'P54', 4)
    write_case(root / 'test/P77', 'P77', 5)
    info = root / 'info_dataset'
    (info / 'patient_scanners_info').mkdir(parents=True)
    (info / 'clinical_data.csv').write_text(CLINICAL)
    (info / 'patient_scanners_info' / 'patient_scanners_info_T1.csv').write_text(SCANNER)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines(), delimiter='\t'))


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(p.relative_to(folder)): (
            hashlib.sha256(p.read_bytes()).hexdigest(),
            p.stat().st_mtime_ns,
        )
        for p in sorted(folder.rglob('*'))
        if p.is_file()
    }


def test_the_release_becomes_bids(release: Path, tmp_path: Path, capsys) -> None:
    before = snapshot(release)
    bids = tmp_path / 'bids'
    assert main(['import', str(release.parent), str(bids)]) == 0
    assert snapshot(release) == before
    anat = bids / 'sub-P01/ses-2/anat'
    assert (anat / 'sub-P01_ses-2_T1w.nii.gz').read_bytes() == (
        release / 'train/P1/T2/P1_T2_T1.nii.gz'
    ).read_bytes()
    assert json.loads((anat / 'sub-P01_ses-2_T1w.json').read_text()) == {
        'EchoTime': 0.12,
        'RepetitionTime': 9,
        'SliceThickness': 3,
    }
    assert not (bids / 'sub-P18/ses-1/anat/sub-P18_ses-1_T2w.nii.gz').exists()
    mask = nb.load(
        bids / 'derivatives/manual/sub-P54/ses-1/anat'
        '/sub-P54_ses-1_space-orig_label-lesion_mask.nii.gz'
    )
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(mask.dataobj), lesion())
    assert int(mask.header['sform_code']) == 4
    people = {row['participant_id']: row for row in rows(bids / 'participants.tsv')}
    assert people['sub-P01'] == {
        'participant_id': 'sub-P01',
        'source_id': 'P1',
        'split': 'train',
        'timepoints': '2',
        'age': '34.5',
        'sex': 'M',
        'ms_type': 'RRMS',
        'edss': '1.5',
    }
    assert people['sub-P54']['ms_type'] == 'PPMS'
    assert people['sub-P77']['split'] == 'test'
    visits = rows(bids / 'sub-P01/sub-P01_sessions.tsv')
    assert [(row['session_id'], row['age'], row['lesion_volume']) for row in visits] == [
        ('ses-1', '34.5', '24'),
        ('ses-2', '35.5', '24'),
    ]
    report = {row['source_id']: row for row in rows(bids / 'import_report.tsv')}
    assert report['P18_T1']['status'] == 'incomplete'
    assert report['P18_T1']['note'] == 'T2w is not there'
    assert report['P54']['note'] == 'the table says 919 mm³ of lesions, the mask has 24 mm³'
    assert 'column without a heading' in capsys.readouterr().err


def test_the_validator_accepts_both_datasets(release: Path, tmp_path: Path) -> None:
    program = find_validator()
    if program is None:
        pytest.skip('bids-validator-deno is not installed')
    bids = import_release(release, tmp_path / 'bids').bids_dir
    for root in (bids, bids / 'derivatives/manual'):
        command = [program, str(root), '--format', 'json']
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        issues = json.loads(done.stdout)['issues']['issues']
        codes = {(item['severity'], item['code']) for item in issues}
        assert done.returncode == 0, codes
        assert {c for s, c in codes if s != 'ignore'} <= {
            'SIDECAR_KEY_RECOMMENDED',
            'JSON_KEY_RECOMMENDED',
        }


def test_a_second_import_writes_nothing(release: Path, tmp_path: Path) -> None:
    bids = import_release(release, tmp_path / 'bids').bids_dir
    before = snapshot(bids)
    import_release(release, bids)
    assert snapshot(bids) == before


def test_a_zip_in_a_zip_gives_the_same(release: Path, tmp_path: Path) -> None:
    inner, outer = tmp_path / 'MSLesSeg.zip', tmp_path / 'figshare.zip'
    with zipfile.ZipFile(inner, 'w') as file:
        for path in sorted(release.rglob('*')):
            file.write(path, path.relative_to(release.parent))
    with zipfile.ZipFile(outer, 'w') as file:
        file.write(inner, 'MSLesSeg.zip')
        file.writestr('../outside.txt', 'no')
    plain = import_release(release, tmp_path / 'plain').bids_dir
    zipped = import_release(outer, tmp_path / 'new' / 'zipped').bids_dir
    assert {k: v[0] for k, v in snapshot(plain).items()} == {
        k: v[0] for k, v in snapshot(zipped).items()
    }
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['zipped']
    assert not (tmp_path / 'outside.txt').exists()


def break_case(release: Path, how: str) -> tuple[str, str]:
    """Break something; return the case and a part of what must be said."""
    case = release / 'train/P1/T2'
    flair, t1, mask = (case / f'P1_T2_{name}.nii.gz' for name in ('FLAIR', 'T1', 'MASK'))
    if how == 'truncated FLAIR':
        flair.write_bytes(flair.read_bytes()[:500])
        return 'left out', 'P1_T2_FLAIR.nii.gz'
    if how == 'missing FLAIR':
        flair.unlink()
        return 'left out', 'FLAIR is not there'
    if how == 'empty T1':
        write(t1, np.zeros(SHAPE))
        return 'incomplete', 'P1_T2_T1.nii.gz is constant'
    if how == 'T1 of no bytes':
        t1.write_bytes(b'')
        return 'incomplete', 'P1_T2_T1.nii.gz'
    if how == 'mask of 0 and 255':
        write(mask, 255 * lesion(), 1)
        return 'left out', 'is not a mask: it holds 2 values (0, 255)'
    if how == 'empty mask':
        write(mask, np.zeros(SHAPE), 1)
        return 'left out', 'marks no lesion'
    if how == 'mask on another grid':
        write(mask, lesion()[1:], 1)
        return 'left out', 'lies on another grid'
    if how == 'the same scan twice':
        flair.write_bytes((release / 'train/P1/T1/P1_T1_FLAIR.nii.gz').read_bytes())
        return 'left out', 'same scan as that of P1_T1'
    flair.rename(case / 'P2_T2_FLAIR.nii.gz')
    return 'left out', 'named after another case'


@pytest.mark.parametrize(
    'how',
    [
        'truncated FLAIR',
        'missing FLAIR',
        'empty T1',
        'T1 of no bytes',
        'mask of 0 and 255',
        'empty mask',
        'mask on another grid',
        'the same scan twice',
        'a name of another case',
    ],
)
def test_broken_cases_are_reported_and_the_others_go_in(release, tmp_path, capsys, how) -> None:
    bids = tmp_path / 'bids'
    import_release(release, bids)  # what went in before is taken out again
    status, said = break_case(release, how)
    assert main(['import', str(release), str(bids), '--quiet']) == 1
    report = {row['source_id']: row for row in rows(bids / 'import_report.tsv')}
    assert report['P1_T2']['status'] == status
    assert said in report['P1_T2']['note']
    assert said in capsys.readouterr().err
    assert report['P1_T1']['status'] == 'imported'
    assert (bids / 'sub-P01/ses-2').exists() == (status != 'left out')
    assert (bids / 'derivatives/manual/sub-P01/ses-2').exists() == (status != 'left out')


def test_a_patient_in_train_and_test_is_refused(release: Path, tmp_path: Path) -> None:
    write_case(release / 'test/P1', 'P1', 9)
    with pytest.raises(DataError, match='would both be sub-P01_ses-1'):
        import_release(release, tmp_path / 'bids')


def test_places_that_are_refused(release: Path, tmp_path: Path) -> None:
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('')
    with pytest.raises(OutputError, match='not empty'):
        import_release(release, tmp_path / 'mine')
    with pytest.raises(OutputError, match='lies in the data set'):
        import_release(release, release / 'bids')
    with pytest.raises(NoInputError, match='does not exist'):
        import_release(tmp_path / 'nothing', tmp_path / 'bids')
    with pytest.raises(NoInputError, match='any layout'):
        import_release(tmp_path / 'mine', tmp_path / 'bids')
    (tmp_path / 'bad.zip').write_bytes(b'PK\x03\x04 no archive')
    with pytest.raises(DataError, match='no whole zip'):
        import_release(tmp_path / 'bad.zip', tmp_path / 'bids')


def test_layouts_of_the_command_are_those_of_the_readers() -> None:
    assert LAYOUTS == KNOWN


def test_isbi_2015(tmp_path: Path) -> None:
    base = tmp_path / 'isbi/training/training01'
    for visit in ('01', '02'):
        stem = f'training01_{visit}'
        rng = np.random.default_rng(int(visit))
        for word in ('flair', 'mprage', 't2', 'pd'):
            write(base / f'preprocessed/{stem}_{word}_pp.nii', rng.integers(0, 900, SHAPE))
        write(base / f'masks/{stem}_mask1.nii', lesion())
        write(base / f'masks/{stem}_mask2.nii', np.roll(lesion(), 1, 0))
    done = import_release(tmp_path / 'isbi', tmp_path / 'bids')
    assert done.layout == 'isbi2015'
    assert done.complete
    flair = tmp_path / 'bids/sub-training01/ses-2/anat/sub-training01_ses-2_FLAIR.nii.gz'
    source = base / 'preprocessed/training01_02_flair_pp.nii'
    assert gzip.decompress(flair.read_bytes()) == source.read_bytes()
    name = 'sub-training01/ses-1/anat/sub-training01_ses-1_space-orig_label-lesion_mask.nii.gz'
    masks = [
        np.asarray(nb.load(tmp_path / 'bids/derivatives' / rater / name).dataobj)
        for rater in ('manual', 'rater2')
    ]
    assert np.array_equal(np.roll(masks[0], 1, 0), masks[1])


def test_msseg_2016_and_open_ms_data(tmp_path: Path) -> None:
    patient = tmp_path / 'msseg/Training/Center_01/Patient_02'
    other = tmp_path / 'open/cross_sectional/coregistered/patient06'
    rng = np.random.default_rng(0)
    for word in ('FLAIR', 'T1', 'T2', 'GADO'):
        write(patient / f'Raw_Data/{word}.nii.gz', rng.integers(0, 900, SHAPE))
    for word in ('Consensus', 'ManualSegmentation_1', 'ManualSegmentation_7', 'Brain_Mask'):
        write(patient / f'Masks/{word}.nii.gz', lesion())
    for word in ('patient06_FLAIR', 'T1W', 'T1WKS', 'T2W'):
        write(other / f'{word}.nii.gz', rng.integers(0, 900, SHAPE))
    write(other / 'patient06_consensus_gt.nii.gz', lesion())
    (case,) = read_release(tmp_path / 'msseg').cases
    assert (case.subject, case.split, sorted(case.images)) == (
        'Center01Patient02', 'train', ['FLAIR', 'T1w', 'T2w'],
    )  # fmt: skip
    assert sorted(case.masks) == ['manual', 'rater1', 'rater7']
    (case,) = read_release(tmp_path / 'open').cases
    assert (case.subject, sorted(case.images)) == ('patient06', ['FLAIR', 'T1w', 'T2w'])
    assert case.images['T1w'].name == 'T1W.nii.gz'
    assert case.masks['manual'].name == 'patient06_consensus_gt.nii.gz'


@pytest.mark.realdata
def test_the_real_case_goes_in(real_data: Path, tmp_path: Path) -> None:
    done = import_release(real_data / 'mslesseg', tmp_path / 'bids')
    (reading,) = done.readings
    assert (reading.case.stem, reading.status) == ('sub-P18_ses-1', 'incomplete')
    assert reading.remarks == ['T2w is not there']
    mask = nb.load(real_data / 'mslesseg/train/P18/T1/P18_T1_MASK.nii.gz')
    assert reading.volume_mm3 == float(np.asarray(mask.dataobj).sum())
