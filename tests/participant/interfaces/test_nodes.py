"""The thin nodes around the numerical functions, each by itself."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from skeleton import TEMPLATE_AFFINE, TEMPLATE_SHAPE

from mslesseg_app.core.errors import AlignmentError, DataError
from mslesseg_app.participant.interfaces.fsl import (
    CombineMasks,
    MaskToBrain,
    MatrixToTransform,
    read_matrix,
)
from mslesseg_app.participant.interfaces.images import (
    PrepareImage,
    RestoreToNative,
    ToTemplate,
    TurnToRas,
)
from mslesseg_app.participant.interfaces.lesions import FindLesions, LabelsToMask, label_dtype
from mslesseg_app.participant.interfaces.sink import DerivativesDataSink
from mslesseg_app.participant.interfaces.spatial import InvertTransform, write_alignment
from mslesseg_app.spatial.affines import read_itk, write_itk
from mslesseg_app.spatial.exam_alignment import ExamAlignment

SAGITTAL = np.array([[0, 0, 1.2, -30], [-1.0, 0, 0, 40], [0, -1.0, 0, 35], [0, 0, 0, 1]])


def save(data: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    image = nb.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.to_filename(path)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A sagittal image of whole numbers."""
    data = np.random.default_rng(0).integers(0, 900, (30, 28, 20)).astype(np.int16)
    return save(data, SAGITTAL, tmp_path / 'raw.nii.gz')


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    return write_itk(tmp_path / 'identity.txt', np.eye(4))


# --------------------------------------------------------------------------- geometry


def prepared(path: Path, folder: Path, *, correct_bias: bool = False) -> str:
    node = PrepareImage(in_file=str(path), correct_bias=correct_bias)
    return str(node.run(cwd=folder).outputs.out_file)


def test_preparing_without_correction_changes_nothing(raw, tmp_path):
    home, source = nb.load(prepared(raw, tmp_path)), nb.load(raw)
    assert home.get_data_dtype() == np.float32
    assert np.array_equal(home.dataobj, source.dataobj)
    assert home.affine.tobytes() == source.affine.tobytes()


def test_correction_is_that_of_the_turned_image_to_a_step_far_below_the_scanners(raw, tmp_path):
    from mslesseg_app.spatial.bias import correct_bias
    from mslesseg_app.spatial.grids import to_ras

    found = nb.load(prepared(raw, tmp_path, correct_bias=True))
    exact = correct_bias(to_ras(nb.load(raw)))
    moved = np.asarray(to_ras(found).dataobj, np.float64)
    assert np.array_equal(found.affine, nb.load(raw).affine)
    assert 0 < np.abs(moved - np.asarray(exact.dataobj)).max() <= 900 / 2**14 / 2
    steps = moved * 2**14 / 512  # 512 < 99 % of the values
    assert np.array_equal(steps, np.rint(steps))


def test_files_for_other_programs_have_axes_closest_to_ras(raw, tmp_path):
    made = TurnToRas(flair=prepared(raw, tmp_path)).run(cwd=tmp_path).outputs
    image, source = nb.load(made.flair), nb.load(raw)
    assert nb.aff2axcodes(image.affine) == ('R', 'A', 'S')
    assert np.allclose(image.affine, nb.as_closest_canonical(source).affine)
    assert sorted(np.asarray(image.dataobj).ravel()) == sorted(np.asarray(source.dataobj).ravel())


def test_an_image_that_lies_on_the_template_is_taken_over(tmp_path, identity):
    data = 100 * np.random.default_rng(0).random(TEMPLATE_SHAPE, dtype=np.float32)
    data[0, 0, 0] = 0
    path = save(data, TEMPLATE_AFFINE, tmp_path / 'mni.nii.gz')
    taken = prepared(path, tmp_path)
    out = ToTemplate(in_file=taken, transform=str(identity)).run(cwd=tmp_path).outputs.out_file
    assert np.array_equal(nb.load(out).dataobj, data)


