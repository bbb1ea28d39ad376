"""Consensus of several masks of one image: STAPLE, majority vote and mean.

``staple`` is the expectation maximisation of Warfield, Zou and Wells (IEEE Transactions on
Medical Imaging 23:903, 2004) as SimpleITK has it: the hidden mask and each rater's sensitivity
and specificity explain each other. Its prior and its specificities are shares of the voxels it
is shown. Shown a whole head it finds every specificity to be one, believes every mark, and
combines the masks rather than weighing them. So it is shown a band: the voxels that at least one
rater marked and those within `MARGIN_VOXELS` steps (across faces) of them. Everything outside
is background. **Sensitivity and specificity are therefore those within this band**; the
specificity of a whole head would always be close to one.

Where the estimation has nothing to work on, nothing is estimated:

=======================================  =========================================================
masks                                    STAPLE gives
=======================================  =========================================================
none                                     an error
a single rater                           that mask; sensitivity and specificity 1
all raters identical                     that mask; sensitivity and specificity 1
all empty                                an empty mask; sensitivity NaN, specificity 1
some empty                               an empty mask counts as an opinion: sensitivity 0
the estimation ends without finite       the strict majority; sensitivity and specificity are
numbers, or finds at most one rater      the rates against it
better than chance (masks that
contradict one another)
=======================================  =========================================================

Each of these is reported in `Consensus.note`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mslesseg_app.core.errors import DataError, UsageError
from mslesseg_app.metrics.exam import voxel_agreement

Mask = npt.NDArray[np.bool_]
Method = Literal['mean', 'majority', 'staple']

METHODS: tuple[Method, ...] = ('staple', 'majority', 'mean')

#: STAPLE sees the marked voxels and those this many steps away. With simulated raters of three
#: real masks (``docs/metrics.md``) a wider band combines the masks of many or wide raters, and the
#: marked voxels alone leave no background to learn a specificity from.
MARGIN_VOXELS = 1
#: A rater whose sensitivity and specificity do not add up to more than one is no better than
#: chance. Where at most one rater is better, STAPLE has taken that one for the truth.
_BETTER_THAN_CHANCE = 1 + 1e-6
#: SimpleITK stops when nothing moves any more; masks that contradict one another may take long.
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class Consensus:
    """What several raters agree on.

    Attributes
    ----------
    mask : bool array (X, Y, Z)
        The consensus.
    probability : float32 array (X, Y, Z)
        ``mean``: mean of the probabilities or masks; ``majority``: share of the raters who
        marked the voxel; ``staple``: probability that the voxel is lesion, given all raters.
    agreement : uint8 array (X, Y, Z)
        Number of raters who marked the voxel.
    sensitivity, specificity : tuple of float
        One number a rater, in the order of the masks; empty unless ``staple``.
    note : str
        Why a rate is NaN, or why STAPLE did not estimate; empty when all went its usual way.
    """

    mask: Mask
    probability: npt.NDArray[np.float32]
    agreement: npt.NDArray[np.uint8]
    sensitivity: tuple[float, ...] = ()
    specificity: tuple[float, ...] = ()
    note: str = ''


def consensus(
    masks: Sequence[npt.NDArray[np.bool_]],
    method: Method,
    *,
    probabilities: Sequence[npt.NDArray[np.floating[Any]]] | None = None,
    threshold: float = 0.5,
) -> Consensus:
    """Combine the masks of several raters or models.

    Parameters
    ----------
    masks : sequence of bool arrays (X, Y, Z)
        One mask a rater, at least one, at most 255, all on one grid.
    method : {'mean', 'majority', 'staple'}
        ``majority`` keeps a voxel that more than half of the raters marked: a tie is no
        majority. ``mean`` and ``staple`` keep a voxel whose probability reaches the threshold,
        so that in a mean of masks half of the raters are enough.
    probabilities : sequence of float arrays (X, Y, Z), optional
        One probability map a rater, 0 to 1, for ``mean``; the others take no notice of them.
    threshold : float
        Smallest probability of a voxel of the consensus, for ``mean`` and ``staple``.

    Raises
    ------
    UsageError
        For no rater, more than 255, an unknown method or a threshold outside (0, 1].
    DataError
        If the arrays do not share one three-dimensional grid or probabilities leave [0, 1].
    """
    raters = _checked(masks)
    if not 0 < threshold <= 1:
        raise UsageError(f'A threshold of {threshold} is not possible.', 'Give 0 < P <= 1.')
    agreement = np.zeros(raters[0].shape, dtype=np.uint8)
    for mask in raters:
        agreement += mask
    if method == 'mean':
        mean = _mean(raters, probabilities)
        return Consensus(mean >= np.float32(threshold), mean, agreement)
    if method == 'majority':
        share = (agreement / np.float32(len(raters))).astype(np.float32)
        return Consensus(_majority(agreement, len(raters)), share, agreement)
    if method == 'staple':
        return _staple(raters, agreement, threshold)
    raise UsageError(f'There is no consensus {method!r}.', f'Choose {", ".join(METHODS)}.')


# ---------------------------------------------------------------------------- checks


def _checked(masks: Sequence[npt.NDArray[Any]]) -> list[Mask]:
    if not 0 < len(masks) < 256:
        raise UsageError(
            f'A consensus of {len(masks)} masks is not possible.', 'Give between 1 and 255 masks.'
        )
    shape = np.shape(masks[0])
    if len(shape) != 3:
        raise DataError(f'A mask has {len(shape)} dimensions; three are needed.')
    for number, mask in enumerate(masks, start=1):
        if np.shape(mask) != shape:
            raise DataError(
                f'Mask {number} has the shape {np.shape(mask)}, the first {shape}.',
                'Bring all masks to the same grid.',
            )
        if np.asarray(mask).dtype != bool:
            raise DataError(f'Mask {number} is not boolean.', 'Threshold it first.')
    return [np.asarray(mask) for mask in masks]


def _mean(
    raters: list[Mask], probabilities: Sequence[npt.NDArray[np.floating[Any]]] | None
) -> npt.NDArray[np.float32]:
    values: Sequence[npt.NDArray[Any]] = raters if probabilities is None else probabilities
    if len(values) != len(raters):
        raise DataError(f'There are {len(values)} probability maps for {len(raters)} masks.')
    total = np.zeros(raters[0].shape, dtype=np.float64)
    for number, value in enumerate(values, start=1):
        if value.shape != total.shape:
            raise DataError(
                f'Probability map {number} has the shape {value.shape}, the masks {total.shape}.'
            )
        if not (value.min(initial=0) >= 0 and value.max(initial=0) <= 1):
            raise DataError(f'Probability map {number} has values outside 0 to 1.')
        total += value
    return (total / len(values)).astype(np.float32)


def _majority(agreement: npt.NDArray[np.uint8], count: int) -> Mask:
    return np.asarray(agreement > count // 2, dtype=bool)


# ---------------------------------------------------------------------------- STAPLE


def _staple(raters: list[Mask], agreement: npt.NDArray[np.uint8], threshold: float) -> Consensus:
    count = len(raters)
    marked = agreement > 0
    if not marked.any():
        note = 'no rater marked a voxel: there is no sensitivity'
        nothing = np.zeros(marked.shape, np.float32)
        return Consensus(marked, nothing, agreement, (math.nan,) * count, (1.0,) * count, note)
    if int(agreement.max()) == count and np.array_equal(marked, agreement == count):
        note = 'a single rater' if count == 1 else 'all raters marked the same voxels'
        certain = marked.astype(np.float32)
        return Consensus(marked, certain, agreement, (1.0,) * count, (1.0,) * count, note)
    band = _band(marked)
    seen = [mask[band] for mask in raters]
    values, sensitivity, specificity = _estimate(seen)
    note = ''
    if not _is_sound(values, sensitivity, specificity):
        chosen = _majority(agreement[band], count)
        values = (agreement[band] / count).astype(np.float64)
        sensitivity, specificity = _rates(seen, chosen)
        note = 'the masks contradict one another: the majority stands in for STAPLE'
        if not chosen.any():
            note += '; it is empty, so there is no sensitivity'
    else:
        chosen = values >= threshold
    probability = np.zeros(marked.shape, dtype=np.float32)
    mask = np.zeros(marked.shape, dtype=bool)
    probability[band], mask[band] = values, chosen
    return Consensus(mask, probability, agreement, sensitivity, specificity, note)


def _band(marked: Mask) -> Mask:
    """Return the marked voxels and their surroundings; the dilation is done in their box."""
    (box,) = ndimage.find_objects(marked.astype(np.uint8))
    wide = tuple(
        slice(max(0, edge.start - MARGIN_VOXELS), edge.stop + MARGIN_VOXELS) for edge in box
    )
    band = np.zeros(marked.shape, dtype=bool)
    band[wide] = ndimage.binary_dilation(marked[wide], iterations=MARGIN_VOXELS)
    return band


def _estimate(
    seen: list[npt.NDArray[np.bool_]],
) -> tuple[npt.NDArray[np.float64], tuple[float, ...], tuple[float, ...]]:
    """Run SimpleITK's STAPLE; it treats each voxel alone, so their position does not matter."""
    import SimpleITK as sitk

    images = [sitk.GetImageFromArray(mask.astype(np.uint8)[None, None]) for mask in seen]
    staple = sitk.STAPLEImageFilter()
    staple.SetForegroundValue(1)
    staple.SetMaximumIterations(MAX_ITERATIONS)
    values = sitk.GetArrayFromImage(staple.Execute(images)).ravel()
    return values, tuple(staple.GetSensitivity()), tuple(staple.GetSpecificity())


