"""The within-subject template: no session is privileged, and all share one affine."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mslesseg_app.core.errors import AlignmentError
from mslesseg_app.demo.phantom import make_phantom, scan
from mslesseg_app.demo.protocols import session_protocols
from mslesseg_app.spatial import pose
from mslesseg_app.spatial import subject_alignment as subject
from mslesseg_app.spatial.affines import apply_affine, compose, invert
from mslesseg_app.spatial.template import load_template


def rigid(shift, turn):
    return pose.matrix(np.array([*shift, *turn], dtype=float), np.zeros(3), np.eye(4))


POSES = [
    rigid((3, -8, 20), (30, 5, -10)),
    rigid((-40, 2, 1), (-6, 20, 4)),
    rigid((7, 90, -3), (2, -12, 33)),
]
CENTRE = np.array([5.0, -20.0, 12.0])


@pytest.mark.parametrize('count', [1, 2, 3])
def test_mean_of_the_poses_becomes_the_identity(count):
    moved, centre = subject.recentre(POSES[:count], CENTRE)
    turns = Rotation.from_matrix([one[:3, :3] for one in moved])
    assert turns.mean().magnitude() < 1e-9
    places = np.array([apply_affine(one, centre) for one in moved])
    np.testing.assert_allclose(places.mean(axis=0), centre, atol=1e-9)
    # The way from session to session is what it was, and the head's middle is where it was.
    for k in range(count):
        np.testing.assert_allclose(
            compose(moved[k], invert(moved[0])), compose(POSES[k], invert(POSES[0])), atol=1e-9
        )
        np.testing.assert_allclose(places[k], apply_affine(POSES[k], CENTRE), atol=1e-9)


def test_two_sessions_meet_half_way():
    moved, centre = subject.recentre([np.eye(4), rigid((10, 0, 0), (0, 0, 16))], np.zeros(3))
    angles = [Rotation.from_matrix(one[:3, :3]).as_rotvec()[2] for one in moved]
    np.testing.assert_allclose(angles, [-0.1, 0.1], atol=1e-9)
    np.testing.assert_allclose(centre, [5, 0, 0], atol=1e-9)


def test_part_of_a_move():
    move = POSES[0]
    half = subject.part_of_move(move, 0.5, CENTRE)
    twice = Rotation.from_matrix(half[:3, :3]) ** 2
    np.testing.assert_allclose(twice.as_matrix(), move[:3, :3], atol=1e-9)
    gone = apply_affine(half, CENTRE) - CENTRE
    np.testing.assert_allclose(2 * gone, apply_affine(move, CENTRE) - CENTRE, atol=1e-9)
    np.testing.assert_allclose(subject.part_of_move(move, 1.0, CENTRE), move, atol=1e-9)


def test_average_counts_each_image_where_it_was_acquired():
    shape, affine = (10, 10, 10), np.eye(4)
    whole = nb.Nifti1Image(np.full(shape, 2.0, np.float32), affine)
    lower = nb.Nifti1Image(np.full((10, 10, 5), 30.0, np.float32), affine)
    inside = np.ones(shape, dtype=bool)
    eyes = [np.eye(4)] * 2
    average = subject.average_image([whole, lower], eyes, shape, affine, inside).get_fdata()
    np.testing.assert_allclose(average, 1.0)


def test_no_session_is_an_error():
    with pytest.raises(AlignmentError, match='no session'):
        subject.align_subject({})


# ------------------------------------------------------------------- a synthetic head


@pytest.fixture(scope='module')
def heads():
    """FLAIRs of the demo's two sessions, the second displaced, and the true way between them."""
    phantom = make_phantom(1, 3.0)
    images = [scan(phantom, session_protocols(k, 3.0)['FLAIR'], k) for k in (1, 2)]
    true = compose(
        phantom.scanner_from_subject('FLAIR', 2), invert(phantom.scanner_from_subject('FLAIR', 1))
    )
    away = rigid((12, -25, 40), (20, -12, 16))
    second = nb.Nifti1Image(np.asarray(images[1].dataobj), away @ images[1].affine)
    return {'1': images[0], '2': second}, compose(away, true)


