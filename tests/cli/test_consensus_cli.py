"""``mslesseg consensus``: what is written, and what is refused."""

from __future__ import annotations

import json

import nibabel as nb
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from mslesseg_app.cli.main import main
from mslesseg_app.metrics.consensus import consensus, experiments, leave_one_out

AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])
AFFINE[:3, 3] = 20, -30, 7
RATERS = ('a', 'b', 'c', 'd')


def run(*arguments):
    """Run the program and return its exit code, however it ends."""
    try:
        return main(['consensus', *map(str, arguments)])
    except SystemExit as error:
        return int(error.code or 0)


def save(path, data, affine=AFFINE, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nb.Nifti1Image(np.asarray(data, dtype), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    nb.save(image, path)
    return path


def read(path):
    return np.asarray(nb.load(path).dataobj)


def table(path):
    return pd.read_csv(path, sep='\t', keep_default_na=False, na_values=['n/a'])


@pytest.fixture(scope='module')
def masks():
    rng = np.random.default_rng(3)
    field = ndimage.gaussian_filter(rng.normal(size=(24, 22, 20)), 1.5)
    field /= field.std()
    noise = [ndimage.gaussian_filter(rng.normal(size=field.shape), 1.2) for _ in RATERS]
    return {
        name: field + 0.4 * n / n.std() > 1.3 for name, n in zip(RATERS, noise, strict=True)
    } | {'truth': field > 1.3}


@pytest.fixture
def here(tmp_path, monkeypatch, masks):
    monkeypatch.chdir(tmp_path)
    for name, mask in masks.items():
        save(tmp_path / f'{name}.nii.gz', mask)
    return tmp_path


FILES = [f'{name}.nii.gz' for name in RATERS]


@pytest.mark.parametrize('method', ['staple', 'majority', 'mean'])
def test_every_output(here, masks, method, capsys):
    code = run(
        *FILES, '-o', 'out/c.nii.gz', '--method', method, '--probability', 'out/p.nii.gz',
        '--agreement', 'out/n.nii.gz', '--raters', 'out/r.tsv', '--reference', 'truth.nii.gz',
        '--best', '2',
    )  # fmt: skip
    assert code == 0
    raters = {name: masks[name] for name in RATERS}
    expected = consensus(list(raters.values()), method)
    image = nb.load('out/c.nii.gz')
    assert image.get_data_dtype() == np.uint8
    assert np.array_equal(read('out/c.nii.gz'), expected.mask)
    assert np.array_equal(image.affine, AFFINE)
    assert [int(image.header[f'{form}form_code']) for form in 'qs'] == [1, 2]
    assert np.array_equal(read('out/p.nii.gz'), expected.probability)
    assert np.array_equal(read('out/n.nii.gz'), expected.agreement)
    sidecar = json.loads((here / 'out' / 'c.json').read_text())
    assert sidecar['Raters'] == list(RATERS)
    assert sidecar['Method'] == method
    assert sidecar['LesionVolume_mm3'] == 2 * expected.mask.sum()
    written = table('out/r.tsv').set_index('rater')
    assert list(written.index) == [*RATERS, 'reference', 'consensus']
    others = leave_one_out(list(raters.values()), method)
    assert written['DSC_others'][:4].tolist() == pytest.approx([row['DSC'] for row in others])
    for row in experiments(raters, masks['truth'], 2, method):
        for name in ('DSC_reference', 'DSC_C1', 'DSC_C2'):
            assert written.loc[row['rater'], name] == pytest.approx(row[name])
    assert (written['in_C2'][:4] == 'yes').sum() == 2
    assert written['volume_ml']['a'] == pytest.approx(masks['a'].sum() * 2 / 1000)
    assert set(json.loads((here / 'out' / 'r.json').read_text())) == {'rater', *written}
    if method == 'staple':
        assert written['sensitivity'][:4].tolist() == pytest.approx(expected.sensitivity)
        assert written['specificity'][:4].tolist() == pytest.approx(expected.specificity)
    else:
        assert written['sensitivity'].isna().all()
    best = written['DSC_reference'][:4].max()
    assert written['DSC_reference']['consensus'] > best
    assert 'DSC_reference' in capsys.readouterr().out


def test_only_what_is_asked_for(here):
    assert run(*FILES, '-o', 'out/c.nii.gz') == 0
    assert sorted(path.name for path in (here / 'out').iterdir()) == ['c.json', 'c.nii.gz']


def test_the_same_command_gives_the_same_bytes(here):
    for folder in ('one', 'two'):
        assert run(*FILES, '-o', f'{folder}/c.nii.gz', '--probability', f'{folder}/p.nii.gz') == 0
    for name in ('c.nii.gz', 'c.json', 'p.nii.gz'):
        assert (here / 'one' / name).read_bytes() == (here / 'two' / name).read_bytes()


def test_mean_of_probability_maps(here):
    rng = np.random.default_rng(0)
    maps = rng.random((2, 6, 5, 4)).astype(np.float32)
    for name, values in zip('xy', maps, strict=True):
        save(here / f'{name}.nii', values, dtype=np.float32)
    arguments = ['x.nii', 'y.nii', '-o', 'm.nii.gz', '--probability', 'p.nii.gz']
    assert run(*arguments, '--method', 'mean', '--threshold', '0.6') == 0
    mean = maps.astype(float).mean(axis=0).astype(np.float32)
    assert read('p.nii.gz') == pytest.approx(mean)
    assert np.array_equal(read('m.nii.gz'), mean >= np.float32(0.6))
    assert json.loads((here / 'm.json').read_text())['Threshold'] == 0.6
    assert run(*arguments) == 65  # STAPLE wants masks


def test_one_rater_and_empty_raters_are_explained(here, capsys):
    assert run('a.nii.gz', '-o', 'o.nii.gz', '--raters', 'r.tsv') == 0
    assert 'single rater' in capsys.readouterr().err
    assert np.isnan(table('r.tsv')['DSC_others'][0])
    for name in ('e', 'f'):
        save(here / f'{name}.nii', np.zeros((24, 22, 20)))
    assert run('e.nii', 'f.nii', '-o', 'o.nii.gz', '--raters', 'r.tsv') == 0
    assert 'no rater marked' in capsys.readouterr().err
    assert not read('o.nii.gz').any()
    sidecar = json.loads((here / 'o.json').read_text())
    assert sidecar['Sensitivity'] == [None, None]
    assert 'no sensitivity' in sidecar['Note']


def test_files_of_one_name_are_told_apart(here, masks):
    for folder in ('r1', 'r2'):
        save(here / folder / 'lesions.nii', masks['a'])
    assert run('r1/lesions.nii', 'r2/lesions.nii', '-o', 'o.nii.gz', '--raters', 'r.tsv') == 0
    assert list(table('r.tsv')['rater']) == ['r1/lesions', 'r2/lesions']


def test_other_grids_and_labels(here, masks, capsys):
    moved = AFFINE.copy()
    moved[1, 3] += 1
    save(here / 'moved.nii', masks['b'], moved)
    assert run('a.nii.gz', 'moved.nii', '-o', 'o.nii.gz') == 65
    assert '--resample' in capsys.readouterr().err
    assert run('a.nii.gz', 'moved.nii', '-o', 'o.nii.gz', '--resample') == 0
    labels = [save(here / f'l{n}.nii', masks['a'] * 3 + masks['b'] * n) for n in (1, 2)]
    assert run(*labels, '-o', 'x.nii.gz') == 65
    assert '--label N' in capsys.readouterr().err
    assert run(*labels, '-o', 'x.nii.gz', '--label', '3', '--method', 'majority') == 0
    assert np.array_equal(read('x.nii.gz'), masks['a'] & ~masks['b'])


@pytest.mark.parametrize(
    ('arguments', 'code'),
    [
        ([], 64),
        (['a.nii.gz'], 64),
        (['-o', 'o.nii.gz'], 64),
        (['a.nii.gz', 'a.nii.gz', '-o', 'o.nii.gz'], 64),
        (['a.nii.gz', 'none.nii', '-o', 'o.nii.gz'], 66),
        (['a.nii.gz', 'text.nii', '-o', 'o.nii.gz'], 65),
        (['a.nii.gz', '.', '-o', 'o.nii.gz'], 65),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.tsv'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'a.nii.gz'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'text.nii/o.nii.gz'], 73),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--method', 'median'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--threshold', '0'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--threshold', 'high'], 64),
        (['a.nii.gz', '-o', 'o.nii.gz', '--threshold', '.4', '--method', 'majority'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--agreement', 'n.tsv'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--agreement', 'o.nii.gz'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--probability', 'b.nii.gz'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--raters', 'r.csv'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--best', '3'], 64),
        (['a.nii.gz', '-o', 'o.nii.gz', '--reference', 'b.nii.gz', '--best', '0'], 64),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--reference', 'none.nii'], 66),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--reference', 'small.nii'], 65),
        (['reference.nii', '-o', 'o.nii.gz', '--reference', 'b.nii.gz'], 65),
        (['a.nii.gz', 'b.nii.gz', '-o', 'o.nii.gz', '--label', '1.5'], 64),
    ],
)
def test_wrong_options_and_files(here, masks, arguments, code, capsys):
    (here / 'text.nii').write_text('no image')
    save(here / 'small.nii', np.ones((4, 4, 4)))
    save(here / 'reference.nii', masks['a'])
    before = (here / 'a.nii.gz').read_bytes()
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith('mslesseg')
    assert 'Traceback' not in captured.err
    assert not (here / 'o.nii.gz').exists()
    assert (here / 'a.nii.gz').read_bytes() == before
