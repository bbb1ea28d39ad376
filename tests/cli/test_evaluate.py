"""``mslesseg evaluate``: files, folders, tables; what is wrong is said and costs nothing else."""

from __future__ import annotations

import json

import nibabel as nb
import numpy as np
import pandas as pd
import pytest

from mslesseg_app.cli import evaluate as command
from mslesseg_app.cli.main import main
from mslesseg_app.metrics.evaluation import evaluate, evaluation_columns
from mslesseg_app.metrics.pairs import find_pairs, owner
from mslesseg_app.metrics.rules import RULES

AFFINE = np.diag([-1.0, 1.0, 3.0, 1.0])
AFFINE[:3, 3] = 20, -30, 7


def run(*arguments):
    """Run the program and return its exit code, however it ends."""
    try:
        return main(['evaluate', *map(str, arguments)])
    except SystemExit as error:
        return int(error.code or 0)


def save(path, data, affine=AFFINE, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nb.save(nb.Nifti1Image(np.asarray(data, dtype), affine), path)
    return path


def masks(seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.random((12, 10, 8)) > 0.9
    prediction = reference ^ (rng.random(reference.shape) > 0.97)
    return prediction, reference


def table(path):
    return pd.read_csv(path, sep='\t', keep_default_na=False, na_values=['n/a'])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pair(here):
    prediction, reference = masks()
    return save(here / 'p.nii.gz', prediction), save(here / 'r.nii', reference)


# --------------------------------------------------------------------------- two files


def test_two_files(here, pair, capsys):
    assert run(*pair, '-o', 'out/table.tsv') == 0
    written = table(here / 'out' / 'table.tsv')
    expected = evaluate(*masks(), (1, 1, 3)).values
    assert list(written) == ['name', 'prediction', 'reference', 'rules', *expected, 'note']
    for name, value in expected.items():
        assert written[name][0] == pytest.approx(value, rel=1e-9, nan_ok=True)
    assert 'there are no probabilities' in written['note'][0]
    header, row, last = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ['exam', 'rules', 'DSC']
    assert row.split()[2] == f'{expected["DSC"]:.3f}'
    assert last == '1 of 1 pairs compared: out/table.tsv'
    described = json.loads((here / 'out' / 'table.json').read_text())
    assert set(described) == set(written)
    assert described['ASSD']['Units'] == 'mm'
    assert not (here / 'out' / 'table_cohort.tsv').exists()
    assert sorted(p.name for p in (here / 'out').iterdir()) == ['table.json', 'table.tsv']


def test_the_same_command_gives_the_same_bytes(here, pair):
    for name in ('a.tsv', 'b.tsv'):
        assert run(*pair, '-o', name, '--rules', *RULES) == 0
    assert (here / 'a.tsv').read_bytes() == (here / 'b.tsv').read_bytes()
    assert (here / 'a.json').read_bytes() == (here / 'b.json').read_bytes()


def test_rule_sets_side_by_side(here, pair):
    assert tuple(RULES) == command.RULE_SETS
    assert run(*pair, '-o', 'o.tsv', '--rules', 'msseg2016', 'isbi2015', 'isbi2015') == 0
    written = table(here / 'o.tsv')
    assert list(written['rules']) == ['msseg2016', 'isbi2015']
    for name in ('msseg2016', 'isbi2015'):
        row = written[written['rules'] == name].iloc[0]
        for column, value in evaluate(*masks(), (1, 1, 3), name).values.items():
            assert row[column] == pytest.approx(value, rel=1e-9, nan_ok=True)
    described = json.loads((here / 'o.json').read_text())
    assert 'msseg2016: ' in described['LTPR']['Description']
    assert 'isbi2015: ' in described['LTPR']['Description']
    assert 'other rule sets have no such number' in described['SensL']['Description']
    assert described['DSC'] == evaluation_columns()['DSC']


def test_labels_have_to_be_chosen(here, pair, capsys):
    prediction, reference = masks()
    labels = save(here / 'labels.nii', prediction * 4 + (~prediction & reference) * 2)
    assert run(labels, pair[1], '-o', 'o.tsv') == 65
    error = capsys.readouterr().err
    assert 'not a mask' in error
    assert '--label N' in error
    assert run(labels, pair[1], '-o', 'o.tsv', '--label', '4') == 0
    assert table('o.tsv')['DSC'][0] == pytest.approx(evaluate(*masks(), (1, 1, 3)).values['DSC'])
    assert run(pair[0], labels, '-o', 'o.tsv', '--reference-label', '4') == 0
    assert table('o.tsv')['DSC'][0] == 1


def test_probabilities_give_calibration(here, pair):
    rng = np.random.default_rng(1)
    values = rng.random(masks()[0].shape)
    maps = save(here / 'prob.nii.gz', values, dtype=np.float32)
    assert run(*pair, '-o', 'o.tsv', '--probability', maps) == 0
    expected = evaluate(*masks(), (1, 1, 3), probability=values.astype(np.float32)).values
    assert table('o.tsv')['ECE'][0] == pytest.approx(expected['ECE'], rel=1e-9)
    assert table('o.tsv')['Brier'][0] == pytest.approx(expected['Brier'], rel=1e-9)
    # a map instead of a mask: said what it is
    assert run(maps, pair[1], '-o', 'x.tsv') == 65
    save(here / 'wrong.nii', values * 1.5, dtype=np.float32)
    assert run(*pair, '-o', 'x.tsv', '--probability', 'wrong.nii') == 65
    assert not (here / 'x.tsv').exists()


def test_masks_of_other_programs(here, pair):
    """Float masks, a fourth axis of length one, MGH files, 64-bit integers."""
    prediction, _ = masks()
    whole = evaluate(*masks(), (1, 1, 3)).values['DSC']
    save(here / 'float.nii', prediction, dtype=np.float64)
    save(here / 'four.nii.gz', prediction[..., None])
    nb.save(nb.MGHImage(prediction.astype(np.float32), AFFINE), here / 'free.mgz')
    long = nb.Nifti1Image(prediction.astype(np.int64), AFFINE, dtype=np.int64)
    nb.save(long, here / 'long.nii')
    for name in ('float.nii', 'four.nii.gz', 'free.mgz', 'long.nii'):
        assert run(name, pair[1], '-o', 'o.tsv') == 0
        assert table('o.tsv')['DSC'][0] == pytest.approx(whole)


# ------------------------------------------------------------------------------- grids


def test_another_order_of_axes_is_the_same_grid(here, pair):
    image = nb.load(pair[0])
    turned = image.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    nb.save(turned, here / 'turned.nii')
    assert run('turned.nii', pair[1], '-o', 'turned.tsv') == 0
    assert run(*pair, '-o', 'plain.tsv') == 0
    drop = ['name', 'prediction']
    pd.testing.assert_frame_equal(
        table('turned.tsv').drop(columns=drop), table('plain.tsv').drop(columns=drop)
    )


def shifted(millimetres):
    affine = AFFINE.copy()
    affine[0, 3] += millimetres
    return affine


def test_a_shifted_affine_is_refused_or_resampled(here, pair, capsys):
    prediction, reference = masks()
    save(here / 'moved.nii', prediction, shifted(2))
    assert run('moved.nii', pair[1], '-o', 'o.tsv') == 65
    error = capsys.readouterr().err
    assert '2 mm away' in error
    assert '--resample' in error
    assert not (here / 'o.tsv').exists()
    assert run('moved.nii', pair[1], '-o', 'o.tsv', '--resample') == 0
    # +2 mm along x is two voxels back, the first axis running to the left
    back = np.zeros_like(prediction)
    back[:-2] = prediction[2:]
    expected = evaluate(back, reference, (1, 1, 3)).values
    assert table('o.tsv')['DSC'][0] == pytest.approx(expected['DSC'])


def test_a_sheared_grid_is_refused(here, capsys):
    prediction, reference = masks()
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.2
    save(here / 'p.nii', prediction, sheared)
    image = nb.Nifti1Image(reference.astype(np.uint8), sheared)
    nb.save(image, here / 'r.nii')
    assert run('p.nii', 'r.nii', '-o', 'o.tsv') == 65
    assert 'not perpendicular' in capsys.readouterr().err
    oblique = AFFINE.copy()
    oblique[:3, :3] = [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 3]]
    save(here / 'p.nii', prediction, oblique)
    save(here / 'r.nii', reference, oblique)
    assert run('p.nii', 'r.nii', '-o', 'o.tsv') == 0
    expected = evaluate(prediction, reference, (1, 1, 3)).values
    assert table('o.tsv')['ASSD'][0] == pytest.approx(expected['ASSD'])


def test_another_shape_is_refused_or_resampled(here, pair, capsys):
    prediction, _ = masks()
    fine = np.diag([-0.5, 1.0, 3.0, 1.0])
    fine[:3, 3] = AFFINE[:3, 3] + [0.25, 0, 0]
    save(here / 'fine.nii', np.repeat(prediction, 2, axis=0), fine)
    assert run('fine.nii', pair[1], '-o', 'o.tsv') == 65
    assert '24 × 10 × 8 voxels' in capsys.readouterr().err
    assert run('fine.nii', pair[1], '-o', 'o.tsv', '--resample') == 0
    whole = evaluate(*masks(), (1, 1, 3)).values['DSC']
    assert table('o.tsv')['DSC'][0] == pytest.approx(whole)


# ----------------------------------------------------------------------------- folders


def cohort(folder, count=3):
    """Folders with BIDS names on one side and other entities on the other."""
    for number in range(1, count + 1):
        prediction, reference = masks(number)
        name = f'sub-{number:02}'
        save(
            folder / 'out' / name / 'anat' / f'{name}_space-orig_label-lesion_desc-m_mask.nii.gz',
            prediction,
        )
        save(folder / 'out' / name / 'anat' / f'{name}_desc-brain_mask.nii.gz', prediction | True)
        save(folder / 'ref' / f'{name}_label-lesion_mask.nii.gz', reference)


def test_folders_by_entities(here):
    cohort(here)
    assert run('out', 'ref', '-o', 'o.tsv', '--rules', 'isbi2015', '--nprocs', '1') == 0
    written = table('o.tsv')
    assert list(written['name']) == ['sub-01', 'sub-02', 'sub-03']
    for number in (1, 2, 3):
        expected = evaluate(*masks(number), (1, 1, 3), 'isbi2015').values
        assert written['DSC'][number - 1] == pytest.approx(expected['DSC'])
    together = table('o_cohort.tsv')
    volumes = written[['volume_predicted_ml', 'volume_reference_ml']].to_numpy().T
    correlation = np.corrcoef(volumes)[0, 1]
    assert together['volume_correlation'][0] == pytest.approx(correlation)
    score = written['ISBI_partial'].mean() + correlation / 4
    assert together['ISBI_score'][0] == pytest.approx(score)
    assert together['n_pairs'][0] == 3
    assert set(json.loads((here / 'o_cohort.json').read_text())) == set(together)


def test_the_number_of_processes_changes_nothing(here):
    cohort(here, 5)
    for count in (1, 2):
        assert run('out', 'ref', '-o', f'{count}.tsv', '--nprocs', count) == 0
    assert (here / '1.tsv').read_bytes() == (here / '2.tsv').read_bytes()
    assert (here / '1_cohort.tsv').read_bytes() == (here / '2_cohort.tsv').read_bytes()


def test_what_has_no_partner_is_named(here, capsys):
    cohort(here)
    (here / 'ref' / 'sub-01_label-lesion_mask.nii.gz').unlink()
    assert run('out', 'ref', '-o', 'o.tsv') == 0
    assert 'sub-01' in capsys.readouterr().err  # a warning: not every exam has a reference
    save(here / 'ref' / 'sub-09_label-lesion_mask.nii.gz', masks()[1])
    assert run('out', 'ref', '-o', 'o.tsv') == 1
    assert 'no prediction for ref/sub-09' in capsys.readouterr().err
    assert list(table('o.tsv')['name']) == ['sub-02', 'sub-03']


def test_one_bad_mask_does_not_stop_the_others(here, capsys):
    cohort(here)
    next((here / 'out').rglob('sub-02*lesion*')).write_bytes(b'no image')
    assert run('out', 'ref', '-o', 'o.tsv') == 65
    written = table('o.tsv')
    assert list(written['name']) == ['sub-01', 'sub-02', 'sub-03']
    assert np.isnan(written['DSC'][1])
    assert 'not a readable image' in written['note'][1]
    assert written['DSC'].notna().sum() == 2
    assert 'sub-02' in capsys.readouterr().err
    assert table('o_cohort.tsv')['n_pairs'][0] == 2


def test_the_layout_of_mslesseg(here):
    for patient, visit in (('P1', 'T1'), ('P1', 'T2'), ('P2', 'T1')):
        prediction, reference = masks(len(patient + visit))
        folder = here / 'train' / patient / visit
        for kind in ('FLAIR', 'T1', 'T2'):
            save(folder / f'{patient}_{visit}_{kind}.nii.gz', reference * 100.0, dtype=np.float32)
        save(folder / f'{patient}_{visit}_MASK.nii.gz', reference)
        save(here / 'pred' / f'{patient}_{visit}.nii.gz', prediction)
    assert run('pred', 'train', '-o', 'o.tsv') == 0
    assert list(table('o.tsv')['name']) == ['P1_T1', 'P1_T2', 'P2_T1']


def test_probability_maps_in_folders(here):
    cohort(here, 2)
    for number in (1, 2):
        values = np.random.default_rng(number).random(masks()[0].shape)
        save(here / 'prob' / f'sub-{number:02}_probseg.nii.gz', values, dtype=np.float32)
    assert run('out', 'ref', '-o', 'o.tsv', '--probability', 'prob') == 0
    assert table('o.tsv')['ECE'].notna().all()


def test_spaces_and_models_are_told_apart(here):
    prediction, reference = masks()
    for space in ('orig', 'MNI152NLin6Asym'):
        for model in ('a', 'b'):
            save(
                here / 'out' / f'sub-1_space-{space}_label-lesion_desc-{model}_mask.nii',
                prediction,
            )
    save(here / 'ref' / 'sub-1_label-lesion_mask.nii', reference)
    found = find_pairs(here / 'out', here / 'ref')
    assert [pair.prediction.name for pair in found.pairs] == [
        'sub-1_space-orig_label-lesion_desc-a_mask.nii',
        'sub-1_space-orig_label-lesion_desc-b_mask.nii',
    ]
    assert len(found.without_reference) == 2


def test_several_references_are_a_question(here, capsys):
    prediction, reference = masks()
    save(here / 'out' / 'sub-1_label-lesion_mask.nii', prediction)
    for rater in ('r1', 'r2'):
        save(here / 'ref' / f'sub-1_label-lesion_desc-{rater}_mask.nii', reference)
    assert run('out', 'ref', '-o', 'o.tsv') == 65
    assert 'several files' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('sub-01_ses-2_run-1_space-orig_label-lesion_desc-x_mask.nii.gz', 'sub-01_ses-2_run-1'),
        ('P54_MASK.nii.gz', 'P54'),
        ('case.pred.nii', 'case'),
        ('mask.nii.gz', 'mask'),
        ('a_lesion_mask.nii', 'a'),
    ],
)
def test_whose_mask_it_is(here, name, expected):
    assert owner(here / name) == expected


