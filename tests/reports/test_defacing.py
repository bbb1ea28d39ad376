"""The image of a defaced head shows both states and is its owner's only."""

from __future__ import annotations

import stat

import nibabel as nb
import numpy as np
import pytest
from PIL import Image

from mslesseg_app.reports import defacing
from mslesseg_app.reports.slices import oriented


def ball(shape=(40, 48, 44), spacing=(2.0, 2.0, 2.0)):
    x, y, z = np.ogrid[tuple(slice(0, n) for n in shape)]
    far = sum(
        ((axis - n / 2) * step) ** 2
        for axis, n, step in zip((x, y, z), shape, spacing, strict=True)
    )
    data = np.where(far < 32**2, 100, 0).astype('i2')
    return nb.Nifti1Image(data, np.diag([*spacing, 1]))


def without_front(image):
    data = np.asarray(image.dataobj).copy()
    data[:, 30:, :20] = 0
    return nb.Nifti1Image(data, image.affine, image.header)


def test_only_what_was_taken_away_differs():
    before = ball()
    drawn = defacing.draw(oriented(before), oriented(without_front(before)))
    half = (drawn.shape[0] - defacing._SPACE) // 2
    above, below = drawn[:half].astype(int), drawn[-half:].astype(int)
    top = round(20 * 2 * defacing._ZOOM)
    np.testing.assert_array_equal(above[: top - 12], below[: top - 12])
    assert (above[top + 12 :] != below[top + 12 :]).mean() > 0.05


def test_a_plane_that_faces_the_viewer_is_evenly_lit():
    data = np.zeros((30, 30, 30), 'i2')
    data[5:25, 5:20, 5:25] = 100
    volume = oriented(nb.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])))
    shade = defacing._surface(volume, 50)
    middle = shade[shade.shape[0] // 3 : -shade.shape[0] // 3, shade.shape[1] // 3 : -30]
    expected = 255 * 0.82 / np.linalg.norm([0.35, 0.45, 0.82])
    assert np.abs(middle - expected).max() <= 1
    assert (shade[:5] == 0).all()


@pytest.mark.parametrize('changes', [True, False])
def test_the_file_is_for_its_owner_and_only_made_where_something_went(
    tmp_path, monkeypatch, changes
):
    def fake(path, out):
        image = nb.load(path)
        (without_front(image) if changes else image).to_filename(out)
        return 'said'

    monkeypatch.setattr(defacing, 'deface_file', fake)
    ball().to_filename(tmp_path / 'a.nii')
    image = tmp_path / 'a.png'
    remark = defacing.deface_with_figure(tmp_path / 'a.nii', tmp_path / 'b.nii', image)
    assert remark == 'said'
    assert image.exists() == changes
    if changes:
        assert stat.S_IMODE(image.stat().st_mode) == 0o600
        assert Image.open(image).mode == 'L'
