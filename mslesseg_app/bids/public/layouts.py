"""Readers of the layouts of public data sets: which file is whose image, of which modality.

A reader looks at names only. It takes what is on disk and counts on no number of patients: of
MSLesSeg the paper says that the test patients are 54 to 77, the release has 54 to 75.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mslesseg_app.bids.public.found_cases import MANUAL, Case, DatasetProvenance, Release
from mslesseg_app.core.errors import DataError, NoInputError, UsageError

_MSLESSEG = DatasetProvenance(
    'MSLesSeg',
    'CC-BY-4.0',
    'Guarnera F, Rondinella A, et al. MSLesSeg: baseline and benchmarking of a new Multiple '
    'Sclerosis Lesion Segmentation dataset. Scientific Data, 2025.',
    ('Guarnera F', 'Rondinella A'),
    'doi:10.6084/m9.figshare.27919209',
    stripped=True,
)
_ISBI = DatasetProvenance(
    'ISBI 2015 longitudinal MS lesion segmentation challenge',
    'n/a',
    'Carass A, et al. Longitudinal multiple sclerosis lesion segmentation: Resource and '
    'challenge. NeuroImage 148, 2017.',
    ('Carass A',),
    'doi:10.1016/j.neuroimage.2016.12.064',
    stripped=True,
)
_MSSEG = DatasetProvenance(
    'MSSEG 2016 challenge',
    'n/a',
    'Commowick O, et al. Multiple sclerosis lesions segmentation from multiple experts: The '
    'MICCAI 2016 challenge dataset. NeuroImage 244, 2021.',
    ('Commowick O',),
    'doi:10.1016/j.neuroimage.2021.118589',
)
_OPEN = DatasetProvenance(
    'open_ms_data, cross-sectional',
    'CC-BY-4.0',
    'Lesjak Ž, et al. A Novel Public MR Image Dataset of Multiple Sclerosis Patients With Lesion '
    'Segmentations Based on Multi-rater Consensus. Neuroinformatics, 2017.',
    ('Lesjak Ž', 'Pernuš F', 'Likar B', 'Špiclin Ž'),
    'doi:10.1007/s12021-017-9348-7',
)

_ENDING = r'\.nii(\.gz)?$'


@dataclass(frozen=True)
class Layout:
    """How a data set is found and read.

    Attributes
    ----------
    provenance : DatasetProvenance
    root : callable
        Returns the folder within another where the layout begins, or None.
    cases : callable
        Yields the cases below that folder.
    """

    provenance: DatasetProvenance
    root: Callable[[Path], Path | None]
    cases: Callable[[Path], Iterator[Case]]


def read_release(folder: Path, layout: str = 'auto') -> Release:
    """Read which cases a folder holds.

    Parameters
    ----------
    folder : Path
        The data set, or a folder around it.
    layout : str
        A key of `LAYOUTS`, or ``auto``.

    Raises
    ------
    UsageError
        For an unknown layout.
    NoInputError
        If the folder has not this layout, or none that is known.
    """
    if layout not in ('auto', *LAYOUTS):
        raise UsageError(f'There is no layout {layout!r}.', f'Choose one of: {", ".join(KNOWN)}.')
    for name in LAYOUTS if layout == 'auto' else (layout,):
        root = LAYOUTS[name].root(folder)
        if root is None:
            continue
        cases = tuple(sorted(LAYOUTS[name].cases(root), key=_order))
        if cases:
            _demand_distinct(cases)
            clinical = next(iter(sorted(root.glob('**/clinical_data.csv'))), None)
            scanners = bool(next(root.glob('**/*scanners_info_*.csv'), None))
            provenance = LAYOUTS[name].provenance
            return Release(name, provenance, cases, clinical, root if scanners else None)
    wanted = 'any layout that is known' if layout == 'auto' else f'the layout {layout}'
    raise NoInputError(
        f'{folder} does not have {wanted}.',
        f'Known: {", ".join(LAYOUTS)}; docs/training.md shows which files are expected.',
    )


def _demand_distinct(cases: tuple[Case, ...]) -> None:
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.stem, case)
        if other is not case:
            raise DataError(
                f'{case.name} ({case.split or "no split"}) and {other.name} '
                f'({other.split or "no split"}) would both be {case.stem}.',
                'A patient may be in one part of the data set only; rename or remove a folder.',
            )


def _order(case: Case) -> tuple[str, int]:
    return case.subject, int(case.session)


def _below(folder: Path, depth: int = 3) -> Iterator[Path]:
    """Yield a folder and those in it, the nearest first, hidden ones left out."""
    level = [folder]
    for _ in range(depth + 1):
        yield from level
        level = [
            item
            for one in level
            for item in sorted(one.iterdir())
            if item.is_dir() and not item.name.startswith(('.', '__MACOSX'))
        ]


def _first(folder: Path, pattern: str) -> Path | None:
    """Return the nearest folder in which something matches a glob."""
    return next((one for one in _below(folder) if next(one.glob(pattern), None)), None)


def _images(files: Iterable[Path], words: dict[str, str]) -> dict[str, Path]:
    """Return the first file of each modality whose name ends in a word."""
    found: dict[str, Path] = {}
    ordered = sorted(files)
    for modality, word in words.items():
        for path in ordered:
            if re.search(rf'(^|_){word}{_ENDING}', path.name, re.IGNORECASE):
                found.setdefault(modality, path)
    return found


# -------------------------------------------------------------------------------- MSLesSeg

_TOKENS = {'FLAIR': 'FLAIR', 'T1': 'T1w', 'T2': 'T2w', 'MASK': MANUAL}
_NAME = re.compile(rf'P(\d+)(?:_T(\d+))?_(FLAIR|T1|T2|MASK){_ENDING}')


def _mslesseg_root(folder: Path) -> Path | None:
    return _first(folder, 'train/P[0-9]*') or _first(folder, 'test/P[0-9]*')


def _mslesseg(root: Path) -> Iterator[Case]:
    """``train/P<i>/T<k>/P<i>_T<k>_<modality>`` and ``test/P<i>/P<i>_<modality>``.

    The token T1 is a timepoint in folders and a modality at the end of names: place decides.
    """
    for split in ('train', 'test'):
        for patient in sorted((root / split).glob('P[0-9]*')):
            visits = [item for item in sorted(patient.glob('T[0-9]*')) if item.is_dir()]
            if visits:
                yield from (_mslesseg_case(v, patient.name, v.name, split) for v in visits)
            if not visits or next(patient.glob('*.nii*'), None):
                yield _mslesseg_case(patient, patient.name, '', split)


def _mslesseg_case(folder: Path, patient: str, timepoint: str, split: str) -> Case:
    found: dict[str, Path] = {}
    problem = ''
    for path in sorted(item for item in folder.iterdir() if item.is_file()):
        name = _NAME.fullmatch(path.name)
        if name is None:
            continue
        inside = f'P{name[1]}', f'T{name[2]}' if name[2] else ''
        if inside[0] != patient or (timepoint and inside[1] != timepoint):
            problem = f'{path.name} is named after another case than its folder'
        found[_TOKENS[name[3]]] = path
    masks = {MANUAL: found.pop(MANUAL)} if MANUAL in found else {}
    label = f'{patient}_{timepoint}' if timepoint else patient
    return Case(label, patient, timepoint, found, masks, split, problem)


# ------------------------------------------------------------------------------- ISBI 2015


def _isbi_root(folder: Path) -> Path | None:
    return folder if next(folder.glob('**/preprocessed/*_flair_pp.nii*'), None) else None


def _isbi(root: Path) -> Iterator[Case]:
    """``training<n>/preprocessed/training<n>_<k>_flair_pp`` and ``masks/…_mask1``, ``…_mask2``."""
    words = {'FLAIR': 'flair_pp', 'T1w': 'mprage_pp', 'T2w': 't2_pp'}
    for flair in sorted(root.glob('**/preprocessed/*_flair_pp.nii*')):
        stem = flair.name.split('_flair_pp')[0]
        patient, _, timepoint = stem.rpartition('_')
        images = _images(flair.parent.glob(f'{stem}_*'), words)
        raters = _images(
            (flair.parent.parent / 'masks').glob(f'{stem}_*'),
            {MANUAL: 'mask1', 'rater2': 'mask2'},
        )
        split = 'train' if patient.startswith('training') else 'test'
        yield Case(stem, patient, timepoint, images, raters, split)


# ------------------------------------------------------------------------------ MSSEG 2016


def _msseg_root(folder: Path) -> Path | None:
    return _first(folder, 'Train*/Center_*/Patient_*') or _first(folder, 'Center_*/Patient_*')


def _msseg(root: Path) -> Iterator[Case]:
    """``[Training|Testing]/Center_<n>/Patient_<m>/{Raw_Data,Masks}``; masks fit the raw FLAIR."""
    words = {'FLAIR': 'FLAIR', 'T1w': 'T1', 'T2w': 'T2'}
    raters = {MANUAL: 'Consensus'} | {f'rater{n}': f'ManualSegmentation_{n}' for n in range(1, 8)}
    for patient in sorted(root.glob('**/Center_*/Patient_*')):
        centre, above = patient.parent.name, patient.parent.parent.name.lower()
        name = f'{centre}_{patient.name}'
        split = 'train' if above.startswith('train') else 'test' if 'test' in above else ''
        images = _images((patient / 'Raw_Data').glob('*'), words)
        masks = _images((patient / 'Masks').glob('*'), raters)
        yield Case(name, name, '', images, masks, split)


# ---------------------------------------------------------------------------- open_ms_data


def _open_root(folder: Path) -> Path | None:
    return _first(folder, 'coregistered/patient*/*consensus_gt.nii*')


def _open(root: Path) -> Iterator[Case]:
    """``cross_sectional/coregistered/patient<n>/[patient<n>_]{FLAIR,T1W,T2W,consensus_gt}``.

    The longitudinal half has masks of change, not of lesions, and is left alone.
    """
    words = {'FLAIR': 'FLAIR', 'T1w': 'T1W', 'T2w': 'T2W'}
    for patient in sorted((root / 'coregistered').glob('patient*')):
        files = [item for item in patient.iterdir() if item.is_file()]
        masks = _images(files, {MANUAL: 'consensus_gt'})
        if masks or _images(files, words):
            yield Case(patient.name, patient.name, '', _images(files, words), masks)


LAYOUTS: dict[str, Layout] = {
    'mslesseg': Layout(_MSLESSEG, _mslesseg_root, _mslesseg),
    'isbi2015': Layout(_ISBI, _isbi_root, _isbi),
    'msseg2016': Layout(_MSSEG, _msseg_root, _msseg),
    'open_ms_data': Layout(_OPEN, _open_root, _open),
}
KNOWN = ('auto', *LAYOUTS)
