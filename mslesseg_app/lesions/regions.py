"""The region of each lesion: landmarks of the exam, and distances to them.

The rule is in `mslesseg_app.lesions.topography`; here is what it needs. The landmarks come from an
atlas of the template (`mslesseg_app.lesions.atlas`), moved onto the exam and refined by the exam's
own fluid and grey matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from mslesseg_app.core.errors import DataError
from mslesseg_app.lesions.atlas import region_atlas
from mslesseg_app.lesions.components import structure
from mslesseg_app.lesions.topography import region_of
from mslesseg_app.spatial.shapes import Box, box_of, dilate
from mslesseg_app.spatial.surfaces import surface
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, tissue_prior
from mslesseg_app.spatial.tissues import (
    GM,
    MIX_STEP,
    WM,
    Array,
    Bools,
    Mixture,
    PriorFit,
    fit_mixture,
    fit_priors,
    template_maps,
)

_SAMPLE_MM = 1.0
_NOISE_SIGMA = 0.6
_VENTRICLE_REACH = 8
_CORTEX_REACH = 4
_SMALLEST_SHARE = 0.3
_SMALLEST_RIBBON = 200


@dataclass(frozen=True)
class Landmarks:
    """What lesions are measured against, bool arrays (182, 218, 182) on the template grid.

    Attributes
    ----------
    ventricles, cortex, infratentorial : array
        As `mslesseg_app.lesions.atlas.RegionAtlas` has them, moved onto the exam.
    white : array
        White matter of the cerebrum by the tissue map, lesions and what is around them left out.
    source : str
        ``subject``: atlas fitted to the exam and ventricles from its own fluid; ``fitted``:
        atlas fitted only; ``template``: the atlas as it is.
    note : str
        Why it is not ``subject``; empty if it is.
    """

    ventricles: Bools
    cortex: Bools
    infratentorial: Bools
    white: Bools
    source: str
    note: str = ''


@dataclass(frozen=True)
class LesionLocation:
    """Where one lesion lies.

    Attributes
    ----------
    region : str
        A key of `mslesseg_app.lesions.topography.REGIONS`.
    to_ventricle, to_cortex : float
        Smallest distance of the outlines in mm, 0 where they touch.
    infratentorial : float
        Share of the lesion in brain stem and cerebellum.
    """

    region: str
    to_ventricle: float
    to_cortex: float
    infratentorial: float


def template_landmarks(lesions: Bools | None = None, note: str = '') -> Landmarks:
    """Return the landmarks of the template, for masks without their images.

    Parameters
    ----------
    lesions : bool array (182, 218, 182), optional
        Lesions to keep out of the white matter.
    note : str
        Why nothing better is at hand.
    """
    atlas = region_atlas()
    white = tissue_prior('wm') > 0.9
    return Landmarks(
        atlas.ventricles,
        atlas.cortex,
        atlas.infratentorial,
        _healthy(white & ~atlas.infratentorial, lesions),
        'template',
        note,
    )


def fit_landmarks(
    images: Mapping[str, npt.NDArray[np.floating]], brain: Bools, lesions: Bools
) -> Landmarks:
    """Move the landmarks onto an exam and refine them by its own fluid and grey matter.

    The tissue maps are fitted to the images (`mslesseg_app.spatial.tissues.fit_priors`) and the
    atlas moves with them. Then the exam's own tissues decide:

    - Fluid is what FLAIR and T1w together show nearer to fluid than to tissue; what of it hangs
      together with the moved ventricles, within 8 mm of them, are the ventricles.
    - Grey is what is more likely grey than white by its intensities and the moved tissue maps;
      what of it lies within 4 mm of the moved cortex is the cortex.

    Where a step does not succeed, the one before it holds, and ``note`` says why.

    Parameters
    ----------
    images : dict of str to array (182, 218, 182)
        ``FLAIR`` and, if there, ``T1w``, on the template grid.
    brain, lesions : bool arrays (182, 218, 182)
    """
    channels = [np.asarray(images[name]) for name in ('FLAIR', 'T1w') if name in images]
    try:
        fit = fit_priors(channels, brain, template_maps())
    except DataError as error:
        return template_landmarks(lesions, error.message)
    # all that follows happens in and around the brain
    box = box_of(brain | lesions, _CORTEX_REACH, MIX_STEP)
    # of fluid only what `fit_mixture` looks at
    steps = {'wm': 1, 'gm': 1, 'csf': MIX_STEP}
    moved = np.stack([fit.move(tissue_prior(name), box, step) for name, step in steps.items()])
    fitted = _fitted(fit, moved[WM], brain, lesions, box)
    shown = brain & np.logical_and.reduce([channel != 0 for channel in channels])
    smooth = np.stack(
        [ndimage.gaussian_filter(_part(one, box, np.float32), _NOISE_SIGMA) for one in channels]
    )
    try:
        mixture = fit_mixture(smooth, shown, moved, box)
    except DataError as error:
        return replace(fitted, note=error.message)
    smooth -= mixture.offsets
    masks = _part(shown, box), _part(lesions, box)
    return _refine(fitted, smooth, mixture, moved, masks, box)


def _part(volume: npt.NDArray[Any], box: Box, kind: Any = None) -> npt.NDArray[Any]:
    """Return a box of a volume, laid out as new arrays are: mixed layouts take their time."""
    return np.ascontiguousarray(volume[box], dtype=kind)


def _fitted(
    fit: PriorFit, white: npt.NDArray[np.float32], brain: Bools, lesions: Bools, box: Box
) -> Landmarks:
    """Return the landmarks of the atlas moved onto the exam; white matter is given in a box."""
    atlas = region_atlas()
    ventricles, cortex, fossa = (
        fit.move(mask) >= 0.5 for mask in (atlas.ventricles, atlas.cortex, atlas.infratentorial)
    )
    inside = (white > 0.9) & _part(brain, box) & ~fossa[box]
    healthy = _embed(_healthy(inside, _part(lesions, box)), box)
    return Landmarks(ventricles, cortex, fossa, healthy, 'fitted')


def _embed(part: Bools, box: Box) -> Bools:
    """Return a mask of the template grid that is empty outside a box."""
    whole = np.zeros(TEMPLATE_SHAPE, dtype=bool)
    whole[box] = part
    return whole


def _refine(
    fitted: Landmarks,
    images: Array,
    mixture: Mixture,
    priors: npt.NDArray[np.float32],
    masks: tuple[Bools, Bools],
    box: Box,
) -> Landmarks:
    """Take ventricles and cortex from the exam's own tissues, if both are found.

    All arrays lie in a box of the grid of `fitted`; `masks` are what is shown, and lesions.
    """
    shown, lesions = masks
    expected = fitted.cortex[box]
    fluid = _fluid(images, mixture) & shown & ~lesions & ~expected
    ventricles = _own_ventricles(_embed(fluid, box), fitted.ventricles)
    grey = _grey(images, mixture, priors) & shown & ~fitted.infratentorial[box]
    cortex = _own_cortex(grey, expected, lesions)
    if len(images) == 1:
        # the rim of a lesion on FLAIR is wider than the voxel left out: the maps decide there
        rim = dilate(lesions, 2) & ~lesions
        cortex = (cortex & ~rim) | (rim & expected & (priors[GM] > 0.5))
    pairs = ((ventricles, fitted.ventricles), (cortex, fitted.cortex))
    if any(own.sum() <= _SMALLEST_SHARE * moved.sum() for own, moved in pairs):
        note = 'Ventricles and cortex were not found in the images: the fitted atlas was used.'
        return replace(fitted, note=note)
    return replace(fitted, ventricles=ventricles, cortex=_embed(cortex, box), source='subject')


def _healthy(white: Bools, lesions: Bools | None) -> Bools:
    """Leave out lesions and two voxels around them."""
    if lesions is None or not lesions.any():
        return white
    return np.asarray(white & ~dilate(lesions, 2))


def _fluid(images: Array, mixture: Mixture) -> Bools:
    """Return where the images lie nearer to fluid than to the darker of the tissues."""
    position = np.zeros(images.shape[1:])
    for image, (white, grey, fluid) in zip(images, mixture.means.T, strict=True):
        contrast = min(white - fluid, grey - fluid, key=abs)
        if abs(contrast) < 1e-6:
            return np.zeros(images.shape[1:], dtype=bool)
        position += np.clip((image - fluid) / contrast, -1, 2)
    return np.asarray(position / len(images) < 0.5)


def _grey(images: Array, mixture: Mixture, priors: npt.NDArray[np.float32]) -> Bools:
    """Return where grey matter is more likely than white, both of twice white's deviation."""
    evidence = np.log((priors[GM].astype(float) + 0.02) / (priors[WM] + 0.02))
    spreads = (2 * mixture.white_spread) ** 2
    for image, means, spread in zip(images, mixture.means.T, spreads, strict=True):
        white, grey = means[WM], means[GM]
        evidence += (image - (white + grey) / 2) * (grey - white) / spread
    return np.asarray(evidence > 0)


