"""Patches of exams as other scanners, other raters' contrasts and other patients would show them.

Everything is done to the images before they are normalised, in the order in which it would happen:
anatomy (turned, scaled, mirrored), lesions (fainter or brighter ones, planted ones), acquisition
(blur, thick slices, gamma, bias field, noise), brain extraction (tighter, wider, cut off), and at
last the scale of the model. That scale is taken from the whole brain with its planted lesions, so
the network meets images whose scale lesions have shifted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as fn

from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.layout import brain_box
from mslesseg_app.models.prediction.normalise import scale_of
from mslesseg_app.training.cases import LabelledCase, RawCase, read_case
from mslesseg_app.training.lesion_shapes import LesionShapes
from mslesseg_app.training.patches import Cases, Key, position_seed
from mslesseg_app.training.plan import Augmentation, Plan
from mslesseg_app.training.random_fields import (
    RandomStream,
    blur,
    positions,
    random_affine,
    sample,
    thick_slices,
    transform,
)

FLAIR = 0
"""Position of FLAIR among the channels."""
LOADS_ML = (0.3, 80.0)
"""Smallest and largest load of planted lesions, which is drawn evenly on a logarithmic scale."""
_STRIDE = 4
"""Distance (voxels) of the points at which the scale of a whole brain is taken."""


# ------------------------------------------------------------------------------------- shapes


# -------------------------------------------------------------------------------------- exams


@dataclass(frozen=True)
class TrainingVolume:
    """An exam in memory, cut to its brain.

    Attributes
    ----------
    values : float32 tensor (C + 4, X, Y, Z)
        Images and marks, the channels of a voxel side by side in memory, where they are sampled
        in half the time.
    present : tuple of bool
    labelled : bool
    corner : three ints
        Of the box on its grid.
    lesion, negative, inside : int64 tensors (N, 3)
        Voxels of lesions, of bright tissue that is no lesion, and of every fourth of the brain.
    """

    values: Tensor
    present: tuple[bool, ...]
    labelled: bool
    corner: tuple[int, int, int]
    lesion: Tensor
    negative: Tensor
    inside: Tensor

    @property
    def images(self) -> Tensor:
        """Images (C, X, Y, Z), divided by the median of the brain.

        Zero outside the brain and in absent channels.
        """
        return self.values[: len(self.present)]

    @property
    def marks(self) -> Tensor:
        """Lesion, bright tissue that is no lesion, what is not known, brain: (4, X, Y, Z)."""
        return self.values[len(self.present) :]


def make_volume(case: RawCase) -> TrainingVolume:
    """Cut a case to its brain and bring its images to a median of one."""
    box = brain_box(case.brain | case.mask, 4)
    brain = case.brain[box]
    images = np.stack([_by_median(image[box], brain) for image in case.images])
    unknown = np.zeros(brain.shape, bool)
    if not case.labelled:
        unknown = _maybe_lesion(images[FLAIR], brain, _white_matter()[box])
    marks = np.stack([case.mask[box], case.negatives[box], unknown, brain]).astype(np.float32)
    points = [np.argwhere(mark) for mark in (marks[0] > 0, marks[1] > 0)]
    every = np.argwhere(brain[::_STRIDE, ::_STRIDE, ::_STRIDE]) * _STRIDE
    corner = (box[0].start, box[1].start, box[2].start)
    values = torch.from_numpy(np.concatenate([images, marks]))
    return TrainingVolume(
        values[None].contiguous(memory_format=torch.channels_last_3d)[0],
        case.present,
        case.labelled,
        corner,
        *(torch.from_numpy(p) for p in (*points, every)),
    )


def _by_median(image: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_]) -> Any:
    inside = brain & (image != 0)
    if not inside.any():
        return np.zeros(image.shape, np.float32)
    low = min(0.0, float(image[inside].min()))
    middle = float(np.median(image[inside])) - low
    return (np.where(inside, image - low, 0) / (middle or 1.0)).astype(np.float32)


def _white_matter() -> npt.NDArray[np.bool_]:
    """Return where an affinely registered exam may have white matter."""
    from scipy import ndimage

    from mslesseg_app.spatial.template import tissue_prior

    return np.asarray(ndimage.gaussian_filter(tissue_prior('wm'), 2.5) > 0.35)


def _maybe_lesion(
    flair: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_], white: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return what could be a lesion in an exam that nobody segmented: bright white matter."""
    from scipy import ndimage

    values = flair[brain]
    bright = white & brain & (flair > np.median(values) + 0.8 * values.std())
    return np.asarray(ndimage.binary_dilation(bright, iterations=1) & brain)


