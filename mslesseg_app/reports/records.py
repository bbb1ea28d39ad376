"""The record of one exam: what was planned, and what came of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mslesseg_app.core.errors import DataError, MSLesSegError
from mslesseg_app.reports.content import (
    ExamContent,
    Failure,
    ImageUsed,
    LesionSummary,
    ModelInfo,
    QCNumber,
    table_rows,
)

if TYPE_CHECKING:
    from mslesseg_app.bids.exam import Exam
    from mslesseg_app.core.settings import Settings
    from mslesseg_app.models.prediction.ensemble import AnyModel


def static_content(exam: Exam, settings: Settings, engine: str, entry: AnyModel) -> dict[str, Any]:
    """Return what is known of an exam before it runs, as plain values.

    Parameters
    ----------
    engine : {'fsl', 'builtin'}
        The spatial engine.
    """
    from mslesseg_app.models.overview import accuracy_in_words
    from mslesseg_app.models.prediction.ensemble import final_threshold

    content = ExamContent(
        session=exam.session,
        images=tuple(_image_used(name, path, settings) for name, path in exam.images.items()),
        missing=exam.missing,
        notes=exam.notes + _plan(exam, settings, engine),
        model=ModelInfo(
            name=entry.name,
            version=entry.version,
            digest=entry.digest,
            threshold=final_threshold(entry, settings.threshold),
            licence=entry.licence,
            description=str(entry.card.get('description', '')),
            citation=_setting_text(entry.card.get('citation', '')),
            channels=entry.channels,
            accuracy=accuracy_in_words(entry.card.get('figures')),
        ),
    )
    return content.to_dict()


def finished_content(
    static: Mapping[str, Any],
    *,
    lesions: Path,
    summary: Mapping[str, Any],
    info: Mapping[str, Any],
    qc: Sequence[Mapping[str, Any]],
    accuracy: Mapping[str, Any],
    subject_reference: Mapping[str, Any],
    selfcheck: Mapping[str, Any] | None = None,
) -> ExamContent:
    """Complete the record of an exam that ran to its end.

    Parameters
    ----------
    static : dict
        From :func:`static_content`.
    lesions : Path
        The lesion table (TSV).
    summary, info, qc, accuracy, subject_reference, selfcheck
        Outputs of the nodes that find lesions, run the model, measure, align and check.
    """
    import pandas as pd

    from mslesseg_app.lesions.table import LESION_COLUMNS
    from mslesseg_app.metrics.exam import METRIC_COLUMNS

    grid = {'reference_grid': {'Description': 'Grid of the reference mask.'}}
    content = ExamContent.from_dict(static)
    notes, warnings = _reference_words(subject_reference)
    return dataclasses.replace(
        content,
        notes=content.notes + notes + _edit_in_words(summary) + _models_in_words(info),
        warnings=tuple(info.get('notes', ())) + warnings,
        reasons_to_check=_disagreement(info),
        computing=_device_note(info),
        summary=LesionSummary(
            count=summary['LesionCount'],
            volume_ml=summary['LesionVolume_mm3'] / 1000,
            largest_mm3=summary['LargestLesion_mm3'] or None,
        ),
        lesions=table_rows(pd.read_csv(lesions, sep='\t', na_values='n/a', keep_default_na=False)),
        lesion_columns=LESION_COLUMNS,
        qc=tuple(QCNumber.from_dict(item) for item in qc),
        metrics=dict(accuracy) or None,
        selfcheck=dict(selfcheck) if selfcheck else None,
        metric_columns={**grid, **METRIC_COLUMNS},
    )


def failed_content(
    exam: Exam, error: MSLesSegError, *, crash_file: str = '', step: str = ''
) -> ExamContent:
    """Return the record of an exam that gave no result."""
    return ExamContent(
        session=exam.session,
        status='failed',
        images=tuple(ImageUsed(name, path.name) for name, path in exam.images.items()),
        missing=exam.missing,
        notes=exam.notes,
        failure=Failure(
            message=error.message,
            exit_code=error.exit_code,
            hint=error.hint,
            crash_file=crash_file,
            step=step,
        ),
    )


def read_record(path: Path) -> ExamContent:
    """Read the record of an exam that :class:`DescribeExam` or a failed run wrote.

    Raises
    ------
    DataError
        If the file is no such record.
    """
    try:
        return ExamContent.from_dict(json.loads(path.read_text(encoding='utf-8')))
    except (OSError, ValueError) as error:
        raise DataError(
            f'{path} cannot be read: {error}.',
            'Run the exam again without --reports-only.',
        ) from error


def read_failure(path: Path) -> str:
    """Return why the last run of an exam failed, from its record; empty where it did not.

    Only what this needs is read: group level and clusters read thousands of records. What is
    wrong with a record is returned too.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(content, dict):
            raise ValueError('it is no record')
    except (OSError, ValueError) as error:
        return f'its record cannot be read ({error})'
    if content.get('status', 'ok') != 'failed':
        return ''
    failure = content.get('failure')
    message = failure.get('message') if isinstance(failure, dict) else None
    return str(message) if message else 'no reason is recorded'


