"""Output folders with the files of finished exams, small and synthetic, for tests of pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import output_path, sidecar_of
from mslesseg_app.lesions.change_record import PairRecord
from mslesseg_app.reports import (
    ExamContent,
    Failure,
    ImageUsed,
    LesionSummary,
    ModelInfo,
    QCNumber,
)
from mslesseg_app.reports.figures import alignment_flicker, brain_mask_overlay, lesion_contours
from mslesseg_app.spatial.affines import write_itk

MODEL = 'hyperintensity'
#: Grid of all images: thick axial slices, turned by five degrees.
SHAPE, EDGES = (80, 100, 30), (2.0, 2.0, 5.0)


def affine() -> np.ndarray:
    """Voxel to RAS+ mm of the FLAIR, oblique."""
    turn = np.radians(5)
    rotation = np.array(
        [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    )
    made = np.eye(4)
    made[:3, :3] = rotation @ np.diag(EDGES)
    made[:3, 3] = -made[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return made


def head(lesions: int, seed: int = 0) -> dict[str, nb.Nifti1Image]:
    """Make a head with T1w and T2w of the same grid, and lesions that do not touch."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.indices(SHAPE), axis=-1)
    world = nb.affines.apply_affine(affine(), grid)
    radius = np.sqrt(((world / [68.0, 88.0, 64.0]) ** 2).sum(axis=-1))
    brain = radius < 1
    labels = np.zeros(SHAPE, np.int32)
    places = np.argwhere(radius < 0.85)
    while labels.max() < lesions:
        i, j, k = places[rng.integers(len(places))]
        around = (slice(i - 2, i + 4), slice(j - 2, j + 4), slice(k - 1, k + 2))
        if not labels[around].any():
            labels[i : i + 2, j : j + 2, k] = labels.max() + 1
    fluid = ((world / [9.0, 25.0, 12.0]) ** 2).sum(axis=-1) < 1
    noise = rng.normal(0, 2, SHAPE)
    tones = {'FLAIR': (100, 20, 190), 'T1w': (120, 30, 70), 'T2w': (70, 200, 150)}
    images = {}
    for name, (tissue, water, lesion) in tones.items():
        data = np.where(brain, tissue + 6 * np.sin(world[..., 0] / 6), 0.0)
        data = np.where(brain & fluid, water, data)
        data = np.where(labels > 0, lesion, data) + np.where(brain, noise, 0)
        images[name] = nb.Nifti1Image(data.astype(np.float32), affine())
    images['brain'] = nb.Nifti1Image(brain.astype(np.uint8), affine())
    images['labels'] = nb.Nifti1Image(labels, affine())
    probability = np.where(labels > 0, 0.9, 0.02 * brain)
    images['probability'] = nb.Nifti1Image(probability.astype(np.float32), affine())
    images['uncertainty'] = nb.Nifti1Image((0.3 * probability).astype(np.float32), affine())
    return images


