"""Networks through the whole App, with small random weights; and from Python, the same bits."""

from __future__ import annotations

import json
import pickle
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nb
import numpy as np
import pandas as pd
import pytest
import torch
from running import QUICK
from skeleton import write_dataset
from tiny_models import add_tiny, save_weights

import mslesseg_app
from mslesseg_app.cli.main import main
from mslesseg_app.core.files import file_sha256
from mslesseg_app.models.registry import get_entry
from mslesseg_app.models.store import write_entry

NETWORKS = ('unetr', pytest.param('mssegdiff', marks=pytest.mark.slow))


def values(path: Path) -> np.ndarray:
    return np.asanyarray(nb.load(path).dataobj)


def check_outputs(anat: Path, stem: str, entry) -> None:
    """Check images and sidecars of one exam."""
    for space in ('space-orig_', 'space-MNI152NLin6Asym_res-1_'):
        prob = values(anat / f'{stem}{space}label-lesion_desc-{entry.name}_probseg.nii.gz')
        assert prob.dtype == np.float32
        assert 0 <= prob.min() < prob.max() <= 1
        mask = values(anat / f'{stem}{space}label-lesion_desc-{entry.name}_mask.nii.gz')
        assert mask.dtype == np.uint8
        assert mask.shape == prob.shape
    sidecar = json.loads(
        (anat / f'{stem}space-orig_label-lesion_desc-{entry.name}_mask.json').read_text()
    )
    assert sidecar['Model']['Name'] == entry.name
    assert sidecar['Model']['Architecture'] == entry.architecture
    assert sidecar['Model']['SHA256'] == entry.digest
    assert sidecar['Modalities']['used'] == ['FLAIR', 'T1w', 'T2w']


def accepted(out: Path) -> bool:
    from mslesseg_app.bids.validation import find_validator

    program = find_validator()
    if program is None:
        pytest.skip('bids-validator-deno is not installed')
    return subprocess.run([program, str(out)], capture_output=True).returncode == 0


@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_runs_end_to_end(name, network_out, own_models):
    out = network_out(name)
    check_outputs(out / 'sub-01' / 'anat', 'sub-01_', get_entry(name, own_models))


def test_the_validator_accepts_what_a_network_leaves(network_out):
    assert accepted(network_out('unetr'))


def test_a_network_from_python_is_the_app_bit_by_bit(network_out, three, own_models):
    anat = network_out('unetr') / 'sub-01' / 'anat'
    images = {m.lower(): three / f'sub-01/anat/sub-01_{m}.nii.gz' for m in ('FLAIR', 'T1w', 'T2w')}
    found = mslesseg_app.segment(**images, model='unetr', model_dir=own_models, threads=1)
    for kind, image in (('mask', found.mask), ('probseg', found.probability)):
        path = anat / f'sub-01_space-orig_label-lesion_desc-unetr_{kind}.nii.gz'
        assert np.array_equal(values(path), np.asanyarray(image.dataobj))
        assert nb.load(path).affine.tobytes() == image.affine.tobytes()


