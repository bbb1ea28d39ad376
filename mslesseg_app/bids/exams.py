"""Exams in: what a BIDS dataset holds for each subject and session, found with PyBIDS."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nb

from mslesseg_app.bids.choice import choose_image
from mslesseg_app.bids.edits import with_edits
from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.ignore import IgnoredFiles
from mslesseg_app.bids.layout import MOST_NAMED, open_layout
from mslesseg_app.bids.metadata import Metadata
from mslesseg_app.bids.names import expected_outputs
from mslesseg_app.core.errors import (
    InvalidBIDSError,
    MSLesSegError,
    NoInputError,
    NothingSelectedError,
    OutputError,
    unforeseen,
)
from mslesseg_app.core.files import too_long
from mslesseg_app.core.settings import Settings
from mslesseg_app.spatial.checks import check_header
from mslesseg_app.spatial.nifti_header import damaged_qform
from mslesseg_app.spatial.reading import lacking, open_image
from mslesseg_app.spatial.registered import came_registered

if TYPE_CHECKING:
    from bids import BIDSLayout
    from bids.layout import BIDSImageFile


#: Labels up to this length cannot make names too long.
_SURELY_SHORT = 100
_LABEL = re.compile(r'[A-Za-z0-9+]+')
_SUFFIXES = ('.nii', '.nii.gz')
#: Formats of images that BIDS does not have, and spellings of those that it has.
_FOREIGN = (
    '.NII', '.NII.GZ', '.Nii', '.Nii.gz', '.nii.GZ', '.nii.bz2', '.nii.zst', '.hdr', '.img',
    '.img.gz', '.mgh', '.mgz', '.mnc', '.nrrd', '.mha',
)  # fmt: skip
_SFORM_USED = 'Warning: {}: its qform is damaged (it is no rotation); the sform was used.'
_LOGGER = logging.getLogger(__name__)


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
    dataset = _read_dataset(settings)
    subjects = _select_subjects(dataset)
    exams = [exam for subject in subjects for exam in _subject_exams(dataset, subject)]
    if not exams:
        _raise_nothing_found(settings)
    references = settings.derivatives.get('manual')
    if references is not None:
        exams = _with_references(exams, references, settings.participants)
    if (edits := settings.derivatives.get('edited')) is not None:
        exams = with_edits(exams, edits, settings.result_name)
    exams = [_with_name_check(exam, settings) for exam in exams]
    return sorted(exams, key=lambda exam: (exam.subject, exam.session or ''))


def _with_name_check(exam: Exam, settings: Settings) -> Exam:
    """Give an exam whose outputs would have too long names that problem."""
    if exam.problem is not None or len(exam.label) < _SURELY_SHORT:
        return exam
    for path in expected_outputs(exam, settings.result_name, settings.uncertainty != 'none'):
        if too_long(path):
            problem = OutputError(
                f'{exam.label}: an output would have a name of more than 255 bytes: {path.name}.',
                'Give the participant or the session a shorter label.',
            )
            return replace(exam, problem=problem)
    return exam


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


def check_dataset(root: Path) -> None:
    """Make sure that a folder exists and looks like a BIDS dataset.

    Raises
    ------
    NoInputError
        If it does not exist.
    InvalidBIDSError
        If it has no ``dataset_description.json``, or a damaged one.
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
    path = root / 'dataset_description.json'
    try:
        if not isinstance(json.loads(path.read_text(encoding='utf-8-sig')), dict):
            raise ValueError('it is no JSON object with names and values')
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidBIDSError(
            f'The file {path} is damaged: {error}.', 'Write it as JSON, encoded in UTF-8.'
        ) from error


def _select_subjects(dataset: _KnownDataset) -> list[str]:
    settings = dataset.settings
    present = [
        label
        for label in _folders(settings.bids_dir)
        if not dataset.ignored.ignores_folder(f'sub-{label}')
    ]
    if not present:
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
            f'The dataset holds: {_shortened(present)}.',
        )
    return [label for label in present if label in settings.participants]


