"""DICOM SEG and report, read back by hand with pydicom, against the mask they came from."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pydicom
import pytest
from scipy import ndimage

from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError, NoInputError, UsageError
from mslesseg_app.demo.dicom import VENDORS, DemoStudy, Patient, write_series
from mslesseg_app.demo.protocols import FLAIR_2D, MPRAGE
from mslesseg_app.dicom.export.exam import export
from mslesseg_app.dicom.stack import detail_correlation, make_stack, turned
from mslesseg_app.lesions.components import label_lesions
from mslesseg_app.lesions.table import lesion_table

PATIENT = Patient('Muster^Änne', 'ID-77', dt.date(1980, 2, 29), 'F')
STUDY = DemoStudy(dt.date(2023, 3, 14), dt.time(9, 30), 'MS', 'Clinic', 'Doe^Jo', 'A1', 'MR7')
EXAM = 'sub-01_ses-1'
START = 'sub-01/ses-1/anat/sub-01_ses-1_'


def scan(protocol: Any = FLAIR_2D, seed: int = 3) -> nb.Nifti1Image:
    """An oblique head-like blob with fine detail."""
    coarse = protocol.coarser(4.0)
    generator = np.random.default_rng(seed)
    detail = ndimage.gaussian_filter(generator.normal(size=coarse.shape), 0.7)
    values = 800 + 400 * detail / detail.std()
    turn = nb.eulerangles.euler2mat(0.1, -0.07, 0.04)
    affine = coarse.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    image = nb.Nifti1Image(np.clip(values, 0, 4000).astype(np.int16), affine)
    image.header.set_slope_inter(1, 0)
    return image


def spots(shape: tuple[int, ...], lesions: int = 3) -> np.ndarray:
    """Lesions of several sizes, none of them symmetric."""
    mask = np.zeros(shape, dtype=bool)
    for number in range(lesions):
        x, y, z = (int(size * (0.2 + 0.2 * number)) for size in shape)
        mask[x : x + 2 + number, y : y + 3, z : z + 2] = True
        mask[x, y, z + 2] = number % 2
    return mask


def write_result(out: Path, image: Any, mask: np.ndarray, model: str = 'unet') -> None:
    """The files of an exam as the App writes them; the FLAIR has lost a bias field."""
    folder = out / 'sub-01' / 'ses-1' / 'anat'
    folder.mkdir(parents=True, exist_ok=True)
    affine = image.affine
    labels = label_lesions(mask, 1.0)
    ramp = np.linspace(0.6, 1.4, mask.shape[0])[:, None, None]
    for name, data in {
        f'space-orig_label-lesion_desc-{model}_mask': mask.astype(np.uint8),
        f'space-orig_seg-lesions_desc-{model}_dseg': labels.astype(np.uint16),
        'desc-preproc_FLAIR': (image.get_fdata() * ramp).astype(np.float32),
        'desc-brain_mask': np.ones(mask.shape, dtype=np.uint8),
    }.items():
        nb.Nifti1Image(data, affine).to_filename(out / f'{START}{name}.nii.gz')
    table = lesion_table(labels, affine)
    table['region'] = 'deep_white_matter'
    table.to_csv(out / f'{START}desc-{model}_lesions.tsv', sep='\t', index=False, na_rep='n/a')


def write(image: Any, folder: Path, vendor: str = 'siemens', **changes: Any) -> Path:
    """A series whose file names are in another order than its slices."""
    arguments: dict[str, Any] = {
        'patient': PATIENT,
        'study': STUDY,
        'number': 4,
        'description': 'FLAIR tra',
        'sidecar': FLAIR_2D.sidecar,
    }
    paths = write_series(image, folder, vendor=vendor, **(arguments | changes))
    shuffled = np.random.default_rng(1).permutation(len(paths))
    for path, place in zip(paths, shuffled, strict=True):
        path.rename(path.with_name(f'{arguments["number"]}-{path.parent.name}-{place:04d}.ima'))
    return folder


def read_by_hand(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Segment numbers on a NIfTI grid, from the bits and positions of a SEG object alone."""
    seg = pydicom.dcmread(path)
    size = seg.Rows * seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder='little')
    shared = seg.SharedFunctionalGroupsSequence[0]
    spacing = [float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing]
    directions = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    found = np.zeros(shape, dtype=int)
    for number, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        plane = bits[number * size : (number + 1) * size].reshape(seg.Rows, seg.Columns)
        rows, columns = np.nonzero(plane)
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        points = origin + np.outer(columns * spacing[1], directions[:3])
        points += np.outer(rows * spacing[0], directions[3:])
        points *= [-1, -1, 1]
        voxels = nb.affines.apply_affine(np.linalg.inv(affine), points)
        assert np.abs(voxels - voxels.round()).max(initial=0) < 0.02
        named = frame if 'SegmentIdentificationSequence' in frame else shared
        segment = named.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[tuple(voxels.round().astype(int).T)] = segment
    return found


