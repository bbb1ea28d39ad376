"""DICOM SEG and structured report of a result, on the series that it was made from.

The segmentation is a Segmentation object (PS3.3, A.51) of binary frames, the report follows
TID 1500 (PS3.16). Equal inputs give equal bytes: UIDs are derived from their content, dates
are those of the mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mslesseg_app.core.errors import UsageError
from mslesseg_app.core.files import atomic_path
from mslesseg_app.dicom.export.measurements import make_report
from mslesseg_app.dicom.export.results import identity_of, read_result, segment_labels
from mslesseg_app.dicom.export.segmentation import make_segmentation
from mslesseg_app.dicom.stack import Stack, find_source, read_folder, turned


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
    _check_output(output, out)
    result = read_result(out, exam, model)
    stack, correlation = find_source(
        read_folder(source), result.mask, result.flair, result.brain, series_uid
    )
    labels = turned(segment_labels(result, segments), result.mask.affine, stack)
    identity = identity_of(result, stack, segments)
    seg = make_segmentation(stack, labels, result, identity, per_lesion=segments == 'lesions')
    report = make_report(stack, seg, result, identity, per_lesion=segments == 'lesions')
    stem = f'{exam}_desc-{result.model}'
    paths = [_save(seg, output / f'{stem}_seg.dcm'), _save(report, output / f'{stem}_sr.dcm')]
    return paths, [_checked(stack, correlation)]


def _check_output(output: Path, out: Path) -> None:
    if output.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            f'{output} lies within {out}, whose files name nobody.',
            'DICOM objects name the patient: choose a folder elsewhere.',
        )


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


def _save(dataset: Any, path: Path) -> Path:
    with atomic_path(path) as temporary:
        dataset.save_as(temporary)
    return path
