"""The healthy head of the phantom: brain tissue shares and what lies around the brain.

The brain comes from the MNI152 2009 tissue maps that nilearn ships, bent by a seeded smooth
deformation so that it is not the template itself. Subarachnoid space, skull, scalp, face, eyes
and neck are painted around it from simple solids. All lengths are millimetres in the RAS+
frame of the subject, whose origin and axes are nearly those of MNI152.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage

Float = npt.NDArray[np.float32]
Slices = tuple[slice, slice, slice]

HEAD_LOW = (-94.0, -124.0, -132.0)
HEAD_HIGH = (94.0, 114.0, 106.0)
CSF_GAP = 1.0
SKULL_THICKNESS = 6.2
SCALP_THICKNESS = 6.0


@dataclass(frozen=True)
class Grid:
    """A regular RAS+ grid, axes along the subject's x, y and z.

    Attributes
    ----------
    shape : tuple of int
        Voxels along x, y, z.
    origin : tuple of float
        Centre of voxel (0, 0, 0), mm.
    spacing : float
        Voxel edge, mm.
    """

    shape: tuple[int, int, int]
    origin: tuple[float, float, float]
    spacing: float

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """Voxel to subject millimetres, 4x4."""
        affine = np.diag([self.spacing, self.spacing, self.spacing, 1.0])
        affine[:3, 3] = self.origin
        return affine

    def axes(self, box: Slices | None = None) -> tuple[Float, Float, Float]:
        """Coordinates (mm) along x, y, z, shaped to broadcast over the grid or a box of it."""
        shapes = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
        axes = []
        for axis, shape in enumerate(shapes):
            index = np.arange(self.shape[axis], dtype=np.float32)
            values = np.float32(self.origin[axis]) + index * np.float32(self.spacing)
            axes.append((values[box[axis]] if box else values).reshape(shape))
        return axes[0], axes[1], axes[2]

    def box(self, low: npt.ArrayLike, high: npt.ArrayLike) -> Slices:
        """Slices of the voxels between two corners (mm), clipped to the grid."""
        start = np.floor((np.asarray(low) - self.origin) / self.spacing).astype(int)
        stop = np.ceil((np.asarray(high) - self.origin) / self.spacing).astype(int) + 1
        x, y, z = (
            slice(int(np.clip(a, 0, n)), int(np.clip(b, 0, n)))
            for a, b, n in zip(start, stop, self.shape, strict=True)
        )
        return x, y, z


def head_grid(spacing: float) -> Grid:
    """Grid of the whole head with the given voxel edge (mm)."""
    extent = np.subtract(HEAD_HIGH, HEAD_LOW)
    x, y, z = (int(np.floor(e / spacing)) + 1 for e in extent)
    return Grid((x, y, z), HEAD_LOW, spacing)


def smooth_noise(
    shape: tuple[int, ...], spacing: float, scale_mm: float, rng: np.random.Generator
) -> Float:
    """Gaussian random field of unit standard deviation whose features are ``scale_mm`` wide."""
    step = max(scale_mm / 2.0, spacing)
    coarse = [int(np.ceil(n * spacing / step)) + 4 for n in shape]
    field = ndimage.gaussian_filter(rng.standard_normal(coarse), scale_mm / step / 2.0)
    field = (field - field.mean()) / field.std()
    zoom = np.full(len(shape), spacing / step)
    out: Float = ndimage.affine_transform(
        field.astype(np.float32), zoom, offset=1.5, output_shape=shape, order=1, mode='nearest'
    )
    return out


@dataclass(frozen=True)
class Brain:
    """Tissue shares (0 to 1) of one subject's brain on the head grid."""

    grid: Grid
    gm: Float
    wm: Float
    mask: npt.NDArray[np.bool_]

    @cached_property
    def csf(self) -> Float:
        """Share of fluid inside the brain mask (ventricles and sulci)."""
        return np.where(self.mask, np.clip(1.0 - self.gm - self.wm, 0.0, 1.0), 0.0).astype('f4')

    @cached_property
    def to_ventricle(self) -> Float:
        """Distance (mm) of every voxel to the lateral ventricles."""
        distance: Float = ndimage.distance_transform_edt(
            ~self.ventricles, sampling=self.grid.spacing
        ).astype(np.float32)
        return distance

    @cached_property
    def ventricles(self) -> npt.NDArray[np.bool_]:
        """Voxels of the lateral ventricles: the largest central pool of fluid."""
        box = self.grid.box((-42, -60, -8), (42, 45, 38))
        depth = hull_distance(self.mask, self.grid.spacing)
        fluid = (self.csf > 0.5) & (depth < -25.0)
        labels, count = ndimage.label(fluid[box])
        out = np.zeros(self.grid.shape, bool)
        if count:
            sizes = np.bincount(labels.ravel())[1:]
            out[box] = np.isin(labels, 1 + np.flatnonzero(sizes >= 0.2 * sizes.max()))
        return out


