"""What the images of an exam add to its lesion table: regions, distances and intensities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.lesions.dissemination import dissemination
from mslesseg_app.lesions.regions import (
    Landmarks,
    fit_landmarks,
    lesion_points,
    locate_lesions,
    nearest_voxels,
    template_voxels,
)
from mslesseg_app.lesions.topography import REGIONS
from mslesseg_app.spatial.template import TEMPLATE_SHAPE
from mslesseg_app.spatial.tissues import Array, Bools

if TYPE_CHECKING:
    import pandas as pd

_FEWEST_WHITE = 1000
_SMALLEST_COVER = 0.5


@dataclass(frozen=True)
class Described:
    """Lesions with their regions.

    Attributes
    ----------
    table : pandas.DataFrame
        The lesion table, completed.
    regions : uint8 array (X, Y, Z)
        Number of the region (`mslesseg_app.lesions.topography.REGIONS`) of each lesion voxel, on
        the grid of the labels.
    columns : dict
        ``<region>_lesions``, ``<region>_volume_ml``, ``dissemination_2017`` and
        ``dissemination_2024`` of the exam.
    metadata : dict
        ``Landmarks`` (source and, if any, note) and ``DisseminationInSpace``.
    """

    table: pd.DataFrame
    regions: npt.NDArray[np.uint8]
    columns: dict[str, Any]
    metadata: dict[str, Any]


def describe_lesions(
    table: pd.DataFrame,
    labels: npt.NDArray[np.integer],
    affine: Array,
    mni_from_native: Array,
    images: Mapping[str, npt.NDArray[np.floating]],
    brain: Bools,
) -> Described:
    """Complete the table of an exam's lesions.

    Parameters
    ----------
    table : pandas.DataFrame
        From `mslesseg_app.lesions.table.lesion_table`.
    labels : int array (X, Y, Z)
        The lesions that the table describes.
    affine : array (4, 4)
        Voxel indices to RAS+ millimetres of the labels.
    mni_from_native : array (4, 4)
        Native RAS+ millimetres to MNI152NLin6Asym RAS+ millimetres.
    images : dict of str to array (182, 218, 182)
        ``FLAIR`` and, if there, ``T1w`` and ``T2w``, on the template grid.
    brain : bool array (182, 218, 182)

    Raises
    ------
    NoInputError
        If the atlas is not installed.
    """
    labels = np.asarray(labels)
    completed = table.copy()
    metadata: dict[str, Any] = {}
    if len(table):
        lesions = on_template(labels, affine, mni_from_native)
        landmarks = fit_landmarks(images, brain, lesions)
        locations = locate_lesions(labels, affine, mni_from_native, landmarks)
        found = [locations[number] for number in table['lesion_id']]
        completed['region'] = [location.region for location in found]
        completed['distance_ventricle_mm'] = [location.to_ventricle for location in found]
        completed['distance_cortex_mm'] = [location.to_cortex for location in found]
        for name, image in images.items():
            ratios = intensity_ratios(labels, affine, mni_from_native, image, landmarks.white)
            completed[f'{name.lower()}_ratio'] = [ratios[n] for n in table['lesion_id']]
        metadata['Landmarks'] = _landmarks_in_words(landmarks)
    judged = dissemination(completed)
    metadata['DisseminationInSpace'] = judged
    columns = region_columns(completed)
    columns |= {f'dissemination_{year}': item['Result'] for year, item in judged.items()}
    return Described(completed, _region_image(labels, completed), columns, metadata)


def region_columns(table: pd.DataFrame) -> dict[str, Any]:
    """Return count and volume (ml) of the lesions of each region."""
    columns: dict[str, Any] = {}
    for name in REGIONS:
        volumes = table.loc[table['region'] == name, 'volume_mm3']
        columns[f'{name}_lesions'] = len(volumes)
        columns[f'{name}_volume_ml'] = float(volumes.sum()) / 1000
    return columns


def on_template(
    labels: npt.NDArray[np.integer], affine: Array, mni_from_native: Array
) -> npt.NDArray[np.bool_]:
    """Return the template voxels that a lesion reaches; not even the smallest gets lost."""
    mask = np.zeros(TEMPLATE_SHAPE, dtype=bool)
    voxel_from_native = template_voxels(mni_from_native)
    for _, points in lesion_points(labels, affine):
        mask[nearest_voxels(points, voxel_from_native)] = True
    return mask


def intensity_ratios(
    labels: npt.NDArray[np.integer],
    affine: Array,
    mni_from_native: Array,
    image: npt.NDArray[np.floating],
    white: Bools,
) -> dict[int, float]:
    """Return the mean intensity of each lesion over the median of healthy white matter.

    Parameters
    ----------
    labels, affine, mni_from_native
        As in `describe_lesions`.
    image : array (182, 218, 182)
        On the template grid; 0 is not measured.
    white : bool array (182, 218, 182)
        White matter without lesions.

    Returns
    -------
    dict of int to float
        NaN for a lesion that the image shows less than half of, and for all lesions without
        healthy white matter to compare with.
    """
    data = np.ascontiguousarray(image, dtype=np.float32)
    healthy = data[white & (data != 0)]
    unit = float(np.median(healthy)) if healthy.size >= _FEWEST_WHITE else 0.0
    voxel_from_native = template_voxels(mni_from_native)
    ratios = {}
    for number, points in lesion_points(labels, affine):
        voxels = points @ voxel_from_native[:3, :3].T + voxel_from_native[:3, 3]
        values = ndimage.map_coordinates(data, voxels.T, order=1, output=np.float64)
        values = values[values != 0]
        known = unit > 0 and len(values) >= _SMALLEST_COVER * len(points)
        ratios[number] = float(values.mean()) / unit if known else float('nan')
    return ratios


def _region_image(labels: npt.NDArray[np.integer], table: pd.DataFrame) -> npt.NDArray[np.uint8]:
    numbers = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.uint8)
    for lesion, region in zip(table['lesion_id'], table['region'], strict=True):
        numbers[lesion] = REGIONS[region].index
    return np.asarray(numbers[labels], dtype=np.uint8)


def _landmarks_in_words(landmarks: Landmarks) -> dict[str, str]:
    """Return what a sidecar says of the landmarks."""
    said = {'Source': landmarks.source}
    return said | ({'Note': landmarks.note} if landmarks.note else {})
