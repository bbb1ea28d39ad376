"""Synthetic heads in the exact layout of the MSLesSeg release, its odd tables included.

For testing ``mslesseg import``, ``train`` and ``crossval`` without the real data: no person was
scanned, and no figure that comes out says anything about real exams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.files import write_bytes, write_text
from mslesseg_app.demo.contrast import Modality
from mslesseg_app.demo.lesions import in_session, lesion_mask, voxel_shares
from mslesseg_app.demo.phantom import LESION_EDGE_MM, Phantom, lesion_intensity, make_phantom
from mslesseg_app.spatial.grids import compressed, on_template
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

ROOT = 'MSLesSeg Dataset'
_TOKENS: dict[Modality, str] = {'FLAIR': 'FLAIR', 'T1w': 'T1', 'T2w': 'T2'}
_CLINICAL = 'Patient;Timepoint;Sex;Age;MS Type;EDSS;Lesion Number;Lesion Volume;\n'
_SCANNERS = (
    'Patient;Timepoint;Rows;Columns;Pixel Spacing;Slice Thickness;Repetition Time;Echo Time\n'
)


@dataclass(frozen=True)
class Visit:
    """One exam on the template grid, without skull.

    Attributes
    ----------
    images : mapping of modality to float32 array (182, 218, 182)
    mask : bool array
    """

    images: Mapping[Modality, npt.NDArray[np.float32]]
    mask: npt.NDArray[np.bool_]


def make_release(
    folder: Path,
    train: Mapping[int, int],
    test: Sequence[int],
    *,
    seed: int = 1,
    resolution: float = 3.0,
) -> Path:
    """Write a release of synthetic patients.

    Parameters
    ----------
    folder : Path
        The release goes into ``MSLesSeg Dataset`` below it.
    train : mapping of int to int
        Number of timepoints of each training patient.
    test : sequence of int
        Test patients, one exam each, without a folder for it.
    seed : int
        Decides everything.
    resolution : float
        Voxel (mm) that anatomy is computed at; lesions are drawn at 1 mm.

    Returns
    -------
    Path
        Root of the release.
    """
    root = folder / ROOT
    clinical, scanners = [_CLINICAL], [_SCANNERS]
    for patient in sorted([*train, *test]):
        phantom = make_phantom(1000 * seed + patient, resolution)
        for timepoint in range(1, train.get(patient, 1) + 1):
            visit = make_visit(phantom, timepoint, [seed, patient, timepoint])
            stem, place = f'P{patient}_T{timepoint}', f'train/P{patient}/T{timepoint}'
            if patient in test:
                stem, place = f'P{patient}', f'test/P{patient}'
            _write_visit(root / place, stem, visit)
            kind = ('SMRR', 'SMSP', 'SMPP')[patient % 7 // 3]
            clinical.append(
                f'P{patient};T{timepoint};{"MF"[patient % 2]};{30 + patient % 20},{timepoint};'
                f'{kind};{timepoint},5;;{visit.mask.sum()};{len(phantom.lesions)}\n'
            )
            scanners.append(f'P{patient};T{timepoint};256;256;[0.9, 0.9];3;9000;120\n')
    scanners.append('P0;NONE;NONE;NONE;NONE;NONE;NONE;NONE\n')
    info = root / 'info_dataset'
    write_text(info / 'clinical_data.csv', ''.join(clinical))
    for word in ('FLAIR', 'T1', 'T2'):
        name = f'patient_scanners_info_{word}.csv'
        write_text(info / 'patient_scanners_info' / name, ''.join(scanners))
    return root


def make_visit(phantom: Phantom, timepoint: int, seed: Sequence[int]) -> Visit:
    """Scan a phantom on the template grid: lesions of varied contrast, noise, no skull."""
    rng = np.random.default_rng(list(seed))
    lesions = in_session(phantom.lesions, min(timepoint, 2))
    brain = _moved(phantom, phantom.brain.mask.astype(np.float32)) > 0.5
    contrast = rng.uniform(0.5, 1.0, len(lesions))
    images = {}
    for modality in _TOKENS:
        image = _moved(phantom, phantom.volumes[modality])
        for lesion, factor in zip(lesions, contrast, strict=True):
            box, share = voxel_shares(lesion, TEMPLATE_SHAPE, TEMPLATE_AFFINE, LESION_EDGE_MM)
            change = factor * share * (lesion_intensity(lesion, modality) - image[box])
            image[box] += change.astype(np.float32)
        image *= rng.uniform(0.5, 4.0)
        noise = rng.normal(0, 0.03 * float(image[brain].mean()), image.shape)
        images[modality] = np.where(brain, np.rint(image + noise).clip(1), 0).astype(np.float32)
    mask = lesion_mask(lesions, TEMPLATE_SHAPE, TEMPLATE_AFFINE).astype(bool) & brain
    return Visit(images, mask)


def _moved(phantom: Phantom, volume: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import nibabel as nb

    image = nb.Nifti1Image(volume, phantom.grid.affine)
    moved = resample(image, TEMPLATE_SHAPE, TEMPLATE_AFFINE, np.eye(4), order=1)
    return np.array(moved.dataobj, dtype=np.float32)


def _write_visit(folder: Path, stem: str, visit: Visit) -> None:
    """Write float32 images with the form codes of the release: 4 for images, 1 for masks."""
    for modality, token in _TOKENS.items():
        image = on_template(visit.images[modality], np.float32)
        write_bytes(folder / f'{stem}_{token}.nii.gz', compressed(image, 1))
    mask = on_template(visit.mask, np.float32)
    mask.set_qform(TEMPLATE_AFFINE, 1)
    mask.set_sform(TEMPLATE_AFFINE, 1)
    write_bytes(folder / f'{stem}_MASK.nii.gz', compressed(mask, 1))