def test_labels_stay_labels_on_the_template(tmp_path, identity):
    labels = np.zeros((40, 40, 40), np.int16)
    labels[10:20, 10:20, 10:20] = 7
    labels[25:30, 25:30, 25:30] = 300
    path = save(labels, np.diag([2, 2, 2, 1.0]), tmp_path / 'labels.nii.gz')
    node = ToTemplate(in_file=str(path), transform=str(identity), interpolation='nearest')
    image = nb.load(node.run(cwd=tmp_path).outputs.out_file)
    assert set(np.unique(image.dataobj)) == {0, 7, 300}
    assert image.get_data_dtype() == np.int16


def test_a_map_comes_home_to_the_grid_of_the_raw_image(raw, tmp_path, identity):
    path = save(np.ones(TEMPLATE_SHAPE, np.float32), TEMPLATE_AFFINE, tmp_path / 'mni.nii.gz')
    inputs = {'in_file': str(path), 'original': str(raw), 'transform': str(identity)}
    prob = nb.load(RestoreToNative(**inputs).run(cwd=tmp_path).outputs.out_file)
    assert prob.shape == (30, 28, 20)
    assert prob.affine.tobytes() == nb.load(raw).affine.tobytes()
    assert np.allclose(np.asarray(prob.dataobj)[5:-5, 5:-5, 5:-5], 1)
    mask = nb.load(RestoreToNative(**inputs, threshold=0.5).run(cwd=tmp_path).outputs.out_file)
    assert mask.get_data_dtype() == np.uint8
    assert set(np.unique(mask.dataobj)) <= {0, 1}


def test_an_affine_and_its_inverse(tmp_path):
    affine = np.array([[1.1, 0.1, 0, 4], [0, 0.9, 0, -3], [0.05, 0, 1, 2], [0, 0, 0, 1]])
    path = write_itk(tmp_path / 'a.txt', affine)
    inverse = InvertTransform(in_file=str(path)).run(cwd=tmp_path).outputs.out_file
    assert np.allclose(read_itk(inverse) @ affine, np.eye(4))


# --------------------------------------------------------------------------- alignment


def aligned(status: str) -> ExamAlignment:
    return ExamAlignment(
        'FLAIR',
        {'FLAIR': np.eye(4), 'T1w': np.eye(4)},
        {'FLAIR': {'z': 20.0}, 'T1w': {'z': 1.0}},
        ['T1w'] if status == 'fail' else [],
        {'T1w': 'too unlike'} if status != 'pass' else {},
    )


def test_a_failed_alignment_stops_the_exam(tmp_path):
    with pytest.raises(AlignmentError, match='T1w: too unlike') as caught:
        write_alignment(aligned('fail'), tmp_path, 'stop')
    assert caught.value.exit_code == 65
    assert '--on-failed-alignment flag' in caught.value.hint


@pytest.mark.parametrize('status', ['fail', 'check', 'pass'])
def test_statuses_are_kept(tmp_path, status):
    outputs = write_alignment(aligned(status), tmp_path, 'flag')
    content = json.loads(Path(outputs['quality']).read_text())
    assert content['anchor'] == 'FLAIR'
    assert content['images']['T1w']['status'] == status
    assert content['images']['FLAIR'] == {'numbers': {'z': 20.0}, 'status': 'pass', 'reason': ''}
    assert set(outputs) == {'flair_xfm', 't1w_xfm', 'quality', 'subject_reference'}
    assert outputs['subject_reference'] == {'SubjectAnatomicalReference': 'sessionwise'}


@pytest.mark.parametrize('text', ['', '1 0 0 0\n0 1 0 0', 'no matrix', 'nan 0 0 0\n' * 4])
def test_what_flirt_did_not_write(tmp_path, text):
    path = tmp_path / 'flirt.mat'
    path.write_text(text)
    with pytest.raises(DataError, match='FLIRT matrix'):
        read_matrix(path)


