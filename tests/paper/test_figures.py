"""Figures 1 to 4 of the paper in kind: what is where, in which colour."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import nibabel as nb
import numpy as np
import pytest
from PIL import Image

from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import DataError
from mslesseg_app.paper.figures import (
    FALSE_NEGATIVE_COLOUR,
    FALSE_POSITIVE_COLOUR,
    TRUE_COLOUR,
    boxed_modalities,
    brain_and_lesions,
    mean_errors,
    models_side_by_side,
)
from mslesseg_app.reports.rendering import VIEWS, Viewpoint, make_scene, render
from mslesseg_app.reports.svg import SVG

SHAPE = (48, 60, 44)
AFFINE = np.array([[-3.0, 0, 0, 70], [0, 3.0, 0, -85], [0, 0, 3.0, -60], [0, 0, 0, 1]])


def head() -> tuple[nb.Nifti1Image, np.ndarray]:
    grid = np.stack(np.indices(SHAPE), axis=-1)
    middle = (np.array(SHAPE) - 1) / 2
    inside = (((grid - middle) / (middle - 4)) ** 2).sum(axis=-1) < 1
    data = np.where(inside, 100.0 + grid[..., 2], 0.0).astype(np.float32)
    return nb.Nifti1Image(data, AFFINE), inside


def image(mask: np.ndarray) -> nb.Nifti1Image:
    return nb.Nifti1Image(mask.astype(np.uint8), AFFINE)


def box(*edges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*edge) for edge in edges)] = True
    return mask


def panels(path: Path) -> list[ET.Element]:
    root = ET.fromstring(path.read_text(encoding='utf-8'))
    return [part for part in root if part.get('class') == 'msl-panel']


def colours(panel: ET.Element) -> set[str]:
    return {p.get('fill', '') for p in panel.findall(f'{{{SVG}}}path')} - {'none'}


def test_each_region_has_a_box_on_every_modality(tmp_path: Path) -> None:
    flair, _ = head()
    lesions = box((12, 15), (20, 24), (20, 23)) | box((33, 36), (40, 43), (20, 22))
    figure = boxed_modalities(
        {'FLAIR': flair, 'T1w': flair, 'T2w': flair}, image(lesions), tmp_path / 'f.svg'
    )
    drawn = panels(tmp_path / 'f.svg')
    boxes = [p.findall(f'{{{SVG}}}rect')[1:] for p in drawn]
    assert [len(found) for found in boxes] == [2, 2, 2]
    first = {key: float(boxes[0][0].get(key, '')) for key in ('width', 'height')}
    assert first['width'] == pytest.approx(9 + 6)
    assert first['height'] == pytest.approx((12 if first['height'] > 16 else 9) + 6)
    assert 'z = ' in figure.caption


def test_errors_have_their_colours(tmp_path: Path) -> None:
    flair, _ = head()
    truth = box((12, 20), (20, 28), (20, 24))
    wide = box((12, 23), (20, 28), (20, 24))
    short = box((12, 17), (20, 28), (20, 24))
    _, rows = mean_errors(flair, image(truth), {'wide': image(wide)}, tmp_path / 'w.svg')
    assert colours(panels(tmp_path / 'w.svg')[-1]) == {TRUE_COLOUR, FALSE_POSITIVE_COLOUR}
    assert (rows[0]['false_positive_voxels'], rows[0]['false_negative_voxels']) == (96, 0)
    mean_errors(flair, image(truth), {'short': image(short)}, tmp_path / 's.svg')
    assert colours(panels(tmp_path / 's.svg')[-1]) == {TRUE_COLOUR, FALSE_NEGATIVE_COLOUR}


def test_the_best_five_have_a_panel_of_their_own(tmp_path: Path) -> None:
    flair, _ = head()
    truth = box((12, 20), (20, 28), (20, 24))
    masks = {f'm{k}': image(truth if k < 5 else np.zeros(SHAPE, bool)) for k in range(7)}
    _, rows = mean_errors(flair, image(truth), masks, tmp_path / 'f.svg')
    assert [row['mask'] for row in rows] == ['mean of all 7 models', 'mean of the best 5']
    assert rows[1]['DSC'] == 1
    assert len(panels(tmp_path / 'f.svg')) == 4


def test_models_stand_side_by_side(tmp_path: Path) -> None:
    flair, _ = head()
    truth = box((12, 20), (20, 28), (20, 24))
    _, rows = models_side_by_side(
        flair, image(truth), {'a': image(truth), 'b': image(~truth)}, tmp_path / 'f.svg'
    )
    labels = [p.findtext(f'{{{SVG}}}text') for p in panels(tmp_path / 'f.svg')]
    assert labels == ['FLAIR', 'reference', 'a, DSC 1.00', 'b, DSC 0.00']
    assert [row['DSC'] for row in rows] == [1, 1, 0]


def test_other_grids_are_refused(tmp_path: Path) -> None:
    flair, _ = head()
    other = nb.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4))
    with pytest.raises(DataError, match='not on the grid'):
        boxed_modalities({'FLAIR': flair}, other, tmp_path / 'f.svg')


# ----------------------------------------------------------------------------- rendering


def scene(lesion: np.ndarray | None = None) -> Any:
    flair, inside = head()
    data = np.asarray(flair.dataobj)[::-1]  # to RAS
    return make_scene(data, inside[::-1], box() if lesion is None else lesion)


def orange(rgb: np.ndarray) -> np.ndarray:
    red, _, blue = (rgb[..., k].astype(int) for k in range(3))
    return np.argwhere(red - blue > 90)


def test_a_ball_is_seen_as_a_disc_of_its_size() -> None:
    rgb, _ = render(scene(), Viewpoint(0, 0))
    seen = (rgb < 250).any(axis=2)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert np.ptp(rows) + 1 == pytest.approx(2 * (21.5 - 4), abs=3)
    assert np.ptp(columns) + 1 == pytest.approx(2 * (23.5 - 4), abs=3)


def test_sides_of_the_rendering() -> None:
    """From the front, the patient's left is on the right; from above as from the front."""
    left_up = np.zeros(SHAPE, bool)
    left_up[8:12, 28:32, 28:32] = True  # RAS order: x below the middle is the patient's left
    _, rgb = render(scene(left_up), Viewpoint(0, 0))
    row, column = orange(rgb).mean(axis=0)
    assert column > rgb.shape[1] / 2 + 5
    assert row < rgb.shape[0] / 2 - 3
    front = np.zeros(SHAPE, bool)
    front[20:24, 48:52, 20:24] = True
    _, rgb = render(scene(front), Viewpoint(90, 0))  # the eye is at the patient's left
    assert orange(rgb).mean(axis=0)[1] < rgb.shape[1] / 2 - 10
    _, rgb = render(scene(front), Viewpoint(-90, 0))
    assert orange(rgb).mean(axis=0)[1] > rgb.shape[1] / 2 + 10