# ------------------------------------------------------------------------------------- patches


@dataclass
class Patch:
    """A patch on its way.

    Attributes
    ----------
    images : (C, X, Y, Z) tensor
    label, negative, unknown, brain : (1, X, Y, Z) tensors
    """

    images: Tensor
    label: Tensor
    negative: Tensor
    unknown: Tensor
    brain: Tensor


def cut_patch(
    volume: TrainingVolume,
    planted: Tensor,
    edges: Sequence[int],
    rules: Augmentation,
    stream: RandomStream,
) -> tuple[Patch, Tensor]:
    """Read a patch of a turned, scaled and perhaps mirrored exam; also return planted lesions."""
    centre = _centre(volume, planted, rules, stream)
    shape = volume.marks.shape[1:]
    affine = random_affine(stream, 14, 0.0, 0, mirror=0.5)
    affine[:3, :3] *= stream.uniform(0.85, 1.2)
    for axis in range(3):
        off = stream.uniform(-0.25, 0.25) * edges[axis]
        affine[axis, 3] = centre[axis] - (shape[axis] - 1) / 2 + off
    points = transform(positions(edges, torch.device('cpu')).float(), affine)
    images, marks = sample(volume.values, points).contiguous().tensor_split([len(volume.present)])
    extra = torch.zeros_like(marks[:1])
    if bool(planted.any()):
        extra = sample(planted[None].float(), points)
    brain = (marks[3:] > 0.5).float()
    return Patch(images * brain, marks[:1], marks[1:2], marks[2:3], brain), extra * brain


def _centre(
    volume: TrainingVolume, planted: Tensor, rules: Augmentation, stream: RandomStream
) -> list[float]:
    """Choose the centre: 60 % around lesions, some around negatives, the others in the brain."""
    pool = volume.inside
    if stream.happens(0.6):
        own = volume.lesion
        if len(own) == 0 or (planted.any() and stream.happens(0.3)):
            own = torch.nonzero(planted[::2, ::2, ::2]) * 2
        pool = own if len(own) else pool
    elif len(volume.negative) and stream.happens(rules.negatives / 0.4):
        pool = volume.negative
    return [float(v) for v in pool[stream.pick(pool)]]


def change_lesions(patch: Patch, stream: RandomStream) -> None:
    """Blend the patch's own lesions towards their surroundings, or away from them, in place.

    A blend of 0 leaves them as they are; 0.7 leaves them three tenths of their contrast.
    """
    soft = patch.label.clamp(0, 1)
    if not bool((soft > 0.5).any()):
        return
    blend = stream.uniform(-0.3, 0.7)
    around = _surroundings(patch.images, patch.brain * (soft < 0.1))
    patch.images = patch.images - blend * soft * (patch.images - around)


def _surroundings(images: Tensor, healthy: Tensor) -> Tensor:
    """Return the local mean of healthy tissue (Gaussian of about 5 mm), (C, X, Y, Z)."""
    small = fn.avg_pool3d(torch.cat([images * healthy, healthy])[None], 2)[0]
    smooth = blur(small, 2.5)
    mean = smooth[:-1] / smooth[-1:].clamp(min=1e-3)
    size = tuple(images.shape[1:])
    return fn.interpolate(mean[None], size=size, mode='trilinear', align_corners=False)[0]


