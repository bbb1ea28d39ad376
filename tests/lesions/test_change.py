"""What became of lesions: planted changes, the same sessions twice, and disturbances."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mslesseg_app.demo.lesions import GROWTH
from mslesseg_app.demo.phantom import make_phantom, session_mask
from mslesseg_app.demo.protocols import session_protocols
from mslesseg_app.errors import DataError, UsageError
from mslesseg_app.lesions.change import (
    Session,
    change_image,
    compare_sessions,
    labels_at,
    overlaps,
    surfaces,
)
from mslesseg_app.lesions.change_rules import CHANGE_RULES, STATUS_CODES, get_change_rules
from mslesseg_app.lesions.change_table import (
    CHANGE_COLUMNS,
    SUMMARY_COLUMNS,
    change_rows,
    summary_row,
)
from mslesseg_app.lesions.components import label_lesions
from mslesseg_app.spatial.affines import compose, invert

ANIMA = CHANGE_RULES['anima']
STILL = np.eye(4)


def session(*balls, shape=(40, 44, 30), affine=None) -> Session:
    """Draw balls, given as centre (mm, affine of 1 mm if None) and radius."""
    affine = np.eye(4) if affine is None else affine
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    mask = np.zeros(shape, bool)
    for centre, radius in balls:
        mask |= np.linalg.norm(places - centre, axis=-1) <= radius
    return Session(label_lesions(mask, abs(np.linalg.det(affine[:3, :3]))), affine)


def found(before, after, move=STILL, rules=ANIMA, **options) -> list[str | None]:
    return [one.status for one in compare_sessions(before, after, move, rules, **options).groups]


A, B, C, D, E = (
    ((8.0, 8, 8), 4.0),
    ((25.0, 30, 15), 5.0),
    ((30.0, 10, 20), 3.0),
    ((10.0, 35, 20), 3.5),
    ((12.0, 22, 10), 2.5),
)
GROWN = (B[0], 6.5)


# ------------------------------------------------------------------ planted changes


@pytest.fixture(scope='module')
def planted():
    """Exact lesions of the synthetic head in two sessions on different grids, and their move.

    One lesion more than in the demo changes: a stable one is made to shrink.
    """
    phantom = make_phantom(1, 2.0)
    chosen = next(one for one in phantom.lesions if one.kind == 'deep' and one.change == 'stable')
    small = chosen.scaled(1 / GROWTH)
    sessions = []
    for number in (1, 2):
        protocol = session_protocols(number, 1.0)['FLAIR']
        lesions = tuple(small if number == 2 and one is chosen else one for one in phantom.lesions)
        drawn = session_mask(dataclasses.replace(phantom, lesions=lesions), protocol, number)
        mask = np.asarray(drawn.dataobj) > 0
        voxel = abs(np.linalg.det(drawn.affine[:3, :3]))
        sessions.append(Session(label_lesions(mask, voxel), drawn.affine))
    first, second = (phantom.scanner_from_subject('FLAIR', number) for number in (1, 2))
    return sessions[0], sessions[1], compose(second, invert(first)), phantom.lesions, chosen


def test_planted_changes_are_all_named_right(planted):
    before, after, move, lesions, _ = planted
    comparison = compare_sessions(before, after, move, ANIMA)
    counted = dict.fromkeys(STATUS_CODES, 0)
    for group in comparison.groups:
        counted[group.status] += 1
    stable = sum(one.change == 'stable' for one in lesions) - 1
    assert counted == {'stable': stable, 'new': 1, 'enlarging': 1, 'shrinking': 1, 'resolved': 1}
    by_status = {group.status: group for group in comparison.groups}
    expected = {one.change: one.volume_mm3 for one in lesions}
    assert by_status['new'].volume_after == pytest.approx(expected['new'], rel=0.05)
    assert by_status['resolved'].volume_before == pytest.approx(expected['resolved'], rel=0.05)
    grown = by_status['enlarging']
    assert grown.volume_after / grown.volume_before == pytest.approx(GROWTH, rel=0.05)
    shrunk = by_status['shrinking']
    assert shrunk.volume_before / shrunk.volume_after == pytest.approx(GROWTH, rel=0.05)


def test_planted_lesions_are_where_they_were_planted(planted):
    before, after, move, *_ = planted
    comparison = compare_sessions(before, after, move, ANIMA)
    image = change_image(comparison, before, after, move)
    assert image.shape == after.labels.shape
    for group in comparison.groups:
        if group.status == 'resolved':
            volume = (image == STATUS_CODES['resolved']).sum() * after.voxel_mm3
            assert volume == pytest.approx(group.volume_before, rel=0.1)
        else:
            where = np.isin(after.labels, group.after)
            assert set(image[where]) == {STATUS_CODES[group.status]}


def test_time_reversed_the_words_are_too(planted):
    before, after, move, *_ = planted
    there = compare_sessions(before, after, move, ANIMA)
    back = compare_sessions(after, before, invert(move), ANIMA)
    words = {'new': 'resolved', 'resolved': 'new', 'enlarging': 'shrinking'}
    words |= {'shrinking': 'enlarging', 'stable': 'stable'}
    pairs = {(g.before, g.after): words[g.status] for g in there.groups}
    assert pairs == {(g.after, g.before): g.status for g in back.groups}


# --------------------------------------------------------------------- no change


def test_the_same_session_twice_gives_no_change(planted):
    before, *_ = planted
    comparison = compare_sessions(before, before, STILL, ANIMA)
    assert {group.status for group in comparison.groups} == {'stable'}
    assert len(comparison.groups) == before.count
    for group in comparison.groups:
        assert group.before == group.after
        assert group.difference == 0
        assert group.shared == pytest.approx(group.volume_after)


def test_nothing_and_nothing():
    empty = session()
    comparison = compare_sessions(empty, empty, STILL, ANIMA)
    assert comparison.groups == []
    assert not change_image(comparison, empty, empty, STILL).any()
    assert summary_row(comparison, 1.0)['n_new'] == 0


def test_everything_is_new_or_gone_beside_an_empty_mask():
    assert found(session(), session(A, B)) == ['new', 'new']
    assert found(session(A, B), session()) == ['resolved', 'resolved']


# ----------------------------------------------------------------- merging, splitting


def test_lesions_that_merge_and_grow_are_one_that_enlarges():
    before = session(((10.0, 20, 15), 3), ((18.0, 20, 15), 3))
    after = session(((10.0, 20, 15), 4.5), ((18.0, 20, 15), 4.5))
    (group,) = compare_sessions(before, after, STILL, ANIMA).groups
    assert (group.before, group.after) == ((1, 2), (1,))
    assert (group.status, group.note) == ('enlarging', 'merged')


def test_a_lesion_that_splits_without_change_is_stable():
    bridge = [((float(x), 20.0, 15.0), 1.0) for x in range(10, 19)]
    ends = [((10.0, 20, 15), 3.4), ((19.0, 20, 15), 3.4)]
    before, after = session(*ends, *bridge), session(*ends)
    (group,) = compare_sessions(before, after, STILL, ANIMA).groups
    assert (group.before, group.after) == ((1,), (1, 2))
    assert (group.status, group.note) == ('stable', 'split')


# ------------------------------------------------------------------------ the rules


def test_growth_beyond_gamma_is_called_by_the_rules():
    before, after = session(A, B), session(A, GROWN)
    assert found(before, after) == ['enlarging', 'stable']
    assert found(before, after, rules=CHANGE_RULES['anima-new']) == ['new', 'stable']


@pytest.mark.parametrize(('voxels', 'status'), [(5, None), (6, 'new')])
def test_smallest_new_lesion(voxels, status):
    labels = np.zeros((20, 20, 20), np.int16)
    labels[5, 5, 5 : 5 + voxels] = 1
    after = Session(labels, np.eye(4))
    before = Session(np.zeros_like(labels), np.eye(4))
    (group,) = compare_sessions(before, after, STILL, ANIMA).groups
    assert group.status == status
    assert bool(group.note) == (status is None)
    code = STATUS_CODES['new'] if status else 0
    image = change_image(compare_sessions(before, after, STILL, ANIMA), before, after, STILL)
    assert set(image[labels > 0]) == {code}


def test_unknown_rules_are_named():
    with pytest.raises(UsageError, match='no rules'):
        get_change_rules('mine')


def test_labels_need_three_dimensions():
    with pytest.raises(DataError):
        Session(np.zeros((3, 3), int), np.eye(4))


# ------------------------------------------------------------------- disturbances


def test_boundaries_that_all_move_alike_are_no_growth():
    """As when the contrast, or the threshold, is another."""
    balls = (A, B, C, D, E)
    before = session(*balls)
    after = session(*((centre, radius + 0.5) for centre, radius in balls))
    comparison = compare_sessions(before, after, STILL, ANIMA)
    assert comparison.boundary.shift_mm > 0.3
    assert {group.status for group in comparison.groups} == {'stable'}
    one = session(*((c, r + 0.5) for c, r in (A, C, D, E)), (B[0], B[1] + 2.5))
    comparison = compare_sessions(before, one, STILL, ANIMA)
    assert [g.status for g in comparison.groups].count('enlarging') == 1


def test_a_small_lesion_seen_beside_its_place_is_neither_new_nor_gone():
    before, after = session(((20.0, 20, 15), 1.5)), session(((23.5, 20, 15), 1.5))
    assert found(before, after, near_mm=1.5) == ['stable']
    assert found(before, after, near_mm=0.0) == ['new', 'resolved']


def test_no_new_lesion_where_the_flair_stayed_the_same():
    before, after = session(A), session(A, B)
    seen = []

    def found_with(*numbers, trust=True):
        def contrast(points, around, later):
            seen.append((points, around, later))
            return numbers

        return found(before, after, contrast=contrast, trust_contrast=trust)[0]

    assert found_with(5.0, 0.9) == 'new'
    assert found_with(0.5, 0.9) == 'stable'
    assert found_with(5.0, 0.1) == 'stable'
    assert found_with(np.nan, np.nan) == 'new'
    assert found_with(0.5, 0.1, trust=False) == 'new'
    points, around, later = seen[0]
    assert later
    near, far = (np.linalg.norm(one - B[0], axis=1) for one in (points, around))
    assert near.max() <= B[1]
    assert far.min() > B[1] + 1
    assert far.max() <= B[1] + 5.1


def test_no_lesion_is_gone_where_the_flair_stayed_bright():
    before, after = session(A, B), session(A)
    assert found(before, after, contrast=lambda *_: (-5.0, -0.9))[1] == 'resolved'
    assert found(before, after, contrast=lambda *_: (5.0, 0.9))[1] == 'stable'
    assert found(before, after, contrast=lambda *_: (-5.0, -0.1))[1] == 'stable'


def test_what_the_other_scan_did_not_cover_is_not_judged():
    before = session(A, shape=(40, 20, 30))
    after = session(A, B)
    comparison = compare_sessions(before, after, STILL, ANIMA)
    statuses = {group.after: group for group in comparison.groups}
    assert statuses[(1,)].status is None
    assert 'outside' in statuses[(1,)].note
    assert found(after, before)[1] is None


# ------------------------------------------------------------------------ geometry


@given(st.integers(0, 2**16), st.floats(0, 3.1), st.permutations([0, 1, 2]))
@settings(max_examples=15, deadline=None)
def test_neither_orientation_nor_place_changes_anything(seed, angle, order):
    """Turning axes of the arrays and moving the heads in space gives the same statuses."""
    before, after = session(A, B, C, E), session(A, GROWN, D, E)
    expected = [(g.before, g.after, g.status) for g in _compared(before, after, STILL)]
    rng = np.random.default_rng(seed)
    moved, turns = [], []
    for one in (before, after):
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_rotvec(angle * rng.standard_normal(3)).as_matrix()
        turn[:3, 3] = rng.uniform(-50, 50, 3)
        labels = np.transpose(one.labels, order)[::-1]
        axes = np.zeros((4, 4))
        axes[3, 3] = 1
        for new, old in enumerate(order):
            axes[old, new] = 1
        axes[order[0], 0], axes[order[0], 3] = -1, labels.shape[0] - 1
        moved.append(Session(labels, turn @ one.affine @ axes))
        turns.append(turn)
    move = compose(turns[1], invert(turns[0]))
    result = _compared(moved[0], moved[1], move)
    assert [(g.before, g.after, g.status) for g in result] == expected


def _compared(before, after, move):
    return compare_sessions(before, after, move, ANIMA).groups


@given(st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_overlap_on_one_grid_is_the_count_of_voxels(seed):
    rng = np.random.default_rng(seed)
    affine = np.diag([0.9, 1.1, 3.0, 1.0])
    one, two = (Session(rng.integers(0, 3, (5, 6, 4)), affine) for _ in range(2))
    shared = overlaps(one, two, STILL)
    for i, j in itertools.product(range(1, 3), range(1, 3)):
        count = int(((one.labels == i) & (two.labels == j)).sum())
        assert shared[i - 1, j - 1] == pytest.approx(count * 0.9 * 1.1 * 3.0)


def test_overlap_of_two_balls_is_that_of_geometry():
    """Two balls of radius r, d apart, share pi (4 r + d) (2 r - d)² / 12."""
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    one = session(((10.0, 10, 8), 5.0), shape=(44, 44, 34), affine=fine)
    two = session(((13.0, 10, 8), 5.0), shape=(20, 20, 20))
    expected = np.pi * 23 * 7**2 / 12
    assert overlaps(one, two, STILL)[0, 0] == pytest.approx(expected, rel=0.05)


def test_surface_of_a_ball():
    (area,) = surfaces(session(((20.0, 22, 15), 9.0)))
    assert area == pytest.approx(4 * np.pi * 81, rel=0.05)


def test_points_outside_lie_in_no_lesion():
    one = session(A)
    assert labels_at(one, np.array([[8.0, 8, 8], [-5, 8, 8], [500, 8, 8]])).tolist() == [1, 0, 0]


# -------------------------------------------------------------------------- tables


def test_rows_have_the_columns_and_the_rates():
    before, after = session(A, B), session(A, GROWN, D)
    comparison = compare_sessions(before, after, STILL, ANIMA)
    rows = change_rows(comparison, 2.0)
    assert [row['change_id'] for row in rows] == [1, 2, 3]
    for row in rows:
        assert list(row) == list(CHANGE_COLUMNS)
        assert row['rate_mm3_per_year'] == row['difference_mm3'] / 2
    assert rows[0]['lesions_before'] == '1'
    new = next(row for row in rows if row['status'] == 'new')
    assert new['lesions_before'] is None
    assert new['difference_percent'] is None
    assert change_rows(comparison, None)[0]['rate_mm3_per_year'] is None
    summary = summary_row(comparison, 2.0)
    assert set(summary) <= set(SUMMARY_COLUMNS)
    total = (after.volumes().sum() - before.volumes().sum()) / 1000
    assert summary['difference_ml'] == pytest.approx(total)
    assert summary['rate_ml_per_year'] == pytest.approx(total / 2)
    assert (summary['n_new'], summary['n_enlarging'], summary['new_per_year']) == (1, 1, 0.5)


def test_every_lesion_of_both_sessions_is_in_one_row(planted):
    before, after, move, *_ = planted
    groups = compare_sessions(before, after, move, ANIMA).groups
    assert sorted(n for g in groups for n in g.before) == list(range(1, before.count + 1))
    assert sorted(n for g in groups for n in g.after) == list(range(1, after.count + 1))
    centre = ndimage.center_of_mass(after.labels == groups[0].after[0])
    expected = after.affine[:3, :3] @ centre + after.affine[:3, 3]
    assert groups[0].centroid == pytest.approx(tuple(expected))
