"""Reports, figures and viewer data for people."""

from __future__ import annotations

from mslesseg_app.reports.content import (
    ExamContent,
    Failure,
    Figure,
    ImageUsed,
    LesionSummary,
    ModelInfo,
    QCNumber,
    RunProvenance,
    SubjectContent,
)

__all__ = [
    'ExamContent',
    'Failure',
    'Figure',
    'ImageUsed',
    'LesionSummary',
    'ModelInfo',
    'QCNumber',
    'RunProvenance',
    'SubjectContent',
]
