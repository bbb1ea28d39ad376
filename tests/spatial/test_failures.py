"""Alignments hold whatever the header says, and a wrong one never passes unnoticed.

The whole study is ``benchmarks/failures.py`` and ``benchmarks/judgement.py``; here are seeded
samples of it, on synthetic heads and on real scans.
"""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nb
import numpy as np
import pytest
from scipy import ndimage as ndi
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from mslesseg_app.demo.phantom import make_phantom, scan
from mslesseg_app.demo.protocols import FLAIR_2D, MPRAGE, TSE
from mslesseg_app.spatial import exam_alignment as exam
from mslesseg_app.spatial import pose, quality
from mslesseg_app.spatial.affines import apply_affine, compose, invert
from mslesseg_app.spatial.registration import ImagePair, Reference
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, load_template

MODALITIES = ('FLAIR', 'T1w', 'T2w')
#: Further than this from the result without displacement, an image is lost.
LOST_MM = 2.0
#: Seeds of the displacements that every run of the tests tries; 4 was lost once.
QUICK = (0, 1, 2, 4, 8)


@pytest.fixture(scope='module')
def brain_points():
    voxels = np.argwhere(np.asarray(load_template().mask.dataobj) > 0)[::2000]
    return apply_affine(TEMPLATE_AFFINE, voxels)


def mean_distance(first, second, points):
    return np.linalg.norm(
        apply_affine(first, points) - apply_affine(second, points), axis=1
    ).mean()


@pytest.fixture(scope='module')
def heads():
    """FLAIR of 3 mm slices, a 3D T1w, T2w of 4 mm slices; 2 mm in plane."""
    subject = make_phantom(1, 2.0)
    protocols = (FLAIR_2D.coarser(2), MPRAGE.coarser(2), TSE.coarser(2))
    return {one.modality: scan(subject, one, 1) for one in protocols}


@pytest.fixture(scope='module')
def plain(heads):
    """The alignment of each head, without displacement."""
    return {
        name: exam.to_template(img, seed=1).moving_from_reference for name, img in heads.items()
    }


@pytest.fixture(scope='module')
def scans(real_data):
    """The images of a real exam: 2D, slices of 3 to 4 mm, defaced."""
    folder = real_data / 'ljubljana-bids' / 'sub-LJ12' / 'ses-1' / 'anat'
    return {name: nb.load(folder / f'sub-LJ12_ses-1_{name}.nii.gz') for name in MODALITIES}


@pytest.fixture(scope='module')
def aligned_scans(scans):
    return exam.align_exam(scans).moving_from_mni


# ------------------------------------------------------------------------ displacements


def turned(img, seed):
    """Turn the header by up to 40 degrees about each axis, shift it by up to 60 mm."""
    random = np.random.default_rng(seed)
    move = np.eye(4)
    turn = Rotation.from_euler('xyz', random.uniform(-40, 40, 3), degrees=True).as_matrix()
    centre = apply_affine(img.affine, np.array(img.shape) / 2)
    move[:3, :3], move[:3, 3] = turn, centre - turn @ centre + random.uniform(-60, 60, 3)
    return nb.Nifti1Image(img.get_fdata(dtype=np.float32), move @ img.affine), move


def shifted(img, seed):
    """Move the origin by 200 mm along an axis."""
    move = np.eye(4)
    move[seed % 3, 3] = 200.0 * (-1) ** seed
    return nb.Nifti1Image(img.get_fdata(dtype=np.float32), move @ img.affine), move


@pytest.mark.parametrize(
    'seed',
    [*QUICK, *(pytest.param(k, marks=pytest.mark.slow) for k in range(12) if k not in QUICK)],
)
def test_displaced_heads_come_back(heads, plain, brain_points, seed):
    name = MODALITIES[seed % 3]
    img, move = (turned if seed < 8 else shifted)(heads[name], seed)
    found = exam.to_template(img, seed=1).moving_from_reference
    back = compose(invert(move), found)
    assert mean_distance(back, plain[name], brain_points) < LOST_MM
    if seed in (0, 1, 2, 8):
        judged = quality.check_alignment(img, found)
        assert judged.status == 'pass', judged.reason


@pytest.mark.parametrize('seed', range(8))
def test_storage_does_not_matter(heads, seed):
    """Other axes, other directions: the engine sees the same numbers at every resolution."""
    orders = list(product(permutations(range(3)), product((1, -1), repeat=3)))
    order, signs = orders[int(np.random.default_rng(seed).integers(1, len(orders)))]
    img = heads[MODALITIES[seed % 3]]
    other = img.as_reoriented(np.array([order, signs]).T)
    assert other.shape != img.shape or not np.array_equal(other.affine, img.affine)
    template, region = load_template().brain, exam.search_region()
    first, second = (ImagePair(one, Reference(template, region)) for one in (img, other))
    np.testing.assert_allclose(first.centre(), second.centre(), atol=1e-6)
    for size in (8.0, 2.0):
        ours, theirs = first.level(size)[0], second.level(size)[0]
        np.testing.assert_array_equal(ours.data, theirs.data)
        np.testing.assert_allclose(ours.voxel_from_mm, theirs.voxel_from_mm, atol=1e-9)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize('seed', range(3))
