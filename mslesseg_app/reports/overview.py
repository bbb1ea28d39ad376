"""The first screen of a report: headline numbers, regions, and reasons to check an exam."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mslesseg_app.core.status import ShownStatus, worst
from mslesseg_app.reports.content import ExamContent
from mslesseg_app.reports.markup import is_number
from mslesseg_app.reports.sections import MOVED, REGIONS, Change, Extra

#: A voxel edge that differs by more than this share between sessions is another sequence.
_OTHER_EDGE = 0.2


@dataclass(frozen=True)
class RegionRow:
    """One region: its lesions now, and what changed since the previous session.

    Attributes
    ----------
    volume_ml : float or None
    difference_ml : float or None
        None without a previous session.
    changes : str
        Numbers of new, enlarging, shrinking and resolved lesions in words.
    """

    title: str
    count: int
    volume_ml: float | None
    difference_ml: float | None = None
    changes: str = ''


@dataclass(frozen=True)
class Overview:
    """What the card of an exam states.

    Attributes
    ----------
    previous : str
        Session that the exam was compared with; empty without one.
    interval : str
        Time since then, in words.
    difference_ml : float or None
        Change of the lesion volume.
    changes : str
        Number of lesions by status; or why there was no comparison.
    reasons : tuple of str
        Why a person should check the exam; any makes the card amber.
    sequences : tuple of str
        Modality and voxel size of each image.
    """

    status: ShownStatus
    regions: tuple[RegionRow, ...] = ()
    previous: str = ''
    interval: str = ''
    difference_ml: float | None = None
    changes: str = ''
    reasons: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()


def overview(exam: ExamContent, extra: Extra, others: Sequence[ExamContent] = ()) -> Overview:
    """Collect the first screen of an exam.

    Parameters
    ----------
    others : sequence of ExamContent
        All exams of the participant, among them the previous session.
    """
    sequences = tuple(f'{one.modality} {voxel_size(one.geometry)}'.strip() for one in exam.images)
    if exam.status == 'failed':
        return Overview('fail', sequences=sequences)
    change = extra.change
    name = (change.pair.session_before or '') if change else ''
    previous = next((one for one in others if one.session and f'ses-{one.session}' == name), None)
    reasons = reasons_to_check(exam, change, previous)
    compared = change if change is not None and change.compared else None
    return Overview(
        status=worst((exam.worst, 'check')) if reasons else exam.worst,
        regions=region_rows(exam, compared, previous),
        previous=name,
        interval=change.interval() if change else '',
        difference_ml=_difference(compared),
        changes=_changes(change),
        reasons=reasons,
        sequences=sequences,
    )


def reasons_to_check(
    exam: ExamContent, change: Change | None, previous: ExamContent | None
) -> tuple[str, ...]:
    """Return why a person should check an exam although its images passed all checks."""
    reasons = list(exam.checked.reasons) if exam.checked else []
    reasons += exam.reasons_to_check
    reasons += [_missing(name, exam.warnings) for name in exam.missing]
    if previous is not None:
        reasons += _other_sequences(exam, previous)
    if change is not None and not change.compared:
        reasons.append(f'Not compared with the previous session: {change.pair.reason}.')
    elif change is not None:
        if change.pair.status == 'check':
            reasons.append(f'Compare the sessions with care: {change.pair.reason}.')
        single = sum(row.get('status') == 'one-mask' for row in change.rows)
        if single:
            lesions = 'lesion is' if single == 1 else 'lesions are'
            reasons.append(
                f'{single} {lesions} in the mask of one session only, although the FLAIR did not '
                'change there.'
            )
    return tuple(reasons)


def region_rows(
    exam: ExamContent, change: Change | None, previous: ExamContent | None
) -> tuple[RegionRow, ...]:
    """Return one row per region that holds lesions now or changed.

    Parameters
    ----------
    change : Change or None
        None where the sessions were not compared.
    """
    regions = {str(row.get('lesion_id')): str(row.get('region') or '') for row in exam.lesions}
    before = previous.lesions if previous is not None else ()
    earlier = {str(row.get('lesion_id')): str(row.get('region') or '') for row in before}
    changed: dict[str, list[dict[str, Any]]] = {}
    for row in change.rows if change else ():
        changed.setdefault(_region_of(row, regions, earlier), []).append(row)
    rows = []
    for name, title in {**REGIONS, '': 'other'}.items():
        own = [row for row in exam.lesions if regions[str(row.get('lesion_id'))] == name]
        since = changed.get(name, [])
        if not own and not since:
            continue
        volumes = [row['volume_mm3'] for row in own if is_number(row.get('volume_mm3'))]
        rows.append(
            RegionRow(
                title if name or own else 'in neither mask',
                len(own),
                sum(volumes) / 1000,
                sum(r['difference_mm3'] for r in since if is_number(r.get('difference_mm3')))
                / 1000
                if change
                else None,
                _moved(since),
            )
        )
    return tuple(rows) if any(regions.values()) else ()


def voxel_size(geometry: str) -> str:
    """Return the voxel size from the words of a geometry: ``1 × 1 × 3 mm``."""
    found = re.search(r'voxels of (.+ mm)', geometry)
    return found.group(1) if found else ''


def _missing(name: str, warnings: Sequence[str]) -> str:
    """Return the warning that a sequence is missing, or a sentence where there is none."""
    start = f'No {name} image'
    own = (warning for warning in warnings if warning.startswith(start))
    return next(own, f'{start}: results are less certain.')


def _other_sequences(exam: ExamContent, previous: ExamContent) -> list[str]:
    """Compare the images of two sessions: which there are, and their voxel sizes."""
    mine = {one.modality: voxel_size(one.geometry) for one in exam.images}
    theirs = {one.modality: voxel_size(one.geometry) for one in previous.images}
    found = [
        f'{name} is present in {"this" if name in mine else "the previous"} session only.'
        for name in ('FLAIR', 'T1w', 'T2w')
        if (name in mine) != (name in theirs)
    ]
    for name in sorted(mine.keys() & theirs.keys()):
        now, then = _edges(mine[name]), _edges(theirs[name])
        apart = [abs(a - b) / max(a, b) for a, b in zip(now, then, strict=False) if max(a, b)]
        if max(apart, default=0.0) > _OTHER_EDGE:
            found.append(
                f'The {name} of the two sessions differ: {mine[name]} and {theirs[name]} before.'
            )
    return found


def _edges(size: str) -> list[float]:
    return sorted(float(one) for one in re.findall(r'\d+(?:\.\d+)?', size))


def _region_of(row: dict[str, Any], now: dict[str, str], earlier: dict[str, str]) -> str:
    """Return the region of a row of the change table: of its first lesion."""
    for column, regions in (('lesions_after', now), ('lesions_before', earlier)):
        value = row.get(column)
        if value is None:
            continue
        first = str(value).split(',')[0].removesuffix('.0')
        return regions.get(first, '')
    return ''


def _difference(change: Change | None) -> float | None:
    pair = change.pair if change else None
    if pair is None or pair.volume_before_ml is None or pair.volume_after_ml is None:
        return None
    return pair.volume_after_ml - pair.volume_before_ml


def _changes(change: Change | None) -> str:
    if change is None:
        return ''
    if not change.compared:
        return 'not compared'
    return _moved(change.rows) or 'no lesion changed'


def _moved(rows: Sequence[dict[str, Any]]) -> str:
    found = [row.get('status') for row in rows]
    return ', '.join(f'{found.count(name)} {name}' for name in MOVED if name in found)
