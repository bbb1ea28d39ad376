"""Figures: sides, positions, proportions, choice of slices, bytes."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import nibabel as nb
import numpy as np
import pytest
from PIL import Image

from mslesseg_app.core.errors import DataError
from mslesseg_app.reports import figures, svg
from mslesseg_app.reports.labels import Spot, place_labels
from mslesseg_app.reports.slices import (
    lesion_slices,
    oriented,
    outlines,
    pixel_size,
    slice_plane,
    spread,
)

SVG = '{http://www.w3.org/2000/svg}'
Head = Callable[..., tuple[nb.Nifti1Image, nb.Nifti1Image]]


def panels_of(path: str) -> list[ET.Element]:
    root = ET.parse(path).getroot()
    return [part for part in root if part.get('class') == 'msl-panel']


def points_of(group: ET.Element) -> np.ndarray:
    path = group.find(f'{SVG}path')
    assert path is not None
    return np.array([float(word) for word in re.findall(r'-?[\d.]+', path.get('d', ''))]).reshape(
        -1, 2
    )


def lesion_of(panel: ET.Element) -> np.ndarray:
    group = panel.find(f'{SVG}g[@data-lesion]')
    assert group is not None
    return points_of(group)


def marks_of(panel: ET.Element) -> dict[str, float]:
    return {
        str(text.text): float(text.get('x', ''))
        for text in panel.iter(f'{SVG}text')
        if text.get('class') == 'msl-side'
    }


def raster_of(panel: ET.Element) -> tuple[np.ndarray, float, float]:
    """Grey values and the size in mm of a pixel of the first image of a panel."""
    image = panel.find(f'{SVG}image')
    assert image is not None
    data = base64.b64decode(image.get('href', '').split(',')[1])
    grey = np.asarray(Image.open(io.BytesIO(data)))
    width, height = float(image.get('width', '')), float(image.get('height', ''))
    return grey, width / grey.shape[1], height / grey.shape[0]


@pytest.mark.parametrize('orientation', ['RAS', 'LAS', 'LPS', 'RPI', 'SAR', 'PIR', 'ASL'])
def test_a_left_lesion_is_on_the_side_marked_left(
    head: Head, tmp_path: Path, orientation: str
) -> None:
    flair, labels = head((-30.0, 20.0, 12.0), orientation)
    made = figures.lesion_contours(flair, labels, tmp_path / 'a.svg')
    panel = panels_of(made.path)[0]
    marks, x = marks_of(panel), lesion_of(panel)[:, 0].mean()
    assert set(marks) == {'L', 'R'}
    assert abs(x - marks['L']) < abs(x - marks['R'])
    assert marks['L'] > marks['R']
    assert 'Radiological' in made.caption


@pytest.mark.parametrize('orientation', ['RAS', 'LPS', 'SAR'])
@pytest.mark.parametrize('angle', [0.0, 12.0])
def test_the_outline_lies_around_the_bright_spot(
    head: Head, tmp_path: Path, orientation: str, angle: float
) -> None:
    flair, labels = head((25.0, -35.0, -8.0), orientation, angle=angle)
    made = figures.lesion_contours(flair, labels, tmp_path / 'a.svg')
    for panel in panels_of(made.path):
        grey, wide, high = raster_of(panel)
        points = lesion_of(panel)
        rows, columns = np.nonzero(grey > 240)
        x, y = (columns + 0.5) * wide, (rows + 0.5) * high
        near = np.hypot(x - points[:, 0].mean(), y - points[:, 1].mean()) < 15
        x, y = x[near], y[near]
        assert abs(points[:, 0].mean() - x.mean()) < 0.6
        assert abs(points[:, 1].mean() - y.mean()) < 0.6
        assert points[:, 0].min() <= x.min()
        assert points[:, 0].max() >= x.max()
    assert ('tilted' in made.caption) == (angle > 3)


def test_slice_positions_are_those_of_the_lesion(head: Head, tmp_path: Path) -> None:
    flair, labels = head((-30.0, 20.0, 12.0), 'LPI')
    made = figures.lesion_contours(flair, labels, tmp_path / 'a.svg')
    texts = [next(panel.iter(f'{SVG}text')).text or '' for panel in panels_of(made.path)]
    found = [float(text.split('=')[1].split()[0].replace('−', '-')) for text in texts]
    index = np.argwhere(np.asarray(labels.dataobj) > 0)
    expected = np.unique(np.round(nb.affines.apply_affine(labels.affine, index)[:, 2], 1))
    assert found == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ('spacing', 'axis'),
    [((2, 2, 4), 2), ((4, 2, 2), 0), ((2, 4, 2), 1), ((2, 2, 2), 2), ((2.4, 2, 2), 2)],
)
def test_slices_follow_the_thick_axis(
    head: Head, tmp_path: Path, spacing: tuple[float, float, float], axis: int
) -> None:
    flair, labels = head((-30.0, 20.0, 12.0), 'LPS', spacing)
    made = figures.lesion_contours(flair, labels, tmp_path / 'a.svg')
    first = panels_of(made.path)[0]
    assert next(first.iter(f'{SVG}text')).text.startswith('xyz'[axis] + ' =')
    assert set(marks_of(first)) == ({'A', 'P'} if axis == 0 else {'L', 'R'})


def test_a_ball_stays_round_with_oblong_pixels(head: Head, tmp_path: Path) -> None:
    flair, labels = head((-30.0, 20.0, 0.0), 'LPS', (0.5, 2.0, 4.0))
    made = figures.lesion_contours(flair, labels, tmp_path / 'a.svg')
    sizes = [np.ptp(lesion_of(panel), axis=0) for panel in panels_of(made.path)]
    width, height = np.max(sizes, axis=0)
    assert width == pytest.approx(12.0, abs=1.0)
    assert height == pytest.approx(12.0, abs=2.1)


def test_front_is_up_in_axial_and_left_in_sagittal_pictures(head: Head) -> None:
    volume = oriented(head((0.0, 70.0, 0.0), 'SAR', (2.0, 2.0, 2.0))[1])
    whole = (slice(None), slice(None), slice(None))
    middle = [size // 2 for size in volume.data.shape]
    axial = np.argwhere(slice_plane(volume.data, 2, middle[2], whole) > 0).mean(axis=0)
    sagittal = np.argwhere(slice_plane(volume.data, 0, middle[0], whole) > 0).mean(axis=0)
    assert axial[0] < volume.data.shape[1] / 4
    assert sagittal[1] < volume.data.shape[1] / 4


def test_all_slices_with_lesions_are_shown(head: Head, tmp_path: Path) -> None:
    flair, labels = head()
    made = figures.lesion_contours(flair, labels, tmp_path / 'a.svg')
    hit = np.count_nonzero((np.asarray(labels.dataobj) > 0).any(axis=(0, 1)))
    assert len(panels_of(made.path)) == hit
    assert f'All {hit} axial slices' in made.caption


def test_thinned_slices_still_show_every_lesion(head: Head, tmp_path: Path) -> None:
    flair = nb.Nifti1Image(np.ones((60, 60, 140), np.float32), np.eye(4))
    labels = np.zeros(flair.shape, np.int32)
    labels[40, 30, 20:120] = 1
    for number, level in enumerate((31, 50, 77), 2):
        labels[10 * number, 30, level] = number
    chosen, step = lesion_slices(labels, 2, 10)
    assert step == 10
    shown = set(np.unique(labels[:, :, chosen]).tolist())
    assert shown == {0, 1, 2, 3, 4}
    image = nb.Nifti1Image(labels, flair.affine)
    made = figures.lesion_contours(flair, image, tmp_path / 'a.svg', most_slices=10)
    assert 'of 100 axial slices with lesions (one in 10' in made.caption


def test_no_lesion_is_said(head: Head, tmp_path: Path) -> None:
    flair, labels = head()
    empty = nb.Nifti1Image(np.zeros(labels.shape, np.int32), labels.affine)
    made = figures.lesion_contours(flair, empty, tmp_path / 'a.svg')
    text = Path(made.path).read_text(encoding='utf-8')
    assert 'no lesion detected' in text
    assert 'No lesion detected' in made.caption
    assert 'data-lesion' not in text


def test_probability_draws_a_second_line(head: Head, tmp_path: Path) -> None:
    flair, labels = head()
    prob = nb.Nifti1Image((labels.get_fdata() > 0).astype(np.float32), labels.affine)
    made = figures.lesion_contours(flair, labels, tmp_path / 'a.svg', prob=prob, possible=0.3)
    assert figures.POSSIBLE_COLOUR in Path(made.path).read_text(encoding='utf-8')
    assert 'probability of 0.3' in made.caption


def draw_all(head: Head, folder: Path) -> list[Path]:
    flair, labels = head()
    brain = nb.Nifti1Image((flair.get_fdata() > 50).astype(np.uint8), flair.affine)
    made = [
        figures.lesion_contours(flair, labels, folder / 'lesions.svg', brain=brain),
        figures.brain_mask_overlay(flair, brain, folder / 'brain.svg', modality='FLAIR'),
        figures.alignment_flicker(flair, flair, brain, folder / 'align.svg', modality='T1w'),
    ]
    return [Path(figure.path) for figure in made]


def test_bytes_depend_on_nothing_but_the_images(head: Head, tmp_path: Path) -> None:
    first, second = draw_all(head, tmp_path / 'a'), draw_all(head, tmp_path / 'b')
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.stat().st_size < 1_500_000


def test_a_figure_tells_its_own_words(head: Head, tmp_path: Path) -> None:
    flair, labels = head()
    made = figures.lesion_contours(flair, labels, tmp_path / 'a.svg')
    assert svg.read_figure(made.path) == made
    other = tmp_path / 'other.svg'
    other.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding='utf-8')
    with pytest.raises(DataError, match=r'other\.svg'):
        svg.read_figure(other)


def test_planes_of_mask_and_alignment(head: Head, tmp_path: Path) -> None:
    _, brain, align = draw_all(head, tmp_path)
    for path in (brain, align):
        words = [next(panel.iter(f'{SVG}text')).text or '' for panel in panels_of(str(path))]
        assert [word[0] for word in words] == ['z'] * 7 + ['y'] * 7 + ['x'] * 7
    text = align.read_text(encoding='utf-8')
    assert text.count('class="msl-b"') == 21
    assert '@keyframes' in text
    assert '@media print' in text
    assert 'prefers-reduced-motion' in text


def test_the_mask_outline_follows_the_edge(head: Head, tmp_path: Path) -> None:
    flair, _ = head(spacing=(2.0, 2.0, 2.0))
    brain = nb.Nifti1Image((flair.get_fdata() > 50).astype(np.uint8), flair.affine)
    made = figures.brain_mask_overlay(flair, brain, tmp_path / 'a.svg')
    middle = panels_of(made.path)[3]
    spread_mm = np.ptp(points_of(middle), axis=0)
    assert spread_mm == pytest.approx([130.0, 170.0], abs=3.0)


def test_wrong_input_is_explained(head: Head, tmp_path: Path) -> None:
    flair, labels = head()
    moved = labels.affine.copy()
    moved[0, 3] += 5
    with pytest.raises(DataError, match='grid'):
        figures.lesion_contours(flair, nb.Nifti1Image(labels.dataobj, moved), tmp_path / 'a.svg')
    with pytest.raises(DataError, match='3D'):
        four = nb.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4))
        figures.brain_mask_overlay(four, four, tmp_path / 'a.svg')
    with pytest.raises(DataError, match='empty'):
        none = nb.Nifti1Image(np.zeros(flair.shape, np.uint8), flair.affine)
        figures.brain_mask_overlay(flair, none, tmp_path / 'a.svg')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('value', [0.0, 5.0, np.nan])
def test_constant_and_unreal_images_do_not_break(head: Head, tmp_path: Path, value: float) -> None:
    flair, labels = head()
    flat = nb.Nifti1Image(np.full(flair.shape, value, np.float32), flair.affine)
    brain = nb.Nifti1Image((flair.get_fdata() > 50).astype(np.uint8), flair.affine)
    figures.lesion_contours(flat, labels, tmp_path / 'a.svg')
    figures.brain_mask_overlay(flat, brain, tmp_path / 'b.svg')
    figures.alignment_flicker(flat, flat, brain, tmp_path / 'c.svg')


def test_outline_of_one_pixel() -> None:
    plane = np.zeros((5, 7))
    plane[1, 4] = 1
    (points,) = outlines(plane, (2.0, 3.0))
    assert points.mean(axis=0)[:2] == pytest.approx([9.0, 4.5], abs=0.5)
    assert np.ptp(points, axis=0) == pytest.approx([2.0, 3.0])


def test_pixel_size_and_spread(head: Head) -> None:
    volume = oriented(head(spacing=(1.0, 2.0, 4.0))[0])
    assert pixel_size(volume, 0) == pytest.approx((2.0, 4.0))
    assert pixel_size(volume, 2) == pytest.approx((1.0, 2.0))
    assert spread(0, 8, 3) == [2, 4, 6]
    assert spread(4, 4, 7) == [4]


def test_numbers_do_not_cover_each_other() -> None:
    spots = [
        Spot(str(n), 50 + 5 * (n % 4), 50 + 5 * (n // 4), 52 + 5 * (n % 4), 52 + 5 * (n // 4))
        for n in range(8)
    ]
    size = 3.0
    boxes = [(x, y - size, x + 2, y) for x, y in place_labels(spots, size, 120, 120)]
    overlaps = sum(
        one[0] < two[2] and two[0] < one[2] and one[1] < two[3] - 1 and two[1] < one[3] - 1
        for place, one in enumerate(boxes)
        for two in boxes[:place]
    )
    assert overlaps <= 1


@pytest.mark.parametrize('corner', [(0, 0, 1, 1), (99, 99, 100, 100)])
def test_numbers_stay_inside_the_image(corner: tuple[float, ...]) -> None:
    ((x, y),) = place_labels([Spot('12', *corner)], 5.0, 100, 100)
    assert 0 <= x <= 94
    assert 5 * 0.85 <= y <= 100
