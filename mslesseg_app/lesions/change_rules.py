"""Named rules for what counts as new, enlarging, shrinking or resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mslesseg_app.errors import UsageError

Status = Literal['stable', 'new', 'enlarging', 'shrinking', 'resolved']

#: Values of the change image; 0 is no lesion, or one too small to be judged.
STATUS_CODES: dict[Status, int] = {
    'stable': 1,
    'new': 2,
    'enlarging': 3,
    'shrinking': 4,
    'resolved': 5,
}


@dataclass(frozen=True)
class ChangeRules:
    """One set of rules; all volumes in mm³.

    Attributes
    ----------
    alpha : float
        A lesion is new when the share of it that lies on earlier lesions is no larger than
        this; resolved by the same rule with the sessions swapped.
    beta : float
        A lesion grows (shrinks) only when the part that it gains (loses) is more than this
        share of the part that both sessions have.
    gamma, gamma_abs : float
        A lesion has outgrown its past when it gains more than ``gamma`` times the part that
        both sessions have, and more than ``gamma_abs``.
    min_volume : float
        Smallest lesion that is called new or resolved, and smallest gain (loss) of one that
        is called enlarging (shrinking).
    outgrown : {'enlarging', 'new'}
        What a lesion that has outgrown its past is called.
    source : str
        Where the numbers are from.
    """

    name: str
    alpha: float
    beta: float
    gamma: float
    gamma_abs: float
    min_volume: float
    outgrown: Literal['enlarging', 'new']
    source: str


_SOURCE = (
    'Parameters of animaLesionEvolutionDetection (Anima, Inria Empenn): alpha 0, beta 0.05, '
    'gamma 0.5, gamma-abs 12 mm³, smallest lesion 6 mm³.'
)

CHANGE_RULES = {
    rules.name: rules
    for rules in (
        ChangeRules('anima', 0.0, 0.05, 0.5, 12.0, 6.0, 'enlarging', _SOURCE),
        ChangeRules('anima-new', 0.0, 0.05, 0.5, 12.0, 6.0, 'new', _SOURCE),
    )
}


def get_change_rules(name: str) -> ChangeRules:
    """Return a set of rules by its name.

    Raises
    ------
    UsageError
        For a name that is not known.
    """
    if name not in CHANGE_RULES:
        raise UsageError(
            f'There are no rules of change named {name!r}.',
            f'Known: {", ".join(CHANGE_RULES)}.',
        )
    return CHANGE_RULES[name]