def test_displaced_scans_come_back(scans, aligned_scans, brain_points, seed):
    """Each image of a real exam on its own displacement, aligned as the App does it."""
    moved = {name: turned(img, 10 * seed + k) for k, (name, img) in enumerate(scans.items())}
    found = exam.align_exam({name: img for name, (img, _) in moved.items()})
    assert found.reasons == {}
    for name, (_, move) in moved.items():
        back = compose(invert(move), found.moving_from_mni[name])
        assert mean_distance(back, aligned_scans[name], brain_points) < LOST_MM


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    'stem', ['sub-LJ01/ses-1/T1w', 'sub-LJ01/ses-2/T2w', 'sub-LJ09/ses-2/FLAIR']
)
def test_a_displaced_scan_alone_comes_back(real_data, brain_points, stem):
    subject, session, name = stem.split('/')
    folder = real_data / 'ljubljana-bids' / subject / session / 'anat'
    img = nb.load(folder / f'{subject}_{session}_{name}.nii.gz')
    lost, move = turned(img, 5)
    found, plain = (exam.align_exam({name: one}) for one in (lost, img))
    back = compose(invert(move), found.moving_from_mni[name])
    assert mean_distance(back, plain.moving_from_mni[name], brain_points) < LOST_MM
    assert found.reasons == plain.reasons == {}


# ---------------------------------------------------------------------- planted failures


def about_brain(*vector):
    return pose.matrix(np.array(vector, dtype=float), np.array(exam.BRAIN_CENTRE), np.eye(4))


def degrees(angle):
    return np.radians(angle) * pose.RADIUS_MM


def size(factor):
    return np.log(factor) * pose.RADIUS_MM


PLANTED = {
    'mirrored': np.diag([-1.0, 1.0, 1.0, 1.0]),
    'upside down': about_brain(0, 0, 0, degrees(180), 0, 0),
    'back to front': about_brain(0, 0, 0, 0, 0, degrees(180)),
    'shifted to the side': about_brain(30, 0, 0, 0, 0, 0),
    'shifted back': about_brain(0, -30, 0, 0, 0, 0),
    'shifted up': about_brain(0, 0, 30, 0, 0, 0),
    'shifted down': about_brain(0, 0, -30, 0, 0, 0),
    'nodded': about_brain(0, 0, 0, degrees(25), 0, 0),
    'tilted': about_brain(0, 0, 0, 0, degrees(-25), 0),
    'turned': about_brain(0, 0, 0, 0, 0, degrees(25)),
    'too large': about_brain(0, 0, 0, 0, 0, 0, size(1.3)),
    'too small': about_brain(0, 0, 0, 0, 0, 0, size(1 / 1.3)),
}


@pytest.mark.parametrize('name', ['FLAIR', 'T1w'])
def test_planted_failures_on_a_head_are_caught(heads, plain, name):
    judged = quality.check_alignment(heads[name], plain[name])
    assert judged.status == 'pass', judged.reason
    for what, move in PLANTED.items():
        judged = quality.check_alignment(heads[name], plain[name] @ move)
        assert judged.status == 'fail', f'{what}: {judged}'
        assert judged.reason


@pytest.mark.realdata
@pytest.mark.parametrize('name', MODALITIES)
def test_planted_failures_on_a_scan_are_caught(scans, aligned_scans, name):
    judged = quality.check_alignment(scans[name], aligned_scans[name])
    assert judged.status == 'pass', judged.reason
    for what, move in PLANTED.items():
        judged = quality.check_alignment(scans[name], aligned_scans[name] @ move)
        assert judged.status == 'fail', f'{what}: {judged}'


@pytest.mark.realdata
def test_matrices_of_another_image_are_caught(real_data, scans, aligned_scans, heads, plain):
    """The matrix of a wrong image is far off here; that of the same session is not."""
    assert quality.check_alignment(scans['FLAIR'], plain['FLAIR']).status != 'pass'
    assert quality.check_alignment(heads['T1w'], aligned_scans['T1w']).status != 'pass'
    assert quality.check_alignment(scans['T2w'], aligned_scans['FLAIR']).status == 'pass'


def noise(width):
    random = np.random.default_rng(3).normal(size=(70, 84, 66)).astype(np.float32)
    blurred = ndi.gaussian_filter(random, width) if width else np.abs(random)
    return blurred - blurred.min()


def egg():
    """An even egg in a bright shell, as large as a head, with a little noise."""
    axes = np.indices((70, 84, 66)) - np.array([35, 42, 33])[:, None, None, None]
    radius = np.sqrt(
        sum((axis * 2.5 / one) ** 2 for axis, one in zip(axes, (68, 88, 66), strict=True))
    )
    data = 100.0 * (radius < 0.9) + 140.0 * ((radius > 0.97) & (radius < 1.05))
    return (data + np.abs(np.random.default_rng(3).normal(size=data.shape))).astype(np.float32)


@pytest.mark.parametrize('data', [noise(0), noise(3), egg()], ids=['noise', 'clouds', 'egg'])
def test_what_is_no_head_is_not_trusted(data):
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = -1.25 * np.array(data.shape)
    found = exam.align_exam({'FLAIR': nb.Nifti1Image(data, affine)})
    assert found.failed == ['FLAIR']
    assert found.reasons['FLAIR']


# -------------------------------------------------------------------------- repeatability


def test_same_alignment_on_any_number_of_threads(heads):
    images = {name: heads[name] for name in ('FLAIR', 'T1w')}
    results = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            results.append(exam.align_exam(images))
    first, second = results
    for name in images:
        assert first.moving_from_mni[name].tobytes() == second.moving_from_mni[name].tobytes()
        assert first.quality[name] == second.quality[name]
