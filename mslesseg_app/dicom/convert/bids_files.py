"""The files around the images of a BIDS dataset: added to where they exist, never replaced."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mslesseg_app import __version__
from mslesseg_app.core.errors import OutputError
from mslesseg_app.core.files import write_json, write_text

Rows = list[dict[str, str]]

IGNORED = ('series.tsv', 'series.json')

_README = """# Brain MRI, from DICOM

Made by `mslesseg convert` (HeuDiConv, dcm2niix). Names, numbers, addresses and private elements
were taken out of the headers before the conversion; all dates are shifted, by days that are
secret and the same for all images of a subject, to before 1925. {faces}

`series.tsv` reports what became of every series of the scanner, and why.
"""
_README_HEAD = _README.partition(')')[0]
#: What became of the face in an image.
FACE_LEVELS = {
    'removed': 'The face was removed.',
    'not there': 'The field of view holds no face, or the image holds no more than the brain.',
    'kept': 'The face was not removed.',
}

SERIES_COLUMNS: dict[str, dict[str, Any]] = {
    'participant_id': {'Description': 'Subject.'},
    'session_id': {'Description': 'Session.'},
    'series_number': {'Description': 'Number that the scanner gave the series.'},
    'description': {'Description': 'Name of the series, without what tells who the person is.'},
    'vendor': {'Description': 'Maker of the scanner.'},
    'files': {'Description': 'DICOM files, duplicates left out.'},
    'slices': {'Description': 'Images in these files.'},
    'RepetitionTime': {'Description': 'Repetition time.', 'Units': 's'},
    'EchoTime': {'Description': 'Echo time.', 'Units': 's'},
    'InversionTime': {'Description': 'Inversion time.', 'Units': 's'},
    'FlipAngle': {'Description': 'Flip angle.', 'Units': 'deg'},
    'decision': {
        'Description': 'What became of the series.',
        'Levels': {
            'converted': 'It is in the dataset.',
            'left out': 'It is none of the images that are needed.',
            'failed': 'It should be in the dataset and is not.',
        },
    },
    'reason': {'Description': 'Why.'},
    'output': {'Description': 'Image, relative to the dataset.'},
    'face': {'Description': 'What became of the face.', 'Levels': FACE_LEVELS},
    'remarks': {'Description': 'What is unusual about the series.'},
}
_PARTICIPANTS: dict[str, dict[str, Any]] = {
    'participant_id': {'Description': 'Subject.'},
    'age': {
        'Description': 'Age at the first examination that was converted; 89 is 89 or more.',
        'Units': 'year',
    },
    'sex': {
        'Description': 'Sex by the DICOM headers.',
        'Levels': {'F': 'female', 'M': 'male', 'O': 'other'},
    },
}
_SHIFTED = (
    'Date, shifted by days that are secret and the same for all images of a subject; the time of '
    'day is left out.'
)
_SESSIONS = {
    'session_id': {'Description': 'Session.'},
    'acq_time': {'Description': _SHIFTED},
}
_SCANS = {'filename': {'Description': 'File.'}, 'acq_time': {'Description': _SHIFTED}}


def check_dataset(bids_dir: Path) -> None:
    """Make sure that a folder is empty, new, or a raw BIDS dataset.

    Raises
    ------
    OutputError
        If it holds something else.
    """
    path = bids_dir / 'dataset_description.json'
    if not path.exists():
        others = [item.name for item in bids_dir.iterdir()] if bids_dir.is_dir() else []
        others = [name for name in others if not name.startswith('.')]
        if others and not any(name.startswith('sub-') for name in others):
            raise OutputError(
                f'{bids_dir} is neither empty nor a BIDS dataset.',
                'Choose a folder that is empty or does not exist.',
            )
        return
    if _read_json(path).get('DatasetType', 'raw') != 'raw':
        raise OutputError(
            f'{bids_dir} holds a dataset of derivatives.', 'Choose another folder for raw data.'
        )


def write_top(bids_dir: Path) -> None:
    """Write description and ``.bidsignore`` where there are none."""
    path = bids_dir / 'dataset_description.json'
    if not path.exists():
        write_json(path, _description())
    ignore = bids_dir / '.bidsignore'
    lines = _read_text_file(ignore).splitlines() if ignore.exists() else []
    lines += [line for line in IGNORED if line not in lines]
    write_text(ignore, '\n'.join(lines) + '\n')


def write_readme(bids_dir: Path) -> None:
    """Write the README after the table of the series; one that is not ours stays."""
    path = bids_dir / 'README.md'
    others = [found for found in bids_dir.glob('README*') if found != path]
    if others or (path.exists() and not _read_text_file(path).startswith(_README_HEAD)):
        return
    _, rows = _read_table(bids_dir / 'series.tsv')
    faces = [row.get('face', 'n/a') for row in rows if row.get('decision') == 'converted']
    write_text(path, _README.format(faces=_about_faces(faces)))


def _about_faces(faces: Sequence[str]) -> str:
    kept = sum(face not in ('removed', 'not there') for face in faces)
    if not faces:
        return 'It holds no images yet.'
    if not kept:
        return 'Faces were removed from all images whose field of view holds one.'
    return (
        f'Faces were NOT removed from {kept} of {len(faces)} images: people can be recognised in '
        'them. The column `face` of `series.tsv` names these images.'
    )


def _description() -> dict[str, Any]:
    import bidsschematools.schema

    names = ('heudiconv', 'dcm2niix', 'dicom-anonymizer')
    return {
        'Name': 'Brain MRI',
        'BIDSVersion': str(bidsschematools.schema.load_schema().bids_version),
        'DatasetType': 'raw',
        'GeneratedBy': [
            {
                'Name': 'mslesseg',
                'Version': __version__,
                'CodeURL': 'https://github.com/mslesseg/mslesseg',
                'Description': 'De-identification, conversion and tables.',
            },
            *({'Name': name, 'Version': version(name)} for name in names),
        ],
    }


def add_participants(bids_dir: Path, rows: Rows) -> None:
    """Add subjects to ``participants.tsv``."""
    _add(bids_dir / 'participants.tsv', rows, ('participant_id',), _PARTICIPANTS)


def add_sessions(bids_dir: Path, label: str, rows: Rows) -> None:
    """Add sessions to a subject's ``sessions.tsv``."""
    path = bids_dir / f'sub-{label}' / f'sub-{label}_sessions.tsv'
    _add(path, rows, ('session_id',), _SESSIONS)