def make_brain(grid: Grid, rng: np.random.Generator) -> Brain:
    """Bend nilearn's MNI152 tissue maps into a new subject.

    Parameters
    ----------
    grid : Grid
        Where the subject is wanted.
    rng : numpy.random.Generator
        Decides the affine (a few per cent of scale and shear) and the smooth deformation.

    Returns
    -------
    Brain
        Shares of grey and white matter, sharpened towards the pure tissues because the
        template is an average of 152 people, and the brain mask.
    """
    from nilearn import datasets

    gm_img: nb.Nifti1Image = datasets.load_mni152_gm_template(resolution=1)
    maps = [
        np.asarray(image.dataobj, dtype=np.float32)
        for image in (
            gm_img,
            datasets.load_mni152_wm_template(resolution=1),
            datasets.load_mni152_brain_mask(resolution=1),
        )
    ]
    box = grid.box((-86, -122, -80), (86, 92, 98))
    points = _template_points(grid, box, gm_img.affine, rng)
    shares = []
    for values in maps:
        out = np.zeros(grid.shape, np.float32)
        out[box] = ndimage.map_coordinates(values, points, order=1, mode='constant')
        shares.append(out)
    gm, wm, mask = shares
    gm, wm = _sharpen(gm, wm, mask)
    return Brain(grid, gm, wm, mask > 0.5)


def _template_points(
    grid: Grid, box: Slices, template: npt.NDArray[np.float64], rng: np.random.Generator
) -> Float:
    """Template voxel coordinates (3, X, Y, Z) of the points of a box of the subject grid."""
    matrix = np.diag(rng.uniform(0.95, 1.04, 3)) + np.triu(rng.uniform(-0.02, 0.02, (3, 3)), 1)
    axes = grid.axes(box)
    shape = tuple(a.size for a in axes)
    points = np.empty((3, *shape), np.float32)
    for i in range(3):
        bend = 2.5 * smooth_noise(shape, grid.spacing, 60.0, rng)
        bend += 1.0 * smooth_noise(shape, grid.spacing, 18.0, rng)
        bend += sum(np.float32(matrix[i, j]) * axes[j] for j in range(3))
        points[i] = (bend - np.float32(template[i, 3])) / np.float32(template[i, i])
    return points


def _sharpen(gm: Float, wm: Float, mask: Float) -> tuple[Float, Float]:
    """Push shares towards the winning tissue (squares, renormalised to their sum of one)."""
    csf = np.clip(mask - gm - wm, 0.0, 1.0)
    squares = [np.square(share) for share in (gm, wm, 1.15 * csf)]
    total = np.maximum(sum(squares[1:], squares[0]), 1e-6)
    inside = np.clip(mask, 0.0, 1.0) * np.clip((gm + wm + csf) * 2.0, 0.0, 1.0)
    return squares[0] / total * inside, squares[1] / total * inside


def hull_distance(mask: npt.NDArray[np.bool_], spacing: float, closing_mm: float = 7.0) -> Float:
    """Signed distance (mm, negative inside) to the brain with its sulci closed.

    Computed on a grid of about 2 mm, which is fine for something that smooth.
    """
    step = max(1, round(2.0 / spacing))
    coarse = mask[::step, ::step, ::step]
    size = spacing * step
    grown = ndimage.distance_transform_edt(~coarse, sampling=size) <= closing_mm
    hull = ndimage.distance_transform_edt(grown, sampling=size) > closing_mm
    distance = ndimage.distance_transform_edt(~hull, sampling=size)
    distance -= ndimage.distance_transform_edt(hull, sampling=size)
    distance = ndimage.gaussian_filter(distance.astype(np.float32), 3.0 / size)
    out: Float = ndimage.affine_transform(
        distance, np.full(3, 1.0 / step), output_shape=mask.shape, order=1, mode='nearest'
    )
    return out


