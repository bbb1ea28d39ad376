"""Masks as programs really store them, and masks that lie elsewhere."""

from __future__ import annotations

from pathlib import Path

import nibabel as nb
import numpy as np
import pandas as pd
import pytest

from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.metrics.reference import evaluate, read_binary
from mslesseg_app.spatial.masks import read_mask, read_probability

AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1, 0, -30], [0, 0, 3, -20], [0, 0, 0, 1]])


def truth() -> np.ndarray:
    data = np.zeros((40, 44, 20), np.uint8)
    data[5:12, 8:14, 4:8] = 1
    data[20:25, 30:33, 10:12] = 1
    return data


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    image = nb.Nifti1Image(data, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.to_filename(path)
    return path


def scaled(path: Path, data: np.ndarray, slope: float, inter: float = 0.0) -> Path:
    """Store small integers with a slope, as ANTs and others do."""
    image = nb.Nifti1Image(data, AFFINE)
    image.header.set_slope_inter(np.float32(slope), np.float32(inter))
    image.to_filename(path)
    return path


def run(*arguments: object) -> int:
    try:
        return main([*map(str, arguments)])
    except SystemExit as error:
        return int(error.code or 0)


SCALED = {'255': (255, 1 / 255, 0.0), '200': (200, 1 / 200, 0.0), 'inter': (100, 0.01, 1e-8)}


@pytest.mark.parametrize('kind', SCALED)
def test_a_slope_leaves_ones(tmp_path, kind):
    stored, slope, inter = SCALED[kind]
    path = scaled(tmp_path / 'm.nii.gz', truth() * np.uint8(stored), slope, inter)
    assert np.array_equal(read_mask(path).dataobj, truth())
    assert np.array_equal(read_mask(path, label=1).dataobj, truth())
    assert np.array_equal(read_binary(path)[1], truth() > 0)
    assert np.array_equal(read_probability(path).dataobj > 0.5, truth() > 0)


def test_a_slope_changes_no_number(tmp_path, capsys):
    prediction = np.roll(truth(), 1, 0)
    save(tmp_path / 'ref.nii.gz', truth())
    save(tmp_path / 'pred.nii.gz', prediction)
    scaled(tmp_path / 'scaled.nii.gz', prediction * np.uint8(255), 1 / 255)
    tables = []
    for name in ('pred', 'scaled'):
        out = tmp_path / f'{name}.tsv'
        arguments = (tmp_path / f'{name}.nii.gz', tmp_path / 'ref.nii.gz', '-o', out)
        assert run('evaluate', *arguments) == 0, capsys.readouterr().err
        tables.append(pd.read_csv(out, sep='\t').drop(columns=['name', 'prediction']))
    pd.testing.assert_frame_equal(*tables)
    # By hand: moved by one voxel along edges of 7 and 5, 6 * 24 + 4 * 6 of 198 are shared.
    assert tables[0]['DSC'][0] == pytest.approx(168 / 198)
    out = tmp_path / 'joint.nii.gz'
    inputs = [tmp_path / name for name in ('pred.nii.gz', 'scaled.nii.gz', 'ref.nii.gz')]
    assert run('consensus', *inputs, '-o', out, '--method', 'majority') == 0
    assert np.array_equal(np.asarray(nb.load(out).dataobj), prediction)


@pytest.mark.parametrize('kind', [np.int64, np.uint64])
@pytest.mark.parametrize('other', [7, 2**40])
def test_labels_of_64_bits(tmp_path, kind, other):
    labels = truth().astype(kind)
    labels[0, 0, 0] = other
    path = tmp_path / 'm.nii'
    nb.Nifti1Image(labels, np.diag([1, 1, 3, 1.0]), dtype=kind).to_filename(path)
    assert np.array_equal(read_mask(path, label=1).dataobj, truth())
    with pytest.raises(DataError, match='is not a mask'):
        read_mask(path)


def test_a_soft_mask_is_still_none(tmp_path):
    path = save(tmp_path / 'm.nii.gz', truth() * np.float32(0.9))
    with pytest.raises(DataError, match='is not a mask'):
        read_mask(path)


def test_a_label_that_is_not_there(tmp_path, capsys):
    reference = save(tmp_path / 'ref.nii.gz', truth())
    labels = save(tmp_path / 'labels.nii.gz', truth() * np.uint8(4))
    with pytest.raises(DataError, match=r'does not hold the label 3: it holds 2 values \(0, 4\)'):
        read_mask(labels, label=3)
    assert read_mask(labels, label=4).get_fdata().sum() == truth().sum()
    out = tmp_path / 'o.tsv'
    assert run('evaluate', labels, reference, '--label', 3, '-o', out) == 65
    assert '--label' in capsys.readouterr().err


def test_an_image_without_any_label_is_an_empty_mask(tmp_path):
    path = save(tmp_path / 'labels.nii.gz', np.zeros((40, 44, 20), np.uint8))
    assert not read_mask(path, label=3).get_fdata().any()


def test_a_mask_elsewhere_is_not_an_empty_one(tmp_path, capsys):
    far = AFFINE.copy()
    far[0, 3] += 500
    reference = save(tmp_path / 'ref.nii.gz', truth())
    path = save(tmp_path / 'far.nii.gz', truth(), far)
    out = tmp_path / 'o.tsv'
    assert run('evaluate', path, reference, '--resample', '-o', out) == 65
    assert 'lies elsewhere' in capsys.readouterr().err


def test_a_mask_whose_lesions_lie_outside_the_reference(tmp_path, capsys):
    """The fields of view touch, but nothing that is marked lies in both."""
    shifted = AFFINE.copy()
    shifted[2, 3] += 3 * 14  # the lesions end at the thirteenth slice
    reference = save(tmp_path / 'ref.nii.gz', truth())
    path = save(tmp_path / 'off.nii.gz', np.flip(truth(), 2).copy(), shifted)
    assert run('evaluate', path, reference, '--resample', '-o', tmp_path / 'o.tsv') == 65
    assert 'what it marks is outside' in capsys.readouterr().err


def test_a_mask_without_place_is_refused(tmp_path, capsys):
    reference = save(tmp_path / 'ref.nii.gz', truth())
    path = save(tmp_path / 'lost.nii', truth())
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(bytes(content))
    assert run('evaluate', path, reference, '--resample', '-o', tmp_path / 'o.tsv') == 65
    assert 'neither qform nor sform' in capsys.readouterr().err


@pytest.mark.parametrize('axes', [(), (1,), (1, 1)])
def test_reference_masks_with_axes_of_length_one(tmp_path, axes):
    path = save(tmp_path / 'ref.nii.gz', truth().reshape((*truth().shape, *axes)))
    native = nb.Nifti1Image(np.roll(truth(), 1, 0), AFFINE)
    numbers, grid = evaluate(path, native, native)
    assert grid == 'orig'
    assert numbers['DSC'] == pytest.approx(168 / 198)


def test_distances_come_from_the_affine_and_not_from_pixdim(tmp_path):
    """Two single voxels, two slices of 3 mm apart; the header claims voxels of 1 mm."""
    one, two = np.zeros((2, 10, 10, 10), np.uint8)
    one[5, 5, 3] = two[5, 5, 5] = 1
    image = nb.Nifti1Image(one, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(None, 0)
    image.header['pixdim'][1:4] = 1
    path = tmp_path / 'ref.nii.gz'
    image.to_filename(path)
    assert tuple(nb.load(path).header.get_zooms()) == (1, 1, 1)
    native = nb.Nifti1Image(two, AFFINE)
    assert evaluate(path, native, native)[0]['ASSD'] == pytest.approx(6)


def test_a_reference_elsewhere_is_refused(tmp_path):
    far = AFFINE.copy()
    far[1, 3] -= 300
    path = save(tmp_path / 'ref.nii.gz', truth(), far)
    native = nb.Nifti1Image(truth(), AFFINE)
    with pytest.raises(DataError, match='lies elsewhere'):
        evaluate(path, native, native)


def test_a_reference_that_was_not_fetched(tmp_path):
    path = tmp_path / 'ref.nii.gz'
    path.symlink_to('.git/annex/objects/ref.nii.gz')
    with pytest.raises(NoInputError, match='link to content') as caught:
        read_binary(path)
    assert 'datalad get' in caught.value.hint
