"""Output folders of many exams: small lesion masks, metrics tables, records and references."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from scipy import ndimage

from mslesseg_app.spatial.template import TEMPLATE_AFFINE

SHAPE = (40, 48, 36)
SPACING = (1.0, 1.0, 1.5)

_HEADER = {
    'brain_volume_ml': 1300.0,
    'brain_volume_mni_ml': 1800.0,
    'alignment_FLAIR': 0.9,
    'alignment_FLAIR_status': 'pass',
    'flair_coverage': 0.99,
    'flair_slice_thickness_mm': 1.5,
    'qc_status': 'pass',
}


@dataclass
class Tree:
    """Folders of one made-up study.

    Attributes
    ----------
    truth : dict
        Reference mask by exam (``sub-01_ses-1``), for those that have one.
    predicted : dict
        Mask by exam and model.
    """

    bids: Path
    out: Path
    manual: Path
    truth: dict[str, np.ndarray] = field(default_factory=dict)
    predicted: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)


def lesion_mask(
    generator: np.random.Generator, shape: Sequence[int] = SHAPE, most: int = 8
) -> np.ndarray:
    """Draw some balls of 1 to 5 voxels of radius."""
    axes = np.ogrid[tuple(slice(0, size) for size in shape)]
    mask = np.zeros(shape, dtype=bool)
    for _ in range(int(generator.integers(2, most + 1))):
        centre = generator.uniform(6, np.array(shape) - 6)
        radius = generator.uniform(1.0, 5.0)
        distance = sum((axis - place) ** 2 for axis, place in zip(axes, centre, strict=True))
        mask |= distance < radius**2
    return mask


def blurred(truth: np.ndarray, generator: np.random.Generator, quality: float) -> np.ndarray:
    """Change a mask as a model of this quality (0 to 1) would: misses, rims, false lesions."""
    labels, count = ndimage.label(truth)
    kept = [n for n in range(1, count + 1) if generator.random() < 0.4 + 0.6 * quality]
    mask = np.isin(labels, kept)
    if generator.random() > quality:
        mask = ndimage.binary_dilation(mask)
    for _ in range(int(generator.poisson(3 * (1 - quality)))):
        x, y, z = (int(generator.integers(3, size - 4)) for size in truth.shape)
        mask[x : x + 2, y : y + 2, z : z + 2] = True
    return mask


def save(path: Path, data: np.ndarray, spacing: Sequence[float] = SPACING) -> None:
    """Write a mask, quickly and always with the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nb.Nifti1Image(data.astype(np.uint8), np.diag([*spacing, 1.0]))
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Write a table of one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = ['n/a' if value is None else str(value) for value in row.values()]
    path.write_text('\t'.join(row) + '\n' + '\t'.join(values) + '\n')


def metrics_row(mask: np.ndarray, label: str, model: str, **changes: Any) -> dict[str, Any]:
    """Return the metrics of one exam as the participant level writes them, in brief."""
    subject, _, session = label.partition('_')
    _, count = ndimage.label(mask)
    volume = float(mask.sum()) * float(np.prod(SPACING)) / 1000
    row = {
        'participant_id': subject,
        'session_id': session or 'n/a',
        'model': model,
        'lesion_count': count,
        'lesion_volume_ml': f'{volume:.6g}',
        'lesion_load_percent': f'{volume / 13:.6g}',
        **_HEADER,
    }
    return row | changes


def add_exam(
    tree: Tree,
    label: str,
    truth: np.ndarray | None,
    predicted: dict[str, np.ndarray],
    **changes: Any,
) -> None:
    """Write one exam; without ``truth`` it has no reference."""
    subject, _, session = label.partition('_')
    raw = tree.bids / subject / session / 'anat' / f'{label}_FLAIR.nii.gz'
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_bytes(b'')
    folder = tree.out / subject / session / 'anat'
    for model, mask in predicted.items():
        save(folder / f'{label}_space-orig_label-lesion_desc-{model}_mask.nii.gz', mask)
        row = metrics_row(mask, label, model, **changes)
        write_row(folder / f'{label}_desc-{model}_metrics.tsv', row)
        tree.predicted[label, model] = mask
    if truth is not None:
        path = tree.manual / subject / session / 'anat'
        save(path / f'{label}_label-lesion_mask.nii.gz', truth)
        tree.truth[label] = truth