def _folders(root: Path) -> list[str]:
    """Return the labels of the participants that have a folder."""
    names = sorted(path.name for path in root.glob('sub-*') if path.is_dir())
    labels = [name.removeprefix('sub-') for name in names]
    for label in labels:
        if not _LABEL.fullmatch(label):
            name = ascii(f'sub-{label}')
            _LOGGER.warning('The folder %s is left out: its name is no BIDS label.', name)
    return [label for label in labels if _LABEL.fullmatch(label)]


def _shortened(labels: list[str], most: int = 20) -> str:
    rest = f' … ({len(labels)} in all)' if len(labels) > most else ''
    return ', '.join(labels[:most]) + rest


def _subject_exams(dataset: _KnownDataset, subject: str) -> list[Exam]:
    settings = dataset.settings
    found, misplaced = _in_place(
        {modality: images.get(subject, []) for modality, images in dataset.found.items()},
        settings.bids_dir,
    )
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
        notes = [text for place, text in misplaced if place in (session, None)]
        try:
            exams.append(_make_exam(subject, session, candidates, notes, dataset))
        except Exception as error:  # noqa: BLE001 - the other exams must not be lost
            exam = Exam(subject, session, {}, settings.modalities, tuple(notes))
            problem = unforeseen(f'The images of {exam.label} cannot be inspected', error)
            exams.append(replace(exam, problem=problem))
    if not exams and not settings.sessions:
        problem = NoInputError(
            f'sub-{subject} has no FLAIR, T1w or T2w image.',
            'Nothing can be done for this participant; leave it out with --participant-label.',
        )
        every = tuple(text for _, text in misplaced)
        exams = [Exam(subject, None, {}, settings.modalities, every, problem=problem)]
    return exams


def _in_place(
    found: dict[str, list[BIDSImageFile]], root: Path
) -> tuple[dict[str, list[BIDSImageFile]], list[tuple[str | None, str]]]:
    """Leave out files of other formats, and those whose name does not agree with their folder.

    Returns
    -------
    found : dict
        The NIfTI files that lie in their place, by modality.
    misplaced : list of (session or None, text)
        Messages about the others, with the session of their folder.
    """
    kept: dict[str, list[BIDSImageFile]] = {}
    misplaced: list[tuple[str | None, str]] = []
    for modality, items in found.items():
        kept[modality] = []
        for item in items:
            folders = Path(item.path).relative_to(root).parts[:-1]
            prefix = '_'.join(part for part in folders if part != 'anat')
            here = folders[1].removeprefix('ses-') if len(folders) > 2 else None
            if item.entities.get('extension') in _FOREIGN:
                text = f'{modality}: {item.filename} is not used: '
                misplaced.append((here, text + 'images in BIDS are .nii or .nii.gz.'))
                continue
            if item.filename.startswith(prefix + '_') and item.entities.get('session') == here:
                kept[modality].append(item)
                continue
            text = f'{modality}: {item.filename} is not used: its name and its folder disagree.'
            misplaced.append((here, text))
    return kept, misplaced


def _query(
    layout: BIDSLayout, ignored: IgnoredFiles, modality: str, settings: Settings
) -> dict[str, list[BIDSImageFile]]:
    """Find the images of a modality by the folder of their subject, but for ignored ones."""
    filters: dict[str, Any] = {'suffix': modality, 'extension': [*_SUFFIXES, *_FOREIGN]}
    filters |= _as_queries(settings.bids_filters.get(modality.lower(), {}))
    filters.pop('subject', None)
    if 0 < len(settings.participants) <= MOST_NAMED:  # else looking through all is quicker
        filters['subject'] = list(settings.participants)
    found: dict[str, list[BIDSImageFile]] = {}
    for item in layout.get(**filters, invalid_filters='allow'):
        path = Path(item.path).relative_to(settings.bids_dir)
        if path.as_posix() not in ignored:
            found.setdefault(path.parts[0].removeprefix('sub-'), []).append(item)
    return found


