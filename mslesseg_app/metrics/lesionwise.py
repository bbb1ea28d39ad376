"""Lesions of one mask against those of another: which are found, which are false."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mslesseg_app.lesions.components import structure
from mslesseg_app.metrics.rules import SIZE_BOUNDS_MM3, STRATA, OverlapRule, Rules

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Side:
    """The lesions of one mask.

    Attributes
    ----------
    sizes : int array (n,)
        Number of voxels of each lesion.
    met : bool array (n,)
        Whether the other mask finds the lesion (reference) or confirms it (prediction).
    """

    sizes: npt.NDArray[np.int64]
    met: npt.NDArray[np.bool_]

    @property
    def count(self) -> int:
        """Number of lesions."""
        return int(self.sizes.size)

    @property
    def n_met(self) -> int:
        """Number of lesions that are met by the other mask."""
        return int(np.count_nonzero(self.met))

    def strata(self, voxel_volume_mm3: float) -> dict[str, Side]:
        """Return the small, medium and large lesions (`SIZE_BOUNDS_MM3`).

        A relative tolerance of 1e-6 absorbs voxel sizes that were stored as float32.
        """
        volumes = self.sizes * voxel_volume_mm3 * (1 + 1e-6)
        place = np.searchsorted(SIZE_BOUNDS_MM3, volumes, side='right')
        return {
            name: Side(self.sizes[place == number], self.met[place == number])
            for number, name in enumerate(STRATA)
        }


def match_lesions(
    predicted: Mask, true: Mask, rules: Rules, voxel_volume_mm3: float
) -> tuple[Side, Side]:
    """Match the lesions of a prediction with those of a reference.

    Parameters
    ----------
    predicted, true : bool array (X, Y, Z)
        Masks of one shape.
    rules : Rules
        Connectivity, smallest volume and rule of overlap.
    voxel_volume_mm3 : float

    Returns
    -------
    predicted, reference : Side
        The lesions of each mask that are large enough.
    """
    smallest = rules.smallest_size(voxel_volume_mm3)
    found = find_lesions(predicted, rules.connectivity, smallest)
    truth = find_lesions(true, rules.connectivity, smallest)
    if rules.overlap is None:
        return (
            Side(found.sizes, _touched(found, true)),
            Side(truth.sizes, _touched(truth, predicted)),
        )
    shared = overlaps(found, truth)
    return (
        Side(found.sizes, _matched(shared.turned, found.sizes, truth.sizes, rules.overlap)),
        Side(truth.sizes, _matched(shared, truth.sizes, found.sizes, rules.overlap)),
    )


class Lesions(NamedTuple):
    """The lesions of a mask, as a list of voxels: lesions fill little of the box around them.

    Attributes
    ----------
    places : int array (n,)
        Flat indices of the voxels in the mask, ascending.
    numbers : int array (n,)
        Lesion of each voxel, from 0.
    sizes : int array (lesions,)
        Voxels of each lesion.
    """

    places: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def find_lesions(mask: Mask, connectivity: int, smallest: int) -> Lesions:
    """Find the connected components of at least `smallest` voxels.

    Neighbouring voxels are the edges of a graph, whose components are the lesions.

    Parameters
    ----------
    mask : bool array (X, Y, Z)
    connectivity : {6, 18, 26}
    smallest : int
    """
    padded = np.pad(mask, 1)
    is_lesion, voxels = padded.ravel(), np.flatnonzero(padded)
    order = np.empty(padded.size, dtype=np.int32)
    order[voxels] = np.arange(voxels.size, dtype=np.int32)
    pairs = []
    for step in _forward_steps(connectivity, padded.strides):
        first = np.flatnonzero(is_lesion[voxels + step])
        pairs.append((first, order[voxels[first] + step]))
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(first.size, bool), (first, second)), shape=(voxels.size,) * 2)
    count, numbers = connected_components(graph, directed=False) if voxels.size else (0, voxels)
    places = np.flatnonzero(mask)
    sizes = np.bincount(numbers, minlength=count)
    if smallest > 1:
        keep = sizes >= smallest
        kept = keep[numbers]
        places, numbers = places[kept], (np.cumsum(keep) - 1)[numbers[kept]]
        sizes = sizes[keep]
    return Lesions(places, numbers.astype(np.int64), sizes)


def _forward_steps(connectivity: int, strides: tuple[int, ...]) -> list[int]:
    """Return one of each two opposite steps to a neighbour, as a distance of flat indices."""
    offsets = np.argwhere(structure(connectivity)) - 1
    return [int(step) for step in offsets @ np.asarray(strides) if step > 0]


def _touched(lesions: Lesions, other: Mask) -> npt.NDArray[np.bool_]:
    """Say of each lesion whether it shares a voxel with the other mask.

    Small lesions that a rule set leaves out of the counts still are voxels of the other mask.
    """
    found = np.zeros(lesions.sizes.size, dtype=bool)
    found[lesions.numbers[other.ravel()[lesions.places]]] = True
    return found


class Overlaps(NamedTuple):
    """Pairs of lesions that share voxels, and how many.

    Attributes
    ----------
    first, second : int array (n,)
        Numbers of the lesions in the reference and in the prediction, from 0.
    voxels : int array (n,)
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    voxels: npt.NDArray[np.int64]

    @property
    def turned(self) -> Overlaps:
        """The same pairs seen from the other mask."""
        return Overlaps(self.second, self.first, self.voxels)


def overlaps(found: Lesions, truth: Lesions) -> Overlaps:
    """Count the voxels that lesions of two masks share; a noisy mask has very many lesions."""
    _, true, predicted = np.intersect1d(
        truth.places, found.places, assume_unique=True, return_indices=True
    )
    width = max(1, found.sizes.size)
    pairs, voxels = np.unique(
        truth.numbers[true] * width + found.numbers[predicted], return_counts=True
    )
    return Overlaps(pairs // width, pairs % width, voxels)


def _matched(
    shared: Overlaps,
    sizes: npt.NDArray[np.int64],
    other_sizes: npt.NDArray[np.int64],
    rule: OverlapRule,
) -> npt.NDArray[np.bool_]:
    """Say of each first lesion whether the second ones find it, as Anima does.

    Its overlap has to be large enough, and the lesions that hold the main part of it must not
    lie too much outside of all first lesions. Lesions that overlap equally are examined in
    the order of their numbers (Anima leaves the order of equals open).
    """
    inside = np.bincount(shared.second, shared.voxels, minlength=other_sizes.size)
    spoils = (other_sizes - inside) / other_sizes > rule.max_outside
    overlap = np.bincount(shared.first, shared.voxels, minlength=sizes.size)
    found = overlap / sizes > rule.min_overlap
    seen = np.zeros(sizes.size)
    for pair in np.lexsort((shared.second, -shared.voxels)):
        lesion = shared.first[pair]
        if found[lesion] and seen[lesion] / overlap[lesion] < rule.enough:
            found[lesion] = not spoils[shared.second[pair]]
            seen[lesion] += shared.voxels[pair]
    return found