@pytest.fixture(scope='module')
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any, np.ndarray]:
    """Output folder, DICOM folder, image and mask."""
    root = tmp_path_factory.mktemp('seg')
    image = scan()
    mask = spots(image.shape)
    write_result(root / 'out', image, mask)
    return root / 'out', write(image, root / 'dicom'), image, mask


@pytest.mark.parametrize('vendor', VENDORS)
@pytest.mark.parametrize('protocol', [FLAIR_2D, MPRAGE], ids=['axial', 'sagittal'])
def test_segmentation_read_back_is_the_mask(tmp_path: Path, vendor: str, protocol: Any) -> None:
    image = scan(protocol)
    mask = spots(image.shape)
    write_result(tmp_path / 'out', image, mask)
    source = write(image, tmp_path / 'dicom', vendor)
    (seg, report), notes = export(tmp_path / 'out', EXAM, source, tmp_path / 'pacs')
    labels = label_lesions(mask, 1.0)
    found = read_by_hand(seg, image.affine, image.shape)
    np.testing.assert_array_equal(found, labels)
    assert 'geometry and its pixels' in notes[0]
    assert pydicom.dcmread(report).SOPClassUID.name == 'Comprehensive 3D SR Storage'


def test_mask_as_one_segment(case: Any, tmp_path: Path) -> None:
    out, source, image, mask = case
    (seg, report), _ = export(out, EXAM, source, tmp_path, segments='mask')
    np.testing.assert_array_equal(read_by_hand(seg, image.affine, image.shape), mask)
    assert len(pydicom.dcmread(seg).SegmentSequence) == 1
    assert measured(report)['All lesions']['Number of lesions'] == 3


