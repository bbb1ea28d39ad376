"""Dissemination in space by the McDonald criteria, as far as the brain tells.

Both editions ask for lesions in at least two of their regions. The edition of 2017 has four:
periventricular, cortical or juxtacortical, infratentorial, spinal cord (Thompson et al., Lancet
Neurology 2018); that of 2024 adds the optic nerve (Montalban et al., Lancet Neurology 2025). A
lesion counts from 3 mm of its longest extent on. A scan of the brain shows neither cord nor optic
nerve, so these are not assessed, and the criteria may be met although the brain alone does not
meet them. Whether a lesion is one of multiple sclerosis is for a physician to say.

Where one large lesion makes up nearly all of the load, as a tumour or an infarct would, it is
uncertain whether the criteria apply at all, and they are not assessed.
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
WITHOUT_RESULT = 'not assessed'
#: A lesion of more than this volume that makes up more than this share of the load dominates.
DOMINATING_ML, DOMINATING_SHARE = 15.0, 0.8


def dissemination(lesions: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Judge dissemination in space by both editions.

    Parameters
    ----------
    lesions : pandas.DataFrame
        With ``region``, ``max_diameter_mm`` and ``volume_mm3`` of each lesion.

    Returns
    -------
    dict
        For ``2017`` and ``2024``: ``Result``, ``RegionsSeen``, ``RegionsRequired``,
        ``RegionsOfCriteria`` (how many there are) and ``NotAssessed``; ``Note`` where one lesion
        dominates.
    """
    volumes = lesions['volume_mm3']
    note = dominating_note(float(volumes.max()) if len(volumes) else 0.0, float(volumes.sum()))
    counted = lesions.loc[lesions['max_diameter_mm'] >= SMALLEST_MM, 'region']
    seen = [name for name in BRAIN_REGIONS if (counted == name).any()]
    return {
        edition: {
            'Result': WITHOUT_RESULT if note else MET if len(seen) >= REQUIRED else NOT_MET,
            'RegionsSeen': seen,
            'RegionsRequired': REQUIRED,
            'RegionsOfCriteria': len(BRAIN_REGIONS) + len(unseen),
            'NotAssessed': list(unseen),
            **({'Note': note} if note else {}),
        }
        for edition, unseen in NOT_ASSESSED.items()
    }


def dominating_note(largest_mm3: float, total_mm3: float) -> str:
    """Say that one lesion dominates, or nothing.

    Parameters
    ----------
    largest_mm3, total_mm3 : float
        Volume of the largest lesion and of all.
    """
    share = largest_mm3 / total_mm3 if total_mm3 > 0 else 0.0
    if largest_mm3 <= 1000 * DOMINATING_ML or share <= DOMINATING_SHARE:
        return ''
    return (
        f'One lesion of {largest_mm3 / 1000:.1f} ml makes up {share:.0%} of the load: is it one '
        'of multiple sclerosis? The criteria of dissemination were not applied.'
    )
