"""The group level on small studies: what it writes, what it says, and how it ends."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from grouptree import (
    SPACING,
    add_exam,
    add_failure,
    lesion_mask,
    make_tree,
    save,
    write_participants,
)

from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError, NoInputError, OutputError, UsageError
from mslesseg_app.group import run_group
from mslesseg_app.metrics.evaluation import evaluate

TABLES = [
    'volumes',
    'exams',
    'cohort',
    'outliers',
    'evaluation',
    'summary',
    'comparison',
    'agreement',
    'sizes',
    'consensus',
]


def copied(study, tmp_path):
    """A study of the test's own."""
    shutil.copytree(study.out.parent, tmp_path / 'own')
    root = tmp_path / 'own'
    return type(study)(root / 'bids', root / 'out', root / 'manual', study.truth, study.predicted)


# ---------------------------------------------------------------------- what is written


@pytest.mark.parametrize('name', TABLES)
def test_each_table_has_its_dictionary(study, read, name):
    path = study.out / f'group_{name}.tsv'
    found = read(path)
    columns = json.loads(path.with_suffix('.json').read_text())
    assert found or name == 'outliers'
    for row in found:
        assert set(row) <= set(columns)
        assert all(value != '' for value in row.values()), 'what is missing is n/a'
    assert all(item['Description'] for item in columns.values())


def test_every_exam_and_model_is_evaluated(study, read):
    found = {
        (row['participant_id'], row['model']): row
        for row in read(study.out / 'group_evaluation.tsv')
    }
    joint = [f'consensus-{method}' for method in ('staple', 'majority', 'mean')]
    assert set(found) == {
        (exam, model) for exam in study.truth for model in ['unet', 'floor', *joint]
    }
    for (exam, model), mask in study.predicted.items():
        expected = evaluate(mask, study.truth[exam], SPACING).values
        row = found[exam, model]
        for name, value in expected.items():
            if math.isnan(value):
                assert row[name] == 'n/a', name
            else:
                assert float(row[name]) == pytest.approx(value, rel=1e-5, abs=1e-9), name
        assert row['reference_grid'] == 'orig'
        assert row['rules'] == 'mslesseg'


def test_summary_is_the_mean_of_the_rows(study, read):
    rows = [r for r in read(study.out / 'group_evaluation.tsv') if r['model'] == 'unet']
    (found,) = (
        row
        for row in read(study.out / 'group_summary.tsv')
        if (row['model'], row['metric']) == ('unet', 'DSC')
    )
    values = [float(row['DSC']) for row in rows]
    assert float(found['mean']) == pytest.approx(np.mean(values), rel=1e-5)
    assert float(found['sd']) == pytest.approx(np.std(values, ddof=1), rel=1e-4)
    assert float(found['ci_low']) <= np.mean(values) <= float(found['ci_high'])
    assert (found['n_exams'], found['n_patients']) == ('7', '7')


def test_sizes_pool_the_lesions_of_all_exams(study, read):
    rows = [r for r in read(study.out / 'group_evaluation.tsv') if r['model'] == 'floor']
    total = sum(int(row['n_reference_large']) for row in rows)
    found = sum(
        round(float(row['LTPR_large']) * int(row['n_reference_large']))
        for row in rows
        if row['LTPR_large'] != 'n/a'
    )
    (row,) = (
        row
        for row in read(study.out / 'group_sizes.tsv')
        if (row['model'], row['size']) == ('floor', 'large')
    )
    assert (int(row['n_lesions']), int(row['n_found'])) == (total, found)
    assert float(row['share']) == pytest.approx(found / total, rel=1e-5)


def test_volumes_agree_with_the_masks(study, read):
    difference = [
        float((study.predicted[exam, 'unet'].sum() - truth.sum()) * np.prod(SPACING) / 1000)
        for exam, truth in study.truth.items()
    ]
    (row,) = (r for r in read(study.out / 'group_agreement.tsv') if r['model'] == 'unet')
    assert float(row['bias']) == pytest.approx(np.mean(difference), rel=1e-4)
    assert float(row['difference_sd']) == pytest.approx(np.std(difference, ddof=1), rel=1e-4)


