"""nnU-Net as an engine gives what nnU-Net's own predictor gives.

The networks are small and their weights random, but made, saved and run by the classes of
nnunetv2. Its predictor reads and writes files; the engine is given arrays.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from probability import segment_exam
from tiny_nnunet import dataset, export, plans, write_model

from mslesseg_app.core.errors import ModelError
from mslesseg_app.models.registry import get_entry, load_engine
from mslesseg_app.models.store import add_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('nnunetv2') is None,
    reason='nnunetv2 is not installed: pip install "mslesseg[nnunet]"',
)

SHAPE = (26, 24, 18)


def head(channels: int = 1, shape=SHAPE, seed: int = 0) -> np.ndarray:
    """Smooth images that are zero around a box, as a brain without its head."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=(channels, *shape))
    images = 100 + 400 * gaussian_filter(noise, (0, 1.5, 1.5, 1.5))
    inside = np.zeros(shape, bool)
    inside[2:-2, 3:-1, 1:-2] = True
    return (images * inside).astype(np.float32)


def official(folder: Path, images: np.ndarray, affine: np.ndarray, root: Path, **how):
    """Return labels and probabilities (K, X, Y, Z) as nnU-Net writes them.

    It adds windows up in half precision, so that only the same number of threads gives the same
    last digits.
    """
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from mslesseg_app.models.prediction.windows import torch_threads

    given = root / 'given'
    given.mkdir()
    names = [str(given / f'case_{n:04d}.nii.gz') for n in range(len(images))]
    for data, name in zip(images, names, strict=True):
        nb.Nifti1Image(data, affine).to_filename(name)
    folds = how.pop('folds', None)
    with contextlib.redirect_stdout(io.StringIO()), torch_threads(1):
        predictor = nnUNetPredictor(device=torch.device('cpu'), allow_tqdm=False, **how)
        predictor.initialize_from_trained_model_folder(str(folder), folds, 'checkpoint_final.pth')
        predictor.predict_from_files_sequential(
            [names], [str(root / 'case')], save_probabilities=True, overwrite=True
        )
    labels = np.asarray(nb.load(root / 'case.nii.gz').dataobj)
    with np.load(root / 'case.npz') as file:
        return labels, file['probabilities'].transpose(0, 3, 2, 1)


def engine(folder: Path, root: Path, **overrides):
    add_model(folder, root / 'models', {'name': 'my-nnunet', **overrides})
    return load_engine(get_entry('my-nnunet', root / 'models'))


def test_a_tiny_model_runs_as_any_other(tmp_path):
    """Added, named with a hyphen, run within the brain; equal to nnU-Net's own result."""
    plan = plans(patch_size=[16, 24, 24])
    folder = write_model(tmp_path, plan, inference_allowed_mirroring_axes=(0,))
    entry = add_model(
        export(folder, tmp_path / 'm.zip'), tmp_path / 'models', {'name': 'my-nnunet'}
    )
    assert entry.name == 'mynnunet'
    assert not entry.lacks
    images, affine = head(), np.diag([-1.0, 1, 1, 1])
    brain = images[0] != 0
    prob, info = segment_exam(entry, {'FLAIR': images[0]}, brain, 'cpu')
    labels, probs = official(folder, images, affine, tmp_path)
    assert 0.05 < labels[brain].mean() < 0.95, 'the test needs both labels'
    np.testing.assert_allclose(prob[brain], probs[1][brain], atol=1e-4)
    np.testing.assert_array_equal(prob[brain] >= 0.5, labels[brain] == 1)
    assert info['used'] == ['FLAIR']


