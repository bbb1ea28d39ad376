"""Lesion masks as fMRIPrep reads them: ``_roi`` files on the grid of the T1w.

fMRIPrep takes any ``anat/*_roi.nii.gz`` of the raw data as a mask of lesions that spatial
normalisation must not heed (cost-function masking), and expects it on the T1w's own grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

from mslesseg_app.bids.exam import Exam, named_exam
from mslesseg_app.bids.names import output_path
from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.core.files import write_bytes
from mslesseg_app.spatial.affines import invert, read_itk
from mslesseg_app.spatial.checks import UNREADABLE
from mslesseg_app.spatial.grids import compressed, like
from mslesseg_app.spatial.resample import restore


def write_roi(out: Path, exam: str, model: str, output: Path) -> Path:
    """Write the lesion mask of an exam on the grid of its T1w.

    A voxel belongs to the mask when lesions fill half of it or more.

    Parameters
    ----------
    out : Path
        Output folder of the App.
    exam : str
        ``sub-01_ses-1``, or ``sub-01`` without sessions.
    model : str
    output : Path
        Raw BIDS dataset of fMRIPrep, or any folder.

    Returns
    -------
    Path
        ``<output>/sub-01/ses-1/anat/sub-01_ses-1_label-lesion_roi.nii.gz``.

    Raises
    ------
    NoInputError
        If a file is missing: the exam has no T1w, or was not aligned.
    DataError
        If one cannot be read.
    """
    named = named_exam(exam)
    mask = _load_result(out / output_path(named, 'lesion_native', desc=model))
    anatomy = _load_result(out / output_path(named, 'preproc_native', suffix='T1w'))
    t1w_from_mni, flair_from_mni = (_transform(out, named, name) for name in ('T1w', 'FLAIR'))
    t1w_from_flair = t1w_from_mni @ invert(flair_from_mni)
    share = np.asarray(restore(mask, anatomy, t1w_from_flair).dataobj)
    image = like(anatomy, share >= 0.5, np.uint8)
    path = output.joinpath(*exam.split('_')) / 'anat' / f'{exam}_label-lesion_roi.nii.gz'
    write_bytes(path, compressed(image))
    return path


def _transform(out: Path, exam: Exam, name: str) -> Any:
    path = out / output_path(exam, 'to_mni', **{'from': name})
    if not path.is_file():
        raise NoInputError(f'{path} does not exist.', f'The exam needs an aligned {name}.')
    return read_itk(path)


def _load_result(path: Path) -> Any:
    if not path.is_file():
        raise NoInputError(f'{path} does not exist.', 'Check --exam and --model.')
    try:
        image = nb.load(path)
        np.asanyarray(image.dataobj)
    except UNREADABLE as error:
        raise DataError(f'{path} cannot be read: {error}') from error
    return image