def test_participants_are_joined_and_described(study, read):
    first = read(study.out / 'group_volumes.tsv')[0]
    assert (first['age'], first['sex'], first['edss']) == ('31', 'M', '0.5')
    rows = {
        (r['part'], r['variable'], r['model']): r for r in read(study.out / 'group_cohort.tsv')
    }
    age = rows['all', 'age', 'n/a']
    assert (age['n'], float(age['mean']), float(age['minimum'])) == ('7', 34.0, 31.0)
    assert rows['all', 'sex', 'n/a']['levels'] == '3 F, 4 M'
    assert rows['split test', 'participants', 'n/a']['n'] == '2'
    assert rows['all', 'lesion_volume_ml', 'unet']['n'] == '7'
    assert not (study.out / 'participants.tsv').exists(), 'the raw table is not rewritten'


def test_every_figure_has_its_data(study):
    figures = sorted((study.out / 'group_figures').glob('*.svg'))
    assert len(figures) > 12
    for figure in figures:
        data = figure.with_suffix('.tsv').read_text().splitlines()
        assert len(data) > 1, figure.name


def test_markdown_and_latex(study):
    text = (study.out / 'group_tables.md').read_text()
    assert '**Accuracy by model**' in text
    assert '| DSC | unet | ' in text
    latex = (study.out / 'group_tables.tex').read_text()
    assert latex.count(r'\begin{tabular}') == latex.count(r'\end{tabular}') >= 6
    assert r'lesion\_volume\_ml' in latex
    assert r'$\pm$' in latex
    for line in latex.splitlines():
        assert not re.search(r'(?<!\\)[%_#]', line) or line.startswith(('%', r'\label'))


def test_page_links_lead_somewhere(study):
    text = (study.out / 'group_lesions.html').read_text()
    links = re.findall(r'href="([^"#][^"]*)"', text)
    assert len(links) > 30
    for link in links:
        if not link.startswith('http'):
            assert (study.out / link).is_file(), link


def test_the_same_again_gives_the_same_bytes(study, tmp_path, run_settings, monkeypatch):
    monkeypatch.setattr('mslesseg_app.group.evaluation._WORTH_SECONDS', 0)
    own = copied(study, tmp_path)
    before = {path.name: path.read_bytes() for path in own.out.glob('group_*.*')}
    for path in own.out.glob('group_*.*'):
        path.unlink()
    run_group(run_settings(own, nprocs=2), quiet=True)
    after = {path.name: path.read_bytes() for path in own.out.glob('group_*.*')}
    assert after == before, 'two processes give what one gives'


def test_the_validator_passes_the_output(study, tmp_path, venv_bin):
    own = copied(study, tmp_path)
    spec = ['*.html', '*_xfm.*', '*_lesions.*', '*_metrics.*', 'group_*', '**/figures', '**/log']
    (own.out / '.bidsignore').write_text('\n'.join(spec) + '\n')
    (own.out / 'README.md').write_text('A study that was made up for a test.\n')
    done = subprocess.run(
        [venv_bin / 'bids-validator-deno', own.out, '--json'],
        capture_output=True,
        text=True,
        check=False,
    )
    issues = json.loads(done.stdout)['issues']['issues']
    named = [issue.get('location', '') for issue in issues if 'group' in issue.get('location', '')]
    assert named == []


# ------------------------------------------------------------------ unusual output folders


def test_without_references(tmp_path, run_settings, read, capsys):
    tree = make_tree(tmp_path, 3, references=False)
    shutil.rmtree(tree.manual)
    assert run_group(run_settings(tree, derivatives={})) == 0
    assert 'No exam has a reference mask' in capsys.readouterr().out
    assert not (tree.out / 'group_evaluation.tsv').exists()
    text = (tree.out / 'group_lesions.html').read_text()
    assert 'No exam has a reference mask' in text
    assert 'Lesion volume' in text


def test_references_in_the_raw_data_are_found(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 2, models=('unet',))
    for path in tree.manual.rglob('*_mask.nii.gz'):
        shutil.move(path, tree.bids / path.relative_to(tree.manual))
    assert run_group(run_settings(tree, derivatives={}), quiet=True) == 0
    assert len(read(tree.out / 'group_evaluation.tsv')) == 2


