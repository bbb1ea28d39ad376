"""Synthetic exams: planted lesions, painted brains, imperfect acquisitions.

All is done on whole brains on the device of the training, on the fly, from a seed. An exam that
leaves here looks like what the App hands to a network: normalised by the same rule, zero outside
the brain, zero where a modality is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mslesseg_app.training.data import IGNORE, Exam, Pattern, TrainingData
from mslesseg_app.training.fields import (
    Chance,
    blur,
    positions,
    random_affine,
    sample,
    thick_slices,
    transform,
)
from mslesseg_app.training.plan import Recipe

FLAIR, T1W, T2W = range(3)
CSF, GM, WM, VENTRICLE = range(4)
_MAD_TO_SD = 1.4826022185056018


@dataclass
class Scene:
    """An exam in the making.

    Attributes
    ----------
    images : (3, X, Y, Z)
        Zero where nothing was seen.
    present : list of bool
    label : (X, Y, Z)
        Soft lesion, 0 to 1.
    unknown : (X, Y, Z)
        1 where the truth is not known.
    tissues : (4, X, Y, Z)
    levels : float array (3, 3)
        Channel by tissue.
    """

    images: Tensor
    present: list[bool]
    label: Tensor
    unknown: Tensor
    tissues: Tensor
    levels: np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass
class Sample:
    """What the network trains on, on the whole box.

    Attributes
    ----------
    images : (3, X, Y, Z)
        Normalised.
    label : (X, Y, Z) bool
    weight : (X, Y, Z)
        0 where the loss must not look.
    brain : (X, Y, Z) bool
    """

    images: Tensor
    label: Tensor
    weight: Tensor
    brain: Tensor


@dataclass
class Stage:
    """Exams and patterns on the device.

    Attributes
    ----------
    exams : list of Exam tensors
    patterns : list of (X, Y, Z) int16 tensors
    """

    exams: list[Scene] = field(default_factory=list)
    patterns: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, data: TrainingData, device: str | torch.device) -> Stage:
        """Move what a run may see to a device."""
        exams = [_scene(exam, device) for exam in data.exams]
        return cls(exams, [_pattern(pattern, device) for pattern in data.patterns])


def _scene(exam: Exam, device: str | torch.device) -> Scene:
    label = torch.as_tensor(exam.label, device=device)
    return Scene(
        torch.as_tensor(exam.images.astype(np.float32), device=device).half(),
        [bool(p) for p in exam.present],
        label == 1,
        label == IGNORE,
        torch.as_tensor(exam.tissues, device=device),
        exam.levels.astype(float),
    )


def _pattern(pattern: Pattern, device: str | torch.device) -> Tensor:
    return torch.as_tensor(pattern.components.astype(np.int16), device=device)


class Synthesiser:
    """Draws exams.

    Parameters
    ----------
    data : TrainingData
        All that it can ever show: nothing else is read.
    chance : Chance
        Random numbers; its device is where the work is done.
    recipe : Recipe
    normalisation : {'robust', 'zscore'}
        As in `mslesseg_app.inference.normalise`.
    """

    def __init__(
        self,
        data: TrainingData,
        chance: Chance,
        recipe: Recipe | None = None,
        normalisation: str = 'robust',
    ) -> None:
        self.chance = chance
        self.recipe = recipe or Recipe()
        self.normalisation = normalisation
        self.stage = Stage.of(data, chance.device)
        self.pictured = [i for i, exam in enumerate(self.stage.exams) if exam.present[FLAIR]]
        self.shares = [
            1.0 if bool(self.stage.exams[i].label.any()) else self.recipe.unlabelled
            for i in self.pictured
        ]

    @torch.no_grad()
    def draw(self) -> Sample:
        """Return a new exam."""
        scene = self._compose()
        scene = deform(scene, self.chance)
        scene.images = acquire(scene, self.chance, self.recipe)
        drop_channels(scene, self.chance, self.recipe)
        return finish(scene, self.normalisation)

    def _compose(self) -> Scene:
        recipe, chance = self.recipe, self.chance
        kinds = [recipe.real, recipe.planted, recipe.painted]
        if not self.pictured:
            kinds[:2] = 0, 0
        kind = chance.choice(kinds if self.stage.patterns else (1, 0, 0))
        if kind == 2:
            anatomy = self.stage.exams[chance.integer(len(self.stage.exams))]
            scene = paint(loosened(anatomy, clean=True), chance)
        else:
            even = [1.0] * len(self.pictured)
            drawn = self.pictured[chance.choice(even if kind else self.shares)]
            scene = loosened(self.stage.exams[drawn])
            scene.images = shift_tissues(scene, chance)
        if kind:
            pattern = self.stage.patterns[chance.integer(len(self.stage.patterns))]
            scene = plant(scene, pattern, chance)
        return scene


def loosened(scene: Scene, clean: bool = False) -> Scene:
    """Return a float copy of a stored exam; `clean` forgets its own lesions."""
    label = scene.label.float()
    unknown = scene.unknown.float()
    return Scene(
        scene.images.float(),
        list(scene.present),
        torch.zeros_like(label) if clean else label,
        torch.zeros_like(unknown) if clean else unknown,
        scene.tissues.float() / 255,
        scene.levels.copy(),
    )


def shift_tissues(scene: Scene, chance: Chance) -> Tensor:
    """Return images whose tissues are brighter or darker, as another sequence shows them."""
    images = scene.images.clone()
    for c in range(3):
        if not scene.present[c] or not chance.happens(0.6):
            continue
        white = scene.levels[c, WM]
        for tissue, width in ((CSF, 0.25), (GM, 0.12), (WM, 0.06)):
            change = chance.uniform(-width, width) * white
            images[c] += change * scene.tissues[tissue] * (scene.images[c] > 0)
            scene.levels[c, tissue] += change
        images[c] = images[c].clamp(min=1.0) * (scene.images[c] > 0)
    return images


def paint(scene: Scene, chance: Chance) -> Scene:
    """Return an exam painted on the tissues of `scene`, with contrasts drawn at random.

    FLAIR keeps lesions brighter than white matter; T1w and T2w are usually like themselves
    and sometimes anything.
    """
    shape = scene.tissues.shape[1:]
    levels = np.stack([_draw_levels(c, chance) for c in range(3)]) * 500.0
    tissues = scene.tissues[:3]
    if chance.happens(0.7):
        tissues = blur(tissues, chance.uniform(0.4, 0.9))
    images = torch.zeros((3, *shape), device=chance.device)
    regions = chance.smooth(3, shape, chance.uniform(15, 50))
    for c in range(3):
        strength = chance.uniform(0.0, 0.08)
        for t in range(3):
            local = 1 + strength * (regions[t] if chance.happens(0.7) else -regions[t])
            images[c] += tissues[t] * float(levels[c, t]) * local
    images *= 1 + chance.uniform(0, 0.06) * chance.smooth(3, shape, chance.uniform(2, 6))
    images = _confounders(images, scene.tissues, levels, chance)
    brain = scene.tissues[:3].sum(0) > 0.3
    return replace(scene, images=images.clamp(min=1) * brain, present=[True] * 3, levels=levels)


def _draw_levels(channel: int, chance: Chance) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return levels of CSF, grey and white matter relative to white matter."""
    if channel == FLAIR:
        grey = chance.uniform(1.0, 1.4) if chance.happens(0.85) else chance.uniform(0.8, 1.05)
        return np.array([chance.uniform(0.05, 0.7), grey, 1.0])
    if chance.happens(0.15):
        return np.array([chance.uniform(0.1, 2.0), chance.uniform(0.4, 1.6), 1.0])
    if channel == T1W:
        return np.array([chance.uniform(0.08, 0.5), chance.uniform(0.55, 0.92), 1.0])
    return np.array([chance.uniform(1.7, 4.5), chance.uniform(1.05, 1.6), 1.0])