def plant(
    patch: Patch,
    shapes: Tensor,
    spread: Tensor,
    present: Sequence[bool],
    stream: RandomStream,
    contrast: tuple[float, float] = (0.7, 3.2),
) -> None:
    """Plant lesions, in place: brighter on FLAIR and T2w, darker on T1w.

    Parameters
    ----------
    patch : Patch
    shapes : (1, X, Y, Z) tensor
        Where they go.
    spread : (C,) tensor
        Standard deviation of each image in the brain.
    present : sequence of bool
    stream : RandomStream
    contrast : two floats
        Least and most contrast to the surroundings on FLAIR, in units of `spread`.
    """
    fluid = patch.images[FLAIR] < 1 - 1.0 * spread[FLAIR]
    place = shapes * (patch.label < 0.3) * (~fluid)[None]
    if not bool((place > 0.5).any()):
        return
    soft = blur(place, stream.uniform(0.4, 1.1)) * patch.brain
    around = _surroundings(patch.images, patch.brain * (~fluid)[None] * (patch.label < 0.1))
    flair = stream.uniform(*contrast)
    change = [flair, -flair * stream.uniform(0.1, 0.9), flair * stream.uniform(0.3, 1.2)]
    shape = patch.label.shape[1:]
    texture = 1 + stream.uniform(0, 0.3) * stream.smooth(1, shape, stream.uniform(2, 8))
    if stream.happens(0.2):  # a darker core
        core = blur((place > 0.5).float(), 2.0).clamp(0, 1)
        texture = texture * (1 - stream.uniform(0.2, 0.6) * core)
    for c, amount in enumerate(change[: len(patch.images)]):
        if present[c]:
            lesion = around[c] + amount * spread[c] * texture[0]
            patch.images[c] += soft[0] * (lesion - patch.images[c])
    patch.images = patch.images.clamp(min=0.0)
    patch.label = torch.maximum(patch.label, soft)
    patch.unknown = patch.unknown * (soft < 0.4)


def acquire(
    patch: Patch, present: Sequence[bool], rules: Augmentation, stream: RandomStream
) -> None:
    """Lower resolution, change gamma, add a bias field and noise, each image by itself."""
    axis = stream.integer(3) if stream.happens(rules.thick) else None
    thickness = 2 + stream.integer(6)
    for c, here in enumerate(present):
        if not here:
            continue
        image = patch.images[c : c + 1]
        if stream.happens(0.3):
            image = blur(image, stream.uniform(0.4, 1.0))
        if axis is not None and (c == FLAIR or stream.happens(0.6)):
            start = stream.integer(thickness)
            image = thick_slices(image, axis, thickness, stream.uniform(0, 0.3), start)
        patch.images[c : c + 1] = _intensities(image, stream) * patch.brain


def _intensities(image: Tensor, stream: RandomStream) -> Tensor:
    if stream.happens(0.5):
        image = image.clamp(min=0) ** stream.uniform(0.7, 1.4)
    if stream.happens(0.5):
        field = stream.smooth(1, image.shape[1:], stream.uniform(40, 80))
        image = image * torch.exp(stream.uniform(0, 0.15) * field)
    if stream.happens(0.5):
        image = image + stream.uniform(0, 0.07) * stream.noise(image.shape)
    return image


