"""Drawings of the workflows, from the graphs that Nipype really runs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import networkx as nx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'tests' / 'tools'))  # the stand-ins for FSL and for a dataset

IMAGES = ROOT / 'docs' / 'images'
#: Drawing: sessions, engine, settings.
DRAWINGS: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    'workflow_builtin': (('',), 'builtin', {}),
    'workflow_fsl': (('',), 'fsl', {}),
    'workflow_independent': (('',), 'fsl', {'strategy': 'independent'}),
    'workflow_unbiased': (('1', '2'), 'builtin', {'subject_anatomical_reference': 'unbiased'}),
}
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, BEND = 124, 26, 14, 34, 14, 2
COLOURS = ('#d9e8f5', '#fde6c8', '#dcefd8', '#eadcf2', '#f6d9dc', '#e8e8e0')


def draw_all() -> dict[Path, str]:
    """Return the text of every drawing (SVG) by its path."""
    return {IMAGES / f'{name}.svg': draw(name) for name in DRAWINGS}


def draw(name: str) -> str:
    """Return one drawing."""
    sessions, engine, options = DRAWINGS[name]
    return to_svg(build_graph(sessions, engine, options))


def build_graph(sessions: Iterable[str], engine: str, options: dict[str, Any]) -> nx.DiGraph:
    """Return the graph of one participant with three modalities, as a graph of names.

    The nodes that only write files are joined to one for each of their workflows.
    """
    from fakefsl import install
    from nipype.pipeline.engine.utils import generate_expanded_graph
    from skeleton import write_dataset

    from mslesseg_app.bids.exams import find_exams
    from mslesseg_app.core.settings import Settings
    from mslesseg_app.models.registry import get_entry
    from mslesseg_app.participant.workflows.base import init_run_wf

    with tempfile.TemporaryDirectory() as text, patch.dict(os.environ):
        folder = Path(text)
        os.environ.update(install(folder / 'fsl', images=False), FSLOUTPUTTYPE='NIFTI_GZ')
        stems = [f'sub-01_ses-{label}' if label else 'sub-01' for label in sessions]
        names = [f'{stem}_{suffix}' for stem in stems for suffix in ('FLAIR', 'T1w', 'T2w')]
        settings = Settings(
            bids_dir=write_dataset(folder / 'bids', names),
            out_dir=folder / 'out',
            work_dir=folder / 'work',
            **options,
        )
        workflow = init_run_wf(
            exams=find_exams(settings),
            settings=settings,
            engine=engine,
            entry=get_entry('hyperintensity'),
        )
        return named(generate_expanded_graph(workflow._create_flat_graph()), len(stems) > 1)


def named(graph: nx.DiGraph, whole: bool) -> nx.DiGraph:
    """Return a graph of the nodes' names: workflow and node, sinks joined, or ``whole`` stages."""
    from mslesseg_app.participant.interfaces.sink import DerivativesDataSink

    sinks = [node for node in graph if isinstance(node.interface, DerivativesDataSink)]

    def name_of(node: Any) -> tuple[str, str]:
        above, _, own = node.fullname.partition('.')[2].rpartition('.')
        if whole and '.' in above:  # a workflow of a session in one box
            return above.split('.')[0], above.split('.')[1]
        return (above, 'files') if node in sinks else (above, own)

    joined = nx.DiGraph()
    joined.add_nodes_from(sorted({name_of(node) for node in graph}))
    edges = {(name_of(a), name_of(b)) for a, b in graph.edges}
    joined.add_edges_from(sorted((a, b) for a, b in edges if a != b))
    if whole and not nx.is_directed_acyclic_graph(joined):  # stages that wait for each other
        return named(graph, False)
    for key in list(joined):
        joined.nodes[key]['files'] = sum(name_of(node) == key for node in sinks) * (not whole)
    return joined


