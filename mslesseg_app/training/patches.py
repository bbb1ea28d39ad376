"""Batches of patches on MONAI's datasets and transforms, the same whatever reads them.

What a patch looks like follows from the seed, the epoch and its place in the epoch, and from
nothing else: not from the number of worker processes, nor from what was drawn before. So a
training that goes on at an epoch draws what an uninterrupted one draws, and several processes
draw together what one alone draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from monai.data.dataset import PersistentDataset
from monai.data.meta_obj import set_track_meta
from monai.data.utils import pickle_hashing
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import (
    RandCropByPosNegLabeld,
    RandSpatialCropSamplesd,
    SpatialPadd,
)
from monai.transforms.intensity.dictionary import NormalizeIntensityd
from monai.transforms.spatial.dictionary import RandFlipd, RandRotate90d
from monai.transforms.transform import MapTransform, RandomizableTransform, Transform
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mslesseg_app.core.errors import MSLesSegError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.prediction.layout import brain_box
from mslesseg_app.training.cases import LabelledCase, load_case
from mslesseg_app.training.plan import Plan, Triple

Key = tuple[int, int, int]
"""Epoch, place in the epoch, and number of the case."""

_KEYS = ('image', 'label', 'weight')


class TrainingDataset(Protocol):
    """Where batches come from."""

    @property
    def files(self) -> list[str]:
        """Names of all that may be drawn from."""

    @property
    def steps(self) -> int:
        """Steps of an epoch."""

    def __len__(self) -> int:
        """Return the number of cases."""

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        """Return the patches of one draw: image (P, C, …), label and weight (P, 1, …)."""


def position_seed(seed: int, epoch: int, place: int) -> int:
    """Return the seed of one draw."""
    return int(np.random.SeedSequence([seed, epoch, place]).generate_state(1)[0])


def steps_of(plan: Plan, count: int) -> int:
    """Return the steps of an epoch over so many cases."""
    return plan.steps_per_epoch or max(1, count // plan.batch)


class EpochOrder(Sampler[Key]):
    """The draws of one process in one epoch, in order.

    Cases come in random order, each once before any comes again. Of each step every process
    takes its part of the batch.

    Parameters
    ----------
    plan : Plan
    count : int
        Cases.
    rank, world : int
        Number of this process, and of all.
    """

    def __init__(self, plan: Plan, count: int, rank: int = 0, world: int = 1) -> None:
        self.plan, self.count, self.rank, self.world = plan, count, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return steps_of(self.plan, self.count) * (self.plan.batch // self.world)

    def __iter__(self) -> Iterator[Key]:
        plan = self.plan
        draws = steps_of(plan, self.count) * plan.batch
        # one long row of shuffled rounds, so that short epochs see every case in turn
        start = self.epoch * draws
        for place in range(draws):
            if place % plan.batch % self.world != self.rank:
                continue
            turn, index = divmod(start + place, self.count)
            order = np.random.default_rng([plan.seed, turn]).permutation(self.count)
            yield self.epoch, place, int(order[index])


# --------------------------------------------------------------------------- exams as they are


@contextmanager
def our_errors() -> Iterator[None]:
    """Raise the error of ours that MONAI wrapped in one of its own."""
    try:
        yield
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MSLesSegError):
                raise cause from error
            cause = cause.__cause__
        raise


class ReadCase(Transform):
    """Read a case, normalise it as the App does, and cut it to the brain.

    Parameters
    ----------
    entry : ModelEntry
    crop : {'brain', 'multiples', 'grid'}
        As in `Plan`.
    margin : int
        Voxels around the brain.
    multiple : three ints
        For ``multiples``.
    """

    def __init__(
        self, entry: ModelEntry, crop: str = 'brain', margin: int = 4, multiple: Triple = (1, 1, 1)
    ) -> None:
        self.entry, self.crop, self.margin, self.multiple = entry, crop, margin, multiple

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return image (C, …), label and weight (1, …) of the box."""
        case = LabelledCase(
            item['name'],
            item['subject'],
            {name: Path(path) for name, path in item['images'].items()},
            Path(item['mask']),
            Path(item['brain']) if item['brain'] else None,
        )
        loaded = load_case(case, self.entry)
        arrays = (loaded.channels, loaded.mask[None], loaded.brain[None])
        cut = self._cutter(loaded.brain | loaded.mask)
        return {
            name: torch.from_numpy(cut(array)) for name, array in zip(_KEYS, arrays, strict=True)
        }

    def _cutter(self, shown: npt.NDArray[np.bool_]) -> Callable[[npt.NDArray[Any]], Any]:
        """Return what cuts arrays (C, X, Y, Z) to the box around what is shown."""
        if self.crop == 'grid':
            return np.ascontiguousarray
        box = brain_box(shown, self.margin)
        if self.crop == 'brain':
            return lambda array: np.ascontiguousarray(array[(slice(None), *box)])
        return lambda array: grown(array, box, self.multiple)