@pytest.mark.slow
def test_a_whole_head_from_python_is_the_app_bit_by_bit(finished):
    found = mslesseg_app.segment(
        *(finished.raw(modality) for modality in ('FLAIR', 'T1w', 'T2w')),
        model='hyperintensity',
        threads=1,
    )
    images = {
        'space-orig_label-lesion_desc-hyperintensity_mask': found.mask,
        'space-orig_label-lesion_desc-hyperintensity_probseg': found.probability,
        'space-orig_seg-lesions_desc-hyperintensity_dseg': found.instances,
        'space-orig_seg-mcdonald_desc-hyperintensity_dseg': found.regions,
        'space-MNI152NLin6Asym_res-1_label-lesion_desc-hyperintensity_probseg': (
            found.probability_mni
        ),
        'desc-brain_mask': found.brain,
    }
    for name, image in images.items():
        path = finished.file(f'{name}.nii.gz')
        assert np.array_equal(values(path), np.asanyarray(image.dataobj)), name
        assert nb.load(path).affine.tobytes() == image.affine.tobytes(), name
    assert found.volumes['lesion_count'] > 0
    stored = pd.read_csv(finished.file('desc-hyperintensity_lesions.tsv'), sep='\t')
    assert list(found.lesions['region']) == list(stored['region'])
    for name in ('distance_ventricle_mm', 'distance_cortex_mm', 'flair_ratio', 't1w_ratio'):
        np.testing.assert_allclose(found.lesions[name], stored[name], rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.realdata
def test_a_real_exam(real_data, own_models, run, tmp_path):
    bids = real_data / 'ljubljana-bids'
    if not bids.is_dir():
        pytest.skip('the data have no ljubljana-bids')
    done = run(
        bids, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', '--nprocs', '2',
        '--participant-label', 'LJ12', '--session-label', '1',
        '--model', 'unetr', '--model-dir', own_models,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    entry = get_entry('unetr', own_models)
    anat = tmp_path / 'out' / 'sub-LJ12' / 'ses-1' / 'anat'
    check_outputs(anat, 'sub-LJ12_ses-1_', entry)
    assert accepted(tmp_path / 'out')
    raw = nb.load(bids / 'sub-LJ12/ses-1/anat/sub-LJ12_ses-1_FLAIR.nii.gz')
    for path in anat.glob('*space-orig*desc-unetr*.nii.gz'):
        made = nb.load(path)
        assert made.shape == raw.shape
        assert made.affine.tobytes() == raw.affine.tobytes()


# --------------------------------------------------------------------- bad weights


@pytest.fixture
def described(tmp_path):
    """Return a function that describes any file as the weights of a tiny network."""
    entry = add_tiny('unet', tmp_path / 'm', required=('FLAIR',), missing='zero')

    def go(make) -> None:
        path = tmp_path / 'm' / 'w.safetensors'
        make(path)
        changed = replace(entry, weights=path.name, sha256=file_sha256(path))
        write_entry(changed, tmp_path / 'm' / 'unet.toml')

    return go


@pytest.fixture
def app(tmp_path, capsys):
    """Return a function that runs the App in this process on an exam that it must not reach."""
    bids = write_dataset(tmp_path / 'bids', ['sub-01_FLAIR'])

    def go(*options: object) -> tuple[int, str]:
        places = [bids, tmp_path / 'out', 'participant', '-w', tmp_path / 'work']
        code = main([*map(str, places), '--skip-bids-validation', *map(str, options)])
        err = capsys.readouterr().err
        assert 'Traceback' not in err
        assert not (tmp_path / 'out').exists(), 'refused before anything was written'
        return code, err

    return go


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({'state_dict': [1, 2, 3]}))


def write_part(path: Path) -> None:
    path.write_bytes(save_weights('unet', path).read_bytes()[:-100])


def write_other(path: Path) -> None:
    save_weights('transbts', path)


def write_less(path: Path) -> None:
    save_weights('unet', path, **{'head.bias': None})


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (lambda path: path.write_text('no tensors'), 'no safetensors'),
        (lambda path: path.write_bytes(b''), 'no safetensors'),
        (write_pickle, 'no safetensors'),
        (write_part, 'no safetensors'),
        (write_other, 'another network'),
        (write_less, 'another network'),
    ],
    ids=['text', 'empty', 'pickle', 'truncated', 'other network', 'a tensor less'],
)
def test_bad_weights_are_refused_at_the_start(described, app, tmp_path, make, words):
    described(make)
    code, err = app('--model', 'unet', '--model-dir', tmp_path / 'm')
    assert code == 65
    assert words in err
    assert len(err.strip().splitlines()) > 1, 'a hint'


def test_weights_of_another_hash_are_refused(described, app, tmp_path):
    described(lambda path: save_weights('unet', path))
    path = tmp_path / 'm' / 'w.safetensors'
    path.write_bytes(path.read_bytes()[:-1] + b'\x01')
    code, err = app('--model', 'unet', '--model-dir', tmp_path / 'm')
    assert (code, 'SHA256' in err) == (65, True)
    path.unlink()
    code, err = app('--model', 'unet', '--model-dir', tmp_path / 'm')
    assert (code, 'not on this machine' in err) == (65, True)


@pytest.mark.parametrize('name', ['mssegdiff', 'swinunetr', 'unetr', 'transbts'])
def test_networks_without_weights_do_not_run(app, name):
    code, err = app('--model', name)
    assert code == 65
    assert 'mslesseg models add' in err


@pytest.mark.parametrize(
    ('old', 'new', 'words'),
    [
        ('version', 'colour', 'unknown field'),
        ('weights = "', 'weights = "../', 'in the folder'),
        ('normalisation = "zscore"', 'normalisation = "best"', 'normalisation'),
        ('    32,\n', '    30,\n', 'multiples'),
    ],
)
def test_bad_descriptions_are_refused_at_the_start(described, app, tmp_path, old, new, words):
    described(lambda path: save_weights('unet', path))
    path = tmp_path / 'm' / 'unet.toml'
    text = path.read_text().replace('fit = true', 'fit = false')
    path.write_text(text.replace(old, new, 1))
    code, err = app('--model', 'unet', '--model-dir', tmp_path / 'm')
    assert code == 65
    assert words in err


def test_weights_that_are_no_numbers_end_the_exam(described, quick, run, tmp_path):
    """Only loading them shows it: the exam fails, and the run says why."""
    nan = torch.full((1,), float('nan'))
    described(lambda path: save_weights('unet', path, **{'head.bias': nan}))
    done = run(
        quick, tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *QUICK,
        '--model', 'unet', '--model-dir', tmp_path / 'm',
    )  # fmt: skip
    assert done.code == 65
    assert 'not numbers' in done.stderr
    assert not list((tmp_path / 'out').rglob('*_mask.nii.gz'))
