"""The face of a synthetic head goes, its brain and the file's header stay bit for bit."""

from __future__ import annotations

import gzip

import nibabel as nb
import nibabel.processing
import numpy as np
import pytest
from scipy import ndimage as ndi

from mslesseg_app.core.errors import AlignmentError, DataError
from mslesseg_app.demo import protocols
from mslesseg_app.demo.phantom import make_phantom, sample, scan
from mslesseg_app.spatial.deface import TOO_COARSE, deface_file, face_region, why_not
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, load_template

#: Points of the phantom's head (mm), which lies in the template's space but for small moves.
FACE = {
    'right eye': (33, 74, -36), 'left eye': (-33, 74, -36), 'nose': (0, 84, -52),
    'mouth': (0, 78, -86), 'chin': (0, 68, -112), 'right cheek': (40, 52, -78),
    'left cheek': (-40, 52, -78),
}  # fmt: skip
KEPT = {'vertex': (0, -20, 82), 'back of the head': (0, -108, 0), 'neck': (0, -60, -90)}
SLOPE, INTERCEPT = 0.5, -10.0


@pytest.fixture(scope='module')
def phantom():
    return make_phantom(seed=1, resolution=2.0)


@pytest.fixture(scope='module')
def defaced(phantom, tmp_path_factory):
    """A coarse T1w with a scaled header, before and after, and what was said."""
    folder = tmp_path_factory.mktemp('deface')
    protocol = protocols.session_protocols(1, 2.0)['T1w']
    image = scan(phantom, protocol, 1)
    stored = (np.asarray(image.dataobj) + 20).astype('i2')
    header = image.header.as_byteswapped('>')
    header['descrip'] = b'TE=3'
    head = nb.Nifti1Image(stored, None, header)
    head.header.set_slope_inter(SLOPE, INTERCEPT)
    head.to_filename(folder / 'head.nii')
    remark = deface_file(folder / 'head.nii', folder / 'out' / 'face.nii.gz')
    return folder / 'head.nii', folder / 'out' / 'face.nii.gz', remark


def voxel(phantom, affine, point):
    moved = phantom.scanner_from_subject('T1w', 1) @ (*point, 1)
    return tuple(np.round((np.linalg.inv(affine) @ moved)[:3]).astype(int))


@pytest.mark.slow
def test_the_face_is_gone_and_the_rest_is_there(phantom, defaced):
    before, after = (nb.load(path) for path in defaced[:2])
    values = after.get_fdata()
    np.testing.assert_array_equal(after.affine, before.affine)
    bright = before.get_fdata() > 0.1 * np.percentile(before.get_fdata(), 99)
    head = ndi.binary_closing(ndi.binary_opening(bright), iterations=4)
    for name, point in FACE.items():
        where = voxel(phantom, before.affine, point)
        around = tuple(slice(index - 2, index + 3) for index in where)
        assert head[around].any(), name
        assert (values[around] == 0).all(), name
    for name, point in KEPT.items():
        where = voxel(phantom, before.affine, point)
        assert values[where] == before.get_fdata()[where] != 0, name
    assert defaced[2] == ''


@pytest.mark.slow
def test_no_voxel_of_the_brain_is_touched(phantom, defaced):
    before, after = (nb.load(path).dataobj.get_unscaled() for path in defaced[:2])
    protocol = protocols.session_protocols(1, 2.0)['T1w']
    tissue = phantom.brain.gm + phantom.brain.wm
    truth = sample(tissue, phantom.grid, protocol, phantom.scanner_from_subject('T1w', 1)) > 0.5
    inside = ndi.binary_erosion(ndi.binary_opening(truth))
    assert inside.sum() * 8 / 1000 > 800, 'the truth is no brain'
    np.testing.assert_array_equal(after[inside], before[inside])
    assert (after[truth] != before[truth]).mean() < 1e-4


@pytest.mark.slow
def test_all_bytes_but_the_voxels_of_the_face_stay(defaced):
    before, after = defaced[0].read_bytes(), gzip.decompress(defaced[1].read_bytes())
    assert len(before) == len(after)
    assert before[:352] == after[:352]
    old, new = (np.frombuffer(raw, '>i2', offset=352) for raw in (before, after))
    changed = old != new
    assert 0.1 < changed.mean() < 0.35
    assert set(new[changed]) == {round(-INTERCEPT / SLOPE)}
    assert defaced[1].read_bytes()[4:8] == bytes(4), 'no time in the compressed file'


