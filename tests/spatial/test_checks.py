"""Bad images are refused with a message that says what is wrong and what to do."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.spatial.checks import MAX_HEADER_DISAGREEMENT, MIN_SLICES, check_image
from mslesseg_app.spatial.masks import read_mask
from mslesseg_app.spatial.nifti_header import damaged_qform
from mslesseg_app.spatial.registered import came_registered

SHAPE = (20, 21, 12)


def sample(shape=SHAPE, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 100, shape).astype(dtype)


def image(data: np.ndarray, affine: np.ndarray | None = None) -> nb.Nifti1Image:
    made = nb.Nifti1Image(data, np.diag([1, 1, 3, 1.0]) if affine is None else affine)
    made.set_qform(made.affine, 1)
    made.set_sform(made.affine, 1)
    return made


def write(made: nb.Nifti1Image, folder: Path, name: str = 'image.nii.gz') -> Path:
    path = folder / name
    made.to_filename(path)
    return path


def refused(path: Path) -> DataError:
    """Check that an image is refused, and return the error."""
    with pytest.raises(DataError) as caught:
        check_image(path)
    error = caught.value
    assert error.exit_code == 65
    assert str(path) in str(error), 'the message names the file'
    return error


def test_a_good_image_passes(tmp_path):
    made = image(sample())
    checked = check_image(write(made, tmp_path))
    data = np.asarray(made.dataobj)
    assert np.array_equal(checked.get_fdata(), data - data.min()), 'the background is at zero'
    assert np.array_equal(checked.affine, made.affine)
    assert checked.get_data_dtype() == np.float32


def test_scaled_integers_are_read_with_their_scale(tmp_path):
    made = image(sample(dtype=np.int16))
    made.header.set_slope_inter(0.5, 10)
    path = tmp_path / 'scaled.nii'
    made.to_filename(path)
    raw = nb.load(path)
    expected = raw.get_fdata() - raw.get_fdata().min()
    assert np.allclose(check_image(path).get_fdata(), expected)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    path = write(image(sample((*SHAPE, 1, 1))), tmp_path)
    checked = check_image(path)
    assert checked.shape == SHAPE
    data = sample((*SHAPE, 1, 1)).reshape(SHAPE)
    assert np.array_equal(checked.get_fdata(), data - data.min())


@pytest.mark.parametrize('codes', [(1, 0), (0, 1), (2, 4)])
def test_one_orientation_is_enough(tmp_path, codes):
    made = image(sample())
    made.set_qform(made.affine, codes[0])
    made.set_sform(made.affine, codes[1])
    check_image(write(made, tmp_path))


@pytest.mark.parametrize('share', [0.2, 0.6, 0.99])
def test_truncated(tmp_path, share):
    path = write(image(sample()), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    error = refused(path)
    assert 'truncated' in str(error) or 'not a readable' in str(error)
    assert 'Copy or convert' in error.hint


def test_truncated_without_compression(tmp_path):
    path = write(image(sample()), tmp_path, 'image.nii')
    path.write_bytes(path.read_bytes()[:-1000])
    assert 'Copy or convert' in refused(path).hint


def test_damaged_within(tmp_path):
    path = write(image(sample()), tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(bytes(content))
    refused(path)


@pytest.mark.parametrize('content', [b'', b'hello', gzip.compress(b'hello', mtime=0), bytes(400)])
def test_no_nifti(tmp_path, content):
    path = tmp_path / 'image.nii.gz'
    path.write_bytes(content)
    refused(path)


def test_another_format(tmp_path):
    path = tmp_path / 'image.mgz'
    nb.MGHImage(sample(), np.eye(4)).to_filename(path)
    assert 'MGH' in str(refused(path))


def test_absent(tmp_path):
    with pytest.raises(NoInputError, match='does not exist'):
        check_image(tmp_path / 'absent.nii.gz')


def test_a_folder_is_no_image(tmp_path):
    folder = tmp_path / 'image.nii.gz'
    folder.mkdir()
    assert 'is a folder' in str(refused(folder))


def test_series(tmp_path):
    error = refused(write(image(sample((*SHAPE, 2))), tmp_path))
    assert '(20, 21, 12, 2)' in str(error)
    assert 'three-dimensional' in str(error)
    assert 'one volume' in error.hint


def test_two_axes(tmp_path):
    assert 'three-dimensional' in str(refused(write(image(sample((20, 21))), tmp_path)))


def test_colours(tmp_path):
    dtype = np.dtype([('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
    refused(write(image(np.zeros(SHAPE, dtype)), tmp_path))


def test_complex_numbers(tmp_path):
    refused(write(image((sample() * (1 + 1j)).astype(np.complex64)), tmp_path))


@pytest.mark.parametrize('value', [0, 7, -3])
def test_constant(tmp_path, value):
    error = refused(write(image(np.full(SHAPE, value, np.float32)), tmp_path))
    assert f'constant: every voxel is {value}' in str(error)
    assert error.hint


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, value):
    data = sample()
    data[3, 4, 5] = data[1, 1, 1] = value
    error = refused(write(image(data), tmp_path))
    assert '2 voxels' in str(error)
    assert error.hint


def test_nothing_but_nan(tmp_path):
    refused(write(image(np.full(SHAPE, np.nan, np.float32)), tmp_path))


def test_forms_that_disagree(tmp_path):
    made = image(sample())
    turned = made.affine.copy()
    turned[2, 3] += 15
    made.set_sform(turned, 1)
    error = refused(write(made, tmp_path))
    assert 'qform and sform disagree by 15.0 mm' in str(error)
    assert 'fslorient' in error.hint


def test_forms_that_are_mirrored(tmp_path):
    made = image(sample())
    made.set_sform(np.diag([-1, 1, 1, 1]) @ made.affine, 1)
    assert 'disagree' in str(refused(write(made, tmp_path)))


def test_forms_that_differ_a_little(tmp_path):
    made = image(sample())
    near = made.affine.copy()
    near[:3, 3] += MAX_HEADER_DISAGREEMENT / 3
    made.set_sform(near, 1)
    check_image(write(made, tmp_path))


def test_forms_are_not_compared_where_one_is_not_set(tmp_path):
    made = image(sample())
    made.set_qform(np.diag([5, 5, 5, 1.0]), 0)
    check_image(write(made, tmp_path))


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_voxels_without_extent(tmp_path, axis):
    path = write(image(sample()), tmp_path, 'image.nii')
    content = bytearray(path.read_bytes())
    start = 76 + 4 * (axis + 1)  # pixdim
    content[start : start + 4] = np.float32(0).tobytes()
    path.write_bytes(bytes(content))
    error = refused(path)
    assert 'without extent' in str(error)
    assert error.hint


def test_a_singular_sform(tmp_path):
    affine = np.diag([1, 0, 3, 1.0])
    made = image(sample())
    made.set_sform(affine, 1)
    assert 'without extent' in str(refused(write(made, tmp_path)))


def test_axes_of_the_sform_in_one_plane(tmp_path):
    affine = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    made = nb.Nifti1Image(sample(), np.eye(4))
    made.set_qform(None, 0)
    made.set_sform(affine, 1)
    refused(write(made, tmp_path))


def test_an_affine_that_is_not_a_number(tmp_path):
    path = write(image(sample()), tmp_path, 'image.nii')
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32('nan').tobytes()  # srow_x
    path.write_bytes(bytes(content))
    refused(path)


def test_no_orientation(tmp_path):
    made = image(sample())
    made.set_qform(made.affine, 0)
    made.set_sform(made.affine, 0)
    error = refused(write(made, tmp_path))
    assert 'neither qform nor sform' in str(error)
    assert 'left and right' in str(error)
    assert 'dcm2niix' in error.hint


@pytest.mark.parametrize('slices', [1, 3, MIN_SLICES - 1])
@pytest.mark.parametrize('axis', [0, 1, 2])
def test_few_slices(tmp_path, slices, axis):
    shape = list(SHAPE)
    shape[axis] = slices
    error = refused(write(image(sample(tuple(shape))), tmp_path))
    assert f'only {slices} slices' in str(error)
    assert error.hint


# ---------------------------------------------------------------------- the affine decides


def sform_only(affine: np.ndarray, **header: object) -> nb.Nifti1Image:
    made = nb.Nifti1Image(sample(), affine)
    made.set_sform(affine, 1)
    made.set_qform(None, 0)
    for name, value in header.items():
        made.header[name] = value
    return made


@pytest.mark.parametrize('sizes', [(1, 1, 1), (0, 0, 0), (-2, 5, np.nan)])
def test_voxel_sizes_beside_an_sform_do_not_count(tmp_path, sizes):
    made = sform_only(np.diag([2, 2, 4, 1.0]))
    path = tmp_path / 'image.nii'
    made.to_filename(path)
    content = bytearray(path.read_bytes())
    content[80:92] = np.array(sizes, '<f4').tobytes()
    path.write_bytes(bytes(content))
    checked = check_image(path)
    assert np.array_equal(nb.affines.voxel_sizes(checked.affine), [2, 2, 4])


@pytest.mark.parametrize(('code', 'name'), [(1, 'metres'), (3, 'micrometres')])
@pytest.mark.parametrize('time', [0, 8])
def test_other_units_than_millimetres_are_named(tmp_path, code, name, time):
    made = image(sample())
    made.header['xyzt_units'] = code + time
    error = refused(write(made, tmp_path))
    assert f'in {name}' in str(error)
    assert 'xyzt_units' in error.hint


@pytest.mark.parametrize('code', [0, 2, 10])
def test_no_unit_means_millimetres(tmp_path, code):
    made = image(sample())
    made.header['xyzt_units'] = code
    check_image(write(made, tmp_path))


@pytest.mark.parametrize(
    ('shear', 'good'), [(0.001, True), (0.03, True), (0.1, False), (1, False)]
)
def test_a_shear_is_refused_when_it_moves_corners(tmp_path, shear, good):
    """By hand: over 20 slices a cosine of 0.1 moves the last one by about two millimetres."""
    affine = np.diag([1, 1, 1, 1.0])
    affine[0, 1] = shear
    path = write(sform_only(affine), tmp_path)
    if good:
        check_image(path)
    else:
        error = refused(path)
        assert 'not perpendicular' in str(error)
        assert 'resample' in error.hint


@pytest.mark.parametrize('length', [1 + 1e-6, 1.001, 1.5])
@pytest.mark.parametrize('sform', [True, False])
def test_a_quaternion_longer_than_one(tmp_path, length, sform):
    """Half a turn about the first axis: b is one, or a little more by rounding."""
    affine = np.diag([2.0, -2, -3, 1])
    made = nb.Nifti1Image(sample(), affine)
    made.set_qform(affine, 1)
    made.set_sform(affine if sform else None, 1 if sform else 0)
    path = tmp_path / 'image.nii'
    made.to_filename(path)
    content = bytearray(path.read_bytes())
    content[256:268] = np.array([length, 0, 0], '<f4').tobytes()
    path.write_bytes(bytes(content))
    checked = check_image(path)
    assert np.allclose(checked.affine, affine, atol=1e-5)
    assert np.allclose(checked.get_qform(), affine, atol=1e-5)


def with_header(folder: Path, made: nb.Nifti1Image, changes: dict[int, bytes]) -> Path:
    """Write an image, then bytes into its header at some places."""
    path = folder / 'image.nii'
    made.to_filename(path)
    content = bytearray(path.read_bytes())
    for start, new in changes.items():
        content[start : start + len(new)] = new
    path.write_bytes(bytes(content))
    return path


QUATERNION, OFFSETS = 256, 268
NOT_A_NUMBER = np.array([np.nan], '<f4').tobytes()


@pytest.mark.parametrize(
    'changes',
    [
        {QUATERNION: np.array([0, 0.707109, 0.707109], '<f4').tobytes()},  # squares: 1 + 6e-6
        {QUATERNION: np.array([3, 0, 0], '<f4').tobytes()},
        {QUATERNION: NOT_A_NUMBER},
        {QUATERNION: np.array([np.inf], '<f4').tobytes()},
        {OFFSETS: NOT_A_NUMBER},
    ],
)
def test_a_damaged_qform_is_made_anew_from_the_sform(tmp_path, changes):
    affine = nb.affines.from_matvec(np.diag([-2.0, 2, 3]) @ turn(0.2), [7, -8, 9])
    made = image(sample(), affine)
    path = with_header(tmp_path, made, changes)
    checked = check_image(path)
    assert np.allclose(checked.affine, affine, atol=1e-4)
    assert np.allclose(checked.get_qform(), checked.affine, atol=1e-3)
    assert damaged_qform(path)


def test_a_quaternion_that_rounding_made_too_long_is_not_worth_a_note(tmp_path):
    made = image(sample(), np.diag([2.0, -2, -3, 1]))
    path = with_header(tmp_path, made, {QUATERNION: np.array([1 + 1e-6], '<f4').tobytes()})
    check_image(path)
    assert not damaged_qform(path)


def turn(angle: float) -> np.ndarray:
    """Turn about the third axis, before a scaling that leaves the first two alike."""
    return np.array(
        [
            [np.cos(angle), -np.sin(angle), 0],
            [np.sin(angle), np.cos(angle), 0],
            [0, 0, 1],
        ]
    )


@pytest.mark.parametrize('sform', [True, False])
def test_a_damaged_qform_of_nifti_2(tmp_path, sform):
    affine = np.diag([2.0, -2, -3, 1])
    made = nb.Nifti2Image(sample(), affine)
    made.set_qform(affine, 1)
    made.set_sform(affine if sform else None, 1 if sform else 0)
    path = with_header(tmp_path, made, {352: np.array([1.2, 0, 0], '<f8').tobytes()})
    checked = check_image(path)
    assert np.allclose(checked.affine, affine, atol=1e-5)
    assert np.allclose(checked.get_qform(), affine, atol=1e-5)


def test_without_an_sform_a_damaged_qform_is_refused(tmp_path):
    made = image(sample())
    made.set_sform(None, 0)
    path = with_header(tmp_path, made, {OFFSETS: NOT_A_NUMBER})
    refused(path)
    assert not damaged_qform(path)


def test_a_sound_qform_is_not_called_damaged(tmp_path):
    made = image(sample())
    assert not damaged_qform(write(made, tmp_path))
    assert not damaged_qform(tmp_path / 'absent.nii')
    made.to_filename(tmp_path / 'packed.nii.gz')
    (tmp_path / 'packed.nii.gz').rename(tmp_path / 'packed.nii')
    assert not damaged_qform(tmp_path / 'packed.nii')


# ------------------------------------------------------------------------ damaged headers

DIM, TYPE, BITS, OFFSET, INTERCEPT = 40, 70, 72, 108, 116


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({TYPE: np.int16([0]).tobytes()}, 'data code 0'),
        ({TYPE: np.int16([1536]).tobytes()}, 'data code 1536'),
        ({TYPE: np.int16([2]).tobytes()}, '32 bits a voxel, then 8'),
        ({INTERCEPT: NOT_A_NUMBER}, 'intercept'),
        ({OFFSET: np.array([0], '<f4').tobytes()}, 'within the header'),
        ({OFFSET: np.array([64], '<f4').tobytes()}, 'vox offset 64'),
        ({OFFSET: np.array([1e38], '<f4').tobytes()}, 'damaged'),
        ({DIM: np.int16([3, 32767, 32767, 32767]).tobytes()}, 'truncated'),
        ({DIM: np.int16([3, 20, -21, 12]).tobytes()}, 'slices'),
        ({DIM: np.int16([0]).tobytes()}, 'shape'),
    ],
)
def test_damaged_headers_are_refused_in_every_place_that_reads(tmp_path, changes, words):
    path = with_header(tmp_path, image(sample()), changes)
    assert words in str(refused(path))
    assert came_registered({'FLAIR': path}) == (False, '')  # before any exam is processed
    with pytest.raises(DataError):
        read_mask(path)


def test_an_empty_size_of_a_voxel_does_no_harm(tmp_path):
    check_image(with_header(tmp_path, image(sample()), {BITS: np.int16([0]).tobytes()}))


@pytest.mark.parametrize('kind', [nb.Nifti1Image, nb.Nifti2Image])
@pytest.mark.parametrize('order', ['<', '>'])
def test_both_versions_and_byte_orders(tmp_path, kind, order):
    header = kind.header_class(endianness=order)
    made = kind(sample(), np.diag([1, 1, 3, 1.0]), header)
    made.set_qform(made.affine, 1)
    path = write(made, tmp_path)
    expected = sample() - sample().min()  # the background lies at zero
    assert np.allclose(np.asarray(check_image(path).dataobj), expected, rtol=0, atol=1e-4)
    assert not damaged_qform(path)


def test_a_suffix_that_does_not_say_how_the_file_is_packed(tmp_path):
    plain = write(image(sample()), tmp_path, 'image.nii')
    plain.rename(tmp_path / 'plain.nii.gz')
    error = refused(tmp_path / 'plain.nii.gz')
    assert 'not compressed' in str(error)
    assert 'gzip' in error.hint
    write(image(sample()), tmp_path, 'packed.nii.gz').rename(tmp_path / 'packed.NII')
    assert 'is compressed' in str(refused(tmp_path / 'packed.NII'))


def test_a_large_intercept_loses_nothing(tmp_path):
    data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    made = image(data)
    made.header.set_slope_inter(1, 2**26)
    changed = check_image(write(made, tmp_path))
    assert np.array_equal(np.asarray(changed.dataobj), data)


# ----------------------------------------------------------------- content that is elsewhere


@pytest.mark.parametrize(
    ('content', 'system'),
    [
        ('/annex/objects/SHA256E-s3000--abc.nii.gz\n', 'git-annex'),
        ('version https://git-lfs.github.com/spec/v1\noid sha256:abc\n', 'Git LFS'),
    ],
)
def test_pointers_to_content_are_named(tmp_path, content, system):
    path = tmp_path / 'image.nii.gz'
    path.write_text(content)
    with pytest.raises(NoInputError, match=system) as caught:
        check_image(path)
    assert ('datalad get' if system == 'git-annex' else 'git lfs pull') in caught.value.hint


def test_a_link_to_nowhere(tmp_path):
    path = tmp_path / 'image.nii.gz'
    path.symlink_to('../.git/annex/objects/XX/abc.nii.gz')
    with pytest.raises(NoInputError, match='link to content that is not here') as caught:
        check_image(path)
    assert caught.value.exit_code == 66
    assert f'datalad get {path}' in caught.value.hint


def test_an_empty_file(tmp_path):
    path = tmp_path / 'image.nii.gz'
    path.touch()
    assert '0 bytes' in str(refused(path))
