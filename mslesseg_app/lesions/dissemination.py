"""Dissemination in space by the McDonald criteria, as far as the brain tells.

Both editions ask for lesions in at least two of their regions. The edition of 2017 has four:
periventricular, cortical or juxtacortical, infratentorial, spinal cord (Thompson et al., Lancet
Neurology 2018); that of 2024 adds the optic nerve (Montalban et al., Lancet Neurology 2025). A
lesion counts from 3 mm of its longest extent on. A scan of the brain shows neither cord nor optic
nerve, so these are not assessed, and the criteria may be met although the brain alone does not
meet them. Whether a lesion is one of multiple sclerosis is for a physician to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_MM = 3.0
BRAIN_REGIONS = ('periventricular', 'juxtacortical', 'infratentorial')
NOT_ASSESSED = {'2017': ('spinal_cord',), '2024': ('spinal_cord', 'optic_nerve')}
REQUIRED = 2
MET = 'met'
NOT_MET = 'not met by the brain alone'


def dissemination(lesions: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Judge dissemination in space by both editions.

    Parameters
    ----------
    lesions : pandas.DataFrame
        With ``region`` and ``max_diameter_mm`` of each lesion.

    Returns
    -------
    dict
        For ``2017`` and ``2024``: ``Verdict``, ``RegionsSeen``, ``RegionsRequired``,
        ``RegionsOfCriteria`` (how many there are) and ``NotAssessed``.
    """
    counted = lesions.loc[lesions['max_diameter_mm'] >= SMALLEST_MM, 'region']
    seen = [name for name in BRAIN_REGIONS if (counted == name).any()]
    return {
        edition: {
            'Verdict': MET if len(seen) >= REQUIRED else NOT_MET,
            'RegionsSeen': seen,
            'RegionsRequired': REQUIRED,
            'RegionsOfCriteria': len(BRAIN_REGIONS) + len(unseen),
            'NotAssessed': list(unseen),
        }
        for edition, unseen in NOT_ASSESSED.items()
    }
