"""DICOM SEG and structured report of a result, on the series that it was made from.

The segmentation is a Segmentation object (PS3.3, A.51) of binary frames, the report follows
TID 1500 (PS3.16). Equal inputs give equal bytes: UIDs are derived from their content, dates
are those of the mask.
"""

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
from mslesseg_app.core.errors import DataError, NoInputError, UsageError
from mslesseg_app.core.files import atomic_path
from mslesseg_app.dicom.stack import Stack, find_source, read_folder, turned
from mslesseg_app.spatial.checks import UNREADABLE

SEGMENTS = ('lesions', 'mask')
#: One RGB colour for all lesions; viewers tell them apart by their names.
_RED = (230, 57, 70)
_SERIES_NUMBER = 9000
_AGAIN = 'Run the participant level again.'


@dataclass(frozen=True)
class Result:
    """The files of one exam and model.

    Attributes
    ----------
    mask, instances : nibabel image
        On the grid of the raw FLAIR; instances are numbered from 1.
    table : pandas.DataFrame
        One row a lesion.
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


def export(
    out: Path,
    exam: str,
    source: Path,
    output: Path,
    *,
    model: str = '',
    segments: str = 'lesions',
    series_uid: str = '',
) -> tuple[list[Path], list[str]]:
    """Write the DICOM SEG and the structured report of one exam.

    Parameters
    ----------
    out : Path
        Output folder of the App.
    exam : str
        ``sub-01_ses-1``, or ``sub-01`` without sessions.
    source : Path
        Folder with the DICOM files of the source FLAIR series; others may be there too.
    output : Path
        Folder to write to. It must not lie in `out`: the objects name the patient.
    model : str
        Needed if the exam has masks of several.
    segments : {'lesions', 'mask'}
        One segment a lesion, numbered as in the table; or one for the whole mask.
    series_uid : str
        Needed if several series fit.

    Returns
    -------
    paths : list of Path
        ``<exam>_desc-<model>_seg.dcm`` and ``<exam>_desc-<model>_sr.dcm``.
    notes : list of str
        What was checked, and what could not be.

    Raises
    ------
    UsageError
        If ``highdicom`` is not installed, or an option does not fit.
    NoInputError
        If the exam has no mask, or the folder no DICOM.
    DataError
        If the mask was not made from the series, or files contradict each other.
    """
    _need_highdicom()
    if output.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            f'{output} lies within {out}, whose files name nobody.',
            'DICOM objects name the patient: choose a folder elsewhere.',
        )
    result = read_result(out, exam, model)
    stack, correlation = find_source(
        read_folder(source), result.mask, result.flair, result.brain, series_uid
    )
    labels = turned(segment_labels(result, segments), result.mask.affine, stack)
    identity = _identity(result, stack, segments)
    seg = make_segmentation(stack, labels, result, identity, per_lesion=segments == 'lesions')
    from mslesseg_app.dicom.export.measurements import make_report

    report = make_report(stack, seg, result, identity, per_lesion=segments == 'lesions')
    stem = f'{exam}_desc-{result.model}'
    paths = [_save(seg, output / f'{stem}_seg.dcm'), _save(report, output / f'{stem}_sr.dcm')]
    return paths, [_checked(stack, correlation)]


def _need_highdicom() -> None:
    from importlib.util import find_spec

    if find_spec('highdicom') is None:
        raise UsageError(
            'Writing DICOM SEG needs highdicom, which is not installed.',
            "Install it: pip install 'mslesseg[dicom-seg]'",
        )


def _checked(stack: Stack, correlation: float | None) -> str:
    if correlation is None:
        return (
            f'Source: series {stack.name}, by its geometry alone: OUT_DIR has no preprocessed '
            'FLAIR to compare pixels with.'
        )
    return (
        f'Source: series {stack.name}, by its geometry and its pixels '
        f'(correlation of detail {correlation:.3f}).'
    )


# ------------------------------------------------------------------------------- reading


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
    folder = out.joinpath(*exam.split('_')) / 'anat'
    start, end = f'{exam}_space-orig_label-lesion_desc-', '_mask.nii.gz'
    masks = {
        path.name[len(start) : -len(end)]: path
        for path in sorted(folder.glob(f'{start}*{end}'))
        if not model or path.name == f'{start}{model}{end}'
    }
    if not masks:
        what = f' of {model}' if model else ''
        raise NoInputError(f'{folder} holds no lesion mask{what} of {exam}.', 'Check --exam.')
    if len(masks) > 1:
        raise UsageError(f'{exam} has masks of {", ".join(masks)}.', 'Choose one with --model.')
    ((name, path),) = masks.items()
    flair = folder / f'{exam}_desc-preproc_FLAIR.nii.gz'
    brain = folder / f'{exam}_desc-brain_mask.nii.gz'
    return Result(
        exam=exam,
        model=name,
        version=_model_version(folder.parent / 'log' / f'{exam}_desc-{name}_exam.json'),
        mask=_image(path),
        instances=_image(folder / f'{exam}_space-orig_seg-lesions_desc-{name}_dseg.nii.gz'),
        table=_table(folder / f'{exam}_desc-{name}_lesions.tsv'),
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


def _identity(result: Result, stack: Stack, segments: str) -> Identity:
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


# ------------------------------------------------------------------------------- writing


def make_segmentation(
    stack: Stack,
    labels: npt.NDArray[np.integer],
    result: Result,
    identity: Identity,
    *,
    per_lesion: bool,
) -> Any:
    """Make the Segmentation object.

    Parameters
    ----------
    labels : int array of the stack's shape
        Segment of each voxel. Without any, one empty segment is written.

    Raises
    ------
    DataError
        If the source lacks what the object must hold.
    """
    import highdicom as hd

    count = max(int(labels.max()), 1)
    try:
        seg = hd.seg.Segmentation(
            source_images=list(stack.datasets),
            pixel_array=stack.frames(labels),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(number, bool(labels.any()), result, identity, per_lesion)
                for number in range(1, count + 1)
            ],
            series_instance_uid=identity.uid('seg series'),
            series_number=_number(stack, 0),
            sop_instance_uid=identity.uid('seg'),
            instance_number=1,
            manufacturer='mslesseg',
            manufacturer_model_name='mslesseg',
            software_versions=__version__,
            device_serial_number='0',
            content_label='MS_LESIONS',
            content_description='MS lesions; research use only',
            series_description=f'MS lesions ({result.model})'[:64],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f'No segmentation can be made on series {stack.name}: {error}',
            'The headers of the source lack what a DICOM SEG must hold.',
        ) from error
    settle(seg, identity)
    return seg


def _description(
    number: int, found: bool, result: Result, identity: Identity, per_lesion: bool
) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    name = f'Lesion {number}' if per_lesion and found else 'MS lesions'
    algorithm = hd.AlgorithmIdentificationSequence(
        name=f'mslesseg {result.model}'[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=(f'{__version__} {result.version}').strip()[:64],
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name if found else 'MS lesions (none found)',
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=identity.uid('segment', number),
        tracking_id=name,
        anatomic_regions=[codes.SCT.Brain],
        display_color=hd.color.CIELabColor.from_rgb(*_RED),
    )


def _number(stack: Stack, step: int) -> int:
    return _SERIES_NUMBER + 2 * (int(stack.datasets[0].get('SeriesNumber') or 0) % 400) + step


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


def _save(dataset: Any, path: Path) -> Path:
    with atomic_path(path) as temporary:
        dataset.save_as(temporary)
    return path
