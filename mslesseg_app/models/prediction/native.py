"""External engines that work on the grid of the subject's own FLAIR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.models.prediction.prediction import Prediction
from mslesseg_app.models.prediction.segment import check_modalities, segment_detailed
from mslesseg_app.spatial import grids
from mslesseg_app.spatial.affines import Affine, compose, invert
from mslesseg_app.spatial.resample import resample, restore
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

if TYPE_CHECKING:
    from mslesseg_app.models.entry import ModelEntry


@dataclass(frozen=True, eq=False)
class NativeResult:
    """What an engine found on the grid of the FLAIR.

    Attributes
    ----------
    native : nibabel.Nifti1Image
        Lesion probability, float32, on the grid of the FLAIR; zero outside the brain.
    template : Prediction
        The same on the template grid, by linear interpolation.
    info : dict
        See `mslesseg_app.models.prediction.segment.segment_detailed`.
    """

    native: Any
    template: Prediction
    info: dict[str, Any]


def segment_native(
    entry: ModelEntry,
    images: Mapping[str, Any],
    native_from_mni: Mapping[str, Affine],
    brain: Any,
    **how: Any,
) -> NativeResult:
    """Run an external engine on the grid of the FLAIR.

    Other images are brought to that grid in one interpolation, by the alignment of each to the
    template; the brain mask covers a voxel where at least half of it is brain.

    Parameters
    ----------
    entry : ModelEntry
        With ``is_native``.
    images : mapping of modality to nibabel image
        Each on its own grid, with the FLAIR.
    native_from_mni : mapping of modality to array (4, 4)
        Template points to points of each image (mm, RAS+).
    brain : nibabel image
        Mask on the template grid.
    **how
        As `mslesseg_app.models.prediction.segment.segment_detailed`: device, threads, seed.

    Raises
    ------
    MSLesSegError
        As `segment_detailed`.
    """
    check_modalities(entry, images)
    flair, flair_from_mni = images['FLAIR'], native_from_mni['FLAIR']
    used = {n: image for n, image in images.items() if n == 'FLAIR' or n in entry.channels}
    moved, inside = bring_to_flair(used, native_from_mni, brain)
    found, info = segment_detailed(entry, moved, inside, affine=flair.affine, **how)
    placed = nb.Nifti1Image(found.prob, flair.affine)
    template = resample(placed, TEMPLATE_SHAPE, TEMPLATE_AFFINE, flair_from_mni)
    prob = np.clip(np.asanyarray(template.dataobj, dtype=np.float32), 0, 1)
    native = grids.like(flair, found.prob, np.float32)
    return NativeResult(native, Prediction(prob, notes=found.notes), info)


def bring_to_flair(
    images: Mapping[str, Any], native_from_mni: Mapping[str, Affine], brain: Any
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.bool_]]:
    """Bring all images of an exam, and its brain mask, to the grid of the FLAIR.

    Parameters
    ----------
    images : mapping of modality to nibabel image
        Each on its own grid, with the FLAIR.
    native_from_mni : mapping of modality to array (4, 4)
        Template points to points of each image (mm, RAS+).
    brain : nibabel image
        Mask on the template grid.

    Returns
    -------
    moved : dict of modality to float32 array (X, Y, Z)
        The FLAIR as it is, the others in one linear interpolation.
    inside : bool array (X, Y, Z)
        Voxels of which at least half is brain.
    """
    flair, flair_from_mni = images['FLAIR'], native_from_mni['FLAIR']
    inside = np.asanyarray(restore(brain, flair, flair_from_mni).dataobj) >= 0.5
    flair_to_mni = invert(flair_from_mni)
    moved = {
        name: _on_flair(image, flair, compose(native_from_mni[name], flair_to_mni))
        for name, image in images.items()
    }
    return moved, inside


def _on_flair(image: Any, flair: Any, image_from_flair: Affine) -> npt.NDArray[np.float32]:
    """Return an image on the grid of the FLAIR; the FLAIR itself as it is."""
    if image is not flair:
        image = resample(image, flair.shape[:3], flair.affine, image_from_flair)
    data: npt.NDArray[np.float32] = np.asanyarray(image.dataobj, dtype=np.float32)
    return data
