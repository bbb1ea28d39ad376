"""Writing what was read as a BIDS dataset, each rater's masks as a derivative dataset.

Images are copied, never linked: a dataset that is moved or mounted elsewhere stays whole, and no
one who edits it changes the source. Compressed images keep their bytes. Every file appears under
its name only when it is complete; a second import writes what is missing or has changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mslesseg_app import __version__
from mslesseg_app.bids.public.archive import opened
from mslesseg_app.bids.public.found_cases import MANUAL, Case, Release
from mslesseg_app.bids.public.layouts import read_release
from mslesseg_app.bids.public.reading import Reading, read_case, refuse_duplicates
from mslesseg_app.bids.public.release_tables import (
    PARTICIPANTS,
    SESSIONS,
    acquisitions,
    check_volume,
    clinical_scans,
    participant_rows,
    session_rows,
    sidecar_of_image,
)
from mslesseg_app.core.errors import OutputError
from mslesseg_app.core.files import explain_os_error, publish, write_bytes, write_json, write_text
from mslesseg_app.spatial.grids import compressed
from mslesseg_app.spatial.reading import open_image

GENERATOR = 'mslesseg import'
REPORT = 'import_report.tsv'
BIDS_VERSION = '1.10.1'

_COLUMNS = ('source_id', 'participant_id', 'session_id', 'split', 'status', 'images', 'masks')
_README = """# {title}

Imported by `{generator}`. Patients have the labels `sub-<label>`, exams `ses-<number>`;
`source_id` in `participants.tsv` and in `sub-*_sessions.tsv` is what the data set calls them.
Images are the published ones{state}. The manual lesion masks lie in `derivatives/manual`, on the
grid of each FLAIR. `{report}` says what was taken and what was left out, and why.

Please cite: {citation}
"""
_README_MASKS = """# {title}: {name}

