"""The regions of the McDonald criteria and the rule that puts a lesion into one of them.

The rule, in this order (all distances in the subject's own millimetres):

1. infratentorial: at least half of the lesion lies in brain stem or cerebellum;
2. periventricular: it touches a lateral ventricle;
3. juxtacortical: it touches, or lies in, the cortex of the cerebrum;
4. deep white matter: all others, those of the deep nuclei included.

"Touches" allows for `PERIVENTRICULAR_MM` and `JUXTACORTICAL_MM` between the outlines, which is
what alignment and drawing leave uncertain. A lesion that touches both is periventricular. The
definitions are those of Thompson et al., Lancet Neurology 2018 (McDonald 2017) and Filippi et
al., Brain 2019; the tolerances are ours (docs/lesions.md says how they were chosen).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Region:
    """One region of the region image.

    Attributes
    ----------
    index : int
        Its number in the image.
    abbreviation : str
        Short name.
    colour : tuple of int
        Red, green, blue, 0 to 255; told apart by the colour-blind (Okabe and Ito).
    rule : str
        Which lesions are in it.
    """

    index: int
    abbreviation: str
    colour: tuple[int, int, int]
    rule: str


PERIVENTRICULAR_MM = 3.0
JUXTACORTICAL_MM = 0.5
INFRATENTORIAL_SHARE = 0.5

REGIONS = {
    'periventricular': Region(
        1, 'PV', (0, 114, 178), f'at most {PERIVENTRICULAR_MM:g} mm from a lateral ventricle'
    ),
    'juxtacortical': Region(
        2,
        'JC',
        (0, 158, 115),
        f'in the cortex of the cerebrum or at most {JUXTACORTICAL_MM:g} mm from it',
    ),
    'infratentorial': Region(
        3, 'IT', (213, 94, 0), 'at least half of it in brain stem or cerebellum'
    ),
    'deep_white_matter': Region(
        4, 'DWM', (240, 228, 66), 'all others, those of the deep nuclei included'
    ),
}


def region_of(to_ventricle: float, to_cortex: float, infratentorial: float) -> str:
    """Return the region by the rule of this module.

    Parameters
    ----------
    to_ventricle, to_cortex : float
        Smallest distances of the outlines in mm; NaN where there is nothing to measure to.
    infratentorial : float
        Share of the lesion in brain stem and cerebellum.

    Examples
    --------
    >>> region_of(0.0, 0.0, 0.1)
    'periventricular'
    """
    if infratentorial >= INFRATENTORIAL_SHARE:
        return 'infratentorial'
    if to_ventricle <= PERIVENTRICULAR_MM:
        return 'periventricular'
    if to_cortex <= JUXTACORTICAL_MM:
        return 'juxtacortical'
    return 'deep_white_matter'


def region_rule() -> dict[str, float]:
    """Return the numbers of the rule, for sidecars."""
    return {
        'PeriventricularTolerance_mm': PERIVENTRICULAR_MM,
        'JuxtacorticalTolerance_mm': JUXTACORTICAL_MM,
        'InfratentorialShare': INFRATENTORIAL_SHARE,
    }
