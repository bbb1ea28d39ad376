"""The brain mask on the template grid, from any contrasts that were aligned to it.

The template's mask says where a brain is likely; the images say what brain looks like in
this subject. Both are combined voxel by voxel: intensity histograms of inside and outside
are learned from the image itself and from the mask as it stands, and learned again as the
mask improves, while neighbours draw each other to the same side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from mslesseg_app.core.errors import DataError
from mslesseg_app.spatial.shapes import Bools, dilate, fill_holes, grow, largest_piece
from mslesseg_app.spatial.similarity import shrink
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, brain_distance, is_template_grid

Floats = npt.NDArray[np.float32]

#: The mask may leave the template's by this much (mm).
_REACH_MM = 14.0
#: Uncertainty of the template's border in this subject (mm).
_BORDER_MM = 4.0
#: Evidence (log odds) that one image can give at one voxel, and that the neighbours can give.
_MOST_EVIDENCE, _NEIGHBOURS = 2.5, 4.0
_NEIGHBOUR_MM = 1.2
_ROUNDS = 4
_BINS = 48
#: Probability of brain above which a voxel belongs to the mask.
_THRESHOLD = 0.5
#: Bridges thinner than twice this (mm) are cut; sulci narrower than twice this are filled.
_OPEN_MM, _CLOSE_MM = 3.0, 4.0
#: A stripped image holds a brain (litres) ...
_BRAIN_LITRES = (0.6, 2.2)
#: ... of which hardly anything lies outside the template's brain, on the template grid ...
_INSIDE_SHARE = 0.98
#: ... and, on other grids, no skull: share of dark voxels 4-12 mm below the surface.
_DARK_SHARE = 0.25


def brain_mask(images_on_template: Mapping[str, Any]) -> nb.Nifti1Image:
    """Return the brain mask from one or several aligned images.

    Parameters
    ----------
    images_on_template : mapping of modality name to nibabel image
        On the template grid, zero outside the field of view; any contrasts. Images without
        skull are recognised: the mask is then the union of what is not zero.

    Returns
    -------
    nibabel.Nifti1Image
        uint8 on the template grid: one 6-connected piece without holes, zero outside the union
        of the images' fields of view.

    Raises
    ------
    DataError
        When there is no image, one is not on the template grid, or no brain is found.
    """
    # sorted: a sum of rounded numbers depends on its order
    data = {name: _data(name, img) for name, img in sorted(images_on_template.items())}
    if not data:
        raise DataError('A brain mask needs at least one image.')
    if all(_stripped_on_template(one) for one in data.values()):
        mask = _union(list(data.values()))
    else:
        mask = _segment(list(data.values()))
    if not mask.any():
        raise DataError('No brain was found in the images.', 'Is the alignment right?')
    return nb.Nifti1Image(mask.astype(np.uint8), TEMPLATE_AFFINE)


def looks_stripped(img: Any) -> bool:
    """Say whether the skull was removed from an image.

    The background of such an image is exactly zero and what is left has the size of a brain.
    On the template grid it must also lie within the template's brain; on any other grid the
    layer below the surface must not be dark, as a skull is.

    Parameters
    ----------
    img : nibabel image, 3D, on any grid
    """
    if len(img.shape) != 3:
        return False
    if is_template_grid(img):
        return _stripped_on_template(_clean(img))
    data, affine = shrink(img, 2.0)
    piece = largest_piece(_not_zero(data))
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    if not _brain_sized(piece, float(np.prod(zooms)) / 1e6):
        return False
    depth = ndi.distance_transform_edt(np.pad(fill_holes(piece), 1), zooms)
    depth = depth[1:-1, 1:-1, 1:-1]
    typical = np.median(data[depth > min(20.0, 0.5 * depth.max())])
    below = data[(depth > 4) & (depth < 12)]
    return bool(below.size and (below < 0.35 * typical).mean() < _DARK_SHARE)


def _data(name: str, img: Any) -> Floats:
    if not is_template_grid(img):
        raise DataError(f'The {name} image is not on the template grid.')
    return _clean(img)


def _clean(img: Any) -> Floats:
    return np.nan_to_num(np.asarray(img.dataobj, dtype=np.float32), posinf=0.0, neginf=0.0)


def _not_zero(data: Floats) -> Bools:
    """Return what differs from zero by more than the ripples of an interpolation."""
    top = float(np.abs(data).max())
    return np.asarray(np.abs(data) > 1e-3 * top) if top else np.zeros(data.shape, dtype=bool)


def _brain_sized(piece: Bools, litres_per_voxel: float) -> bool:
    low, high = _BRAIN_LITRES
    share = float(piece.mean())
    return low <= piece.sum() * litres_per_voxel <= high and 0 < share < 0.6


def _stripped_on_template(data: Floats) -> bool:
    piece = _not_zero(data)
    if not _brain_sized(piece, 1e-6):
        return False
    return float((brain_distance()[piece] <= _REACH_MM).mean()) >= _INSIDE_SHARE


def _union(images: list[Floats]) -> Bools:
    """Return where any image is not zero, without holes and crumbs."""
    whole = np.any([_not_zero(one) for one in images], axis=0)
    return fill_holes(largest_piece(whole))


def _segment(images: list[Floats]) -> Bools:
    """Combine template and intensities, then tidy the shape."""
    box = ndi.find_objects((brain_distance() < _REACH_MM + 2).astype(np.int8))[0]
    distance = brain_distance()[box]
    parts = [np.ascontiguousarray(one[box]) for one in images]
    seen = [_field_of_view(one) for one in parts]
    probability = _estimate(parts, seen, distance)
    mask = np.zeros(brain_distance().shape, dtype=bool)
    mask[box] = _tidy(probability > _THRESHOLD, fill_holes(np.any(seen, axis=0)))
    return mask


def _field_of_view(data: Floats) -> Bools:
    """Return where an image has values; air within the head belongs to it."""
    there = data != 0
    open_air = np.pad(~dilate(there, 2), 1, constant_values=True)
    return ~dilate(open_air, 2)[1:-1, 1:-1, 1:-1] | there


def _estimate(parts: list[Floats], seen: list[Bools], distance: Floats) -> Floats:
    """Return the probability of brain within the box of the template's surroundings."""
    near = distance < _REACH_MM
    probability = _logistic(-distance / np.float32(_BORDER_MM))
    prior = -distance[near] / np.float32(_BORDER_MM)
    codes = [
        np.where(view, _to_bins(one, view & (distance < -6)), _BINS)[near].astype(np.intp)
        for one, view in zip(parts, seen, strict=True)
    ]
    counts = [np.bincount(bins, minlength=_BINS) for bins in codes]
    for _ in range(_ROUNDS):
        around = ndi.gaussian_filter(probability, _NEIGHBOUR_MM, truncate=3.0)[near]
        odds = prior + _NEIGHBOURS * (2 * around - 1)
        weight = probability[near].astype(np.float64)
        for bins, count in zip(codes, counts, strict=True):
            inside = np.bincount(bins, weight, _BINS)[:_BINS]
            odds += _evidence(inside, count[:_BINS] - inside)[bins]
        probability = np.zeros_like(probability)
        probability[near] = _logistic(odds)
    return probability