def add_images(tree: Tree, label: str, mask: np.ndarray, generator: np.random.Generator) -> None:
    """Write a FLAIR with these lesions and its brain mask, as the participant level does."""
    subject, _, session = label.partition('_')
    folder = tree.out / subject / session / 'anat'
    axes = np.ogrid[tuple(slice(-1, 1, complex(size)) for size in mask.shape)]
    distance = np.sqrt(sum(axis**2 for axis in axes))
    brain = distance < 0.9
    noise = ndimage.gaussian_filter(generator.normal(size=mask.shape), 1.0)
    flair = (brain * (90 + 60 * noise + 40 * (distance > 0.7)) + 90 * mask).clip(0, 255)
    save(folder / f'{label}_desc-preproc_FLAIR.nii.gz', flair)
    save(folder / f'{label}_desc-brain_mask.nii.gz', brain)


def add_template_mask(tree: Tree, label: str, model: str, mask: np.ndarray) -> None:
    """Write a lesion mask on the template grid."""
    subject, _, session = label.partition('_')
    name = f'{label}_space-MNI152NLin6Asym_res-1_label-lesion_desc-{model}_mask.nii.gz'
    path = tree.out / subject / session / 'anat' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nb.Nifti1Image(mask.astype(np.uint8), TEMPLATE_AFFINE)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def add_failure(tree: Tree, label: str, model: str, message: str = 'the file is damaged') -> None:
    """Write the record of an exam whose last run failed."""
    subject, _, session = label.partition('_')
    folder = tree.out / subject / session / 'log'
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        'session': session.removeprefix('ses-') or None,
        'status': 'failed',
        'failure': {'message': message, 'exit_code': 65},
    }
    (folder / f'{label}_desc-{model}_exam.json').write_text(json.dumps(record))


def make_tree(
    root: Path,
    patients: int = 6,
    *,
    sessions: int = 0,
    models: Sequence[str] = ('unet', 'floor'),
    references: bool = True,
    seed: int = 7,
    shape: Sequence[int] = SHAPE,
) -> Tree:
    """Make a study: the first model is better than the second, and so on.

    Parameters
    ----------
    sessions : int
        Sessions of each patient; 0 leaves the session out of names.
    """
    tree = Tree(root / 'bids', root / 'out', root / 'manual')
    generator = np.random.default_rng(seed)
    for folder, kind in (
        (tree.bids, 'raw'),
        (tree.out, 'derivative'),
        (tree.manual, 'derivative'),
    ):
        folder.mkdir(parents=True)
        text = {'Name': folder.name, 'BIDSVersion': '1.10.0', 'DatasetType': kind}
        if kind == 'derivative':
            text['GeneratedBy'] = [{'Name': 'mslesseg' if folder.name == 'out' else 'manual'}]
        (folder / 'dataset_description.json').write_text(json.dumps(text))
    for number in range(1, patients + 1):
        for session in range(1, sessions + 1) if sessions else (0,):
            label = f'sub-{number:02d}' + (f'_ses-{session}' if session else '')
            truth = lesion_mask(generator, shape)
            masks = {
                model: blurred(truth, generator, 1 - 0.4 * (place + 0.3))
                for place, model in enumerate(models)
            }
            add_exam(tree, label, truth if references else None, masks)
    return tree


def write_participants(folder: Path, patients: int = 6) -> Path:
    """Write a participants table with age, sex and EDSS."""
    rows = ['participant_id\tage\tsex\tedss\tsplit']
    for number in range(1, patients + 1):
        sex, split = 'FM'[number % 2], 'train' if number % 3 else 'test'
        rows.append(f'sub-{number:02d}\t{30 + number}\t{sex}\t{number / 2}\t{split}')
    path = folder / 'participants.tsv'
    path.write_text('\n'.join(rows) + '\n')
    return path
