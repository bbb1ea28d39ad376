"""What a network tells of itself, and what it must be able to do; read without PyTorch.

Each network is a module of this package, or a folder of it whose ``__init__`` imports no PyTorch,
with a `NetworkSpec` named ``SPEC``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mslesseg_app.models.networks.edges import EdgeRule

if TYPE_CHECKING:
    from torch import Tensor, nn

AUXILIARY = 'auxiliary.'
"""Prefix of the state-dict keys that only training needs."""

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern in the name of a tensor, and what it is replaced by."""


class WindowNetwork(Protocol):
    """A network that segments a window in one pass."""

    rule: EdgeRule
    lesion: int | None

    def __call__(self, image: Tensor) -> Tensor:
        """Return the lesion logit (N, 1, X, Y, Z) of images (N, inputs, X, Y, Z)."""

    def forward_classes(self, image: Tensor) -> Tensor:
        """Return the logits of all classes (N, K, X, Y, Z).

        Channel `lesion` is that of lesions; where it is None, they are one sigmoid, or a softmax
        whose first is background.
        """

    def forward_all(self, image: Tensor) -> list[Tensor]:
        """Return the logits of all classes and, in training, those at coarser resolutions."""


class DiffusionNetwork(Protocol):
    """A network that draws masks from noise; see `mslesseg_app.models.diffusion`."""

    rule: EdgeRule

    def __call__(self, image: Tensor, noisy: Tensor, steps: Tensor) -> Tensor:
        """Return the logits (N, 1, X, Y, Z) of the clean masks of noisy ones."""

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return the maps of the images."""

    def denoise(self, image: Tensor, noisy: Tensor, steps: Tensor, maps: list[Tensor]) -> Tensor:
        """Return the logits of the clean masks."""


@dataclass(frozen=True)
class InferenceCost:
    """What a model adds to an exam.

    Attributes
    ----------
    fast, exact : float
        CPU seconds on one brain, by preset.
    memory : float
        GiB of a process with the model at work.
    measured : bool
        False where a number is an assumption.
    """

    fast: float
    exact: float
    memory: float
    measured: bool = False


@dataclass(frozen=True)
class OfficialWeights:
    """How weights of the public code are read; see `mslesseg_app.models.official`.

    Attributes
    ----------
    names : callable
        From the options to the replacements, one after the other, from official names to ours.
    stem : str
        Our name of a tensor whose second edge is the number of image channels.
    head : str
        Prefix of our names of the output layer.
    dropped : str
        Pattern of our names of tensors that a file may hold and the network does not use.
    positions : str
        Our name of the table of positions, whose shape follows from the option ``edge``.
    advice : tuple of (pattern, text)
        What to say of a file that has such a tensor too much.
    """

    names: Callable[[Mapping[str, Any]], list[Rule]]
    stem: str
    head: str
    dropped: str = ''
    positions: str = ''
    advice: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class MonaiClass:
    """The class of MONAI's that a network is, for bundles; see `mslesseg_app.models.bundle`.

    Attributes
    ----------
    name : str
    defaults : mapping
        Options that it shares with ours, with MONAI's defaults.
    fixed : mapping
        Arguments that ours has no other value for.
    renamed : mapping
        MONAI's argument: our option. One of them without a default may be ``edge``.
    """

    name: str
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    renamed: Mapping[str, str]


@dataclass(frozen=True)
class HiddenOption:
    """An option that changes the result and that weights do not show: somebody has to say it.

    Attributes
    ----------
    meaning : str
        What it says, such as "how neighbouring voxels are joined".
    values : mapping
        Each value, and of which weights it is.
    """

    meaning: str
    values: Mapping[str, str]

    def ways(self, form: str) -> str:
        """Return all values in words, each by a format of `value`."""
        *most, last = (f'{form.format(value=v)} ({why})' for v, why in self.values.items())
        return f'{", ".join(most)} or {last}'


@dataclass(frozen=True)
class NetworkSpec:
    """All that the rest knows of a network; its name is that of its module.

    Attributes
    ----------
    build : callable
        From the number of inputs and the options to an untrained network, a `torch.nn.Module` that
        is a `WindowNetwork` or a `DiffusionNetwork` but for its `rule`. ValueError or TypeError
        for options that make no network. It imports PyTorch.
    edges : callable
        From the options, as keywords, to the windows that it takes.
    cost : InferenceCost
    diffusion : bool
        Whether it is a `DiffusionNetwork`.
    all_used : bool
        Whether each step of a training gives each parameter a gradient.
    default : mapping
        Settings of its training, on top of those that are the same for every network.
    reduced : mapping
        On top of `default`: a network of a few channels, for two CPU cores.
    paper : mapping or None
        Settings of the public repository; None for a network that the paper did not train.
    citation : str
        Publication; nothing if there is none.
    official : OfficialWeights or None
    monai : MonaiClass or None
    hidden : mapping of str to HiddenOption
        By the name of the option.
    """

    build: Callable[[int, Mapping[str, Any]], nn.Module]
    edges: Callable[..., EdgeRule]
    cost: InferenceCost
    diffusion: bool = False
    all_used: bool = False
    default: Mapping[str, Any] = field(default_factory=dict)
    reduced: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, Any] | None = None
    citation: str = ''
    official: OfficialWeights | None = None
    monai: MonaiClass | None = None
    hidden: Mapping[str, HiddenOption] = field(default_factory=dict)


PUBLIC_VALIDATION: Mapping[str, Any] = {'blending': 'constant', 'layout': 'stepped', 'margin': 0}
"""Windows of the validation in the public repositories."""


def counted_down(count: int, name: str) -> Callable[[re.Match[str]], str]:
    """Return a replacement that counts from the deepest of `count` levels."""
    return lambda match: f'{name}.{count - int(match[1])}.'


def from_zero(template: str) -> Callable[[re.Match[str]], str]:
    """Return a replacement whose numbers count from 0 instead of 1."""
    return lambda match: template.format(*(int(group) - 1 for group in match.groups()))
