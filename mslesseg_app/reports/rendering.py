"""Brain and lesions in three dimensions: parallel rays, first surface, one light; NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

from mslesseg_app.reports import colours
from mslesseg_app.reports.colours import as_rgb

Floats = NDArray[np.float32]

BRAIN_COLOUR = (0.86, 0.76, 0.72)
LESION_COLOUR = as_rgb(colours.LESION_COLOUR)

#: Share of the median intensity of the brain at which its surface is drawn: sulci are darker.
_SURFACE = 0.62
_AMBIENT = 0.3
#: How much of the brain is left where lesions behind its surface are shown.
_VEIL = 0.45
_BACKGROUND = (1.0, 1.0, 1.0)
#: A surface this near to the plane of the cut, in voxels, is the cut.
_NEAR_CUT = 1.6


@dataclass(frozen=True)
class Viewpoint:
    """Where the eye is, and which half of the brain is taken away.

    Attributes
    ----------
    azimuth : float
        Degrees from the front towards the patient's left.
    elevation : float
        Degrees above the horizontal.
    cut : tuple of int and bool, or None
        Axis (0 sagittal, 1 coronal, 2 axial) and whether the upper half of it is removed.
    """

    azimuth: float
    elevation: float
    cut: tuple[int, bool] | None = None


#: Whole, and cut through the central slice of each plane, as in Figure 2 of the paper.
VIEWS = {
    'whole': Viewpoint(50, 25),
    'axial cut': Viewpoint(50, 45, (2, True)),
    'coronal cut': Viewpoint(25, 20, (1, True)),
    'sagittal cut': Viewpoint(65, 15, (0, False)),
}


@dataclass(frozen=True)
class Scene:
    """What is shown: arrays (X, Y, Z) of 1 mm in RAS order.

    Attributes
    ----------
    surface : float array
        Above 1 inside the brain.
    grey : float array
        The image, 0 to 1.
    lesions : float array
        Above 0.5 inside lesions.
    middle : tuple of int
        Central slice of each axis.
    """

    surface: Floats
    grey: Floats
    lesions: Floats
    middle: tuple[int, int, int]


def make_scene(
    image: NDArray[Any], brain: NDArray[np.bool_], lesions: NDArray[np.bool_], margin: int = 4
) -> Scene:
    """Prepare what is shown, cut to the brain.

    Parameters
    ----------
    image : array (X, Y, Z)
        Isotropic voxels of about 1 mm in RAS order; fluid darker than tissue (FLAIR or T1w).
    brain, lesions : bool arrays (X, Y, Z)
    """
    box = []
    for axis in range(3):
        used = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(used[0]) - margin), int(used[-1]) + margin + 1))
    inside = brain[tuple(box)]
    values = np.where(inside, np.nan_to_num(image[tuple(box)]), 0).astype(np.float32)
    known = values[inside]
    usual = float(np.median(known[known > 0])) if (known > 0).any() else 1.0
    low, high = 0.0, float(np.percentile(known, 99.7)) or 1.0
    middle = tuple(int(np.mean(np.flatnonzero(_profile(inside, axis)))) for axis in range(3))
    return Scene(
        surface=gaussian_filter(values, 1.0) / np.float32(usual * _SURFACE),
        grey=np.clip((values - low) / (high - low), 0, 1).astype(np.float32),
        lesions=gaussian_filter(lesions[tuple(box)].astype(np.float32), 0.6),
        middle=(middle[0], middle[1], middle[2]),
    )


def _profile(mask: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
    return np.asarray(mask.any(axis=tuple(a for a in range(3) if a != axis)))


def render(scene: Scene, view: Viewpoint) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw the scene.

    Returns
    -------
    brain : uint8 array (rows, columns, 3)
        The brain, and the lesions on its cut; one pixel a millimetre.
    lesions : uint8 array (rows, columns, 3)
        The same faded, with all lesions shining through.
    """
    kept = _kept(scene, view)
    matrix = _axes(view)
    surface = _turned(scene.surface * kept, matrix)
    spots = _turned(scene.lesions * kept, matrix)
    solid = surface > 1
    hit = np.asarray(solid.any(axis=2))
    depth = solid.argmax(axis=2)
    colour = np.ones((*hit.shape, 3)) * _BACKGROUND
    colour[hit] = _shade(surface, depth, hit)[hit][:, None] * BRAIN_COLOUR
    if view.cut is not None:
        place = _surface_voxels(scene, matrix, depth, surface.shape)
        axis = view.cut[0]
        flat = hit & (np.abs(place[axis] - scene.middle[axis]) < _NEAR_CUT)
        plane = [part[flat] for part in place]
        plane[axis][:] = scene.middle[axis]
        colour[flat] = map_coordinates(scene.grey, plane, order=1)[:, None]
        colour[flat] = np.where(
            map_coordinates(scene.lesions, plane, order=1)[:, None] > 0.5,
            LESION_COLOUR,
            colour[flat],
        )
    return _to_rgb(colour), _to_rgb(_with_lesions(colour, hit, spots, depth))


