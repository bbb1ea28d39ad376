"""BIDS to labelled cases, trained entries, folds as one model, and the command lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from skeleton import TEMPLATE, TEMPLATE_AFFINE, TEMPLATE_SHAPE, path_of, write_dataset
from tiny_models import overrides, save_weights

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import output_path
from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError, ModelError, NoInputError, UsageError
from mslesseg_app.models.check import check_model
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.registry import get_entry, load_predictor
from mslesseg_app.models.store import add_model
from mslesseg_app.spatial.affines import write_itk
from mslesseg_app.training.cases import LabelledCase, Split
from mslesseg_app.training.experiments import labelled_exams as module
from mslesseg_app.training.experiments.crossval import (
    CrossValidation,
    _evaluate,
    gather,
    missing_folds,
)
from mslesseg_app.training.experiments.labelled_exams import find_cases, scan_digests
from mslesseg_app.training.experiments.publish import check_name, combine_folds
from mslesseg_app.training.experiments.scoring import COLUMNS, RULES, write_rows
from mslesseg_app.training.experiments.train import TrainingJob, hold_out
from mslesseg_app.training.folds import Fold
from mslesseg_app.training.presets import preset

MASK = '_space-orig_label-lesion_mask'


def labelled(root: Path, names: list[str], grid: str = TEMPLATE) -> Path:
    """Write a dataset with FLAIRs and masks."""
    write_dataset(root, {f'{name}_FLAIR': grid for name in names})
    masks = root / 'derivatives' / 'manual'
    write_dataset(masks, {f'{name}{MASK}': grid for name in names}, kind='derivative')
    return root


def test_registered_exams_are_taken_as_they_are(tmp_path: Path, monkeypatch) -> None:
    def never(*_: object, **__: object) -> int:
        raise AssertionError('the App was started')

    monkeypatch.setattr('mslesseg_app.participant.run.run_participants', never)
    root = labelled(tmp_path / 'bids', ['sub-P01_ses-1', 'sub-P54_ses-1'])
    write_dataset(root, {'sub-P02_ses-1_FLAIR': TEMPLATE})  # has no mask
    (root / 'participants.tsv').write_text(
        'participant_id\tsplit\nsub-P01\ttrain\nsub-P54\ttest\nsub-P02\tn/a\n'
    )
    found = find_cases(root, tmp_path / 'cache')
    assert [(case.name, case.split) for case in found] == [
        ('sub-P01_ses-1', 'train'),
        ('sub-P54_ses-1', 'test'),
    ]
    assert found[0].images == {'FLAIR': (root / path_of('sub-P01_ses-1_FLAIR')).absolute()}
    assert found[0].brain is None
    left = find_cases(root, tmp_path / 'cache', exclude=['P54'])
    assert [case.name for case in left] == ['sub-P01_ses-1']
    with pytest.raises(UsageError, match='sub-P99'):
        find_cases(root, tmp_path / 'cache', exclude=['P99'])
    with pytest.raises(NoInputError, match='no manual masks'):
        find_cases(root, tmp_path / 'cache', masks=tmp_path / 'nothing')


def test_raw_exams_go_through_the_app_once(tmp_path: Path, monkeypatch) -> None:
    """The mask follows the FLAIR: here the head lies 3 voxels to the side."""
    root = tmp_path / 'bids'
    write_dataset(root, [])
    name = 'sub-01_ses-1'
    shape, affine = (40, 44, 36), np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -20, -40, -10
    flair = root / path_of(f'{name}_FLAIR')
    mask_path = root / 'derivatives/manual' / path_of(f'{name}{MASK}')
    write_dataset(root / 'derivatives/manual', [], kind='derivative')
    lesion = np.zeros(shape, np.uint8)
    lesion[10:14, 20:25, 8:11] = 1
    for path, data in ((flair, np.ones(shape, np.float32)), (mask_path, lesion)):
        path.parent.mkdir(parents=True, exist_ok=True)
        nb.save(nb.Nifti1Image(data, affine), path)
    runs = []

    def app(settings: module.Settings) -> int:
        runs.append(settings.participants)
        exam = Exam('01', '1', {'FLAIR': flair})
        shift = np.eye(4)
        shift[0, 3] = 3
        write_itk(_made(settings, exam, 'to_mni', **{'from': 'FLAIR'}), shift)
        for key, more in (('preproc_mni', {'suffix': 'FLAIR'}), ('brain_mni', {})):
            image = nb.Nifti1Image(np.zeros(TEMPLATE_SHAPE, np.uint8), TEMPLATE_AFFINE)
            nb.save(image, _made(settings, exam, key, **more))
        return 0

    monkeypatch.setattr('mslesseg_app.participant.run.run_participants', app)
    for _ in range(2):
        (case,) = find_cases(root, tmp_path / 'cache', preprocessed=tmp_path / 'out')
    assert runs == [('01',)]
    moved = nb.load(case.mask)
    inside = np.argwhere(np.asarray(moved.dataobj) > 0)
    points = nb.affines.apply_affine(moved.affine, inside)
    expected = nb.affines.apply_affine(affine, np.argwhere(lesion)) - [3, 0, 0]
    assert sorted(map(tuple, points)) == sorted(map(tuple, expected))
    assert case.brain is not None
    assert (tmp_path / 'out') in case.brain.parents


def _made(settings: module.Settings, exam: Exam, key: str, **more: str) -> Path:
    path = settings.out_dir / output_path(exam, key, **more)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_an_exam_that_the_app_cannot_process_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr('mslesseg_app.participant.run.run_participants', lambda settings: 1)
    root = labelled(tmp_path / 'bids', ['sub-01_ses-1'], 'thin')
    with pytest.raises(DataError, match='could not bring sub-01_ses-1') as caught:
        find_cases(root, tmp_path / 'cache')
    assert '--exclude sub-01_ses-1' in caught.value.hint


def test_digests_are_kept_while_the_file_is_the_same(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / 'flair.nii'
    nb.save(nb.Nifti1Image(np.arange(1000.0).reshape(10, 10, 10), np.eye(4)), path)
    case = LabelledCase('a', 'a', {'FLAIR': path}, path)
    first = scan_digests([case], tmp_path)
    monkeypatch.setattr(module, 'scan_digest', lambda case: 'read again')
    assert scan_digests([case], tmp_path) == first
    nb.save(nb.Nifti1Image(np.ones((11, 10, 10)), np.eye(4)), path)
    assert scan_digests([case], tmp_path) == {'a': 'read again'}


def test_who_validates() -> None:
    cases = [
        LabelledCase(f'sub-{n:02}', f'sub-{n:02}', {}, Path(), split='test' if n > 10 else '')
        for n in range(1, 13)
    ]
    split = hold_out(cases, ['0.2'], 1)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [8, 2, 2]
    assert hold_out(cases, ['0.2'], 1) == split != hold_out(cases, ['0.2'], 3)
    named = hold_out(cases, ['03', 'sub-05'], 1)
    assert {c.subject for c in named.validation} == {'sub-03', 'sub-05'}
    assert hold_out(cases, ['none'], 1).validation == ()
    for wrong in (['99'], ['12', '01'], ['nobody']):
        with pytest.raises(UsageError, match='no participant'):
            hold_out(cases, wrong, 1)


def add_fold(folder: Path, number: int) -> None:
    """Put an entry with weights of its own into a folder."""
    import torch

    weights = folder.parent / f'{number}.safetensors'
    tensor = torch.full((1, 2, 1, 1, 1), float(number))
    save_weights('unet', weights, **{'head.weight': tensor})
    card = {'training_data': [f'sub-P0{number}'], 'date': '2026-01-01', 'citation': ['None.']}
    more = {'name': f'unetfold{number}', 'version': '1', 'card': card}
    add_model(weights, folder, overrides('unet') | more)


def study_of(folder: Path, folds: int = 2) -> CrossValidation:
    test = (LabelledCase('sub-P54_ses-1', 'sub-P54', {}, Path()),)
    made = tuple(Fold(n, Split((), (), test, ('A note.',))) for n in range(1, folds + 1))
    job = TrainingJob(
        folder, folder / 'cache', folder / 'models', 'fold', preset='reduced', device='cpu'
    )
    return CrossValidation(folder, {'unet': preset('reduced', 'unet')}, made, job)


def test_folds_become_one_model_whose_answer_is_their_mean(tmp_path: Path) -> None:
    folder = tmp_path / 'models'
    for number in (1, 2):
        add_fold(folder, number)
    folds = [get_entry(f'unetfold{n}', folder) for n in (1, 2)]
    joined = combine_folds(folds, folder, 'unet', {'title': 'both'})
    entry = get_entry('unet', folder)
    assert entry == joined
    check_model(entry)
    assert len(entry.members) == 2
    rng = np.random.default_rng(0)
    channels = rng.normal(size=(3, 32, 32, 32)).astype(np.float32)
    brain = np.ones((32, 32, 32), bool)
    one, two, both = (load_predictor(e)(channels, brain, (True,) * 3) for e in (*folds, entry))
    assert not np.allclose(one, two)
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
    with pytest.raises(UsageError, match='not folds of one model'):
        combine_folds([folds[0], replace(folds[1], patch=(64, 64, 64))], folder, 'x', {})


def test_tables_are_gathered_from_all_folds(tmp_path: Path, monkeypatch) -> None:
    study = study_of(tmp_path)
    assert missing_folds(study) == ['unet fold 1', 'unet fold 2']
    with pytest.raises(NoInputError, match='2 folds are missing: unet fold 1, unet fold 2'):
        gather(study)
    row = dict.fromkeys(COLUMNS, '0.5') | {'model': 'unet'}
    for fold, dsc in zip(study.folds, ('0.6', '0.7'), strict=True):
        add_fold(study.models, fold.number)
        for rules in RULES:
            more = {'fold': str(fold.number), 'name': 'a', 'rules': rules, 'DSC': dsc}
            write_rows([row | more], study.table('unet', fold, rules))
    more = {'model': 'unet ensemble', 'fold': 'n/a', 'name': 'a', 'DSC': '0.8'}
    joint = [row | more | {'rules': rules} for rules in RULES]
    monkeypatch.setattr(
        'mslesseg_app.training.experiments.crossval.evaluate_cases', lambda *_, **__: iter(joint)
    )
    made = gather(study)
    assert list(made) == list(RULES)
    table5 = (tmp_path / 'tables/mslesseg/table-5.md').read_text()
    table6 = (tmp_path / 'tables/mslesseg-official/table-6.tsv').read_text()
    assert '0.65' in table5
    assert '0.6851' in table5, "the paper's value stands beside"
    assert 'A note.' in table5
    header, ours = (line.split('\t') for line in table6.splitlines()[:2])
    assert [ours[header.index(f'fold_{n}')] for n in (1, 2)] == ['0.6', '0.7']
    card = get_entry('unet', study.models).card
    assert card['figures'][0]['DSC'] == 0.8
    assert card['training_data'] == ['sub-P01', 'sub-P02']
    assert card['not_trained_on'] == ['sub-P54_ses-1']


@pytest.mark.parametrize(('how', 'windows'), [('paper', 'exact'), ('default', 'fast')])
def test_what_is_trained_as_published_is_tested_as_published(
    tmp_path: Path, monkeypatch, how: str, windows: str
) -> None:
    """The test exams of `crossval --preset paper` are judged by the preset exact."""
    base = study_of(tmp_path)
    shipped = get_entry('swinunetr')
    assert shipped.sampler['exact']['overlap'] != shipped.sampler['fast']['overlap']
    asked = []

    def remember(entry: ModelEntry, *_: object) -> None:
        asked.append((entry.patch, entry.sampler))

    monkeypatch.setattr('mslesseg_app.training.experiments.scoring.load_predictor', remember)
    add_fold(base.models, 1)
    plans = {'unet': preset('default', 'unet')}
    study = replace(base, plans=plans, job=replace(base.job, preset=how))
    test: tuple[LabelledCase, ...] = ()
    entry = replace(get_entry('unetfold1', base.models), sampler=shipped.sampler)
    _evaluate(study, 'unet', study.folds[0], entry, test)
    table = shipped.sampler[windows]
    assert asked[0][1]['overlap'] == table['overlap']
    assert list(asked[0][0]) == list(table.get('patch', entry.patch))
    _evaluate(study, 'unet', study.folds[0], entry, test)
    assert len(asked) == 1, 'a table that is there is not made again'
    other = replace(study, job=replace(study.job, preset='default' if how == 'paper' else 'paper'))
    _evaluate(other, 'unet', study.folds[0], entry, test)
    assert len(asked) == 2, 'a table of the other procedure is'


def test_a_name_that_is_taken_is_refused_before_training(tmp_path: Path) -> None:
    add_fold(tmp_path / 'models', 1)
    with pytest.raises(UsageError, match='of another training'):
        check_name('unetfold1', tmp_path / 'models', 'digest', force=False)
    check_name('unetfold1', tmp_path / 'models', 'digest', force=True)
    check_name('free', tmp_path / 'models', 'digest', force=False)


@pytest.mark.parametrize('name', ['mssegdiff', 'unetr', 'swinunetr', 'transbts'])
def test_an_entry_without_weights_says_how_to_train_it(name: str) -> None:
    with pytest.raises(ModelError, match='no trained weights') as caught:
        check_model(get_entry(name))
    command = f'mslesseg train BIDS_DIR RUN_DIR --network {name} --model-dir DIR'
    assert command in caught.value.hint


@pytest.mark.parametrize(
    ('arguments', 'said', 'code'),
    [
        (['train', 'BIDS', 'RUN', '--set', 'hope=1'], 'no setting', 64),
        (['train', 'BIDS', 'RUN', '--preset', 'paper'], 'did not train', 64),
        (['train', 'BIDS', 'RUN'], 'no manual masks', 66),
        (['crossval', 'BIDS', 'OUT'], 'no manual masks', 66),
    ],
)
def test_what_cannot_be_run_is_explained(arguments, said, code, tmp_path, capsys) -> None:
    write_dataset(tmp_path / 'BIDS', ['sub-01_FLAIR'])
    paths = [str(tmp_path / a) if a in ('BIDS', 'RUN', 'OUT') else a for a in arguments]
    assert main(paths) == code
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_from_the_release_to_the_tables_and_through_the_app(tmp_path: Path) -> None:
    """Two folds of one reduced network; then the joined model segments a raw exam by the App."""
    from phantom_release import make_release

    release = make_release(tmp_path, {1: 2, 2: 1, 3: 1}, [54])
    bids, out = tmp_path / 'bids', tmp_path / 'cv'
    assert main(['import', str(release), str(bids), '-q']) == 0
    command = ['crossval', str(bids), str(out), '--network', 'unet', '--preset', 'reduced',
               '--folds', 'even', '--fold-count', '2', '--device', 'cpu', '-q',
               '--set', 'options.channels=[4, 8]', 'epochs=1', 'steps_per_epoch=10',
               'validate_every=0', 'sampler.overlap=0.0']  # fmt: skip
    assert main([*command, '--gather']) == 66
    assert main([*command, '--fold', '2']) == 0
    weights = (out / 'unet/fold-2/weights.safetensors').stat().st_mtime_ns
    assert main(command) == 0
    checkpoint = json.loads((out / 'unet/fold-2/run.json').read_text())
    assert checkpoint['test'] == ['sub-P54_ses-1']
    assert not {name.split('_')[0] for name in checkpoint['files']} & {'sub-P54'}
    assert weights <= (out / 'unet/fold-2/weights.safetensors').stat().st_mtime_ns
    for rules in RULES:
        for number in (5, 6):
            assert (out / 'tables' / rules / f'table-{number}.tsv').is_file()
    entry = get_entry('unet', out / 'models')
    assert len(entry.files) == 2
    run = [str(bids), str(tmp_path / 'out'), 'participant', '--participant-label', 'P54',
           '--model', 'unet', '--model-dir', str(out / 'models'), '--device', 'cpu',
           '-w', str(tmp_path / 'work')]  # fmt: skip
    assert main(run) == 0
    made = tmp_path / 'out/sub-P54/ses-1/anat'
    assert list(made.glob('*label-lesion_desc-unet_probseg.nii.gz'))