def write_exam(
    out: Path,
    session: str,
    lesions: int,
    *,
    before: str = '',
    measures: Mapping[str, Any] | None = None,
    figures: bool = True,
) -> ExamContent:
    """Write the files of one exam and return its record.

    Parameters
    ----------
    before : str
        Session that it is compared with; the first lesions are new, stable and gone.
    measures : mapping, optional
        More columns of the metrics table.
    """
    images = head(lesions)
    exam = Exam('01', session, {name: Path() for name in ('FLAIR', 'T1w', 'T2w')})

    def save(image: nb.Nifti1Image, key: str, **entities: str) -> Path:
        path = out / output_path(exam, key, **entities)
        path.parent.mkdir(parents=True, exist_ok=True)
        nb.save(image, path)
        return path

    for name in exam.images:
        save(images[name], 'preproc_native', suffix=name)
        write_itk(out / output_path(exam, 'to_mni', **{'from': name}), np.eye(4))
    save(images['brain'], 'brain_native')
    save(images['labels'], 'instances_native', desc=MODEL)
    save(images['probability'], 'prob_native', desc=MODEL)
    save(images['uncertainty'], 'uncertainty_native', desc=MODEL)
    rows = _rows(images)
    if before:
        change = out / output_path(exam, 'change_native', desc=MODEL)
        _write_change(images, change, out / output_path(exam, 'change', desc=MODEL), before)
    metrics = {'lesion_load_percent': 0.4, **(measures or {})}
    text = '\t'.join(metrics) + '\n' + '\t'.join(str(value) for value in metrics.values())
    (out / output_path(exam, 'metrics', desc=MODEL)).write_text(text + '\n')
    volume = sum(row['volume_mm3'] for row in rows)
    return ExamContent(
        session=session,
        images=tuple(ImageUsed(name, f'{name}.nii.gz') for name in exam.images),
        model=ModelInfo(MODEL, '1.0', 'ab' * 32, 0.5, 'Apache-2.0'),
        summary=LesionSummary(len(rows), volume / 1000, 20.0 if rows else None),
        lesions=tuple(rows),
        lesion_columns={'volume_mm3': {'Description': 'Volume.', 'Units': 'mm^3'}},
        qc=(
            QCNumber('alignment_FLAIR', 25.0, 'pass', title='FLAIR-to-template registration'),
            QCNumber('flair_coverage', 0.9, 'check', limits='check below 97%'),
            QCNumber('flair_cnr', 21.0, 'pass', title='Contrast to noise of the FLAIR'),
        ),
        figures=_figures(images, out, session) if figures else (),
    )


def failed_exam(session: str) -> ExamContent:
    """Return the record of an exam that failed."""
    return ExamContent(
        session=session,
        status='failed',
        images=(ImageUsed('FLAIR', 'FLAIR.nii.gz'),),
        missing=('T1w', 'T2w'),
        failure=Failure('The FLAIR is damaged.', 65, 'Copy it again.', 'crash-1.txt', 'reading'),
    )


def _rows(images: Mapping[str, nb.Nifti1Image]) -> list[dict[str, Any]]:
    labels = np.asarray(images['labels'].dataobj)
    voxel = float(np.prod(EDGES))
    regions = ('periventricular', 'juxtacortical', 'infratentorial', 'deep_white_matter')
    rows = []
    for value in range(1, int(labels.max()) + 1):
        where = np.argwhere(labels == value)
        x, y, z = nb.affines.apply_affine(affine(), where.mean(axis=0))
        rows.append(
            {
                'lesion_id': value,
                'volume_mm3': len(where) * voxel,
                'n_voxels': len(where),
                'centroid_x': x,
                'centroid_y': y,
                'centroid_z': z,
                'mean_uncertainty': 0.27,
                'region': regions[value % 4],
            }
        )
    return rows


def _write_change(
    images: Mapping[str, nb.Nifti1Image], image: Path, table: Path, before: str
) -> None:
    labels = np.asarray(images['labels'].dataobj)
    codes = np.where(labels > 0, 1 + (labels - 1) % 5, 0).astype(np.uint8)
    nb.save(nb.Nifti1Image(codes, affine()), image)
    words = ('stable', 'new', 'enlarging', 'shrinking', 'resolved')
    lines = ['change_id\tstatus\tlesions_after\tdifference_mm3']
    for value in range(1, int(labels.max()) + 1):
        lines.append(f'{value}\t{words[(value - 1) % 5]}\t{value}\t{10.0 * value}')
    table.write_text('\n'.join(lines) + '\n')
    about = PairRecord(session_before=f'ses-{before}', years=0.5, status='pass')
    sidecar_of(table).write_text(json.dumps(about.to_metadata()))


def _figures(images: Mapping[str, nb.Nifti1Image], out: Path, session: str) -> tuple[Any, ...]:
    folder = out / 'sub-01' / 'figures'
    folder.mkdir(parents=True, exist_ok=True)
    flair, brain = images['FLAIR'], images['brain']
    stem = folder / f'ses-{session}'
    made = (
        lesion_contours(flair, images['labels'], f'{stem}_lesions.svg', brain=brain),
        brain_mask_overlay(flair, brain, f'{stem}_brain.svg', modality='FLAIR'),
        alignment_flicker(flair, flair, brain, f'{stem}_flicker.svg', modality='FLAIR'),
    )
    return tuple(one.moved(Path(one.path).relative_to(out).as_posix()) for one in made)
