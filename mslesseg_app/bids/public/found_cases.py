"""What a public data set holds, told the same way whatever its layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MANUAL = 'manual'
"""Name of the mask that training and evaluation take; further raters have names of their own."""


@dataclass(frozen=True)
class Case:
    """One exam as a data set has it.

    Attributes
    ----------
    name : str
        What the data set calls it, ``P18_T1``.
    patient, timepoint : str
        The same in parts, ``P18`` and ``T1``; no timepoint where the layout has none.
    images : mapping of modality to Path
        FLAIR, T1w, T2w; those that are there.
    masks : mapping of rater to Path
        `MANUAL` and maybe others.
    split : str
        ``train``, ``test`` or nothing.
    problem : str
        Why the layout itself forbids to take it; nothing if it does not.
    """

    name: str
    patient: str
    timepoint: str = ''
    images: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    split: str = ''
    problem: str = ''

    @property
    def subject(self) -> str:
        """BIDS label of the patient: letters and digits, numbers of two digits at least.

        Examples
        --------
        >>> Case('', 'P7').subject, Case('', 'training03').subject, Case('', 'C1_P2').subject
        ('P07', 'training03', 'C01P02')
        """
        padded = re.sub(r'\d+', lambda digits: digits.group().zfill(2), self.patient)
        return re.sub(r'[^A-Za-z0-9]', '', padded)

    @property
    def session(self) -> str:
        """BIDS label of the timepoint; ``1`` where there is but one."""
        digits = re.search(r'\d+', self.timepoint)
        return str(int(digits.group())) if digits else '1'

    @property
    def folder(self) -> Path:
        """Where its images go, relative to the dataset."""
        return Path(f'sub-{self.subject}', f'ses-{self.session}', 'anat')

    @property
    def stem(self) -> str:
        """Beginning of the names of its files."""
        return f'sub-{self.subject}_ses-{self.session}'


@dataclass(frozen=True)
class DatasetProvenance:
    """Whose data these are.

    Attributes
    ----------
    title, licence, citation : str
    doi : str
        Empty where there is none.
    authors : tuple of str
    stripped : bool
        Whether the skull was removed from its images.
    """

    title: str
    licence: str
    citation: str
    authors: tuple[str, ...]
    doi: str = ''
    stripped: bool = False


@dataclass(frozen=True)
class Release:
    """A data set on disk.

    Attributes
    ----------
    layout : str
    provenance : DatasetProvenance
    cases : tuple of Case
    clinical : Path or None
        Table of the patients.
    scanners : Path or None
        Folder with tables of the acquisition.
    """

    layout: str
    provenance: DatasetProvenance
    cases: tuple[Case, ...]
    clinical: Path | None = None
    scanners: Path | None = None
