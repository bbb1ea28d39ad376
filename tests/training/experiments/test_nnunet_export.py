"""Labelled exams as a dataset of nnU-Net: files, folds, refusals, and the way back."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import zlib
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
import SimpleITK as sitk
from skeleton import TEMPLATE_AFFINE, TEMPLATE_SHAPE, path_of, write_dataset

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import output_path
from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError, OutputError, UsageError
from mslesseg_app.core.settings import Settings
from mslesseg_app.models.store import add_model
from mslesseg_app.spatial.affines import write_itk
from mslesseg_app.training.cases import LabelledCase
from mslesseg_app.training.experiments.nnunet_export import Export, check_target, export_nnunet

SHAPE = (24, 28, 20)
AFFINE = np.array([[-1.0, 0, 0, 11], [0, 0.9, 0, -12], [0, 0, 1.5, -8], [0, 0, 0, 1]])


def save(data: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nb.Nifti1Image(data, affine)
    image.header.set_xyzt_units('mm')
    nb.save(image, path)
    return path


def exam_of(root: Path, name: str, modalities: tuple[str, ...], split: str = '') -> LabelledCase:
    """Write an exam of noise, its brain a box, its lesion a cube in it."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    brain, lesion = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    brain[3:-3, 4:-4, 2:-2] = 1
    lesion[10:13, 12:15, 8:11] = 1
    images = {}
    for each in modalities:
        data = random.integers(1, 200, SHAPE).astype(np.float32)
        data[0, 0, 0] = 0  # its background
        images[each] = save(data, root / f'{name}_{each}.nii')
    mask = save(lesion, root / f'{name}_mask.nii')
    brain_path = save(brain, root / f'{name}_brain.nii')
    return LabelledCase(name, name.partition('_')[0], images, mask, brain_path, split)


@pytest.fixture
def cases(tmp_path: Path) -> list[LabelledCase]:
    """Four people, of whom one has two sessions and one no T2w, and one for the test."""
    names = ['sub-1_ses-1', 'sub-1_ses-2', 'sub-2_ses-1', 'sub-3', 'sub-4']
    every = ('FLAIR', 'T1w', 'T2w')
    made = [exam_of(tmp_path, name, every[:2] if name == 'sub-3' else every) for name in names]
    return [*made, exam_of(tmp_path, 'sub-9', every, 'test')]


def read(path: Path) -> np.ndarray:
    return np.asanyarray(nb.load(path).dataobj)


def test_files_are_those_that_nnunet_reads(cases, tmp_path):
    target = tmp_path / 'raw' / 'Dataset501_MS'
    done = export_nnunet(cases, Export(target, count=2, licence='CC-BY-4.0'))
    assert done.channels == ('FLAIR', 'T1w'), 'T2w is not in every exam'
    assert [path.name for path in target.parent.iterdir()] == ['Dataset501_MS']
    assert len(list((target / 'imagesTr').iterdir())) == 2 * 5
    for each in cases:
        end = 'Ts' if each.name == 'sub-9' else 'Tr'
        for number, name in enumerate(done.channels):
            path = target / f'images{end}' / f'{each.name}_{number:04d}.nii.gz'
            expected = np.where(read(each.brain) > 0, read(each.images[name]), 0)
            np.testing.assert_array_equal(read(path), expected)
            assert nb.load(path).get_data_dtype() == np.float32
        label = target / f'labels{end}' / f'{each.name}.nii.gz'
        np.testing.assert_array_equal(read(label), read(each.mask))
        one, other = sitk.ReadImage(path), sitk.ReadImage(label)
        for what in ('GetOrigin', 'GetSpacing', 'GetDirection', 'GetSize'):
            assert getattr(one, what)() == getattr(other, what)()
    dataset = json.loads((target / 'dataset.json').read_text())
    assert dataset['channel_names'] == {'0': 'FLAIR', '1': 'T1w'}
    assert dataset['labels'] == {'background': 0, 'lesion': 1}
    assert (dataset['numTraining'], dataset['file_ending']) == (5, '.nii.gz')
    assert dataset['licence'] == 'CC-BY-4.0'


