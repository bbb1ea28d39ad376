"""Tables of change: one row per lesion, and one row per pair of sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mslesseg_app.lesions.change import STATUS_CODES, Comparison
from mslesseg_app.lesions.groups import Group, Status

if TYPE_CHECKING:
    import pandas as pd

_MM3, _YEARLY = 'mm^3', 'mm^3/year'
_STATUSES = {
    'stable': 'In both masks, and the FLAIRs do not differ there.',
    'new': 'The FLAIR became brighter where neither the earlier mask nor the earlier FLAIR '
    'shows a lesion.',
    'enlarging': 'The FLAIR became brighter at a lesion.',
    'shrinking': 'The FLAIR became darker at a lesion.',
    'resolved': 'The FLAIR became darker where the later session shows no lesion any more.',
    'one-mask': 'In one mask only, and the FLAIRs do not differ there: an error of that mask.',
}

CHANGE_COLUMNS: dict[str, dict[str, Any]] = {
    'change_id': {'Description': 'Number of the row.'},
    'status': {
        'Description': 'Change of the lesion; n/a where it cannot be judged.',
        'Levels': _STATUSES,
    },
    'lesions_before': {
        'Description': 'Numbers of the lesions in the instance image of the earlier session, '
        'with commas; several that became one have merged.',
    },
    'lesions_after': {
        'Description': 'Numbers of the lesions in the instance image of the later session, with '
        'commas; several that were one have split.',
    },
    'volume_before_mm3': {'Description': 'Volume in the earlier session.', 'Units': _MM3},
    'volume_after_mm3': {'Description': 'Volume in the later session.', 'Units': _MM3},
    'difference_mm3': {'Description': 'Later less earlier volume.', 'Units': _MM3},
    'difference_percent': {
        'Description': 'Difference over the earlier volume; n/a where there was none.',
        'Units': 'percent',
    },
    'rate_mm3_per_year': {
        'Description': 'Difference over the interval; n/a without the dates of both sessions.',
        'Units': _YEARLY,
    },
    'brighter_mm3': {
        'Description': 'Volume of the regions where the FLAIR became brighter.',
        'Units': _MM3,
    },
    'darker_mm3': {
        'Description': 'Volume of the regions where the FLAIR became darker.',
        'Units': _MM3,
    },
    'z_peak': {
        'Description': 'Largest difference of the matched images in these regions, in standard '
        'deviations of the difference; negative where they became darker.',
    },
    'z_mean': {'Description': 'Mean difference in these regions, in standard deviations.'},
    'centroid_x': {'Description': 'Centre in the later FLAIR, left to right.', 'Units': 'mm'},
    'centroid_y': {
        'Description': 'Centre in the later FLAIR, posterior to anterior.',
        'Units': 'mm',
    },
    'centroid_z': {
        'Description': 'Centre in the later FLAIR, inferior to superior.',
        'Units': 'mm',
    },
    'note': {'Description': 'Merged, split, in neither mask, or why there is no status.'},
}

_COUNTS = {
    f'n_{status.replace("-", "_")}': {'Description': f'Lesions with the status {status}.'}
    for status in STATUS_CODES
}
SUMMARY_COLUMNS: dict[str, dict[str, Any]] = {
    'participant_id': {'Description': 'Participant.'},
    'model': {'Description': 'Model that made the masks.'},
    'session_before': {'Description': 'Earlier session.'},
    'session_after': {'Description': 'Later session.'},
    'pair': {
        'Description': 'Which sessions are compared.',
        'Levels': {
            'consecutive': 'A session and the one before it.',
            'first-last': 'The first and the last of three or more sessions.',
        },
    },
    'years': {
        'Description': 'Time between the sessions; n/a without the dates of both.',
        'Units': 'year',
    },
    'status': {
        'Description': 'Whether the sessions can be compared.',
        'Levels': {
            'pass': 'Alignment and contrast agree.',
            'check': 'Review both images.',
            'fail': 'Not compared.',
        },
    },
    'reason': {'Description': 'Why the status is not pass.'},
    'edited': {'Description': 'Sessions whose mask a person has edited.'},
    'images': {'Description': 'Images that were compared, with commas.'},
    **_COUNTS,
    'n_not_judged': {'Description': 'Number of lesions without a status.'},
    'new_volume_mm3': {
        'Description': 'Volume of new lesions, where the FLAIR became brighter.',
        'Units': _MM3,
    },
    'enlarging_volume_mm3': {
        'Description': 'Volume by which lesions grew: brighter regions of lesions that are not '
        'new.',
        'Units': _MM3,
    },
    'shrinking_volume_mm3': {
        'Description': 'Volume by which lesions shrank: darker regions of lesions that are not '
        'resolved.',
        'Units': _MM3,
    },
    'resolved_volume_mm3': {
        'Description': 'Volume of resolved lesions, where the FLAIR became darker.',
        'Units': _MM3,
    },
    'volume_before_ml': {'Description': 'Lesion volume, earlier session.', 'Units': 'ml'},
    'volume_after_ml': {'Description': 'Lesion volume, later session.', 'Units': 'ml'},
    'difference_ml': {'Description': 'Later less earlier volume.', 'Units': 'ml'},
    'rate_ml_per_year': {'Description': 'Difference over the interval.', 'Units': 'ml/year'},
    'new_per_year': {'Description': 'New lesions over the interval.', 'Units': '1/year'},
    'brain_edge_mm': {
        'Description': 'Mean distance of the edges of the two brain masks once aligned.',
        'Units': 'mm',
    },
    'flair_correlation': {
        'Description': 'Correlation of the two FLAIRs within the brain, matched in resolution '
        'and intensity.',
    },
    'smoothing_mm': {
        'Description': 'Smoothing of the sharper FLAIR to the resolution of the other (standard '
        'deviation).',
        'Units': 'mm',
    },
    'noise_percent': {
        'Description': 'Standard deviation of the difference of the FLAIRs, in percent of their '
        'median within the brain.',
        'Units': 'percent',
    },
}


def lesion_statuses(table: pd.DataFrame) -> dict[int, str]:
    """Return the status of each lesion of the later session, from the table of a comparison.

    Parameters
    ----------
    table : DataFrame
        As `change_rows` was written: `lesions_after` are numbers with commas between them.

    Returns
    -------
    dict
        Of lesions that could not be judged, nothing.
    """
    rows = table[['status', 'lesions_after']].dropna().astype(str)
    return {
        int(float(number)): str(status)
        for status, numbers in rows.itertuples(index=False)
        for number in numbers.split(',')
    }


def change_rows(comparison: Comparison, years: float | None) -> list[dict[str, Any]]:
    """Return one row for each lesion, or group of lesions that merged or split.

    Parameters
    ----------
    comparison : Comparison
    years : float or None
        Time between the sessions; None gives rates of ``n/a``.
    """
    return [
        {'change_id': number, **_change_row(group, years)}
        for number, group in enumerate(comparison.groups, start=1)
    ]


def _change_row(group: Group, years: float | None) -> dict[str, Any]:
    x, y, z = group.centroid
    return {
        'status': group.status,
        'lesions_before': ','.join(map(str, group.before)) or None,
        'lesions_after': ','.join(map(str, group.after)) or None,
        'volume_before_mm3': group.volume_before,
        'volume_after_mm3': group.volume_after,
        'difference_mm3': group.difference,
        'difference_percent': _over(100 * group.difference, group.volume_before),
        'rate_mm3_per_year': _over(group.difference, years),
        'brighter_mm3': group.brighter,
        'darker_mm3': group.darker,
        'z_peak': group.z_peak,
        'z_mean': group.z_mean,
        'centroid_x': x,
        'centroid_y': y,
        'centroid_z': z,
        'note': group.note or None,
    }


def summary_row(comparison: Comparison, years: float | None) -> dict[str, Any]:
    """Return the numbers of a pair of sessions, with the names of `SUMMARY_COLUMNS`."""
    groups = comparison.groups
    counts = {_counted(name): len(_having(groups, name)) for name in STATUS_CODES}
    new, gone = _having(groups, 'new'), _having(groups, 'resolved')
    masked = [group for group in groups if group.before or group.after]
    before = sum(group.volume_before for group in masked) / 1000
    after = sum(group.volume_after for group in masked) / 1000
    return {
        **counts,
        'n_not_judged': sum(group.status is None for group in groups),
        'new_volume_mm3': sum(g.brighter for g in new),
        'enlarging_volume_mm3': sum(g.brighter for g in groups if g not in new),
        'shrinking_volume_mm3': sum(g.darker for g in groups if g not in gone),
        'resolved_volume_mm3': sum(g.darker for g in gone),
        'volume_before_ml': before,
        'volume_after_ml': after,
        'difference_ml': after - before,
        'rate_ml_per_year': _over(after - before, years),
        'new_per_year': _over(counts['n_new'], years),
    }


def _counted(status: Status) -> str:
    return f'n_{status.replace("-", "_")}'


def _having(groups: list[Group], status: Status) -> list[Group]:
    return [group for group in groups if group.status == status]


def _over(part: float, whole: float | None) -> float | None:
    return part / whole if whole else None
