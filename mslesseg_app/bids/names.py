"""Names out: every output name is spelled once, in ``io_spec.json``."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from mslesseg_app.bids.exam import Exam

_SPEC = Path(__file__).with_name('io_spec.json')
#: Stand for the labels of an exam in a path; no label of a model or modality holds them.
_SUBJECT, _SESSION = 'LABELOFTHESUBJECT', 'LABELOFTHESESSION'


@cache
def io_spec() -> dict[str, Any]:
    """Return the specification of output names."""
    spec: dict[str, Any] = json.loads(_SPEC.read_text(encoding='utf-8'))
    return spec


def output_entities(key: str, **extra: str) -> dict[str, str]:
    """Return the entities of one kind of output, completed by ``extra`` (``desc``…)."""
    return {**io_spec()['outputs'][key], **extra}


def output_path(exam: Exam, key: str, **extra: str) -> Path:
    """Return the path of an output, relative to the output folder.

    Parameters
    ----------
    exam : Exam
        The exam that the file belongs to.
    key : str
        Kind of output, a key of ``outputs`` in ``io_spec.json``.
    **extra
        Entities that the kind leaves open, such as ``desc`` or ``suffix``.
    """
    pattern = _pattern(key, bool(exam.session), tuple(sorted(extra.items())))
    path = pattern.replace(_SUBJECT, exam.subject)
    return Path(path.replace(_SESSION, exam.session) if exam.session else path)


@cache
def _pattern(key: str, has_session: bool, extra: tuple[tuple[str, str], ...]) -> str:
    """Return an output path with place holders for the labels, which PyBIDS takes long to make."""
    from bids.layout.writing import build_path

    entities = {'subject': _SUBJECT, **output_entities(key, **dict(extra))}
    if has_session:
        entities['session'] = _SESSION
    path = build_path(entities, io_spec()['default_path_patterns'], strict=True)
    if path is None:
        raise ValueError(f'no name for output {key!r} with {entities}')
    return str(path)


def files_by_model(out_dir: Path, exam: Exam, key: str) -> dict[str, Path]:
    """Return the files of one kind that an exam has, by the name of their model.

    Parameters
    ----------
    out_dir : Path
        Output folder of the App.
    exam : Exam
    key : str
        Kind of output whose ``desc`` is the model, a key of ``outputs`` in ``io_spec.json``.
    """
    pattern = out_dir / output_path(exam, key, desc='*')
    start, end = pattern.name.split('*')
    found = sorted(pattern.parent.glob(pattern.name))
    return {path.name.removeprefix(start).removesuffix(end): path for path in found}


def group_path(key: str) -> Path:
    """Return the path of a file of the group level, relative to the output folder."""
    return Path(io_spec()['group'][key])


def sidecar_of(path: Path) -> Path:
    """Return the JSON sidecar's path of a data file."""
    return path.with_name(path.name.split('.', 1)[0] + '.json')


def expected_outputs(exam: Exam, model: str, uncertainty: bool = False) -> list[Path]:
    """List every file that a finished exam leaves in the output folder.

    Parameters
    ----------
    exam : Exam
    model : str
        Name of the model or ensemble.
    uncertainty : bool
        Whether uncertainty maps are written.

    Returns
    -------
    list of Path
        Relative to the output folder, sorted; the report of the subject is not among them.
    """
    from mslesseg_app.metrics.consensus import METHODS

    images = [('preproc_native', name) for name in exam.images]
    images += [('preproc_mni', name) for name in exam.images]
    paths = [output_path(exam, key, suffix=name) for key, name in images]
    paths += [output_path(exam, key) for key in ('brain_native', 'brain_mni')]
    kinds = ('lesion', 'prob', 'instances', *(('uncertainty',) if uncertainty else ()))
    lesion_keys = [f'{kind}_{space}' for kind in kinds for space in ('native', 'mni')]
    lesion_keys += ['regions_native', 'lesions', 'metrics']
    lesion_keys += ['models_native'] if model in METHODS else []
    paths += [output_path(exam, key, desc=model) for key in lesion_keys]
    paths += [sidecar_of(path) for path in paths]
    paths += [output_path(exam, 'to_mni', **{'from': name}) for name in exam.images]
    paths += [output_path(exam, 'from_mni', to=name) for name in exam.images]
    paths += [output_path(exam, 'exam', desc=model), output_path(exam, 'figure_brain')]
    paths += [output_path(exam, 'figure_lesions', desc=model)]
    paths += [output_path(exam, 'figure_alignment', suffix=name) for name in exam.images]
    return sorted(paths)