def test_two_matrices_are_chained(tmp_path, raw):
    flair = save(np.ones((12, 14, 10), np.float32), np.diag([-2, 2, 3, 1.0]), tmp_path / 'f.nii')
    mni = save(np.ones((10, 10, 10), np.float32), np.diag([-2, 2, 2, 1.0]), tmp_path / 'm.nii')
    from fakefsl.images import flirt_matrix

    t1w_from_flair, flair_from_mni = np.eye(4), np.eye(4)
    t1w_from_flair[:3, 3], flair_from_mni[:3, 3] = (1, 2, 3), (-4, 5, 6)
    images = {name: nb.load(path) for name, path in (('t', raw), ('f', flair), ('m', mni))}
    np.savetxt(tmp_path / 'tf.mat', flirt_matrix(images['t'], images['f'], t1w_from_flair))
    np.savetxt(tmp_path / 'fm.mat', flirt_matrix(images['f'], images['m'], flair_from_mni))
    node = MatrixToTransform(
        in_file=str(raw),
        matrix=str(tmp_path / 'tf.mat'),
        reference=str(mni),
        via=str(flair),
        via_matrix=str(tmp_path / 'fm.mat'),
    )
    out = node.run(cwd=tmp_path).outputs.out_file
    assert np.allclose(read_itk(out), t1w_from_flair @ flair_from_mni, atol=1e-5)


def test_an_empty_mask_of_bet_is_an_error(tmp_path):
    path = save(np.zeros(TEMPLATE_SHAPE, np.uint8), TEMPLATE_AFFINE, tmp_path / 'm.nii.gz')
    with pytest.raises(DataError, match='no brain'):
        MaskToBrain(in_file=str(path)).run(cwd=tmp_path)


def test_the_brain_of_several_images_is_what_any_of_them_shows(tmp_path):
    """The paper leaves each image its own mask: none may lose voxels to another's."""
    one, two, none = (np.zeros(TEMPLATE_SHAPE, np.uint8) for _ in range(3))
    one[50:60, 50:60, 50:60] = two[55:70, 50:60, 50:60] = 1
    paths = [
        str(save(mask, TEMPLATE_AFFINE, tmp_path / f'{number}.nii.gz'))
        for number, mask in enumerate((one, two, none))
    ]
    found = CombineMasks(in_files=paths[:2]).run(cwd=tmp_path).outputs.out_file
    expected = np.zeros(TEMPLATE_SHAPE, bool)
    expected[50:70, 50:60, 50:60] = True
    assert np.array_equal(np.asarray(nb.load(found).dataobj) > 0, expected)
    with pytest.raises(DataError, match='no brain'):
        CombineMasks(in_files=paths).run(cwd=tmp_path)


# ----------------------------------------------------------------------------- lesions


def find(prob: np.ndarray, tmp_path: Path, identity: Path, **options: object):
    path = save(prob.astype(np.float32), np.diag([1, 1, 3, 1.0]), tmp_path / 'prob.nii.gz')
    settings = {'threshold': 0.5, 'min_volume': 6.0, 'connectivity': 6, **options}
    node = FindLesions(prob_file=str(path), transform=str(identity), **settings)
    return node.run(cwd=tmp_path).outputs


def test_lesions_from_a_probability(tmp_path, identity):
    prob = np.zeros((20, 20, 10))
    prob[2:5, 2:5, 2:4] = 0.5  # exactly the threshold: 18 voxels, 54 mm3
    prob[10, 10, 5] = 0.9  # 3 mm3: too small
    prob[15:17, 15, 5] = 0.8  # 6 mm3: just large enough
    found = find(prob, tmp_path, identity)
    labels = np.asarray(nb.load(found.labels_file).dataobj)
    assert np.array_equal(np.bincount(labels.ravel())[1:], [18, 2])
    assert labels[3, 3, 3] == 1
    assert np.array_equal(nb.load(found.mask_file).dataobj, labels > 0)
    assert found.summary == {
        'LesionCount': 2,
        'LesionVolume_mm3': 60.0,
        'LargestLesion_mm3': 54.0,
    }
    assert len(Path(found.table_file).read_text().splitlines()) == 3


