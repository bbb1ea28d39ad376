"""What the report of a participant shows besides the records of its exams."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nb
import pandas as pd

from mslesseg_app.bids.exam import Exam
from mslesseg_app.bids.names import files_by_model, output_path, sidecar_of
from mslesseg_app.bids.sidecars import SMALLEST_KEY
from mslesseg_app.bids.workflow_names import exam_name, stage_of
from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.lesions.change_record import PairRecord
from mslesseg_app.lesions.change_table import lesion_statuses
from mslesseg_app.metrics.consensus import METHODS
from mslesseg_app.metrics.members import member_masks
from mslesseg_app.reports.comparison import (
    lesion_map,
    lesions_beside,
    lesions_zoomed,
    models_beside,
    sessions_beside,
)
from mslesseg_app.reports.content import ExamContent, table_rows
from mslesseg_app.reports.participant_report import EMBED_LIMIT
from mslesseg_app.reports.sections import Change, Drawing, Extra
from mslesseg_app.reports.viewer import NO_IMAGES, Bundle, ViewerScene, find_bundle
from mslesseg_app.reports.viewer_data import ExamFiles, ExamImages, load_exam, viewer_scene
from mslesseg_app.spatial.checks import UNREADABLE

#: Bytes that the images of all viewers of a report may take.
VIEWER_LIMIT = 8 * 2**20
#: They get at least so many, whatever the figures take.
LEAST_VIEWER = 4 * 2**20
#: What the drawings of an exam that are made with the report take, about.
_DRAWN = 5 * 2**17
#: Only so many sessions have a viewer, the first ones of the report (the newest).
MOST_SCENES = 8

_BROKEN = (MSLesSegError, *UNREADABLE, KeyError)


def gather_extras(exams: Sequence[ExamContent], subject: str, out_dir: Path) -> list[Extra]:
    """Gather for each exam of a subject what lies beside its record.

    What is missing or damaged is left out, with a note on the report: a report with less is better
    than none.

    Parameters
    ----------
    exams : sequence of ExamContent
        In the order of the report.
    """
    good = [exam for exam in exams if exam.status == 'ok' and exam.model is not None]
    with_scene = good[:MOST_SCENES]
    left, waiting = viewer_room(good, out_dir), len(with_scene)
    extras = []
    for exam in exams:
        if exam not in good:
            extras.append(Extra(seconds=_seconds(exam, subject, out_dir)))
            continue
        files = exam_files(exam, subject, out_dir, good)
        # the newest session gets twice the share of another; what one leaves goes to the next
        parts = waiting + (waiting == len(with_scene) > 1)
        share = left * (1 + parts - waiting) // parts if waiting else 0
        extra = _extra(exam, subject, files, out_dir, share)
        left -= extra.scene.size if extra.scene else 0
        waiting = max(0, waiting - 1)
        extras.append(extra)
    return extras


def viewer_room(exams: Sequence[ExamContent], out_dir: Path) -> int:
    """Return the bytes that the images of all viewers may take beside the stored figures.

    Figures come first: they shall be in the file, so that it can be printed and passed on.
    """
    paths = {out_dir / figure.path for exam in exams for figure in exam.figures}
    figures = sum(path.stat().st_size for path in paths if path.is_file())
    bundle = find_bundle()
    library = len(bundle.packed) if isinstance(bundle, Bundle) else 0
    left = EMBED_LIMIT - library - figures - _DRAWN * len(exams)
    return max(LEAST_VIEWER, min(VIEWER_LIMIT, left))


def _extra(exam: ExamContent, subject: str, files: ExamFiles, out_dir: Path, room: int) -> Extra:
    images: ExamImages | None = None
    scene: ViewerScene | None = None
    drawings: list[Drawing] = []
    overview: Drawing | None = None
    try:
        images = load_exam(files)
        if images is not None:
            overview = _overview(images, exam)
            drawings = _drawings(images, exam)
            scene = viewer_scene(images, room) if room else None
        drawings += _map(exam, subject, out_dir)
        drawings += _models(exam, subject, files, out_dir)
    except _BROKEN:
        pass
    return Extra(
        scene=scene,
        note='' if scene else NO_IMAGES,
        overview=overview,
        drawings=tuple(drawings),
        smallest_mm3=_smallest(exam, subject, out_dir),
        measures=_measures(exam, subject, out_dir),
        change=_change(exam, subject, out_dir),
        seconds=_seconds(exam, subject, out_dir),
        memory=_memory(exam, subject, out_dir),
    )


def exam_files(
    exam: ExamContent, subject: str, out_dir: Path, others: Iterable[ExamContent] = ()
) -> ExamFiles:
    """Find the files of a finished exam that are in the output folder.

    Parameters
    ----------
    others : iterable of ExamContent
        Exams among which the one that the change image compares with is looked for.
    """
    assert exam.model is not None
    key, model = _key(exam, subject), exam.model.name

    def there(kind: str, **entities: str) -> Path | None:
        path = out_dir / output_path(key, kind, **entities)
        return path if path.is_file() else None

    images = {name: there('preproc_native', suffix=name) for name in key.images}
    to_mni = {name: there('to_mni', **{'from': name}) for name in key.images}
    change = there('change_native', desc=model)
    before = _before(exam, subject, out_dir) if change else None
    earlier = [one for one in others if one.session and f'ses-{one.session}' == before]
    return ExamFiles(
        images={name: path for name, path in images.items() if path},
        to_mni={name: path for name, path in to_mni.items() if path},
        brain=there('brain_native'),
        labels=there('instances_native', desc=model),
        probability=there('prob_native', desc=model),
        uncertainty=there('uncertainty_native', desc=model),
        change=change,
        change_next=there('change_next_native', desc=model),
        difference=there('difference_native', desc=model) if change else None,
        before=exam_files(earlier[0], subject, out_dir) if earlier else None,
        session=exam.session,
    )


def _key(exam: ExamContent, subject: str) -> Exam:
    return Exam(subject, exam.session, {item.modality: Path() for item in exam.images})


def _overview(images: ExamImages, exam: ExamContent) -> Drawing | None:
    """Draw the FLAIR, the previous FLAIR and the T1w (else the T2w) of a few lesions."""
    shown = {f'FLAIR {exam.label}' if exam.session else 'FLAIR': images.images['FLAIR']}
    before = f'FLAIR {images.before}' if images.outlines and 'before' in images.images else ''
    if before:
        shown[before] = images.images['before']
    other = next((name for name in ('T1w', 'T2w') if name in images.images), None)
    if other:
        shown[other] = images.images[other]
    return lesions_zoomed(shown, images.brain, images.labels, images.outlines, before)


def _smallest(exam: ExamContent, subject: str, out_dir: Path) -> float | None:
    """Return the volume below which no lesion is reported."""
    assert exam.model is not None
    mask = output_path(_key(exam, subject), 'lesion_native', desc=exam.model.name)
    value = _sidecar(out_dir / mask).get(SMALLEST_KEY)
    return float(value) if isinstance(value, int | float) else None


def _drawings(images: ExamImages, exam: ExamContent) -> list[Drawing]:
    shown = {name: one for name, one in images.images.items() if name != 'before'}
    coded = images.outlines[1] if images.outlines else None
    drawn = [lesions_beside(shown, images.brain, images.labels, coded)]
    if images.change is not None and 'before' in images.images:
        names = images.before, exam.label
        pair = images.images['before'], images.images['FLAIR']
        drawn.append(
            sessions_beside(
                *pair, images.brain, images.change, names, images.difference, images.outlines
            )
        )
    return [drawing for drawing in drawn if drawing is not None]


def _models(exam: ExamContent, subject: str, files: ExamFiles, out_dir: Path) -> list[Drawing]:
    """Draw one outline for each model that the exam has, where it has several."""
    masks = _model_masks(_key(exam, subject), exam, out_dir)
    flair = files.images.get('FLAIR')
    if len(masks) < 2 or flair is None or files.brain is None:
        return []
    drawn = models_beside(nb.load(flair), nb.load(files.brain), masks)
    return [drawn] if drawn else []


def _model_masks(key: Exam, exam: ExamContent, out_dir: Path) -> dict[str, Any]:
    """Return the native mask of each model: those of an ensemble, or of separate runs."""
    assert exam.model is not None
    path = out_dir / output_path(key, 'models_native', desc=exam.model.name)
    if path.is_file():
        return member_masks(path)
    named = files_by_model(out_dir, key, 'lesion_native')
    return {name: nb.load(path) for name, path in named.items() if name not in METHODS}


def _map(exam: ExamContent, subject: str, out_dir: Path) -> list[Drawing]:
    assert exam.model is not None
    key = _key(exam, subject)
    paths = [
        out_dir / output_path(key, 'preproc_mni', suffix='FLAIR'),
        out_dir / output_path(key, 'brain_mni'),
        out_dir / output_path(key, 'lesion_mni', desc=exam.model.name),
    ]
    if not all(path.is_file() for path in paths):
        return []
    image, brain, lesions = (nb.load(path) for path in paths)
    drawn = lesion_map(image, brain, lesions)
    return [drawn] if drawn else []


# ---------------------------------------------------------------------------- tables


def _measures(exam: ExamContent, subject: str, out_dir: Path) -> dict[str, Any]:
    assert exam.model is not None
    path = out_dir / output_path(_key(exam, subject), 'metrics', desc=exam.model.name)
    rows = _table_rows(path)
    return rows[0] if rows else {}


def _table_rows(path: Path) -> tuple[dict[str, Any], ...]:
    """Read a table; nothing where it is missing or damaged."""
    table = _read_table(path)
    return () if table is None else table_rows(table)


def _read_table(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        return pd.read_csv(path, sep='\t', na_values='n/a', keep_default_na=False)
    except (OSError, ValueError):
        return None


def with_statuses(exam: ExamContent, subject: str, out_dir: Path) -> ExamContent:
    """Return the exam with the column ``status`` of its lesions, where it was compared."""
    table = _read_table(_change_table(exam, subject, out_dir))
    if table is None:
        return exam
    found = lesion_statuses(table)
    rows = tuple({**row, 'status': found.get(row.get('lesion_id', 0))} for row in exam.lesions)
    return replace(exam, lesions=rows)


def _change_table(exam: ExamContent, subject: str, out_dir: Path) -> Path:
    assert exam.model is not None
    return out_dir / output_path(_key(exam, subject), 'change', desc=exam.model.name)


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(sidecar_of(path).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _before(exam: ExamContent, subject: str, out_dir: Path) -> str | None:
    """Return the session that an exam was compared with."""
    about = _sidecar(_change_table(exam, subject, out_dir))
    return PairRecord.from_metadata(about).session_before


def _change(exam: ExamContent, subject: str, out_dir: Path) -> Change | None:
    path = _change_table(exam, subject, out_dir)
    if not path.is_file():
        return None
    return Change(_table_rows(path), _sidecar(path))


# ---------------------------------------------------------------------------- resources


def _seconds(exam: ExamContent, subject: str, out_dir: Path) -> dict[str, float]:
    """Return the seconds of each stage in the last run that computed something of this exam."""
    name = re.escape(exam_name(_key(exam, subject)))
    row = re.compile(rf'^{name}\.(\S+)\t([0-9.]+)$', re.MULTILINE)
    for path in _newest_first(out_dir / 'logs', '*_timings.txt'):
        stages: dict[str, float] = {}
        for node, seconds in row.findall(path.read_text(encoding='utf-8', errors='replace')):
            stage = stage_of(node.rsplit('.', 1)[-1])
            stages[stage] = stages.get(stage, 0.0) + float(seconds)
        if stages:
            return stages
    return {}


def _memory(exam: ExamContent, subject: str, out_dir: Path) -> str:
    """Tell the highest memory of a step, where a run was asked to watch it."""
    name = exam_name(_key(exam, subject))
    for path in _newest_first(out_dir / 'logs', f'*_{name}_resources.json'):
        try:
            watched = json.loads(path.read_text(encoding='utf-8'))
            pairs = zip(watched['name'], watched['rss_GiB'], strict=True)
            found = [(float(rss), str(node)) for node, rss in pairs]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if found:
            rss, node = max(found)
            stage = stage_of(node.rsplit('.', 1)[-1])
            return f'Highest memory of a step: {rss:.2f} GiB ({stage}).'
    return 'Memory use was not recorded (use --resource-monitor).'


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, reverse=True)
