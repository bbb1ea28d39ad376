"""Which window edges a network accepts, told without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