def _as_queries(filters: dict[str, Any]) -> dict[str, Any]:
    """Translate JSON's ``null`` and ``"*"`` into PyBIDS' "absent" and "any"."""
    from bids.layout import Query

    special = {None: Query.NONE, '*': Query.ANY}
    return {
        entity: special[value] if value is None or value == '*' else value
        for entity, value in filters.items()
    }


@dataclass(frozen=True)
class _KnownDataset:
    """What is known of a dataset while its exams are collected."""

    found: dict[str, dict[str, list[BIDSImageFile]]]  # by modality and subject
    ignored: IgnoredFiles
    metadata: Metadata
    settings: Settings


def _read_dataset(settings: Settings) -> _KnownDataset:
    root = settings.bids_dir
    layout = open_layout(root, settings.bids_database_dir, settings.participants)
    loaded = _load_entities(layout)
    ignored = IgnoredFiles(root)
    found = {name: _query(layout, ignored, name, settings) for name in settings.modalities}
    del loaded
    return _KnownDataset(found, ignored, Metadata(root), settings)


def _load_entities(layout: BIDSLayout) -> list[BIDSImageFile]:
    """Read the entities of all files at once, and not file by file when they are asked for.

    They stay known as long as the files that are returned are held.
    """
    from bids.layout.models import BIDSFile
    from sqlalchemy.orm import selectinload

    files = layout.session.query(BIDSFile).filter_by(is_dir=False)
    found: list[BIDSImageFile] = files.options(selectinload(BIDSFile.tags)).all()
    return found


def _make_exam(
    subject: str,
    session: str | None,
    candidates: dict[str, list[BIDSImageFile]],
    notes: list[str],
    dataset: _KnownDataset,
) -> Exam:
    settings = dataset.settings
    images: dict[str, Path] = {}
    for modality, files in candidates.items():
        filters = settings.bids_filters.get(modality.lower(), {})
        choice = choose_image(modality, files, dataset.metadata, filters)
        notes += choice.notes
        if choice.image is not None:
            images[modality] = choice.image
    missing = tuple(name for name in settings.modalities if name not in images)
    notes += [f'No {name} image in this exam.' for name in missing]
    exam = Exam(subject, session, images, missing=missing, notes=tuple(notes))
    if problem := _problem(exam, settings):
        return replace(exam, problem=problem)
    registered, why_not = came_registered(images)
    more = [_SFORM_USED.format(name) for name, path in images.items() if damaged_qform(path)]
    more += [why_not] if why_not else []
    return replace(exam, registered=registered, notes=(*exam.notes, *more))


def _problem(exam: Exam, settings: Settings) -> MSLesSegError | None:
    """Say why an exam cannot be processed, as far as can be told without reading its images."""
    absent = [name for name in settings.require if name not in exam.images]
    if absent:
        return NoInputError(
            f'{exam.label} has no {" and no ".join(absent)} image.',
            'The lesion mask is drawn on the FLAIR, which every exam needs.'
            if 'FLAIR' in absent
            else 'Leave it out of --require to go on without it.',
        )
    for modality, path in exam.images.items():
        if isinstance(problem := lacking(path), NoInputError):
            hint = '' if modality == 'FLAIR' else f' Or leave it out: --ignore {modality.lower()}.'
            return NoInputError(problem.message, problem.hint + hint)
    return None


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
    return [_with_reference(exam, _find_reference(layout, exam)) for exam in exams]


def _with_reference(exam: Exam, path: Path | None) -> Exam:
    """Give an exam its reference mask, or the problem that the mask has."""
    if path is None:
        return exam
    try:
        image = open_image(path)
        if isinstance(image, nb.Nifti1Image):
            check_header(image, path)
    except MSLesSegError as error:
        message = f'The reference mask {error.message}'
        return replace(exam, problem=exam.problem or type(error)(message, error.hint))
    return replace(exam, reference=path)


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
        return bool(open_image(first).shape == open_image(second).shape)
    except MSLesSegError:
        return False
