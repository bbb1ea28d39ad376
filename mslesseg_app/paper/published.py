"""The values that the MSLesSeg paper prints in its tables, to stand beside ours.

Guarnera, Rondinella et al., Scientific Data 2025. Where paper and data set disagree, the notes of
the tables say so; nothing is corrected here.
"""

from __future__ import annotations

CITED = 'Guarnera et al., Scientific Data 2025'

#: Table 1: variable to value, for the two splits.
COHORT: dict[str, tuple[str, str]] = {
    'patients': ('53', '22'),
    'male': ('21', '6'),
    'female': ('32', '16'),
    'RRMS': ('50', '21'),
    'SPMS': ('3', '1'),
    'age': ('38.46 ± 10.59', '36.39 ± 10.16'),
    'EDSS': ('1.9 ± 1.73', '1.79 ± 1.70'),
    'lesion volume': ('12167 ± 13233', '10231 ± 10912'),
    'lesions': ('28.9 ± 19.2', '41.2 ± 43.17'),
}

#: Table 2: modality to matrix, spacing, thickness, TR, TE, TI and flip angle.
ACQUISITION: dict[str, tuple[str, ...]] = {
    'FLAIR': (
        '455.82 ± 314.71',
        '0.75 ± 0.32',
        '2.61 ± 0.62',
        '6859.95 ± 1750.69',
        '276.31 ± 89.49',
        '2072.62 ± 340.85',
        '90.55 ± 6.23',
    ),
    'T1w': (
        '288.65 ± 74.46',
        '0.91 ± 0.15',
        '1.14 ± 0.81',
        '102.98 ± 434.93',
        '5.96 ± 21.04',
        '–',
        '18.18 ± 20.86',
    ),
    'T2w': (
        '473.76 ± 165.94',
        '0.58 ± 0.27',
        '4.24 ± 0.92',
        '5898.63 ± 1976.34',
        '102.94 ± 10.58',
        '–',
        '91.05 ± 12.87',
    ),
}

#: Table 3: Dice of the reference (first) and the 15 teams against the reference, C1 and C2.
CONSENSUS: dict[str, tuple[float | None, ...]] = {
    'DSC_reference': (
        *(1.0, 0.71, 0.71, 0.71, 0.70, 0.69, 0.68, 0.68),
        *(0.65, 0.65, 0.64, 0.64, 0.61, 0.57, 0.54, 0.50),
    ),
    'DSC_C1': (
        *(0.69, 0.83, 0.77, 0.75, 0.75, 0.69, 0.75, 0.89),
        *(0.68, 0.78, 0.78, 0.79, 0.60, 0.64, 0.73, 0.62),
    ),
    'DSC_C2': (0.75, 0.95, 0.90, 0.90, 0.88, 0.83, *(None,) * 10),
}

METRICS = ('DSC', 'TPR', 'PPV', 'LTPR', 'LFPR', 'AVD_percent', 'ASSD')

#: Table 5: mean over the five folds of the means over the test scans.
MODELS: dict[str, tuple[float, ...]] = {
    'MSSegDiff': (0.6851, 0.6719, 0.7241, 0.6250, 0.2226, 24.45, 3.474),
    'UNETR': (0.6421, 0.6751, 0.6496, 0.7332, 0.4331, 90.16, 4.524),
    'SwinUNETR': (0.6786, 0.6676, 0.7157, 0.7017, 0.2957, 25.12, 3.622),
    'TransBTS': (0.4917, 0.5447, 0.5027, 0.5110, 0.5408, 67.95, 7.548),
}

#: Table 6: DSC by fold.
FOLDS: dict[str, tuple[float, ...]] = {
    'MSSegDiff': (0.6836, 0.6801, 0.6811, 0.7067, 0.6742),
    'UNETR': (0.6541, 0.6387, 0.6374, 0.6460, 0.6347),
    'SwinUNETR': (0.6819, 0.6838, 0.6701, 0.6885, 0.6690),
    'TransBTS': (0.5045, 0.4668, 0.5231, 0.5524, 0.4118),
}

#: What a reader of the paper's values has to know.
CAUTIONS: dict[int, tuple[str, ...]] = {
    1: (
        (
            "The paper's volumes are in mm³ (its point separates thousands). Its SD of volumes is "
            'the population SD (n), that of the test lesion counts the sample SD (n - 1).'
        ),
        (
            "The paper's table has one SPMS patient in the test set where its text and the "
            'published CSV have one PPMS.'
        ),
    ),
    2: ("The paper's text gives 0.32 mm for the SD of the T1-w spacing, its table 0.15 mm.",),
    3: (
        (
            "The paper's raters are 15 challenge teams. C2 has no value for teams that are not "
            'among the best five.'
        ),
    ),
    5: (
        (
            'The published evaluation code measured distances between all voxels of the masks, '
            "not their surfaces: the paper's ASSD are not comparable with ours (see the rule set "
            'mslesseg-official).'
        ),
    ),
    6: (
        (
            'Fold 4 of the paper has patient 23 in training and validation; its test set is the '
            'same 22 patients in every fold.'
        ),
    ),
}
