"""Dissemination in space."""

from __future__ import annotations

import pandas as pd
import pytest

from mslesseg_app.lesions.dissemination import MET, NOT_MET, dissemination


def lesions(*rows: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=['region', 'max_diameter_mm'])


@pytest.mark.parametrize(
    ('rows', 'verdict', 'seen'),
    [
        ([], NOT_MET, []),
        ([('periventricular', 9), ('periventricular', 8)], NOT_MET, ['periventricular']),
        ([('deep_white_matter', 9), ('juxtacortical', 8)], NOT_MET, ['juxtacortical']),
        (
            [('infratentorial', 3.0), ('periventricular', 9)],
            MET,
            ['periventricular', 'infratentorial'],
        ),
        ([('infratentorial', 2.9), ('periventricular', 9)], NOT_MET, ['periventricular']),
    ],
)
def test_two_regions_are_needed_and_small_lesions_do_not_count(rows, verdict, seen):
    judged = dissemination(lesions(*rows))
    for edition in ('2017', '2024'):
        assert judged[edition]['Verdict'] == verdict
        assert judged[edition]['RegionsSeen'] == seen
        assert judged[edition]['RegionsRequired'] == 2


def test_what_no_scan_of_the_brain_shows_is_not_called_absent():
    judged = dissemination(lesions())
    assert judged['2017']['NotAssessed'] == ['spinal_cord']
    assert judged['2024']['NotAssessed'] == ['spinal_cord', 'optic_nerve']
    assert (judged['2017']['RegionsOfCriteria'], judged['2024']['RegionsOfCriteria']) == (4, 5)
