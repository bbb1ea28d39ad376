"""Nodes for inference: the uncertainty map, several models, and what the table says of them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pytest
from skeleton import TEMPLATE_AFFINE, TEMPLATE_SHAPE

from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.prediction import segment as run
from mslesseg_app.models.prediction.prediction import Prediction, entropy
from mslesseg_app.participant.interfaces.lesions import CombineModels, FindLesions, SegmentLesions
from mslesseg_app.spatial.affines import write_itk

INSIDE = (slice(60, 90), slice(80, 120), slice(60, 90))


def on_template(data: np.ndarray, path: Path) -> str:
    nb.Nifti1Image(data, TEMPLATE_AFFINE).to_filename(path)
    return str(path)


def blob(*boxes: tuple[int, int, float]) -> np.ndarray:
    """A probability map of cubes: first voxel, edge, value."""
    prob = np.zeros(TEMPLATE_SHAPE, np.float32)
    for first, edge, value in boxes:
        prob[(slice(first, first + edge),) * 3] = value
    return prob


def info(name: str, **more: Any) -> dict[str, Any]:
    return {
        'model': name,
        'version': '1',
        'digest': name * 3,
        'device': 'cpu',
        'device_note': 'CPU as asked.',
        'used': ['FLAIR'],
        'missing': ['T1w'],
        'policy': 'zero',
        **more,
    }


@pytest.fixture
def exam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Inputs of the inference node, whose model gives one half everywhere."""
    brain = np.zeros(TEMPLATE_SHAPE, np.uint8)
    brain[INSIDE] = 1
    flair = np.random.default_rng(0).gamma(4, 50, TEMPLATE_SHAPE).astype(np.float32)

    class Half:
        def __call__(self, channels: np.ndarray, brain: np.ndarray, present: Any) -> np.ndarray:
            return np.full(brain.shape, 0.5, np.float32)

    run._loaded.cache_clear()
    monkeypatch.setattr(run, 'load_predictor', lambda *a: Half())
    yield {
        'flair': on_template(flair, tmp_path / 'flair.nii.gz'),
        'brain_mask': on_template(brain, tmp_path / 'brain.nii.gz'),
        'model': 'hyperintensity',
        'model_digest': 'x',
    }
    run._loaded.cache_clear()


def test_the_uncertainty_map_is_written_when_asked_for(
    exam: dict[str, Any], tmp_path: Path
) -> None:
    done = SegmentLesions(**exam, uncertainty='entropy').run(cwd=tmp_path).outputs
    uncertainty = np.asarray(nb.load(done.uncertainty_file).dataobj)
    assert (uncertainty[INSIDE] == 1).all()
    assert uncertainty.sum() == 30 * 40 * 30
    without = SegmentLesions(**exam).run(cwd=tmp_path).outputs
    assert not isinstance(without.uncertainty_file, str)


def test_the_variance_of_one_answer_is_refused(exam: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='one answer'):
        SegmentLesions(**exam, uncertainty='variance').run(cwd=tmp_path)


def join(tmp_path: Path, method: str, kind: str = 'none', **more: Any) -> Any:
    maps = [blob((50, 6, 0.9)), blob((50, 6, 0.6), (80, 4, 0.9)), blob((50, 6, 0.2))]
    paths = [on_template(data, tmp_path / f'{i}.nii.gz') for i, data in enumerate(maps)]
    infos = [info('a'), info('b', notes=['slow']), info('c', used=['FLAIR', 'T1w'], missing=[])]
    node = CombineModels(
        prob_files=paths,
        infos=infos,
        thresholds=[0.5, 0.5, 0.5],
        method=method,
        uncertainty=kind,
    )
    return node.run(cwd=tmp_path).outputs


@pytest.mark.parametrize(
    ('method', 'common', 'alone'), [('mean', 1.7 / 3, 0.3), ('majority', 2 / 3, 1 / 3)]
)
def test_models_are_joined(tmp_path: Path, method: str, common: float, alone: float) -> None:
    done = join(tmp_path, method)
    prob = np.asarray(nb.load(done.prob_file).dataobj)
    np.testing.assert_allclose([prob[52, 52, 52], prob[81, 81, 81]], [common, alone], atol=1e-6)
    assert (done.info['used'], done.info['missing']) == (['FLAIR', 'T1w'], [])
    assert done.info['notes'] == ['b: slow']
    assert [member['Name'] for member in done.info['members']] == ['a', 'b', 'c']
    assert 'Sensitivity' not in done.info['members'][0]
    dice = {'ab': 2 * 6**3 / (2 * 6**3 + 4**3), 'ac': 0, 'bc': 0}
    pairs = {''.join(pair['Models']): pair['DSC'] for pair in done.info['agreement']['Pairs']}
    assert pairs == pytest.approx(dice, abs=1e-6)
    assert done.info['agreement']['MeanDSC'] == pytest.approx(dice['ab'] / 3, abs=1e-6)


