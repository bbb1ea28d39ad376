"""Dissemination in space."""

from __future__ import annotations

import pandas as pd
import pytest

from mslesseg_app.lesions.dissemination import MET, NOT_MET, WITHOUT_RESULT, dissemination


def lesions(*rows: tuple[str, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=['region', 'max_diameter_mm'])
    return table.assign(volume_mm3=100.0)


@pytest.mark.parametrize(
    ('rows', 'result', 'seen'),
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
def test_two_regions_are_needed_and_small_lesions_do_not_count(rows, result, seen):
    judged = dissemination(lesions(*rows))
    for edition in ('2017', '2024'):
        assert judged[edition]['Result'] == result
        assert judged[edition]['RegionsSeen'] == seen
        assert judged[edition]['RegionsRequired'] == 2


def test_what_no_scan_of_the_brain_shows_is_not_called_absent():
    judged = dissemination(lesions())
    assert judged['2017']['NotAssessed'] == ['spinal_cord']
    assert judged['2024']['NotAssessed'] == ['spinal_cord', 'optic_nerve']
    assert (judged['2017']['RegionsOfCriteria'], judged['2024']['RegionsOfCriteria']) == (4, 5)


@pytest.mark.parametrize(
    ('volumes_ml', 'judged'),
    [
        ((29.0, 0.5, 0.5), False),  # 97 % of the load, as a tumour looks
        ((29.0,), False),
        ((15.5, 3.8), False),  # 80.3 %
        ((15.5, 3.9), True),  # 79.9 %
        ((15.0, 0.1), True),  # not more than 15 ml
        ((12.0, 0.1), True),
        ((20.0, 20.0), True),  # a large load of two
    ],
)
def test_one_lesion_that_dominates_is_not_judged(volumes_ml, judged):
    regions = ['juxtacortical', 'periventricular', 'infratentorial'][: len(volumes_ml)]
    table = pd.DataFrame({
        'region': regions,
        'max_diameter_mm': 20.0,
        'volume_mm3': [1000 * volume for volume in volumes_ml],
    })  # fmt: skip
    for item in dissemination(table).values():
        assert (item['Result'] == WITHOUT_RESULT) is not judged
        assert ('Note' in item) is not judged
        if not judged:
            assert f'{volumes_ml[0]:.1f} ml' in item['Note']
