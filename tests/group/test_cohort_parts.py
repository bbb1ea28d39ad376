"""Review, lesion frequency, regions and change at the group level."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nb
import numpy as np
import pandas as pd
import pytest
from grouptree import Tree, add_images, add_template_mask, make_tree, write_participants
from PIL import Image

from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.group import run_group
from mslesseg_app.group.collect import Key
from mslesseg_app.group.frequency import Frequency, FrequencySum, colours, draw
from mslesseg_app.group.longitudinal import progress_rows, read_changes
from mslesseg_app.group.regions import region_rows
from mslesseg_app.group.thumbnails import Thumbnail, make_views, pack, unpack, view_tasks
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

MARKS = 'participant_id\tsession_id\tmark\tmarked\tnote\n'


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = make_tree(tmp_path, 5, sessions=2, models=('unet',))
    write_participants(made.bids, 5)
    return made


def page_of(tree: Tree) -> str:
    return (tree.out / 'group_lesions.html').read_text(encoding='utf-8')


# ------------------------------------------------------------------------------- review


def test_excluded_exams_are_in_no_statistics(tree, run_settings, read, capsys):
    settings = run_settings(tree)
    (tree.out / 'group_review.tsv').write_text(
        MARKS + 'sub-02\tses-1\texclude\tn/a\tghosts\nsub-03\tses-2\taccept\tn/a\tn/a\n'
    )
    assert run_group(settings) == 0
    for name in ('volumes', 'evaluation'):
        exams = {(r['participant_id'], r['session_id']) for r in read_table(tree, read, name)}
        assert len(exams) == 9
        assert ('sub-02', 'ses-1') not in exams
    (row,) = (r for r in read_table(tree, read, 'exams') if r['state'] == 'excluded')
    assert (row['participant_id'], row['session_id'], row['reason']) == (
        'sub-02',
        'ses-1',
        'ghosts',
    )
    assert 'sub-02_ses-1 (unet) is left out, as the review asks for' in capsys.readouterr().out
    page = page_of(tree)
    assert 'Left out of all statistics by the review: sub-02 ses-1.' in page
    assert 'data-participant="sub-02" data-session="ses-1" data-mark="exclude"' in page, (
        'the mark can be taken back'
    )


def read_table(tree, read, name):
    return read(tree.out / f'group_{name}.tsv')


def test_marks_of_a_file_are_kept_in_the_output(tree, run_settings):
    path = tree.out.parent / 'marks.tsv'
    path.write_text(MARKS + 'sub-01\tses-1\texclude\t2026-01-01T10:00:00Z\tn/a\n')
    assert run_group(run_settings(tree, review=path), quiet=True) == 0
    path.unlink()
    assert run_group(run_settings(tree), quiet=True) == 0
    assert 'Left out of all statistics by the review: sub-01 ses-1.' in page_of(tree)


def test_when_all_are_excluded_nothing_is_written(tree, run_settings):
    rows = [f'sub-0{k}\tses-{s}\texclude\tn/a\tn/a\n' for k in range(1, 6) for s in (1, 2)]
    (tree.out / 'group_review.tsv').write_text(MARKS + ''.join(rows))
    with pytest.raises(NoInputError, match='excludes every exam'):
        run_group(run_settings(tree), quiet=True)
    assert not (tree.out / 'group_lesions.html').exists()


def test_equal_content_gives_equal_bytes(tree, run_settings):
    for (label, _), mask in tree.predicted.items():
        add_images(tree, label, mask, np.random.default_rng(1))
    run_group(run_settings(tree), quiet=True)
    first = page_of(tree)
    shutil.rmtree(tree.out / 'group_figures')
    run_group(run_settings(tree), quiet=True)
    assert page_of(tree) == first


# ----------------------------------------------------------------------------- images


def test_images_outline_the_lesions(tree, run_settings):
    from mslesseg_app.group.collect import find_holdings

    (label, _), mask = next(iter(tree.predicted.items()))
    add_images(tree, label, mask, np.random.default_rng(1))
    holdings = find_holdings(run_settings(tree))
    tasks = view_tasks(holdings, tree.out, tree.out / 'thumbs')
    views = {view.key.exam: view for view in make_views(tasks, 1)}
    drawn = np.asarray(Image.open(views[label].image)).astype(int)
    assert drawn.shape[0] == 112
    yellow = (drawn[..., 0] > 150) & (drawn[..., 2] < 110)
    assert yellow.sum() > 20
    assert (drawn.std(axis=2) < 12).sum() > 1000, 'the rest is grey'
    assert views[label].image.stat().st_size < 15000


def test_images_are_made_again_only_when_the_images_changed(tree, run_settings):
    import os

    run_group(run_settings(tree), quiet=True)
    image = tree.out / 'group_figures/exams/sub-01_ses-1_desc-unet.jpg'
    before = image.stat().st_mtime_ns
    run_group(run_settings(tree), quiet=True)
    assert image.stat().st_mtime_ns == before
    mask = next((tree.out / 'sub-01/ses-1/anat').glob('*_mask.nii.gz'))
    os.utime(mask, ns=(before + 10**9, before + 10**9))
    run_group(run_settings(tree), quiet=True)
    assert image.stat().st_mtime_ns != before


def test_a_damaged_image_is_said_and_the_rest_is_drawn(tree, run_settings, capsys):
    (tree.out / 'sub-01/ses-1/anat/sub-01_ses-1_desc-preproc_FLAIR.nii.gz').write_bytes(b'no')
    assert run_group(run_settings(tree)) == 0
    assert 'sub-01_ses-1 (unet)' in capsys.readouterr().out
    page = page_of(tree)
    assert page.count('no image') == 1
    assert page.count('data:image/jpeg') == 9


# ---------------------------------------------------------------------------- frequency


def test_each_participant_counts_once():
    views = [
        Thumbnail(Key('sub-1', 'ses-1', 'm'), voxels=pack(np.array([6, 5]))),
        Thumbnail(Key('sub-1', 'ses-2', 'm'), voxels=pack(np.array([6]))),
        Thumbnail(Key('sub-2', '', 'm'), voxels=pack(np.array([6, 7]))),
        Thumbnail(Key('sub-3', '', 'm'), voxels=pack(np.zeros(0, dtype=np.int64))),
        Thumbnail(Key('sub-4', '', 'm')),
    ]
    total = FrequencySum()
    for view in views:
        total.add(view)
    (found,) = total.maps()
    flat = found.share.ravel()
    np.testing.assert_allclose(flat[[5, 6, 7]], [0.5 / 3, 2 / 3, 1 / 3], rtol=1e-6)
    assert flat.sum() == pytest.approx(flat[[5, 6, 7]].sum())
    assert (found.participants, found.exams) == (3, 4)


def test_packed_voxels_come_back_sorted():
    voxels = np.random.default_rng(0).choice(182 * 218 * 182, 5000, replace=False)
    np.testing.assert_array_equal(unpack(pack(voxels)), np.sort(voxels))
    assert len(pack(voxels)) < 8 * voxels.size


def test_map_is_written_where_the_lesions_are(tree, run_settings):
    mask = np.zeros(TEMPLATE_SHAPE, dtype=bool)
    mask[60:70, 100:110, 90:96] = True
    other = np.roll(mask, 5, axis=0)
    add_template_mask(tree, 'sub-01_ses-1', 'unet', mask)
    add_template_mask(tree, 'sub-02_ses-1', 'unet', other)
    run_group(run_settings(tree), quiet=True)
    image = nb.load(tree.out / 'group_frequency/unet.nii.gz')
    np.testing.assert_array_equal(image.affine, TEMPLATE_AFFINE)
    np.testing.assert_allclose(image.get_fdata(), (mask + other.astype(int)) / 2)
    page = page_of(tree)
    assert '2 participants, 2 exams' in page
    assert 'highest 100 % at x 25, y -26, z 18 mm' in page


def test_map_of_no_lesion_can_be_drawn():
    empty = Frequency('m', np.zeros(TEMPLATE_SHAPE, np.float32), 2, 2)
    assert empty.peak[0] == 0
    assert draw(empty)[:2] == b'\xff\xd8'


def test_colours_get_lighter():
    light = colours(np.linspace(0, 1, 20)).astype(int) @ [299, 587, 114]
    assert (np.diff(light) > 0).all()


# ------------------------------------------------------------------------------ regions


def test_regions_are_summed():
    head = {'participant_id': 'sub-1', 'session_id': 'n/a', 'model': 'm'}
    names = ('periventricular', 'juxtacortical', 'infratentorial', 'deep_white_matter')
    rows = []
    for counts in ((3, 1, 0, 0), (1, 0, 0, 3)):
        row = dict(head)
        for name, count in zip(names, counts, strict=True):
            row |= {f'{name}_lesions': str(count), f'{name}_volume_ml': str(count * 0.5)}
        rows.append(row)
    rows.append(dict.fromkeys(rows[0], 'n/a') | head)
    found = {row['region']: row for row in region_rows(pd.DataFrame(rows))}
    assert list(found) == list(names)
    one = found['periventricular']
    assert (one['n_exams'], one['n_with'], one['n_lesions']) == (2, 2, 4)
    assert one['share_lesions'] == one['share_volume'] == 0.5
    assert one['mean_volume_ml'] == 1.0
    assert found['infratentorial']['n_with'] == 0
    assert region_rows(pd.DataFrame([head])) == []


# ------------------------------------------------------------------------------- change


def changes(path: Path) -> Path:
    head = 'participant_id model session_before session_after pair years status n_new n_enlarging'
    rows = [
        'sub-01 unet ses-1 ses-2 consecutive 2 pass 4 0',
        'sub-02 unet ses-1 ses-2 consecutive n/a pass 1 0',
        'sub-03 unet ses-1 ses-2 consecutive 1 fail n/a n/a',
        'sub-04 unet ses-1 ses-2 consecutive 1 check 0 0',
        'sub-01 unet ses-1 ses-3 first-last 9 pass 99 0',
    ]
    lines = [' '.join([head, 'difference_ml'])] + [f'{row} 0.5' for row in rows]
    path.write_text('\n'.join(line.replace(' ', '\t') for line in lines) + '\n')
    return path


def test_changes_are_summed_over_comparable_pairs(tmp_path):
    table = read_changes(changes(tmp_path / 'a.tsv'))
    people = pd.DataFrame({'participant_id': ['sub-01', 'sub-02'], 'split': ['a', 'b']})
    found = {row['part']: row for row in progress_rows(table, people)}
    assert list(found) == ['all', 'split a', 'split b']
    row = found['all']
    assert (row['n_pairs'], row['n_left_out'], row['n_participants']) == (3, 1, 3)
    assert (row['n_new'], row['n_active'], row['years']) == (5, 2, 3.0)
    assert row['new_per_year'] == pytest.approx(4 / 3), 'pairs without dates have no rate'
    assert row['n_stable'] is None
    assert found['split b']['new_per_year'] is None


def test_changes_are_on_the_page_without_excluded_sessions(tree, run_settings, read):
    changes(tree.out / 'group_change.tsv')
    (tree.out / 'group_review.tsv').write_text(MARKS + 'sub-01\tses-2\texclude\tn/a\tn/a\n')
    run_group(run_settings(tree), quiet=True)
    row = read(tree.out / 'group_change_summary.tsv')[0]
    assert (row['n_pairs'], row['n_new']) == ('2', '1')
    assert '1 pairs of sessions cannot be compared' in page_of(tree)


def test_a_damaged_table_of_changes_is_refused(tree, run_settings):
    (tree.out / 'group_change.tsv').write_text('a\tb\n1\t2\n')
    with pytest.raises(DataError, match='lacks model, n_new, participant_id'):
        run_group(run_settings(tree), quiet=True)


def test_what_is_missing_is_said(tree, run_settings):
    run_group(run_settings(tree), quiet=True)
    page = page_of(tree)
    assert 'there is no map of lesions' in page
    assert 'No table of an exam assigns lesions to regions.' in page
    assert 'There is no table of changes between sessions.' in page