def test_no_lesion_at_all(tmp_path, identity):
    found = find(np.zeros((20, 20, 10)), tmp_path, identity)
    assert found.summary == {'LesionCount': 0, 'LesionVolume_mm3': 0.0, 'LargestLesion_mm3': 0.0}
    lines = Path(found.table_file).read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('lesion_id\tvolume_mm3')
    assert not np.asarray(nb.load(found.mask_file).dataobj).any()


def test_neighbours_make_lesions(tmp_path, identity):
    prob = np.zeros((20, 20, 10))
    prob[5, 5, 5] = prob[6, 6, 5] = prob[7, 7, 6] = 1  # by an edge, then by a corner
    counts = {
        number: find(prob, tmp_path, identity, connectivity=number, min_volume=0.0).summary[
            'LesionCount'
        ]
        for number in (6, 18, 26)
    }
    assert counts == {6: 3, 18: 2, 26: 1}


def test_the_mask_of_labels_keeps_their_header(tmp_path):
    labels = np.zeros(TEMPLATE_SHAPE, np.int16)
    labels[1:3] = 500
    path = save(labels, TEMPLATE_AFFINE, tmp_path / 'labels.nii.gz')
    mask = nb.load(LabelsToMask(in_file=str(path)).run(cwd=tmp_path).outputs.out_file)
    assert set(np.unique(mask.dataobj)) == {0, 1}
    assert mask.get_data_dtype() == np.uint8


@pytest.mark.parametrize(
    ('largest', 'dtype'), [(0, np.int16), (32767, np.int16), (32768, np.int32)]
)
def test_type_of_labels(largest, dtype):
    assert label_dtype(np.array([0, largest])) is dtype


# ------------------------------------------------------------------------------- sink


def sink(raw: Path, out: Path, **metadata: object):
    entities = {'space': 'orig', 'label': 'lesion', 'suffix': 'mask', 'desc': 'x'}
    node = DerivativesDataSink(
        base_directory=str(out),
        source_file='/data/sub-01/ses-1/anat/sub-01_ses-1_acq-3D_run-2_FLAIR.nii.gz',
        in_file=str(raw),
        compress=True,
        **entities,
        **metadata,
    )
    node.run(cwd=str(raw.parent))
    return out / 'sub-01/ses-1/anat/sub-01_ses-1_space-orig_label-lesion_desc-x_mask.nii.gz'


def test_sink_writes_the_bytes_of_the_node_and_a_sidecar(raw, tmp_path):
    path = sink(raw, tmp_path / 'out', Type='Lesion', Threshold=0.5)
    assert path.read_bytes() == raw.read_bytes()
    sidecar = json.loads(path.with_name(path.name.replace('.nii.gz', '.json')).read_text())
    assert sidecar == {'Threshold': 0.5, 'Type': 'Lesion'}


def test_sink_replaces_what_changed(raw, tmp_path):
    path = sink(raw, tmp_path / 'out', Type='Lesion')
    save(np.ones((4, 4, 4), np.uint8), np.eye(4), raw)
    assert sink(raw, tmp_path / 'out', Type='Brain').read_bytes() == raw.read_bytes()
    assert json.loads(path.with_name(path.name.replace('.nii.gz', '.json')).read_text()) == {
        'Type': 'Brain'
    }
    assert len(list((tmp_path / 'out').rglob('*.*'))) == 2


def test_importing_the_sink_does_not_touch_templateflow(tmp_path, project_root):
    """Its index takes seconds, and its folder may not be writable."""
    import os
    import subprocess
    import sys

    home = tmp_path / 'home'
    home.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != 'TEMPLATEFLOW_HOME'}
    environment |= {'HOME': str(home), 'PYTHONPATH': str(project_root)}
    environment |= {'XDG_CACHE_HOME': str(home / 'cache')}
    code = (
        'import os, mslesseg_app.participant.workflows.base\n'
        'assert "TEMPLATEFLOW_HOME" not in os.environ'
    )
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)
    assert [path for path in home.rglob('*') if 'templateflow' in path.name.lower()] == []
