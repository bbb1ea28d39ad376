"""A trained network as an entry of the registry, and folds as one model."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.networks import get_spec
from mslesseg_app.models.store import add_model, own_entries, write_entry
from mslesseg_app.training.description import overrides_of
from mslesseg_app.training.plan import Plan


def identity_digest(identity: Mapping[str, Any]) -> str:
    """Return the SHA256 of what decided a run."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def check_name(name: str, folder: Path, digest: str, force: bool) -> None:
    """Make sure, before hours of training, that its entry may have this name.

    Raises
    ------
    UsageError
        If the folder has another model of this name, and `force` is not set.
    """
    own = own_entries(folder) if folder.is_dir() else {}
    if name in own and not force and own[name][1].card.get('run') != digest:
        raise UsageError(
            f'{folder} has a model {name!r} of another training.',
            'Give another name by --name, or replace it by --force.',
        )


def publish(
    weights: Path, folder: Path, name: str, plan: Plan, card: Mapping[str, Any], licence: str
) -> ModelEntry:
    """Put trained weights into a folder of models, with their card.

    Returns
    -------
    ModelEntry
        What ``mslesseg --model NAME --model-dir FOLDER`` now runs.
    """
    day = datetime.now(UTC).date().isoformat()
    overrides = {
        **overrides_of(plan),
        'name': name,
        'version': f'{day}-{str(card["run"])[:8]}',
        'licence': licence,
        'card': {**card, 'date': day, 'citation': _citations(plan)},
    }
    return add_model(weights, folder, overrides, force=True)


def make_card(
    plan: Plan, preset: str, identity: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the card of a training.

    Parameters
    ----------
    plan : Plan
    preset : str
        Name of the preset it began with.
    identity : mapping
        What decided the run: data, split, plan.
    facts : mapping
        What is stated besides: figures, epochs, seconds.
    """
    import monai
    import torch

    cases = identity['files']
    left = [*identity.get('validation', []), *identity.get('test', [])]
    return {
        'title': f'{plan.architecture}, trained with the preset {preset}',
        'description': f'Trained by "mslesseg train" on {_counted(cases)} '
        f'of {identity["dataset"]}.',
        'training_data': list(cases),
        'not_trained_on': left,
        'kept': 'the epoch of the highest mean DSC of the validation exams'
        if plan.keep == 'best' and identity.get('validation')
        else 'the last epoch',
        'run': identity_digest(identity),
        'preset': preset,
        'seed': plan.seed,
        'software': f'Python {platform.python_version()}, torch {torch.__version__}, '
        f'monai {monai.__version__}',
        **facts,
    }


def _counted(names: Sequence[str]) -> str:
    """Return how many exams, of how many participants."""
    people = {name.split('_')[0] for name in names}
    return f'{len(names)} exams of {len(people)} participants'


def _citations(plan: Plan) -> list[str]:
    return [get_spec(plan.architecture).citation or 'No publication.']


def combine_folds(
    entries: Sequence[ModelEntry], folder: Path, name: str, card: Mapping[str, Any]
) -> ModelEntry:
    """Describe the folds of a cross-validation as one model, whose prediction is their mean.

    The weights are those of the folds' own entries: nothing is copied.

    Parameters
    ----------
    entries : sequence of ModelEntry
        One per fold, all in `folder`, equal but for their weights.
    folder : Path
    name : str
    card : mapping

    Raises
    ------
    UsageError
        If they differ in more than their weights.
    """
    first = entries[0]
    for other in entries[1:]:
        same = ('architecture', 'channels', 'normalisation', 'options', 'patch', 'sampler')
        if any(getattr(first, key) != getattr(other, key) for key in same):
            raise UsageError(
                f'{first.name} and {other.name} are not folds of one model.',
                'Train all folds with the same settings.',
            )
    files = [entry.files[0] for entry in entries]
    combined = replace(
        first,
        name=name,
        version=f'{datetime.now(UTC).date().isoformat()}-{len(files)}folds',
        weights=tuple(file for file, _, _ in files),
        sha256=tuple(digest for _, digest, _ in files),
        url=None,
        card=dict(card),
        folders=(folder,),
    )
    write_entry(combined, folder / f'{name}.toml')
    return combined
