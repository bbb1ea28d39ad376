"""One row for each lesion: size, location and probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.shape import elongation, min_feret_diameter, outer_corners
from mslesseg_app.lesions.topography import REGIONS

if TYPE_CHECKING:
    import pandas as pd

_MM3 = 'mm^3'
_RATIO = (
    'Mean intensity of the lesion on the preprocessed {} over the median of white matter without '
    'lesions; n/a without that image.'
)

LESION_COLUMNS: dict[str, dict[str, Any]] = {
    'lesion_id': {
        'Description': 'Number of the lesion in the instance image; 1 is the largest.',
    },
    'volume_mm3': {
        'Description': 'Volume: number of voxels times the volume of one voxel.',
        'Units': _MM3,
    },
    'n_voxels': {'Description': 'Number of voxels of the native FLAIR grid.'},
    'max_diameter_mm': {
        'Description': 'Largest extent (maximal Feret diameter): the longest straight line '
        'between two points of the lesion, taken over the outer corners of its voxels.',
        'Units': 'mm',
    },
    'min_diameter_mm': {
        'Description': 'Smallest width (minimal Feret diameter): the smallest distance of two '
        'parallel planes that hold the lesion between them, one on a face of its convex hull.',
        'Units': 'mm',
    },
    'elongation': {
        'Description': 'Longest over shortest axis of the ellipsoid that has the second moments '
        'of the lesion; 1 is a ball.',
    },
    'centroid_x': {'Description': 'Centre of the voxels, left to right (RAS).', 'Units': 'mm'},
    'centroid_y': {
        'Description': 'Centre of the voxels, posterior to anterior (RAS).',
        'Units': 'mm',
    },
    'centroid_z': {
        'Description': 'Centre of the voxels, inferior to superior (RAS).',
        'Units': 'mm',
    },
    'mni_x': {
        'Description': 'Centre in MNI152NLin6Asym, left to right; n/a without an alignment.',
        'Units': 'mm',
    },
    'mni_y': {
        'Description': 'Centre in MNI152NLin6Asym, posterior to anterior; '
        'n/a without an alignment.',
        'Units': 'mm',
    },
    'mni_z': {
        'Description': 'Centre in MNI152NLin6Asym, inferior to superior; '
        'n/a without an alignment.',
        'Units': 'mm',
    },
    'mean_prob': {
        'Description': 'Mean lesion probability of the voxels, 0 to 1; n/a without probabilities.',
    },
    'max_prob': {
        'Description': 'Largest lesion probability of the voxels, 0 to 1; '
        'n/a without probabilities.',
    },
    'mean_uncertainty': {
        'Description': 'Mean uncertainty over the voxels; n/a where no map was requested.',
    },
    'n_models_agree': {
        'Description': 'Number of models whose own mask shares a voxel with the lesion; n/a '
        'unless several models were combined.',
    },
    'agreement': {
        'Description': 'Share of the models that mark a voxel, mean over the voxels, 0 to 1; n/a '
        'unless several models were combined.',
    },
    'region': {
        'Description': 'Region by the topography of the McDonald criteria; n/a without an '
        'alignment.',
        'Levels': {name: region.rule for name, region in REGIONS.items()},
    },
    'distance_ventricle_mm': {
        'Description': 'Smallest distance to a lateral ventricle, 0 where it is touched.',
        'Units': 'mm',
    },
    'distance_cortex_mm': {
        'Description': 'Smallest distance to the cortex of the cerebrum, 0 where it is touched.',
        'Units': 'mm',
    },
    'flair_ratio': {'Description': _RATIO.format('FLAIR')},
    't1w_ratio': {'Description': _RATIO.format('T1w') + ' Below 1 is T1-hypointense.'},
    't2w_ratio': {'Description': _RATIO.format('T2w')},
}

#: Columns of `LESION_COLUMNS` that hold words.
TEXT_COLUMNS = ('region',)


def feret_diameter(mask: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64]) -> float:
    """Return the longest straight line inside the outline of a mask, in mm.

    Voxels are boxes, not points: the line runs between corners, so that one voxel has the
    length of its diagonal and a lesion seen on one thick slice is as long as the slice is
    thick. The two ends lie on the convex hull, which keeps large lesions fast.

    Parameters
    ----------
    mask : bool array (X, Y, Z)
        At least one voxel.
    affine : array (4, 4)
        Voxel indices to millimetres; shears and rotations count.
    """
    corners = outer_corners(mask)
    outline = corners[ConvexHull(corners).vertices]
    return float(pdist(outline @ np.asarray(affine, dtype=float)[:3, :3].T).max())


@dataclass(frozen=True)
class LesionRow:
    """What the voxels of one lesion tell; each field is a column of `LESION_COLUMNS`."""

    lesion_id: int
    volume_mm3: float
    n_voxels: int
    max_diameter_mm: float
    min_diameter_mm: float
    elongation: float
    centroid_x: float
    centroid_y: float
    centroid_z: float
    mni_x: float
    mni_y: float
    mni_z: float
    mean_prob: float
    max_prob: float
    mean_uncertainty: float
    n_models_agree: float
    agreement: float


def lesion_table(
    labels: npt.NDArray[np.integer],
    affine: npt.NDArray[np.float64],
    prob: npt.NDArray[np.floating] | None = None,
    mni_from_native: npt.NDArray[np.float64] | None = None,
    uncertainty: npt.NDArray[np.floating] | None = None,
    models: Sequence[npt.NDArray[np.bool_]] = (),
) -> pd.DataFrame:
    """Describe each lesion of an instance image.

    Parameters
    ----------
    labels : int array (X, Y, Z)
        0 outside lesions, otherwise the number of the lesion.
    affine : array (4, 4)
        Voxel indices to RAS+ millimetres of the same grid.
    prob : float array (X, Y, Z), optional
        Lesion probability on the same grid.
    mni_from_native : array (4, 4), optional
        Native RAS+ millimetres to MNI152NLin6Asym RAS+ millimetres.
    uncertainty : float array (X, Y, Z), optional
        Uncertainty map on the same grid.
    models : sequence of bool arrays (X, Y, Z)
        The mask of each model of an ensemble on the same grid.

    Returns
    -------
    pandas.DataFrame
        The columns of `LESION_COLUMNS`, ordered by ``lesion_id``; no rows without lesions.
        What is unknown (such as MNI coordinates without ``mni_from_native``) is NaN, and so
        are the columns from ``region`` on, which `mslesseg_app.lesions.description` completes.

    Raises
    ------
    DataError
        If the arrays do not share one three-dimensional grid.
    """
    import pandas as pd

    labels = np.asarray(labels)
    for image in (prob, uncertainty, *models):
        _check_grid(labels, image)
    rows = [
        asdict(
            _lesion_row(labels, number, box, affine, prob, mni_from_native, uncertainty, models)
        )
        for number, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1)
        if box is not None
    ]
    table = pd.DataFrame(rows, columns=list(LESION_COLUMNS), dtype=float)
    types: dict[str, Any] = dict.fromkeys(TEXT_COLUMNS, object)
    return table.astype(types | {'lesion_id': np.int64, 'n_voxels': np.int64})


def _check_grid(labels: npt.NDArray[np.integer], image: npt.NDArray[Any] | None) -> None:
    if labels.ndim != 3:
        raise DataError(f'Lesion labels have {labels.ndim} dimensions; three are needed.')
    if image is not None and image.shape != labels.shape:
        raise DataError(
            f'A map of the lesions has the shape {image.shape}, the labels {labels.shape}.',
            'Both have to lie on the same grid.',
        )


def _lesion_row(
    labels: npt.NDArray[np.integer],
    number: int,
    box: tuple[slice, ...],
    affine: npt.NDArray[np.float64],
    prob: npt.NDArray[np.floating] | None,
    mni_from_native: npt.NDArray[np.float64] | None,
    uncertainty: npt.NDArray[np.floating] | None,
    models: Sequence[npt.NDArray[np.bool_]],
) -> LesionRow:
    mask = labels[box] == number
    affine = np.asarray(affine, dtype=float)
    size = int(mask.sum())
    corner = np.array([edge.start for edge in box], dtype=float)
    centre = affine[:3, :3] @ (np.argwhere(mask).mean(axis=0) + corner) + affine[:3, 3]
    mni = np.full(3, np.nan)
    if mni_from_native is not None:
        mni = mni_from_native[:3, :3] @ centre + mni_from_native[:3, 3]
    probabilities = _inside(prob, box, mask)
    agreeing, agreement = _models_agreement([model[box][mask] for model in models])
    return LesionRow(
        lesion_id=number,
        volume_mm3=size * abs(float(np.linalg.det(affine[:3, :3]))),
        n_voxels=size,
        max_diameter_mm=feret_diameter(mask, affine),
        min_diameter_mm=min_feret_diameter(mask, affine),
        elongation=elongation(mask, affine),
        centroid_x=centre[0],
        centroid_y=centre[1],
        centroid_z=centre[2],
        mni_x=mni[0],
        mni_y=mni[1],
        mni_z=mni[2],
        mean_prob=probabilities.mean(),
        max_prob=probabilities.max(),
        mean_uncertainty=_inside(uncertainty, box, mask).mean(),
        n_models_agree=agreeing,
        agreement=agreement,
    )


def _inside(
    image: npt.NDArray[np.floating] | None, box: tuple[slice, ...], mask: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the values of a map in a lesion; NaN without a map."""
    if image is None:
        return np.array([np.nan])
    return np.asarray(image[box][mask], dtype=np.float64)


def _models_agreement(marked: Sequence[npt.NDArray[np.bool_]]) -> tuple[float, float]:
    """Return how many models meet the lesion, and their mean share of it; NaN for one model."""
    if len(marked) < 2:
        return np.nan, np.nan
    shares = [float(one.mean()) for one in marked]
    return sum(share > 0 for share in shares), sum(shares) / len(shares)
