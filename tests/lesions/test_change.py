"""What became of lesions: the images decide, the masks say what belongs together."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.change import (
    STATUS_CODES,
    change_image,
    compare_sessions,
)
from mslesseg_app.lesions.change_record import PairRecord
from mslesseg_app.lesions.change_table import (
    CHANGE_COLUMNS,
    SUMMARY_COLUMNS,
    change_rows,
    summary_row,
)
from mslesseg_app.lesions.components import label_lesions
from mslesseg_app.lesions.difference import ChangedRegions, ChangeLimits, Difference, find_changes
from mslesseg_app.lesions.groups import Session, labels_at, overlaps
from mslesseg_app.spatial.affines import compose, invert
from mslesseg_app.spatial.matching import HalfWay, Matched

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


def pictured(before: Session, after: Session) -> Difference:
    """Images of 1 mm that show the lesions of both sessions as they are, on one grid."""
    old, new = (np.asarray(one.labels) > 0 for one in (before, after))
    images = [np.where(one, 1.4, 1.0).astype(np.float32) for one in (old, new)]
    brain = np.ones(old.shape, bool)
    pair = HalfWay(images[0], images[1], brain, STILL, STILL, STILL)
    z = 10 * (new.astype(np.float32) - old)
    matched = Matched(images[0], images[1], 0.9, '', 0.0)
    return Difference(pair, matched, z, 0.03, np.ones(old.shape, np.float32))


def quiet(move) -> tuple[Difference, ChangedRegions]:
    """Images that do not differ, of heads that lie to each other by a move."""
    small = np.ones((2, 2, 2), np.float32)
    pair = HalfWay(small, small, small > 0, STILL, STILL, np.asarray(move))
    difference = Difference(pair, Matched(small, small, 1.0, '', 0.0), 0 * small, 0.03, small)
    return difference, ChangedRegions(np.zeros((2, 2, 2), np.int32), np.zeros(0, bool))


def compared(before, after, shown=None, **options):
    """Compare masks; the images show ``shown`` (two sessions), or what the masks say."""
    difference = pictured(*(shown or (before, after)))
    regions = find_changes(difference, ChangeLimits())
    return compare_sessions(before, after, difference, regions, **options), difference, regions


def found(before, after, shown=None, **options) -> list[str | None]:
    return [one.status for one in compared(before, after, shown, **options)[0].groups]


A, B, C, D, E = (
    ((8.0, 8, 8), 4.0),
    ((25.0, 30, 15), 5.0),
    ((30.0, 10, 20), 3.0),
    ((10.0, 35, 20), 3.5),
    ((12.0, 22, 10), 2.5),
)
GROWN = (B[0], 6.5)


def volume(one: Session, number: int) -> float:
    return float(one.volumes()[number - 1])


# ----------------------------------------------------------- the images decide


def test_every_kind_of_change():
    before, after = session(A, B, GROWN_C, E), session(A, GROWN, C, D)
    comparison, difference, regions = compared(before, after)
    by_status = {group.status: group for group in comparison.groups}
    assert sorted(by_status) == sorted(set(STATUS_CODES) - {'one-mask'})
    grown, new, gone = (by_status[k] for k in ('enlarging', 'new', 'resolved'))
    assert grown.brighter == grown.difference > 0
    assert by_status['shrinking'].darker == -by_status['shrinking'].difference > 0
    assert new.brighter == new.volume_after
    assert gone.darker == gone.volume_before
    assert (new.z_peak, gone.z_peak) == (10.0, -10.0)
    for one, later in ((before, False), (after, True)):
        image = change_image(comparison, one, difference, regions, later=later)
        old, now = before.labels > 0, after.labels > 0
        assert set(image[old & now]) == {1}
        assert set(image[now & ~old]) == {2, 3}
        assert set(image[old & ~now]) == {4, 5}
        assert not image[~old & ~now].any()


GROWN_C = (C[0], 5.0)


def test_time_reversed_the_words_are_too():
    before, after = session(A, B, GROWN_C, E), session(A, GROWN, C, D)
    words = {'new': 'resolved', 'resolved': 'new', 'enlarging': 'shrinking'}
    words |= {'shrinking': 'enlarging', 'stable': 'stable'}
    there = {(g.before, g.after): words[g.status] for g in compared(before, after)[0].groups}
    back = {(g.after, g.before): g.status for g in compared(after, before)[0].groups}
    assert there == back


def test_masks_that_differ_are_no_change_where_the_images_agree():
    """A lesion in one mask only is an error of a mask; growth of a mask alone is none."""
    before, after = session(A, B), session(GROWN, D)
    comparison, *_ = compared(before, after, shown=(session(A, B, D), session(A, B, D)))
    found = {(g.before, g.after): g for g in comparison.groups}
    assert found[(2,), ()].status == 'one-mask'
    assert found[(), (2,)].status == 'one-mask'
    stable = found[(1,), (1,)]
    assert (stable.status, 'masks differ' in stable.note) == ('stable', True)
    row = summary_row(comparison, None)
    assert (row['n_one_mask'], row['n_new'], row['enlarging_volume_mm3']) == (2, 0, 0)


def test_images_that_differ_are_change_where_the_masks_agree():
    """Growth within a stable mask, and a new lesion that neither mask has."""
    masks = session(GROWN)
    comparison, difference, regions = compared(masks, masks, shown=(session(B), session(GROWN, D)))
    assert [g.status for g in comparison.groups] == ['enlarging', 'new']
    grown, new = comparison.groups
    assert grown.brighter == volume(session(GROWN), 1) - volume(session(B), 1)
    assert 'neither mask' in new.note
    assert new.centroid == pytest.approx(D[0], abs=0.2)
    image = change_image(comparison, masks, difference, regions, later=True)
    assert (image == 2).sum() == volume(session(D), 1)
    row = summary_row(comparison, None)
    assert row['volume_after_ml'] == row['volume_before_ml'], 'of the masks'


def test_a_brighter_lesion_that_the_earlier_mask_missed_is_not_new():
    before, after = session(), session(B)
    difference = pictured(before, after)
    difference.matched.expected[after.labels > 0] = 1.2
    regions = find_changes(difference, ChangeLimits())
    (group,) = compare_sessions(before, after, difference, regions).groups
    assert group.status == 'enlarging'


def test_an_edited_mask_is_taken_at_its_word():
    before, after = session(A), session(A, B)
    same = (session(A, B), session(A, B))
    assert found(before, after, same) == ['one-mask', 'stable'], 'the largest first'
    assert found(before, after, same, edited=(False, True)) == ['new', 'stable']
    grown = (session(A), session(A, B))
    assert found(session(A), session(A), grown) == ['stable', 'new']
    assert found(session(A), session(A), grown, edited=(False, True)) == ['stable']


# --------------------------------------------------------------------- no change


def test_the_same_session_twice_gives_no_change():
    one = session(A, B, C)
    groups = compared(one, one)[0].groups
    assert [group.status for group in groups] == ['stable'] * 3
    for group in groups:
        assert group.before == group.after
        assert group.difference == 0
        assert group.shared == pytest.approx(group.volume_after)


def test_nothing_and_nothing():
    empty = session()
    comparison, difference, regions = compared(empty, empty)
    assert comparison.groups == []
    assert not change_image(comparison, empty, difference, regions, later=True).any()
    assert summary_row(comparison, 1.0)['n_new'] == 0


def test_everything_is_new_or_gone_beside_an_empty_mask():
    assert found(session(), session(A, B)) == ['new', 'new']
    assert found(session(A, B), session()) == ['resolved', 'resolved']


# ----------------------------------------------------------------- merging, splitting


def test_lesions_that_merge_and_grow_are_one_that_enlarges():
    before = session(((10.0, 20, 15), 3), ((18.0, 20, 15), 3))
    after = session(((10.0, 20, 15), 4.5), ((18.0, 20, 15), 4.5))
    (group,) = compared(before, after)[0].groups
    assert (group.before, group.after) == ((1, 2), (1,))
    assert (group.status, group.note) == ('enlarging', 'merged')


def test_a_lesion_that_splits_without_change_is_stable():
    bridge = [((float(x), 20.0, 15.0), 1.0) for x in range(10, 19)]
    ends = [((10.0, 20, 15), 3.4), ((19.0, 20, 15), 3.4)]
    before, after = session(*ends, *bridge), session(*ends)
    (group,) = compared(before, after, shown=(after, after))[0].groups
    assert (group.before, group.after) == ((1,), (1, 2))
    assert (group.status, group.note) == ('stable', 'split')


def test_a_small_lesion_seen_beside_its_place_is_the_same():
    before, after = session(((20.0, 20, 15), 1.5)), session(((23.5, 20, 15), 1.5))
    assert found(before, after, (before, before), near_mm=1.5) == ['stable']
    assert found(before, after, (before, before), near_mm=0.0) == ['one-mask', 'one-mask']


# ------------------------------------------------------------------------ the limits


def test_limits_of_a_change():
    before, after = session(), session(B)
    difference = pictured(before, after)
    size = volume(after, 1)

    def count(**limits):
        return find_changes(difference, ChangeLimits(**limits)).count

    assert count() == 1
    assert count(seed=10.5) == 0
    assert count(min_volume=size) == 1
    assert count(min_volume=size + 1) == 0
    difference.normal[:] = 1.3
    assert count() == 0, 'neither FLAIR is brighter there than normal tissue'


@pytest.mark.parametrize('voxels', [1, 2, 3])
def test_a_change_has_three_voxels(voxels):
    """On coarse grids two of them would be enough for the smallest volume."""
    difference = pictured(session(), session(B))
    difference.z[:] = 0
    difference.z[25, 30, 15 : 15 + voxels] = 10
    assert find_changes(difference, ChangeLimits(min_volume=0)).count == (voxels == 3)


def test_moving_fluid_is_no_change():
    before, after = session(), session(B)
    difference = pictured(before, after)
    difference.matched.expected[after.labels > 0] = 0.4
    assert find_changes(difference, ChangeLimits()).count == 0


def test_labels_need_three_dimensions():
    with pytest.raises(DataError):
        Session(np.zeros((3, 3), int), np.eye(4))


def test_what_the_other_scan_did_not_cover_is_not_judged():
    before, after = session(A, shape=(40, 20, 30)), session(A, B)
    groups = compare_sessions(before, after, *quiet(STILL)).groups
    (outside,) = [group for group in groups if not group.before]
    assert outside.status is None
    assert 'outside' in outside.note


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
    return compare_sessions(before, after, *quiet(move)).groups


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


def test_points_outside_lie_in_no_lesion():
    one = session(A)
    assert labels_at(one, np.array([[8.0, 8, 8], [-5, 8, 8], [500, 8, 8]])).tolist() == [1, 0, 0]


# -------------------------------------------------------------------------- tables


def test_rows_have_the_columns_and_the_rates():
    before, after = session(A, B), session(A, GROWN, D)
    comparison, *_ = compared(before, after)
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


def test_numbers_of_a_pair_as_metadata():
    before, after = session(A, B, E), session(A, GROWN, D)
    row = summary_row(compared(before, after)[0], None)
    told = PairRecord.from_row(row).to_metadata()
    assert told['Counts'] == {
        'stable': 1, 'new': 1, 'enlarging': 1, 'shrinking': 0, 'resolved': 1, 'one-mask': 0,
        'not_judged': 0,
    }  # fmt: skip
    assert told['Volumes_mm3']['new'] == volume(session(D), 1)
    assert told['Rate_ml_per_year'] == 'n/a'
    assert PairRecord.from_metadata(json.loads(json.dumps(told))) == PairRecord.from_row(
        {name: round(v, 6) if isinstance(v, float) else v for name, v in row.items()}
    )


def test_every_entry_of_a_pair_is_a_column_of_the_table_of_pairs():
    assert {item.name for item in dataclasses.fields(PairRecord)} <= set(SUMMARY_COLUMNS)
    assert {f'n_{status.replace("-", "_")}' for status in STATUS_CODES} <= {
        item.name for item in dataclasses.fields(PairRecord)
    }


def test_every_lesion_of_both_sessions_is_in_one_row():
    before, after = session(A, B, E), session(A, GROWN, C, D)
    groups = compared(before, after)[0].groups
    assert sorted(n for g in groups for n in g.before) == list(range(1, before.count + 1))
    assert sorted(n for g in groups for n in g.after) == list(range(1, after.count + 1))
    centre = ndimage.center_of_mass(after.labels == groups[0].after[0])
    assert groups[0].centroid == pytest.approx(tuple(centre))