def _confounders(images: Tensor, tissues: Tensor, levels: np.ndarray, chance: Chance) -> Tensor:
    """Add what is bright in FLAIR and no lesion: caps, CSF flow, plexus."""
    vent = tissues[VENTRICLE]
    if chance.happens(0.5):
        caps = blur(vent[None], chance.uniform(1.0, 2.0))[0] * tissues[WM]
        images[FLAIR] += caps * chance.uniform(0, 0.5) * float(levels[FLAIR, WM])
    if chance.happens(0.4):
        blobs = (chance.smooth(1, vent.shape, chance.uniform(5, 14))[0] - 0.7).clamp(0, 1)
        where = tissues[CSF] if chance.happens(0.5) else vent
        images[FLAIR] += blobs * where * chance.uniform(0, 1.6) * float(levels[FLAIR, WM])
    if chance.happens(0.3):
        bright = (chance.smooth(1, vent.shape, chance.uniform(6, 20))[0] - 0.5).clamp(0, 1)
        images[FLAIR] += bright * tissues[GM] * chance.uniform(0, 0.35) * float(levels[FLAIR, WM])
    if chance.happens(0.3):
        vessels = (chance.smooth(1, vent.shape, 3.0)[0] - 1.6).clamp(0, 1)
        images[T1W] += (
            vessels
            * chance.uniform(0, 1.5)
            * float(levels[T1W, WM])
            * (tissues[CSF] + 0.3 * tissues[GM])
        )
    return images


