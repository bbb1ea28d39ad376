"""What the review shows of each exam, from all that is known of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mslesseg_app.bids.review import Mark, Review
from mslesseg_app.group.collect import Holdings, Key, exam_states, gather
from mslesseg_app.group.thumbnails import View, shown_model
from mslesseg_app.reports.review import ReviewRow

_WORST = ('failed', 'suspect', 'ok')
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
        Folder of the page.
    """

    holdings: Holdings
    review: Review
    views: Sequence[View]
    outliers: Sequence[dict[str, Any]]
    out: Path


def review_rows(looked: Looked) -> list[ReviewRow]:
    """Return one row an exam, in order of names."""
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
    pictures = {view.key: view.picture for view in looked.views if view.picture}
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
                page=_page(looked.out, subject),
                picture=pictures.get(name),
                volume_ml=_number(known.get('lesion_volume_ml')),
                lesions=_count(known.get('lesion_count')),
                verdict=_verdict(known, state),
                selfcheck=str(known.get('selfcheck_status', 'n/a')),
                flags=tuple(_flags(name, state, outliers.get((subject, session), ()))),
                mark=mark.mark,
                marked=mark.marked,
                note=mark.note,
            )
        )
    return rows


def _page(out: Path, subject: str) -> str:
    return f'{subject}.html' if (out / f'{subject}.html').is_file() else ''


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _count(text: Any) -> int | None:
    value = _number(text)
    return None if value is None else round(value)


def _verdict(known: dict[str, Any], state: dict[str, Any]) -> str:
    """Return the worst verdict; ``failed`` without a result, ``suspect`` with an earlier one."""
    if state['state'] in ('failed', 'no metrics'):
        return 'failed'
    if state['state'] == 'earlier result':
        return 'suspect'
    found = {str(value) for name, value in known.items() if str(name).endswith('_verdict')}
    return next((verdict for verdict in _WORST if verdict in found), 'unknown')


def _flags(key: Key, state: dict[str, Any], outliers: Sequence[dict[str, Any]]) -> list[str]:
    flags = []
    if state['state'] in _OPEN:
        reason = '' if state['reason'] == 'n/a' else f': {state["reason"]}'
        flags.append(state['state'] + reason)
    for row in outliers:
        if row['model'] in (key.model, 'n/a'):
            said = row['reason']
            if 'participant level' in said:
                said = f'{str(row["column"]).removesuffix("_verdict")}: {row["value"]}'
            flags.append(said.replace('_', ' '))
    return list(dict.fromkeys(flags))
