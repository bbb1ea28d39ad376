"""Patches for a guided network: real exams and planted lesions, drawn in the scale of the tissues.

The channels of a guided network (`mslesseg_app.models.guide`) are on the scale of each exam's own
tissues. So a lesion can be planted right there, into a patch, in deviations of white matter: a
patch costs a few hundredths of a second on one core, where a whole synthetic exam with its fits
takes many seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mslesseg_app.errors import NoInputError
from mslesseg_app.models.guide import FLAIR, GUIDES, MIRRORED, T1W, T2W
from mslesseg_app.models.hyperintensity import MIDPLANE
from mslesseg_app.training.data import (
    BOX,
    IGNORE,
    TISSUES,
    GuidedExam,
    Pattern,
    from_box,
    kept_paths,
    read_exam,
    read_guided,
    read_pattern,
    to_box,
    write_guided,
)
from mslesseg_app.training.fields import Chance, blur, positions, random_affine, transform
from mslesseg_app.training.patches import Key, PreparedFeed, place_seed
from mslesseg_app.training.plan import Plan

WHITE, ELSEWHERE = (GUIDES.index(name) for name in ('white', 'elsewhere'))
GREY = TISSUES.index('gm')

TENTORIUM = 50
"""Slice of the box below which grey and white matter lie too close for the template's maps."""

SEEN = 0.5
"""Contrast, in units of FLAIR, from which a planted lesion is labelled; below it is unknown."""


def prepare_guide(path: Path, folder: Path) -> Path:
    """Write the channels of a prepared exam into a folder of prepared files; return the file."""
    from scipy import ndimage

    from mslesseg_app.models.guide import guide_channels, guide_fit, mirrored

    exam = read_exam(path)
    label = exam.label
    images = np.stack([from_box(image) for image in exam.images]).astype(np.float32)
    brain = ndimage.binary_fill_holes((images > 0).any(axis=0))
    present = tuple(bool(p) for p in exam.present)
    fit = guide_fit(images[FLAIR], brain)
    channels = guide_channels(images, brain, present, fit)
    own = from_box(exam.tissues[GREY])
    if (label == IGNORE).any():
        doubt = _doubtful(images, brain, present)
        doubt |= one_sided(channels, brain, (own / 255).astype(np.float32))
        label = to_box(np.where(doubt, IGNORE, 0).astype(np.uint8))
    lesion = ndimage.binary_dilation(from_box(label) > 0)
    grey = np.where(lesion, 0, own).astype(np.float32)
    both = np.stack([to_box(one * brain) for one in (grey, mirrored(grey, fit))])
    boxed = np.stack([to_box(channel * brain) for channel in channels]).astype(np.float16)
    return write_guided(
        folder,
        GuidedExam(
            exam.name, exam.subject, boxed, label, np.asarray(to_box(brain)), both.astype(np.uint8)
        ),
    )


def _doubtful(
    images: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_], present: tuple[bool, ...]
) -> npt.NDArray[np.bool_]:
    """Return where `hyperintensity` sees a lesion, or nearly, in an exam that nobody segmented."""
    from scipy import ndimage

    from mslesseg_app.inference.normalise import normalise
    from mslesseg_app.models.hyperintensity import Constants, Hyperintensity

    channels = np.zeros((2, *brain.shape), np.float32)
    for number in (FLAIR, T1W):
        if present[number]:
            channels[number] = normalise(images[number], brain, 'robust')
    prob = Hyperintensity(Constants())(channels, brain, present[:2])
    return np.asarray(ndimage.binary_dilation(prob >= 0.15, iterations=2))


