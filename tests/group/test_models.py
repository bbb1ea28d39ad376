"""Models side by side: accuracy and cost in one table, agreement without references."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from grouptree import add_exam, lesion_mask, make_tree, save

from mslesseg_app.group import run_group
from mslesseg_app.group.models import costs, model_rows, pair_summary


def log(out: Path, run: str, models: list[str], rows: dict[str, float], **settings) -> Path:
    """Write what a run leaves in ``logs``."""
    logs = out / 'logs'
    logs.mkdir(parents=True, exist_ok=True)
    more = ''.join(f'{key} = "{value}"\n' for key, value in settings.items())
    (logs / f'mslesseg-{run}.toml').write_text(f'model = {json.dumps(models)}\n{more}')
    text = ''.join(f'{node}\t{seconds:.2f}\n' for node, seconds in rows.items())
    path = logs / f'mslesseg-{run}_timings.txt'
    path.write_text(f'node\tseconds\n{text}')
    return path


def test_the_study_has_one_row_a_model(study, read):
    """Values are those of the summary; no run was logged here."""
    means = {(r['model'], r['metric']): r for r in read(study.out / 'group_summary.tsv')}
    found = read(study.out / 'group_models.tsv')
    assert [row['model'] for row in found][:2] == ['floor', 'unet']
    for row in found:
        for metric in ('DSC', 'lesion_F1', 'LTPR', 'LFPR'):
            mean = means[row['model'], metric]
            assert (row[metric], row[f'{metric}_ci_low']) == (mean['mean'], mean['ci_low'])
        assert row['n_exams'] == means[row['model'], 'DSC']['n_exams']
        assert row['seconds'] == row['memory_gib'] == 'n/a'
    assert 'Models side by side' in (study.out / 'group_lesions.html').read_text()


def test_pairs_are_compared_without_references(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 2, models=('unet', 'floor', 'mean'), references=False)
    assert run_group(run_settings(tree, derivatives={}), quiet=True) == 0
    found = read(tree.out / 'group_model_pairs.tsv')
    assert [(r['model_a'], r['model_b']) for r in found] == [('floor', 'unet')] * 2
    for row in found:
        one, two = (tree.predicted[row['participant_id'], row[m]] for m in ('model_a', 'model_b'))
        dice = 2 * (one & two).sum() / (one.sum() + two.sum())
        assert float(row['DSC']) == pytest.approx(dice, rel=1e-5)
    (dsc,) = [r for r in read(tree.out / 'group_model_agreement.tsv') if r['measure'] == 'DSC']
    assert float(dsc['mean']) == pytest.approx(np.mean([float(r['DSC']) for r in found]), rel=1e-5)
    assert float(dsc['ci_low']) <= float(dsc['mean']) <= float(dsc['ci_high'])


def test_the_models_of_an_ensemble_are_compared_by_its_map(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 1, models=('mean',), references=False)
    one, two = (lesion_mask(np.random.default_rng(seed)) for seed in (1, 2))
    stem = tree.out / 'sub-01' / 'anat' / 'sub-01_space-orig_seg-models_desc-mean_dseg'
    save(stem.with_suffix('.nii.gz'), (one + 2 * two).astype(np.uint8))
    members = {'Model': {'Members': [{'Name': 'unet'}, {'Name': 'floor'}]}}
    stem.with_suffix('.json').write_text(json.dumps(members))
    assert run_group(run_settings(tree, derivatives={}), quiet=True) == 0
    (row,) = read(tree.out / 'group_model_pairs.tsv')
    assert (row['model_a'], row['model_b']) == ('floor', 'unet')
    dice = 2 * (one & two).sum() / (one.sum() + two.sum())
    assert float(row['DSC']) == pytest.approx(dice, rel=1e-5)
    stem.with_suffix('.json').write_text('{}')
    assert run_group(run_settings(tree, derivatives={}), quiet=True) == 0


def test_an_exam_on_which_the_models_disagree_is_flagged(tmp_path, run_settings, read):
    """The limit is what is usual in this study."""
    tree = make_tree(tmp_path, 0, references=False)
    generator = np.random.default_rng(5)
    for number in range(8):
        mask, less = lesion_mask(generator), generator.random((40, 48, 36)) > 0.05 * number
        add_exam(tree, f'sub-{number}', None, {'unet': mask, 'floor': mask & less})
    masks = {model: lesion_mask(generator) for model in ('unet', 'floor')}
    add_exam(tree, 'sub-20', None, masks)
    assert run_group(run_settings(tree, derivatives={}), quiet=True) == 0
    rows = read(tree.out / 'group_outliers.tsv')
    found = [r['participant_id'] for r in rows if r['column'] == 'model_agreement']
    assert found == ['sub-20']
    page = (tree.out / 'group_lesions.html').read_text()
    assert 'agreement of the models is unusually low' in page


def test_what_the_participant_level_said_of_agreement_is_kept(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 0, references=False)
    mask = lesion_mask(np.random.default_rng(5))
    for number, status in enumerate(('pass', 'check')):
        add_exam(tree, f'sub-{number}', None, {'mean': mask}, model_agreement_status=status)
    assert run_group(run_settings(tree, derivatives={}), quiet=True) == 0
    (row,) = read(tree.out / 'group_outliers.tsv')
    named = row['participant_id'], row['model'], row['column'], row['reason']
    what = 'model_agreement_status'
    assert named == ('sub-1', 'mean', what, 'the models of the ensemble disagree')


def test_costs_are_read_from_the_logs(tmp_path):
    """The newest run of an exam counts; an ensemble costs what its models do."""
    old = log(tmp_path, 'a', ['unet'], {'sub_01_wf.lesion_wf.segment': 90, 'sub_01_wf.x.find': 3})
    os.utime(old, (1, 1))
    log(tmp_path, 'b', ['unet'], {
        'sub_01_wf.lesion_wf.segment': 10, 'sub_02_wf.lesion_wf.segment': 14,
    })  # fmt: skip
    log(tmp_path, 'c', ['big', 'small'], {
        'sub_01_wf.lesion_wf.segment_big': 30, 'sub_01_wf.lesion_wf.segment_small': 2,
    }, ensemble='staple')  # fmt: skip
    watched = {'name': ['segment_big', 'segment_small', 'find'], 'rss_GiB': [3.5, 1.5, 9]}
    path = tmp_path / 'logs' / 'mslesseg-c_sub_01_wf_resources.json'
    path.write_text(json.dumps(watched))
    (tmp_path / 'logs' / 'mslesseg-d_timings.txt').write_text('sub_01_wf.segment\t5\n')  # no TOML
    rows = {row['model']: row for row in model_rows([], costs(tmp_path))}
    assert {name: row['seconds'] for name, row in rows.items()} == {
        'big': 30, 'small': 2, 'staple': 32, 'unet': 12,
    }  # fmt: skip
    assert {name: row['memory_gib'] for name, row in rows.items()} == {
        'big': 3.5, 'small': 1.5, 'staple': 3.5, 'unet': None,
    }  # fmt: skip


def test_two_empty_masks_agree(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 1, references=False)
    empty = np.zeros((40, 48, 36), bool)
    add_exam(tree, 'sub-09', None, {'unet': empty, 'floor': empty})
    assert run_group(run_settings(tree, derivatives={}), quiet=True) == 0
    rows = {r['participant_id']: r for r in read(tree.out / 'group_model_pairs.tsv')}
    assert rows['sub-09']['DSC'] == '1'
    assert rows['sub-09']['shared_a'] == 'n/a'


def test_intervals_are_of_patients(tmp_path):
    """Ten scans of one patient have no interval."""
    row = {'participant_id': 'sub-01', 'model_a': 'a', 'model_b': 'b', 'DSC': 0.5}
    row |= dict.fromkeys(('volume_difference_ml', 'shared_a', 'shared_b'), 0.1)
    found = pair_summary([row] * 10, 1)[0]
    assert (found['n_exams'], found['n_patients'], found['mean']) == (10, 1, 0.5)
    assert np.isnan(found['ci_low'])
