"""Positions of slices that fill one regular grid, and those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from mslesseg_app.core.errors import DataError
from mslesseg_app.dicom.geometry import fault_of, order_slices

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TURN = 0.3
OBLIQUE = (1.0, 0.0, 0.0, 0.0, float(np.cos(TURN)), float(np.sin(TURN)))


def stack(count: int = 12, step: float = 3.0, cosines: tuple[float, ...] = AXIAL) -> np.ndarray:
    normal = np.cross(cosines[:3], cosines[3:])
    return np.array([-100.0, -80.0, 40.0]) + step * np.arange(count)[:, None] * normal


@pytest.mark.parametrize('cosines', [AXIAL, OBLIQUE])
def test_slices_are_put_in_order_by_their_positions(cosines: tuple[float, ...]) -> None:
    places = stack(cosines=cosines)
    mixed = np.random.default_rng(0).permutation(len(places))
    order, step = order_slices(places[mixed], cosines)
    np.testing.assert_array_equal(mixed[order], np.arange(len(places)))
    np.testing.assert_allclose(step, 3.0 * np.cross(cosines[:3], cosines[3:]))


def test_positions_may_be_rounded_as_scanners_do() -> None:
    assert fault_of(np.round(stack(160, 0.937, OBLIQUE), 1).tolist(), OBLIQUE, 160) == ''


def moved(index: int, *shift: float) -> np.ndarray:
    places = stack()
    places[index] += shift
    return places


TWICE = np.insert(stack(), 5, stack()[5], axis=0)
FAULTS = {
    'gap': (np.delete(stack(), 5, axis=0), AXIAL, '1 slice is missing between the others'),
    'gaps': (np.delete(stack(), [2, 5, 6], axis=0), AXIAL, '3 slices are missing'),
    'uneven': (moved(4, 0, 0, 1.2), AXIAL, r'unevenly spaced \(1.80 to 4.20 mm apart\)'),
    'slightly uneven': (moved(4, 0, 0, 0.3), AXIAL, 'unevenly spaced'),
    'widening': (stack() * [1, 1, 1] + np.c_[np.zeros((12, 2)), np.arange(12) ** 2 * 0.05], AXIAL,
                 'unevenly spaced'),
    'twice': (TWICE, AXIAL, r'several images are at one position \(1 image too many\)'),
    'all twice': (np.repeat(stack(), 2, axis=0), AXIAL, '12 images too many'),
    'beside': (moved(4, 2.0, 0, 0), AXIAL, 'do not lie along one straight line'),
    'no orientation': (stack(), (), 'no Image Orientation'),
    'no directions': (stack(), (1, 0, 0, 1, 0, 0), 'not two perpendicular directions'),
    'scaled directions': (stack(), (2, 0, 0, 0, 1, 0), 'not two perpendicular directions'),
    'single': (stack(1), AXIAL, 'single slice'),
}  # fmt: skip


@pytest.mark.parametrize('kind', FAULTS)
def test_each_kind_of_irregular_series_has_its_reason(kind: str) -> None:
    places, cosines, message = FAULTS[kind]
    with pytest.raises(DataError, match=message):
        order_slices(places, cosines)
    assert fault_of(places.tolist(), cosines, len(places))


def test_images_without_a_position_are_counted() -> None:
    assert fault_of(stack(10).tolist(), AXIAL, 12) == (
        '2 of its 12 images have no Image Position (Patient)'
    )


def test_echoes_share_positions() -> None:
    twice = np.repeat(stack(), 2, axis=0)
    assert fault_of(twice.tolist(), AXIAL, 24, times=2) == ''
    assert 'not every slice has all of its 2 echoes' in fault_of(
        twice[:-1].tolist(), AXIAL, 23, times=2
    )
