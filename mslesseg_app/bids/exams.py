"""Exams in: what a BIDS dataset holds for each subject and session, found with PyBIDS."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb

from ..errors import InvalidBIDSError, MSLesSegError, NoInputError, NothingSelectedError
from ..settings import Settings
from ..spatial.checks import UNREADABLE
from ..spatial.template import is_template_grid

if TYPE_CHECKING:
    from bids import BIDSLayout
    from bids.layout import BIDSImageFile

#: An acquisition whose thickest voxel edge exceeds this, in mm, is not taken for 3D.
_MAX_3D_THICKNESS = 2.0
#: With more participants than this, indexing everybody is as quick as leaving others out.
_MOST_NAMED = 100


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


def find_exams(settings: Settings) -> list[Exam]:
    """Find the exams that the settings select.

    Returns
    -------
    list of Exam
        Sorted by subject and session. An exam without FLAIR (or without another modality
        that ``--require`` names) is in the list, with its ``problem``.

    Raises
    ------
    NoInputError
        If the folder does not exist, or holds no T1w, T2w or FLAIR at all.
    InvalidBIDSError
        If it is no BIDS dataset.
    NothingSelectedError
        If the filters leave nothing.
    """
    check_dataset(settings.bids_dir)
    layout = open_layout(settings.bids_dir, settings.bids_database_dir, settings.participants)
    subjects = _select_subjects(layout, settings)
    exams = [exam for subject in subjects for exam in _subject_exams(layout, subject, settings)]
    if not exams:
        _raise_nothing_found(settings)
    references = settings.derivatives.get('manual')
    if references is not None:
        exams = _with_references(exams, references, settings.participants)
    if (edits := settings.derivatives.get('edited')) is not None:
        from .edits import with_edits

        exams = with_edits(exams, edits, settings.result_name)
    return sorted(exams, key=lambda exam: (exam.subject, exam.session or ''))


def share_template(exams: list[Exam], settings: Settings) -> dict[str, list[Exam]]:
    """Return the exams that share a within-subject template, by subject.

    These are the exams of a subject that can be processed and are not registered already, where
    there are two or more and the settings ask for it.
    """
    if not settings.unbiased:
        return {}
    groups: dict[str, list[Exam]] = {}
    for exam in exams:
        if exam.problem is None and not exam.registered:
            groups.setdefault(exam.subject, []).append(exam)
    return {subject: group for subject, group in groups.items() if len(group) > 1}


def with_reference_notes(exams: list[Exam], settings: Settings) -> list[Exam]:
    """Add a note to each exam that cannot share a template although the settings ask for it."""
    sharing = {exam.label for group in share_template(exams, settings).values() for exam in group}
    note = 'Aligned on its own: no other session was selected that it could share a template with.'
    return [
        replace(exam, notes=(*exam.notes, note))
        if settings.unbiased and exam.problem is None and exam.label not in sharing
        else exam
        for exam in exams
    ]


def open_layout(
    root: Path, database: Path | None = None, subjects: Collection[str] = ()
) -> BIDSLayout:
    """Index a dataset without validating it and without reading its metadata files.

    Parameters
    ----------
    root : Path
    database : Path, optional
        Folder of a PyBIDS database; it holds everybody, whoever is asked for.
    subjects : collection of str
        Labels of those to index, where there is no database; empty for all. One task of a
        large study then does not walk through the folders of the others.
    """
    from bids import BIDSLayout, BIDSLayoutIndexer

    ignore: list[str | re.Pattern[str]] = [
        'code', 'sourcedata', 'stimuli', 'models', 'derivatives', 'work',
    ]  # fmt: skip
    if 0 < len(subjects) <= _MOST_NAMED and database is None:
        kept = '|'.join(re.escape(label) for label in sorted(subjects))
        ignore.append(re.compile(rf'^/sub-(?!(?:{kept})(?:/|$))[^/]*(?:/|$)'))
    indexer = BIDSLayoutIndexer(
        validate=False,
        index_metadata=False,
        ignore=ignore,
    )
    return BIDSLayout(root, validate=False, indexer=indexer, database_path=database)


def check_dataset(root: Path) -> None:
    """Make sure that a folder exists and looks like a BIDS dataset.

    Raises
    ------
    NoInputError
        If it does not exist.
    InvalidBIDSError
        If it has no ``dataset_description.json``.
    """
    if not root.is_dir():
        raise NoInputError(
            f'The BIDS folder {root} does not exist.',
            'Check the path. In a container, mount it: '
            f'docker run -v {root.absolute()}:/data:ro … mslesseg /data /out participant',
        )
    if not (root / 'dataset_description.json').is_file():
        raise InvalidBIDSError(
            f'{root} is not a BIDS dataset: it has no dataset_description.json.',
            'Give the folder that holds dataset_description.json and the sub-* folders.',
        )


def _select_subjects(layout: BIDSLayout, settings: Settings) -> list[str]:
    present = sorted(layout.get_subjects())
    if not present and not any(settings.bids_dir.glob('sub-*/**/*.nii*')):
        raise NoInputError(
            f'{settings.bids_dir} holds no sub-* folder with images.',
            'Give the folder that holds the sub-* folders.',
        )
    if not settings.participants:
        return present
    unknown = [label for label in settings.participants if label not in present]
    if unknown:
        raise NothingSelectedError(
            f'No such participant in {settings.bids_dir}: {", ".join(unknown)}.',
            f'The dataset holds: {_shortened(_folders(settings.bids_dir))}.',
        )
    return [label for label in present if label in settings.participants]


def _folders(root: Path) -> list[str]:
    return sorted(path.name.removeprefix('sub-') for path in root.glob('sub-*') if path.is_dir())


def _shortened(labels: list[str], most: int = 20) -> str:
    rest = f' … ({len(labels)} in all)' if len(labels) > most else ''
    return ', '.join(labels[:most]) + rest


def _subject_exams(layout: BIDSLayout, subject: str, settings: Settings) -> list[Exam]:
    found = {
        modality: _query(layout, subject, modality, settings) for modality in settings.modalities
    }
    sessions = {image.entities.get('session') for images in found.values() for image in images}
    if settings.sessions:
        # The execution specification keeps files that lack the entity of a filter.
        sessions = {name for name in sessions if name is None or name in settings.sessions}
    exams = []
    for session in sorted(sessions, key=lambda name: name or ''):
        candidates = {
            modality: [item for item in images if item.entities.get('session') == session]
            for modality, images in found.items()
        }
        exams.append(_make_exam(subject, session, candidates, settings))
    if not exams and not settings.sessions:
        problem = NoInputError(
            f'sub-{subject} has no FLAIR, T1w or T2w image.',
            'Nothing can be done for this participant; leave it out with --participant-label.',
        )
        exams = [Exam(subject, None, {}, missing=settings.modalities, problem=problem)]
    return exams


def _query(
    layout: BIDSLayout, subject: str, modality: str, settings: Settings
) -> list[BIDSImageFile]:
    filters: dict[str, Any] = {'suffix': modality, 'extension': ['.nii', '.nii.gz']}
    filters |= _as_queries(settings.bids_filters.get(modality.lower(), {}))
    files: list[BIDSImageFile] = layout.get(
        **{**filters, 'subject': subject}, invalid_filters='allow'
    )
    return files


def _as_queries(filters: dict[str, Any]) -> dict[str, Any]:
    """Translate JSON's ``null`` and ``"*"`` into PyBIDS' "absent" and "any"."""
    from bids.layout import Query

    special = {None: Query.NONE, '*': Query.ANY}
    return {
        entity: special[value] if value is None or value == '*' else value
        for entity, value in filters.items()
    }


def _make_exam(
    subject: str,
    session: str | None,
    candidates: dict[str, list[BIDSImageFile]],
    settings: Settings,
) -> Exam:
    images: dict[str, Path] = {}
    notes: list[str] = []
    for modality, files in candidates.items():
        if not files:
            continue
        chosen = max(files, key=_rank)
        images[modality] = Path(chosen.path)
        if len(files) > 1:
            notes.append(_choice_note(modality, chosen, files))
    missing = tuple(name for name in settings.modalities if name not in images)
    notes += [f'No {name} image in this exam.' for name in missing]
    exam = Exam(subject, session, images, missing=missing, notes=tuple(notes))
    lacking = [name for name in settings.require if name not in images]
    if lacking:
        problem = NoInputError(
            f'{exam.label} has no {" and no ".join(lacking)} image.',
            'The lesion mask is drawn on the FLAIR, which every exam needs.'
            if 'FLAIR' in lacking
            else 'Leave it out of --require to go on without it.',
        )
        return replace(exam, problem=problem)
    return replace(exam, registered=bool(images) and all(map(_on_template, images.values())))


def _rank(image: BIDSImageFile) -> tuple[bool, bool, int, str]:
    """Order candidates: 3D before 2D, no contrast agent, last run."""
    run = image.entities.get('run')
    return (
        _is_3d(image),
        'ceagent' not in image.entities,
        int(run) if run is not None else 0,
        image.filename,
    )


def _is_3d(image: BIDSImageFile) -> bool:
    acquisition = str(image.entities.get('acquisition', '')).lower()
    if '3d' in acquisition or '2d' in acquisition:
        return '3d' in acquisition
    sidecar = Path(image.path.split('.nii')[0] + '.json')
    if sidecar.is_file():
        try:
            kind = json.loads(sidecar.read_text(encoding='utf-8')).get('MRAcquisitionType')
        except (ValueError, AttributeError):
            kind = None
        if kind in ('2D', '3D'):
            return bool(kind == '3D')
    return _thickest(Path(image.path)) <= _MAX_3D_THICKNESS


def _thickest(path: Path) -> float:
    """Return the longest voxel edge in mm, infinite for a file that cannot be read."""
    try:
        return float(max(nb.load(path).header.get_zooms()[:3]))
    except UNREADABLE:
        return float('inf')


def _on_template(path: Path) -> bool:
    try:
        return is_template_grid(nb.load(path))
    except UNREADABLE:
        return False


def _choice_note(modality: str, chosen: BIDSImageFile, files: list[BIDSImageFile]) -> str:
    others = ', '.join(sorted(item.filename for item in files if item is not chosen))
    return (
        f'{modality}: {chosen.filename} was chosen (3D before 2D, then no contrast agent, '
        f'then the last run); not used: {others}.'
    )


def _raise_nothing_found(settings: Settings) -> None:
    if settings.sessions:
        raise NothingSelectedError(
            f'No image of session {", ".join(settings.sessions)} in {settings.bids_dir}.',
            'Check --session-label: labels are given without "ses-" or with it.',
        )
    raise NoInputError(f'{settings.bids_dir} holds no FLAIR, T1w or T2w image.')


def _with_references(exams: list[Exam], root: Path, subjects: Collection[str]) -> list[Exam]:
    if not root.is_dir():
        raise NoInputError(
            f'The folder of reference masks {root} does not exist.',
            'Check --derivatives manual=PATH.',
        )
    layout = open_layout(root, subjects=subjects)
    return [replace(exam, reference=_find_reference(layout, exam)) for exam in exams]


def _find_reference(layout: BIDSLayout, exam: Exam) -> Path | None:
    """Return the lesion mask of an exam; one on the FLAIR's own grid is preferred."""
    found = layout.get(
        subject=exam.subject, suffix='mask', extension=['.nii', '.nii.gz'], invalid_filters='allow'
    )
    masks = [
        Path(item.path)
        for item in found
        if item.entities.get('session') in (exam.session, None) and _is_lesion_name(item.filename)
    ]
    flair = exam.images.get('FLAIR')
    return min(masks, key=lambda path: (not _same_shape(path, flair), path.name), default=None)


def _is_lesion_name(name: str) -> bool:
    return any(f'_label-{label}_' in name for label in ('lesion', 'L', 'WMH'))


def _same_shape(first: Path, second: Path | None) -> bool:
    if second is None:
        return False
    try:
        return bool(nb.load(first).shape == nb.load(second).shape)
    except UNREADABLE:
        return False