One mask an exam, of zeros and ones, on the grid of the exam's FLAIR, with the values that the
published data set gives. Exams whose mask was damaged, empty or on another grid are not here.
"""


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes
    ----------
    bids_dir : Path
    layout : str
    readings : tuple of Reading
        One per case, those left out included.
    notes : tuple of str
        What is odd about the tables.
    """

    bids_dir: Path
    layout: str
    readings: tuple[Reading, ...]
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing that the data set holds was left out."""
        return not any(reading.refused or reading.lost for reading in self.readings)


def import_release(
    source: Path,
    bids_dir: Path,
    layout: str = 'auto',
    tell: Callable[[int, int, Reading], None] | None = None,
) -> Imported:
    """Turn a public data set into BIDS.

    Parameters
    ----------
    source : Path
        Folder or zip; it is only read.
    bids_dir : Path
        Absent, empty, or an earlier import.
    layout : str
        See `mslesseg_app.bids.public.layouts.LAYOUTS`.
    tell : callable, optional
        Called after each case with its number, the number of all, and what was read.

    Raises
    ------
    NoInputError, UsageError, DataError
        If nothing can be read at all; a broken case does not stop the others.
    OutputError, DiskError
        If the dataset cannot be written.
    """
    _check_target(source, bids_dir)
    try:
        with opened(source, bids_dir) as folder:
            release = read_release(folder, layout)
            scans, notes = clinical_scans(release)
            _write_description(bids_dir, release)
            known = acquisitions(release)
            readings: list[Reading] = []
            for number, case in enumerate(release.cases, 1):
                reading = read_case(case)
                check_volume(reading, scans)
                readings.append(reading)
                refuse_duplicates(readings)
                _write_case(bids_dir, reading, known)
                if tell is not None:
                    tell(number, len(release.cases), reading)
            _write_tables(bids_dir, readings, scans)
            return Imported(bids_dir, release.layout, tuple(readings), tuple(notes))
    except OSError as error:
        raise explain_os_error(error, bids_dir) from error


def _check_target(source: Path, bids_dir: Path) -> None:
    """Refuse to write into the source, or into a folder that holds something else."""
    if source.resolve() in (bids_dir.resolve(), *bids_dir.resolve().parents):
        raise OutputError(f'{bids_dir} lies in the data set itself.', 'Choose another folder.')
    if bids_dir.exists() and not bids_dir.is_dir():
        raise OutputError(f'{bids_dir} is a file.', 'Name a new or empty folder.')
    if bids_dir.is_dir() and any(bids_dir.iterdir()) and not _is_ours(bids_dir):
        raise OutputError(
            f'{bids_dir} is not empty and no earlier import.', 'Name a new or empty folder.'
        )


def _is_ours(folder: Path) -> bool:
    try:
        content = json.loads((folder / 'dataset_description.json').read_text('utf-8'))
        return bool(content['GeneratedBy'][0]['Name'] == GENERATOR)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _write_description(root: Path, release: Release) -> None:
    """Write what stands at the top, so that an interrupted import is known as one."""
    source = release.provenance
    state = ', brain-extracted' if source.stripped else ''
    if release.layout == 'mslesseg':
        state += ' and registered to MNI152 at 1 mm'
    common: dict[str, Any] = {
        'BIDSVersion': BIDS_VERSION,
        'License': source.licence,
        'Authors': list(source.authors),
        'HowToAcknowledge': f'Please cite: {source.citation}',
        'ReferencesAndLinks': [source.doi.replace('doi:', 'https://doi.org/')],
    }
    made_by = {'Name': GENERATOR, 'Version': __version__}
    raw = common | {
        'Name': source.title,
        'DatasetType': 'raw',
        'GeneratedBy': [made_by],
        'SourceDatasets': [{'DOI': source.doi}],
    }
    write_json(root / 'dataset_description.json', raw)
    readme = _README.format(
        title=source.title,
        generator=GENERATOR,
        state=state,
        report=REPORT,
        citation=source.citation,
    )
    write_text(root / 'README.md', readme)
    write_text(root / '.bidsignore', f'{REPORT}\n')
    for rater in sorted({rater for case in release.cases for rater in case.masks}):
        _describe_masks(root / 'derivatives' / rater, common, source.title, rater)


def _describe_masks(root: Path, common: Mapping[str, Any], title: str, rater: str) -> None:
    name = 'manual lesion masks' if rater == MANUAL else f'lesion masks of {rater}'
    description = {
        **common,
        'Name': f'{title}: {name}',
        'DatasetType': 'derivative',
        'GeneratedBy': [{'Name': 'manual', 'Description': f'Taken over by {GENERATOR}.'}],
        'SourceDatasets': [{'URL': '../../'}],
        'DatasetLinks': {'raw': '../../'},
    }
    write_json(root / 'dataset_description.json', description)
    write_text(root / 'README.md', _README_MASKS.format(title=title, name=name))


def _write_case(root: Path, reading: Reading, known: Mapping[Any, dict[str, Any]]) -> None:
    case = reading.case
    raters = [path.name for path in (root / 'derivatives').glob('*') if path.is_dir()]
    if reading.refused:
        for folder in (root, *(root / 'derivatives' / rater for rater in raters)):
            shutil.rmtree(folder / case.folder.parent, ignore_errors=True)
        return
    for modality, path in reading.images.items():
        target = root / case.folder / f'{case.stem}_{modality}.nii.gz'
        if path.name.endswith('.gz'):
            publish(path, target)
        else:
            write_bytes(target, compressed(open_image(path)))
        fields = sidecar_of_image(case, modality, known)
        if fields:
            write_json(target.with_name(f'{case.stem}_{modality}.json'), fields)
    for rater, mask in reading.masks.items():
        _write_mask(root / 'derivatives' / rater, case, mask, rater)


def _write_mask(root: Path, case: Case, mask: Any, rater: str) -> None:
    path = root / case.folder / f'{case.stem}_space-orig_label-lesion_mask.nii.gz'
    uri = f'bids:raw:{(case.folder / f"{case.stem}_FLAIR.nii.gz").as_posix()}'
    write_bytes(path, compressed(mask))
    sidecar = {
        'Type': 'Lesion',
        'Description': f'Manual lesion mask ({rater}).',
        'Sources': [uri],
        'SpatialReference': uri,
        'Manual': True,
    }
    write_json(path.with_name(path.name.replace('.nii.gz', '.json')), sidecar)


def _write_tables(root: Path, readings: list[Reading], scans: Mapping[Any, Any]) -> None:
    taken = [reading for reading in readings if not reading.refused]
    rows = participant_rows(taken, scans)
    write_text(root / 'participants.tsv', _tsv(PARTICIPANTS, rows))
    write_json(root / 'participants.json', PARTICIPANTS)
    by_subject: dict[str, list[Reading]] = {}
    for reading in taken:
        by_subject.setdefault(reading.case.subject, []).append(reading)
    for subject, parts in by_subject.items():
        path = root / f'sub-{subject}' / f'sub-{subject}_sessions.tsv'
        write_text(path, _tsv(SESSIONS, session_rows(parts, scans)))
    write_json(root / 'sessions.json', SESSIONS)
    write_text(root / REPORT, _tsv((*_COLUMNS, 'note'), map(report_row, readings)))
    left = {f'sub-{subject}' for subject in by_subject}
    for folder in root.glob('sub-*'):
        if folder.name not in left:
            shutil.rmtree(folder, ignore_errors=True)


def report_row(reading: Reading) -> dict[str, str]:
    """Return the row of a case in the report."""
    case = reading.case
    said = [reading.refused] if reading.refused else [*reading.lost, *reading.remarks]
    return {
        'source_id': case.name,
        'participant_id': f'sub-{case.subject}',
        'session_id': f'ses-{case.session}',
        'split': case.split or 'n/a',
        'status': reading.status,
        'images': '+'.join(reading.images) or 'n/a',
        'masks': '+'.join(reading.masks) or 'n/a',
        'note': '; '.join(said).replace('\t', ' ').replace('\n', ' ') or 'n/a',
    }


def _tsv(columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> str:
    names = list(columns)
    lines = ['\t'.join(names), *('\t'.join(row[name] for name in names) for row in rows)]
    return '\n'.join(lines) + '\n'
