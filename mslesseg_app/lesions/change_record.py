"""What the sidecar of a comparison states, as one record for those who write and who read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

_NOTHING = 'n/a'


def _entry(*key: str, default: Any = None) -> Any:
    """Return a field that stands under a key, or a key within a key, of the sidecar."""
    return field(default=default, metadata={'key': key})


@dataclass(frozen=True)
class PairRecord:
    """One pair of sessions: the names of the fields are those of `SUMMARY_COLUMNS`.

    Attributes
    ----------
    session_before, session_after : str or None
        Sessions with ``ses-``, the earlier one first.
    years : float or None
        Time between them; None without the dates of both.
    status : str or None
        ``pass``, ``check`` or ``fail``: whether the images can be compared.
    reason : str or None
        Why the status is not ``pass``.
    images : str or None
        Images that were compared, with commas.
    """

    session_before: str | None = _entry('PreviousSession')
    session_after: str | None = _entry('Session')
    years: float | None = _entry('IntervalYears')
    edited: str | None = _entry('EditedSessions')
    status: str | None = _entry('Guard', 'Status')
    reason: str | None = _entry('Guard', 'Reason')
    images: str | None = _entry('ComparedImages')
    brain_edge_mm: float | None = _entry('Guard', 'BrainEdge_mm')
    flair_correlation: float | None = _entry('Guard', 'FLAIRCorrelation')
    smoothing_mm: float | None = _entry('Guard', 'Smoothing_mm')
    noise_percent: float | None = _entry('Guard', 'Noise_percent')
    n_new: int | None = _entry('Counts', 'new')
    n_enlarging: int | None = _entry('Counts', 'enlarging')
    n_stable: int | None = _entry('Counts', 'stable')
    n_shrinking: int | None = _entry('Counts', 'shrinking')
    n_resolved: int | None = _entry('Counts', 'resolved')
    n_one_mask: int | None = _entry('Counts', 'one-mask')
    n_not_judged: int | None = _entry('Counts', 'not_judged')
    new_volume_mm3: float | None = _entry('Volumes_mm3', 'new')
    enlarging_volume_mm3: float | None = _entry('Volumes_mm3', 'enlarging')
    shrinking_volume_mm3: float | None = _entry('Volumes_mm3', 'shrinking')
    resolved_volume_mm3: float | None = _entry('Volumes_mm3', 'resolved')
    volume_before_ml: float | None = _entry('LesionVolumeBefore_ml')
    volume_after_ml: float | None = _entry('LesionVolumeAfter_ml')
    rate_ml_per_year: float | None = _entry('Rate_ml_per_year')

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Take the fields from a row with the names of `SUMMARY_COLUMNS`."""
        return cls(**{item.name: row.get(item.name) for item in fields(cls)})

    def to_metadata(self) -> dict[str, Any]:
        """Return the entries of the sidecar; ``n/a`` for what is unknown."""
        made: dict[str, Any] = {}
        for item in fields(self):
            *outer, last = item.metadata['key']
            value = getattr(self, item.name)
            value = round(value, 6) if isinstance(value, float) else value
            level = made.setdefault(outer[0], {}) if outer else made
            level[last] = _NOTHING if value is None else value
        return made

    @classmethod
    def from_metadata(cls, about: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_metadata` wrote; other entries are passed over."""
        found: dict[str, Any] = {}
        for item in fields(cls):
            value: Any = about
            for key in item.metadata['key']:
                value = value.get(key) if isinstance(value, Mapping) else None
            found[item.name] = None if value == _NOTHING else value
        return cls(**found)
