"""Small relatives of the four networks, trained on synthetic heads, to compare presets with.

No trained weights of the paper's networks are public. What a preset does to a mask can only be
seen on a network that has learnt something, so these have a few filters each and learn for some
minutes on the demo's heads at 1.5 to 3 mm, where windows have as many millimetres as those of the
full networks at 1 mm. Their figures are theirs alone.

    .venv/bin/python benchmarks/reduced.py --train

Weights go to ``checkpoints/reduced`` (not in Git); a network that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as fn

from mslesseg_app.demo.lesions import in_session, lesion_mask, voxel_shares
from mslesseg_app.demo.phantom import LESION_EDGE_MM, lesion_intensity, make_phantom
from mslesseg_app.models.diffusion import training_output
from mslesseg_app.models.networks import build
from mslesseg_app.models.prediction.normalise import normalise
from mslesseg_app.models.prediction.windows import brain_box
from mslesseg_app.training.losses import dice_ce

FOLDER = Path('checkpoints/reduced')
TRAINING_SEEDS = tuple(range(101, 109))
TEST_SEEDS = (201, 202)


@dataclass(frozen=True)
class Recipe:
    """A reduced network: its options, its window (voxels), the grid (mm) and its training."""

    options: dict[str, Any]
    edge: int
    spacing_mm: float
    steps: int
    heads: int = 8


RECIPES = {
    'mssegdiff': Recipe(
        {'features': [8, 16, 32, 64, 8], 'time_width': 32, 'time_hidden': 64}, 32, 3.0, 400
    ),
    'unetr': Recipe(
        {'edge': 32, 'feature_size': 8, 'hidden_size': 96, 'mlp_dim': 192, 'num_heads': 4},
        32,
        3.0,
        300,
    ),
    'transbts': Recipe(
        {
            'edge': 64,
            'base': 4,
            'groups': 2,
            'width': 64,
            'heads': 4,
            'layers': 2,
            'hidden': 128,
            'stem_dropout': 0.0,
            'interpolate': True,
        },
        64,
        2.0,
        150,
        heads=4,
    ),
    'swinunetr': Recipe({'feature_size': 12}, 64, 1.5, 150, heads=4),
}
"""Windows have the millimetres of the full networks on 1 mm: 96, and 128 for transbts."""


@dataclass(frozen=True)
class Head:
    """A synthetic head, cut to its brain.

    Attributes
    ----------
    channels : float32 array (3, X, Y, Z)
        FLAIR, T1w, T2w, z-scored within the brain.
    brain, mask : bool arrays (X, Y, Z)
    """

    channels: np.ndarray
    brain: np.ndarray
    mask: np.ndarray


def make_head(seed: int, spacing_mm: float) -> Head:
    """Scan a phantom on its own grid: soft lesions of varied contrast, noise, no distortion."""
    phantom = make_phantom(seed, spacing_mm)
    rng = np.random.default_rng([seed, 99])
    brain = phantom.brain.mask
    grid = phantom.grid
    lesions = in_session(phantom.lesions, 1)
    contrast = rng.uniform(0.35, 1.0, len(lesions))
    channels = []
    for modality in ('FLAIR', 'T1w', 'T2w'):
        image = phantom.volumes[modality].copy()
        for lesion, factor in zip(lesions, contrast, strict=True):
            box, share = voxel_shares(lesion, grid.shape, grid.affine, LESION_EDGE_MM)
            part = image[box]
            part += (factor * share * (lesion_intensity(lesion, modality) - part)).astype('f4')
        image += rng.normal(0, rng.uniform(4, 9), image.shape).astype('f4')
        channels.append(normalise(np.maximum(image, 1e-3), brain, 'zscore'))
    mask = lesion_mask(lesions, grid.shape, grid.affine).astype(bool) & brain
    box = brain_box(brain)
    return Head(np.stack(channels)[(slice(None), *box)], brain[box], mask[box])


def heads(seeds: tuple[int, ...], spacing_mm: float) -> list[Head]:
    """Return heads, made once and kept in ``checkpoints/reduced``."""
    folder = FOLDER / 'heads'
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in seeds:
        path = folder / f'{seed}_{spacing_mm:g}mm.npz'
        if not path.is_file():
            head = make_head(seed, spacing_mm)
            np.savez_compressed(
                path, channels=head.channels.astype('f2'), brain=head.brain, mask=head.mask
            )
        with np.load(path) as kept:
            found.append(Head(kept['channels'].astype('f4'), kept['brain'], kept['mask']))
    return found


def patch(head: Head, edge: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Cut a random patch, around a lesion voxel four times out of five, and mirror it."""
    shape = np.array(head.mask.shape)
    middle = rng.integers(0, shape)
    if rng.random() < 0.8:
        voxels = np.argwhere(head.mask)
        middle = voxels[rng.integers(len(voxels))] + rng.integers(-edge // 4, edge // 4 + 1, 3)
    low = np.clip(middle - edge // 2, 0, np.maximum(shape - edge, 0))
    box = tuple(slice(int(a), int(a) + edge) for a in low)
    parts = [head.channels[(slice(None), *box)], head.mask[box][None], head.brain[box][None]]
    missing = [(0, 0), *((0, edge - n) for n in parts[1].shape[1:])]
    axes = [axis for axis in (1, 2, 3) if rng.random() < 0.5]
    return tuple(np.flip(np.pad(part, missing), axes).astype('f4') for part in parts)


def loss_of(
    architecture: str,
    network: torch.nn.Module,
    batch: tuple[torch.Tensor, ...],
    generator: torch.Generator,
) -> torch.Tensor:
    image, mask, brain = batch
    if architecture != 'mssegdiff':
        return dice_ce(network(image), mask, brain)
    steps = torch.randint(0, 1000, (len(image),), generator=generator)
    noise = torch.randn(mask.shape, generator=generator)
    logits = training_output(network, image, mask, steps, noise)
    return dice_ce(logits, mask, brain) + fn.mse_loss(torch.sigmoid(logits), mask)


def train(architecture: str, size: int = 2, seed: int = 1) -> None:
    """Train one network and keep it, with a record of how."""
    recipe = RECIPES[architecture]
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    known = heads(TRAINING_SEEDS[: recipe.heads], recipe.spacing_mm)
    network = build(architecture, 3, recipe.options).train()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    began, losses = time.process_time(), []
    for step in range(recipe.steps):
        fall = 0.5 * (1 + np.cos(np.pi * step / recipe.steps))
        optimiser.param_groups[0]['lr'] = 3e-3 * min(1, (step + 1) / 20) * (0.02 + 0.98 * fall)
        drawn = [patch(known[rng.integers(len(known))], recipe.edge, rng) for _ in range(size)]
        batch = tuple(torch.from_numpy(np.stack(parts)) for parts in zip(*drawn, strict=True))
        loss = loss_of(architecture, network, batch, generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        losses.append(float(loss))
        if step % 25 == 24:
            print(architecture, step + 1, f'{np.mean(losses[-25:]):.3f}', flush=True)
    save_file(network.state_dict(), FOLDER / f'{architecture}.safetensors')
    record = {
        'steps': recipe.steps,
        'cpu_seconds': round(time.process_time() - began),
        'last_loss': round(float(np.mean(losses[-25:])), 4),
    }
    (FOLDER / f'{architecture}.json').write_text(json.dumps(record))


def load(architecture: str) -> torch.nn.Module | None:
    """Return a trained network, or None where there is none."""
    path = FOLDER / f'{architecture}.safetensors'
    if not path.is_file():
        return None
    network = build(architecture, 3, RECIPES[architecture].options)
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--train', nargs='*', choices=list(RECIPES), metavar='NAME')
    options = parser.parse_args()
    for name in RECIPES:
        wanted = options.train is not None and name in (options.train or RECIPES)
        if wanted and load(name) is None:
            train(name)
        path = FOLDER / f'{name}.json'
        print(name, path.read_text() if path.is_file() else 'not trained')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
