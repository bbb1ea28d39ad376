"""Grids stay what they were, bit for bit."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mslesseg_app.spatial import grids

ORIENTATIONS = [
    ''.join(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in permutations(('RL', 'AP', 'SI'))
    for flips in product((0, 1), repeat=3)
]
FORMS = (
    'quatern_b',
    'quatern_c',
    'quatern_d',
    'qoffset_x',
    'qoffset_y',
    'qoffset_z',
    'qform_code',
)
FORMS += ('sform_code', 'srow_x', 'srow_y', 'srow_z')

angles = st.floats(-0.35, 0.35)
offsets = st.floats(-200, 200)
edges = st.floats(0.3, 6)
codes = st.sampled_from([(1, 0), (0, 1), (1, 1), (2, 1), (4, 4), (0, 2), (3, 0)])


def rotation(x: float, y: float, z: float) -> np.ndarray:
    parts = []
    for axis, angle in enumerate((x, y, z)):
        i, j = [k for k in range(3) if k != axis]
        part = np.eye(3)
        part[i, i] = part[j, j] = np.cos(angle)
        part[i, j], part[j, i] = -np.sin(angle), np.sin(angle)
        parts.append(part)
    return parts[0] @ parts[1] @ parts[2]


def oriented(name: str, turn: np.ndarray, spacing, offset, form_codes, shape=(5, 6, 7)):
    """Make an image whose axes run closest to the directions of ``name``."""
    axes = nb.orientations.inv_ornt_aff(
        nb.orientations.ornt_transform(
            nb.orientations.axcodes2ornt('RAS'), nb.orientations.axcodes2ornt(name)
        ),
        shape,
    )[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ np.diag(spacing)
    affine[:3, 3] = offset
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    image = nb.Nifti1Image(data, affine)
    image.set_qform(affine, form_codes[0])
    image.set_sform(affine, form_codes[1])
    return image


images = st.builds(
    oriented,
    st.sampled_from(ORIENTATIONS),
    st.builds(rotation, angles, angles, angles),
    st.tuples(edges, edges, edges),
    st.tuples(offsets, offsets, offsets),
    codes,
)


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize('name', ORIENTATIONS)
def test_ras_and_back_for_every_orientation(name):
    image = oriented(name, np.eye(3), (1, 2, 3), (4, 5, 6), (1, 1))
    assert ''.join(nb.aff2axcodes(image.affine)) == name
    turned = grids.to_ras(image)
    assert nb.aff2axcodes(turned.affine) == ('R', 'A', 'S')
    assert np.array_equal(grids.from_ras(turned, image), np.asarray(image.dataobj))


@settings(max_examples=150)
@given(images)
def test_turning_does_not_move_any_voxel(image):
    """Each value stays at its place in the scanner, and comes back to its voxel."""
    turned = grids.to_ras(image)
    values = np.asarray(image.dataobj)
    assert np.array_equal(grids.from_ras(turned, image), values)
    for voxel in ((0, 0, 0), (4, 5, 6), (1, 2, 3)):
        place = nb.affines.apply_affine(image.affine, voxel)
        there = nb.affines.apply_affine(np.linalg.inv(turned.affine), place)
        index = tuple(np.round(there).astype(int))
        assert np.allclose(index, there, atol=1e-3)
        assert turned.dataobj[index] == values[voxel]


@settings(max_examples=150)
@given(images, st.sampled_from([np.uint8, np.int16, np.int32, np.float32]))
def test_like_keeps_the_geometry_bit_for_bit(image, dtype):
    loaded = nb.Nifti1Image.from_bytes(image.to_bytes())
    made = grids.like(loaded, np.ones(image.shape), dtype)
    again = nb.Nifti1Image.from_bytes(made.to_bytes())
    for field in FORMS:
        assert again.header[field].tobytes() == loaded.header[field].tobytes(), field
    assert again.header['pixdim'][:4].tobytes() == loaded.header['pixdim'][:4].tobytes()
    assert again.affine.tobytes() == loaded.affine.tobytes()
    assert again.get_data_dtype() == dtype
    assert np.asanyarray(again.dataobj).dtype == dtype, 'values are stored without a scale'


def test_like_keeps_neither_scaling_nor_names_of_the_source(tmp_path):
    source = oriented('LPS', np.eye(3), (1, 1, 3), (0, 0, 0), (1, 1))
    source.header['descrip'] = b'patient: somebody'
    source.header['aux_file'] = b'secret'
    source.header['cal_max'] = 900
    source.header.extensions.append(nb.nifti1.Nifti1Extension('comment', b'somebody'))
    source.header.set_data_dtype(np.int16)
    source.header.set_slope_inter(0.25, 3)
    source.to_filename(tmp_path / 'source.nii')
    made = grids.like(nb.load(tmp_path / 'source.nii'), np.ones(source.shape), np.uint8)
    content = made.to_bytes()
    assert b'somebody' not in content
    assert b'secret' not in content
    again = nb.Nifti1Image.from_bytes(content)
    assert set(np.unique(again.dataobj)) == {1}
    assert (again.header['cal_max'], again.header['cal_min']) == (0, 0)
    assert again.header.get_xyzt_units()[0] == 'mm'


def test_like_drops_a_time_axis():
    source = nb.Nifti1Image(np.zeros((4, 5, 6, 1), np.float32), np.eye(4))
    made = grids.like(source, np.ones((4, 5, 6)), np.uint8)
    assert made.shape == (4, 5, 6)


def test_template_grid():
    made = grids.on_template(np.zeros((182, 218, 182)), np.uint8)
    assert (made.header['qform_code'], made.header['sform_code']) == (4, 4)
    expected = [[-1, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]]
    for affine in (made.affine, made.get_qform(), made.get_sform()):
        assert np.array_equal(affine, expected)
    assert made.get_data_dtype() == np.uint8


def test_saved_images_do_not_depend_on_time_and_name(tmp_path):
    made = grids.on_template(np.zeros((182, 218, 182)), np.uint8)
    first = Path(grids.save(made, tmp_path / 'one.nii.gz'))
    second = Path(grids.save(made, tmp_path / 'two.nii.gz'))
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert content[4:8] == bytes(4), 'no time in the gzip header'
    assert content[3] & 8 == 0, 'no name in the gzip header'


def test_saved_real_numbers_are_read_as_they_were(tmp_path):
    data = np.random.default_rng(0).normal(size=(20, 30, 40)).astype(np.float32)
    data[:, 10:20] = 0
    read = nb.load(grids.save(nb.Nifti1Image(data, np.eye(4)), tmp_path / 'real.nii.gz'))
    np.testing.assert_array_equal(read.dataobj, data)


def test_probabilities_are_rounded_to_fine_steps():
    share = np.array([0, 1, 0.5, 0.3, 1e-6, np.float32(0.5) - np.float32(2**-24)], np.float32)
    found, down = grids.rounded_share(share), grids.rounded_share(share, down=True)
    for one in (found, down):
        np.testing.assert_array_equal(one[[0, 1, 2, 4]], [0, 1, 0.5, 0])
    assert found[3] == pytest.approx(0.3, abs=2**-17)
    assert 0 <= share[3] - down[3] < 2**-16
    assert down[5] < 0.5 == found[5]
    assert found.dtype == np.float32


def test_geometry_in_words():
    image = oriented('RAS', np.eye(3), (0.9375, 0.9375, 3), (0, 0, 0), (1, 1))
    assert grids.describe_geometry(image) == '5 × 6 × 7 voxels of 0.938 × 0.938 × 3 mm'


def test_a_grid_with_an_sform_only_opens_in_itk_at_its_size(tmp_path):
    """A header whose voxel sizes contradict its sform, which also holds a little shear."""
    import SimpleITK as sitk

    affine = np.diag([0.9, 0.9, 3.0, 1.0])
    affine[0, 1] = 0.002
    source = nb.Nifti1Image(np.zeros((20, 21, 12), np.int16), affine)
    source.set_sform(affine, 1)
    source.set_qform(None, 0)
    source.header['pixdim'][1:4] = 1
    source.to_filename(tmp_path / 'source.nii')
    made = grids.like(nb.load(tmp_path / 'source.nii'), np.ones((20, 21, 12)), np.uint8)
    made.to_filename(tmp_path / 'made.nii')
    again = nb.load(tmp_path / 'made.nii')
    assert again.affine.tobytes() == nb.load(tmp_path / 'source.nii').affine.tobytes()
    assert np.allclose(again.header.get_zooms(), (0.9, 0.9, 3), atol=1e-5)
    opened = sitk.ReadImage(str(tmp_path / 'made.nii'))
    assert np.allclose(opened.GetSpacing(), (0.9, 0.9, 3), atol=1e-5)


@pytest.mark.parametrize('axes', [(1,), (1, 1)])
def test_maps_come_home_to_images_with_axes_of_length_one(tmp_path, axes):
    from mslesseg_app.participant.interfaces.images import PrepareImage, RestoreToNative
    from mslesseg_app.spatial.affines import write_itk

    shape, affine = (20, 21, 12), np.diag([4.0, 4, 6, 1])
    affine[:3, 3] = -40, -60, -30
    data = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    original = tmp_path / 'raw.nii.gz'
    nb.Nifti1Image(data.reshape(*shape, *axes), affine).to_filename(original)
    template = np.zeros((182, 218, 182), np.float32)
    template[80:100, 100:120, 80:100] = 1
    grids.on_template(template, np.float32).to_filename(tmp_path / 'map.nii.gz')
    write_itk(tmp_path / 'xfm.txt', np.eye(4))
    native = PrepareImage(in_file=str(original), correct_bias=False)._execute(tmp_path)
    assert np.array_equal(np.asarray(nb.load(native['out_file']).dataobj), data)
    home = RestoreToNative(
        in_file=str(tmp_path / 'map.nii.gz'),
        original=str(original),
        transform=str(tmp_path / 'xfm.txt'),
    )._execute(tmp_path)
    found = nb.load(home['out_file'])
    assert found.shape == shape
    assert np.array_equal(found.affine, affine)
    assert float(found.get_fdata().sum() * 96) == pytest.approx(20**3, rel=0.02)  # mm3
