"""A model without weights: what is too bright on FLAIR for where it lies.

It is the floor that trained models have to beat. Nothing in it is trained, but its few constants
were chosen on labelled exams (three at first, see the model card, and later eight for ``weak``),
so figures on these flatter. Steps:

1. The tissue maps of the template are moved onto the brain, and the intensities of white
   matter, grey matter and fluid are learnt from the exam itself, from tissue that lesions cannot
   shift (`mslesseg_app.spatial.tissues.tissue_scale`).
2. Each voxel gets an evidence in deviations of white matter: how far FLAIR lies above
   it, less what speaks against a lesion there: cortex, fluid (and what lies outside the brain),
   the midline with its septum and falx, and a T1w nearly as dark as fluid.
3. Lesions are regions of weak evidence that hold strong evidence somewhere (hysteresis).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.special import expit

from mslesseg_app.core.errors import DataError, ModelError
from mslesseg_app.lesions.components import structure
from mslesseg_app.spatial.tissues import (
    CSF,
    GM,
    WM,
    Array,
    Bools,
    PriorFit,
    TissueScale,
    fit_priors,
    template_maps,
    tissue_scale,
)

if TYPE_CHECKING:
    from mslesseg_app.models.entry import ModelEntry
    from mslesseg_app.models.registry import Predictor

MIDPLANE = 90.0
"""Index of the plane between the hemispheres on the template grid."""


@dataclass(frozen=True)
class Constants:
    """Numbers of the method; the entry's options replace them by name.

    Attributes
    ----------
    noise_sigma : float
        Smoothing of the images, in voxels.
    around : float
        Share of the evidence that comes from the neighbourhood (Gaussian of one voxel).
    cortex, fluid, midline, dark_t1w : float
        What speaks against a lesion, in deviations of white matter: a neighbourhood of grey
        matter, of fluid, the midline, and a T1w as dark as fluid.
    grey_units : float
        Highest brightness of grey matter: in images with little noise the deviation of white
        matter is raised until grey matter lies there, or ordinary cortex would count as strong.
    weak, strong : float
        Evidence that ends a lesion, and evidence that it must reach somewhere.
    softness : float
        Change of evidence that turns a probability of 0.5 into 0.73.
    smallest : int
        Voxels of the smallest region.
    """

    noise_sigma: float = 0.6
    around: float = 0.5
    cortex: float = 4.0
    fluid: float = 4.0
    midline: float = 4.0
    dark_t1w: float = 3.0
    grey_units: float = 1.6
    weak: float = 2.5
    strong: float = 4.75
    softness: float = 0.75
    smallest: int = 5


def load(
    entry: ModelEntry, weights: Path | None, device: str, *, threads: int = 1, seed: int = 1
) -> Predictor:
    """Return the predictor of an entry; it draws nothing and uses one thread of the CPU.

    Raises
    ------
    ModelError
        If FLAIR is not the first channel, there are others than T1w, or an option is unknown.
    """
    del weights, device, threads, seed
    if entry.channels not in {('FLAIR',), ('FLAIR', 'T1w')}:
        raise ModelError(
            f'The model {entry.name!r} cannot use the channels {", ".join(entry.channels)}.',
            'The architecture hyperintensity takes FLAIR, or FLAIR and T1w.',
        )
    try:
        return Hyperintensity(Constants(**entry.options))
    except TypeError as error:
        raise ModelError(
            f'The model {entry.name!r} has an unknown option: {error}.', 'Correct its TOML file.'
        ) from error


@dataclass(frozen=True)
class Hyperintensity:
    """The predictor; see the module for the method and `Predictor` for the call."""

    constants: Constants

    def __call__(
        self,
        channels: npt.NDArray[np.float32],
        brain: npt.NDArray[np.bool_],
        present: tuple[bool, ...],
    ) -> npt.NDArray[np.float32]:
        """Return the lesion probability on the template grid."""
        priors = template_priors(brain.shape)
        used = np.stack([c for c, there in zip(channels, present, strict=True) if there])
        fit = fit_priors(used, brain, template_maps())
        moved = np.stack([fit.move(prior) for prior in priors])
        images = _denoise(used, self.constants.noise_sigma)
        shown = brain & (used != 0)
        scales = [
            tissue_scale(image, seen, moved, dark_lesions=number > 0)
            for number, (image, seen) in enumerate(zip(images, shown, strict=True))
        ]
        evidence = self.evidence(images, shown, moved, fit, scales)
        return self.probability(np.where(shown[0], evidence, -np.inf))

    def evidence(
        self,
        images: Array,
        shown: Bools,
        priors: npt.NDArray[np.float32],
        fit: PriorFit,
        scales: Sequence[TissueScale],
    ) -> Array:
        """Return the evidence for a lesion in deviations of white matter.

        Parameters
        ----------
        images : array (C, X, Y, Z)
            FLAIR and, if there, T1w.
        shown : bool array (C, X, Y, Z)
            Where each of them has been measured.
        priors : float32 array (3, X, Y, Z)
            Tissue maps moved onto the exam.
        scales : sequence of TissueScale
            Of each image.
        """
        numbers = self.constants
        above = np.clip(scales[0].height(images[0], numbers.grey_units), -6, 8)
        above = np.where(shown[0], above, -6)
        near = ndimage.gaussian_filter(above, 1)
        evidence = (1 - numbers.around) * above + numbers.around * near
        evidence -= numbers.cortex * ndimage.gaussian_filter(priors[GM], 2)
        elsewhere = np.clip(1 - priors[WM] - priors[GM], 0, 1)
        evidence -= numbers.fluid * ndimage.gaussian_filter(elsewhere, 2)
        evidence -= numbers.midline * midline(evidence.shape, fit)
        if len(images) > 1:
            evidence -= numbers.dark_t1w * np.where(shown[1], _darkness(images[1], scales[1]), 0)
        return evidence

    def probability(self, evidence: Array) -> npt.NDArray[np.float32]:
        """Turn evidence into a probability by hysteresis.

        Inside regions of weak evidence that hold strong evidence, 0.5 lies at ``weak``;
        everywhere else it lies at ``strong`` and is capped at 0.49 (regions that are too small).
        """
        numbers = self.constants
        regions, count = ndimage.label(evidence > numbers.weak, structure(6))
        index = np.arange(count + 1)
        sizes = np.bincount(regions.ravel(), minlength=count + 1)
        peaks = np.asarray(ndimage.maximum(evidence, regions, index))
        kept = (peaks >= numbers.strong) & (sizes >= numbers.smallest)
        kept[0] = False
        lesion = kept[regions]
        middle = np.where(lesion, numbers.weak, numbers.strong)
        prob = expit((evidence - middle) / numbers.softness)
        return np.where(lesion, prob, np.minimum(prob, 0.49)).astype(np.float32)


def template_priors(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    from mslesseg_app.spatial.template import TEMPLATE_SHAPE, tissue_prior

    if shape != TEMPLATE_SHAPE:
        raise DataError(
            f'The images have the shape {shape}, not that of the template {TEMPLATE_SHAPE}.',
            'Align and resample them to the template first.',
        )
    priors = np.zeros((3, *shape), dtype=np.float32)
    priors[WM], priors[GM], priors[CSF] = (tissue_prior(tissue) for tissue in ('wm', 'gm', 'csf'))
    return priors


def _denoise(images: npt.NDArray[np.float32], sigma: float) -> Array:
    return np.stack([ndimage.gaussian_filter(i.astype(np.float64), sigma) for i in images])


def _darkness(image: Array, scale: TissueScale) -> Array:
    """Return 0 for a T1w up to half-way from white matter to fluid, rising to 1 at fluid."""
    contrast = max(scale.white - scale.fluid, 1e-3)
    dark = (scale.white + scale.offset - image) / contrast
    return np.asarray(np.clip(2 * dark - 1, 0, 1))


def midline(shape: tuple[int, ...], fit: PriorFit) -> Array:
    """Return 1 on the plane between the hemispheres, falling to 0 at 5 mm from it."""
    x, y, z = np.ogrid[tuple(slice(n) for n in shape)]
    row = fit.matrix[0]
    across = row[0] * x + row[1] * y + row[2] * z + fit.offset[0]
    return np.asarray(np.clip(1 - np.abs(across - MIDPLANE) / 5, 0, 1))