def one_sided(
    channels: npt.NDArray[np.float32], brain: npt.NDArray[np.bool_], grey: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Return what else may be a lesion: bright spots that the other hemisphere has not.

    Inside the brain, in neither fluid nor the exam's own grey matter; the small lesions that
    `hyperintensity` misses must not be taught as healthy.
    """
    from scipy import ndimage

    flair = channels[FLAIR]
    beyond = ndimage.maximum_filter(channels[MIRRORED], 3)
    spots = (flair > 0.5) & (flair > beyond + 0.3) & (grey < 0.5) & (channels[ELSEWHERE] < 0.5)
    spots &= ndimage.binary_erosion(brain, iterations=3)
    regions, count = ndimage.label(spots, np.ones((3, 3, 3)))
    large = np.bincount(regions.flat, minlength=count + 1) >= 5
    large[0] = False
    return np.asarray(ndimage.binary_dilation(large[regions]))


@dataclass(frozen=True)
class GuidedData:
    """What one training run may see.

    Attributes
    ----------
    exams : tuple of GuidedExam
    patterns : tuple of Pattern
        Lesion masks as a source of shapes and places.
    """

    exams: tuple[GuidedExam, ...]
    patterns: tuple[Pattern, ...]

    @property
    def files(self) -> list[str]:
        """Names of all that was read, for the model card."""
        exams = [f'guide-{exam.name}' for exam in self.exams]
        return exams + [f'lesions-{pattern.name}' for pattern in self.patterns]


def load_guided(folder: Path, leave_out: Sequence[str] = ()) -> GuidedData:
    """Read all subjects but those left out; nothing of the others is opened.

    Parameters
    ----------
    folder : Path
        From ``python -m mslesseg_app.training prepare``.
    leave_out : sequence of str
        Subjects; each must exist, so that a misspelt name cannot leak a test case.

    Raises
    ------
    UsageError
        For a subject that the folder does not know.
    NoInputError
        If nothing is left to train on.
    """
    paths = kept_paths(folder, leave_out)
    exams = [read_guided(path) for path in paths if path.name.startswith('guide-')]
    patterns = tuple(read_pattern(path) for path in paths if path.name.startswith('lesions-'))
    if not exams:
        raise NoInputError(
            f'No exam with the channels of a guided network is left in {folder}.',
            'Leave out fewer subjects, or prepare the folder again.',
        )
    return GuidedData(tuple(exams), patterns)


class GuidedFeed(PreparedFeed):
    """Patches of real and planted lesions.

    Parameters
    ----------
    data : GuidedData
        All that it can ever show.
    plan : Plan
        ``recipe.real`` against ``recipe.planted``: shares of patches of labelled exams as they
        are, and of any exam with planted lesions.
    """

    def __init__(self, data: GuidedData, plan: Plan) -> None:
        super().__init__(data, plan)
        self.labelled = [e for e in data.exams if (e.label == 1).any()]
        self.places = {e.name: np.argwhere(e.label == 1) for e in self.labelled}
        self.inside = {e.name: np.argwhere(e.brain[::4, ::4, ::4]) * 4 for e in data.exams}
        self.bright = {e.name: _bright(e) for e in data.exams}
        self.shapes = {p.name: _by_lesion(p) for p in data.patterns}

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        """Return the patches of one draw."""
        epoch, place, _ = key
        chance = Chance(place_seed(self.plan.seed, epoch, place))
        drawn = [self._draw(chance) for _ in range(self.plan.patches)]
        names = ('image', 'label', 'weight')
        return {name: torch.stack([one[name] for one in drawn]) for name in names}

    @torch.no_grad()
    def _draw(self, chance: Chance) -> dict[str, Tensor]:
        recipe = self.plan.recipe
        shares = (recipe.real if self.labelled else 0.0, recipe.planted)
        planted = bool(self.data.patterns) and any(shares) and bool(chance.choice(shares))
        pool: Sequence[GuidedExam] = self.data.exams
        if not planted and self.labelled and not chance.happens(recipe.unlabelled):
            pool = self.labelled
        exam = pool[chance.integer(len(pool))]
        pattern = self.data.patterns[chance.integer(len(self.data.patterns))] if planted else None
        patch = _cut(exam, self._centre(exam, pattern, chance), self.plan.patch, chance)
        if pattern is not None:
            patch = plant(patch, pattern, chance)
        return finish(patch, chance, self.plan)

    def _centre(self, exam: GuidedExam, pattern: Pattern | None, chance: Chance) -> list[int]:
        near = self.places.get(exam.name)
        if pattern is not None:
            shapes = self.shapes[pattern.name]
            near = shapes[chance.integer(len(shapes))]  # a small lesion as often as a large one
        share = self.plan.on_lesion or 0.0
        if near is None or not len(near) or not chance.happens(share):
            near = self.bright[exam.name] if chance.happens(0.5) else self.inside[exam.name]
        return [int(c) for c in near[chance.integer(len(near))]]


def _by_lesion(pattern: Pattern) -> list[npt.NDArray[np.intp]]:
    """Return the voxels of each lesion."""
    where = np.argwhere(pattern.components > 0)
    numbers = pattern.components[tuple(where.T)]
    return [where[numbers == number] for number in np.unique(numbers)]


def _bright(exam: GuidedExam) -> npt.NDArray[np.intp]:
    """Return voxels that are bright and no lesion, or any of the brain where there are none."""
    found = np.argwhere((exam.channels[FLAIR] > 0.7) & (exam.label == 0) & exam.brain)
    return found if len(found) else np.argwhere(exam.brain)


@dataclass
class Patch:
    """A patch in the making.

    Attributes
    ----------
    channels : (8, x, y, z)
    label, unknown, brain, grey : (x, y, z)
        0 to 1; `grey` is the exam's own grey matter.
    points : (3, x, y, z)
        Voxels of the box that it was read at.
    """

    channels: Tensor
    label: Tensor
    unknown: Tensor
    brain: Tensor
    grey: Tensor
    points: Tensor


def _cut(exam: GuidedExam, centre: Sequence[int], size: Sequence[int], chance: Chance) -> Patch:
    """Read a patch of an exam, turned, scaled and sometimes mirrored."""
    affine = random_affine(chance, 12, 0.1, 0, mirror=0.5)
    affine[:3, :3] *= chance.uniform(0.9, 1.2)
    middle = torch.tensor(centre, dtype=torch.float32)
    middle += torch.tensor([chance.uniform(-0.3, 0.3) * edge for edge in size])
    points = transform(positions(size, torch.device('cpu')).float(), affine)
    points += middle[:, None, None, None]
    # the maps of the template never lie quite right
    shift = torch.tensor([chance.uniform(-2, 2) for _ in range(3)])[:, None, None, None]
    width, cell = chance.uniform(0, 4), chance.uniform(12, 28)
    shift = shift + width * chance.smooth(3, points.shape[1:], cell)
    label = torch.from_numpy(exam.label)
    truth = torch.stack([label == 1, label == IGNORE, torch.from_numpy(exam.brain)])
    read = read_at(truth, points)
    images = read_at(torch.from_numpy(exam.channels[:WHITE]), points)
    maps = read_at(torch.from_numpy(exam.channels[WHITE:MIRRORED]), points + shift)
    other = read_at(torch.from_numpy(exam.channels[MIRRORED:]), points)
    channels = torch.cat([images, maps, other])
    grey = read_at(torch.from_numpy(exam.grey), points) / 255
    if chance.happens(0.7):
        vary_grey(channels, grey, chance)
    return Patch(channels, read[0], read[1], read[2], grey[0], points)


def vary_grey(channels: Tensor, grey: Tensor, chance: Chance) -> None:
    """Change the contrast of grey matter, in place: it differs between scanners and places.

    Without it a network takes the cortex of sharper, or brighter, images for lesions.

    Parameters
    ----------
    channels : (8, x, y, z)
    grey : (2, x, y, z)
        Grey matter here and in the other hemisphere, 0 to 1.
    """
    base, width, cell = chance.uniform(-0.2, 0.6), chance.uniform(0, 0.4), chance.uniform(10, 30)
    for number, here in ((FLAIR, grey[0]), (MIRRORED, grey[1])):
        places = width * chance.smooth(1, here.shape, cell)[0]
        channels[number] += here * (base + places).clamp(-0.4, 1.2)
    for number in (T1W, T2W):
        if bool((channels[number] != 0).any()):
            channels[number] += grey[0] * chance.uniform(-0.12, 0.12)


def read_at(volume: Tensor, points: Tensor, nearest: bool = False) -> Tensor:
    """Read a volume at voxel coordinates, zero outside; only the part around them is converted.

    Parameters
    ----------
    volume : (C, X, Y, Z)
    points : (3, x, y, z)
    nearest : bool
        Nearest neighbour instead of linear interpolation.
    """
    from torch.nn import functional as fn

    shape = volume.shape[1:]
    flat = points.flatten(1)
    low = [max(0, min(int(v) - 1, n - 2)) for v, n in zip(flat.amin(1), shape, strict=True)]
    high = [
        min(n, max(int(v) + 3, a + 2)) for v, n, a in zip(flat.amax(1), shape, low, strict=True)
    ]
    part = volume[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]].float()
    half = torch.tensor([(n - 1) / 2 for n in part.shape[1:]])[:, None, None, None]
    origin = torch.tensor(low, dtype=torch.float32)[:, None, None, None]
    unit = ((points - origin - half) / half).flip(0).permute(1, 2, 3, 0)
    mode = 'nearest' if nearest else 'bilinear'
    return fn.grid_sample(
        part[None], unit[None], mode=mode, padding_mode='zeros', align_corners=True
    )[0]


def plant(patch: Patch, pattern: Pattern, chance: Chance) -> Patch:
    """Return the patch with lesions of a pattern, moved and deformed, in its white matter.

    Contrast is drawn for the patch and varied by lesion and within it, in the units of the
    channels. A rim of slightly bright white matter may stay unlabelled, large lesions may have a
    cavity, and what is too faint to be seen becomes unknown.
    """
    shape = patch.label.shape
    middle = patch.points.flatten(1).mean(1)[:, None, None, None]
    moved = transform(patch.points - middle, random_affine(chance, 15, 0.2, 5)) + middle
    moved += chance.uniform(0, 2.5) * chance.smooth(3, shape, chance.uniform(8, 24))
    numbers = read_at(torch.from_numpy(pattern.components)[None], moved, nearest=True)[0].long()
    if not bool(numbers.any()):
        return patch
    allowed = 1 - 0.9 * (patch.channels[FLAIR] < -1.2).float()
    soft, amount = _shaped(numbers, _kept(numbers, patch, chance), chance)
    amount = amount * blur(allowed[None], 0.6)[0]
    strength = chance.uniform(0.7, 2.1)
    channels = _brighten(patch.channels.clone(), soft, amount, strength, chance)
    if chance.happens(0.6):
        _plant_beyond(channels, pattern, moved, strength, chance)
    contrast = strength * amount * (patch.brain > 0.5)
    label = torch.maximum(patch.label, (soft > 0.5).float() * (contrast > SEEN).float())
    doubt = ((soft > 0.5) & (contrast <= SEEN)).float()
    unknown = torch.maximum(patch.unknown * (label < 0.5).float(), doubt)
    return replace(patch, channels=channels, label=label, unknown=unknown)


def _kept(numbers: Tensor, patch: Patch, chance: Chance) -> Tensor:
    """Choose lesions that lie in white matter, or below the tentorium; a bool for each number."""
    flat, count = numbers.flatten(), int(numbers.max()) + 1
    below = patch.points[2] < TENTORIUM
    white = patch.channels[WHITE] * (1 - patch.grey)
    fits = torch.where(below, 1 - patch.channels[ELSEWHERE], white) * patch.brain
    size = torch.bincount(flat, minlength=count).clamp(min=1)
    share = torch.bincount(flat, fits.flatten(), minlength=count) / size
    kept = (share > chance.uniform(0.2, 0.7)) & (
        chance.values((count,), 0, 1) < chance.uniform(0.3, 1.2)
    )
    kept[0] = False
    return kept


def _shaped(numbers: Tensor, kept: Tensor, chance: Chance) -> tuple[Tensor, Tensor]:
    """Return how much of each voxel is lesion, and how strong it is there."""
    mask = kept[numbers].float()
    soft = _blurred(mask, chance)
    gains = chance.values((len(kept),), 0.7, 1.3)
    gain = blur((mask * gains[numbers])[None], 1.2)[0] / (blur(mask[None], 1.2)[0] + 1e-3)
    texture = 1 + chance.uniform(0, 0.3) * chance.smooth(1, mask.shape, 3.5)[0]
    return soft, soft * gain * texture.clamp(0.4, 1.6)


def _plant_beyond(
    channels: Tensor, pattern: Pattern, moved: Tensor, strength: float, chance: Chance
) -> None:
    """Add lesions to the other hemisphere, in place: those of the pattern, and no label."""
    across = moved.clone()
    across[0] = 2 * (MIDPLANE - BOX[0].start) - across[0]
    numbers = read_at(torch.from_numpy(pattern.components)[None], across, nearest=True)[0].long()
    if not bool(numbers.any()):
        return
    kept = chance.values((int(numbers.max()) + 1,), 0, 1) < chance.uniform(0.2, 0.8)
    kept[0] = False
    soft, amount = _shaped(numbers, kept, chance)
    channels[MIRRORED] *= 1 - 0.5 * soft
    channels[MIRRORED] += strength * amount * channels[WHITE]


def _blurred(mask: Tensor, chance: Chance) -> Tensor:
    """Return how much of a voxel is lesion: partial volume, and often thick slices."""
    soft = blur(mask[None], chance.uniform(0.5, 0.9))[0]
    soft = ((soft - 0.5) * chance.uniform(1.0, 1.8) + 0.5).clamp(0, 1)
    if chance.happens(0.5):
        axis = chance.choice((0.15, 0.15, 0.7))
        width = 2 * round(chance.uniform(0.6, 2.4)) + 1
        kernel = [1, 1, 1]
        kernel[axis] = width
        pad = [width // 2 if k > 1 else 0 for k in kernel]
        soft = torch.nn.functional.avg_pool3d(
            soft[None, None], kernel, 1, pad, count_include_pad=False
        )[0, 0]
    return soft


def _brighten(
    channels: Tensor, soft: Tensor, amount: Tensor, strength: float, chance: Chance
) -> Tensor:
    """Add lesions to the images, in place."""
    channels[FLAIR] *= 1 - 0.5 * soft
    channels[FLAIR] += strength * amount
    if chance.happens(0.5):
        rim = blur(soft[None], chance.uniform(2, 5))[0] * (1 - soft) * channels[WHITE]
        channels[FLAIR] += rim * chance.uniform(0, 0.5)
    dark, bright = chance.uniform(0.0, 0.7), chance.uniform(0.15, 1.0)
    if bool((channels[T1W] != 0).any()):
        channels[T1W] -= dark * amount
    if bool((channels[T2W] != 0).any()):
        channels[T2W] += bright * amount
    if chance.happens(0.15):
        core = ((blur(soft[None], 2.0)[0] - 0.75) * 4).clamp(0, 1) * chance.uniform(0.3, 1.0)
        for number, fluid in ((FLAIR, -2.0), (T1W, -1.0), (T2W, 1.0)):
            if bool((channels[number] != 0).any()):
                channels[number] += core * (fluid - channels[number])
    return channels


def finish(patch: Patch, chance: Chance, plan: Plan) -> dict[str, Tensor]:
    """Vary scale, offset, sharpness and noise of the images, and empty some."""
    brain = (patch.brain > 0.5).float()
    for number, width, shift in ((FLAIR, 0.3, 0.15), (T1W, 0.35, 0.1), (T2W, 0.35, 0.1)):
        image = patch.channels[number]
        if not bool((image != 0).any()):
            continue
        if chance.happens(0.3):
            image = blur(image[None], chance.uniform(0.4, 0.9))[0]
        elif chance.happens(0.5):
            image = image + chance.uniform(0.2, 1.2) * (image - blur(image[None], 1.0)[0])
        factor, offset = 1 + chance.uniform(-width, width), chance.uniform(-shift, shift)
        image = image * factor + offset
        if number == FLAIR:
            patch.channels[MIRRORED] = patch.channels[MIRRORED] * factor + offset
        image += chance.uniform(0, 0.15) * chance.smooth(1, image.shape, chance.uniform(20, 60))[0]
        if chance.happens(0.6):
            image += chance.uniform(0, 1.2 * shift) * chance.noise(image.shape)
        patch.channels[number] = image
    for number, probability in ((T1W, plan.recipe.drop_t1w), (T2W, plan.recipe.drop_t2w)):
        if chance.happens(probability):
            patch.channels[number] = 0
    weight = brain * (patch.unknown < 0.25)
    label = ((patch.label > 0.5) & (brain > 0)).float()
    return {'image': patch.channels * brain, 'label': label[None], 'weight': weight[None]}