def add_scans(bids_dir: Path, label: str, session: str, rows: Rows) -> None:
    """Add images to the ``scans.tsv`` of a session."""
    names = [f'sub-{label}', *([f'ses-{session}'] if session else [])]
    path = bids_dir.joinpath(*names) / f'{"_".join(names)}_scans.tsv'
    _add(path, rows, ('filename',), _SCANS)


def add_series(bids_dir: Path, rows: Rows) -> None:
    """Add series to the table of the conversion; of a series that is there, the row is renewed."""
    keys = ('participant_id', 'session_id', 'series_number', 'description', 'slices', 'EchoTime')
    _add(bids_dir / 'series.tsv', rows, keys, SERIES_COLUMNS, renew=True)


def _add(
    path: Path,
    rows: Rows,
    keys: Sequence[str],
    columns: Mapping[str, Any],
    renew: bool = False,
) -> None:
    """Merge rows into a table and its dictionary."""
    header, known = _read_table(path)
    merged: dict[tuple[tuple[str, ...], int], dict[str, str]] = {}
    for new, several in ((False, known), (True, rows)):
        met: dict[tuple[str, ...], int] = {}
        for row in several:
            key = tuple(row.get(name, 'n/a') for name in keys)
            met[key] = met.get(key, 0) + 1
            place = (key, met[key])
            if place not in merged or (new and renew):
                merged[place] = row
    names = list(dict.fromkeys([*header, *columns]))
    ordered = sorted(merged.items()) if not renew else sorted(merged.items(), key=_natural)
    write_text(path, format_table(names, [row for _, row in ordered]))
    _add_dictionary(path.with_suffix('.json'), columns)


def _natural(item: tuple[tuple[tuple[str, ...], int], Any]) -> tuple:
    (key, number), _ = item
    return (*((int(word), word) if word.isdigit() else (0, word) for word in key), number)


def _read_table(path: Path) -> tuple[list[str], Rows]:
    if not path.exists():
        return [], []
    lines = _read_text_file(path).removeprefix('\ufeff').splitlines()
    reader = csv.DictReader(lines, delimiter='\t', restval='n/a', quoting=csv.QUOTE_NONE)
    rows = [{k: v for k, v in row.items() if isinstance(k, str)} for row in reader]
    return list(reader.fieldnames or []), rows


def _read_text_file(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f'{path} cannot be read: {error}', 'Mend or remove it.') from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text_file(path))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise OutputError(f'{path} is no JSON object.', 'Mend or remove it.')
    return content


def format_table(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Return rows as TSV text; ``n/a`` for what is missing."""
    text = io.StringIO()
    for row in ({name: name for name in columns}, *rows):
        cells = [' '.join(str(row.get(name) or 'n/a').split()) for name in columns]
        text.write('\t'.join(cells) + '\n')
    return text.getvalue()


def _add_dictionary(path: Path, columns: Mapping[str, Any]) -> None:
    known = _read_json(path) if path.exists() else {}
    if set(columns) - set(known):
        write_json(path, {**columns, **known})