def test_objects_belong_to_patient_study_and_frames_of_the_source(
    case: Any, tmp_path: Path
) -> None:
    out, source, _, _ = case
    written, _ = export(out, EXAM, source, tmp_path)
    files = [pydicom.dcmread(path) for path in source.iterdir()]
    for path in written:
        made = pydicom.dcmread(path)
        for keyword in ('PatientName', 'PatientID', 'StudyInstanceUID', 'AccessionNumber'):
            assert made[keyword].value == files[0][keyword].value
        assert made.SeriesInstanceUID != files[0].SeriesInstanceUID
    seg = pydicom.dcmread(written[0])
    assert seg.FrameOfReferenceUID == files[0].FrameOfReferenceUID
    places = {f.SOPInstanceUID: np.array(f.ImagePositionPatient, float) for f in files}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (origin,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(places[origin.ReferencedSOPInstanceUID], place, atol=1e-4)


def measured(path: Path) -> dict[str, dict[str, Any]]:
    """Names and values of the measurement groups of a report, by their tracking identifiers."""
    groups: dict[str, dict[str, Any]] = {}
    for container in pydicom.dcmread(path).ContentSequence:
        if container.ConceptNameCodeSequence[0].CodeMeaning != 'Imaging Measurements':
            continue
        for group in container.ContentSequence:
            values: dict[str, Any] = {}
            for item in group.ContentSequence:
                name = item.ConceptNameCodeSequence[0].CodeMeaning
                if item.ValueType == 'NUM':
                    values[name] = float(item.MeasuredValueSequence[0].NumericValue)
                elif item.ValueType == 'CODE':
                    values[name] = item.ConceptCodeSequence[0].CodeMeaning
                elif item.ValueType == 'TEXT':
                    values[name] = item.TextValue
                elif item.ValueType == 'IMAGE' and 'egment' in name:
                    reference = item.ReferencedSOPSequence[0]
                    values['segment'] = reference.ReferencedSegmentNumber
            groups[values['Tracking Identifier']] = values
    return groups


def test_report_holds_the_table(case: Any, tmp_path: Path) -> None:
    import pandas as pd

    out, source, _, _ = case
    (_, report), _ = export(out, EXAM, source, tmp_path)
    table = pd.read_csv(out / f'{START}desc-unet_lesions.tsv', sep='\t')
    groups = measured(report)
    assert groups['All lesions']['Number of lesions'] == len(table) == 3
    assert groups['All lesions']['Volume'] == pytest.approx(table['volume_mm3'].sum())
    for row in table.itertuples():
        group = groups[f'Lesion {row.lesion_id}']
        assert group['segment'] == row.lesion_id
        assert group['Volume'] == pytest.approx(row.volume_mm3, rel=1e-5)
        diameter = group['Maximum 3D Diameter of a Mesh']
        assert diameter == pytest.approx(row.max_diameter_mm, rel=1e-5)
        assert group['McDonald region'] == 'deep white matter'
        assert 'Mean lesion probability' not in group


def test_exam_without_lesions_has_one_empty_segment(tmp_path: Path) -> None:
    image = scan()
    write_result(tmp_path / 'out', image, np.zeros(image.shape, dtype=bool))
    source = write(image, tmp_path / 'dicom')
    (seg, report), _ = export(tmp_path / 'out', EXAM, source, tmp_path / 'pacs')
    assert not read_by_hand(seg, image.affine, image.shape).any()
    assert pydicom.dcmread(seg).SegmentSequence[0].SegmentLabel == 'MS lesions (none found)'
    assert (
        measured(report)['All lesions'] | {'Volume': 0, 'Number of lesions': 0}
        == (measured(report)['All lesions'])
    )


def test_same_inputs_give_same_bytes(case: Any, tmp_path: Path) -> None:
    out, source, _, _ = case
    first, _ = export(out, EXAM, source, tmp_path / 'a')
    second, _ = export(out, EXAM, source, tmp_path / 'b')
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_series_is_found_among_others(case: Any, tmp_path: Path) -> None:
    out, source, image, mask = case
    shutil.copytree(source, tmp_path / 'all' / 'flair')
    write(scan(seed=9), tmp_path / 'all' / 't2', number=5, description='T2 of the same slices')
    write(scan(MPRAGE), tmp_path / 'all' / 't1', number=6, description='T1')
    (tmp_path / 'all' / 'notes.txt').write_text('no DICOM')
    (seg, _), notes = export(out, EXAM, tmp_path / 'all', tmp_path / 'pacs')
    assert 'FLAIR tra' in notes[0]
    np.testing.assert_array_equal(read_by_hand(seg, image.affine, image.shape) > 0, mask)


def test_two_that_fit_must_be_told_apart(case: Any, tmp_path: Path) -> None:
    out, source, image, _ = case
    shutil.copytree(source, tmp_path / 'all' / 'one')
    write(image, tmp_path / 'all' / 'two', number=8)
    with pytest.raises(DataError, match='Several series fit') as caught:
        export(out, EXAM, tmp_path / 'all', tmp_path / 'pacs')
    assert '--series-uid' in caught.value.hint
    uid = str(pydicom.dcmread(next(source.iterdir())).SeriesInstanceUID)
    _, notes = export(out, EXAM, tmp_path / 'all', tmp_path / 'pacs', series_uid=uid)
    assert uid in notes[0]


def command(out: Path, source: Path) -> list[str]:
    return ['report', 'dicom', str(source), '--out', str(out), '--exam', EXAM]


def shifted(image: Any) -> Any:
    affine = image.affine.copy()
    affine[:3, 3] += [0.5, 0, 0]
    return nb.Nifti1Image(np.asarray(image.dataobj), affine)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (shifted, 'elsewhere: corners of the two grids are 0.50 mm apart'),
        (lambda image: image.slicer[:, :, :-1], 'its grid is'),
        (lambda image: scan(seed=5), 'pixels are not those of the FLAIR'),
    ],
    ids=['shifted', 'cropped', 'other contrast'],
)
def test_another_series_is_refused(
    case: Any, tmp_path: Path, change: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _, image, _ = case
    source = write(change(image), tmp_path / 'dicom')
    code = main([*command(out, source), '--output', str(tmp_path / 'pacs')])
    assert code == 65
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'pacs').exists()


