"""The training loop: patches in, a smoothed network out, and nothing lost on the way."""

from __future__ import annotations

import csv
import logging
import math
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mslesseg_app.errors import DataError, MSLesSegError, UsageError
from mslesseg_app.files import atomic_path, write_json
from mslesseg_app.models.networks.unet import AUXILIARY, ResidualUNet
from mslesseg_app.training.data import TrainingData
from mslesseg_app.training.fields import Chance
from mslesseg_app.training.losses import deep_loss
from mslesseg_app.training.synthesis import Recipe, Synthesiser, patch_starts

LOGGER = logging.getLogger(__name__)
CHECKPOINT = 'checkpoint.pt'
LOG = 'log.csv'
_LOG_COLUMNS = ('step', 'loss', 'learning_rate', 'gradient_norm', 'skipped', 'seconds')
_MOST_BAD_STEPS = 50


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes.

    Attributes
    ----------
    channels : tuple of int
        Widths of the network's levels.
    patch : three ints
        Edges of a patch (voxels).
    batch : int
        Exams drawn for a step.
    patches : int
        Patches cut out of each.
    steps : int
        Length of the schedule.
    learning_rate, weight_decay : float
        AdamW's, the rate at its peak.
    warm_up : int
        Steps of the linear rise; a cosine fall to 1 % of the peak follows.
    ema : float
        Decay of the running mean of the weights, which is what is kept in the end.
    clip : float
        Largest norm of the gradient.
    recall : float
        See `mslesseg_app.training.losses.dice_ce`.
    on_lesion : float
        Share of patches around a lesion.
    seed : int
    normalisation : str
    recipe : Recipe
    """

    channels: tuple[int, ...] = (16, 32, 64, 128, 192)
    patch: tuple[int, int, int] = (96, 96, 96)
    batch: int = 1
    patches: int = 2
    steps: int = 4000
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warm_up: int = 100
    ema: float = 0.998
    clip: float = 2.0
    recall: float = 0.5
    on_lesion: float = 0.8
    seed: int = 1
    normalisation: str = 'robust'
    recipe: Recipe = field(default_factory=Recipe)


def rate_factor(step: int, settings: Settings) -> float:
    """Return the learning rate of a step relative to its peak."""
    if step < settings.warm_up:
        return (step + 1) / settings.warm_up
    rest = max(1, settings.steps - settings.warm_up)
    part = min(1.0, (step - settings.warm_up) / rest)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part))


class Smoothed:
    """Exponential mean of a network's weights, with a short memory at the start."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {k: v.detach().clone().float() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step."""
        keep = min(self.decay, (1 + step) / (10 + step))
        state = network.state_dict()
        mean = list(self.values.values())
        torch._foreach_lerp_(mean, [state[k].float() for k in self.values], 1 - keep)


