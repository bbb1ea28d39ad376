"""What a job array has done so far, read from the records in the output folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import output_path
from mslesseg_app.core.errors import DataError
from mslesseg_app.deploy.hpc.participants import find_participants, sessions_with_flair
from mslesseg_app.reports.records import read_record

DONE, FAILED, MISSING = 'done', 'failed', 'missing'


@dataclass(frozen=True)
class ExamState:
    """What became of one exam.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    session : str
        Label without ``ses-``; empty where there are no sessions.
    status : {'done', 'failed', 'missing'}
        ``missing``: there is no record of it, or one that cannot be read.
    reason : str
        Why it failed.
    """

    participant: str
    session: str
    status: str
    reason: str = ''

    @property
    def label(self) -> str:
        """``sub-01_ses-1``, or ``sub-01`` without sessions."""
        return f'sub-{self.participant}' + (f'_ses-{self.session}' if self.session else '')


def read_states(
    bids_dir: Path,
    out_dir: Path,
    model: str,
    wanted: Sequence[str] = (),
    sessions: Sequence[str] = (),
) -> list[ExamState]:
    """Tell of each exam with a FLAIR whether it is done.

    Parameters
    ----------
    bids_dir, out_dir : Path
    model : str
        Name that the results carry: of the model, or of the method that combines several.
    wanted, sessions : sequence of str
        Labels to check; empty for all.

    Raises
    ------
    NoInputError, InvalidBIDSError, NothingSelectedError
        See :func:`find_participants`.
    """
    people = find_participants(bids_dir, wanted, sessions)
    return [
        _read_state(out_dir, one.label, session, model)
        for one in people
        for session in sessions_with_flair(bids_dir, one.label, sessions)
    ]


def _read_state(out_dir: Path, participant: str, session: str, model: str) -> ExamState:
    exam = Exam(participant, session or None, {})
    path = out_dir / output_path(exam, 'exam', desc=model)
    try:
        record = read_record(path)
    except DataError:
        return ExamState(participant, session, MISSING)
    if record.status == 'ok':
        return ExamState(participant, session, DONE)
    reason = record.failure.message if record.failure else ''
    return ExamState(participant, session, FAILED, reason)


def left_over(states: Sequence[ExamState]) -> list[str]:
    """Return the participants of whom an exam is not done, in their order."""
    return list(dict.fromkeys(one.participant for one in states if one.status != DONE))