# ------------------------------------------------------------------------------ tables


def test_a_table_of_pairs(here, pair):
    lists = here / 'lists'
    lists.mkdir()
    (lists / 'pairs.tsv').write_text(
        'name\tprediction\treference\tprobability\n'
        'first\t../p.nii.gz\t../r.nii\tn/a\n'
        f'\t{pair[1]}\t../r.nii\t\n'
    )
    assert run('lists/pairs.tsv', '-o', 'o.tsv') == 0
    written = table('o.tsv')
    assert list(written['name']) == ['first', 'r']
    assert written['DSC'][1] == 1
    assert 'fewer than three' in table('o_cohort.tsv')['note'][0]


@pytest.mark.parametrize(
    ('text', 'code'),
    [
        ('', 66),
        ('prediction\treference\n', 66),
        ('mask\treference\np.nii.gz\tr.nii\n', 65),
        ('prediction\treference\np.nii.gz\t\n', 65),
        ('prediction\treference\np.nii.gz\n', 65),
        ('prediction\treference\nnothing.nii\tr.nii\n', 66),
    ],
)
def test_wrong_tables(here, pair, text, code, capsys):
    (here / 'pairs.tsv').write_text(text)
    assert run('pairs.tsv', '-o', 'o.tsv') == code
    assert 'Traceback' not in capsys.readouterr().err