def edge(distance: Float, width: float = 1.0) -> Float:
    """Share of a voxel inside a solid, from the signed distance (mm) to its surface."""
    share: Float = np.clip(np.float32(0.5) - distance / np.float32(width), 0.0, 1.0)
    return share


def ellipsoid(
    axes: tuple[Float, Float, Float], centre: npt.ArrayLike, radii: npt.ArrayLike
) -> Float:
    """Approximate signed distance (mm) to an ellipsoid, negative inside."""
    c, r = np.asarray(centre, np.float32), np.asarray(radii, np.float32)
    first = np.sqrt(sum(((axes[i] - c[i]) / r[i]) ** 2 for i in range(3)))
    second = np.sqrt(sum(((axes[i] - c[i]) / r[i] ** 2) ** 2 for i in range(3)))
    distance: Float = first * (first - 1.0) / np.maximum(second, 1e-6)
    return distance


def capsule(
    axes: tuple[Float, Float, Float], start: npt.ArrayLike, end: npt.ArrayLike, radius: float
) -> Float:
    """Signed distance (mm) to a rod with round ends, negative inside."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    along = b - a
    t = sum((axes[i] - a[i]) * along[i] for i in range(3)) / np.float32(along @ along)
    t = np.clip(t, 0.0, 1.0)
    squares = sum((axes[i] - a[i] - t * along[i]) ** 2 for i in range(3))
    distance: Float = np.sqrt(squares) - radius
    return distance


def smooth_union(first: Float, second: Float, blend: float) -> Float:
    """Union of two signed distances with a rounded seam of about ``blend`` mm."""
    h = np.clip(0.5 + 0.5 * (second - first) / blend, 0.0, 1.0)
    out: Float = second + (first - second) * h - blend * h * (1.0 - h)
    return out


@dataclass(frozen=True)
class Layer:
    """One coat of paint: a tissue's share over a box of the head grid."""

    tissue: str
    box: Slices
    share: Float


FULL: Slices = (slice(None), slice(None), slice(None))


def paint(brain: Brain, rng: np.random.Generator) -> Iterator[Layer]:
    """Layers of the head from the outside in; a later layer covers the earlier ones.

    Parameters
    ----------
    brain : Brain
        The subject's brain, around which everything else is built.
    rng : numpy.random.Generator
        Varies the thickness of skull and scalp over the head.

    Yields
    ------
    Layer
        Tissue names are those of `mslesseg_app.demo.contrast.INTENSITIES`.
    """
    grid = brain.grid
    distance = hull_distance(brain.mask, grid.spacing)
    thickness = 1.0 + 0.13 * smooth_noise(grid.shape, grid.spacing, 60.0, rng)
    yield from _soft_tissue(grid, distance, thickness, rng)
    yield from _face(grid)
    yield from _neck(grid)
    yield from _skull(grid, distance, thickness)
    yield from _orbits(grid, distance)
    yield Layer('csf', FULL, edge(distance - CSF_GAP))
    yield from _spine(grid)
    yield Layer('csf', FULL, brain.mask.astype(np.float32))
    # shares of what is left after the layers before, so that the three add up to one
    yield Layer('gm', FULL, (brain.gm / np.maximum(1.0 - brain.wm, 1e-3)).clip(max=1.0))
    yield Layer('wm', FULL, brain.wm)
    yield from _deep_grey(grid, brain)


