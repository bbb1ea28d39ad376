"""One subject in one session, as a run sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mslesseg_app.core.errors import MSLesSegError


@dataclass(frozen=True)
class Exam:
    """One subject in one session, with the image chosen for each modality.

    Attributes
    ----------
    subject : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``; None where the dataset has no sessions.
    images : dict
        Path of the chosen image by modality, in the order FLAIR, T1w, T2w.
    missing : tuple of str
        Modalities that the dataset does not hold for this exam.
    notes : tuple of str
        What a reader should know of the choice, one sentence each.
    reference : Path or None
        Reference lesion mask, where ``--derivatives manual=PATH`` holds one.
    edited : Path or None
        Lesion mask that a person has edited, where ``--derivatives edited=PATH`` holds one.
    registered : bool
        All images already lie on the 1 mm MNI152 grid: they are not registered again.
    problem : MSLesSegError or None
        Why the exam cannot be processed.
    """

    subject: str
    session: str | None
    images: dict[str, Path]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reference: Path | None = None
    edited: Path | None = None
    registered: bool = False
    problem: MSLesSegError | None = None

    @property
    def label(self) -> str:
        """``sub-01_ses-1``, or ``sub-01`` without sessions."""
        return f'sub-{self.subject}' + (f'_ses-{self.session}' if self.session else '')

    @property
    def folder(self) -> Path:
        """Relative folder of the exam, ``sub-01/ses-1`` or ``sub-01``."""
        path = Path(f'sub-{self.subject}')
        return path / f'ses-{self.session}' if self.session else path


def named_exam(label: str) -> Exam:
    """Return the exam of a label, without images, to ask for the names of its outputs.

    Parameters
    ----------
    label : str
        ``sub-01_ses-1``, or ``sub-01`` without sessions.
    """
    subject, _, session = label.removeprefix('sub-').partition('_ses-')
    return Exam(subject, session or None, {})