@dataclass
class Lesions:
    """Lesions to be planted.

    Attributes
    ----------
    soft : (X, Y, Z)
        How much of a voxel is lesion.
    gain : (X, Y, Z)
        Relative contrast of each lesion, constant inside one.
    """

    soft: Tensor
    gain: Tensor


def arrange(pattern: Tensor, tissues: Tensor, chance: Chance) -> Lesions:
    """Place some lesions of a pattern, moved and deformed, into the white matter of a brain."""
    shape = pattern.shape
    points = transform(
        positions(shape, chance.device), random_affine(chance, 12, 0.15, 6, mirror=0.5)
    )
    points += chance.uniform(0, 5) * chance.smooth(3, shape, chance.uniform(14, 40))
    points += chance.uniform(0, 1.2) * chance.smooth(3, shape, chance.uniform(4, 8))
    numbers = sample(pattern[None].float(), points, nearest=True)[0].long()
    count = int(pattern.max())
    share = _white_share(numbers, tissues, count)
    kept = chance.values((count + 1,), 0, 1) < chance.uniform(0.05, 1.0) ** 1.5
    kept &= share > chance.uniform(0.4, 0.8)
    kept[0] = False
    if not bool(kept.any()):
        kept[1:] = share[1:] >= share[1:].max().clamp(min=0.2)
    gains = chance.values((count + 1,), 0.75, 1.25)
    mask = kept[numbers].float()
    soft = blur(mask[None], chance.uniform(0.5, 0.9))[0]
    sharp = chance.uniform(1.0, 1.8)
    soft = ((soft - 0.5) * sharp + 0.5).clamp(0, 1)
    allowed = blur((tissues[WM] + tissues[GM])[None], 0.6)[0].clamp(0, 1)
    weight = blur((mask * gains[numbers])[None], 1.2)[0] / (blur(mask[None], 1.2)[0] + 1e-3)
    return Lesions(soft * allowed, weight)


def _white_share(numbers: Tensor, tissues: Tensor, count: int) -> Tensor:
    """Return which part of each lesion would lie in white matter, ``(count + 1,)``."""
    flat = numbers.flatten()
    size = torch.bincount(flat, minlength=count + 1).clamp(min=1)
    white = torch.bincount(flat, tissues[WM].flatten(), minlength=count + 1)
    return (white / size).to(tissues.dtype)


def plant(scene: Scene, pattern: Tensor, chance: Chance) -> Scene:
    """Return the exam with lesions of a pattern added to its own.

    The contrast is drawn for the exam and varied by lesion and within it: FLAIR above white
    matter, T2w towards CSF, T1w from isointense to dark; some large lesions have a cavity, and
    a rim of slightly bright white matter around them stays unlabelled.
    """
    found = arrange(pattern, scene.tissues, chance)
    texture = 1 + chance.uniform(0, 0.3) * chance.smooth(1, found.soft.shape, 3.5)[0]
    amount = found.soft * found.gain * texture.clamp(0.4, 1.6)
    rim = 0.0 * amount
    if chance.happens(0.6):
        wide = blur(found.soft[None], chance.uniform(2, 5))[0]
        rim = wide * (1 - found.soft) * scene.tissues[WM] * chance.uniform(0, 0.35)
    amount = amount + rim
    images = scene.images.clone()
    for c, change in enumerate(_lesion_contrast(scene.levels, chance)):
        if scene.present[c]:
            images[c] += change * amount * (scene.images[c] > 0)
    if chance.happens(0.2):
        core = ((blur(found.soft[None], 2.0)[0] - 0.75) * 4).clamp(0, 1)
        core = core * chance.uniform(0.3, 1.0)
        for c in range(3):
            images[c] += core * (float(scene.levels[c, CSF]) - images[c]) * (scene.images[c] > 0)
    images = images.clamp(min=1) * (scene.images > 0)
    label = torch.maximum(scene.label, found.soft)
    unknown = scene.unknown * (found.soft < 0.5)
    return replace(scene, images=images, label=label, unknown=unknown)