def test_references_that_were_named_but_fit_no_exam(tmp_path, run_settings, capsys):
    tree = make_tree(tmp_path, 2, references=False)
    assert run_group(run_settings(tree)) == 66
    assert 'No exam has a mask in' in capsys.readouterr().out
    assert (tree.out / 'group_volumes.tsv').is_file(), 'the rest is written all the same'


def test_a_folder_of_references_that_does_not_exist(tmp_path, run_settings):
    tree = make_tree(tmp_path, 1)
    with pytest.raises(NoInputError, match='does not exist'):
        run_group(run_settings(tree, derivatives={'manual': tmp_path / 'nowhere'}))


def test_one_exam(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 1, models=('unet',))
    assert run_group(run_settings(tree), quiet=True) == 0
    (row,) = (r for r in read(tree.out / 'group_summary.tsv') if r['metric'] == 'DSC')
    assert row['ci_low'] == row['sd'] == 'n/a'
    (row,) = read(tree.out / 'group_agreement.tsv')
    assert row['limit_low'] == row['slope'] == 'n/a'
    text = (tree.out / 'group_lesions.html').read_text()
    assert 'Only 1 patient:' in text
    assert 'fewer than 5 exams' in text
    assert 'nan' not in re.sub(r'<[^>]*>', ' ', text).lower().split()
    assert not (tree.out / 'group_comparison.tsv').exists()


def test_sessions_are_exams_of_one_patient(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 3, sessions=2, models=('unet', 'floor'))
    assert run_group(run_settings(tree), quiet=True) == 0
    (row,) = (
        r
        for r in read(tree.out / 'group_summary.tsv')
        if (r['metric'], r['model']) == ('DSC', 'unet')
    )
    assert (row['n_exams'], row['n_patients']) == ('6', '3')
    names = {r['session_id'] for r in read(tree.out / 'group_evaluation.tsv')}
    assert names == {'ses-1', 'ses-2'}


def test_failed_missing_and_partial_exams(tmp_path, run_settings, read, capsys):
    tree = make_tree(tmp_path, 3)
    add_failure(tree, 'sub-01', 'unet', 'not enough memory')
    add_failure(tree, 'sub-09', 'unet')
    raw = tree.bids / 'sub-10' / 'anat' / 'sub-10_FLAIR.nii.gz'
    raw.parent.mkdir(parents=True)
    raw.touch()
    next(tree.out.glob('sub-02/anat/*desc-floor_metrics.tsv')).unlink()
    assert run_group(run_settings(tree)) == 0
    said = capsys.readouterr().out
    states = {
        (r['participant_id'], r['model']): (r['state'], r['reason'])
        for r in read(tree.out / 'group_exams.tsv')
    }
    assert states['sub-01', 'unet'] == ('earlier result', 'not enough memory')
    assert states['sub-09', 'unet'] == ('failed', 'the file is damaged')
    assert states['sub-10', 'floor'][0] == 'no result'
    assert states['sub-02', 'floor'][0] == 'no metrics'
    assert states['sub-03', 'floor'] == ('done', 'n/a')
    assert 'sub-10 (floor) has no result' in said
    text = (tree.out / 'group_lesions.html').read_text()
    assert 'not enough memory' in text
    assert 'the file is damaged' in text
    evaluated = {
        (r['participant_id'], r['model']) for r in read(tree.out / 'group_evaluation.tsv')
    }
    assert ('sub-02', 'floor') in evaluated, 'its mask is there'


def test_files_of_an_older_version(tmp_path, run_settings, read):
    """Fewer columns, no record, no mask on the template: what is there is used."""
    tree = make_tree(tmp_path, 6, models=('unet',))
    for path in sorted(tree.out.rglob('*_metrics.tsv'))[:2]:
        path.write_text(
            f'participant_id\tsession_id\tmodel\told_column\n{path.parts[-3]}\tn/a\tunet\t7\n'
        )
    assert run_group(run_settings(tree), quiet=True) == 0
    first, *_, last = read(tree.out / 'group_volumes.tsv')
    assert (first['lesion_volume_ml'], first['old_column']) == ('n/a', '7')
    assert last['old_column'] == 'n/a'
    described = json.loads((tree.out / 'group_volumes.json').read_text())
    assert 'another version' in described['old_column']['Description']
    (row,) = (
        r for r in read(tree.out / 'group_cohort.tsv') if r['variable'] == 'lesion_volume_ml'
    )
    assert row['n'] == '4'