# ------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ('arguments', 'code'),
    [
        (['p.nii.gz', 'r.nii'], 64),  # no output
        (['p.nii.gz', 'r.nii', '-o', 'o.csv'], 64),
        (['p.nii.gz', 'r.nii', '-o', '.tsv'], 64),
        (['p.nii.gz', 'r.nii', '-o', 'o.tsv', '--rules', 'msseg'], 64),
        (['p.nii.gz', 'r.nii', '-o', 'o.tsv', '--rules'], 64),
        (['p.nii.gz', 'r.nii', '-o', 'o.tsv', '--label', '0'], 64),
        (['p.nii.gz', 'r.nii', '-o', 'o.tsv', '--label', 'x'], 64),
        (['p.nii.gz', 'r.nii', '-o', 'o.tsv', '--reference-label', '-1'], 64),
        (['p.nii.gz', 'r.nii', '-o', 'o.tsv', '--nprocs', '0'], 64),
        (['p.nii.gz', 'r.nii', '-o', 'o.tsv', '--probability', 'none.nii'], 66),
        (['p.nii.gz', 'r.nii', '-o', 'o.tsv', '--probability', 'empty'], 64),
        (['p.nii.gz', 'none.nii', '-o', 'o.tsv'], 66),
        (['none.nii', 'r.nii', '-o', 'o.tsv'], 66),
        (['p.nii.gz', '-o', 'o.tsv'], 64),
        (['empty', '-o', 'o.tsv'], 64),
        (['empty', 'r.nii', '-o', 'o.tsv'], 64),
        (['empty', 'empty', '-o', 'o.tsv'], 66),
        (['text.nii', 'r.nii', '-o', 'o.tsv'], 65),
        (['cut.nii.gz', 'r.nii', '-o', 'o.tsv'], 65),
        (['flat.nii', 'r.nii', '-o', 'o.tsv'], 65),
        (['nan.nii', 'r.nii', '-o', 'o.tsv'], 65),
        (['p.nii.gz', 'r.nii', '-o', 'p.nii.gz/o.tsv'], 73),
        (['pairs.tsv', '-o', 'pairs.tsv'], 64),
        (['binary.tsv', '-o', 'o.tsv'], 65),
        (['p.nii.gz', 'r.nii', 'more.nii', '-o', 'o.tsv'], 64),
    ],
)
def test_wrong_options_and_files(here, pair, arguments, code, capsys):
    (here / 'empty').mkdir()
    (here / 'text.nii').write_text('no image')
    (here / 'binary.tsv').write_bytes(b'\xff\xfe\x00')
    (here / 'cut.nii.gz').write_bytes(pair[0].read_bytes()[:200])
    (here / 'pairs.tsv').write_text('prediction\treference\np.nii.gz\tr.nii\n')
    save(here / 'flat.nii', np.ones((4, 4)))
    save(here / 'nan.nii', np.full((12, 10, 8), np.nan), dtype=np.float32)
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith('mslesseg')
    assert 'Traceback' not in captured.err
    assert not (here / 'o.tsv').exists()
    assert (here / 'pairs.tsv').read_text().startswith('prediction')


@pytest.mark.realdata
def test_a_real_pair_by_file(real_data, here):
    path = real_data / 'ljubljana-mni/patient07/MASK.nii.gz'
    assert run(path, path, '-o', 'o.tsv', '--rules', 'mslesseg', 'mslesseg-official') == 0
    written = table('o.tsv')
    assert list(written['DSC']) == [1, 1]
    assert written['volume_reference_ml'][0] == pytest.approx(1.3)
