"""Named presets of training settings.

``paper``
    What the public repositories behind the paper's networks do by default. How those were
    trained on MSLesSeg is stated nowhere (epochs, patches, losses): these are the repositories'
    numbers, with their oddities, on this project's code. Where a repository cannot be followed,
    the choice is stated beside the number.
``default``
    Ours, for every network. The statistics of an image are those of the whole brain, as at
    inference, not of a patch; half of the patches lie around lesions; zeros outside the brain
    stay zero; the loss looks into the brain only and has a defined value without lesion; the
    rate of the first step is above zero; the gradient is clipped; the mean of the weights over
    time is what is judged and kept; exams are judged by the procedure of the App.
``reduced``
    ``default`` with a network of a few channels and few steps: what two CPU cores can do. Its
    figures say nothing about the full networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.networks import NETWORKS, get_spec
from mslesseg_app.models.registry import list_entries
from mslesseg_app.training.plan import Plan

DEFAULT: dict[str, Any] = {
    'objective': 'tversky+ce',
    'learning_rate': 3e-4,
    'weight_decay': 1e-2,
    'epochs': 300,
    'steps_per_epoch': 100,
    'batch': 2,
    'patches': 2,
    'per_step': True,
    'warm_up': 5.0,
    'first_rate': 0.01,
    'last_rate': 0.01,
    'ema': 0.998,
    'clip': 2.0,
    'on_lesion': 0.5,
    'statistics': 'volume',
    'background': 'kept',
    'flip': 0.5,
    'rotate': 0.0,
    'validate_every': 10,
    'patience': 0,
}


def _base(network: str) -> Plan:
    """Return the network as its shipped entry describes it."""
    entry = _shipped(network)
    # one class for all, unless the preset asks for a softmax
    options = {**entry.options, **({'classes': 1} if 'classes' in entry.options else {})}
    return Plan(
        network,
        options=options,
        channels=entry.channels,
        required=entry.required,
        normalisation=entry.normalisation,
        sampler=entry.sampler,
        patch=entry.patch or (96, 96, 96),
    )


def _shipped(network: str) -> ModelEntry:
    entries = {
        e.name: e for e in list_entries() if e.name == e.architecture and e.name in NETWORKS
    }
    if network not in entries:
        known = ', '.join(sorted(entries))
        raise UsageError(f'There is no network {network!r} to train.', f'Choose one of: {known}.')
    return entries[network]


def _paper(network: str) -> Plan:
    base, settings = _base(network), get_spec(network).paper
    if settings is None:
        known = ', '.join(name for name, spec in NETWORKS.items() if spec.paper)
        raise UsageError(
            f'The paper did not train {network!r}.',
            f'--preset paper knows: {known}; use --preset default.',
        )
    return _with(base, {**settings, 'clip': 0.0, 'ema': 0.0})


def _default(network: str) -> Plan:
    return _with(_base(network), {**DEFAULT, **get_spec(network).default})


def _reduced(network: str) -> Plan:
    few: dict[str, Any] = {
        'epochs': 2,
        'steps_per_epoch': 50,
        'learning_rate': 3e-3,
        'warm_up': 0.2,
        'ema': 0.9,
        'patches': 4,
        'sampler': {'overlap': 0.0, 'margin': 0},
        'validate_every': 2,
        'batch': 1,
        **get_spec(network).reduced,
    }
    return _with(_default(network), few, replace_sampler=True)


PRESETS: dict[str, Callable[[str], Plan]] = {
    'paper': _paper,
    'default': _default,
    'reduced': _reduced,
}


def preset(name: str, network: str) -> Plan:
    """Return the plan of a preset for a network.

    Parameters
    ----------
    name : str
        A key of `PRESETS`.
    network : str
        A key of `mslesseg_app.models.networks.NETWORKS`.

    Raises
    ------
    UsageError
        For a preset or a network that does not exist, or that do not go together.
    """
    if name not in PRESETS:
        raise UsageError(f'There is no preset {name!r}.', f'Choose one of: {", ".join(PRESETS)}.')
    return PRESETS[name](network)


def _with(plan: Plan, values: dict[str, Any], replace_sampler: bool = False) -> Plan:
    from mslesseg_app.training.plan import changed

    if replace_sampler and 'sampler' in values:
        plan = replace(plan, sampler={})
    return changed(plan, values)
