"""Several models in one run: combined maps, uncertainty, agreement, and how they are reported."""

from __future__ import annotations

import csv
import json
import subprocess
from importlib.resources import files
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from running import QUICK, contents

from mslesseg_app.metrics.members import member_masks

STEM = 'sub-01_ses-1_'


def write_models(folder: Path) -> Path:
    """Describe three models without weights that differ in what they call a lesion."""
    text = files('mslesseg_app.data').joinpath('models/hyperintensity.toml').read_text()
    folder.mkdir()
    for name, threshold in (('strict', 0.9), ('plain', 0.5), ('lenient', 0.2)):
        changed = text.replace("name = 'hyperintensity'", f"name = '{name}'", 1)
        changed = changed.replace('threshold = 0.5', f'threshold = {threshold}', 1)
        (folder / f'{name}.toml').write_text(changed)
    return folder


@pytest.fixture(scope='module')
def out(registered, run, tmp_path_factory):
    """The output of a run with three models and the entropy of their mean."""
    root = tmp_path_factory.mktemp('ensemble')
    models = write_models(root / 'models')
    done = run(
        *(registered, root / 'out', 'participant', '-w', root / 'work', *QUICK),
        *('--model-dir', models, '--model', 'strict', 'plain', 'lenient'),
        *('--ensemble', 'staple', '--uncertainty', 'entropy'),
    )
    assert done.code == 0, done.stderr
    return root / 'out'


@pytest.fixture
def anat(out: Path) -> Path:
    return out / 'sub-01' / 'ses-1' / 'anat'


@pytest.mark.slow
def test_files_carry_the_method_and_the_validator_accepts_them(out, anat):
    from mslesseg_app.bids.validation import find_validator

    for name in (
        'space-orig_label-lesion_desc-staple_mask.nii.gz',
        'space-orig_desc-staple_uncertainty.nii.gz',
        'space-MNI152NLin6Asym_res-1_desc-staple_uncertainty.json',
        'desc-staple_lesions.tsv',
    ):
        assert (anat / f'{STEM}{name}').is_file()
    program = find_validator()
    if program is not None:
        done = subprocess.run([program, str(out)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_sidecar_lists_the_members_and_their_rates(anat):
    content = json.loads(
        (anat / f'{STEM}space-orig_label-lesion_desc-staple_mask.json').read_text()
    )
    assert [m['Name'] for m in content['Model']['Members']] == ['strict', 'plain', 'lenient']
    assert [m['Threshold'] for m in content['Model']['Members']] == [0.9, 0.5, 0.2]
    agreement = content['ModelAgreement']
    assert [pair['Models'] for pair in agreement['Pairs']] == [
        ['strict', 'plain'], ['strict', 'lenient'], ['plain', 'lenient'],
    ]  # fmt: skip
    assert 0 < agreement['MeanDSC'] < 1
    with (anat / f'{STEM}desc-staple_metrics.tsv').open() as file:
        (row,) = csv.DictReader(file, delimiter='\t')
    assert row['model_agreement_status'] == agreement['Status']
    page = (anat.parents[2] / 'sub-01.html').read_text()
    assert ('The models disagree' in page) == (agreement['Status'] == 'check')
    members = member_masks(anat / f'{STEM}space-orig_seg-models_desc-staple_dseg.nii.gz')
    sizes = [int(np.asarray(mask.dataobj).sum()) for mask in members.values()]
    assert list(members) == ['strict', 'plain', 'lenient']
    assert 0 < sizes[0] < sizes[1] < sizes[2]
    rates = [m['Sensitivity'] for m in content['Models']]
    assert rates == sorted(rates)
    assert rates[0] < rates[2]


@pytest.mark.slow
def test_uncertainty_lies_on_the_grid_of_the_flair(anat, registered):
    raw = nb.load(registered / f'sub-01/ses-1/anat/{STEM}FLAIR.nii.gz')
    image = nb.load(anat / f'{STEM}space-orig_desc-staple_uncertainty.nii.gz')
    assert image.affine.tobytes() == raw.affine.tobytes()
    uncertainty = np.asarray(image.dataobj)
    assert uncertainty.shape == raw.shape
    assert 0 < uncertainty.max() <= 1


@pytest.mark.slow
def test_the_table_tells_uncertainty_and_agreement(anat, out):
    with (anat / f'{STEM}desc-staple_lesions.tsv').open() as file:
        rows = list(csv.DictReader(file, delimiter='\t'))
    assert rows
    for row in rows:
        assert 1 <= int(float(row['n_models_agree'])) <= 3
        assert 0 < float(row['agreement']) <= 1
        assert 0 <= float(row['mean_uncertainty']) <= 1
    page = (out / 'sub-01.html').read_text()
    assert 'Outlines: strict orange, plain blue, lenient pink' in page
    assert 'STAPLE gave strict a sensitivity' in page
    assert 'mean uncertainty' in page
    assert 'combined by' in (out / 'logs' / 'CITATION.md').read_text()


@pytest.mark.slow
def test_another_method_runs_no_model_again_and_repeats_are_equal(out, registered, run):
    root = out.parent
    work = root / 'work'
    before = {p: p.stat().st_mtime_ns for p in work.rglob('segment_*/result_*.pklz')}
    assert len(before) == 3
    options = (*QUICK, '--model-dir', root / 'models', '--model', 'strict', 'plain', 'lenient')
    for name in ('second', 'third'):
        done = run(registered, root / name, 'participant', '-w', work, *options)
        assert done.code == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (root / f'second/sub-01/ses-1/anat/{STEM}desc-mean_lesions.tsv').is_file()
    assert contents(root / 'second') == contents(root / 'third')
