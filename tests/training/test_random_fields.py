"""Fields and filters of the training, beside those of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi

from mslesseg_app.training.random_fields import (
    RandomStream,
    blur,
    positions,
    random_affine,
    rotation,
    sample,
    thick_slices,
    transform,
)


def test_blur_equals_scipy() -> None:
    volume = np.random.default_rng(0).random((15, 16, 17)).astype(np.float32)
    ours = blur(torch.from_numpy(volume[None]), 1.0)[0].numpy()
    theirs = ndi.gaussian_filter(volume, 1.0, mode='nearest', truncate=3.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_sample_equals_scipy() -> None:
    volume = np.random.default_rng(0).random((9, 11, 13)).astype(np.float32)
    affine = random_affine(RandomStream(3), 20, 0.1, 1)
    points = transform(positions(volume.shape, torch.device('cpu')), affine)
    ours = sample(torch.from_numpy(volume[None]), points)[0].numpy()
    centre = (np.array(volume.shape) - 1) / 2
    indices = points.numpy() + centre[:, None, None, None]
    theirs = ndi.map_coordinates(volume, indices, order=1, mode='constant')
    inside = np.all(
        [(i >= 0) & (i <= n - 1) for i, n in zip(indices, volume.shape, strict=True)], axis=0
    )
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-4)


def test_rotation_is_orthogonal() -> None:
    matrix = rotation((0.3, -0.2, 0.9))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('start', [0, 2])
def test_thick_slices_keep_a_ramp(axis: int, start: int) -> None:
    ramp = torch.arange(24.0).reshape([-1 if a == axis else 1 for a in range(3)])
    volume = ramp.expand(24, 24, 24)[None].contiguous()
    thick = thick_slices(volume, axis, 4, 0.0, start)
    assert thick.shape == volume.shape
    middle = (slice(None), *([slice(8, 16)] * 3))
    np.testing.assert_allclose(thick[middle], volume[middle], atol=1e-4)
