"""Guards against misalignment and other contrast or resolution."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.lesions.agreement import check_agreement, edge_distance

SHAPE = (60, 60, 60)
STILL = np.eye(4)


def ball(centre, radius) -> np.ndarray:
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing='ij'), axis=-1)
    return np.linalg.norm(places - np.array(centre), axis=-1) <= radius


def image(data, affine=None) -> nb.Nifti1Image:
    return nb.Nifti1Image(data.astype(np.float32), np.eye(4) if affine is None else affine)


def shift(x: float) -> np.ndarray:
    move = np.eye(4)
    move[0, 3] = x
    return move


def test_edges_that_agree_and_edges_that_do_not():
    one, two = image(ball((30, 30, 30), 20)), image(ball((30, 30, 30), 22))
    assert edge_distance(one, one, STILL) == 0
    assert edge_distance(one, two, STILL) == pytest.approx(2, abs=0.3)
    # a sphere moved by d lies d / 2 from itself on average over its surface
    assert edge_distance(one, one, shift(4)) == pytest.approx(2, abs=0.4)
    moved = nb.Nifti1Image(one.dataobj, shift(7.0) @ one.affine)
    assert edge_distance(one, moved, shift(7.0)) == pytest.approx(0, abs=1e-6)


def test_a_scan_that_covers_less_is_not_misaligned():
    mask = ball((30, 30, 30), 20)
    whole = image(mask)
    part = nb.Nifti1Image(mask[:, :, :35].astype(np.float32), np.eye(4))
    assert edge_distance(whole, part, STILL) < 0.5


def test_masks_without_a_voxel_cannot_be_compared():
    assert np.isnan(edge_distance(image(np.zeros(SHAPE)), image(np.zeros(SHAPE)), STILL))
    assert check_agreement(np.nan, 0.9).status == 'fail'
    assert check_agreement(0.5, np.nan).status == 'fail'


@pytest.mark.parametrize(
    ('edge', 'correlation', 'status', 'words'),
    [
        (0.5, 0.9, 'pass', ''),
        (2.0, 0.9, 'check', '2.0 mm apart'),
        (5.0, 0.9, 'fail', '5.0 mm apart'),
        (0.5, 0.5, 'check', 'correlation 0.50'),
        (5.0, 0.5, 'fail', 'mm apart; the FLAIRs differ'),
        (0.5, 0.1, 'fail', 'correlation 0.10'),
    ],
)
def test_statuses(edge, correlation, status, words):
    found = check_agreement(edge, correlation)
    assert found.status == status
    assert words in found.reason


def test_another_resolution_is_marked():
    assert check_agreement(0.5, 0.9, 1.0).status == 'pass'
    assert check_agreement(0.5, 0.9, 1.7, voxel_mm=3.0).status == 'pass', 'less than a voxel'
    found = check_agreement(0.5, 0.9, 1.7)
    assert (found.status, 'resolution' in found.reason) == ('check', True)
