"""Tables of a data set: patients, sessions and acquisition, as BIDS has them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mslesseg_app.bids.public.acquisition import read_scanner_rows
from mslesseg_app.bids.public.clinical import Scan, read_cohort
from mslesseg_app.bids.public.found_cases import Case, Release
from mslesseg_app.bids.public.reading import Reading

PARTICIPANTS: dict[str, dict[str, Any]] = {
    'participant_id': {'Description': 'Label of the patient in this dataset.'},
    'source_id': {'Description': 'What the data set calls the patient.'},
    'split': {
        'Description': 'Part of the data set.',
        'Levels': {'train': 'for training', 'test': 'kept for testing'},
    },
    'timepoints': {'Description': 'Number of exams that were imported.'},
    'age': {'Description': 'Age at the first exam.', 'Units': 'year'},
    'sex': {'Description': 'Sex.', 'Levels': {'M': 'male', 'F': 'female'}},
    'ms_type': {
        'Description': 'Course of the disease.',
        'Levels': {
            'RRMS': 'relapsing-remitting',
            'SPMS': 'secondary progressive',
            'PPMS': 'primary progressive',
        },
    },
    'edss': {'Description': 'Expanded Disability Status Scale at the first exam, 0 to 10.'},
}
SESSIONS: dict[str, dict[str, Any]] = {
    'session_id': {'Description': 'Label of the session.'},
    'source_id': {'Description': 'What the data set calls the exam.'},
    'age': PARTICIPANTS['age'] | {'Description': 'Age at this exam.'},
    'edss': PARTICIPANTS['edss'] | {'Description': 'EDSS at this exam, 0 to 10.'},
    'lesion_volume': {
        'Description': 'Volume of all lesions as the data set states it.',
        'Units': 'mm^3',
    },
    'lesions': {'Description': 'Number of lesions as the data set states it.'},
}

#: Field of the scanner tables, the key of a sidecar, and the factor between their units.
_SIDECAR = {
    'TR': ('RepetitionTime', 1e-3),
    'TE': ('EchoTime', 1e-3),
    'TI': ('InversionTime', 1e-3),
    'flip': ('FlipAngle', 1.0),
    'thickness': ('SliceThickness', 1.0),
}
Key = tuple[str, str]


def clinical_scans(release: Release) -> tuple[dict[Key, Scan], list[str]]:
    """Return the rows of the table of patients by patient and timepoint, and its oddities."""
    if release.clinical is None:
        return {}, []
    cohort = read_cohort(release.clinical)
    return {(scan.patient, scan.timepoint): scan for scan in cohort.scans}, list(cohort.notes)


def scan_of(case: Case, scans: Mapping[Key, Scan]) -> Scan | None:
    """Return the row of a case; tables may name the timepoint where folders do not, or not."""
    keys = [(case.patient, case.timepoint), (case.patient, f'T{case.session}'), (case.patient, '')]
    return next((scans[key] for key in keys if key in scans), None)


def participant_rows(
    readings: Sequence[Reading], scans: Mapping[Key, Scan]
) -> list[dict[str, str]]:
    """Return one row of ``participants.tsv`` a patient."""
    by_subject: dict[str, list[Case]] = {}
    for reading in readings:
        by_subject.setdefault(reading.case.subject, []).append(reading.case)
    rows = []
    for subject, cases in sorted(by_subject.items()):
        scan = scan_of(cases[0], scans)
        rows.append(
            {
                'participant_id': f'sub-{subject}',
                'source_id': cases[0].patient,
                'split': cases[0].split or 'n/a',
                'timepoints': str(len(cases)),
                'age': _number_cell(scan.age if scan else math.nan),
                'sex': {'male': 'M', 'female': 'F'}.get(scan.sex if scan else '', 'n/a'),
                'ms_type': (scan.ms_type if scan else '') or 'n/a',
                'edss': _number_cell(scan.edss if scan else math.nan),
            }
        )
    return rows


def session_rows(readings: Iterable[Reading], scans: Mapping[Key, Scan]) -> list[dict[str, str]]:
    """Return one row of ``sub-<label>_sessions.tsv`` for each exam of one patient."""
    rows = []
    for case in (reading.case for reading in readings):
        scan = scan_of(case, scans) or Scan(case.patient)
        rows.append(
            {
                'session_id': f'ses-{case.session}',
                'source_id': case.name,
                'age': _number_cell(scan.age),
                'edss': _number_cell(scan.edss),
                'lesion_volume': _number_cell(scan.volume_mm3),
                'lesions': _number_cell(scan.lesions),
            }
        )
    return rows


def check_volume(reading: Reading, scans: Mapping[Key, Scan]) -> None:
    """Remark where the mask has another volume than the table says."""
    scan = scan_of(reading.case, scans)
    stated = scan.volume_mm3 if scan else math.nan
    found = reading.volume_mm3
    if math.isfinite(stated) and found and abs(stated - found) > max(1.0, 0.001 * stated):
        reading.remarks.append(
            f'the table says {stated:g} mm³ of lesions, the mask has {found:g} mm³'
        )


def acquisitions(release: Release) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return sidecar fields by modality, patient and timepoint, from the scanner tables."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    if release.scanners is None:
        return found
    for modality, rows in read_scanner_rows(release.scanners).items():
        for (patient, timepoint), values in rows:
            fields = {
                name: round(values[key] * factor, 9)
                for key, (name, factor) in _SIDECAR.items()
                if values.get(key, 0) > 0
            }
            if fields:
                found[modality, patient, timepoint] = fields
    return found


def sidecar_of_image(
    case: Case, modality: str, known: Mapping[tuple[str, str, str], dict[str, Any]]
) -> dict[str, Any]:
    """Return what the scanner tables say of one image."""
    for timepoint in (case.timepoint, f'T{case.session}', ''):
        if (modality, case.patient, timepoint) in known:
            return known[modality, case.patient, timepoint]
    return {}


def _number_cell(value: float) -> str:
    return f'{value:.10g}' if math.isfinite(value) else 'n/a'