def grown(
    array: npt.NDArray[Any], box: tuple[slice, slice, slice], multiple: Triple
) -> npt.NDArray[Any]:
    """Cut an array (C, X, Y, Z) to a box grown evenly to multiples; zeros beyond the array.

    As MONAI's ``CropForeground`` with ``k_divisible``.
    """
    spans: list[slice] = [slice(None)]
    around = [(0, 0)]
    for part, step, length in zip(box, multiple, array.shape[1:], strict=True):
        edge = -(-(part.stop - part.start) // step) * step
        low = part.start - (edge - (part.stop - part.start)) // 2
        spans.append(slice(max(0, low), min(length, low + edge)))
        around.append((max(0, -low), max(0, low + edge - length)))
    return np.pad(array[tuple(spans)], around)


class RandomIntensity(RandomizableTransform, MapTransform):
    """Multiply by 1 + U(-scale, scale), add U(-shift, shift), each with a probability.

    Parameters
    ----------
    keys
    prob, scale, shift : float
        Whether it is multiplied and whether it is added are two independent draws.
    keep_background : bool
        Zeros stay zero.
    per_slice : bool
        Draw both for each slice across the second axis and each channel.
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        prob: float,
        scale: float,
        shift: float,
        keep_background: bool,
        per_slice: bool,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.prob = prob
        self.scale, self.shift = scale, shift
        self.keep_background, self.per_slice = keep_background, per_slice

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Change the images."""
        result = dict(data)
        widths = [w if self.R.random() < self.prob else 0.0 for w in (self.scale, self.shift)]
        if not any(widths):
            return result
        for key in self.keys:
            image = result[key]
            shape = (image.shape[0], 1, image.shape[2], 1) if self.per_slice else (1,) * image.ndim
            factor, offset = (
                torch.from_numpy(np.asarray(self.R.uniform(-w, w, shape), dtype=np.float32))
                for w in widths
            )
            new = image * (1 + factor) + offset
            result[key] = torch.where(image == 0, image, new) if self.keep_background else new
        return result


class RandomDrop(RandomizableTransform, MapTransform):
    """Empty some channels, each with a probability.

    Parameters
    ----------
    keys
    rates : sequence of float
        One a channel.
    """

    def __init__(self, keys: Sequence[Hashable], rates: Sequence[float]) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.rates = tuple(rates)

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """Empty channels."""
        result = dict(data)
        kept = [float(self.R.random() >= rate) for rate in self.rates]
        for key in self.keys:
            image = result[key]
            result[key] = image * torch.tensor(kept).reshape(-1, *(1,) * (image.ndim - 1))
        return result


def random_transforms(plan: Plan) -> Compose:
    """Return what is done to a case at random, for the settings of a plan."""
    steps: list[Any] = [SpatialPadd(_KEYS, plan.patch)]
    if plan.on_lesion is None:
        steps.append(RandSpatialCropSamplesd(_KEYS, plan.patch, plan.patches, random_size=False))
    else:
        # the tiny addition keeps "all" and "none" within what MONAI accepts
        steps.append(
            RandCropByPosNegLabeld(
                _KEYS,
                'label',
                plan.patch,
                pos=plan.on_lesion,
                neg=1 - plan.on_lesion,
                num_samples=plan.patches,
                image_key='weight',
            )
        )
    if plan.flip:
        steps += [RandFlipd(_KEYS, plan.flip, axis) for axis in range(3)]
    if plan.rotate:
        steps.append(RandRotate90d(_KEYS, plan.rotate))
    if plan.statistics == 'patch':
        steps.append(NormalizeIntensityd('image', nonzero=True, channel_wise=True))
    if plan.jitter and (plan.scale or plan.shift):
        kept = plan.background == 'kept'
        steps.append(
            RandomIntensity(['image'], plan.jitter, plan.scale, plan.shift, kept, plan.per_slice)
        )
    if plan.drop:
        rates = [0.0 if name in plan.required else plan.drop for name in plan.channels]
        steps.append(RandomDrop(['image'], rates))
    return Compose(steps)


class Cases(Dataset[dict[str, Tensor]]):
    """Cases that patches are drawn from: what is the same however they are drawn."""

    def __init__(self, cases: Sequence[LabelledCase], plan: Plan) -> None:
        self.cases, self.plan = tuple(cases), plan

    @property
    def files(self) -> list[str]:
        """Names of the cases."""
        return [case.name for case in self.cases]

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return steps_of(self.plan, len(self))

    def __len__(self) -> int:
        return len(self.cases)


class CaseDataset(Cases):
    """Patches of exams as they are.

    Parameters
    ----------
    cases : sequence of LabelledCase
    plan : Plan
    entry : ModelEntry
        Description of the model in the making: how images are normalised.
    cache : Path
        Folder of what was read and normalised, shared by runs.
    judged : bool
        For exams that are judged, not trained on: cut as the windows of the validation need it.
    """

    def __init__(
        self,
        cases: Sequence[LabelledCase],
        plan: Plan,
        entry: ModelEntry,
        cache: Path,
        judged: bool = False,
    ) -> None:
        super().__init__(cases, plan)
        read = _reader(plan, entry, judged)
        items = [_item(case, read) for case in cases]
        self.read = PersistentDataset(
            items, read, cache, hash_func=pickle_hashing, weights_only=True
        )
        self.change = random_transforms(plan)

    def prepare(self) -> Iterator[str]:
        """Read every case into the cache and yield its name; an unfit one is an error."""
        for index, case in enumerate(self.cases):
            with our_errors():
                self.read[index]
            yield case.name

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        """Return the patches of one draw."""
        epoch, place, index = key
        set_track_meta(False)
        item = {name: tensor.float() for name, tensor in self.read[index].items()}
        self.change.set_random_state(seed=position_seed(self.plan.seed, epoch, place))
        found: Any = self.change(item)
        return {name: torch.stack([one[name] for one in found]) for name in _KEYS}


def _reader(plan: Plan, entry: ModelEntry, judged: bool) -> ReadCase:
    if judged:
        return ReadCase(entry, 'grid' if plan.validation.get('crop') is False else 'brain')
    return ReadCase(entry, plan.crop, plan.margin, plan.patch)


def _item(case: LabelledCase, read: ReadCase) -> dict[str, Any]:
    """Return what a cached case depends on."""
    entry = read.entry
    box: list[Any] = [read.crop]
    if read.crop != 'grid':
        box += [read.margin, *(read.multiple if read.crop == 'multiples' else ())]
    stamps = [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in case.files if p.exists()]
    return {
        'name': case.name,
        'subject': case.subject,
        'images': {name: str(path) for name, path in case.images.items()},
        'mask': str(case.mask),
        'brain': str(case.brain or ''),
        'depends': json.dumps([stamps, entry.channels, entry.normalisation, box]),
    }


def collate(draws: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the patches of several draws."""
    return {name: torch.cat([draw[name] for draw in draws]) for name in _KEYS}
