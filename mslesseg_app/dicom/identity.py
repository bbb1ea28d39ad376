"""Who becomes which subject: the one file that leads from a subject back to a person."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from filelock import FileLock, Timeout

from mslesseg_app.core.errors import BusyError, DataError, UsageError
from mslesseg_app.core.files import explain_os_error

#: Days by which dates go back: 110 to 150 years, so that all are before 1925, which is how BIDS
#: marks dates as shifted.
_LEAST_DAYS, _RANGE_DAYS = 40_200, 14_610
_WAIT_S = 60.0
_OTHERS = 0o077
_LABEL = re.compile(r'[A-Za-z0-9]+')


@dataclass(frozen=True)
class SubjectIdentity:
    """What stands for a person from now on.

    Attributes
    ----------
    label : str
        BIDS label, without ``sub-``.
    days : int
        Secret shift of dates (days), never 0, the same for all studies of the person.
    secret : bytes
        32 bytes from which the person's new UIDs are made.
    """

    label: str
    days: int
    secret: bytes


def patient_key(dataset: pydicom.Dataset) -> str:
    """Return what a patient is known by: ID and its issuer, else name and birth date.

    An empty string when the header holds none of them.
    """
    number, issuer, name, birth = (
        ' '.join(str(dataset.get(keyword) or '').split())
        for keyword in ('PatientID', 'IssuerOfPatientID', 'PatientName', 'PatientBirthDate')
    )
    if number:
        return json.dumps([number, issuer] if issuer else [number], ensure_ascii=False)
    if name or birth:
        return json.dumps(['', '', name.casefold(), birth], ensure_ascii=False)
    return ''


class SubjectMap:
    """The file that keeps label and secrets of each patient (JSON, readable by its owner only).

    Parameters
    ----------
    path : Path
        The file. It is made when it does not exist; so is its folder, with mode 0700.

    Raises
    ------
    UsageError
        If the file lies in a BIDS dataset, or others may enter its folder or read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        _refuse_in_dataset(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _refuse_open(self.path.parent, 'chmod 700')
            if self.path.exists():
                _refuse_open(self.path, 'chmod 600')
        except OSError as error:
            raise explain_os_error(error, self.path) from error

    def subject(
        self, patient: str, label: str | None = None, avoid: Collection[str] = ()
    ) -> SubjectIdentity:
        """Return the subject of a patient, the same one for ever.

        Parameters
        ----------
        patient : str
            See :func:`patient_key`.
        label : str or None
            Wanted BIDS label; the next free number when not given.
        avoid : collection of str
            Labels that are not free, because a dataset has them of somebody else.

        Raises
        ------
        UsageError
            If the label is none of BIDS, belongs to somebody else, or the patient has another.
        DataError
            If the file is damaged.
        BusyError
            If another process keeps the file locked.
        """
        if label is not None and not _LABEL.fullmatch(label):
            raise UsageError(
                f'{label!r} is no BIDS label.', 'Use letters and digits only, such as 001.'
            )
        lock_path = self.path.with_name(f'.{self.path.name}.lock')
        lock = FileLock(lock_path, timeout=_WAIT_S, mode=0o600)
        try:
            with lock:
                patients = self._read_patients()
                if patient not in patients:
                    patients[patient] = _newcomer(_free_label(patients, label, avoid))
                    self._write(patients)
        except Timeout as error:
            raise BusyError(
                f'Another process keeps {self.path} locked.', 'Try again when it has ended.'
            ) from error
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        return _subject(patients[patient], label)

    def _read_patients(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        try:
            patients = json.loads(self.path.read_text(encoding='utf-8'))['patients']
            for entry in patients.values():
                _subject(entry, None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'The subject map {self.path} is damaged.',
                'Restore it from a copy. With a new one, known patients would get new labels and '
                'other dates.',
            ) from error
        found: dict[str, Any] = patients
        return found

    def _write(self, patients: dict[str, Any]) -> None:
        handle, name = tempfile.mkstemp(prefix='.tmp-', dir=self.path.parent)  # mode 0600
        try:
            with os.fdopen(handle, 'w', encoding='utf-8') as stream:
                json.dump({'patients': patients}, stream, indent=2, ensure_ascii=False)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, self.path)
        finally:
            Path(name).unlink(missing_ok=True)


def _newcomer(label: str) -> dict[str, Any]:
    days = -(_LEAST_DAYS + secrets.randbelow(_RANGE_DAYS))
    return {'label': label, 'days': days, 'secret': secrets.token_hex(32)}


def _subject(entry: dict[str, Any], label: str | None) -> SubjectIdentity:
    subject = SubjectIdentity(
        str(entry['label']), int(entry['days']), bytes.fromhex(entry['secret'])
    )
    if label is not None and label != subject.label:
        raise UsageError(
            f'This patient is known as sub-{subject.label} already, not as sub-{label}.',
            'Leave --subject away, or use another subject map.',
        )
    return subject


def _free_label(patients: dict[str, Any], label: str | None, avoid: Collection[str]) -> str:
    taken = {entry['label'] for entry in patients.values()}
    if label is None:
        taken |= set(avoid)
        numbers = (f'{number:03}' for number in range(1, len(taken) + 2))
        return next(number for number in numbers if number not in taken)
    if label in taken:
        raise UsageError(
            f'sub-{label} is another patient in the subject map.',
            'Choose another label, or convert the patients one by one.',
        )
    return label


def _refuse_in_dataset(path: Path) -> None:
    for folder in (*path.parents, *path.resolve().parents):
        if (folder / 'dataset_description.json').exists():
            raise UsageError(
                f'The subject map must not lie in the BIDS dataset {folder}.',
                'It tells who the subjects are: name a file elsewhere with --subject-map.',
            )


def _refuse_open(path: Path, remedy: str) -> None:
    if stat.S_IMODE(path.stat().st_mode) & _OTHERS:
        raise UsageError(
            f'Others than its owner have access to {path}, which tells who the subjects are.',
            f'Run "{remedy} {path}", or choose another place with --subject-map: a folder that '
            'does not exist yet is made so that only you may enter it.',
        )