def test_folds_keep_people_together_and_the_test_set_apart(cases, tmp_path):
    target = tmp_path / 'Dataset501_MS'
    export_nnunet(cases, Export(target, count=4, seed=3))
    splits = json.loads((target / 'splits_final.json').read_text())
    assert len(splits) == 4
    everybody = {case.name for case in cases} - {'sub-9'}
    for fold in splits:
        assert set(fold) == {'train', 'val'}
        assert set(fold['train']) | set(fold['val']) == everybody
        sides = [{name.partition('_')[0] for name in fold[side]} for side in ('train', 'val')]
        assert not sides[0] & sides[1]
    assert sorted(name for fold in splits for name in fold['val']) == sorted(everybody)


def test_whole_heads_and_an_order_of_channels(cases, tmp_path):
    target = tmp_path / 'Dataset501_MS'
    export_nnunet(cases, Export(target, whole_head=True, channels=('T1w', 'FLAIR'), count=2))
    first = read(target / 'imagesTr' / 'sub-2_ses-1_0000.nii.gz')
    np.testing.assert_array_equal(first, read(cases[2].images['T1w']))
    assert json.loads((target / 'dataset.json').read_text())['mslesseg']['whole_head'] is True


def test_what_cannot_be_exported_is_named_and_leaves_nothing(cases, tmp_path):
    target = tmp_path / 'raw' / 'Dataset501_MS'
    with pytest.raises(DataError, match=r'sub-3 has no T2w') as caught:
        export_nnunet(cases, Export(target, channels=('FLAIR', 'T2w'), count=2))
    assert '--exclude sub-3' in caught.value.hint
    with pytest.raises(UsageError, match='twice'):
        export_nnunet(cases, Export(target, channels=('FLAIR', 'FLAIR'), count=2))
    with pytest.raises(UsageError, match='4 patients cannot be divided into 5 folds'):
        export_nnunet(cases, Export(target))
    save(np.zeros(SHAPE, np.uint8), cases[3].mask)
    with pytest.raises(DataError, match=r'sub-3: .*marks no lesion'):
        export_nnunet(cases, Export(target, count=2))
    assert list((tmp_path / 'raw').iterdir()) == []
    cases[4].images['FLAIR'].write_bytes(cases[2].images['FLAIR'].read_bytes())
    with pytest.raises(DataError, match='the same FLAIR scan'):
        export_nnunet(cases, Export(target, count=2))


@pytest.mark.parametrize(
    'name', ['MS', 'Dataset1_MS', 'Dataset501', 'Dataset501_', 'dataset501_a']
)
def test_names_that_nnunet_does_not_know_are_refused(name, tmp_path):
    with pytest.raises(UsageError, match='no name of a dataset'):
        check_target(tmp_path / name)


def test_nothing_is_replaced_and_a_number_is_used_once(tmp_path):
    (tmp_path / 'Dataset501_A').mkdir()
    check_target(tmp_path / 'Dataset501_A')
    with pytest.raises(UsageError, match='Dataset501_A has the number 501'):
        check_target(tmp_path / 'Dataset501_B')
    (tmp_path / 'Dataset501_A' / 'dataset.json').write_text('{}')
    with pytest.raises(OutputError, match='there already'):
        check_target(tmp_path / 'Dataset501_A')


