"""Lesions of exactly known shape: where they lie, how they look, how they change.

A lesion is an ellipsoid with a gently wavy surface, given by a formula: its share of any voxel
of any image can be computed without a grid in between. All lengths are millimetres in the RAS+
frame of the subject.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.demo.anatomy import Brain

Array = npt.NDArray[np.float64]
Kind = Literal['periventricular', 'juxtacortical', 'deep', 'infratentorial']
Change = Literal['stable', 'new', 'enlarged', 'resolved']

GAP_MM = 5.0
GROWTH = 2.4  # volume of the enlarged lesion in session 2 relative to session 1

# kind, volume (mm3, the larger of the two sessions), change between the sessions
PLAN: tuple[tuple[Kind, float, Change], ...] = (
    ('periventricular', 1400, 'stable'),
    ('periventricular', 800, 'stable'),
    ('periventricular', 520, 'enlarged'),
    ('periventricular', 360, 'stable'),
    ('periventricular', 240, 'stable'),
    ('periventricular', 170, 'new'),
    ('periventricular', 110, 'stable'),
    ('deep', 420, 'stable'),
    ('deep', 210, 'stable'),
    ('deep', 120, 'resolved'),
    ('deep', 70, 'stable'),
    ('deep', 35, 'stable'),
    ('juxtacortical', 260, 'stable'),
    ('juxtacortical', 130, 'stable'),
    ('juxtacortical', 60, 'stable'),
    ('juxtacortical', 25, 'stable'),
    ('infratentorial', 150, 'stable'),
    ('infratentorial', 60, 'stable'),
)
# semi-axes along the long, middle and short direction before scaling to the volume
PROPORTIONS: dict[Kind, tuple[float, float, float]] = {
    'periventricular': (1.65, 0.85, 0.8),
    'juxtacortical': (1.3, 1.0, 0.75),
    'deep': (1.2, 1.0, 0.9),
    'infratentorial': (1.2, 1.0, 0.9),
}


@dataclass(frozen=True)
class Lesion:
    """One lesion.

    Attributes
    ----------
    number : int
        The same lesion has the same number in every session.
    kind : str
        Where it lies.
    change : str
        What becomes of it from session 1 to session 2.
    centre : tuple of float
        Subject coordinates, mm.
    directions : tuple of tuple of float
        Rows are the unit vectors of the three axes.
    radii : tuple of float
        Semi-axes, mm.
    waves : tuple of tuple of float
        Rows (kx, ky, kz, phase, amplitude) of the undulation of the surface.
    brightness : float
        Factor on the contrast against white matter on every modality.
    hole : float
        Further factor on the loss of signal on T1w (0: invisible there).
    """

    number: int
    kind: Kind
    change: Change
    centre: tuple[float, float, float]
    directions: tuple[tuple[float, float, float], ...]
    radii: tuple[float, float, float]
    waves: tuple[tuple[float, float, float, float, float], ...]
    brightness: float
    hole: float

    @property
    def reach(self) -> float:
        """Radius (mm) of a ball that holds the whole lesion."""
        return max(self.radii) * (1.0 + sum(abs(w[4]) for w in self.waves))

    @property
    def volume_mm3(self) -> float:
        """Volume by integration over all directions, mm3."""
        swell = 1.0 + self._undulation(_sphere_directions(2000))
        return float(4.0 / 3.0 * np.pi * np.prod(self.radii) * np.mean(swell**3))

    def _undulation(self, unit: Array) -> Array:
        out = np.zeros(unit.shape[:-1])
        for kx, ky, kz, phase, amplitude in self.waves:
            angle = kx * unit[..., 0] + ky * unit[..., 1] + kz * unit[..., 2] + phase
            out += amplitude * np.sin(angle)
        return out

    def distance(self, points: Array) -> Array:
        """Approximate signed distance (mm, negative inside; its zero is exact).

        Parameters
        ----------
        points : ndarray, shape (..., 3)
            Subject coordinates, mm.
        """
        turned = (points - np.asarray(self.centre)) @ np.asarray(self.directions).T
        scaled = turned / np.asarray(self.radii)
        norm = np.maximum(np.linalg.norm(scaled, axis=-1), 1e-9)
        swell = 1.0 + self._undulation(scaled / norm[..., None])
        slope = np.linalg.norm(scaled / np.asarray(self.radii), axis=-1) / norm
        out: Array = (norm - swell) / np.maximum(slope, 1e-9)
        return out

    def scaled(self, volume_factor: float) -> Lesion:
        """The same lesion with its volume multiplied, about the same centre."""
        factor = volume_factor ** (1.0 / 3.0)
        a, b, c = self.radii
        return replace(self, radii=(a * factor, b * factor, c * factor))


def in_session(lesions: tuple[Lesion, ...], session: int) -> tuple[Lesion, ...]:
    """Lesions that are there at a session (1 or 2), with the size they have then."""
    out = []
    for lesion in lesions:
        if lesion.change == ('new' if session == 1 else 'resolved'):
            continue
        if lesion.change == 'enlarged' and session == 1:
            lesion = lesion.scaled(1.0 / GROWTH)
        out.append(lesion)
    return tuple(out)


def place_lesions(brain: Brain, rng: np.random.Generator) -> tuple[Lesion, ...]:
    """Find places in white matter for all lesions of `PLAN`.

    Parameters
    ----------
    brain : Brain
        The subject.
    rng : numpy.random.Generator
        Decides places, directions and shapes.

    Returns
    -------
    tuple of Lesion
        Numbered from 1 in the order of the plan, at least `GAP_MM` apart. A lesion for which
        no place is found is left out.
    """
    maps = _TissueMaps(brain)
    placed: list[Lesion] = []
    for number, (kind, volume, change) in enumerate(PLAN, start=1):
        candidates = maps.candidates(kind, volume)
        order = rng.permutation(len(candidates))[:400]
        for index in candidates[order]:
            lesion = _propose(maps, index, number, kind, volume, change, rng)
            if maps.fits(lesion) and all(_apart(lesion, other) for other in placed):
                placed.append(lesion)
                break
    return tuple(placed)


class _TissueMaps:
    """Distances to ventricles and cortex, by which the kinds of lesion are distinguished."""

    def __init__(self, brain: Brain) -> None:
        self.grid = brain.grid
        size = brain.grid.spacing
        self.white = ndimage.gaussian_filter(brain.wm, 0.7 / size)
        self.to_ventricle = brain.to_ventricle
        # grey matter around the ventricles is an artefact of averaging, not cortex
        grey = (brain.gm > 0.5) & (self.to_ventricle > 6.0)
        self.to_grey = ndimage.distance_transform_edt(~grey, sampling=size)
        self.smooth_ventricle = ndimage.gaussian_filter(self.to_ventricle, 2.0 / size)
        self.smooth_grey = ndimage.gaussian_filter(self.to_grey, 2.0 / size)

    def candidates(self, kind: Kind, volume: float) -> npt.NDArray[np.intp]:
        """Voxel indices (n, 3) where the centre of such a lesion (volume in mm3) may lie."""
        x, y, z = self.grid.axes()
        white = self.white > 0.75
        if kind == 'infratentorial':
            place = white & (z < -22) & (z > -58) & (y < -14) & (np.abs(x) < 34)
        elif kind == 'periventricular':
            # its inner end touches the ventricle; beside it, not in the corpus callosum
            reach = PROPORTIONS[kind][0] * (volume / 4.7) ** (1.0 / 3.0)
            place = white & (np.abs(self.to_ventricle - 0.9 * reach) < 1.5) & (self.to_grey > 4.0)
            place &= (np.abs(x) > 11) & (z > 8) & (z < 36)
        elif kind == 'deep':
            place = white & (self.to_ventricle > 12.0) & (self.to_grey > 5.0) & (z > 18)
        else:
            place = white & (self.to_grey < 5.0) & (self.to_ventricle > 14.0) & (z > -5)
        return np.argwhere(place)

    def long_axis(
        self, index: npt.NDArray[np.intp], kind: Kind, rng: np.random.Generator
    ) -> Array:
        """Away from the ventricle (as the medullary veins run), along the cortex, or any."""
        random = _unit(rng.standard_normal(3))
        if kind not in ('periventricular', 'juxtacortical'):
            return random
        field = self.smooth_ventricle if kind == 'periventricular' else self.smooth_grey
        slope = np.array([_central_difference(field, index, axis) for axis in range(3)])
        slope = _unit(slope)
        if kind == 'periventricular':
            return _unit(slope + 0.3 * random)
        return _unit(np.cross(slope, random))

    def fits(self, lesion: Lesion) -> bool:
        """True where nearly the whole lesion is in white matter (for one that touches the
        ventricle or the cortex a little less)."""
        points = _sample_points(lesion)
        index = (points - self.grid.origin) / self.grid.spacing
        white = ndimage.map_coordinates(self.white, index.T, order=1, mode='constant')
        inner = 0.9 if lesion.kind in ('deep', 'infratentorial') else 0.8
        return float(np.mean(white > 0.4)) > inner


def _unit(vector: Array) -> Array:
    out: Array = vector / max(float(np.linalg.norm(vector)), 1e-9)
    return out


def _central_difference(field: Array, index: npt.NDArray[np.intp], axis: int) -> float:
    step = np.zeros(3, int)
    step[axis] = 1
    return float(field[tuple(index + step)] - field[tuple(index - step)])


def _propose(
    maps: _TissueMaps,
    index: npt.NDArray[np.intp],
    number: int,
    kind: Kind,
    volume: float,
    change: Change,
    rng: np.random.Generator,
) -> Lesion:
    """A lesion of the given volume centred near a voxel."""
    jitter = rng.uniform(-0.5, 0.5, 3)
    centre = np.asarray(maps.grid.origin) + (index + jitter) * maps.grid.spacing
    first = maps.long_axis(index, kind, rng)
    second = _unit(np.cross(first, rng.standard_normal(3)))
    directions = np.stack([first, second, np.cross(first, second)])
    waves = np.column_stack(
        [rng.normal(0.0, 2.0, (3, 3)), rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.03, 0.08, 3)]
    )
    radii = np.asarray(PROPORTIONS[kind]) * rng.uniform(0.9, 1.1, 3)
    lesion = Lesion(
        number=number,
        kind=kind,
        change=change,
        centre=_triple(centre),
        directions=tuple(_triple(row) for row in directions),
        radii=_triple(radii),
        waves=tuple((*_triple(w[:3]), float(w[3]), float(w[4])) for w in waves),
        brightness=float(rng.uniform(0.9, 1.1)),
        hole=float(rng.uniform(0.3, 1.5)),
    )
    return lesion.scaled(volume / lesion.volume_mm3)


def _triple(values: npt.ArrayLike) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in np.asarray(values))
    return a, b, c


def _sphere_directions(count: int) -> Array:
    """Unit vectors spread evenly over the sphere (golden-angle spiral), shape (count, 3)."""
    k = np.arange(count) + 0.5
    z = 1.0 - 2.0 * k / count
    angle = k * np.pi * (3.0 - np.sqrt(5.0))
    ring = np.sqrt(1.0 - z**2)
    return np.column_stack([ring * np.cos(angle), ring * np.sin(angle), z])


def _sample_points(lesion: Lesion, count: int = 150) -> Array:
    """Points on the surface and half-way to the centre, in subject mm."""
    unit = _sphere_directions(count)
    surface = unit * (1.0 + lesion._undulation(unit))[:, None] * np.asarray(lesion.radii)
    turned = surface @ np.asarray(lesion.directions)
    points: Array = np.concatenate([turned, 0.5 * turned]) + np.asarray(lesion.centre)
    return points


def _apart(first: Lesion, second: Lesion) -> bool:
    between = float(np.linalg.norm(np.subtract(first.centre, second.centre)))
    if between > first.reach + second.reach + GAP_MM:
        return True
    return bool(second.distance(_sample_points(first)).min() > GAP_MM)


def voxel_shares(
    lesion: Lesion,
    shape: tuple[int, int, int],
    subject_from_voxel: Array,
    edge_mm: float = 0.0,
    step_mm: float = 0.5,
) -> tuple[tuple[slice, slice, slice], Array]:
    """Share of every voxel near a lesion that the lesion fills.

    Parameters
    ----------
    lesion : Lesion
        The lesion.
    shape : tuple of int
        Grid of the image.
    subject_from_voxel : ndarray, shape (4, 4)
        Voxel indices of the image to subject millimetres.
    edge_mm : float
        Width of a soft rim; 0 gives the geometric share.
    step_mm : float
        Distance of the sub-samples within a voxel, mm.

    Returns
    -------
    box : tuple of slice
        The part of the image that the lesion can touch.
    share : ndarray
        Values 0 to 1 over that box.
    """
    box = _touched(lesion, shape, subject_from_voxel, edge_mm)
    axes = [np.arange(part.start, part.stop, dtype=float) for part in box]
    index = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)
    to_subject, origin = subject_from_voxel[:3, :3], subject_from_voxel[:3, 3]
    centres = index @ to_subject.T + origin
    distance = lesion.distance(centres)
    share = (distance < 0).astype(float)
    size = np.linalg.norm(to_subject, axis=0)
    # the distance is approximate away from the surface, hence twice the half diagonal
    rim = np.abs(distance) < float(np.linalg.norm(size)) + edge_mm
    points = centres[rim][:, None, :] + _subsamples(size, step_mm) @ to_subject.T
    fine = lesion.distance(points)
    inside = np.clip(0.5 - fine / edge_mm, 0.0, 1.0) if edge_mm else (fine < 0).astype(float)
    share[rim] = inside.mean(axis=1)
    return box, share


def _subsamples(size: Array, step_mm: float) -> Array:
    """Offsets (n, 3) in voxels of the points that represent one voxel of a given size (mm)."""
    counts = np.maximum(np.ceil(size / step_mm).astype(int), 1)
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    return np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1).reshape(-1, 3)


def _touched(
    lesion: Lesion, shape: tuple[int, int, int], subject_from_voxel: Array, edge_mm: float
) -> tuple[slice, slice, slice]:
    inverse = np.linalg.inv(subject_from_voxel)
    centre = inverse[:3, :3] @ np.asarray(lesion.centre) + inverse[:3, 3]
    reach = (lesion.reach + edge_mm) * np.linalg.norm(inverse[:3, :3], axis=1) + 1.0
    limits = np.asarray(shape)
    start = np.clip(np.floor(centre - reach), 0, limits).astype(int)
    stop = np.clip(np.ceil(centre + reach) + 1, 0, limits).astype(int)
    x, y, z = (slice(int(a), int(max(a, b))) for a, b in zip(start, stop, strict=True))
    return x, y, z


def lesion_mask(
    lesions: tuple[Lesion, ...], shape: tuple[int, int, int], subject_from_voxel: Array
) -> npt.NDArray[np.uint8]:
    """Binary mask of the lesions on the grid of an image.

    Each lesion gets the voxels that it fills most, as many as come closest to its volume and
    at least one: thresholding shares at one half would lose small lesions in thick slices.
    """
    mask = np.zeros(shape, np.uint8)
    for lesion in lesions:
        box, share = voxel_shares(lesion, shape, subject_from_voxel)
        if not share.any():
            continue
        count = max(1, round(float(share.sum())))
        order = np.argsort(-share.ravel(), kind='stable')[:count]
        chosen = np.zeros(share.size, bool)
        chosen[order] = True
        mask[box] |= chosen.reshape(share.shape).astype(np.uint8)
    return mask
