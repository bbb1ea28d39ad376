"""The masks of the models of an ensemble, from the map that says which of them mark a voxel."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nb
import numpy as np

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.masks import read_image


def member_masks(path: Path) -> dict[str, nb.Nifti1Image]:
    """Return the mask of each model, in the order of the ensemble.

    Parameters
    ----------
    path : Path
        ``*_seg-models_desc-<method>_dseg.nii.gz``: model n marks a voxel where bit n is set. The
        sidecar beside it names the models (``Model.Members``).

    Raises
    ------
    NoInputError, DataError
        If the map or its sidecar cannot be read.
    """
    sidecar = path.with_name(path.name.split('.', 1)[0] + '.json')
    try:
        members = json.loads(sidecar.read_text(encoding='utf-8'))['Model']['Members']
        names = [str(member['Name']) for member in members]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{sidecar} does not name the models of the ensemble: {error}', 'Run the exam again.'
        ) from error
    image = read_image(path)
    bits = np.asanyarray(image.dataobj).astype(np.int64)
    return {
        name: nb.Nifti1Image(((bits >> number) & 1).astype(np.uint8), image.affine)
        for number, name in enumerate(names)
    }
