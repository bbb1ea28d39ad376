"""Images of one session that do not lie on each other are noticed."""

from __future__ import annotations

import nibabel as nb
import numpy as np
import pytest

from mslesseg_app.spatial.between import disagreement
from mslesseg_app.spatial.exam_alignment import search_region
from mslesseg_app.spatial.quality import AlignmentCheck, beside_flair
from mslesseg_app.spatial.registered import peak
from mslesseg_app.spatial.template import load_template


@pytest.mark.parametrize(
    ('apart', 'given', 'before', 'after'),
    [
        (0.4, False, 'pass', 'pass'),
        (1.4, False, 'check', 'check'),
        (2.0, False, 'pass', 'check'),
        (4.4, False, 'check', 'check'),
        (9.0, False, 'pass', 'fail'),
        (9.0, True, 'pass', 'check'),
        (2.0, False, 'fail', 'fail'),
    ],
)
def test_distance_beside_the_flair_lowers_the_status(apart, given, before, after):
    judged = beside_flair(AlignmentCheck(before, 'why', {'z': 20.0}), apart, given)
    assert judged.status == after
    assert judged.numbers == {'z': 20.0, 'beside_flair_mm': apart}
    assert (f'{apart:.1f} mm beside the FLAIR' in judged.reason) == (
        before != 'fail' and apart > 1.5
    )


def test_a_planted_shift_is_measured():
    """Two contrasts of one brain; one alignment is claimed 3 mm beside where it should be."""
    brain = load_template().brain
    data = np.asarray(brain.dataobj)[::2, ::2, ::2]
    affine = brain.affine @ np.diag([2.0, 2, 2, 1])
    flair = nb.Nifti1Image(data, affine)
    t1w = nb.Nifti1Image(np.where(data > 0, data.max() * 1.1 - data, 0), affine)
    shifted = np.eye(4)
    shifted[1, 3] = 3
    region = search_region()
    assert disagreement(t1w, flair, np.eye(4), np.eye(4), region) < 0.5
    assert disagreement(t1w, flair, shifted, np.eye(4), region) == pytest.approx(3, abs=0.5)


def test_only_a_brain_in_its_place_is_at_the_peak():
    brain = load_template().brain
    data = np.asarray(brain.dataobj)
    assert peak(brain) > 0.05
    for shift in ((12, 0, 0), (0, -15, 0), (0, 0, 20), (10, 10, -10)):
        moved = nb.Nifti1Image(np.roll(data, shift, (0, 1, 2)), brain.affine)
        assert peak(moved) < 0
