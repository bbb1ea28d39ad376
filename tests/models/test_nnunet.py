"""Reading trained models of nnU-Net: what is understood, and what is refused with its reason.

The package nnunetv2 is not needed here: nothing is run.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_nnunet import dataset, export, plans, some_tensors, write_model

from mslesseg_app.core.errors import ModelError, UsageError
from mslesseg_app.models.nnunet import is_nnunet, read_fold, read_nnunet
from mslesseg_app.models.nnunet_plans import lesion_names
from mslesseg_app.models.store import add_model


def write(root: Path, **more) -> Path:
    return write_model(root, official=False, **more)


def read(source: Path, staging: Path, **overrides):
    staging.mkdir(exist_ok=True)
    return read_nnunet(source, staging, overrides)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return tmp_path / 'staging'


def test_folder_and_archive_say_the_same(tmp_path, staging):
    folder = write(tmp_path, folds=(0, 2))
    archive = export(folder, tmp_path / 'model.zip')
    assert is_nnunet(folder)
    assert is_nnunet(archive)
    fields, files = read(folder, staging)
    again, others = read(archive, tmp_path / 'other')
    assert again == fields
    assert fields['channels'] == ('FLAIR',)
    assert fields['options']['folds'] == ['0', '2']
    assert fields['options']['lesion'] == ['lesion']
    for number, (one, other) in enumerate(zip(files, others, strict=True)):
        assert one.read_bytes() == other.read_bytes()
        fold, expected = read_fold(one), some_tensors(number)
        assert fold.tensors.keys() == expected.keys()
        assert all(torch.equal(fold.tensors[name], expected[name]) for name in expected)
        assert fold.about['mirror_axes'] == [0, 1, 2]
        assert fold.about['plans'] == plans()
        assert one.stat().st_size < 20_000


def test_a_tensor_with_two_names_is_stored_once(tmp_path, staging):
    from safetensors import safe_open

    _, (file,) = read(write(tmp_path), staging)
    with safe_open(file, framework='pt') as stored:
        assert len(list(stored.keys())) == 2


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (('T1', 'FLAIR'), ('T1w', 'FLAIR')),
        (('T2w', 't1_mprage', 'FLAIR_n4'), ('T2w', 'T1w', 'FLAIR')),
        (('T2-FLAIR',), ('FLAIR',)),
    ],
)
def test_channels_are_known_by_their_names(tmp_path, staging, names, expected):
    folder = write(tmp_path, data=dataset(names))
    assert read(folder, staging)[0]['channels'] == expected


def test_channels_without_a_clear_name_are_asked_for(tmp_path, staging):
    folder = write(tmp_path, data=dataset(('MRI', 'noNorm')))
    with pytest.raises(UsageError, match='MRI, noNorm') as error:
        read(folder, staging)
    assert '--channels' in error.value.hint
    fields, _ = read(folder, staging, channels=('T1w', 'FLAIR'))
    assert fields['channels'] == ('T1w', 'FLAIR')
    with pytest.raises(UsageError, match='2 channels'):
        read(folder, staging, channels=('FLAIR',))


def test_an_export_of_ours_says_grid_and_skull_unless_the_user_does(tmp_path, staging):
    made = {'space': 'template', 'whole_head': True, 'version': '0.1.0'}
    folder = write(tmp_path, data=dataset(mslesseg=made))
    options = read(folder, staging)[0]['options']
    assert (options['space'], options['whole_head']) == ('template', True)
    options = read(folder, staging, options={'space': 'native'})[0]['options']
    assert (options['space'], options['whole_head']) == ('native', True)
    other = write(tmp_path / 'other', data=dataset(mslesseg='by hand'))
    assert 'space' not in read(other, staging)[0]['options']


def test_contrast_enhanced_images_are_no_t1w(tmp_path, staging):
    with pytest.raises(UsageError, match='T1ce'):
        read(write(tmp_path, data=dataset(('FLAIR', 'T1ce'))), staging)


def test_the_label_of_lesions_is_asked_for_when_there_are_several():
    data = dataset(labels={'background': 0, 'brain': 1, 'lesion': 2, 'ignore': 3})
    with pytest.raises(UsageError, match=r'brain \(1\), lesion \(2\)'):
        lesion_names(data, None)
    assert lesion_names(data, 'lesion') == lesion_names(data, 2) == ('lesion',)
    assert lesion_names(data, ['brain', 2]) == ('brain', 'lesion')
    with pytest.raises(UsageError, match='no label'):
        lesion_names(data, 'wmh')


def test_folds_and_checkpoints_are_chosen(tmp_path, staging):
    folder = write(tmp_path, folds=(0, 1, 'all'))
    assert read(folder, staging)[0]['options']['folds'] == ['0', '1']
    fields, files = read(folder, staging, options={'folds': [1]})
    assert (fields['options']['folds'], len(files)) == (['1'], 1)
    assert read(folder, staging, options={'folds': 'all'})[0]['options']['folds'] == ['all']
    with pytest.raises(ModelError, match='fold 4; folds with one: 0, 1, all'):
        read(folder, staging, options={'folds': [4]})
    best = write(tmp_path / 'best', name='checkpoint_best.pth')
    with pytest.raises(ModelError) as error:
        read(best, staging)
    assert '--option checkpoint=best' in error.value.hint
    assert read(best, staging, options={'checkpoint': 'best'})[1]


# ------------------------------------------------------------------------------ refusals


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path, staging):
    folder = write(tmp_path, my_note=Evil(tmp_path / 'was-here'))
    with pytest.raises(ModelError, match=r'posix\.system, which is refused'):
        read(folder, staging)
    assert not (tmp_path / 'was-here').exists()


def test_numpy_arrays_are_not_scalars(tmp_path, staging):
    import numpy as np

    with pytest.raises(ModelError, match=r'_reconstruct, which is refused'):
        read(write(tmp_path, curve=np.zeros(3)), staging)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'patch_size': [16, 16]}, '2D configuration'),
        ({'previous_stage': '3d_lowres'}, 'cascade'),
        ({'plans': {'image_reader_writer': 'NaturalImage2DIO'}}, 'NaturalImage2DIO'),
        (
            {'architecture': {'network_class_name': 'os.system', 'arch_kwargs': {}}},
            "'os.system', which is refused",
        ),
        ({'patch_size': 96}, 'not as nnU-Net writes'),
        ({'architecture': ['UNet']}, 'not as nnU-Net writes'),
        ({'inherits_from': 'nowhere'}, "no configuration 'nowhere'"),
    ],
)
def test_plans_that_cannot_be_run_are_refused(tmp_path, staging, change, words):
    with pytest.raises(ModelError, match=words):
        read(write(tmp_path, plan=plans(**change)), staging)


def test_classes_inside_of_arguments_are_checked_too(tmp_path, staging):
    plan = plans()
    plan['configurations']['3d_fullres']['architecture']['arch_kwargs']['nonlin'] = 'shutil.rmtree'
    with pytest.raises(ModelError, match=r"'shutil\.rmtree', which is refused"):
        read(write(tmp_path, plan=plan), staging)


def test_models_of_version_1_are_told_as_such(tmp_path, staging):
    folder = tmp_path / 'Task004' / 'nnUNetTrainerV2__nnUNetPlansv2.1'
    (folder / 'fold_0').mkdir(parents=True)
    (folder / 'plans.pkl').write_bytes(pickle.dumps({}))
    (folder / 'fold_0' / 'model_final_checkpoint.model').write_bytes(b'')
    assert is_nnunet(folder)
    with pytest.raises(ModelError, match='nnU-Net v1'):
        read(folder, staging)
    modern = write(tmp_path / 'mixed')
    torch.save({'state_dict': {}}, modern / 'fold_0' / 'checkpoint_final.pth')
    with pytest.raises(ModelError, match='no network_weights'):
        read(modern, staging)


@pytest.mark.parametrize('name', ['../../evil.txt', '/tmp/evil.txt', 'a\\..\\..\\evil.txt'])
def test_archives_with_paths_that_leave_the_folder_are_refused(tmp_path, staging, name):
    archive = export(write(tmp_path), tmp_path / 'model.zip')
    with zipfile.ZipFile(archive, 'a') as file:
        file.writestr(name, 'evil')
    with pytest.raises(ModelError, match='leaves its folder'):
        read(archive, staging)


def test_a_damaged_archive_is_told_as_such(tmp_path, staging):
    archive = export(write(tmp_path), tmp_path / 'model.zip')
    content = bytearray(archive.read_bytes())

    where = archive.read_bytes().index(b'network_class_name')
    content[where] ^= 255
    archive.write_bytes(content)
    with pytest.raises(ModelError, match='is damaged'):
        read(archive, staging)
    archive.write_bytes(bytes(content[:3000]))
    with pytest.raises(ModelError, match='damaged archive'):
        add_model(archive, tmp_path / 'models', {'name': 'mine'})


def test_nothing_is_left_behind_when_a_model_is_refused(tmp_path):
    folder = write(tmp_path, plan=plans(patch_size=[16, 16]))
    with pytest.raises(ModelError, match='2D'):
        add_model(folder, tmp_path / 'models', {'name': 'mine'})
    assert list((tmp_path / 'models').iterdir()) == []


def test_an_option_that_is_not_known_is_refused(tmp_path, staging):
    with pytest.raises(UsageError, match="no option 'mirror'"):
        read(write(tmp_path), staging, options={'mirror': False})


def test_without_the_package_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ModelError, match='nnunetv2 is not installed') as error:
        add_model(write(tmp_path), tmp_path / 'models', {'name': 'mine'})
    assert 'pip install "mslesseg[nnunet]"' in str(error.value)