def _body(grid: Grid, distance: Float, thickness: Float) -> Float:
    """Signed distance (mm) to the skin: vault, face, nose, ears and neck."""
    axes = grid.axes()
    vault = distance - (CSF_GAP + SKULL_THICKNESS * thickness + SCALP_THICKNESS * thickness)
    face = ellipsoid(axes, (0, 38, -62), (62, 58, 64))
    body = smooth_union(vault, face, 14.0)
    jaw = ellipsoid(axes, (0, 58, -100), (38, 34, 26))
    body = smooth_union(body, jaw, 12.0)
    body = smooth_union(body, capsule(axes, (0, -30, -60), (0, -42, -160), 58.0), 16.0)
    body = smooth_union(body, capsule(axes, (0, 78, -24), (0, 97, -58), 8.0), 10.0)
    for side in (-1, 1):
        ear = ellipsoid(axes, (side * 80, -22, -42), (6, 15, 26))
        body = smooth_union(body, ear, 4.0)
    return body


def _soft_tissue(
    grid: Grid, distance: Float, thickness: Float, rng: np.random.Generator
) -> Iterator[Layer]:
    """Skin, the fat below it, and muscle in the middle of face and neck."""
    body = _body(grid, distance, thickness)
    yield Layer('skin', FULL, edge(body))
    yield Layer('fat', FULL, edge(body + 2.0))
    muscle = edge(body + 5.0 * thickness)
    yield Layer('muscle', FULL, muscle)
    strands = smooth_noise(grid.shape, grid.spacing, 9.0, rng) - 1.0
    yield Layer('fat', FULL, muscle * np.clip(strands, 0.0, 0.8))