@pytest.mark.parametrize('kind', ['missing', 'twice'])
def test_series_with_holes_or_repeats_is_refused(case: Any, tmp_path: Path, kind: str) -> None:
    out, source, _, _ = case
    shutil.copytree(source, tmp_path / 'dicom')
    by_place = sorted(
        (tmp_path / 'dicom').iterdir(), key=lambda p: float(pydicom.dcmread(p).SliceLocation)
    )
    if kind == 'missing':
        by_place[3].unlink()
    else:
        again = pydicom.dcmread(by_place[3])
        again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = '1.2.3'
        again.save_as(tmp_path / 'dicom' / 'again.dcm')
    expected = {'missing': '1 slice is missing', 'twice': 'images are at one position'}[kind]
    with pytest.raises(DataError, match=expected):
        export(out, EXAM, tmp_path / 'dicom', tmp_path / 'pacs')


def test_same_file_twice_is_taken_once(case: Any, tmp_path: Path) -> None:
    out, source, image, mask = case
    shutil.copytree(source, tmp_path / 'dicom')
    shutil.copy(next(source.iterdir()), tmp_path / 'dicom' / 'copy.dcm')
    (seg, _), _ = export(out, EXAM, tmp_path / 'dicom', tmp_path / 'pacs')
    np.testing.assert_array_equal(read_by_hand(seg, image.affine, image.shape) > 0, mask)


def test_mask_and_lesions_that_disagree_are_refused(case: Any, tmp_path: Path) -> None:
    out, source, image, mask = case
    shutil.copytree(out, tmp_path / 'out')
    edited = mask.copy()
    edited[0, 0, 0] = True
    nb.Nifti1Image(edited.astype(np.uint8), image.affine).to_filename(
        tmp_path / 'out' / f'{START}space-orig_label-lesion_desc-unet_mask.nii.gz'
    )
    with pytest.raises(DataError, match='do not mark the same voxels'):
        export(tmp_path / 'out', EXAM, source, tmp_path / 'pacs')


def test_what_is_missing_is_said(case: Any, tmp_path: Path) -> None:
    out, source, image, mask = case
    with pytest.raises(NoInputError, match='no lesion mask'):
        export(out, 'sub-02', source, tmp_path)
    with pytest.raises(NoInputError, match='does not exist'):
        export(out, EXAM, tmp_path / 'nowhere', tmp_path)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(NoInputError, match='no DICOM image'):
        export(out, EXAM, tmp_path / 'empty', tmp_path)
    shutil.copytree(out, tmp_path / 'out')
    write_result(tmp_path / 'out', image, mask, model='other')
    with pytest.raises(UsageError, match='masks of other, unet'):
        export(tmp_path / 'out', EXAM, source, tmp_path)
    with pytest.raises(UsageError, match='whose files name nobody'):
        export(out, EXAM, source, out / 'dicom')


def test_without_highdicom_the_hint_says_how_to_get_it(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *rest: None if name == 'highdicom' else real(name, *rest),
    )
    out, source, _, _ = case
    with pytest.raises(UsageError, match='not installed') as caught:
        export(out, EXAM, source, tmp_path)
    assert 'mslesseg[dicom-seg]' in caught.value.hint


def test_command_writes_both_files(
    case: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, source, _, _ = case
    code = main([*command(out, source), '--output', str(tmp_path / 'pacs')])
    assert code == 0
    names = [f'{EXAM}_desc-unet_{kind}.dcm' for kind in ('seg', 'sr')]
    assert sorted(path.name for path in (tmp_path / 'pacs').iterdir()) == names
    assert 'correlation of detail' in capsys.readouterr().out


def test_detail_tells_contrasts_apart_but_not_bias() -> None:
    first = scan().get_fdata()
    ramp = np.linspace(0.5, 1.5, first.shape[1])[None, :, None]
    inside = np.ones(first.shape, dtype=bool)
    assert detail_correlation(first, first * ramp, inside) > 0.95
    assert detail_correlation(first, 4000 - first, inside) < -0.95
    assert detail_correlation(first, scan(seed=8).get_fdata(), inside) < 0.2
    assert detail_correlation(first, np.zeros_like(first), inside) == 0


def test_stack_gives_the_voxels_back(case: Any) -> None:
    _, source, image, _ = case
    stack = make_stack([pydicom.dcmread(path) for path in source.iterdir()])
    values = turned(np.asarray(image.dataobj), image.affine, stack)
    np.testing.assert_array_equal(stack.pixels(), values)