_SEPARATE = {'spacing': [4.0, 1.0, 1.0], 'patch_size': [8, 24, 24]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'more'),
    [
        ('anisotropic', {'plan': plans(**_SEPARATE), 'zooms': (1, 1.2, 4)}),
        ('other spacing', {'plan': plans(spacing=[1.3, 0.9, 1.1]), 'zooms': (0.8, 1.1, 2)}),
        ('without mirroring', {'options': {'mirroring': False}}),
        ('two folds', {'folds': (0, 1)}),
        ('one of two folds', {'folds': (0, 1), 'options': {'folds': [1]}}),
        ('two channels', {'names': ('FLAIR', 'T1w')}),
        ('another order', {'names': ('T1', 'T2', 'FLAIR')}),
        ('transposed', {'plan': plans(
            plans={'transpose_forward': [2, 0, 1], 'transpose_backward': [1, 2, 0]},
            patch_size=[16, 16, 24],
        )}),
        ('reoriented', {'plan': plans(plans={'image_reader_writer': 'NibabelIOWithReorient'})}),
        ('three labels', {
            'labels': {'background': 0, 'brain': 1, 'lesion': 2}, 'options': {'lesion': 'lesion'},
        }),
        ('regions', {
            'labels': {'background': 0, 'whole': [1, 2], 'lesion': 2},
            'regions_class_order': [1, 2], 'options': {'lesion': 'lesion'},
        }),
    ],
    ids=lambda value: value.replace(' ', '-') if isinstance(value, str) else '',
)  # fmt: skip
def test_results_equal_those_of_its_own_predictor(tmp_path, name, more):
    names = more.get('names', ('FLAIR',))
    changes = {key: more[key] for key in ('labels', 'regions_class_order') if key in more}
    data = dataset(names, **changes)
    options = more.get('options', {})
    folder = write_model(
        tmp_path, more.get('plan'), data, more.get('folds', (0,)),
        inference_allowed_mirroring_axes=(0, 2),
    )  # fmt: skip
    images = head(len(names))
    affine = np.diag([*more.get('zooms', (1, 1, 1)), 1.0])
    affine[0, 0] *= -1
    affine[:3, 3] = 20, -30, 10
    how = {'use_mirroring': options.get('mirroring', True)}
    if 'folds' in options:
        how['folds'] = tuple(options['folds'])
    labels, probs = official(folder, images, affine, tmp_path, **how)
    found = engine(folder, tmp_path, options=options)(images, affine).prob
    if name == 'reoriented':  # probabilities are saved as they were read
        probs = probs[:, ::-1]
    lesion = labels.max() if 'labels' in more else 1
    number = 1 if 'regions_class_order' in more else int(lesion)
    assert 0.002 < (labels == lesion).mean() < 0.98, 'the test needs both'
    np.testing.assert_array_equal(found >= 0.5, labels == lesion)
    if len(probs) == 2 and 'regions_class_order' not in more:
        np.testing.assert_allclose(found, probs[1], atol=1e-4)
    elif 'regions_class_order' in more:
        np.testing.assert_allclose(found, probs[number], atol=1e-4)
    else:
        others = np.delete(probs, number, axis=0).max(axis=0)
        np.testing.assert_allclose(found, probs[number] / (probs[number] + others), atol=1e-4)


@pytest.mark.slow
def test_weights_and_trainers_that_do_not_fit_are_refused(tmp_path):
    folder = write_model(tmp_path, trainer_name='nnUNetTrainerOfMine')
    with pytest.raises(
        ModelError, match="'nnUNetTrainerOfMine', which nnunetv2 does not have"
    ) as e:
        add_model(folder, tmp_path / 'models', {'name': 'mine'})
    assert '--option trainer=nnUNetTrainer' in e.value.hint
    overrides = {'name': 'mine', 'options': {'trainer': 'nnUNetTrainer'}}
    assert add_model(folder, tmp_path / 'models', overrides).options['trainer'] == 'nnUNetTrainer'
    other = plans()
    other['configurations']['3d_fullres']['architecture']['arch_kwargs']['features_per_stage'] = [
        4,
        8,
    ]
    folder = write_model(tmp_path / 'other', inference_allowed_mirroring_axes=None)
    import json

    (folder / 'plans.json').write_text(json.dumps(other))
    with pytest.raises(ModelError, match='do not fit the network of its plans'):
        add_model(folder, tmp_path / 'models', {'name': 'other'})