def _logistic(odds: Floats) -> Floats:
    return (1.0 / (1.0 + np.exp(-np.clip(odds, -30, 30)))).astype(np.float32)


def _to_bins(data: Floats, inner: Bools) -> npt.NDArray[np.int16]:
    """Sort intensities into bins that reach a little beyond those of the inner brain."""
    top = float(np.percentile(data[inner], 99.5)) if inner.any() else float(data.max())
    scaled = data * np.float32((_BINS - 1) / max(1.3 * top, 1e-6))
    return np.clip(scaled, 0, _BINS - 1).astype(np.int16)


def _evidence(inside: npt.NDArray[Any], outside: npt.NDArray[Any]) -> Floats:
    """Return the log odds that each intensity bin gives for brain; none beyond the last."""
    odds = np.log(_density(inside) / _density(np.maximum(outside, 0)))
    return np.append(np.clip(odds, -_MOST_EVIDENCE, _MOST_EVIDENCE), 0).astype(np.float32)


def _density(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    soft = ndi.gaussian_filter1d(counts, 1.0, mode='nearest') + 1e-4 * counts.sum() + 1e-9
    density: npt.NDArray[np.float64] = soft / soft.sum()
    return density


def _tidy(mask: Bools, seen: Bools) -> Bools:
    """Cut thin bridges, keep the largest piece, fill sulci and holes."""
    core = largest_piece(~grow(~mask, _OPEN_MM))
    if not core.any():
        return core
    mask = mask & grow(core, _OPEN_MM + 1.0)
    width = int(np.ceil(_CLOSE_MM)) + 2
    padded = np.pad(mask, width)
    closed = ~grow(~grow(padded, _CLOSE_MM), _CLOSE_MM) | padded
    inner = tuple(slice(width, -width) for _ in range(3))
    return largest_piece(fill_holes(closed[inner]) & seen)