def _image_used(modality: str, path: Path, settings: Settings) -> ImageUsed:
    from mslesseg_app.spatial.grids import describe_geometry
    from mslesseg_app.spatial.reading import open_image

    try:
        geometry = describe_geometry(open_image(path))
    except MSLesSegError:
        geometry = ''  # the first node of the exam says what is wrong with it
    return ImageUsed(modality, path.relative_to(settings.bids_dir).as_posix(), geometry)


def _plan(exam: Exam, settings: Settings, engine: str) -> tuple[str, ...]:
    if exam.registered:
        return ('The images are on the MNI152 1 mm grid already; they were not registered again.',)
    bias = 'with' if settings.bias_correction else 'without'
    return (f'Engine {engine}, strategy {settings.strategy}, {bias} bias-field correction.',)


def _reference_words(reference: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return notes and warnings on what the session was aligned through."""
    key = 'SubjectAnatomicalReference'
    if reference.get(key) == 'unbiased':
        sessions = ', '.join(reference[key + 'Sessions'])
        return (f'Aligned through a within-subject template of the sessions {sessions}.',), ()
    if note := reference.get(key + 'Note'):
        return (), (f'Aligned on its own, sessionwise: {note}.',)
    return (), ()


def _device_note(info: Mapping[str, Any]) -> tuple[str, ...]:
    note = str(info.get('device_note', ''))
    return (f'Inference ran on the {note}',) if note.startswith('CPU, because') else ()


def _edit_in_words(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Tell that, and by how much, a person has edited the mask."""
    if not summary.get('Edited'):
        return ()
    mask = summary['EditedMask']
    words = (
        f'The mask was edited by hand ({mask["Name"]}): {mask["AddedVolume_mm3"]:.0f} mm³ were '
        f'added to what the model found, {mask["RemovedVolume_mm3"]:.0f} mm³ removed. All '
        'numbers below follow from the edited mask.'
    )
    return (words,)


def _models_in_words(info: Mapping[str, Any]) -> tuple[str, ...]:
    """State how far the models of an ensemble agree, and how STAPLE rated each."""
    agreement = info.get('agreement', {}).get('MeanDSC')
    words = (
        f'The masks of the {len(info.get("members", ()))} models agree with a Dice coefficient of '
        f'{agreement:.2f} (mean of all pairs).'
        if agreement is not None
        else ''
    )
    agreed = (words,) if words else ()
    return agreed + tuple(
        f'STAPLE gave {member["Name"]} a sensitivity of {_rate(member["Sensitivity"])} and a '
        f'specificity of {_rate(member["Specificity"])} (among voxels that a model marked, and '
        'those around them).'
        for member in info.get('members', ())
        if 'Sensitivity' in member
    )


def _disagreement(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Say that the models of an ensemble disagree more than models usually do."""
    agreement = info.get('agreement', {})
    if agreement.get('Status') != 'check':
        return ()
    words = (
        f'The models disagree: Dice coefficient {agreement["MeanDSC"]:.2f}, mean of all pairs. '
        'Compare their outlines.'
    )
    return (words,)


def _rate(value: Any) -> str:
    return f'{value:.2f}' if isinstance(value, int | float) else str(value)


def _setting_text(value: Any) -> str:
    return ' '.join(map(str, value)) if isinstance(value, list | tuple) else str(value)
