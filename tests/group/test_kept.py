"""What the group level keeps from run to run: nothing is read twice, and nothing stale is used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from grouptree import Tree, add_template_mask, make_tree, save

from mslesseg_app.group import evaluation, run_group
from mslesseg_app.group import thumbnails as views
from mslesseg_app.spatial.template import TEMPLATE_SHAPE

#: What a second run must write with the same bytes.
RESULTS = ('group_*.tsv', 'group_*.html', 'group_frequency/*', 'group_figures/*')


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Three participants with references; one lesion each on the template."""
    made = make_tree(tmp_path, 3, models=('unet',))
    for place in range(1, 4):
        mask = np.zeros(TEMPLATE_SHAPE, dtype=bool)
        mask[60:62, 100 : 100 + place, 90] = True
        add_template_mask(made, f'sub-{place:02}', 'unet', mask)
    (tmp_path / 'work').mkdir()
    return made


@pytest.fixture
def read_images(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that the group level reads."""
    names: list[str] = []

    def told(function: Callable[[Path], object]) -> Callable[[Path], object]:
        def read(path: Path) -> object:
            names.append(path.name)
            return function(path)

        return read

    for module in (views, evaluation):
        monkeypatch.setattr(module, 'load_whole', told(module.load_whole))
    monkeypatch.setattr(evaluation, 'read_binary', told(evaluation.read_binary))
    return names


def results(tree: Tree) -> dict[str, bytes]:
    paths = {path for pattern in RESULTS for path in tree.out.glob(pattern) if path.is_file()}
    return {path.name: path.read_bytes() for path in paths}


def test_a_second_run_reads_no_image_and_writes_the_same(tree, run_settings, read_images) -> None:
    run_group(run_settings(tree), quiet=True)
    first = results(tree)
    assert len(read_images) == 12, 'an image, its template mask, mask and reference of each'
    for path in tree.out.glob('group_*.tsv'):
        path.unlink()
    read_images.clear()
    run_group(run_settings(tree), quiet=True)
    assert read_images == []
    assert results(tree) == first


def test_only_what_has_changed_is_read_again(tree, run_settings, read_images) -> None:
    run_group(run_settings(tree), quiet=True)
    read_images.clear()
    label = 'sub-02'
    (native,) = (tree.out / label / 'anat').glob('*_space-orig_*_mask.nii.gz')
    save(native, np.zeros_like(tree.truth[label]))
    run_group(run_settings(tree), quiet=True)
    assert sorted(set(read_images)) == [f'{label}_label-lesion_mask.nii.gz', native.name]
    rows = (tree.out / 'group_evaluation.tsv').read_text().splitlines()
    head, row = (line.split('\t') for line in (rows[0], rows[2]))
    assert dict(zip(head, row, strict=True))['TPR'] == '0'

    read_images.clear()
    run_group(run_settings(tree, rules='msseg2016'), quiet=True)
    assert len([name for name in read_images if '_label-lesion_mask' in name]) == 3


def damage_header(path: Path) -> None:
    path.write_bytes(b'no database')


def damage_value(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE kept SET value = x'00'")


def damage_type(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE kept SET value = 'text'")


@pytest.mark.parametrize('damage', [damage_header, damage_value, damage_type])
def test_what_is_damaged_is_done_again(tree, run_settings, damage) -> None:
    run_group(run_settings(tree), quiet=True)
    first = results(tree)
    kept = sorted((tree.out.parent / 'work/group').iterdir())
    assert [path.name for path in kept] == ['evaluation.sqlite', 'lesions.sqlite']
    for path in kept:
        damage(path)
    run_group(run_settings(tree), quiet=True)
    assert results(tree) == first


def test_without_a_work_folder_nothing_is_kept(tree, run_settings) -> None:
    (tree.out.parent / 'work').rmdir()
    run_group(run_settings(tree), quiet=True)
    assert not (tree.out.parent / 'work').exists()