@pytest.mark.parametrize('name', list(VIEWS))
def test_cuts_show_the_lesion_that_they_go_through(name: str) -> None:
    middle = np.zeros(SHAPE, bool)
    middle[20:28, 26:34, 18:26] = True
    brain, _ = render(scene(middle), VIEWS[name])
    assert bool(len(orange(brain))) == (VIEWS[name].cut is not None)


def test_the_kept_half_is_the_one_that_is_seen() -> None:
    whole = (render(scene(), Viewpoint(90, 0))[0] < 250).any(axis=2).sum()
    kept = (render(scene(), Viewpoint(90, 0, (2, True)))[0] < 250).any(axis=2).sum()
    assert kept == pytest.approx(whole / 2, rel=0.1)


def test_eight_renderings(tmp_path: Path) -> None:
    flair, inside = head()
    brain_and_lesions(flair, image(inside), image(box()), tmp_path / 'f.svg', 'a')
    drawn = panels(tmp_path / 'f.svg')
    assert len(drawn) == 8
    uri = drawn[0].find(f'{{{SVG}}}image').get('href', '')  # type: ignore[union-attr]
    with Image.open(io.BytesIO(base64.b64decode(uri.split(',')[1]))) as picture:
        assert picture.mode == 'RGB'
        assert picture.size[0] == picture.size[1]
    with pytest.raises(DataError, match='empty'):
        brain_and_lesions(flair, image(box((0, 0))), image(box((0, 0))), tmp_path / 'g.svg', 'a')


# ------------------------------------------------------------------------- command line


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flair, inside = head()
    folder = tmp_path / 'out' / 'sub-01' / 'ses-1' / 'anat'
    folder.mkdir(parents=True)
    mni = 'sub-01_ses-1_space-MNI152NLin6Asym_res-1'
    truth = box((12, 20), (20, 28), (20, 24))
    nb.save(flair, folder / f'{mni}_desc-preproc_FLAIR.nii.gz')
    nb.save(flair, folder / 'sub-01_ses-1_desc-preproc_FLAIR.nii.gz')
    nb.save(image(inside), folder / f'{mni}_desc-brain_mask.nii.gz')
    nb.save(image(truth), folder / f'{mni}_label-lesion_desc-unet_mask.nii.gz')
    name = 'sub-01_ses-1_space-orig_label-lesion_desc-unet_mask.nii.gz'
    nb.save(image(truth), folder / name)
    nb.save(image(truth), tmp_path / 'reference.nii.gz')
    arguments = ['report', 'figures', '--out', str(tmp_path / 'out'), '--exam', 'sub-01_ses-1']
    arguments += ['--output', str(tmp_path / 'o')]
    assert main([*arguments, '--reference', str(tmp_path / 'reference.nii.gz')]) == 0
    names = {path.name for path in (tmp_path / 'o').glob('*.svg')}
    assert names == {f'figure-{number}.svg' for number in (1, 2, 3, 4)}
    assert (tmp_path / 'o' / 'figure-3.tsv').is_file()
    capsys.readouterr()
    assert main(arguments) == 66
    assert 'Figure 3 was not made' in capsys.readouterr().err
    assert main([*arguments, '--which', '1', '--model', 'nobody']) == 66
    assert main([*arguments, '--which', '5']) == 64