def _own_ventricles(fluid: Bools, expected: Bools) -> Bools:
    """Return the fluid that hangs together with the expected ventricles, within reach."""
    own = np.zeros(fluid.shape, dtype=bool)
    if not expected.any():
        return own
    near = box_of(expected, _VENTRICLE_REACH + 1)
    distance = ndimage.distance_transform_edt(~expected[near])
    labels, _ = ndimage.label(fluid[near] & (distance <= _VENTRICLE_REACH), structure(6))
    met = np.unique(labels[expected[near]])
    own[near] = np.isin(labels, met[met > 0])
    return own


def _own_cortex(grey: Bools, expected: Bools, lesions: Bools) -> Bools:
    """Return the large pieces of grey matter near the expected cortex.

    The rim of a lesion is as grey as cortex and takes no part.
    """
    near = dilate(expected, _CORTEX_REACH)
    rim = dilate(lesions)
    labels, count = ndimage.label(grey & near & ~rim, structure(6))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray((sizes >= _SMALLEST_RIBBON)[labels])


def lesion_points(labels: npt.NDArray[np.integer], affine: Array) -> Iterator[tuple[int, Array]]:
    """Yield number and points (N, 3), RAS+ mm, of each lesion.

    Voxels are divided into equal parts of at most one millimetre along each axis, so that thick
    slices count by their volume and not by their centres.

    Parameters
    ----------
    labels : int array (X, Y, Z)
    affine : array (4, 4)
        Voxel indices to RAS+ millimetres.
    """
    affine = np.asarray(affine, dtype=float)
    parts = np.ceil(np.linalg.norm(affine[:3, :3], axis=0) / _SAMPLE_MM - 1e-3).astype(int)
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in np.maximum(parts, 1)]
    inner = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1).reshape(-1, 3)
    for number, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is None:
            continue
        voxels = np.argwhere(labels[box] == number) + [edge.start for edge in box]
        points = (voxels[:, None, :] + inner).reshape(-1, 3)
        yield number, points @ affine[:3, :3].T + affine[:3, 3]


