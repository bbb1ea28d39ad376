"""Named rule sets: what counts as a lesion, when two meet, and how numbers are defined.

A rule set governs evaluation only; the masks that the App writes follow its own settings
``--connectivity`` and ``--min-lesion-volume``.

``mslesseg``
    Equations 1 to 5 of the MSLesSeg paper (Guarnera et al., Scientific Data 2025):
    6-connected lesions of any size, one shared voxel is enough.
``isbi2015``
    The longitudinal challenge of 2015 (Carass et al., NeuroImage 148:77, 2017): 18-connected
    lesions, one shared voxel is enough, and the challenge's weighted score.
``msseg2016``
    The MICCAI challenge of 2016 (Commowick et al., Scientific Reports 8:13650, 2018): lesions
    (6-connected) of more than 3 mm³, matched in both directions by the share of overlap, as
    Anima's ``animaSegPerfAnalyzer`` does.
``mslesseg-official``
    The code that was published with the MSLesSeg paper, faults included, to compare with the
    paper's tables at all. Never use it to judge a method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mslesseg_app.core.errors import UsageError

#: Lesions are small below the first and large from the second volume on, in mm³. 10 and 50 are
#: the field's usual bounds, there in voxels (Nair et al., Medical Image Analysis 59:101557,
#: 2020, and others); on the 1 mm grid of MSLesSeg voxels and mm³ are the same.
SIZE_BOUNDS_MM3 = (10.0, 50.0)
STRATA = ('small', 'medium', 'large')


@dataclass(frozen=True)
class OverlapRule:
    """When a lesion counts as found by the lesions of the other mask (Anima's rule).

    Attributes
    ----------
    min_overlap : float
        Alpha: a larger share of the lesion's voxels has to lie in the other's lesions.
    max_outside : float
        Beta: a lesion of the other mask with a larger share outside spoils the match.
    enough : float
        Gamma: the other's lesions are examined from the largest overlap downwards until they
        hold this share of the overlap.
    """

    min_overlap: float = 0.10
    max_outside: float = 0.70
    enough: float = 0.65


@dataclass(frozen=True)
class Rules:
    """A rule set.

    Attributes
    ----------
    name : str
    title : str
        Source, for tables and reports.
    connectivity : {6, 18, 26}
        Neighbours that make voxels one lesion.
    min_volume_mm3 : float
        A lesion has to be larger than this (not equal); smaller ones are left out of all
        numbers about lesions, never out of those about voxels, surfaces and volumes.
    overlap : OverlapRule or None
        None: one shared voxel is enough.
    lfpr_epsilon : float
        Added to the denominator of LFPR.
    surface : {'border', 'object'}
        The voxels that distances are measured between: those with a face towards the outside,
        or, by a fault of the published code, all voxels of the object.
    uses_spacing : bool
        False: distances are in voxels, taken for millimetres.
    assd : {'pooled', 'directed'}
        Mean of all distances (equation 5), or mean of the two directed means.
    hd95 : {'larger', 'pooled'}
        The larger of the two directed 95th percentiles, or the percentile of all distances.
    empty : {'defined', 'published'}
        What empty masks give: what this project defines, or what the published code gives.
    isbi_score : bool
        Whether the terms of the ISBI score are added.
    nsd_tolerance_mm : float
        Tolerance of the normalised surface Dice.
    """

    name: str
    title: str
    connectivity: int = 6
    min_volume_mm3: float = 0.0
    overlap: OverlapRule | None = None
    lfpr_epsilon: float = 0.0
    surface: Literal['border', 'object'] = 'border'
    uses_spacing: bool = True
    assd: Literal['pooled', 'directed'] = 'pooled'
    hd95: Literal['larger', 'pooled'] = 'larger'
    empty: Literal['defined', 'published'] = 'defined'
    isbi_score: bool = False
    nsd_tolerance_mm: float = 1.0

    def smallest_size(self, voxel_volume_mm3: float) -> int:
        """Return the number of voxels of the smallest lesion that counts.

        A relative tolerance of 1e-6 absorbs voxel sizes that were stored as float32.
        """
        return math.floor(self.min_volume_mm3 / voxel_volume_mm3 * (1 + 1e-6)) + 1


RULES: dict[str, Rules] = {
    rules.name: rules
    for rules in (
        Rules('mslesseg', 'MSLesSeg paper (Scientific Data 2025), equations 1 to 5'),
        Rules(
            'isbi2015',
            'ISBI 2015 longitudinal challenge (NeuroImage 2017)',
            connectivity=18,
            isbi_score=True,
        ),
        Rules(
            'msseg2016',
            'MSSEG 2016 challenge (Scientific Reports 2018), as Anima has it',
            min_volume_mm3=3.0,
            overlap=OverlapRule(),
        ),
        Rules(
            'mslesseg-official',
            'code published with the MSLesSeg paper, faults included',
            lfpr_epsilon=0.001,
            surface='object',
            uses_spacing=False,
            assd='directed',
            hd95='pooled',
            empty='published',
        ),
    )
}


def get_rules(name: str) -> Rules:
    """Return a rule set by its name.

    Raises
    ------
    UsageError
        For an unknown name.
    """
    try:
        return RULES[name]
    except KeyError:
        raise UsageError(
            f'There is no rule set {name!r}.', f'Choose one of {", ".join(RULES)}.'
        ) from None
