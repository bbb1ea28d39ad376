"""Noise, contrast and ghosts of images whose numbers are known."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.spatial.signal import contrast_to_noise, ghosting

SHAPE = (80, 96, 12)
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def head(noise: float, ghost: float = 0.0, axis: int = 1) -> tuple[nb.Nifti1Image, ...]:
    """Tissue of 100 with fluid of 20, noise of known size, and a ghost half a field away."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.indices(SHAPE), -1) - (np.array(SHAPE) - 1) / 2
    radius = np.sqrt(((grid[..., :2] / [20, 24]) ** 2).sum(-1))
    data = np.where(radius < 1, 100.0, 0.0)
    data[radius < 0.25] = 20.0
    data += ghost * np.roll(data, SHAPE[axis] // 2, axis=axis)
    # the air holds the size of complex noise, as a scanner gives it
    data = np.abs(data + rng.normal(0, noise, SHAPE) + 1j * rng.normal(0, noise, SHAPE))
    brain = (radius < 1).astype(np.uint8)
    return nb.Nifti1Image(data.astype(np.float32), AFFINE), nb.Nifti1Image(brain, AFFINE)


@pytest.mark.parametrize('noise', [2.0, 5.0, 12.0])
def test_contrast_over_the_noise_that_was_added(noise: float) -> None:
    flair, brain = head(noise)
    values = flair.get_fdata()[brain.get_fdata() > 0]
    contrast = np.median(values) - np.percentile(values, 1)
    assert contrast_to_noise(flair, brain) == pytest.approx(contrast / noise, rel=0.1)


def test_contrast_knows_no_orientation_and_no_scale() -> None:
    flair, brain = head(4.0)
    turned = [
        image.as_reoriented(nb.orientations.axcodes2ornt(('P', 'S', 'L')))
        for image in (flair, brain)
    ]
    bright = nb.Nifti1Image(7 * flair.get_fdata(), flair.affine)
    wanted = contrast_to_noise(flair, brain)
    assert contrast_to_noise(*turned) == pytest.approx(wanted, rel=1e-5)
    assert contrast_to_noise(bright, brain) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize('axis', [0, 1])
def test_a_ghost_is_seen_along_either_axis(axis: int) -> None:
    clean, moved = ghosting(*head(2.0)), ghosting(*head(2.0, 0.1, axis))
    assert clean is not None
    assert moved is not None
    assert clean < 0.003
    assert moved > 0.03


def test_what_cannot_be_measured_is_not() -> None:
    flair, brain = head(2.0)
    nothing = nb.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    assert contrast_to_noise(flair, nothing) is None
    assert ghosting(flair, nothing) is None
    data = np.where(brain.get_fdata() > 0, flair.get_fdata(), 0)
    assert ghosting(nb.Nifti1Image(data, AFFINE), brain) is None
    flat = nb.Nifti1Image(brain.get_fdata(), AFFINE)
    assert contrast_to_noise(flat, brain) is None