def _is_sound(
    values: npt.NDArray[np.float64], sensitivity: Sequence[float], specificity: Sequence[float]
) -> bool:
    rates = np.array([sensitivity, specificity])
    finite = np.isfinite(values).all() and np.isfinite(rates).all()
    return bool(finite and np.count_nonzero(rates.sum(axis=0) > _BETTER_THAN_CHANCE) > 1)


def _rates(
    seen: list[npt.NDArray[np.bool_]], truth: npt.NDArray[np.bool_]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    inside, outside = int(truth.sum()), int((~truth).sum())
    sensitivity = [int((mask & truth).sum()) / inside if inside else math.nan for mask in seen]
    specificity = [int((~mask & ~truth).sum()) / outside if outside else 1.0 for mask in seen]
    return tuple(sensitivity), tuple(specificity)


# ----------------------------------------------------------- raters against the others


def leave_one_out(
    masks: Sequence[npt.NDArray[np.bool_]],
    method: Method,
    *,
    probabilities: Sequence[npt.NDArray[np.floating[Any]]] | None = None,
    threshold: float = 0.5,
) -> list[dict[str, float]]:
    """Compare each rater with the consensus of all others.

    Parameters
    ----------
    masks, method, probabilities, threshold
        As for `consensus`; at least two masks.

    Returns
    -------
    list of dict
        DSC, TPR and PPV of each rater, in the order of the masks, with the consensus of the
        others as the reference. Two empty masks agree (DSC 1); a rate without a denominator is
        NaN, as in :mod:`mslesseg_app.metrics.exam`.

    Raises
    ------
    UsageError, DataError
        As `consensus`, and for a single mask.
    """
    if len(masks) < 2:
        raise UsageError('Nobody is left to compare the only rater with.', 'Give two or more.')
    agreements = []
    for left_out, mask in enumerate(masks):
        others = consensus(
            _without(masks, left_out),
            method,
            probabilities=None if probabilities is None else _without(probabilities, left_out),
            threshold=threshold,
        )
        agreements.append(voxel_agreement(np.asarray(mask, dtype=bool), others.mask))
    return agreements


def _without(items: Sequence[Any], index: int) -> list[Any]:
    return [*items[:index], *items[index + 1 :]]


def experiments(
    raters: Mapping[str, npt.NDArray[np.bool_]],
    reference: npt.NDArray[np.bool_],
    best: int = 5,
    method: Method = 'staple',
) -> list[dict[str, Any]]:
    """Compare raters and reference with two consensuses: Table 3 of the MSLesSeg paper.

    ``C1`` is the consensus of all raters and the reference (the reference is one rater among
    the others), ``C2`` that of the `best` raters by DSC against the reference, without it. All
    raters are best where there are no more than `best`; equal DSC are ranked by name.

    Parameters
    ----------
    raters : mapping of str to bool array (X, Y, Z)
        Masks by the name of their rater.
    reference : bool array (X, Y, Z)
    best : int
        Number of raters in C2; the paper has 5.
    method : {'staple', 'majority', 'mean'}
        The paper has STAPLE.

    Returns
    -------
    list of dict
        ``rater``, ``DSC_reference``, ``DSC_C1``, ``DSC_C2`` and ``in_C2``; first the row
        ``reference``, then the raters from the best to the worst. A rater outside C2 has its
        DSC against C2 too (the paper leaves these out).

    Raises
    ------
    UsageError, DataError
        As `consensus`, and for a `best` below one.
    """
    if best < 1:
        raise UsageError(f'A consensus of the best {best} is not possible.', 'Give 1 or more.')
    _checked([reference, *raters.values()])
    scores = {name: _dice(mask, reference) for name, mask in raters.items()}
    ranked = sorted(raters, key=lambda name: (-scores[name], name))
    c1 = consensus([*raters.values(), reference], method).mask
    c2 = consensus([raters[name] for name in ranked[:best]], method).mask
    rows = [
        ('reference', reference, 1.0),
        *((name, raters[name], scores[name]) for name in ranked),
    ]
    return [
        {
            'rater': name,
            'DSC_reference': score,
            'DSC_C1': _dice(mask, c1),
            'DSC_C2': _dice(mask, c2),
            'in_C2': name in ranked[:best] and number > 0,
        }
        for number, (name, mask, score) in enumerate(rows)
    ]


def _dice(first: Mask, second: Mask) -> float:
    return voxel_agreement(first, second)['DSC']