def test_names_of_an_older_version(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 2, sessions=1, models=('unet',))
    path = next(tree.out.glob('sub-01/**/*_metrics.tsv'))
    path.rename(path.with_name('sub-01_ses-1_metrics.tsv'))
    assert run_group(run_settings(tree), quiet=True) == 0
    assert [row['participant_id'] for row in read(tree.out / 'group_volumes.tsv')] == [
        'sub-01',
        'sub-02',
    ]
    assert {row['state'] for row in read(tree.out / 'group_exams.tsv')} == {'done'}


def test_tables_without_volumes_are_said(tmp_path, run_settings, capsys):
    tree = make_tree(tmp_path, 2, models=('unet',))
    for path in tree.out.rglob('*_metrics.tsv'):
        path.write_text(f'participant_id\tsession_id\tmodel\n{path.parts[-3]}\tn/a\tunet\n')
    assert run_group(run_settings(tree)) == 0
    assert 'No table has the column lesion_volume_ml' in capsys.readouterr().out


@pytest.mark.parametrize('kind', ['damaged', 'labels', 'four axes'])
def test_a_bad_reference_spoils_its_exam_alone(tmp_path, run_settings, read, capsys, kind):
    tree = make_tree(tmp_path, 3, models=('unet',))
    path = next(tree.manual.glob('sub-02/anat/*_mask.nii.gz'))
    if kind == 'damaged':
        path.write_bytes(path.read_bytes()[:40])
    elif kind == 'labels':
        save(path, np.arange(8).reshape(2, 2, 2))
    else:
        save(path, np.zeros((2, 2, 2, 2)), (*SPACING,))
    assert run_group(run_settings(tree)) == 65
    said = capsys.readouterr()
    assert 'sub-02 was not evaluated' in said.out
    assert 'could not be evaluated' in said.err
    evaluated = {r['participant_id'] for r in read(tree.out / 'group_evaluation.tsv')}
    assert evaluated == {'sub-01', 'sub-03'}
    assert 'sub-02 was not evaluated' in (tree.out / 'group_lesions.html').read_text()


def test_a_damaged_mask_spoils_its_model_alone(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 2)
    path = next(tree.out.glob('sub-01/anat/*_desc-floor_mask.nii.gz'))
    path.write_bytes(path.read_bytes()[:60])
    assert run_group(run_settings(tree), quiet=True) == 65
    found = {(r['participant_id'], r['model']) for r in read(tree.out / 'group_evaluation.tsv')}
    assert ('sub-01', 'unet') in found
    assert ('sub-01', 'floor') not in found


def test_a_reference_on_another_grid_is_met_by_resampling(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 1, models=('unet',))
    path = next(tree.manual.rglob('*_mask.nii.gz'))
    truth = tree.truth['sub-01']
    save(path, truth.repeat(2, axis=2), (SPACING[0], SPACING[1], SPACING[2] / 2))
    run_group(run_settings(tree), quiet=True)
    (row,) = read(tree.out / 'group_evaluation.tsv')
    assert row['reference_grid'] == 'reference'
    assert float(row['volume_reference_ml']) == pytest.approx(
        truth.sum() * np.prod(SPACING) / 1000, rel=1e-4
    )


def test_a_reference_on_the_template_needs_the_mask_there(tmp_path, run_settings, read, capsys):
    import nibabel as nb

    from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

    tree = make_tree(tmp_path, 2, models=('unet',))
    data = np.zeros(TEMPLATE_SHAPE, np.uint8)
    data[80:90, 100:110, 80:90] = 1
    for number in (1, 2):
        path = next(tree.manual.glob(f'sub-0{number}/anat/*_mask.nii.gz'))
        nb.save(nb.Nifti1Image(data, TEMPLATE_AFFINE), path)
    data[85:] = 0
    name = 'sub-01_space-MNI152NLin6Asym_res-1_label-lesion_desc-unet_mask.nii.gz'
    nb.save(nb.Nifti1Image(data, TEMPLATE_AFFINE), tree.out / 'sub-01' / 'anat' / name)
    assert run_group(run_settings(tree)) == 66
    assert 'no mask on the template grid' in capsys.readouterr().out
    (row,) = read(tree.out / 'group_evaluation.tsv')
    assert row['reference_grid'] == 'MNI152NLin6Asym'
    assert float(row['DSC']) == pytest.approx(2 / 3, rel=1e-5)


