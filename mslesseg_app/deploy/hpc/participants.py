"""Who is in a dataset, read from names of folders: quick on ten thousand participants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mslesseg_app.core.errors import InvalidBIDSError, NoInputError, NothingSelectedError


@dataclass(frozen=True)
class Participant:
    """One participant.

    Attributes
    ----------
    label : str
        Without ``sub-``; letters, digits and ``+`` only.
    exams : int
        Sessions with a FLAIR image.
    """

    label: str
    exams: int


def find_participants(
    bids_dir: Path, wanted: Sequence[str] = (), sessions: Sequence[str] = ()
) -> list[Participant]:
    """List the participants of a dataset, sorted by label.

    Parameters
    ----------
    bids_dir : Path
    wanted : sequence of str
        Labels to keep; empty for all.
    sessions : sequence of str
        Sessions to count; empty for all.

    Raises
    ------
    NoInputError
        If the folder does not exist or holds no participant.
    InvalidBIDSError
        If it has no ``dataset_description.json``.
    NothingSelectedError
        If a wanted participant is not there.
    """
    if not bids_dir.is_dir():
        raise NoInputError(f'The BIDS folder {bids_dir} does not exist.', 'Check the path.')
    if not (bids_dir / 'dataset_description.json').is_file():
        raise InvalidBIDSError(
            f'{bids_dir} is not a BIDS dataset: it has no dataset_description.json.',
            'Give the folder that holds dataset_description.json and the sub-* folders.',
        )
    names = sorted(path.name for path in bids_dir.glob('sub-*') if path.is_dir())
    present = [name.removeprefix('sub-') for name in names]
    bad = [label for label in present if not re.fullmatch(r'[A-Za-z0-9+]+', label)]
    if bad:
        raise InvalidBIDSError(
            f'{bids_dir} has folders that no BIDS label allows: sub-{bad[0]!r}.',
            'Labels have letters and digits only.',
        )
    if not present:
        raise NoInputError(
            f'{bids_dir} holds no sub-* folder.', 'Give the folder that holds the sub-* folders.'
        )
    unknown = sorted(set(wanted) - set(present))
    if unknown:
        raise NothingSelectedError(
            f'No such participant in {bids_dir}: {", ".join(unknown[:20])}.',
            f'The dataset holds {len(present)}: {", ".join(present[:20])} …',
        )
    kept = [label for label in present if not wanted or label in set(wanted)]
    return [
        Participant(label, len(sessions_with_flair(bids_dir, label, sessions))) for label in kept
    ]


def without_flair(people: Sequence[Participant]) -> list[str]:
    """Return the labels of those who have no FLAIR.

    Raises
    ------
    NothingSelectedError
        If nobody has one.
    """
    without = [one.label for one in people if not one.exams]
    if len(without) == len(people):
        raise NothingSelectedError(
            'None of the participants has a FLAIR image (in the chosen sessions).',
            'Check the dataset and --session-label.',
        )
    return without


def sessions_with_flair(bids_dir: Path, label: str, sessions: Sequence[str] = ()) -> list[str]:
    """Return the sessions of a participant that have a FLAIR, sorted; '' for no session."""
    root = bids_dir / f'sub-{label}'
    found = [''] if any(root.glob('anat/*_FLAIR.nii*')) else []
    for folder in sorted(root.glob('ses-*')):
        name = folder.name.removeprefix('ses-')
        if (not sessions or name in sessions) and any(folder.glob('anat/*_FLAIR.nii*')):
            found.append(name)
    return found