def test_uncertainty_of_an_ensemble_is_over_its_models(tmp_path: Path) -> None:
    variance = np.asarray(nb.load(join(tmp_path, 'staple', 'variance').uncertainty_file).dataobj)
    assert variance[52, 52, 52] == pytest.approx(np.var([0.9, 0.6, 0.2]), abs=1e-6)
    bits = np.asarray(nb.load(join(tmp_path, 'staple', 'entropy').uncertainty_file).dataobj)
    assert bits[52, 52, 52] == pytest.approx(float(entropy(np.array(1.7 / 3))), abs=1e-6)


def test_staple_tells_what_it_thinks_of_each_model(tmp_path: Path) -> None:
    members = join(tmp_path, 'staple').info['members']
    for member in members:
        assert 0 <= member['Sensitivity'] <= 1
        assert 0 <= member['Specificity'] <= 1
    assert members[2]['Sensitivity'] < members[0]['Sensitivity']


def test_the_table_tells_uncertainty_and_agreement_of_each_lesion(tmp_path: Path) -> None:
    joined = blob((50, 6, 0.8), (80, 4, 0.6))
    models = [blob((50, 6, 0.9)), blob((50, 3, 0.9), (80, 4, 0.7)), blob((80, 1, 0.4))]
    uncertainty = blob((50, 6, 0.25), (80, 2, 0.8))
    files = [on_template(data, tmp_path / f'm{i}.nii.gz') for i, data in enumerate(models)]
    done = FindLesions(
        prob_file=on_template(joined, tmp_path / 'p.nii.gz'),
        transform=str(write_itk(tmp_path / 'x.txt', np.eye(4))),
        threshold=0.5,
        min_volume=0.0,
        uncertainty_file=on_template(uncertainty, tmp_path / 'u.nii.gz'),
        model_files=files,
        model_thresholds=[0.5, 0.5, 0.3],
        info={'notes': ['b: slow'], 'members': [{'Name': 'a', 'Sensitivity': 0.9}]},
    ).run(cwd=tmp_path)
    with Path(done.outputs.table_file).open() as file:
        large, small = csv.DictReader(file, delimiter='\t')
    assert (large['n_models_agree'], small['n_models_agree']) == ('2', '2')
    assert float(large['agreement']) == pytest.approx((1 + 1 / 8 + 0) / 3, rel=1e-5)
    assert float(small['agreement']) == pytest.approx((0 + 1 + 1 / 64) / 3, rel=1e-5)
    assert float(large['mean_uncertainty']) == pytest.approx(0.25, rel=1e-5)
    assert float(small['mean_uncertainty']) == pytest.approx(0.1, rel=1e-5)
    bits = np.asarray(nb.load(done.outputs.models_file).dataobj)
    expected = (models[0] >= 0.5) + 2 * (models[1] >= 0.5) + 4 * (models[2] >= 0.3)
    np.testing.assert_array_equal(bits, expected)
    metadata = done.outputs.metadata
    assert metadata['Notes'] == ['b: slow']
    assert metadata['Models'] == [{'Name': 'a', 'Sensitivity': 0.9}]
    assert metadata['LesionCount'] == done.outputs.summary['LesionCount'] == 2


def test_without_several_models_there_is_no_agreement(tmp_path: Path) -> None:
    done = FindLesions(
        prob_file=on_template(blob((50, 6, 0.8)), tmp_path / 'p.nii.gz'),
        transform=str(write_itk(tmp_path / 'x.txt', np.eye(4))),
        threshold=0.5,
        min_volume=0.0,
    ).run(cwd=tmp_path)
    with Path(done.outputs.table_file).open() as file:
        (row,) = csv.DictReader(file, delimiter='\t')
    for column in ('mean_uncertainty', 'n_models_agree', 'agreement'):
        assert row[column] == 'n/a'
    assert done.outputs.metadata == done.outputs.summary


def test_variance_reaches_the_file(exam: dict[str, Any], tmp_path: Path) -> None:
    class Two:
        def detailed(self, channels: Any, brain: np.ndarray, present: Any) -> Prediction:
            prob = np.full(brain.shape, 0.5, np.float32)
            return Prediction(prob, np.full(brain.shape, 0.04, np.float32), ('one by one',))

    run._loaded.cache_clear()
    run.load_predictor = lambda *a: Two()  # type: ignore[assignment]  # undone by the fixture
    done = SegmentLesions(**exam, uncertainty='variance').run(cwd=tmp_path).outputs
    variance = np.asarray(nb.load(done.uncertainty_file).dataobj)
    np.testing.assert_allclose(variance[INSIDE], 0.04, atol=1e-7)
    assert variance.sum() == pytest.approx(0.04 * 36000, rel=1e-4)
    assert done.info['notes'] == ['one by one']
