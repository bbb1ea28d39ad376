"""Everything that decides what a training computes, and how its learning rate goes."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mslesseg_app.core.errors import UsageError
from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.models.prediction.presets import PRESETS

Triple = tuple[int, int, int]

OBJECTIVES = ('dice+bce+mse', 'dice', 'softmax-dice', 'softmax-dice+ce', 'tversky+ce')
SOFTMAX = ('softmax-dice', 'softmax-dice+ce')
OPTIMIZERS = ('adamw', 'adam')
SCHEDULES = ('cosine', 'poly', 'constant')
PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16')


@dataclass(frozen=True)
class Augmentation:
    """How often what happens to a patch; see `mslesseg_app.training.augmentation`.

    Attributes
    ----------
    plant : float
        Probability that lesions are planted into a labelled exam; exams without labels always
        get some.
    contrast : float
        Probability that the contrast of the exam's own lesions is changed.
    drop_t1w, drop_t2w : float
        Probability that a present channel is dropped.
    thick : float
        Probability of thick slices.
    poor_mask : float
        Probability of a brain mask that is too tight or too wide.
    cut : float
        Probability that the field of view ends within the patch.
    negatives : float
        Share of patches around bright tissue that is no lesion, where raters marked it.
    negative_weight : float
        Weight of such voxels in the loss.
    """

    plant: float = 0.4
    contrast: float = 0.5
    drop_t1w: float = 0.3
    drop_t2w: float = 0.4
    thick: float = 0.4
    poor_mask: float = 0.3
    cut: float = 0.1
    negatives: float = 0.15
    negative_weight: float = 3.0


@dataclass(frozen=True)
class Plan:
    """Everything that decides what a training computes; devices and processes do not.

    Attributes
    ----------
    architecture, options, channels, normalisation, sampler, threshold, least_white_matter
        As in `mslesseg_app.models.entry.ModelEntry`.
    validation : dict
        Sampler by which exams are judged during training; without one, that of the preset
        ``fast``.
    required : tuple of str
        Channels without which an exam is not trained on; the others may be dropped.
    augment : {'basic', 'strong'}
        What happens to patches at random: flips, turns and a factor and an offset of the
        normalised intensities (the settings from `on_lesion` to `drop`); or `augmentation`, in
        image space before normalisation.
    augmentation : Augmentation
        Of the strong augmentation.
    patch : three ints
        Edges of a patch (voxels).
    crop : {'brain', 'multiples', 'grid'}
        Where patches lie: in the box around the brain, in this box grown to multiples of a patch
        (zeros where it leaves the grid), or anywhere on the grid.
    margin : int
        Voxels around the brain that its box includes.
    batch : int
        Exams drawn for a step, over all processes.
    patches : int
        Patches cut out of each.
    accumulate : int
        Parts in which a process does its share of a step; saves memory.
    epochs : int
    steps_per_epoch : int
        0: each exam once, what does not fill a batch is dropped.
    on_lesion : float or None
        Share of patches around a lesion, the others in the brain; None places all evenly.
    statistics : {'volume', 'patch'}
        What an image is normalised by.
    flip, rotate : float
        Probability along each axis; of a quarter turn.
    scale, shift, jitter : float
        Widths of the factor and of the offset of intensities, and the probability of each.
    background : {'kept', 'moved'}
        Whether zeros outside the brain stay zero.
    per_slice : bool
        Draw factor and offset for each slice across the second axis and each channel, as the
        public TransBTS does.
    drop : float
        Probability that a channel that is not required is emptied.
    objective : str
        One of `OBJECTIVES`.
    recall : float
        Weight of misses against false alarms in ``tversky+ce``.
    noisiest : float
        Share of patches, for diffusion networks, whose diffusion step is drawn from the noisiest
        third: there the images alone tell where lesions are. Of the others, from all steps.
    optimizer : {'adamw', 'adam'}
        ``adam`` is AMSGrad with L2 penalty.
    first_probability : float
        Of lesion, at which the output of a network with one class begins: what is rare is then
        learned in far fewer steps. 0 leaves the output as the network makes it.
    learning_rate, weight_decay : float
        The rate at its peak.
    schedule : {'cosine', 'poly', 'constant'}
    per_step : bool
        Change the rate at each step instead of each epoch.
    warm_up : float
        Epochs of linear rise.
    first_rate, last_rate : float
        Where the rise begins and the fall ends, relative to the peak.
    ema : float
        Decay of the running mean of the weights, which is judged and kept; 0 for none.
    clip : float
        Largest norm of the gradient; 0 for no limit.
    precision : {'auto', 'float32', 'bfloat16', 'float16'}
        ``auto`` is bfloat16 on CUDA and float32 on the CPU.
    validate_every : int
        Epochs between validations, the last epoch included; 0 for none.
    patience : int
        Validations without gain after which training stops; 0 never stops early.
    keep : {'best', 'last'}
        Whether the weights of the highest mean DSC of the validation exams are kept (of equals
        the first), or the last.
    seed : int
    """

    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    channels: tuple[str, ...] = MODALITIES
    required: tuple[str, ...] = MODALITIES
    normalisation: str = 'zscore'
    sampler: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    threshold: float = 0.5
    least_white_matter: float = 0.0
    augment: str = 'basic'
    augmentation: Augmentation = field(default_factory=Augmentation)
    patch: Triple = (96, 96, 96)
    crop: str = 'brain'
    margin: int = 4
    batch: int = 2
    patches: int = 1
    accumulate: int = 1
    epochs: int = 300
    steps_per_epoch: int = 0
    on_lesion: float | None = 0.5
    statistics: str = 'volume'
    flip: float = 0.5
    rotate: float = 0.0
    scale: float = 0.1
    shift: float = 0.1
    jitter: float = 1.0
    background: str = 'kept'
    per_slice: bool = False
    drop: float = 0.0
    objective: str = 'tversky+ce'
    recall: float = 0.5
    noisiest: float = 0.0
    first_probability: float = 0.0
    optimizer: str = 'adamw'
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    schedule: str = 'cosine'
    per_step: bool = False
    warm_up: float = 0.0
    first_rate: float = 0.0
    last_rate: float = 0.0
    ema: float = 0.0
    clip: float = 0.0
    precision: str = 'auto'
    validate_every: int = 10
    patience: int = 0
    keep: str = 'best'
    seed: int = 1

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise UsageError(f'This cannot be trained: {problem}.', 'Correct it by --set.')

    @property
    def missing(self) -> str:
        """What the trained model does without a channel that is not required."""
        return 'refuse' if set(self.required) == set(self.channels) else 'zero'

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as JSON gives them back."""
        return {key: _json_value(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Make a plan of what `to_dict` gave."""
        return changed(cls(str(values['architecture'])), values)


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json_value(item) for key, item in value.items()}
    return [_json_value(item) for item in value] if isinstance(value, list | tuple) else value


def _problem(plan: Plan) -> str:
    """Return the first contradiction, or nothing."""
    choices = {
        'objective': OBJECTIVES,
        'optimizer': OPTIMIZERS,
        'schedule': SCHEDULES,
        'precision': PRECISIONS,
        'augment': ('basic', 'strong'),
        'statistics': ('volume', 'patch'),
        'background': ('kept', 'moved'),
        'crop': ('brain', 'multiples', 'grid'),
        'keep': ('best', 'last'),
    }
    for name, known in choices.items():
        if getattr(plan, name) not in known:
            return f'{name} = {getattr(plan, name)!r} is none of {", ".join(known)}'
    for name in ('batch', 'patches', 'accumulate', 'epochs'):
        if getattr(plan, name) < 1:
            return f'{name} is less than 1'
    for name in (
        'steps_per_epoch',
        'validate_every',
        'patience',
        'warm_up',
        'clip',
        'ema',
        'margin',
    ):
        if getattr(plan, name) < 0:
            return f'{name} is less than 0'
    return _problem_of_network(plan)


def _problem_of_network(plan: Plan) -> str:
    if not 0 <= plan.ema < 1:
        return 'ema does not lie between 0 and 1'
    if not 0 <= plan.first_probability < 1:
        return 'first_probability does not lie between 0 and 1'
    if not 0 <= plan.noisiest <= 1:
        return 'noisiest does not lie between 0 and 1'
    if not set(plan.required) <= set(plan.channels) <= set(MODALITIES):
        return f'channels are not among {", ".join(MODALITIES)}, or required not among channels'
    if plan.objective in SOFTMAX and plan.options.get('classes', 1) < 2:
        return f'{plan.objective} needs a network with two classes or more'
    if plan.objective not in SOFTMAX and plan.options.get('classes', 1) > 1:
        return f'{plan.objective} needs a network with one class'
    return ''


def changed(plan: Plan, values: Mapping[str, Any]) -> Plan:
    """Return the plan with some values replaced; tables are merged.

    Raises
    ------
    UsageError
        For a name or a kind of value that a plan does not have.
    """
    known = {f.name: getattr(plan, f.name) for f in fields(plan)}
    new: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise UsageError(
                f'A training has no setting {key!r}.', f'It has: {", ".join(sorted(known))}.'
            )
        new[key] = _typed(key, value, known[key])
    _match_edges(plan, new, values)
    return replace(plan, **new)


def _match_edges(plan: Plan, new: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Let patch and ``options.edge`` of networks with a table of positions follow each other."""
    said = values.get('options', {})
    if 'edge' in said and 'patch' not in values:
        edge = said['edge']
        new['patch'] = (edge, edge, edge) if isinstance(edge, int) else tuple(edge)
    elif 'patch' in values and 'edge' not in said and 'edge' in plan.options:
        new['options'] = {**new.get('options', plan.options), 'edge': list(new['patch'])}


def _table(key: str, value: Mapping[str, Any], old: dict[str, Any] | Augmentation) -> Any:
    """Return a table in which some values are replaced."""
    if isinstance(old, dict):
        return _sampler(old, value) if key == 'sampler' else {**old, **value}
    try:
        return replace(old, **value)
    except TypeError as error:
        raise UsageError(f'{key}: {error}.') from error


def _typed(key: str, value: Any, old: Any) -> Any:
    """Return a value in the type of the one that it replaces."""
    if isinstance(value, Mapping) and isinstance(old, dict | Augmentation):
        return _table(key, value, old)
    if key == 'patch' and isinstance(value, int):
        return (value, value, value)
    if isinstance(old, tuple) and isinstance(value, list | tuple):
        if key == 'patch' and len(value) != 3:
            raise UsageError('patch has one edge or three.')
        return tuple(value)
    if key == 'on_lesion' and (value is None or value is False):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == 'on_lesion' or (isinstance(old, float) and number):
        return float(value)
    if type(value) is type(old):
        return value
    raise UsageError(f'{key} = {value!r} is not of the kind of {old!r}.')


def _sampler(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge samplers; what is said outside the tables of presets counts for each preset."""
    if not old:
        return dict(new)
    tables = [name for name in PRESETS if isinstance({**old, **new}.get(name), Mapping)]
    common = {key: value for key, value in new.items() if key not in tables}
    merged = {**old, **common}
    for name in tables:
        merged[name] = {**old.get(name, {}), **common, **new.get(name, {})}
    return merged


def read_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` settings; values are TOML, or words.

    ``options.edge=64`` sets one value of a table.

    Examples
    --------
    >>> read_settings(['patch=64', 'objective=dice', 'options.edge=64'])
    {'patch': 64, 'objective': 'dice', 'options': {'edge': 64}}
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition('=')
        if not sign or not key:
            raise UsageError(f'{text!r} is not of the form KEY=VALUE.', 'For example: epochs=100')
        try:
            read = tomllib.loads(f'value = {value}')['value']
        except tomllib.TOMLDecodeError:
            read = value
        table, dot, name = key.partition('.')
        if dot:
            found.setdefault(table, {})[name] = read
        else:
            found[key] = read
    return found


def rate_factor(plan: Plan, epoch: int, step: int = 0, steps: int = 1) -> float:
    """Return the learning rate relative to its peak.

    Linear warm-up from `first_rate`, reaching 1 at the last of its epochs (or steps), then a
    fall by half a cosine to `last_rate`, or by (1 - epoch / epochs)^0.9.

    Parameters
    ----------
    plan : Plan
    epoch, step : int
        From 0.
    steps : int
        Of an epoch.
    """
    unit = 1 / steps if plan.per_step else 1.0
    now = epoch + step * unit if plan.per_step else float(epoch)
    if now < plan.warm_up - 1e-9:
        rise = min(1.0, now / max(unit, plan.warm_up - unit))
        return plan.first_rate + (1 - plan.first_rate) * rise
    if plan.schedule == 'constant':
        return 1.0
    if plan.schedule == 'poly':
        return float((1 - now / plan.epochs) ** 0.9)
    part = min(1.0, (now - plan.warm_up) / max(unit, plan.epochs - plan.warm_up))
    return float(plan.last_rate + (1 - plan.last_rate) * 0.5 * (1 + math.cos(math.pi * part)))