@pytest.fixture
def raw(tmp_path: Path, monkeypatch) -> Path:
    """Two raw exams; in place of the App, T1ws that lie 2 mm beside their FLAIR."""
    bids, masks = tmp_path / 'bids', tmp_path / 'bids' / 'derivatives' / 'manual'
    write_dataset(bids, [])
    write_dataset(masks, [], kind='derivative')
    shift = np.eye(4)
    shift[0, 3] = 2
    exams = {}
    for name in ('sub-01', 'sub-02'):
        made = exam_of(tmp_path / 'made', name, ('FLAIR', 'T1w'))
        for modality, path in made.images.items():
            save(read(path), bids / path_of(f'{name}_{modality}'))
        save(read(made.mask), masks / path_of(f'{name}_space-orig_label-lesion_mask'))
        images = {n: bids / path_of(f'{name}_{n}') for n in made.images}
        exams[name[4:]] = Exam(name[4:], None, images)

    def app(settings: Settings) -> int:
        inside = np.zeros(TEMPLATE_SHAPE, np.uint8)
        inside[70:110, 110:140, 60:85] = 1
        for label in settings.participants:
            exam = exams[label]
            out = settings.out_dir
            for name, path in exam.images.items():
                to_mni = out / output_path(exam, 'to_mni', **{'from': name})
                to_mni.parent.mkdir(parents=True, exist_ok=True)
                write_itk(to_mni, shift if name == 'T1w' else np.eye(4))
                moved = shift @ AFFINE if name == 'T1w' else AFFINE
                save(2 * read(path), out / output_path(exam, 'preproc_native', suffix=name), moved)
            save(inside, out / output_path(exam, 'brain_mni'), TEMPLATE_AFFINE)
        return 0

    monkeypatch.setattr('mslesseg_app.participant.run.run_participants', app)
    return bids


def test_raw_exams_are_written_on_the_grid_of_their_flair(raw, tmp_path, capsys):
    """The T1w is 2 mm beside the FLAIR, and its transform says so: voxels fall on voxels."""
    target = tmp_path / 'raw' / 'Dataset7_MS'
    command = ['export', 'nnunet', str(raw), str(target), '--fold-count', '2']
    assert main(command) == 64
    target = tmp_path / 'raw' / 'Dataset007_MS'
    command[3] = str(target)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert '2 exams for training, 0 for testing; channels: FLAIR, T1w.' in said
    brain = None
    for name in ('sub-01', 'sub-02'):
        for number, modality in enumerate(('FLAIR', 'T1w')):
            path = target / 'imagesTr' / f'{name}_{number:04d}.nii.gz'
            image = nb.load(path)
            np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
            found, given = np.asarray(image.dataobj), 2 * read(raw / path_of(f'{name}_{modality}'))
            brain = found != 0 if brain is None else brain
            assert 0.2 < brain.mean() < 0.9
            np.testing.assert_allclose(found, np.where(brain, given, 0), rtol=1e-4)
        mask = raw / 'derivatives/manual' / path_of(f'{name}_space-orig_label-lesion_mask')
        np.testing.assert_array_equal(read(target / 'labelsTr' / f'{name}.nii.gz'), read(mask))
    assert json.loads((target / 'dataset.json').read_text())['mslesseg']['space'] == 'native'
    assert main(command) == 73


@pytest.mark.skipif(
    importlib.util.find_spec('nnunetv2') is None,
    reason='nnunetv2 is not installed: pip install "mslesseg[nnunet]"',
)
def test_a_model_trained_there_comes_back_with_grid_and_skull(cases, tmp_path):
    """Nnunetv2 accepts the dataset; a model with its dataset.json is added and run."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
    from probability import segment_exam
    from tiny_nnunet import write_model

    target = tmp_path / 'Dataset501_MS'
    export_nnunet(cases, Export(target, whole_head=True, count=2))
    with contextlib.redirect_stdout(io.StringIO()):
        verify_dataset_integrity(str(target), num_processes=1)
    data = json.loads((target / 'dataset.json').read_text())
    entry = add_model(write_model(tmp_path, data=data), tmp_path / 'models', {'name': 'trained'})
    assert entry.channels == ('FLAIR', 'T1w')
    assert entry.options['lesion'] == ['lesion']
    assert (entry.options['space'], entry.options['whole_head']) == ('native', True)
    images = {name: read(cases[0].images[name]) for name in entry.channels}
    prob, _ = segment_exam(entry, images, read(cases[0].brain) > 0, 'cpu')
    assert 0 < prob.mean() < 1