def _lesion_contrast(levels: np.ndarray, chance: Chance) -> tuple[float, float, float]:
    """Return what a lesion adds to each channel, in the channel's own units."""
    white, csf = levels[:, WM], levels[:, CSF]
    grey_over_white = max(0.0, levels[FLAIR, GM] - white[FLAIR])
    flair = white[FLAIR] * chance.uniform(0.24, 0.6) + grey_over_white * chance.uniform(0, 1.2)
    t1w = (csf[T1W] - white[T1W]) * chance.uniform(0.0, 0.6)
    t2w = (csf[T2W] - white[T2W]) * chance.uniform(0.08, 0.55)
    return float(flair), float(t1w), float(t2w)


def deform(scene: Scene, chance: Chance) -> Scene:
    """Return the exam in a head of another size and form, its channels not quite in register."""
    shape = scene.label.shape
    if chance.happens(0.25):
        return mirrored(scene) if chance.happens(0.5) else scene
    points = transform(
        positions(shape, chance.device), random_affine(chance, 12, 0.14, 5, mirror=0.5)
    )
    if chance.happens(0.7):
        points += chance.uniform(0, 4) * chance.smooth(3, shape, chance.uniform(20, 50))
    maps = torch.cat([scene.label[None], scene.unknown[None], scene.tissues])
    maps = sample(maps, points)
    images = torch.stack(
        [sample(scene.images[c : c + 1], _misregister(points, c, chance))[0] for c in range(3)]
    )
    return replace(scene, images=images, label=maps[0], unknown=maps[1], tissues=maps[2:])


def mirrored(scene: Scene) -> Scene:
    """Return the exam with left and right exchanged, nothing interpolated."""
    return replace(
        scene,
        images=scene.images.flip(1),
        label=scene.label.flip(0),
        unknown=scene.unknown.flip(0),
        tissues=scene.tissues.flip(1),
    )


def _misregister(points: Tensor, channel: int, chance: Chance) -> Tensor:
    if channel == FLAIR or not chance.happens(0.6):
        return points
    largest = chance.uniform(0, 1.5)
    return transform(points, random_affine(chance, largest, 0.005 * largest, largest))


def acquire(scene: Scene, chance: Chance, recipe: Recipe) -> Tensor:
    """Return the images as an imperfect scanner and brain extraction give them."""
    images = scene.images
    brain = (images > 0).any(0)
    axis = chance.choice((0.12, 0.13, 0.75)) if chance.happens(recipe.thick) else None
    result = []
    for c in range(3):
        image = images[c : c + 1]
        if not scene.present[c]:
            result.append(image)
            continue
        support = image > 0.5
        if chance.happens(recipe.poor_mask):
            image, support = _other_mask(image, brain, float(scene.levels[c, WM]), chance)
        image = _resolution(image, axis, chance)
        result.append(_intensities(image, support, chance) * support)
    return _cut_top(torch.cat(result), chance, recipe)


def _resolution_with_label(
    image: Tensor, axis: int | None, scene: Scene, chance: Chance
) -> Tensor:
    """Lower the resolution of FLAIR and of the label alike; what vanishes becomes unknown."""
    both = _resolution(torch.cat([image, scene.label[None]]), axis, chance)
    seen = both[1]
    scene.unknown = torch.maximum(scene.unknown, ((scene.label > 0.5) & (seen < 0.4)).float())
    scene.label = (seen + 0.1).clamp(max=1)
    return both[:1]


def _resolution(image: Tensor, axis: int | None, chance: Chance) -> Tensor:
    if chance.happens(0.4):
        image = blur(image, chance.uniform(0.35, 1.0))
    if axis is not None and chance.happens(0.8):
        thickness = 2 + chance.integer(4)
        image = thick_slices(
            image, axis, thickness, chance.uniform(0, 0.3), chance.integer(thickness)
        )
    return image


def _intensities(image: Tensor, support: Tensor, chance: Chance) -> Tensor:
    """Bias field, gamma, texture and noise."""
    top = float(image.max().clamp(min=1))
    image = (image / top).clamp(0, 1)
    middle = float(image[support].median()) if bool(support.any()) else 0.5
    if chance.happens(0.5):
        image = image ** chance.uniform(0.75, 1.35)
    if chance.happens(0.6):
        field = chance.smooth(1, image.shape[1:], chance.uniform(50, 120))
        image = image * torch.exp(chance.uniform(0, 0.2) * field)
    if chance.happens(0.7):
        level = middle * chance.uniform(0.0, 0.05)
        grain = chance.noise(image.shape)
        if chance.happens(0.5):
            grain = blur(grain, chance.uniform(0.4, 0.9)) * 2
        image = image + level * grain
    return image.clamp(min=1e-3) * support