def test_probabilities_are_calibrated(tmp_path, run_settings, read):
    import nibabel as nb

    tree = make_tree(tmp_path, 1, models=('unet',))
    mask = next(tree.out.rglob('*_desc-unet_mask.nii.gz'))
    truth = tree.truth['sub-01'].astype(np.float32)
    path = mask.with_name(mask.name.replace('_mask', '_probseg'))
    nb.save(nb.Nifti1Image(truth, nb.load(mask).affine), path)
    run_group(run_settings(tree), quiet=True)
    (row,) = read(tree.out / 'group_evaluation.tsv')
    assert (float(row['Brier']), float(row['ECE'])) == (0, 0)


def test_empty_masks(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 1, models=('unet',))
    nothing = np.zeros_like(tree.truth['sub-01'])
    add_exam(tree, 'sub-02', nothing, {'unet': nothing})
    add_exam(tree, 'sub-03', nothing, {'unet': tree.truth['sub-01']})
    run_group(run_settings(tree), quiet=True)
    _, both, one = read(tree.out / 'group_evaluation.tsv')
    assert (both['DSC'], both['TPR']) == ('1', 'n/a')
    assert 'empty' in both['note']
    assert (one['DSC'], one['AVD']) == ('0', 'n/a')
    (row,) = (r for r in read(tree.out / 'group_summary.tsv') if r['metric'] == 'TPR')
    assert (row['n_exams'], row['n_undefined']) == ('1', '2')


def test_identical_models(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 2, models=('unet',))
    for exam in list(tree.truth):
        add_exam(tree, exam, None, {'twin': tree.predicted[exam, 'unet']})
    run_group(run_settings(tree), quiet=True)
    found = read(tree.out / 'group_comparison.tsv')
    assert {row['p_wilcoxon'] for row in found} == {'1'}
    assert {float(row['mean_difference']) for row in found} == {0.0}


# --------------------------------------------------------------------------- selection


def test_participants_and_sessions_can_be_chosen(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 3, sessions=2, models=('unet',))
    run_group(run_settings(tree, participants=('01', '03'), sessions=('2',)), quiet=True)
    found = {
        (r['participant_id'], r['session_id']) for r in read(tree.out / 'group_evaluation.tsv')
    }
    assert found == {('sub-01', 'ses-2'), ('sub-03', 'ses-2')}


def test_rule_sets(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 2, models=('unet',))
    run_group(run_settings(tree, rules='mslesseg-official'), quiet=True)
    assert 'not to judge a model' in (tree.out / 'group_lesions.html').read_text()
    run_group(run_settings(tree, rules='msseg2016'), quiet=True)
    assert {r['rules'] for r in read(tree.out / 'group_evaluation.tsv')} == {'msseg2016'}
    with pytest.raises(UsageError):
        run_group(run_settings(tree, rules='none of ours'))


def test_nothing_but_failures(tmp_path, run_settings):
    tree = make_tree(tmp_path, 0)
    add_failure(tree, 'sub-01', 'unet', 'the disk was full')
    with pytest.raises(NoInputError, match='the disk was full'):
        run_group(run_settings(tree))


def test_a_folder_of_another_pipeline(tmp_path, run_settings):
    tree = make_tree(tmp_path, 1)
    (tree.out / 'dataset_description.json').write_text('{"GeneratedBy": [{"Name": "other"}]}')
    with pytest.raises(OutputError):
        run_group(run_settings(tree))


@pytest.mark.parametrize(
    'text',
    ['name\tage\nsub-01\t3\n', 'participant_id\tage\nsub-01\t3\n01\t4\n', '\xff\x00'],
    ids=['no column', 'twice', 'damaged'],
)
def test_a_bad_table_of_participants(tmp_path, run_settings, text):
    tree = make_tree(tmp_path, 1)
    (tree.bids / 'participants.tsv').write_text(text, encoding='latin-1')
    with pytest.raises(DataError, match=r'participants\.tsv'):
        run_group(run_settings(tree))