def layers(graph: nx.DiGraph) -> tuple[list[list[Any]], nx.DiGraph]:
    """Put the nodes in rows, each below everything that it needs.

    Returns
    -------
    rows : list of list
        Nodes from left to right. An edge over several rows has a bend, a triple
        (start, end, row), in each row between.
    chained : DiGraph
        The graph with the bends in it, so that each edge ends in the next row.
    """
    rows = [sorted(row) for row in nx.topological_generations(graph)]
    level = {node: k for k, row in enumerate(rows) for node in row}
    chained = nx.DiGraph()
    for start, end in sorted(graph.edges):
        bends = [(start, end, k) for k in range(level[start] + 1, level[end])]
        for bend in bends:
            rows[bend[2]].append(bend)
        nx.add_path(chained, [start, *bends, end])
    for _ in range(12):
        for above, row in pairwise(rows):
            sort_row(row, above, chained.predecessors)
        for row, below in zip(rows[-2::-1], rows[:0:-1], strict=False):
            sort_row(row, below, chained.successors)
    return rows, chained


def sort_row(row: list[Any], beside: list[Any], neighbours: Callable[[Any], Any]) -> None:
    """Sort a row by the mean place of each node's neighbours in the row beside it."""
    place = {node: k / max(1, len(beside) - 1) for k, node in enumerate(beside)}

    def centre(node: Any) -> float:
        known = [place[one] for one in neighbours(node) if one in place]
        return round(sum(known) / len(known), 6) if known else 0.5

    row.sort(key=lambda node: (centre(node), str(node)))


def width(node: Any) -> int:
    """Return the width of a node, or of a bend."""
    return WIDTH if len(node) == 2 else BEND


def corners(rows: list[list[Any]], wide: int) -> dict[Any, tuple[int, int]]:
    """Return the upper left corner of each node and bend; rows are centred."""
    found = dict[Any, tuple[int, int]]()
    for level, row in enumerate(rows):
        x = (wide - sum(width(node) + GAP_X for node in row) + GAP_X) // 2
        for node in row:
            found[node] = (x, MARGIN + level * (HEIGHT + GAP_Y))
            x += width(node) + GAP_X
    return found


def to_svg(graph: nx.DiGraph) -> str:
    """Return the drawing of a graph of names."""
    rows, chained = layers(nx.transitive_reduction(graph))
    wide = max(sum(width(node) + GAP_X for node in row) for row in rows) - GAP_X + 2 * MARGIN
    groups = sorted({above for above, _ in graph})
    place = corners(rows, wide)
    high = len(rows) * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    whole = high + 18 * len(groups) + MARGIN
    head = f'width="{wide}" height="{whole}" viewBox="0 0 {wide} {whole}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {head} font-family="sans-serif" font-size="11">',
        f'<rect width="{wide}" height="{whole}" fill="#ffffff"/>',
        *sorted(edge(a, b, place) for a, b in chained.edges),
        *(box(place[n], label(graph, n), colour(groups, n[0])) for n in sorted(graph)),
    ]
    for k, group in enumerate(groups):
        y = high + 18 * k
        parts.append(
            f'<rect x="{MARGIN}" y="{y}" width="14" height="12" fill="{colour(groups, group)}" '
            f'stroke="#555555"/><text x="{MARGIN + 20}" y="{y + 10}">{escape(group)}</text>'
        )
    return '\n'.join([*parts, '</svg>']) + '\n'


def colour(groups: list[str], group: str) -> str:
    """Return the colour of a workflow: the same for the same kind of it."""
    kinds = sorted({name.rpartition('.')[2] for name in groups})
    return COLOURS[kinds.index(group.rpartition('.')[2]) % len(COLOURS)]


def label(graph: nx.DiGraph, node: tuple[str, str]) -> str:
    """Return what is written in a box."""
    number = graph.nodes[node]['files']
    return f'{number} files' if number else node[1]


def box(corner: tuple[int, int], text: str, fill: str) -> str:
    """Return a box with a word in it."""
    x, y = corner
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="{fill}" '
        f'stroke="#555555"/><text x="{x + WIDTH // 2}" y="{y + 17}" text-anchor="middle">'
        f'{escape(text)}</text>'
    )


def edge(start: Any, end: Any, place: dict[Any, tuple[int, int]]) -> str:
    """Return a line from the bottom of a box to the top of the next, straight along a bend."""
    x1, y1 = place[start][0] + width(start) // 2, place[start][1] + HEIGHT
    x2, y2 = place[end][0] + width(end) // 2, place[end][1]
    bend = (y2 - y1) // 2
    along = f'V{y2 + HEIGHT}' if len(end) == 3 else ''
    return (
        f'<path d="M{x1} {y1}C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}{along}" fill="none" '
        'stroke="#8a8a8a"/>'
    )
