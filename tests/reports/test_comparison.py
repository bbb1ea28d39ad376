"""Pictures that a page draws itself: outlines lie on lesions, sides are right."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from typing import Any

import nibabel as nb
import numpy as np
import pytest
from PIL import Image

from mslesseg_app.core.errors import DataError
from mslesseg_app.reports import svg
from mslesseg_app.reports.comparison import (
    MODEL_COLOURS,
    lesion_map,
    lesions_beside,
    lesions_zoomed,
    models_beside,
    sessions_beside,
)
from tests.tools import reporttree


def points(panel: Any) -> np.ndarray:
    """All points of the outlines of a panel, x and y in mm."""
    text = ' '.join(
        part.get('d') for part in panel.iter(f'{{{svg.SVG}}}path') if part.get('fill') == 'none'
    )
    return np.array(re.findall(r'[ML]([\d.]+) ([\d.]+)', text), float)


def pixels(panel: Any) -> np.ndarray:
    part = next(panel.iter(f'{{{svg.SVG}}}image'))
    data = base64.b64decode(part.get('href').split(',', 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB')).astype(int)


@pytest.mark.parametrize('orientation', ['RAS', 'LPS', 'LIP'])
def test_outlines_lie_on_the_bright_lesion_of_each_image(
    head: Callable[..., Any], orientation: str
) -> None:
    image, labels = head(orientation=orientation)
    inside, lesion = image.get_fdata() > 50, labels.get_fdata() > 0
    brain = nb.Nifti1Image(inside.astype(np.uint8), image.affine)
    data = np.where(lesion, 300.0, 100.0 * inside).astype(np.float32)
    flair = nb.Nifti1Image(data, image.affine)
    drawn = lesions_beside({'FLAIR': flair, 'T1w': flair}, brain, labels)
    assert drawn is not None
    panels = list(drawn.root)
    assert len(panels) == 2
    assert drawn.columns == 2
    for panel in panels:
        grey = pixels(panel)[..., 0]
        image = next(panel.iter(f'{{{svg.SVG}}}image'))
        size = float(image.get('width')), float(image.get('height'))
        outline = points(panel)
        rows, columns = np.nonzero(grey > 235)
        bright = np.array(
            [(columns.mean() + 0.5) * size[0] / grey.shape[1],
             (rows.mean() + 0.5) * size[1] / grey.shape[0]]
        )  # fmt: skip
        middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
        assert np.abs(middle - bright).max() < 2.0
        assert bright[0] > size[0] / 2  # x = -30 mm is the patient's left: right of the image


def test_each_model_has_an_outline_of_its_own_colour() -> None:
    images = reporttree.head(3)
    labels = np.asarray(images['labels'].dataobj)
    masks = {
        name: nb.Nifti1Image(np.isin(labels, kept).astype(np.uint8), reporttree.affine())
        for name, kept in (('unet', (1, 2)), ('floor', (2, 3)), ('none', (9,)))
    }
    drawn = models_beside(images['FLAIR'], images['brain'], masks)
    assert drawn is not None
    strokes = {
        part.get('stroke') for part in drawn.root.iter(f'{{{svg.SVG}}}path') if part.get('stroke')
    }
    first, second, third, *_ = MODEL_COLOURS
    assert {MODEL_COLOURS[first], MODEL_COLOURS[second]} <= strokes
    assert MODEL_COLOURS[third] not in strokes, 'this model marks nothing'
    for name, colour in (('unet', first), ('floor', second), ('none', third)):
        assert f'{name} {colour}' in drawn.figure.caption
    assert models_beside(images['FLAIR'], images['brain'], {'a': masks['none']}) is None


def test_the_largest_lesions_come_first_and_rows_are_few() -> None:
    images = reporttree.head(200)
    names = {name: images[name] for name in ('FLAIR', 'T1w', 'T2w')}
    drawn = lesions_beside(names, images['brain'], images['labels'], most=4)
    assert drawn is not None
    assert len(list(drawn.root)) == 12
    empty = nb.Nifti1Image(np.zeros(reporttree.SHAPE, np.int32), reporttree.affine())
    assert lesions_beside(names, images['brain'], empty) is None


def test_the_zoom_shows_what_changed_first_each_session_with_its_own_mask() -> None:
    images = reporttree.head(6)
    labels = np.asarray(images['labels'].dataobj)
    own = [
        nb.Nifti1Image(np.where(labels == number, code, labels > 0).astype(np.uint8) * keep, a)
        for number, code, keep, a in (
            (2, 5, (labels != 4), reporttree.affine()), (4, 2, (labels != 2), reporttree.affine()),
        )
    ]  # fmt: skip
    now = nb.Nifti1Image(np.where(labels == 2, 0, labels), reporttree.affine())
    shown = {'FLAIR ses-2': images['FLAIR'], 'FLAIR ses-1': images['FLAIR'], 'T1w': images['T1w']}
    drawn = lesions_zoomed(shown, images['brain'], now, (own[0], own[1]), 'FLAIR ses-1')
    assert drawn is not None
    assert drawn.columns == 3
    panels = list(drawn.root)
    assert len(panels) == 9, 'three lesions on three images'
    colours = [
        {part.get('stroke') for part in panel.iter(f'{{{svg.SVG}}}path')} - {None}
        for panel in panels
    ]
    new, resolved = '#ff5c5c', '#78e678'
    assert new in colours[0]
    assert new in colours[2], 'the same on all images of a session'
    assert new not in colours[1]
    assert resolved in colours[4]
    assert resolved not in colours[3]
    for panel in panels:
        box = [float(number) for number in panel.get('viewBox').split()]
        assert box[2] == pytest.approx(70, abs=4), 'mm across'
    assert lesions_zoomed(shown, images['brain'], labels_like(labels, 0)) is None
    alone = lesions_zoomed({'FLAIR': images['FLAIR']}, images['brain'], now)
    assert alone is not None
    assert alone.columns == 3, 'three columns with the FLAIR alone'


def labels_like(labels: np.ndarray, value: int) -> nb.Nifti1Image:
    return nb.Nifti1Image(np.full_like(labels, value), reporttree.affine())


def test_sessions_side_by_side_show_only_change() -> None:
    images = reporttree.head(5)
    labels = np.asarray(images['labels'].dataobj)
    pair = images['FLAIR'], images['FLAIR'], images['brain']
    change = nb.Nifti1Image((labels == 3).astype(np.uint8) * 2, reporttree.affine())
    difference = nb.Nifti1Image((labels == 3).astype(np.float32) * 9, reporttree.affine())
    with_it = sessions_beside(*pair, change, ('ses-1', 'ses-2'), difference)
    assert with_it is not None
    assert with_it.columns == 3
    assert 'difference of both' in with_it.figure.caption
    drawn = sessions_beside(*pair, change, ('ses-1', 'ses-2'))
    assert drawn is not None
    first, second = list(drawn.root)
    assert 'ses-1' in first.get('aria-label')
    assert 'ses-2' in second.get('aria-label')
    strokes = {part.get('stroke') for part in second.iter(f'{{{svg.SVG}}}path')}
    assert strokes == {'#ff5c5c'}
    own = [
        nb.Nifti1Image((labels == number).astype(np.uint8) * code, reporttree.affine())
        for number, code in ((1, 5), (3, 2))
    ]
    apart = sessions_beside(*pair, change, ('ses-1', 'ses-2'), own=(own[0], own[1]))
    assert apart is not None
    found = [
        {part.get('stroke') for part in panel.iter(f'{{{svg.SVG}}}path')} - {None}
        for panel in apart.root
    ]
    assert found[0] <= {'#78e678'}, 'the earlier image shows nothing of the later mask'
    assert found[1] == {'#ff5c5c'}
    stable = nb.Nifti1Image((labels > 0).astype(np.uint8), reporttree.affine())
    assert sessions_beside(*pair, stable, ('ses-1', 'ses-2')) is None


def test_another_grid_is_refused() -> None:
    images = reporttree.head(2)
    other = nb.Nifti1Image(np.zeros((5, 5, 5), np.int32), np.eye(4))
    with pytest.raises(DataError, match='grid'):
        lesions_beside({'FLAIR': images['FLAIR']}, images['brain'], other)


@pytest.mark.parametrize('right', [True, False])
def test_the_lesion_map_shows_lesions_where_they_are(right: bool) -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -50, -60, -45
    grid = nb.affines.apply_affine(affine, np.stack(np.indices((50, 60, 45)), -1))
    brain = ((grid / [45, 55, 40]) ** 2).sum(-1) < 1
    spot = ((grid - [30 if right else -30, 30, 20]) ** 2).sum(-1) < 9**2
    made = [nb.Nifti1Image(part.astype(np.uint8), affine) for part in (100 * brain, brain, spot)]
    drawn = lesion_map(*made)
    assert drawn is not None
    places = []
    for panel in drawn.root:
        rgb = pixels(panel)
        rows, columns = np.nonzero(rgb[..., 0] - rgb[..., 2] > 90)  # orange
        places.append((columns.mean() / rgb.shape[1] - 0.5, rows.mean() / rgb.shape[0] - 0.5))
    from_left, from_right, from_above = places
    assert from_left[0] < -0.1  # the front is on the left
    assert from_right[0] > 0.1
    assert (from_above[0] > 0.1) == right  # x > 0 is the patient's right
    assert from_above[1] < -0.1  # the front is at the top
    assert lesion_map(made[0], made[1], nb.Nifti1Image(0 * spot.astype(np.uint8), affine)) is None