def test_the_output_folders_participants_come_first(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 2, models=('unet',))
    write_participants(tree.bids, 2)
    (tree.out / 'participants.tsv').write_text('participant_id\tage\n01\t77\n')
    before = (tree.out / 'participants.tsv').read_bytes()
    run_group(run_settings(tree), quiet=True)
    ages = [row['age'] for row in read(tree.out / 'group_volumes.tsv')]
    assert ages == ['77', 'n/a']
    assert (tree.out / 'participants.tsv').read_bytes() == before


# ----------------------------------------------------------------------------- outliers


def test_outliers_are_listed_with_their_reason(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 12, models=('unet',))
    generator = np.random.default_rng(1)
    add_exam(
        tree,
        'sub-20',
        lesion_mask(generator),
        {'unet': lesion_mask(generator)},
        brain_volume_ml=400.0,
        alignment_FLAIR_status='check',
        qc_status='check',
    )
    add_exam(tree, 'sub-21', None, {'unet': np.zeros((40, 48, 36), bool)}, alignment_FLAIR=0.95)
    run_group(run_settings(tree), quiet=True)
    found = {(r['participant_id'], r['column']): r for r in read(tree.out / 'group_outliers.tsv')}
    assert 'unusually low' in found['sub-20', 'brain_volume_ml']['reason']
    assert found['sub-20', 'alignment_FLAIR_status']['value'] == 'check'
    assert 'unusually low' in found['sub-21', 'lesion_volume_ml']['reason']
    assert ('sub-21', 'alignment_FLAIR') not in found, 'a better alignment is no fault'
    assert float(found['sub-21', 'lesion_volume_ml']['robust_z']) < -3.5


def test_masks_that_fail_their_self_check_are_flagged_by_model(tmp_path, run_settings, read):
    tree = make_tree(tmp_path, 2, models=('unet',))
    add_exam(
        tree,
        'sub-30',
        None,
        {'unet': np.zeros((40, 48, 36), bool)},
        selfcheck_outside_ml=48.2,
        selfcheck_status='fail',
    )
    run_group(run_settings(tree), quiet=True)
    volumes = {r['participant_id']: r for r in read(tree.out / 'group_volumes.tsv')}
    assert volumes['sub-30']['selfcheck_status'] == 'fail'
    rows = [r for r in read(tree.out / 'group_outliers.tsv') if r['column'] == 'selfcheck_status']
    (row,) = rows
    assert (row['participant_id'], row['model'], row['value']) == ('sub-30', 'unet', 'fail')
    assert row['reason'] == (
        'self-check of the segmentation: fail, no lesion detected, 48.2 ml of hyperintense tissue '
        'outside the mask'
    )
    page = (tree.out / 'group_lesions.html').read_text(encoding='utf-8')
    assert '48.2 ml of hyperintense tissue outside the mask' in page


# ------------------------------------------------------------------------- command line


def test_command_line(study, tmp_path, capsys):
    own = copied(study, tmp_path)
    arguments = [str(tmp_path / 'nowhere'), str(own.out), 'group', '-w', str(tmp_path / 'w')]
    code = main([*arguments, '-d', f'manual={own.manual}', '--rules', 'isbi2015'])
    assert code == 0
    assert '14 exams of 7 participants' in capsys.readouterr().out
    assert '"isbi2015"' not in (own.out / 'group_evaluation.tsv').read_text()
    assert 'isbi2015' in (own.out / 'group_evaluation.tsv').read_text()
    assert main([*arguments, '-d', f'manual={tmp_path / "nothing"}']) == 66


def test_the_choices_of_rules_are_those_that_exist():
    from mslesseg_app.cli.bids_app import build_parser
    from mslesseg_app.metrics.rules import RULES

    action = next(a for a in build_parser()._actions if '--rules' in a.option_strings)
    assert list(action.choices) == list(RULES)


@pytest.mark.slow
def test_forty_exams_take_less_than_a_minute_of_one_core(tmp_path):
    import resource

    tree = make_tree(tmp_path, 40)
    write_participants(tree.bids, 40)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, '-m', 'mslesseg_app', tree.bids, tree.out, 'group']
    command += ['-d', f'manual={tree.manual}', '-w', tmp_path / 'work', '--nprocs', '2']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert '80 exams of 40 participants' in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60


def test_group_does_not_import_torch():
    code = 'import sys, mslesseg_app.group.run; print("torch" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'
