"""What each column of an evaluation means under each rule set."""

from __future__ import annotations

from mslesseg_app.metrics.calibration import BINS, MARGIN_MM
from mslesseg_app.metrics.exam import METRIC_COLUMNS
from mslesseg_app.metrics.rules import SIZE_BOUNDS_MM3, STRATA, Rules, get_rules

Columns = dict[str, dict[str, str]]

CALIBRATION = ('ECE', 'Brier')
_FIRST = ('DSC', 'TPR', 'PPV', 'LTPR', 'LFPR', 'AVD', 'AVD_percent', 'ASSD', 'HD95')


def nsd_name(rules: Rules) -> str:
    """Return the column of the normalised surface Dice; its tolerance is part of the name."""
    return f'NSD_{rules.nsd_tolerance_mm:g}mm'


def evaluation_columns(rules: str = 'mslesseg', probability: bool = True) -> Columns:
    """Return the columns of an evaluation under a rule set, in order, with their descriptions.

    Parameters
    ----------
    rules : str
        Name of a rule set.
    probability : bool
        Whether the columns of calibration, which need a probability map, are wanted.

    Returns
    -------
    dict
        Name of the column to ``Description`` and ``Units``, as BIDS has them.

    Raises
    ------
    UsageError
        For an unknown rule set.
    """
    chosen = get_rules(rules)
    if chosen.empty == 'published':
        return _ordered({**_published(), **_amounts(chosen)})
    columns = {**_voxels(), **_lesions(chosen), **_volumes(), **_surfaces(chosen)}
    if chosen.overlap is not None:
        columns.update(_anima())
    if chosen.isbi_score:
        columns.update(_isbi())
    columns.update(_amounts(chosen), **_by_size())
    if probability:
        columns.update(_calibration())
    return _ordered(columns)


def _ordered(columns: Columns) -> Columns:
    """Put the numbers of the paper and HD95 first."""
    return {name: columns[name] for name in _FIRST} | columns


def _column(description: str, units: str = '') -> dict[str, str]:
    return {'Description': description, **({'Units': units} if units else {})}


def _voxels() -> Columns:
    return {name: dict(METRIC_COLUMNS[name]) for name in ('DSC', 'TPR', 'PPV')}


def _lesions(rules: Rules) -> Columns:
    kind, met = _lesion_definition(rules), _meeting(rules)
    return {
        'LTPR': _column(
            f'Share of the reference lesions ({kind}) that the prediction finds: {met}; 0 to 1; '
            'n/a without a reference lesion.'
        ),
        'LFPR': _column(
            f'Share of the predicted lesions ({kind}) that the reference does not confirm, by '
            'the same rule, 0 to 1 (a false discovery rate); n/a without a predicted lesion.'
        ),
        'lesion_F1': _column(
            'Harmonic mean of LTPR and 1 - LFPR, 0 to 1; 1 when neither mask has a lesion, 0 '
            'when one of them has none.'
        ),
    }


def _lesion_definition(rules: Rules) -> str:
    text = f'{rules.connectivity}-connected'
    return f'{text}, more than {rules.min_volume_mm3:g} mm³' if rules.min_volume_mm3 else text


def _meeting(rules: Rules) -> str:
    rule = rules.overlap
    if rule is None:
        return 'one shared voxel is enough'
    return (
        f'lesions of the other mask cover more than {rule.min_overlap:.0%} of it, and those '
        f'that hold {rule.enough:.0%} of this overlap lie at most {rule.max_outside:.0%} outside '
        'of all lesions'
    )


def _volumes() -> Columns:
    return {
        'AVD': dict(METRIC_COLUMNS['AVD']),
        'AVD_percent': _column('AVD in percent of the reference volume.', 'percent'),
        'AVD_ml': _column('Absolute difference of the volumes; always defined.', 'ml'),
    }


def _surfaces(rules: Rules) -> Columns:
    return {
        'ASSD': dict(METRIC_COLUMNS['ASSD']),
        'HD95': _column(
            'The larger of the two directed 95th percentiles of the surface distances; 0 when '
            'both masks are empty, n/a when one is.',
            'mm',
        ),
        nsd_name(rules): _column(
            'Normalised surface Dice: share of the surface voxels of both masks that lie within '
            f'{rules.nsd_tolerance_mm:g} mm of the other surface, 0 to 1; 1 when both masks are '
            'empty, 0 when one is.'
        ),
    }


