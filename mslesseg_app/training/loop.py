"""The training loop: batches in, a judged network out, and nothing lost on the way.

It is a loop of our own rather than an engine of pytorch-ignite because what matters here lies
between the lines of an engine: a step that runs out of memory is repeated in smaller parts, one
without finite gradient is skipped on all processes alike, a run that diverges returns to its last
checkpoint with half the rate, and the state at the end of an epoch, random numbers included, is
all that the next epoch depends on. Data sets, transforms and losses are MONAI's.

An epoch is the unit of everything that is kept: a crash loses at most one.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mslesseg_app.core.errors import BusyError, DataError, MSLesSegError, UsageError
from mslesseg_app.core.files import atomic_path, write_json
from mslesseg_app.models.networks import build, get_spec
from mslesseg_app.models.networks.spec import AUXILIARY
from mslesseg_app.models.prediction.windows import free_memory, is_out_of_memory
from mslesseg_app.training.distributed import World
from mslesseg_app.training.objectives import Objective
from mslesseg_app.training.patches import EpochOrder, TrainingDataset, collate
from mslesseg_app.training.plan import Plan, rate_factor
from mslesseg_app.training.progress import Counts, Smoothed, TrainingProgress, Validator
from mslesseg_app.training.random_state import (
    isolated_random_state,
    random_state,
    set_random_state,
)
from mslesseg_app.training.tracking import Tracker

CHECKPOINT = 'checkpoint.pt'
BEST = 'best.safetensors'
RUN = 'run.json'

MOST_BAD_STEPS = 10
"""Steps in a row without finite gradient after which the run returns to its checkpoint."""
MOST_RETURNS = 3
"""Returns after which it stops."""


class Trainer:
    """One training run in one folder; a second call goes on where the first one stopped.

    Parameters
    ----------
    folder : Path
        Holds the checkpoint, the best weights, ``log.csv`` and ``run.json``.
    plan : Plan
    dataset : TrainingDataset
        Where batches come from.
    validator : Validator, optional
        Judges validation exams; without it the last weights are kept.
    world : World
        This process among all.
    loaders : int
        Worker processes that read batches; they change nothing but speed.
    start : mapping of str to Tensor, optional
        Weights to start from instead of random ones.
    identity : mapping
        What else decides the result (data, split), for the run's record.

    Raises
    ------
    UsageError
        If the folder holds a run with other settings or other data, or the batch cannot be
        divided among the processes.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        dataset: TrainingDataset,
        validator: Validator | None = None,
        world: World | None = None,
        loaders: int = 0,
        start: Mapping[str, Tensor] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.plan, self.dataset = folder, plan, dataset
        self.validator = validator if validator is not None and len(validator) else None
        self.world = world or World()
        self.device = self.world.device
        if plan.batch % self.world.size:
            raise UsageError(
                f'A batch of {plan.batch} exams cannot be divided among {self.world.size} '
                'processes.',
                f'Use --set batch={self.world.size} or a multiple of it.',
            )
        self.identity = {
            'plan': plan.to_dict(),
            'files': dataset.files,
            'processes': self.world.size,
            **(identity or {}),
        }
        self._seed()
        self.network = build(plan.architecture, len(plan.channels), plan.options)
        if plan.first_probability:
            _expect_rare(self.network, plan.first_probability)
        if start is not None:
            self._start_from(start)
        # up to a third less time on a CPU, where layers have few channels
        self.layout = torch.channels_last_3d if self.device == 'cpu' else torch.contiguous_format
        network: Any = self.network.to(self.device)
        network.to(memory_format=self.layout)
        self.objective = Objective(self.network, plan, self._autocast())
        self.optimizer = _optimizer(self.network, plan)
        half = self.objective.autocast == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.split(':')[0], enabled=half)
        self.smoothed = Smoothed(self.network, plan.ema)
        self.order = EpochOrder(plan, len(dataset), self.world.rank, self.world.size)
        self.loader = self._loader(loaders)
        self.progress = TrainingProgress(parts=plan.accumulate)
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).is_file():
            self.resume()
        if self.world.first:
            write_json(folder / RUN, self.identity)
        self.wrapped = self._wrapped()

    # ------------------------------------------------------------------------- making

    def _seed(self) -> None:
        """Seed all generators: equal weights on all processes, then numbers of their own."""
        seed = self.plan.seed
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # of libraries
        torch.manual_seed(seed)

    def _start_from(self, start: Mapping[str, Tensor]) -> None:
        own = self.network.state_dict()
        fitting = {k: v for k, v in start.items() if k in own and v.shape == own[k].shape}
        if len(fitting) < len(start):
            raise UsageError(
                'The weights to start from are those of another network.',
                'Choose the network, and the options, that they were trained with.',
            )
        self.network.load_state_dict({k: v.to(own[k]) for k, v in fitting.items()}, strict=False)

    def _autocast(self) -> torch.dtype | None:
        name = self.plan.precision
        if name == 'auto':
            name = 'bfloat16' if self.device.startswith('cuda') else 'float32'
        return {'bfloat16': torch.bfloat16, 'float16': torch.float16}.get(name)

    def _wrapped(self) -> nn.Module:
        torch.manual_seed(self.plan.seed + 1_000_003 * self.world.rank)
        if self.progress.epoch:
            self._set_random_state()
        if self.world.size == 1:
            return self.objective
        devices = [int(self.device.split(':')[1])] if self.device != 'cpu' else None
        return DistributedDataParallel(
            self.objective,
            device_ids=devices,
            find_unused_parameters=not get_spec(self.plan.architecture).all_used,
        )

    def _loader(self, count: int) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_size=self.plan.batch // self.world.size,
            sampler=self.order,
            collate_fn=collate,
            num_workers=count,
            persistent_workers=count > 0,
            generator=torch.Generator(),  # or it would draw from the one that is kept
            pin_memory=self.device.startswith('cuda') and count > 0,
        )

    # ------------------------------------------------------------------------ training

    def train(self, tracker: Tracker | None = None, minutes: float = math.inf) -> bool:
        """Train until the plan, the patience or the time is over.

        Parameters
        ----------
        tracker : Tracker, optional
        minutes : float
            Begin no epoch that would probably end after this time; the next call goes on.

        Returns
        -------
        bool
            Whether the training is complete.

        Raises
        ------
        MSLesSegError
            If it diverges again and again, or not even one patch fits the memory.
        """
        began, longest = time.monotonic(), 0.0
        tracker = tracker or Tracker(self.folder, quiet=True)
        steps = self.dataset.steps
        tracker.begin(self.plan.epochs * steps, self.progress.epoch * steps)
        while not self.complete:
            start = time.monotonic()
            if self._agree(start - began + longest > 60 * minutes):
                return False
            if self._epoch(tracker):
                longest = max(longest, time.monotonic() - start)
        return True

    @property
    def complete(self) -> bool:
        """Whether the plan, or the patience, is over."""
        patience = self.plan.patience
        tired = bool(patience) and self.progress.unimproved >= patience
        return tired or self.progress.epoch >= self.plan.epochs

    def _agree(self, over: bool) -> bool:
        """Whether the first process says so."""
        return bool(self.world.gather(over)[0])

    def _epoch(self, tracker: Tracker) -> bool:
        """Do one epoch, validate and save; False if the run returned to its checkpoint."""
        progress = self.progress
        start = time.monotonic()
        counts = self._steps(tracker)
        if counts is None:
            self._return(tracker)
            return False
        progress.epoch += 1
        dsc = self._validate()
        progress.seconds += time.monotonic() - start
        best = self._note_best(dsc)
        progress.history.append(self._log_row(counts, dsc, best))
        if best and self.world.first:
            self._write_weights(self.folder / BEST)
        self.save()
        if self.world.first:
            tracker.epoch(progress.history)
        return True

    def _steps(self, tracker: Tracker) -> Counts | None:
        """Do the steps of an epoch; None if too many in a row had no finite gradient."""
        self.order.epoch = self.progress.epoch
        self.wrapped.train()
        counts = Counts()
        last = time.monotonic()
        for number, batch in enumerate(self._batches()):
            counts.waiting += time.monotonic() - last
            self._set_rate(number)
            loss, norm = self.train_step(batch)
            if self.progress.bad >= MOST_BAD_STEPS:
                return None
            counts.note(loss, norm)
            tracker.step(self.progress.epoch, loss)
            last = time.monotonic()
        return counts

    def _log_row(self, counts: Counts, dsc: float | None, best: bool) -> dict[str, Any]:
        """Return the row of the log."""
        progress = self.progress
        mean = self.world.mean(counts.loss / max(1, counts.finite))
        return {
            'epoch': progress.epoch,
            'steps': progress.step,
            'loss': f'{mean:.6g}',
            'learning_rate': f'{self.optimizer.param_groups[0]["lr"]:.4g}',
            'gradient_norm': f'{counts.norm:.4g}',
            'skipped': counts.skipped,
            'rate_scale': f'{0.5**progress.returns:g}',
            'dsc': '' if dsc is None else f'{dsc:.6g}',
            'best': int(best),
            'seconds': f'{progress.seconds:.1f}',
            'waiting': f'{counts.waiting:.1f}',
        }

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.loader:
            yield {
                name: tensor.to(self.device, memory_format=self.layout)
                for name, tensor in batch.items()
            }

    def _set_rate(self, number: int) -> None:
        factor = rate_factor(self.plan, self.progress.epoch, number, self.dataset.steps)
        rate = self.plan.learning_rate * factor * 0.5**self.progress.returns
        if self.plan.schedule == 'poly':
            rate = round(rate, 8)
        for group in self.optimizer.param_groups:
            group['lr'] = rate

    def train_step(self, batch: Mapping[str, Tensor]) -> tuple[float, float]:
        """Do one step and return its loss and the norm of its gradient.

        A step whose gradient is not finite changes nothing but the count of such steps.
        """
        loss = self._gradients(batch)
        self.scaler.unscale_(self.optimizer)
        limit = self.plan.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), limit))
        self.progress.step += 1
        self.scaler.step(self.optimizer) if math.isfinite(norm) else self.optimizer.zero_grad()
        self.scaler.update()
        if math.isfinite(norm):
            self.smoothed.update(self.network, self.progress.step)
            self.progress.bad = 0
        else:
            self.progress.bad += 1
        return loss, norm

    def _gradients(self, batch: Mapping[str, Tensor]) -> float:
        """Leave the gradients of a batch, in as many parts as memory asks for."""
        while True:
            try:
                return self._in_parts(batch, min(self.progress.parts, len(batch['image'])))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._smaller_parts(len(batch['image']))
            free_memory()

    def _in_parts(self, batch: Mapping[str, Tensor], parts: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        count = len(batch['image'])
        total = 0.0
        chunks = [torch.tensor_split(batch[name], parts) for name in ('image', 'label', 'weight')]
        for number, (image, label, weight) in enumerate(zip(*chunks, strict=True)):
            share = len(image) / count
            with self._no_exchange(number < parts - 1):
                part = self.wrapped({'image': image, 'label': label, 'weight': weight})
                self.scaler.scale(part * share).backward()
            total += float(part.detach()) * share
        return total

    def _no_exchange(self, later: bool) -> AbstractContextManager[Any]:
        """Exchange gradients among processes with the last part only."""
        if later and isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return nullcontext()

    def _smaller_parts(self, count: int) -> None:
        """Take half of the patches at a time from now on."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.progress.parts
        if self.world.size > 1 or parts >= count:
            edges = ' x '.join(map(str, self.plan.patch))
            raise BusyError(
                f'{self.device} has too little memory for a step with patches of {edges} voxels.',
                'Use smaller parts or patches: --set accumulate=N, --set patch=N, or a smaller '
                'network by --set options.…; the run goes on from its last epoch where only '
                'accumulate changes.',
            )
        self.progress.parts = min(count, 2 * parts)

    def _return(self, tracker: Tracker) -> None:
        """Go back to the last checkpoint with half the rate."""
        returns = self.progress.returns + 1
        path = self.folder / CHECKPOINT
        if returns > MOST_RETURNS or not path.is_file():
            raise MSLesSegError(
                f'{MOST_BAD_STEPS} steps in a row gave no finite gradient'
                + (f', after {MOST_RETURNS} returns to a lower rate.' if path.is_file() else '.'),
                'Start again with a lower rate (--set learning_rate=…), a longer warm-up, or '
                '--set precision=float32; and check the intensities of the images.',
            )
        self.resume()
        self._set_random_state()
        self.progress.returns = returns
        self.progress.bad = 0
        tracker.say(
            f'No finite gradient in {MOST_BAD_STEPS} steps: back to epoch {self.progress.epoch} '
            f'with {0.5**returns:g} of the learning rate.'
        )

    # ------------------------------------------------------------------------- judging

    def _validate(self) -> float | None:
        every, epoch = self.plan.validate_every, self.progress.epoch
        if self.validator is None or not every:
            return None
        if epoch % every and epoch < self.plan.epochs:
            return None
        with isolated_random_state():
            network = copy.deepcopy(self.network)
            network.load_state_dict(self.smoothed.values)
            chosen = range(self.world.rank, len(self.validator), self.world.size)
            scores = self.validator(network, self.device, list(chosen))
        everyone = [score for part in self.world.gather(scores) for score in part]
        return sum(everyone) / len(everyone)

    def _note_best(self, dsc: float | None) -> bool:
        progress = self.progress
        if dsc is None:
            return False
        if dsc > progress.best:
            progress.best, progress.best_epoch, progress.unimproved = dsc, progress.epoch, 0
            return True
        progress.unimproved += 1
        return False

    # ------------------------------------------------------------------------- keeping

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        states = self.world.gather(random_state(self.device))
        if self.world.first:
            state = {
                'identity': self.identity,
                'network': self.network.state_dict(),
                'optimizer': self.optimizer.state_dict(),
                'scaler': self.scaler.state_dict(),
                'smoothed': self.smoothed.values,
                'random': states,
                'progress': vars(self.progress),
            }
            with atomic_path(self.folder / CHECKPOINT) as temporary:
                torch.save(state, temporary)
        self.world.wait()

    def resume(self) -> None:
        """Go on from the checkpoint."""
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
            same = _without_memory(state['identity']) == _without_memory(self.identity)
        except (RuntimeError, OSError, EOFError, ValueError, LookupError,
                pickle.UnpicklingError) as error:  # fmt: skip
            raise DataError(f'{path} is no checkpoint: {error}', 'Remove it.') from error
        if not same:
            raise UsageError(
                f'{self.folder} holds a run with other settings or other data.',
                f'Choose another folder, or repeat the settings written in its {RUN}.',
            )
        self.network.load_state_dict(state['network'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.scaler.load_state_dict(state['scaler'])
        self.smoothed.values = {k: v.to(self.device) for k, v in state['smoothed'].items()}
        parts = max(self.plan.accumulate, state['progress']['parts'])
        self.progress = TrainingProgress(**{**state['progress'], 'parts': parts})
        self._random = state['random']

    def _set_random_state(self) -> None:
        set_random_state(self._random[self.world.rank], self.device)

    def _write_weights(self, path: Path, half: bool = False) -> None:
        """Write the smoothed weights that inference needs."""
        from safetensors.torch import save

        kept = {k: v for k, v in self.smoothed.values.items() if not k.startswith(AUXILIARY)}
        if half:
            kept = {k: _halved(v) for k, v in kept.items()}
        ready = {k: v.cpu().contiguous() for k, v in kept.items()}
        if not all(bool(v.isfinite().all()) for v in ready.values()):
            raise MSLesSegError('The weights are not finite.', 'Train again.')
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(ready))

    def export(self, path: Path, half: bool = False) -> Path:
        """Write the weights that the plan keeps: the best, or the last.

        Parameters
        ----------
        path : Path
            Safetensors file.
        half : bool
            In half precision.
        """
        best = self.folder / BEST
        if self.plan.keep == 'best' and self.progress.best_epoch and best.is_file():
            from safetensors.torch import load_file

            self.smoothed.values = {k: v.to(self.device) for k, v in load_file(best).items()}
        self._write_weights(path, half)
        return path


def _expect_rare(network: nn.Module, prob: float) -> None:
    """Let the output, the last convolution, begin at a probability."""
    head = [part for part in network.modules() if isinstance(part, nn.Conv3d)][-1]
    if head.bias is None or head.out_channels > 1:
        raise UsageError('This network has no output of one class to begin at a probability.')
    nn.init.constant_(head.bias, math.log(prob / (1 - prob)))


def _halved(values: Tensor) -> Tensor:
    """Return values in half precision, or as they are: whole numbers, and beyond its range."""
    small = values.half() if values.is_floating_point() else values
    return small if bool(small.isfinite().all()) else values


def _without_memory(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without what changes only how much memory a step takes."""
    plan = {k: v for k, v in identity['plan'].items() if k != 'accumulate'}
    return {**identity, 'plan': plan}


def _optimizer(network: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    if plan.optimizer == 'adam':
        return torch.optim.Adam(
            parameters, plan.learning_rate, weight_decay=plan.weight_decay, amsgrad=True
        )
    return torch.optim.AdamW(parameters, plan.learning_rate, weight_decay=plan.weight_decay)


# ------------------------------------------------------------------------ random numbers