@pytest.fixture(scope='module')
def found(heads):
    return subject.align_subject(heads[0])


def brain_points():
    mask = load_template().mask
    return apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) > 0)[::2000])


def test_displacement_between_sessions_is_recovered(heads, found):
    _, true = heads
    assert found.left_out == {}
    first, second = (found.session_from_mni[name] for name in '12')
    points = apply_affine(first, brain_points())
    off = apply_affine(compose(second, invert(first)), points) - apply_affine(true, points)
    assert np.linalg.norm(off, axis=1).mean() < 0.3


def test_a_pair_is_aligned_from_a_rough_start(heads, found):
    images, true = heads
    affines = [found.session_from_mni[name] for name in '12']
    rough = compose(rigid((2, -1, 2), (1, 0, -1)), affines[1])
    move = subject.align_pair([images['1'], images['2']], [affines[0], rough])
    np.testing.assert_allclose(move[:3, :3] @ move[:3, :3].T, np.eye(3), atol=1e-9)
    points = apply_affine(affines[0], brain_points())
    off = apply_affine(move, points) - apply_affine(true, points)
    assert np.linalg.norm(off, axis=1).mean() < 0.3
    same = subject.align_pair([images['1'], images['1']], [affines[0]] * 2)
    off = apply_affine(same, points) - points
    assert np.linalg.norm(off, axis=1).max() < 0.02


def test_all_sessions_share_one_affine(found):
    """Volumes are scaled alike: no change that is only change of alignment."""
    sizes = [np.linalg.det(one[:3, :3]) for one in found.session_from_mni.values()]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-12)
    shared = found.middle_from_mni[:3, :3]
    assert not np.allclose(shared.T @ shared, np.eye(3), atol=0.01)
    assert sizes[0] == pytest.approx(np.linalg.det(shared), rel=1e-12)
    for one in found.session_from_middle.values():
        np.testing.assert_allclose(one[:3, :3] @ one[:3, :3].T, np.eye(3), atol=1e-12)


def test_no_session_is_the_middle(found):
    """Both are moved by as much: turns about opposite axes."""
    turns = [Rotation.from_matrix(one[:3, :3]) for one in found.session_from_middle.values()]
    assert turns[0].magnitude() > 0.05
    np.testing.assert_allclose(turns[0].as_rotvec(), -turns[1].as_rotvec(), atol=1e-9)


def test_order_and_names_of_sessions_do_not_matter(heads, found, monkeypatch):
    """With the same starts, as the search of each session does not know the others."""
    images, _ = heads
    monkeypatch.setattr(subject, '_ROUNDS', 1)
    starts = {'1': found.session_from_mni['2'], '2': found.session_from_mni['1']}
    monkeypatch.setattr(subject, '_starts', lambda *_: (dict(starts), {}))
    swapped = subject.align_subject({'1': images['2'], '2': images['1']})
    starts = {'b': found.session_from_mni['2'], 'a': found.session_from_mni['1']}
    renamed = subject.align_subject({'b': images['2'], 'a': images['1']})
    for mine, theirs in (('1', 'b'), ('2', 'a')):
        np.testing.assert_allclose(
            swapped.session_from_mni[mine], renamed.session_from_mni[theirs], atol=1e-6
        )


def test_session_that_is_no_head_is_left_out(heads, found, monkeypatch):
    """The rest shares a template; where one session is left, none is shared."""
    images, _ = heads
    noise = nb.Nifti1Image(
        np.random.default_rng(0).uniform(1, 100, (60, 70, 40)).astype(np.float32),
        np.diag([3.0, 3.0, 3.0, 1.0]),
    )
    known = {id(images[name]): found.session_from_mni[name] for name in '12'}

    def to_template(img, seed):
        from mslesseg_app.spatial.registration import Alignment

        return Alignment(known.get(id(img), np.eye(4)))

    monkeypatch.setattr(subject, 'to_template', to_template)
    monkeypatch.setattr(subject, 'via_anchor', lambda img, *_: np.eye(4))
    two = subject.align_subject({'1': images['1'], '3': noise})
    assert two.session_from_mni == {}
    assert set(two.left_out) == {'1', '3'}
    assert 'no other session' in two.left_out['1']