def change_brain(patch: Patch, rules: Augmentation, stream: RandomStream) -> None:
    """Make the brain mask too tight or too wide, or cut the field of view, in place."""
    if stream.happens(rules.poor_mask):
        soft = blur(patch.brain, stream.uniform(1.5, 3.0))
        soft = soft + 0.08 * stream.smooth(1, patch.brain.shape[1:], stream.uniform(8, 25))
        limit = stream.uniform(0.2, 0.8)
        wide = (soft > limit).float()
        ring = wide * (1 - patch.brain)
        filling = stream.uniform(0.1, 1.6) * (
            1 + 0.4 * stream.smooth(1, patch.brain.shape[1:], stream.uniform(2, 6))
        )
        patch.images = patch.images * wide + ring * filling.clamp(min=0.01)
        patch.brain = wide
    if stream.happens(rules.cut):
        axis, edge = 1 + stream.integer(3), patch.brain.shape[1]
        lost = 4 + stream.integer(edge // 2)
        start = 0 if stream.happens(0.5) else patch.brain.shape[axis] - lost
        patch.brain.narrow(axis, start, lost).zero_()
    patch.images = patch.images * patch.brain


def normalised(
    patch: Patch, points: Tensor, present: Sequence[bool], method: str, stream: RandomStream
) -> Tensor:
    """Return the images on the scale of the model, (C, X, Y, Z).

    Parameters
    ----------
    patch : Patch
    points : (C, N) tensor
        Values of the whole brain, with its planted lesions.
    present : sequence of bool
    method : str
        Of `mslesseg_app.models.prediction.normalise`.
    stream : RandomStream
        Masks, fields of view and bias change the scale of an exam by some per cent.
    """
    result = torch.zeros_like(patch.images)
    for c, here in enumerate(present):
        if not here:
            continue
        scale = scale_of(points[c].numpy().astype(np.float64), method)
        values = (patch.images[c].clamp(scale.low, scale.high) - scale.centre) / scale.spread
        factor, offset = stream.uniform(0.85, 1.18), stream.normal(0.12)
        result[c] = (values * factor + offset) * patch.brain[0]
    return result


class AugmentedDataset(Cases):
    """Augmented patches of exams; see the top of this module.

    Parameters
    ----------
    cases : sequence of LabelledCase
    plan : Plan
    entry : ModelEntry
        Its channels and its normalisation.
    shapes : LesionShapes, optional
        What is planted; without it nothing is.
    """

    def __init__(
        self,
        cases: Sequence[LabelledCase],
        plan: Plan,
        entry: ModelEntry,
        shapes: LesionShapes | None = None,
    ) -> None:
        super().__init__(cases, plan)
        self.entry, self.shapes = entry, shapes
        self.volumes: dict[int, TrainingVolume] = {}

    def prepare(self) -> Iterator[str]:
        """Read every case and yield its name; an unfit one is an error."""
        for index, case in enumerate(self.cases):
            self.volume(index)
            yield case.name

    def volume(self, index: int) -> TrainingVolume:
        """Return a case in memory."""
        if index not in self.volumes:
            self.volumes[index] = make_volume(read_case(self.cases[index], self.entry))
        return self.volumes[index]

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        """Return the patches of one draw."""
        epoch, place, index = key
        stream = RandomStream(position_seed(self.plan.seed, epoch, place))
        drawn = [self._patch(self.volume(index), stream) for _ in range(self.plan.patches)]
        return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}

    def _patch(self, volume: TrainingVolume, stream: RandomStream) -> dict[str, Tensor]:
        rules = self.plan.augmentation
        planted = torch.zeros(volume.marks.shape[1:], dtype=torch.uint8)
        if self.shapes is not None and (not volume.labelled or stream.happens(rules.plant)):
            load = float(np.exp(stream.uniform(*np.log(LOADS_ML))))
            planted = self.shapes.draw(planted.shape, volume.corner, load, stream)
        patch, extra = cut_patch(volume, planted, self.plan.patch, rules, stream)
        points, spread = whole_brain(volume)
        if stream.happens(rules.contrast):
            change_lesions(patch, stream)
        if bool(planted.any()):
            points = _with_planted(points, volume, planted, spread, stream)
            plant(patch, extra, spread, volume.present, stream)
        acquire(patch, volume.present, rules, stream)
        change_brain(patch, rules, stream)
        method = self.entry.normalisation
        images = normalised(patch, points, volume.present, method, stream)
        self._drop(images, rules, stream)
        label = (patch.label > 0.5).float() * patch.brain
        weight = patch.brain * (1 - patch.unknown.round() * (1 - label))
        weight = weight * (1 + (rules.negative_weight - 1) * (patch.negative > 0.5) * (1 - label))
        return {'image': images, 'label': label, 'weight': weight}

    def _drop(self, images: Tensor, rules: Augmentation, stream: RandomStream) -> None:
        dropped: Mapping[str, float] = {'T1w': rules.drop_t1w, 'T2w': rules.drop_t2w}
        for c, name in enumerate(self.plan.channels):
            if name not in self.plan.required and stream.happens(dropped.get(name, 0)):
                images[c] = 0


def whole_brain(volume: TrainingVolume) -> tuple[Tensor, Tensor]:
    """Return the values of the brain at its coarse points, (C, N), and their spread, (C,)."""
    x, y, z = volume.inside.T
    points = volume.images[:, x, y, z]
    return points, points.std(dim=1)


def _with_planted(
    points: Tensor, volume: TrainingVolume, planted: Tensor, spread: Tensor, stream: RandomStream
) -> Tensor:
    """Return the values of the whole brain once lesions are planted."""
    x, y, z = volume.inside.T
    here = planted[x, y, z] > 0
    result = points.clone()
    amount = stream.uniform(1.0, 2.5)
    for c, sign in enumerate((1.0, -0.5, 0.8)[: len(points)]):
        result[c, here] = 1 + sign * amount * spread[c]
    return result
