"""Labelled exams of a BIDS dataset on the template grid, through the App where they are raw.

Images that lie on the template grid already (as those of MSLesSeg) are taken as they are; the App
does the same. All others are taken from the output folder of an App's run, which is started
here for those that are not there yet; their manual masks follow them to the template by the
transform of the FLAIR.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.exams import find_exams
from mslesseg_app.bids.names import output_path, sidecar_of
from mslesseg_app.core.errors import DataError, MSLesSegError, NoInputError, UsageError
from mslesseg_app.core.files import write_bytes, write_json
from mslesseg_app.core.settings import Settings
from mslesseg_app.spatial.affines import read_itk
from mslesseg_app.spatial.grids import compressed, like, on_template
from mslesseg_app.spatial.masks import read_mask
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE
from mslesseg_app.training.cases import LabelledCase, scan_digest

MANUAL = Path('derivatives', 'manual')
NORMAL_BRIGHT = 'label-normalhyperintensity'
"""In the name of a mask of bright rims and caps that raters call normal."""


@dataclass(frozen=True)
class _LabelledDataset:
    """One dataset, the exams that are taken from it, how the App runs on them, and the grid."""

    bids_dir: Path
    cache: Path
    settings: Settings
    exams: tuple[Exam, ...]
    native: bool = False


def find_cases(
    bids_dir: Path | Sequence[Path],
    cache: Path,
    *,
    masks: Path | None = None,
    preprocessed: Path | None = None,
    exclude: Sequence[str] = (),
    unlabelled: bool = False,
    native: bool = False,
    threads: int = 1,
) -> list[LabelledCase]:
    """Find the exams of one or several datasets that have a manual mask.

    Parameters
    ----------
    bids_dir : Path or sequence of Path
        With several datasets, `masks` and `preprocessed` hold one folder for each, named as
        the dataset is.
    cache : Path
        Where masks that are moved to the template are kept, and runs of the App by default.
    masks : Path, optional
        Derivative dataset with the masks; default: ``derivatives/manual`` of the dataset. In an
        output folder of the App only masks that a person has edited count.
    preprocessed : Path, optional
        Output folder of the App for raw exams; what it lacks is computed into it. Default:
        ``preprocessed`` in the cache.
    exclude : sequence of str
        Exams (``sub-01_ses-1``) or participants that are left out; each must exist.
    unlabelled : bool
        Take the exams without masks instead of those with one.
    native : bool
        Bring the images of raw exams to the grid of their FLAIR instead of the template's.
    threads : int

    Raises
    ------
    NoInputError
        If there is no exam with a mask (or without).
    UsageError
        If an exam to leave out does not exist, or two datasets have a participant of the same
        name: who is who decides the split.
    DataError
        If an exam with a mask has no FLAIR, or the App could not process it.
    """
    folders = [bids_dir] if isinstance(bids_dir, Path) else list(bids_dir)
    several = len(folders) > 1

    def of(folder: Path | None, dataset: Path) -> Path | None:
        return folder / dataset.resolve().name if folder and several else folder

    datasets = [
        _open_dataset(
            path, of(cache, path) or cache, of(masks, path), of(preprocessed, path),
            unlabelled, native, threads,
        )
        for path in folders
    ]  # fmt: skip
    _check_names(datasets, exclude)
    return [case for dataset in datasets for case in _cases_of(dataset, exclude)]


def _open_dataset(
    bids_dir: Path,
    cache: Path,
    masks: Path | None,
    preprocessed: Path | None,
    unlabelled: bool,
    native: bool,
    threads: int,
) -> _LabelledDataset:
    if not bids_dir.is_dir():
        raise NoInputError(f'{bids_dir} does not exist.', 'Name the folder of the dataset.')
    root: Path | None = masks or bids_dir / MANUAL
    if root is not None and not root.is_dir():
        if not unlabelled:
            raise NoInputError(
                f'There are no manual masks: {root} does not exist.',
                'Name the derivative dataset that holds them: --masks DIR',
            )
        root = None
    settings = _settings(bids_dir, preprocessed or cache / 'preprocessed', cache, root, threads)
    exams = tuple(e for e in find_exams(settings) if _is_label(e.reference) != unlabelled)
    if not exams:
        raise NoInputError(
            f'Every exam of {bids_dir} has a lesion mask.'
            if unlabelled
            else f'No exam of {bids_dir} has a lesion mask in {root}.'
        )
    return _LabelledDataset(bids_dir, cache, settings, exams, native)


def _check_names(datasets: Sequence[_LabelledDataset], exclude: Sequence[str]) -> None:
    seen: set[str] = set()
    for dataset in datasets:
        people = {exam.subject for exam in dataset.exams}
        if shared := seen & people:
            raise UsageError(
                f'Two datasets have a participant sub-{min(shared)}.',
                'Rename one of them: the split is by participant.',
            )
        seen |= people
    known = {name for d in datasets for e in d.exams for name in (e.label, f'sub-{e.subject}')}
    if unknown := sorted(_names(exclude) - known):
        raise UsageError(
            f'There is no labelled exam or participant {unknown[0]} to leave out.',
            'Exams are named as sub-01_ses-1, participants as sub-01.',
        )


def _names(exclude: Sequence[str]) -> set[str]:
    return {f'sub-{name.removeprefix("sub-")}' for name in exclude}


def _cases_of(dataset: _LabelledDataset, exclude: Sequence[str]) -> list[LabelledCase]:
    left = _names(exclude)
    exams = [e for e in dataset.exams if not left & {e.label, f'sub-{e.subject}'}]
    raw = [exam for exam in exams if not exam.registered]
    _preprocess(raw, dataset.settings, dataset.native)
    splits = _splits(dataset.bids_dir)
    return [_case(exam, dataset, splits) for exam in exams]


def _is_label(mask: Path | None) -> bool:
    """Whether a mask may be learned from: a model's own may not, unless a person edited it."""
    if mask is None:
        return False
    try:
        content = json.loads(sidecar_of(mask).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return True
    return not isinstance(content, dict) or 'Model' not in content or bool(content.get('Edited'))


def _settings(
    bids_dir: Path, out: Path, cache: Path, masks: Path | None, threads: int
) -> Settings:
    return Settings(
        bids_dir=bids_dir.absolute(),
        out_dir=out.absolute(),
        work_dir=(cache / 'work').absolute(),
        derivatives={} if masks is None else {'manual': masks.absolute()},
        skip_bids_validation=True,
        nprocs=threads,
        omp_nthreads=max(1, threads - 1),
        run_uuid='training',
        command='mslesseg train',
    )


def _preprocess(exams: list[Exam], settings: Settings, native: bool) -> None:
    """Run the App on the raw exams that its output folder lacks."""
    absent = [exam for exam in exams if not _is_there(exam, settings.out_dir, native)]
    if not absent:
        return
    from mslesseg_app.participant.run import run_participants

    subjects = tuple(dict.fromkeys(exam.subject for exam in absent))
    run_participants(replace(settings, participants=subjects, derivatives={}))
    failed = [exam.label for exam in absent if not _is_there(exam, settings.out_dir, native)]
    if failed:
        raise DataError(
            f'The App could not bring {failed[0]} to the template'
            + (f' (and {len(failed) - 1} more).' if len(failed) > 1 else '.'),
            f'See its report in {settings.out_dir}, or leave it out: --exclude {failed[0]}',
        )


def _is_there(exam: Exam, out: Path, native: bool) -> bool:
    kind = 'preproc_native' if native else 'preproc_mni'
    images = [output_path(exam, kind, suffix=name) for name in exam.images]
    moved = [_transform(exam, name) for name in (exam.images if native else ('FLAIR',))]
    needed = [*images, _brain(exam), *moved]
    return all((out / path).is_file() for path in needed)


def _transform(exam: Exam, modality: str = 'FLAIR') -> Path:
    return output_path(exam, 'to_mni', **{'from': modality})


def _brain(exam: Exam) -> Path:
    return output_path(exam, 'brain_mni')


def _case(exam: Exam, dataset: _LabelledDataset, splits: dict[str, str]) -> LabelledCase:
    subject = f'sub-{exam.subject}'
    if exam.problem is not None:
        raise DataError(
            f'{exam.label}: {exam.problem.message}', f'Leave it out: --exclude {exam.label}'
        )
    mask = exam.reference if _is_label(exam.reference) else None
    negatives = _negatives(mask)
    split = splits.get(subject, '')
    if exam.registered:
        return LabelledCase(exam.label, subject, exam.images, mask, None, split, negatives)
    out, cache = dataset.settings.out_dir, dataset.cache
    if dataset.native:
        images, brain = _on_flair_grid(exam, out, cache / 'native')
        return LabelledCase(exam.label, subject, images, mask, brain, split, negatives)
    images = {name: out / output_path(exam, 'preproc_mni', suffix=name) for name in exam.images}
    moved = [
        None if path is None else _moved_mask(exam, path, out / _transform(exam), cache / 'masks')
        for path in (mask, negatives)
    ]
    brain = out / _brain(exam)
    return LabelledCase(exam.label, subject, images, moved[0], brain, split, moved[1])


def _on_flair_grid(exam: Exam, out: Path, folder: Path) -> tuple[dict[str, Path], Path]:
    """Write what the App made of an exam on the grid of its FLAIR: images, and brain mask."""
    from mslesseg_app.models.prediction.native import bring_to_flair
    from mslesseg_app.spatial.reading import open_image

    images = {
        name: open_image(out / output_path(exam, 'preproc_native', suffix=name))
        for name in exam.images
    }
    transforms = {name: read_itk(out / _transform(exam, name)) for name in exam.images}
    moved, inside = bring_to_flair(images, transforms, open_image(out / _brain(exam)))
    maps: dict[str, npt.NDArray[Any]] = {**moved, 'brain': inside.astype(np.uint8)}
    paths = {name: folder / f'{exam.label}_{name}.nii.gz' for name in maps}
    for name, data in maps.items():
        write_bytes(paths[name], compressed(like(images['FLAIR'], data, data.dtype)))
    brain = paths.pop('brain')
    return paths, brain


def _negatives(mask: Path | None) -> Path | None:
    """Return the mask of bright tissue that is no lesion, where it lies beside that of lesions."""
    if mask is None:
        return None
    path = mask.with_name(mask.name.replace('label-lesion', NORMAL_BRIGHT))
    return path if path != mask and path.is_file() else None


def _moved_mask(exam: Exam, mask: Path, transform: Path, folder: Path) -> Path:
    """Move a mask from the grid of the FLAIR to the template; half a voxel or more counts."""
    import nibabel as nb

    from mslesseg_app.spatial.masks import on_grid_of
    from mslesseg_app.spatial.reading import open_image

    try:
        flair = open_image(exam.images['FLAIR'])
        native = on_grid_of(flair, read_mask(mask), mask, resampling=False, linear=False)
    except MSLesSegError as error:
        raise DataError(f'{exam.label}: {error.message}', error.hint) from error
    real = nb.Nifti1Image(np.asanyarray(native.dataobj).astype(np.float32), native.affine)
    moved = resample(real, TEMPLATE_SHAPE, TEMPLATE_AFFINE, read_itk(transform))
    label = NORMAL_BRIGHT if NORMAL_BRIGHT in mask.name else 'label-lesion'
    path = folder / f'{exam.label}_space-MNI152NLin6Asym_res-1_{label}_mask.nii.gz'
    write_bytes(path, compressed(on_template(np.asanyarray(moved.dataobj) >= 0.5, np.uint8)))
    return path


def _splits(bids_dir: Path) -> dict[str, str]:
    """Return the column ``split`` of ``participants.tsv``, where there is one."""
    path = bids_dir / 'participants.tsv'
    if not path.is_file():
        return {}
    rows = csv.DictReader(path.read_text(encoding='utf-8-sig').splitlines(), delimiter='\t')
    known = {str(row.get('participant_id')): str(row.get('split') or '') for row in rows}
    return {name: split for name, split in known.items() if split in ('train', 'test')}


def scan_digests(cases: Sequence[LabelledCase], cache: Path) -> dict[str, str]:
    """Return the digest of each case's FLAIR, kept in the cache while the file stays the same."""
    path = cache / 'digests.json'
    try:
        kept = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        kept = {}
    found: dict[str, str] = {}
    for case in cases:
        flair = case.images['FLAIR']
        stat = flair.stat()
        key = hashlib.sha256(
            f'{flair.absolute()} {stat.st_size} {stat.st_mtime_ns}'.encode()
        ).hexdigest()
        kept[key] = found[case.name] = kept.get(key) or scan_digest(case)
    write_json(path, kept)
    return found


def dataset_licence(bids_dir: Path) -> str:
    """Return the licence of a dataset, ``NOASSERTION`` where it states none."""
    try:
        content = json.loads((bids_dir / 'dataset_description.json').read_text('utf-8'))
        licence = content.get('License')
    except (OSError, ValueError, AttributeError):
        return 'NOASSERTION'
    return licence if isinstance(licence, str) and licence != 'n/a' else 'NOASSERTION'
