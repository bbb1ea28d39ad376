"""What the review shows of each exam, from all that is known of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mslesseg_app.bids.review import Mark, Review
from mslesseg_app.core.status import STATUSES, ShownStatus, worst
from mslesseg_app.group.collect import Holdings, Key, exam_states, gather
from mslesseg_app.group.thumbnails import Thumbnail, shown_model
from mslesseg_app.reports.review import ReviewRow

_OPEN = ('failed', 'earlier result', 'no metrics', 'no result')


@dataclass(frozen=True)
class Looked:
    """All that the review draws on.

    Attributes
    ----------
    holdings : Holdings
        Of all exams, the excluded ones too.
    outliers : sequence of dict
        Rows of ``group_outliers.tsv``.
    out : Path
        Folder of the report.
    """

    holdings: Holdings
    review: Review
    views: Sequence[Thumbnail]
    outliers: Sequence[dict[str, Any]]
    out: Path


def review_rows(looked: Looked) -> list[ReviewRow]:
    """Return one row per exam, in order of names."""
    holdings = looked.holdings
    model = shown_model(holdings)
    metrics: dict[tuple[str, str], Any] = {
        (row['participant_id'], row['session_id']): row
        for row in gather(holdings.metrics.values()).to_dict('records')
        if row['model'] == model
    }
    outliers: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in looked.outliers:
        outliers.setdefault((row['participant_id'], row['session_id']), []).append(row)
    images = {view.key: view.image for view in looked.views if view.image}
    states: dict[tuple[str, str], dict[str, Any]] = {}
    for row in exam_states(holdings):
        key = (row['participant_id'], row['session_id'])
        if key not in states or row['model'] == model:
            states[key] = row
    rows = []
    for (subject, session), state in sorted(states.items()):
        name = Key(subject, '' if session == 'n/a' else session, model)
        known = metrics.get((subject, session), {})
        mark = looked.review.get((name.subject, name.session), Mark(''))
        rows.append(
            ReviewRow(
                participant=subject,
                session=name.session,
                report=_report_address(looked.out, subject),
                image=images.get(name),
                volume_ml=_finite_or_none(known.get('lesion_volume_ml')),
                lesions=_count(known.get('lesion_count')),
                status=_status(known, state),
                selfcheck=str(known.get('selfcheck_status', 'n/a')),
                flags=tuple(_flags(name, state, outliers.get((subject, session), ()))),
                mark=mark.mark,
                marked=mark.marked,
                note=mark.note,
            )
        )
    return rows


def _report_address(out: Path, subject: str) -> str:
    return f'{subject}.html' if (out / f'{subject}.html').is_file() else ''


def _finite_or_none(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _count(text: Any) -> int | None:
    value = _finite_or_none(text)
    return None if value is None else round(value)


def _status(known: dict[str, Any], state: dict[str, Any]) -> ShownStatus:
    """Return the worst status; ``fail`` without a result, ``check`` with an earlier one."""
    if state['state'] in ('failed', 'no metrics'):
        return 'fail'
    if state['state'] == 'earlier result':
        return 'check'
    found = {
        str(value)
        for name, value in known.items()
        if str(name).endswith('_status') and name != 'selfcheck_status'
    }
    return worst(['unknown', *(status for status in STATUSES if status in found)])


def _flags(key: Key, state: dict[str, Any], outliers: Sequence[dict[str, Any]]) -> list[str]:
    flags = []
    if state['state'] in _OPEN:
        reason = '' if state['reason'] == 'n/a' else f': {state["reason"]}'
        flags.append(state['state'] + reason)
    for row in outliers:
        if row['model'] in (key.model, 'n/a'):
            said = row['reason']
            if 'participant level' in said:
                said = f'{str(row["column"]).removesuffix("_status")}: {row["value"]}'
            flags.append(said.replace('_', ' '))
    return list(dict.fromkeys(flags))
