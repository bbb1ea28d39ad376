"""Oriented slices: from an image in any orientation to images with known sides.

All work happens on the image's own voxels, reordered to the nearest RAS orientation and never
interpolated.  Image coordinates are millimetres from the upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nb
import numpy as np
from nibabel.affines import obliquity, voxel_sizes
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from skimage.measure import find_contours

from mslesseg_app.core.errors import DataError

Box = tuple[slice, slice, slice]

PLANES = ('sagittal', 'coronal', 'axial')
WORLD_AXES = ('x', 'y', 'z')

#: Voxels longer than this many times their other sides make an axis the thick one.
_ANISOTROPIC = 1.5


@dataclass(frozen=True)
class OrientedVolume:
    """An image reordered to the nearest RAS orientation.

    Attributes
    ----------
    data : ndarray (X, Y, Z)
        Axes run to the right, to the front and upwards.
    affine : ndarray (4, 4)
        Voxel to RAS+ mm of the reordered array.
    spacing : ndarray (3,)
        Voxel size in mm.
    """

    data: NDArray[np.generic]
    affine: NDArray[np.float64]
    spacing: NDArray[np.float64]

    @property
    def thick_axis(self) -> int:
        """The axis across the acquired slices; axial where voxels are about isotropic."""
        axis = int(np.argmax(self.spacing))
        others = np.delete(self.spacing, axis)
        return axis if self.spacing[axis] > _ANISOTROPIC * others.max() else 2

    @property
    def tilt(self) -> float:
        """Largest angle between a voxel axis and a scanner axis, in degrees."""
        return float(np.degrees(obliquity(self.affine)).max())

    def position(self, axis: int, index: int) -> float:
        """Scanner coordinate (mm) across slice ``index`` of ``axis``, at its middle."""
        middle = (np.array(self.data.shape) - 1) / 2.0
        middle[axis] = index
        return float(nb.affines.apply_affine(self.affine, middle)[axis])


def oriented(image: nb.spatialimages.SpatialImage) -> OrientedVolume:
    """Reorder an image to the nearest RAS orientation.

    Raises
    ------
    DataError
        If the image is not three-dimensional.
    """
    if len(image.shape) != 3:
        raise DataError(f'A figure needs a 3D image; this one has the shape {image.shape}.')
    canonical = nb.as_closest_canonical(image)
    return OrientedVolume(
        data=np.asanyarray(canonical.dataobj),
        affine=canonical.affine,
        spacing=voxel_sizes(canonical.affine),
    )


def oriented_like(
    image: nb.spatialimages.SpatialImage, volume: OrientedVolume, what: str
) -> OrientedVolume:
    """Reorder a second image that must lie on the grid of ``volume``.

    Raises
    ------
    DataError
        If shapes or affines differ.
    """
    second = oriented(image)
    demand_grid(second, volume, what)
    return second


def demand_grid(second: OrientedVolume, volume: OrientedVolume, what: str) -> None:
    """Raise a DataError if two volumes differ in shape or affine."""
    same_shape = second.data.shape == volume.data.shape
    if not (same_shape and np.allclose(second.affine, volume.affine, atol=1e-3)):
        raise DataError(f'{what} is not on the grid of the image that it is drawn on.')


def slice_plane(
    data: NDArray[np.generic],
    axis: int,
    index: int,
    box: Box,
) -> NDArray[np.generic]:
    """Cut one slice and turn it as it is shown.

    Parameters
    ----------
    data : ndarray (X, Y, Z)
        In RAS order.
    box : tuple of slice
        The part to show; its entry for ``axis`` is not used.

    Returns
    -------
    ndarray (rows, columns)
        Top is superior (anterior in axial slices). The left side of the image is the patient's
        right (anterior in sagittal slices).
    """
    cut: list[slice | int] = list(box)
    cut[axis] = index
    return data[tuple(cut)].T[::-1, ::-1]


def pixel_size(volume: OrientedVolume, axis: int) -> tuple[float, float]:
    """Width and height in mm of a pixel of :func:`slice_plane`."""
    width, height = np.delete(volume.spacing, axis)
    return float(width), float(height)


def sides(axis: int) -> tuple[str, str]:
    """Letters for the left and the right edge of an image."""
    return ('A', 'P') if axis == 0 else ('R', 'L')


def outlines(
    plane: NDArray[np.generic], pixel: tuple[float, float], level: float = 0.5
) -> list[NDArray[np.float64]]:
    """Contours of an image as (N, 2) points x, y in mm from its upper left corner."""
    padded = np.pad(np.asarray(plane, dtype=np.float64), 1)
    found = find_contours(padded, level)
    # find_contours counts from pixel centres: minus the padding, plus half a pixel.
    return [(points[:, ::-1] - 0.5) * pixel for points in found]


def foreground(data: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Head or brain against the dark background, by Otsu's threshold of the non-zero voxels."""
    values = np.nan_to_num(np.asarray(data, dtype=np.float32))
    inside = values[values > 0]
    if inside.size == 0 or inside.min() == inside.max():
        return values > 0
    return values > 0.5 * threshold_otsu(inside)


def bounding_box(mask: NDArray[np.bool_], spacing: NDArray[np.float64], margin_mm: float) -> Box:
    """Smallest box around ``mask`` and a margin; the whole grid where the mask is empty."""
    box = []
    for axis, size in enumerate(mask.shape):
        other = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(mask.any(axis=other))
        extra = int(np.ceil(margin_mm / spacing[axis]))
        first, last = (hit[0], hit[-1]) if hit.size else (0, size - 1)
        box.append(slice(max(0, int(first) - extra), min(size, int(last) + extra + 1)))
    return box[0], box[1], box[2]


def grey_window(
    data: NDArray[np.generic],
    inside: NDArray[np.bool_],
    percentiles: tuple[float, float] = (1.0, 99.7),
) -> tuple[float, float]:
    """Intensities to be shown black and white, from the voxels ``inside``."""
    # Transposed, images are looked through in the order in which they lie in memory.
    values = np.asarray(data.T[inside.T], dtype=np.float32)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, percentiles))
    return (low, high) if high > low else (low - 1.0, low + 1.0)


def to_grey(plane: NDArray[np.generic], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Map intensities to 0..255; what is not finite becomes black."""
    low, high = window
    scaled = (np.asarray(plane, dtype=np.float64) - low) / (high - low)
    return np.round(255 * np.clip(np.nan_to_num(scaled), 0.0, 1.0)).astype(np.uint8)


def spread(first: int, last: int, count: int) -> list[int]:
    """``count`` slices evenly over first..last, the two ends left out."""
    places = np.linspace(first, last, count + 2)[1:-1]
    return sorted({int(place) for place in np.round(places)})


def lesion_slices(labels: NDArray[np.integer], axis: int, most: int) -> tuple[list[int], int]:
    """Choose the slices that show the lesions.

    All slices with a lesion, or every k-th of them where there are more than ``most``; then the
    largest cut through each lesion that would be missed is added.

    Returns
    -------
    slices : list of int
    step : int
        The k; 1 when nothing is left out.
    """
    others = tuple(a for a in range(3) if a != axis)
    hit = [int(index) for index in np.flatnonzero((labels > 0).any(axis=others))]
    step = max(1, -(-len(hit) // most))
    chosen = set(hit[step // 2 :: step])
    if step > 1:
        seen = set(np.unique(labels.take(sorted(chosen), axis=axis)).tolist())
        for lesion in sorted(set(np.unique(labels).tolist()) - seen):
            chosen.add(int(np.argmax((labels == lesion).sum(axis=others))))
    return sorted(chosen), step
