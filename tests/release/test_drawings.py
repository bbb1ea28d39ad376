"""The drawings of the workflows are of the workflows that run."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import networkx as nx
import pytest

from release import drawings


@pytest.mark.parametrize('name', drawings.DRAWINGS)
def test_the_drawing_is_in_step(name):
    """Out of date? `make derived` writes it anew."""
    text = (drawings.IMAGES / f'{name}.svg').read_text(encoding='utf-8')
    assert text == drawings.draw(name)
    ET.fromstring(text)


def test_every_node_is_drawn():
    graph = drawings.build_graph(*drawings.DRAWINGS['workflow_builtin'])
    words = re.findall(r'>([^<]+)</text>', drawings.to_svg(graph))
    nodes = [node for above, node in graph if node != 'files']
    assert len(nodes) > 25
    assert not set(nodes) - set(words)
    assert {'conform_flair', 'align', 'segment', 'find', 'measure'} <= set(nodes)


def test_each_line_goes_down_by_one_row():
    graph = nx.DiGraph([('ab', 'cd'), ('cd', 'ef'), ('ab', 'ef'), ('gh', 'ef')])
    rows, chained = drawings.layers(graph)
    level = {node: k for k, row in enumerate(rows) for node in row}
    assert all(level[b] == level[a] + 1 for a, b in chained.edges)
    bends = [node for node in chained if len(node) == 3]
    assert sorted(bends) == [('ab', 'ef', 1), ('gh', 'ef', 1)]


def test_boxes_do_not_overlap():
    graph = drawings.build_graph(*drawings.DRAWINGS['workflow_fsl'])
    rows, _ = drawings.layers(nx.transitive_reduction(graph))
    place = drawings.corners(rows, 2000)
    for row in rows:
        for left, right in pairwise(row):
            assert place[left][0] + drawings.width(left) <= place[right][0]