def locate_lesions(
    labels: npt.NDArray[np.integer],
    affine: Array,
    mni_from_native: Array,
    landmarks: Landmarks,
) -> dict[int, LesionLocation]:
    """Tell of each lesion where it lies.

    Parameters
    ----------
    labels : int array (X, Y, Z)
        0 outside lesions, otherwise the number of the lesion; any grid.
    affine : array (4, 4)
        Voxel indices to RAS+ millimetres of the same grid.
    mni_from_native : array (4, 4)
        Native RAS+ millimetres to MNI152NLin6Asym RAS+ millimetres.
    landmarks : Landmarks

    Returns
    -------
    dict of int to LesionLocation
    """
    voxel_from_native = template_voxels(mni_from_native)
    native_from_voxel = np.linalg.inv(voxel_from_native).astype(np.float64)
    ventricles = _Outline(landmarks.ventricles, native_from_voxel)
    cortex = _Outline(landmarks.cortex, native_from_voxel)
    locations = {}
    for number, points in lesion_points(labels, affine):
        voxels = nearest_voxels(points, voxel_from_native)
        share = float(landmarks.infratentorial[voxels].mean())
        distances = ventricles.gap(points, voxels), cortex.gap(points, voxels)
        locations[number] = LesionLocation(region_of(*distances, share), *distances, share)
    return locations


def template_voxels(mni_from_native: Array) -> Array:
    """Return the affine (4, 4) from native RAS+ millimetres to voxels of the template grid."""
    affine = np.linalg.inv(TEMPLATE_AFFINE) @ np.asarray(mni_from_native, dtype=float)
    return np.asarray(affine)


def nearest_voxels(points: Array, voxel_from_native: Array) -> tuple[npt.NDArray[np.intp], ...]:
    """Return the indices of the template voxels nearest to points (N, 3), kept on the grid."""
    index = points @ voxel_from_native[:3, :3].T + voxel_from_native[:3, 3]
    index = np.clip(np.rint(index), 0, np.asarray(TEMPLATE_SHAPE) - 1).astype(np.intp)
    return tuple(index.T)


class _Outline:
    """The surface of a mask of the template grid, in native millimetres."""

    def __init__(self, mask: Bools, native_from_voxel: Array) -> None:
        self.mask = mask
        points = np.argwhere(surface(mask)) @ native_from_voxel[:3, :3].T
        points += native_from_voxel[:3, 3]
        # built in a fraction of the time of a balanced tree, and asked little
        self.tree = (
            cKDTree(points, leafsize=32, balanced_tree=False, compact_nodes=False)
            if len(points)
            else None
        )
        self.half = abs(float(np.linalg.det(native_from_voxel[:3, :3]))) ** (1 / 3) / 2

    def gap(self, points: Array, voxels: tuple[npt.NDArray[np.intp], ...]) -> float:
        """Return the smallest distance to points (N, 3); NaN where there is no outline.

        Distances are taken between centres, of which half a part of the lesion and half a
        template voxel are subtracted.
        """
        if self.tree is None:
            return float('nan')
        if self.mask[voxels].any():
            return 0.0
        nearest = float(self.tree.query(points)[0].min())
        return max(0.0, nearest - self.half - _SAMPLE_MM / 2)
