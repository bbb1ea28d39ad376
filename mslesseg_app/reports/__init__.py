"""Pages and pictures that people look at."""

from __future__ import annotations

from mslesseg_app.reports.content import (
    ExamContent,
    Failure,
    Figure,
    ImageUsed,
    LesionSummary,
    ModelInfo,
    Provenance,
    QCNumber,
    SubjectContent,
)

__all__ = [
    'ExamContent',
    'Failure',
    'Figure',
    'ImageUsed',
    'LesionSummary',
    'ModelInfo',
    'Provenance',
    'QCNumber',
    'SubjectContent',
]