def _other_mask(
    image: Tensor, brain: Tensor, white: float, chance: Chance
) -> tuple[Tensor, Tensor]:
    """Return an image whose brain mask is tighter or wider than it was, and its support."""
    shape = image.shape[1:]
    soft = blur((image > 0.5).float(), chance.uniform(1.5, 4.0))
    soft = soft + 0.08 * chance.smooth(1, shape, chance.uniform(8, 25))
    if chance.happens(0.6):
        return image, (image > 0.5) & (soft > chance.uniform(0.45, 0.85))
    wide = soft > chance.uniform(0.12, 0.45)
    ring = wide & (image <= 0.5)
    level = white * chance.uniform(0.1, 1.5)
    filling = level * (1 + 0.35 * chance.smooth(1, shape, chance.uniform(2, 6))).clamp(0.05, 2)
    return torch.where(ring, filling, image), wide | (image > 0.5)


def _cut_top(images: Tensor, chance: Chance, recipe: Recipe) -> Tensor:
    """Lose the vertex or the base, as a field of view does that was set too low or too high."""
    for end in (1, -1):
        if chance.happens(0.12 * (recipe.poor_mask > 0)):
            height = torch.nonzero((images > 0).any(0).any(0).any(0)).flatten()
            if height.numel() < 40:
                continue
            lost = 2 + chance.integer(28)
            if end == 1:
                images[..., int(height[-1]) - lost :] = 0
            else:
                images[..., : int(height[0]) + lost] = 0
    return images


def drop_channels(scene: Scene, chance: Chance, recipe: Recipe) -> None:
    """Forget T1w or T2w or both, in place."""
    for c, probability in ((T1W, recipe.drop_t1w), (T2W, recipe.drop_t2w)):
        if scene.present[c] and chance.happens(probability):
            scene.present[c] = False
        if not scene.present[c]:
            scene.images[c] = 0


def finish(scene: Scene, normalisation: str) -> Sample:
    """Return the exam normalised, with a sharp label inside the brain."""
    brain = (scene.images != 0).any(0)
    images = torch.stack([normalise(image, brain, normalisation) for image in scene.images])
    label = (scene.label > 0.5) & brain
    weight = brain.float() * (scene.unknown < 0.25)
    return Sample(images, label, weight, brain)


def normalise(image: Tensor, brain: Tensor, method: str) -> Tensor:
    """Do what `mslesseg_app.inference.normalise.normalise` does, on any device, in float32.

    An empty image stays empty, because here a missing channel is normal.
    """
    seen = brain & (image != 0)
    values = image[seen]
    if values.numel() < 2:
        return torch.zeros_like(image)
    if method == 'zscore':
        centre, scale = values.mean(), values.std(correction=0)
    else:
        centre = _median(values)
        scale = _MAD_TO_SD * _median((values - centre).abs())
    return torch.where(seen, (image - centre) / scale.clamp(min=1e-8), torch.zeros_like(image))


def _median(values: Tensor) -> Tensor:
    """Return the median, the mean of the two middle values as NumPy does."""
    ordered = values.sort().values
    middle = ordered.numel() // 2
    if ordered.numel() % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def patch_starts(
    sample_: Sample, size: Sequence[int], count: int, chance: Chance, on_lesion: float = 0.7
) -> list[tuple[int, int, int]]:
    """Choose patches: around a lesion voxel with probability `on_lesion`, else in the brain."""
    starts = []
    lesion = torch.nonzero(sample_.label & (sample_.weight > 0))
    brain = torch.nonzero(sample_.brain[::4, ::4, ::4]) * 4
    for _ in range(count):
        pool = lesion if lesion.shape[0] and chance.happens(on_lesion) else brain
        centre = (
            pool[chance.pick(pool)].tolist()
            if pool.shape[0]
            else [n // 2 for n in sample_.label.shape]
        )
        start = []
        for c, edge, full in zip(centre, size, sample_.label.shape, strict=True):
            off = c - edge // 2 + round(chance.uniform(-0.25, 0.25) * edge)
            start.append(min(max(off, 0), full - edge))
        starts.append((start[0], start[1], start[2]))
    return starts