def test_the_region_leaves_out_the_brain_of_the_template():
    there = resample(face_region(), TEMPLATE_SHAPE, TEMPLATE_AFFINE, np.eye(4), 'nearest')
    mask = np.asarray(load_template().mask.dataobj) > 0
    assert not (np.asarray(there.dataobj)[mask] > 0).any()
    affine = np.linalg.inv(face_region().affine)
    for point in (*FACE.values(), (84, -20, -48), (-84, -20, -48), (0, 86, -48)):
        index = tuple(np.round((affine @ (*point, 1))[:3]).astype(int))
        assert face_region().dataobj[index] == 1, point


def write(path, data, affine):
    nb.Nifti1Image(data, affine).to_filename(path)
    return path


@pytest.mark.slow
def test_what_is_no_head_is_refused_and_nothing_is_written(tmp_path):
    noise = np.random.default_rng(0).integers(0, 200, (58, 58, 58)).astype('i2')
    path = write(tmp_path / 'noise.nii', noise, np.diag([2, 2, 2, 1]))
    with pytest.raises(AlignmentError, match='face was not removed'):
        deface_file(path, tmp_path / 'out.nii')
    assert [file.name for file in tmp_path.iterdir()] == ['noise.nii']


@pytest.mark.slow
@pytest.mark.parametrize('thick', [0, 2], ids=['sagittal', 'axial'])
def test_thick_slices_lose_the_face_and_keep_the_brain(phantom, tmp_path, thick):
    protocol = protocols.session_protocols(1, 2.0)['T1w']
    whole = scan(phantom, protocol, 1)
    zooms = [2.0, 2.0, 2.0]
    zooms[thick] = 4.8
    sliced = nb.processing.resample_to_output(
        nb.as_closest_canonical(nb.Nifti1Image(whole.get_fdata(), whole.affine)), zooms, order=1
    )
    path = write(tmp_path / 'a.nii', np.asarray(sliced.dataobj).astype('i2'), sliced.affine)
    deface_file(path, tmp_path / 'b.nii')
    before, after = (nb.load(tmp_path / name).get_fdata() for name in ('a.nii', 'b.nii'))
    for name in ('right eye', 'left eye', 'nose', 'mouth', 'chin'):
        assert after[voxel(phantom, sliced.affine, FACE[name])] == 0, name
    where = voxel(phantom, sliced.affine, KEPT['vertex'])
    assert after[where] == before[where] != 0
    tissue = phantom.brain.gm + phantom.brain.wm
    moved = phantom.scanner_from_subject('T1w', 1) @ phantom.grid.affine
    truth = nb.processing.resample_from_to(nb.Nifti1Image(tissue, moved), sliced, order=1)
    inside = ndi.binary_erosion(truth.get_fdata() > 0.5)
    assert inside.sum() > 10_000
    assert (after[inside] != before[inside]).mean() < 1e-3


@pytest.mark.parametrize(
    ('zooms', 'left'),
    [((3, 3, 3), True), ((2.4, 2.4, 12), True), ((4.8, 1, 1), False), ((0.9, 0.9, 6.4), False),
     ((1, 5, 1), False), ((2, 2, 2), False)],
)  # fmt: skip
def test_only_images_without_a_fine_plane_are_left_alone(zooms, left):
    data = np.random.default_rng(0).integers(1, 200, (20, 20, 6)).astype('i2')
    reason = why_not(nb.Nifti1Image(data, np.diag([*zooms, 1])))
    assert reason == (TOO_COARSE if left else '')


def test_a_brain_alone_is_copied(tmp_path):
    brain = np.asarray(load_template().mask.dataobj).astype('i2') * 100
    path = write(tmp_path / 'a.nii', brain, TEMPLATE_AFFINE)
    assert 'no more than the brain' in deface_file(path, path)
    np.testing.assert_array_equal(np.asarray(nb.load(path).dataobj), brain)


@pytest.mark.parametrize('raw', [b'', b'no image', b'\x5c\x01\0\0' + bytes(348)])
@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
def test_damaged_files(tmp_path, raw, suffix):
    path = tmp_path / f'x{suffix}'
    path.write_bytes(raw)
    with pytest.raises(DataError):
        deface_file(path, tmp_path / 'out.nii')
    assert not (tmp_path / 'out.nii').exists()


def test_several_volumes(tmp_path):
    path = write(tmp_path / 'x.nii', np.zeros((4, 4, 4, 2), 'i2'), np.eye(4))
    with pytest.raises(DataError, match='single volume'):
        deface_file(path, path)