class Trainer:
    """One training run in one folder; a second call goes on where the first one stopped.

    Parameters
    ----------
    folder : Path
        Holds the checkpoint, ``log.csv`` and ``run.json``.
    data : TrainingData
        All that the run may see.
    settings : Settings
    device : str
    channels_last : bool
        Memory format on CUDA; changes speed only.
    start : mapping of str to Tensor, optional
        Weights to start from instead of random ones.

    Raises
    ------
    UsageError
        If the folder holds a run with other settings or other data.
    """

    def __init__(
        self,
        folder: Path,
        data: TrainingData,
        settings: Settings,
        device: str = 'cpu',
        channels_last: bool = False,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.folder, self.settings, self.device = folder, settings, device
        self.identity = {
            'settings': _plain(settings),
            'files': data.files,
            'left_out': list(data.left_out),
        }
        torch.manual_seed(settings.seed)
        self.network = ResidualUNet(3, 1, settings.channels).to(device)
        if start is not None:
            self.network.load_state_dict({k: v.float() for k, v in start.items()}, strict=False)
        self.format = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.format)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.smoothed = Smoothed(self.network, settings.ema)
        self.chance = Chance(settings.seed, device)
        self.synthesiser = Synthesiser(data, self.chance, settings.recipe, settings.normalisation)
        self.step, self.seconds, self.bad = 0, 0.0, 0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).is_file():
            self._resume()
        write_json(folder / 'run.json', self.identity)

    def train(self, minutes: float = math.inf, every: int = 25, save_every: int = 500) -> int:
        """Train until the schedule or the time is over, and save.

        Parameters
        ----------
        minutes : float
            Stop after this time; the next call goes on.
        every : int
            Steps between lines of the log.
        save_every : int
            Steps between checkpoints: a crash loses no more.

        Returns
        -------
        int
            Steps done so far.
        """
        self.network.train()
        began = last = time.monotonic()
        losses: list[float] = []
        norm = 0.0
        while self.step < self.settings.steps and time.monotonic() - began < 60 * minutes:
            loss, norm = self.train_step()
            losses.append(loss)
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            if self.step % every == 0 or self.step == self.settings.steps:
                self._log(losses, norm)
                losses = []
            if self.step % save_every == 0:
                self.save()
        self.save()
        return self.step

    def train_step(self) -> tuple[float, float]:
        """Do one step and return its loss and the norm of its gradient."""
        images, target, weight = self.draw()
        factor = rate_factor(self.step, self.settings)
        for group in self.optimizer.param_groups:
            group['lr'] = self.settings.learning_rate * factor
        cuda = self.device.startswith('cuda')
        with torch.autocast('cuda', torch.bfloat16, enabled=cuda):
            outputs = self.network.forward_all(images)
        loss = deep_loss(outputs, target, weight, self.settings.recall)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        value, size = float(loss.detach()), float(norm.detach())
        self.step += 1
        if math.isfinite(value) and math.isfinite(size):
            self.optimizer.step()
            self.smoothed.update(self.network, self.step)
            self.bad = 0
        else:
            self._bad_step()
        return value, size

    def _bad_step(self) -> None:
        self.bad += 1
        LOGGER.warning('Step %d gave no finite loss and was skipped.', self.step)
        if self.bad >= _MOST_BAD_STEPS:
            raise MSLesSegError(
                f'{self.bad} steps in a row gave no finite loss.',
                'Start again with a lower learning rate.',
            )

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return a batch: images (N, 3, ...), target and weight (N, 1, ...)."""
        images, targets, weights = [], [], []
        settings = self.settings
        for _ in range(settings.batch):
            drawn = self.synthesiser.draw()
            corners = patch_starts(
                drawn, settings.patch, settings.patches, self.chance, settings.on_lesion
            )
            for corner in corners:
                x, y, z = (slice(c, c + e) for c, e in zip(corner, settings.patch, strict=True))
                images.append(drawn.images[:, x, y, z])
                targets.append(drawn.label[None, x, y, z].float())
                weights.append(drawn.weight[None, x, y, z])
        stacked = torch.stack(images).contiguous(memory_format=self.format)
        return stacked, torch.stack(targets), torch.stack(weights)

    def save(self) -> None:
        """Write the checkpoint, atomically."""
        state = {
            'identity': self.identity,
            'network': self.network.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'smoothed': self.smoothed.values,
            'chance': self.chance.state_dict(),
            'step': self.step,
            'seconds': self.seconds,
        }
        with atomic_path(self.folder / CHECKPOINT) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(f'{path} is no checkpoint: {error}', 'Remove it.') from error
        if state['identity'] != self.identity:
            raise UsageError(
                f'{self.folder} holds a run with other settings or other data.',
                'Choose another folder, or repeat the settings written in its run.json.',
            )
        self.network.load_state_dict(state['network'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.smoothed.values = state['smoothed']
        self.chance.load_state_dict(state['chance'])
        self.step, self.seconds = state['step'], state['seconds']

    def _log(self, losses: Sequence[float], norm: float) -> None:
        path = self.folder / LOG
        finite = [value for value in losses if math.isfinite(value)]
        mean = sum(finite) / max(1, len(finite))
        rate = self.optimizer.param_groups[0]['lr']
        new = not path.is_file()
        with path.open('a', newline='', encoding='utf-8') as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(_LOG_COLUMNS)
            row = (
                self.step,
                f'{mean:.5f}',
                f'{rate:.3e}',
                f'{norm:.3f}',
                len(losses) - len(finite),
                f'{self.seconds:.1f}',
            )
            writer.writerow(row)
        LOGGER.info('step %d loss %.4f %.0f s', self.step, mean, self.seconds)

    def export(self, path: Path) -> None:
        """Write the smoothed weights that inference needs, in half precision."""
        from safetensors.torch import save

        kept = {k: v for k, v in self.smoothed.values.items() if not k.startswith(AUXILIARY)}
        half = {k: v.half().cpu().contiguous() for k, v in kept.items()}
        if not all(bool(v.isfinite().all()) for v in half.values()):
            raise MSLesSegError('The weights are not finite.', 'Train again.')
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(half))


def _plain(settings: Settings) -> dict[str, Any]:
    """Return the settings as JSON keeps them."""
    values = asdict(settings)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
