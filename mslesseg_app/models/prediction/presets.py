"""Presets: how exactly, or how fast, the same weights are asked.

The ``sampler`` table of a model's description may hold one table for each preset; the values
there come on top of those outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from mslesseg_app.core.errors import ModelError, UsageError

if TYPE_CHECKING:
    from mslesseg_app.models.entry import ModelEntry

Preset = Literal['fast', 'exact']
PRESETS: tuple[str, ...] = get_args(Preset)
DEFAULT: Preset = 'fast'

DIFFUSION_KEYS = ('chains', 'steps', 'fusion', 'chains_at_once', 'clamp')
"""Settings of diffusion chains: `mslesseg_app.models.prediction.predictor.ChainSampler`."""

_WINDOW_KEYS = (
    'overlap', 'blending', 'average', 'batch', 'fit', 'multiple', 'flips', 'crop', 'margin',
    'sigma', 'layout', 'precision',
)  # fmt: skip
KEYS = (*_WINDOW_KEYS, 'compile', *DIFFUSION_KEYS)
"""All that a sampler may hold besides its presets, where ``patch`` replaces the entry's too."""


def has_presets(entry: ModelEntry) -> bool:
    """Whether the presets of a model differ."""
    return any(name in entry.sampler for name in PRESETS)


def resolve(entry: ModelEntry, preset: str = DEFAULT) -> ModelEntry:
    """Return the entry with the sampler of one preset, all else as it was.

    Parameters
    ----------
    entry : ModelEntry
    preset : {'fast', 'exact'}
        ``exact`` is the published procedure, in float32 unless the description says another
        precision; ``fast`` what was measured to give the same mask for less. A model whose
        description knows no presets has one sampler for both.

    Raises
    ------
    UsageError
        For another name.
    ModelError
        If a preset in the description is not a table, or holds an unknown setting.
    """
    if preset not in PRESETS:
        raise UsageError(f'There is no preset {preset!r}.', f'Choose {" or ".join(PRESETS)}.')
    if not has_presets(entry):
        _check_keys(entry, entry.sampler, KEYS)
        if preset != 'exact':
            return entry
        return replace(entry, sampler={'precision': 'float32', **entry.sampler})
    common = {key: value for key, value in entry.sampler.items() if key not in PRESETS}
    chosen: dict[str, Any] = {}
    for name in PRESETS:
        values = {**common, **_table(entry, name)}
        _check_keys(entry, values, (*KEYS, 'patch'))
        if name == preset:
            chosen = values
    if preset == 'exact':
        chosen.setdefault('precision', 'float32')
    patch = chosen.pop('patch', entry.patch)
    return replace(entry, sampler=chosen, patch=None if patch is None else tuple(patch))


def _table(entry: ModelEntry, preset: str) -> Mapping[str, Any]:
    table = entry.sampler.get(preset, {})
    if not isinstance(table, Mapping):
        raise ModelError(
            f'The preset {preset!r} of the model {entry.name!r} is not a table.',
            f'Write it as [sampler.{preset}].',
        )
    return table


def _check_keys(entry: ModelEntry, values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    strange = sorted(set(values) - set(known))
    if strange:
        raise ModelError(
            f'The sampler of the model {entry.name!r} has the unknown setting {strange[0]!r}.',
            f'Known: {", ".join(sorted(known))}, and the tables {" and ".join(PRESETS)}.',
        )
