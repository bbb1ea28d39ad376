"""Which window edges a network accepts, told from its options and without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mslesseg_app.core.errors import ModelError

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class EdgeRule:
    """Edges (voxels) of the windows that a network takes.

    Attributes
    ----------
    multiple : int
        Each edge is a multiple of this.
    fixed : three ints or None
        The only window that is accepted, for networks with a table of positions.
    smallest : int
        Shortest edge that is accepted.
    """

    multiple: int
    fixed: Triple | None = None
    smallest: int = 1

    def problem(self, shape: Sequence[int]) -> str:
        """Return why a window of this shape is refused, or nothing."""
        if self.fixed is not None:
            return (
                '' if tuple(shape) == self.fixed else f'edges {tuple(shape)} are not {self.fixed}'
            )
        if all(edge % self.multiple == 0 and edge >= self.smallest for edge in shape):
            return ''
        return f'edges {tuple(shape)} are not multiples of {self.multiple} from {self.smallest} up'

    def check(self, shape: Sequence[int]) -> None:
        """Raise ValueError if a window of this shape is refused."""
        problem = self.problem(shape)
        if problem:
            raise ValueError(problem)


def triple(edge: int | Sequence[int]) -> Triple:
    """Return one edge three times, or three edges as they are.

    Raises
    ------
    ValueError
        Unless these are one or three positive whole numbers.
    """
    edges = [edge] * 3 if isinstance(edge, int) else list(edge)
    if len(edges) != 3 or not all(isinstance(e, int) and e > 0 for e in edges):
        raise ValueError(f'{edge!r} is neither one edge nor three')
    return edges[0], edges[1], edges[2]


def unet_edges(
    channels: Sequence[int] = (16, 32, 64, 128, 256), fold: int = 1, **_: Any
) -> EdgeRule:
    """Rule of the residual U-Net: one halving less than levels, after folding."""
    multiple = fold * 2 ** (len(channels) - 1)
    return EdgeRule(multiple, smallest=2 * multiple)


def mssegdiff_edges(
    features: Sequence[int] = (64, 64, 128, 256, 512, 64), attention: bool = True, **_: Any
) -> EdgeRule:
    """Rule of MSSegDiff: the last attention block halves once more than the levels do."""
    smallest = 2 ** (len(features) - 1)
    return EdgeRule(smallest if attention else 1, smallest=smallest)


def transbts_edges(
    edge: int | Sequence[int] = 128, interpolate: bool = False, **_: Any
) -> EdgeRule:
    """Rule of TransBTS: three halvings, and the window of its table of positions."""
    return EdgeRule(8, smallest=16) if interpolate else EdgeRule(8, triple(edge), 8)


def unetr_edges(edge: int | Sequence[int] = 96, **_: Any) -> EdgeRule:
    """Rule of UNETR: tokens of 16 voxels, and the window of its table of positions."""
    return EdgeRule(16, triple(edge), 16)


def swinunetr_edges(**_: Any) -> EdgeRule:
    """Rule of SwinUNETR: five halvings, and more than one voxel left to normalise over."""
    return EdgeRule(32, smallest=64)


RULES: dict[str, Callable[..., EdgeRule]] = {
    'unet': unet_edges,
    'mssegdiff': mssegdiff_edges,
    'transbts': transbts_edges,
    'unetr': unetr_edges,
    'swinunetr': swinunetr_edges,
}
"""Rule of each network, called with its options."""


def edge_rule(architecture: str, options: Mapping[str, Any]) -> EdgeRule:
    """Return which window edges a network takes.

    Parameters
    ----------
    architecture : str
        A key of `RULES`.
    options : mapping
        Those of the model's description; what is not there has the paper's value.

    Raises
    ------
    ModelError
        For an unknown architecture, or options that say nothing sensible about edges.
    """
    if architecture not in RULES:
        raise ModelError(
            f'The network {architecture!r} has no rule for its windows.',
            f'Known: {", ".join(sorted(RULES))}.',
        )
    try:
        return RULES[architecture](**options)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f'The options of {architecture!r} do not say which windows it takes: {error}.',
            'Correct the options in its description.',
        ) from error
