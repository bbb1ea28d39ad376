"""The files at the top of the output dataset, sidecars, and the validation of the input."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest
from skeleton import files_below, write_dataset

from mslesseg_app import __version__
from mslesseg_app.bids import validation
from mslesseg_app.bids.dataset import check_output_folder, write_dataset_files
from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import output_path, sidecar_of
from mslesseg_app.bids.sidecars import Sidecars
from mslesseg_app.core.errors import InvalidBIDSError, OutputError
from mslesseg_app.core.settings import Settings
from mslesseg_app.models.registry import get_entry

ENTRY = get_entry('hyperintensity')


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    bids_dir = write_dataset(tmp_path / 'bids', ['sub-01_ses-1_FLAIR', 'sub-01_ses-1_T1w'])
    return Settings(bids_dir=bids_dir, out_dir=tmp_path / 'out', work_dir=tmp_path / 'work')


def description(settings: Settings) -> dict:
    return json.loads((settings.out_dir / 'dataset_description.json').read_text())


# ------------------------------------------------------------------- output folder


def test_folders_are_made_and_left_empty(settings):
    check_output_folder(settings.out_dir, settings.work_dir)
    assert files_below(settings.out_dir) == files_below(settings.work_dir) == []


def test_our_own_output_is_accepted_again(settings):
    write_dataset_files(settings, ENTRY, 'builtin')
    check_output_folder(settings.out_dir)


@pytest.mark.parametrize(
    'content',
    [
        '{"Name": "fMRIPrep", "GeneratedBy": [{"Name": "fmriprep"}]}',
        '{"Name": "raw"}',
        'not JSON',
        '[]',
    ],
)
def test_the_dataset_of_another_pipeline_is_not_touched(settings, content):
    settings.out_dir.mkdir()
    path = settings.out_dir / 'dataset_description.json'
    path.write_text(content)
    with pytest.raises(OutputError, match='another dataset') as caught:
        check_output_folder(settings.out_dir)
    assert caught.value.exit_code == 73
    assert caught.value.hint
    assert files_below(settings.out_dir) == ['dataset_description.json']
    assert path.read_text() == content


def test_a_file_in_place_of_the_output_folder(settings):
    settings.out_dir.write_text('x')
    with pytest.raises(OutputError, match='cannot be written') as caught:
        check_output_folder(settings.out_dir)
    assert caught.value.exit_code == 73


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_permission(settings):
    settings.out_dir.mkdir()
    settings.out_dir.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match='cannot be written'):
        check_output_folder(settings.out_dir)


# -------------------------------------------------------------- dataset description


def test_description_says_what_made_the_dataset(settings):
    write_dataset_files(settings, ENTRY, 'builtin')
    content = description(settings)
    app, model, *software = content['GeneratedBy']
    assert (app['Name'], app['Version']) == ('mslesseg', __version__)
    assert model['Name'] == 'model hyperintensity'
    assert ENTRY.digest in model['Description']
    assert [item['Name'] for item in software] == ['SciPy']
    assert content['DatasetType'] == 'derivative'
    assert content['DatasetLinks'] == {'raw': '../bids'}
    assert content['License'] == 'CC0'


def test_description_keeps_other_models_and_drops_their_older_versions(settings):
    other = dataclasses.replace(ENTRY, name='other', version='2')
    for entry in (other, ENTRY, other):
        write_dataset_files(settings, entry, 'builtin')
    names = [item['Name'] for item in description(settings)['GeneratedBy']]
    assert names == ['mslesseg', 'model other', 'SciPy', 'model hyperintensity']
    rows = (settings.out_dir / 'descriptions.tsv').read_text().splitlines()
    assert rows[0] == 'desc_id\tdescription'
    labels = [row.split('\t')[0] for row in rows[1:]]
    assert labels == sorted(labels)
    assert {'desc-other', 'desc-hyperintensity', 'desc-brain', 'desc-preproc'} <= set(labels)


def test_same_settings_give_the_same_bytes(settings):
    write_dataset_files(settings, ENTRY, 'builtin')
    before = {
        name: (settings.out_dir / name).read_bytes() for name in files_below(settings.out_dir)
    }
    write_dataset_files(settings, ENTRY, 'builtin')
    after = {
        name: (settings.out_dir / name).read_bytes() for name in files_below(settings.out_dir)
    }
    assert before == after


def test_the_version_of_fsl_is_recorded(settings, tmp_path, monkeypatch):
    (tmp_path / 'fsl/etc').mkdir(parents=True)
    (tmp_path / 'fsl/etc/fslversion').write_text('6.0.7:abc\n')
    monkeypatch.setenv('FSLDIR', str(tmp_path / 'fsl'))
    write_dataset_files(settings, ENTRY, 'fsl')
    assert {'Name': 'FSL', 'Version': '6.0.7'} in description(settings)['GeneratedBy']


def test_container_is_recorded(settings, monkeypatch):
    monkeypatch.setenv('MSLESSEG_CONTAINER_TAG', 'mslesseg:1')
    write_dataset_files(settings, ENTRY, 'builtin')
    assert description(settings)['GeneratedBy'][0]['Container'] == {
        'Type': 'docker',
        'Tag': 'mslesseg:1',
    }


# ---------------------------------------------------------------------- file names


def exam_of(settings: Settings, session: str | None = '1') -> Exam:
    anat = settings.bids_dir / 'sub-01' / 'ses-1' / 'anat'
    images = {name: anat / f'sub-01_ses-1_{name}.nii.gz' for name in ('FLAIR', 'T1w')}
    return Exam('01', session, images)


def test_segmentation_stands_before_resolution_as_bids_wants(settings):
    path = output_path(exam_of(settings), 'instances_mni', desc='unet')
    name = 'sub-01_ses-1_space-MNI152NLin6Asym_seg-lesions_res-1_desc-unet_dseg.nii.gz'
    assert path == Path('sub-01/ses-1/anat') / name
    assert sidecar_of(path).name == name.replace('.nii.gz', '.json')


def test_names_without_session(settings):
    path = output_path(exam_of(settings, None), 'to_mni', **{'from': 'T1w'})
    assert path == Path('sub-01/anat/sub-01_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.txt')


def test_a_name_that_the_specification_does_not_have_is_an_error(settings):
    with pytest.raises(ValueError, match='no name'):
        output_path(exam_of(settings), 'figure_alignment', suffix='bold')


# ------------------------------------------------------------------------- sidecars


@pytest.fixture
def texts(settings) -> Sidecars:
    return Sidecars(exam_of(settings), settings, ENTRY, 'builtin')


RAW = 'bids:raw:sub-01/ses-1/anat/sub-01_ses-1_'


def test_sidecar_of_the_lesion_mask(texts):
    content = texts.lesion('lesion', 'native')
    assert content['Type'] == 'Lesion'
    assert content['SpatialReference'] == f'{RAW}FLAIR.nii.gz'
    assert content['Sources'] == [f'{RAW}FLAIR.nii.gz', f'{RAW}T1w.nii.gz']
    assert content['Model']['SHA256'] == ENTRY.digest
    assert content['Threshold'] == ENTRY.threshold
    assert content['MinimumLesionVolume_mm3'] == 3.0
    assert content['Connectivity'] == 6
    assert content['Modalities'] == {
        'used': ['FLAIR', 'T1w'],
        'missing': [],
        'policy': ENTRY.missing,
    }


def test_sidecar_names_only_images_that_the_model_used(settings):
    anat = settings.bids_dir / 'sub-01/ses-1/anat'
    images = {name: anat / f'sub-01_ses-1_{name}.nii.gz' for name in ('FLAIR', 'T2w')}
    content = Sidecars(Exam('01', '1', images), settings, ENTRY, 'builtin').lesion('prob', 'mni')
    assert content['Sources'] == [f'{RAW}FLAIR.nii.gz']
    assert content['Modalities']['missing'] == ['T1w']
    assert content['SpatialReference'] == 'MNI152NLin6Asym'
    assert 'Threshold' not in content
    assert 'Type' not in content


def test_sidecars_do_not_depend_on_what_may_change_between_runs(settings):
    changed = dataclasses.replace(
        settings,
        out_dir=Path('/elsewhere'),
        work_dir=Path('/elsewhere/work'),
        nprocs=7,
        omp_nthreads=3,
        device='cuda:1',
        run_uuid='abc',
        command='mslesseg …',
    )
    first, second = (Sidecars(exam_of(settings), s, ENTRY, 'builtin') for s in (settings, changed))
    for space in ('native', 'mni'):
        assert first.brain(space) == second.brain(space)
        assert first.preproc('FLAIR', space) == second.preproc('FLAIR', space)
        for kind in ('lesion', 'prob', 'instances'):
            assert first.lesion(kind, space) == second.lesion(kind, space)
    assert first.metrics() == second.metrics()


@pytest.mark.parametrize(
    ('changes', 'registered', 'text'),
    [
        ({}, False, 'corrected for the bias field'),
        ({'ignore': ('bias-correction',)}, False, 'no bias-field correction'),
        ({'strategy': 'independent'}, False, 'no bias-field correction'),
        ({}, True, 'no bias-field correction'),
    ],
)
def test_sidecar_says_whether_the_bias_field_was_corrected(settings, changes, registered, text):
    exam = dataclasses.replace(exam_of(settings), registered=registered)
    texts = Sidecars(exam, dataclasses.replace(settings, **changes), ENTRY, 'builtin')
    content = texts.preproc('T1w', 'native')
    assert text in content['Description']
    assert content['SkullStripped'] is registered


def test_images_that_bet_stripped_are_called_so(settings):
    changed = dataclasses.replace(settings, strategy='independent', engine='fsl')
    texts = Sidecars(exam_of(settings), changed, ENTRY, 'fsl')
    assert texts.preproc('T1w', 'mni')['SkullStripped'] is True
    assert texts.preproc('T1w', 'native')['SkullStripped'] is False


@pytest.mark.parametrize(
    ('engine', 'strategy', 'seen'),
    [('fsl', 'anchored', 1), ('fsl', 'independent', 2), ('builtin', 'anchored', 2)],
)
def test_a_brain_mask_names_the_images_that_it_was_made_from(settings, engine, strategy, seen):
    changed = dataclasses.replace(settings, strategy=strategy, engine=engine)
    texts = Sidecars(exam_of(settings), changed, ENTRY, engine)
    images = [f'{RAW}FLAIR.nii.gz', f'{RAW}T1w.nii.gz']
    assert texts.brain('mni')['Sources'] == images[:seen]


# ----------------------------------------------------------------------- validation


def test_a_valid_dataset_passes_the_validator(settings):
    assert validation.validate(settings.bids_dir) is None


def test_errors_of_the_validator_are_listed(settings):
    (settings.bids_dir / 'sub-01/ses-1/anat/sub-01_ses-1_desc-x_FLAIR.nii.gz').touch()
    (settings.bids_dir / 'wrong.txt').touch()
    with pytest.raises(InvalidBIDSError, match=r'wrong\.txt') as caught:
        validation.validate(settings.bids_dir)
    assert caught.value.exit_code == 16
    assert '--skip-bids-validation' in caught.value.hint


def test_damaged_images_are_not_the_validators_business(settings):
    path = settings.bids_dir / 'sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz'
    path.write_bytes(path.read_bytes()[:100])
    assert validation.validate(settings.bids_dir) is None
    path.write_bytes(b'')
    assert validation.validate(settings.bids_dir) is None


def test_without_validator_the_user_is_warned(settings, monkeypatch):
    monkeypatch.setattr(validation, 'find_validator', lambda: None)
    warning = validation.validate(settings.bids_dir)
    assert warning is not None
    assert 'not validated' in warning


def test_a_validator_that_breaks_gives_a_warning(settings, monkeypatch, tmp_path):
    broken = tmp_path / 'validator'
    broken.write_text('#!/bin/sh\necho "no memory" >&2\nexit 3\n')
    broken.chmod(0o755)
    monkeypatch.setattr(validation, 'find_validator', lambda: str(broken))
    warning = validation.validate(settings.bids_dir)
    assert warning is not None
    assert 'no memory' in warning


def test_validation_does_not_write_into_the_dataset(settings):
    before = files_below(settings.bids_dir)
    validation.validate(settings.bids_dir)
    assert files_below(settings.bids_dir) == before


def test_the_tree_of_outputs_is_valid_bids(settings, tmp_path):
    """Every name that the specification can give, as mock files, before the validator."""
    import shutil
    import subprocess

    from mslesseg_app.bids.names import expected_outputs

    program = validation.find_validator()
    if program is None:
        pytest.skip('bids-validator-deno is not installed')
    write_dataset_files(settings, ENTRY, 'builtin')
    images = {name: Path(f'{name}.nii.gz') for name in ('FLAIR', 'T1w', 'T2w')}
    for exam in (Exam('01', '1', images), Exam('02', None, images)):
        for path in expected_outputs(exam, 'hyperintensity'):
            target = settings.out_dir / path
            target.parent.mkdir(parents=True, exist_ok=True)
            source = settings.bids_dir / 'sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz'
            if path.name.endswith('.nii.gz'):
                shutil.copy(source, target)
            else:
                target.write_text('{}' if path.suffix == '.json' else '')
    command = [program, str(settings.out_dir), '--format', 'json', '--ignoreNiftiHeaders']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)['issues']['issues']
    wrong = [item for item in issues if item['code'] in ('NOT_INCLUDED', 'FILENAME_MISMATCH')]
    names = [item for item in issues if item['severity'] == 'error' and 'FILE' in item['code']]
    assert not wrong
    assert not names


@pytest.mark.parametrize('place', ['sub-01/all', 'sub-01/anat/up', 'other'])
def test_a_link_without_end_is_not_given_to_the_validator(settings, monkeypatch, place):
    """The official validator follows links to folders, for ever where they lead upwards."""
    root = write_dataset(settings.bids_dir, ['sub-01_FLAIR', 'sub-02_FLAIR'])
    target = root / 'sub-02' if place == 'other' else root
    (root / place).symlink_to(target, target_is_directory=True)
    monkeypatch.setattr(validation, 'find_validator', lambda: pytest.fail('was started'))
    warning = validation.validate(root)
    assert warning is not None
    assert f'{place} is a link' in warning


def test_links_to_files_and_to_other_places_are_validated(settings, tmp_path, monkeypatch):
    root = write_dataset(settings.bids_dir, ['sub-01_FLAIR'])
    (tmp_path / 'elsewhere').mkdir()
    (root / 'sourcedata').symlink_to(tmp_path / 'elsewhere', target_is_directory=True)
    image = root / 'sub-01/anat/sub-01_FLAIR.nii.gz'
    image.rename(tmp_path / 'content')
    image.symlink_to(tmp_path / 'content')
    monkeypatch.setattr(validation, 'find_validator', lambda: None)
    assert 'is not installed' in str(validation.validate(root))