def _anima() -> Columns:
    return {
        'SensL': _column('LTPR under the name that animaSegPerfAnalyzer gives it.'),
        'PPVL': _column('1 - LFPR under the name that animaSegPerfAnalyzer gives it.'),
        'F1': _column('lesion_F1 under the name that animaSegPerfAnalyzer gives it.'),
    }


def _isbi() -> Columns:
    return {
        'ISBI_partial': _column(
            'Terms of the ISBI 2015 score that one exam has: DSC/8 + PPV/8 + (1 - LFPR)/4 + '
            'LTPR/4, 0 to 0.75; the last quarter is the volume correlation of a cohort. n/a '
            'when one of them is.'
        ),
    }


def _amounts(rules: Rules) -> Columns:
    kind = _lesion_definition(rules)
    return {
        'n_reference': _column(f'Number of reference lesions ({kind}).'),
        'n_predicted': _column(f'Number of predicted lesions ({kind}).'),
        'volume_reference_ml': _column('Volume of the reference mask.', 'ml'),
        'volume_predicted_ml': _column('Volume of the predicted mask.', 'ml'),
    }


def stratum_text(name: str) -> str:
    """Return the volumes of a stratum of lesions in words."""
    low, high = (f'{bound:g}' for bound in SIZE_BOUNDS_MM3)
    return {
        'small': f'below {low} mm³',
        'medium': f'{low} to below {high} mm³',
        'large': f'{high} mm³ and more',
    }[name]


def _by_size() -> Columns:
    columns: Columns = {}
    for stratum in STRATA:
        size = stratum_text(stratum)
        columns[f'LTPR_{stratum}'] = _column(
            f'LTPR of the reference lesions of {size}; n/a without one.'
        )
        columns[f'LFPR_{stratum}'] = _column(
            f'LFPR of the predicted lesions of {size}; n/a without one.'
        )
        columns[f'n_reference_{stratum}'] = _column(f'Number of reference lesions of {size}.')
        columns[f'n_predicted_{stratum}'] = _column(f'Number of predicted lesions of {size}.')
    return columns


def _calibration() -> Columns:
    where = f'in the box around both masks and {MARGIN_MM:g} mm more (the whole grid when empty)'
    return {
        'ECE': _column(
            f'Expected calibration error of the probabilities, {BINS} bins of equal width, '
            f'{where}; n/a without probabilities.'
        ),
        'Brier': _column(
            f'Mean squared difference of probability and reference, {where}; n/a without '
            'probabilities.'
        ),
    }


def _published() -> Columns:
    """The columns of the published code, with what it gives for empty masks."""
    return {
        'DSC': _column('Dice of the voxels; n/a when both masks are empty.'),
        'TPR': _column('Share of the reference voxels found; n/a without one.'),
        'PPV': _column('Share of the predicted voxels in the reference; n/a without one.'),
        'LTPR': _column(
            'Share of the 6-connected reference lesions with a predicted voxel; n/a without one '
            '(the published code stops with an error).'
        ),
        'LFPR': _column(
            'Number of 6-connected predicted lesions without a reference voxel, divided by the '
            'number of predicted lesions plus 0.001; 0 without one.'
        ),
        'AVD': _column(
            'Absolute difference of the volumes over the reference volume; 0 when both are '
            'empty, inf when only the reference is.'
        ),
        'AVD_percent': _column('AVD in percent, as the paper prints it.', 'percent'),
        'AVD_ml': _column('Absolute difference of the volumes; not in the code.', 'ml'),
        'ASSD': _column(
            'Mean of the two directed mean distances between all voxels (by a fault, not the '
            'surfaces) of both masks, as with the pinned medpy 0.4.0; n/a when a mask is empty '
            'or full.',
            'voxels',
        ),
        'ASSD_pooled': _column(
            'The same with all distances pooled, as with medpy 0.5.2.', 'voxels'
        ),
        'HD95': _column(
            '95th percentile of all these distances pooled; n/a when a mask is empty or full.',
            'voxels',
        ),
    }
