"""From a plan to the description of the model in the making."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mslesseg_app.core.errors import ModelError, UsageError
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.networks import edge_rule
from mslesseg_app.training.plan import Plan


def entry_of(plan: Plan, name: str = 'untrained', **more: Any) -> ModelEntry:
    """Return the description of a model that a plan trains, without weights.

    Raises
    ------
    UsageError
        If the patch does not fit the network.
    """
    rule = edge_rule(plan.architecture, plan.options)
    problem = rule.problem(plan.patch)
    if problem:
        raise UsageError(
            f'Patches do not fit the network {plan.architecture!r}: {problem}.',
            'Use --set patch=N with another N.',
        )
    try:
        return ModelEntry(**{**overrides_of(plan), 'name': name, 'version': '1', **more})
    except ModelError as error:
        raise UsageError(error.message, 'Correct it by --set or --name.') from error


def overrides_of(plan: Plan) -> Mapping[str, Any]:
    """Return the fields of a description that follow from a plan."""
    return {
        'architecture': plan.architecture,
        'channels': plan.channels,
        'required': plan.required,
        'missing': plan.missing,
        'normalisation': plan.normalisation,
        'threshold': plan.threshold,
        'least_white_matter': plan.least_white_matter,
        'licence': 'NOASSERTION',
        'options': plan.options,
        'patch': plan.patch,
        'sampler': plan.sampler,
    }