def _solid(
    grid: Grid, tissue: str, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> Layer:
    """An ellipsoid of one tissue, evaluated only where it can be."""
    reach = np.asarray(radii) + 3.0
    box = grid.box(np.subtract(centre, reach), np.add(centre, reach))
    return Layer(tissue, box, edge(ellipsoid(grid.axes(box), centre, radii)))


def _rod(
    grid: Grid,
    tissue: str,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius: float,
) -> Layer:
    """A capsule of one tissue, evaluated only where it can be."""
    low, high = np.minimum(start, end) - radius - 3.0, np.maximum(start, end) + radius + 3.0
    box = grid.box(low, high)
    return Layer(tissue, box, edge(capsule(grid.axes(box), start, end, radius)))


def _face(grid: Grid) -> Iterator[Layer]:
    """Cheek fat, jaw bones, tongue, and the air of nose, sinuses and throat."""
    for side in (-1, 1):
        yield _solid(grid, 'fat', (side * 40, 52, -78), (13, 20, 20))
        yield _solid(grid, 'fat', (side * 62, 14, -48), (7, 16, 12))
        yield _rod(grid, 'bone', (side * 46, 14, -62), (side * 40, 26, -104), 6.0)
        yield _rod(grid, 'marrow', (side * 46, 16, -66), (side * 40, 28, -104), 3.0)
        yield _rod(grid, 'bone', (side * 40, 26, -106), (side * 10, 72, -112), 7.0)
        yield _rod(grid, 'marrow', (side * 40, 28, -106), (side * 10, 70, -112), 3.5)
    yield _solid(grid, 'bone', (0, 56, -66), (34, 24, 26))
    yield _solid(grid, 'muscle', (0, 40, -94), (22, 30, 16))
    yield _solid(grid, 'air', (0, 44, -76), (16, 26, 2.5))
    yield _rod(grid, 'air', (0, 12, -66), (0, 0, -130), 6.5)
    for side in (-1, 1):
        yield _solid(grid, 'air', (side * 22, 56, -62), (11, 14, 15))
        yield _solid(grid, 'air', (side * 5, 50, -50), (3.5, 28, 16))
        yield _solid(grid, 'mucosa', (side * 5, 44, -58), (2.2, 20, 5))
        yield _solid(grid, 'air', (side * 9, 78, -18), (7, 4.5, 9))


def _neck(grid: Grid) -> Iterator[Layer]:
    """Fat between the muscles of the neck, and the vertebrae."""
    yield _rod(grid, 'fat', (0, -88, -84), (0, -90, -140), 9.0)
    for side in (-1, 1):
        yield _rod(grid, 'fat', (side * 30, -62, -78), (side * 30, -66, -140), 5.0)
        yield _rod(grid, 'vessel', (side * 26, -12, -74), (side * 30, -16, -140), 3.5)
    yield _rod(grid, 'bone', (0, -46, -84), (0, -50, -140), 18.0)
    yield _rod(grid, 'marrow', (0, -28, -88), (0, -32, -140), 8.0)


def _skull(grid: Grid, distance: Float, thickness: Float) -> Iterator[Layer]:
    """Two tables of compact bone with marrow between, temporal bones and skull base."""
    _, y, z = grid.axes()
    outer = distance - CSF_GAP - SKULL_THICKNESS * thickness
    yield Layer('bone', FULL, edge(outer))
    # marrow thins out towards the skull base and is absent in the thin temporal squama
    vault: Float = np.clip((z - 0.25 * y + 25.0) / 25.0, 0.0, 1.0)
    middle: Float = np.abs(distance - CSF_GAP - 0.5 * SKULL_THICKNESS * thickness)
    yield Layer('marrow', FULL, edge(middle - np.float32(1.8) * thickness * vault) * (vault > 0))
    for side in (-1, 1):
        yield _solid(grid, 'bone', (side * 44, -26, -42), (26, 13, 11))
        yield _solid(grid, 'air', (side * 60, -34, -48), (7, 8, 11))
        yield _rod(grid, 'air', (side * 52, -22, -42), (side * 82, -22, -44), 3.0)
    yield _solid(grid, 'bone', (0, 4, -42), (16, 24, 14))
    yield _solid(grid, 'marrow', (0, -14, -52), (11, 9, 15))
    yield _solid(grid, 'air', (0, 14, -38), (12, 12, 9))


def _orbits(grid: Grid, distance: Float) -> Iterator[Layer]:
    """Eyeballs in fat, with lens, muscles and optic nerves."""
    for side in (-1, 1):
        centre = (side * 33.0, 66.0, -36.0)
        apex = (side * 14.0, 26.0, -28.0)
        box = grid.box((side * 30 - 36, 18, -62), (side * 30 + 36, 90, -6))
        axes = grid.axes(box)
        cone = smooth_union(
            ellipsoid(axes, (side * 31, 60, -36), (18, 19, 16)),
            capsule(axes, (side * 28, 52, -35), apex, 8.0),
            8.0,
        )
        cone = np.maximum(cone, CSF_GAP + 1.5 - distance[box])
        yield Layer('bone', box, edge(cone - 2.5) * edge(CSF_GAP - distance[box]))
        yield Layer('fat', box, edge(cone))
        for dx, dz in ((11.0, 0.0), (-11.0, 0.0), (0.0, 10.0), (0.0, -10.0)):
            start = (centre[0] + dx, 62.0, centre[2] + dz)
            yield _rod(grid, 'muscle', start, apex, 1.8)
        yield _rod(grid, 'wm', (side * 31.0, 56.0, -36.0), apex, 1.8)
        yield _solid(grid, 'muscle', centre, (13.0, 13.0, 13.0))
        yield _solid(grid, 'vitreous', centre, (12.0, 12.0, 12.0))
        yield _solid(grid, 'lens', (centre[0], centre[1] + 8.5, centre[2]), (4.5, 2.0, 4.5))


def _spine(grid: Grid) -> Iterator[Layer]:
    """Fluid and cord of the spinal canal, from the brain stem downwards."""
    yield _rod(grid, 'csf', (0, -42, -66), (0, -50, -150), 8.5)
    yield _rod(grid, 'wm', (0, -42, -66), (0, -50, -150), 5.0)


def _deep_grey(grid: Grid, brain: Brain) -> Iterator[Layer]:
    """Thalamus and lentiform nucleus, whose averaged tissue maps are washed out."""
    nuclei = (
        ((12.0, -18.0, 8.0), (8.0, 13.0, 8.0), 0.5),
        ((25.0, 3.0, 1.0), (6.5, 15.0, 9.0), 0.6),
    )
    for centre, radii, strength in nuclei:
        for side in (-1, 1):
            layer = _solid(grid, 'gm', (side * centre[0], centre[1], centre[2]), radii)
            tissue = np.clip(brain.gm + brain.wm, 0.0, 1.0)[layer.box]
            yield Layer('gm', layer.box, strength * tissue * layer.share)
