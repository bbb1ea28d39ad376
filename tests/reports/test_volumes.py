"""Images packed for a page: what comes out again, read by other means."""

from __future__ import annotations

import base64
import zlib

import nibabel as nb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mslesseg_app.reports.slices import OrientedVolume
from mslesseg_app.reports.volumes import Packed, pack_image, pack_labels, pack_map, pooled

PLENTY = 10**9


def unpack(packed: Packed) -> nb.Nifti1Image:
    """Read a packed image as the script of the page does, but with nibabel."""
    head = nb.Nifti1Header(base64.b64decode(packed.header)[:348])
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed.data)), np.uint8)
    if packed.delta:
        raw = np.cumsum(raw, dtype=np.uint8)
    data = raw.view(head.get_data_dtype()).reshape(head.get_data_shape(), order='F')
    return nb.Nifti1Image(data, head.get_sform(), head)


def volume(
    data: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 3.0)
) -> OrientedVolume:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -10, 20, 5
    return OrientedVolume(data, affine, np.array(spacing))


@pytest.fixture
def grey() -> OrientedVolume:
    rng = np.random.default_rng(1)
    return volume(rng.gamma(2, 50, (30, 40, 12)).astype(np.float32))


def test_an_image_comes_back_within_half_a_level(grey: OrientedVolume) -> None:
    inside = np.ones(grey.data.shape, bool)
    packed = pack_image(grey, inside, inside, PLENTY)
    assert packed is not None
    back = unpack(packed)
    low, high = np.percentile(grey.data, [0.5, 99.95])
    wanted = 1 + np.clip((grey.data - low) / (high - low), 0, 1) * (packed.levels - 2)
    assert np.abs(np.asarray(back.dataobj) - wanted).max() <= 0.51
    assert np.allclose(back.affine, grey.affine)


def test_the_window_is_that_of_the_brain_and_more_is_kept(grey: OrientedVolume) -> None:
    inside = np.ones(grey.data.shape, bool)
    brain = np.zeros(grey.data.shape, bool)
    brain[8:22, 10:30, 2:9] = True
    grey.data[~brain] *= 3
    packed = pack_image(grey, inside, brain, PLENTY)
    assert packed is not None
    shades = np.asarray(unpack(packed).dataobj)
    low, high = np.percentile(grey.data[brain], [1.0, 99.5])
    assert np.abs(shades[np.abs(grey.data - low) < 0.5] - packed.low).max() <= 1
    assert np.abs(shades[np.abs(grey.data - high) < 5] - packed.high).max() <= 2
    assert (shades > packed.high + 5).any(), 'brighter voxels can still be told apart'


def test_outside_is_nothing_and_inside_is_something(grey: OrientedVolume) -> None:
    inside = np.zeros(grey.data.shape, bool)
    inside[5:20, 10:30, 2:9] = True
    packed = pack_image(grey, inside, inside, PLENTY)
    assert packed is not None
    assert np.array_equal(np.asarray(unpack(packed).dataobj) > 0, inside)


def test_less_room_gives_fewer_levels_then_larger_voxels_then_nothing(
    grey: OrientedVolume,
) -> None:
    inside = np.ones(grey.data.shape, bool)
    full = pack_image(grey, inside, inside, PLENTY)
    assert full is not None
    fewer = pack_image(grey, inside, inside, full.size - 1)
    assert fewer is not None
    assert fewer.levels < full.levels
    larger = pack_image(grey, inside, inside, fewer.size // 2)
    assert larger is not None
    assert larger.size <= fewer.size // 2
    assert unpack(larger).shape == (15, 20, 12)
    assert pack_image(grey, inside, inside, 10) is None


@given(
    shape=st.tuples(st.integers(4, 30), st.integers(4, 30), st.integers(2, 12)),
    slope=st.tuples(*[st.floats(-3, 3)] * 3),
    factor=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_pooling_leaves_things_where_they_are(
    shape: tuple[int, int, int], slope: tuple[float, float, float], factor: int
) -> None:
    box = volume(np.zeros(shape))

    def ramp(size: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
        grid = np.stack(np.indices(size), axis=-1)
        return nb.affines.apply_affine(affine, grid) @ np.array(slope)

    small, affine = pooled(ramp(shape, box.affine), box, factor)
    whole = tuple(size // factor for size in shape[:2])  # blocks that lie within the image
    wanted = ramp(small.shape, affine)
    assert np.allclose(small[: whole[0], : whole[1]], wanted[: whole[0], : whole[1]], atol=1e-6)
    assert small.shape[2] == shape[2]  # thick slices are not averaged


@pytest.mark.parametrize('count', [3, 255, 300])
def test_labels_come_back_unchanged(count: int) -> None:
    data = np.random.default_rng(2).integers(0, count + 1, (9, 8, 7)).astype(np.int32)
    data[0, 0, 0] = count
    back = unpack(pack_labels(volume(data)))
    assert np.array_equal(np.asarray(back.dataobj), data)
    assert back.header['intent_code'] == 1002


def test_a_map_keeps_its_values() -> None:
    data = np.linspace(0, 0.5, 6 * 7 * 8).reshape(6, 7, 8)
    packed = pack_map(volume(data), np.ones(data.shape, bool), PLENTY, top=0.5)
    assert packed is not None
    head = nb.Nifti1Header(base64.b64decode(packed.header)[:348])
    slope = float(head['scl_slope'])
    assert np.abs(np.asarray(unpack(packed).dataobj).astype(float) * slope - data).max() < 0.0041


def test_same_image_same_text(grey: OrientedVolume) -> None:
    inside = np.ones(grey.data.shape, bool)
    assert pack_image(grey, inside, inside, PLENTY) == pack_image(grey, inside, inside, PLENTY)