def _to_rgb(colour: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.round(255 * np.clip(colour, 0, 1)).astype(np.uint8).transpose(1, 0, 2)


def _kept(scene: Scene, view: Viewpoint) -> Floats:
    """Return 1 where the brain stays, 0 in the half that is removed."""
    kept = np.ones(scene.surface.shape, np.float32)
    if view.cut is not None:
        axis, upper = view.cut
        part: list[slice] = [slice(None)] * 3
        middle = scene.middle[axis]
        part[axis] = slice(middle + 1, None) if upper else slice(0, middle)
        kept[tuple(part)] = 0
    return kept


def _axes(view: Viewpoint) -> NDArray[np.float64]:
    """Return the directions right, down and away from the eye as columns, in RAS."""
    azimuth, elevation = np.radians([view.azimuth, view.elevation])
    eye = np.array(
        [
            -np.sin(azimuth) * np.cos(elevation),
            np.cos(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
    )
    away = -eye
    right = np.cross(away, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(away, right), away], axis=1)


def _turned(data: Floats, matrix: NDArray[np.float64]) -> Floats:
    """Resample to axes right, down and away; the middle stays the middle."""
    shape = np.ceil(np.abs(matrix).T @ np.array(data.shape)).astype(int) + 2
    offset = (np.array(data.shape) - 1) / 2 - matrix @ ((shape - 1) / 2)
    turned: Floats = affine_transform(
        data, matrix, offset=offset, output_shape=tuple(shape), order=1
    )
    return turned


def _shade(field: Floats, depth: NDArray[np.integer], hit: NDArray[np.bool_]) -> Floats:
    """Light from above the left shoulder of the eye, by the slope of the field at the surface."""
    u, v = np.nonzero(hit)
    w = depth[hit]
    a, b, c = (size - 1 for size in field.shape)
    slope = np.stack(
        [
            field[np.minimum(u + 1, a), v, w] - field[np.maximum(u - 1, 0), v, w],
            field[u, np.minimum(v + 1, b), w] - field[u, np.maximum(v - 1, 0), w],
            field[u, v, np.minimum(w + 1, c)] - field[u, v, np.maximum(w - 1, 0)],
        ],
        axis=-1,
    )
    slope /= np.maximum(np.linalg.norm(slope, axis=-1, keepdims=True), 1e-6)
    source = np.array([0.35, 0.5, 0.8]) / np.linalg.norm([0.35, 0.5, 0.8])
    light = np.zeros(hit.shape, np.float32)
    light[hit] = _AMBIENT + (1 - _AMBIENT) * np.clip(slope @ source, 0, 1)
    return light


def _surface_voxels(
    scene: Scene,
    matrix: NDArray[np.float64],
    depth: NDArray[np.integer],
    shape: tuple[int, ...],
) -> NDArray[np.float64]:
    """Return the voxel coordinates (3, rows, columns) of the first surface of each pixel."""
    u, v = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing='ij')
    seen = np.stack([u, v, depth]).astype(np.float64)
    seen -= ((np.array(shape) - 1) / 2)[:, None, None]
    centre = (np.array(scene.surface.shape) - 1) / 2
    return np.asarray(np.einsum('ak,kuv->auv', matrix, seen) + centre[:, None, None])


def _with_lesions(
    colour: NDArray[np.float64],
    hit: NDArray[np.bool_],
    spots: Floats,
    depth: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Fade the brain and draw the surface of the lesions over it."""
    veiled = colour.copy()
    veiled[hit] = _VEIL * colour[hit] + (1 - _VEIL) * 0.95
    solid = spots > 0.5
    found = np.asarray(solid.any(axis=2))
    first = solid.argmax(axis=2)
    light = _shade(spots, first, found)
    fade = np.clip(1 - (first - depth) / 260, 0.55, 1)  # what lies deeper is paler
    shaded = light[found][:, None] * LESION_COLOUR
    share = fade[found][:, None]
    veiled[found] = share * shaded + (1 - share) * veiled[found]
    return veiled
