"""The result of one exam as DICOM objects need it: its files, and what the objects share."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app import __version__
from mslesseg_app.bids.exam import Exam, named_exam
from mslesseg_app.bids.names import files_by_model, output_path
from mslesseg_app.core.errors import DataError, NoInputError, UsageError
from mslesseg_app.dicom.stack import Stack
from mslesseg_app.lesions.change_table import lesion_statuses
from mslesseg_app.spatial.checks import UNREADABLE

_AGAIN = 'Run the participant level again.'


@dataclass(frozen=True)
class Result:
    """The files of one exam and model.

    Attributes
    ----------
    mask, instances : nibabel image
        On the grid of the raw FLAIR; instances are numbered from 1.
    table : pandas.DataFrame
        One row per lesion.
    flair, brain : nibabel image or None
        The FLAIR after bias correction and its brain mask, where they are there.
    path : Path
        Of the mask.
    """

    exam: str
    model: str
    version: str
    mask: Any
    instances: Any
    table: Any
    flair: Any | None
    brain: Any | None
    path: Path


@dataclass(frozen=True)
class Identity:
    """What the objects of one export share.

    Attributes
    ----------
    key : str
        Digest of all that goes in.
    made : datetime
        When the mask was made.
    """

    key: str
    made: datetime

    def uid(self, *parts: object) -> str:
        """Return a UID (root 2.25) that depends on the content alone."""
        return f'2.25.{uuid.uuid5(uuid.NAMESPACE_OID, repr((self.key, *parts))).int}'


def read_result(out: Path, exam: str, model: str = '') -> Result:
    """Read mask, instances and tables of an exam.

    Raises
    ------
    NoInputError
        If there is no mask, or no table.
    UsageError
        If there are masks of several models and none is named.
    DataError
        If a file cannot be read.
    """
    named = named_exam(exam)
    found = files_by_model(out, named, 'lesion_native')
    masks = {name: path for name, path in found.items() if model in ('', name)}
    if not masks:
        what = f' of {model}' if model else ''
        raise NoInputError(f'{out} holds no lesion mask{what} of {exam}.', 'Check --exam.')
    if len(masks) > 1:
        raise UsageError(f'{exam} has masks of {", ".join(masks)}.', 'Choose one with --model.')
    ((name, path),) = masks.items()
    flair = out / output_path(named, 'preproc_native', suffix='FLAIR')
    brain = out / output_path(named, 'brain_native')
    return Result(
        exam=exam,
        model=name,
        version=_model_version(out / output_path(named, 'exam', desc=name)),
        mask=_image(path),
        instances=_image(out / output_path(named, 'instances_native', desc=name)),
        table=_lesions(out, named, name),
        flair=_image(flair) if flair.is_file() else None,
        brain=_image(brain) if brain.is_file() else None,
        path=path,
    )


def _image(path: Path) -> Any:
    if not path.is_file():
        raise NoInputError(f'{path} does not exist.', _AGAIN)
    try:
        image = nb.load(path)
        data = np.asanyarray(image.dataobj)
    except UNREADABLE as error:
        raise DataError(f'{path} cannot be read: {error}') from error
    return nb.Nifti1Image(data, image.affine, dtype=data.dtype)


def _lesions(out: Path, exam: Exam, model: str) -> Any:
    """Read the table of lesions, with the column ``status`` of an exam that was compared."""
    table = _table(out / output_path(exam, 'lesions', desc=model))
    change = out / output_path(exam, 'change', desc=model)
    if change.is_file():
        table['status'] = table['lesion_id'].map(lesion_statuses(_table(change)))
    return table


def _table(path: Path) -> Any:
    import pandas as pd

    try:
        return pd.read_csv(path, sep='\t', na_values='n/a', keep_default_na=False)
    except FileNotFoundError as error:
        raise NoInputError(f'{path} does not exist.', _AGAIN) from error
    except (ValueError, OSError) as error:
        raise DataError(f'{path} cannot be read: {error}') from error


def _model_version(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding='utf-8'))
        return str(record['model']['version'])
    except (OSError, ValueError, KeyError, TypeError):
        return ''


def segment_labels(result: Result, segments: str) -> npt.NDArray[np.uint16]:
    """Return the number of the segment of each voxel, 0 outside; union is the mask.

    Raises
    ------
    DataError
        If instances and mask are not the same voxels.
    """
    mask = np.asanyarray(result.mask.dataobj) > 0
    numbers = np.asanyarray(result.instances.dataobj)
    if numbers.shape != mask.shape or not np.array_equal(numbers > 0, mask):
        raise DataError(
            f'Mask and lesions of {result.exam} do not mark the same voxels.',
            'One of them was changed; run the participant level again.',
        )
    return (mask if segments == 'mask' else numbers).astype(np.uint16)


def identity_of(result: Result, stack: Stack, segments: str) -> Identity:
    content = hashlib.sha256()
    for part in (
        np.asanyarray(result.instances.dataobj).astype('<i4').tobytes(),
        result.table.to_csv().encode(),
        f'{result.model} {result.version} {__version__} {segments}'.encode(),
        *(str(dataset.SOPInstanceUID).encode() for dataset in stack.datasets),
    ):
        content.update(part)
    made = datetime.fromtimestamp(int(result.path.stat().st_mtime), UTC)
    return Identity(content.hexdigest(), made)


def settle(dataset: Any, identity: Identity) -> None:
    """Give an object the times of its mask and UIDs of its content, to make it the same again."""
    date, time = identity.made.strftime('%Y%m%d'), identity.made.strftime('%H%M%S')
    for kind in ('InstanceCreation', 'Content', 'Series'):
        if kind == 'Content' or f'{kind}Date' in dataset:
            setattr(dataset, f'{kind}Date', date)
            setattr(dataset, f'{kind}Time', time)
    for item in dataset.get('ContributingEquipmentSequence', ()):
        item.ContributionDateTime = date + time
    for name in ('DimensionOrganizationSequence', 'DimensionIndexSequence'):
        for item in dataset.get(name, ()):
            item.DimensionOrganizationUID = identity.uid('dimensions')
