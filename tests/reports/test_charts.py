"""Charts: scales, points where they belong, nothing random, data beside the drawing."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from mslesseg_app.reports.axes import Axis, log_ticks, span, ticks
from mslesseg_app.reports.chart_marks import beeswarm
from mslesseg_app.reports.charts import ChartSeries, Line, rates, scatter, strips
from mslesseg_app.reports.svg import SVG


def circles(root: ET.Element) -> list[ET.Element]:
    return root.findall(f'{{{SVG}}}circle')


@pytest.mark.parametrize(
    ('low', 'high'), [(0, 1), (-3, 17), (0, 1e-4), (1e5, 3e7), (-0.02, 0.013), (5.1, 5.2)]
)
def test_ticks_are_few_and_within_the_ends(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in found)
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_logarithmic_ticks() -> None:
    assert log_ticks(0.05, 200) == [0.1, 1, 10, 100]
    assert log_ticks(1.5, 30) == [2, 5, 10, 20]


@pytest.mark.parametrize(
    ('values', 'keep'),
    [([], ()), ([3.0], ()), ([0.0], (0,)), ([0.0, 0.0], (0, 1)), ([math.nan, math.inf], ())],
)
def test_an_axis_always_has_two_ends(values: list[float], keep: tuple[float, ...]) -> None:
    low, high = span(values, keep=keep)
    assert low < high
    low, high = span([*values, -1.0], log=True)
    assert 0 < low < high


def test_places_on_axes() -> None:
    assert Axis(0, 10, 100, 200).at(2.5) == 125
    assert Axis(1, 100, 0, 200, log=True).at(10) == pytest.approx(100)


def test_points_stand_at_their_values() -> None:
    chart = strips(
        'k', 'T', 'mm', [ChartSeries('a', np.array([0.0, 5.0, math.nan, 10.0]))], keep=(0,)
    )
    x = [float(point.get('cx', '')) for point in circles(chart.drawing)]
    assert len(x) == 3
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.02)
    assert [row[2] for row in chart.data[1]] == ['0', '5', 'n/a', '10']


def test_points_of_one_value_do_not_hide_each_other() -> None:
    offsets = beeswarm(np.full(5, 3.0), 8.0, 20.0)
    assert len(set(offsets.round(3))) == 5
    assert beeswarm(np.array([0.0, 50.0, 100.0]), 8.0, 20.0).tolist() == [0, 0, 0]


def test_lines_end_at_the_axes() -> None:
    chart = scatter(
        'k',
        'T',
        ('x', 'y'),
        [ChartSeries('a', np.array([1.0, 3.0]), np.array([1.0, 2.0]))],
        lines=[Line((-1e6, 1e6), (1.5, 1.5), 'flat'), Line((0, 10), (0, 50), 'steep')],
    )
    numbers = [
        float(value)
        for path in chart.drawing.findall(f'{{{SVG}}}path')
        for value in re.findall(r'-?[\d.]+', path.get('d', ''))
    ]
    assert len(numbers) >= 8
    assert 0 <= min(numbers) <= max(numbers) <= 560


def test_logarithmic_scatter_leaves_out_zero() -> None:
    series = [ChartSeries('a', np.array([0.0, 1.0, 10.0]), np.array([0.5, 0.6, 0.7]))]
    chart = scatter('k', 'T', ('x', 'y'), series, log=(True, False))
    assert len(circles(chart.drawing)) == 2
    assert len(chart.data[1]) == 3, 'the data have all'


def test_rates_with_gaps() -> None:
    series = [ChartSeries('a', np.zeros(0), np.array([0.2, math.nan, 0.9]), ['1', '0', '7'])]
    ends = np.array([0.1, math.nan, 0.8])
    chart = rates(
        'k', 'T', ('size', 'share'), ['s', 'm', 'l'], series, lows=[ends], highs=[ends + 0.1]
    )
    assert len(circles(chart.drawing)) == 2
    assert chart.data[1][1] == ['a', 'm', '0', 'n/a', 'n/a', 'n/a']


def test_a_file_stands_alone_and_is_the_same_each_time(tmp_path: Path) -> None:
    chart = strips('k', 'T', 'x', [ChartSeries('<&>', np.array([1.0, 2.0]), labels=['<1>', '2'])])
    svg, tsv = chart.write(tmp_path)
    before = svg.read_bytes()
    root = ET.fromstring(before)
    assert root.find(f'{{{SVG}}}style') is not None
    assert root.findtext(f'{{{SVG}}}title') == 'T'
    chart.write(tmp_path)
    assert svg.read_bytes() == before
    assert tsv.read_text().splitlines()[1] == '<&>\t<1>\t1'
    assert 'style' not in chart.markup().split('>', 1)[1][:40], 'a page brings the style once'


def test_a_long_legend_takes_more_rows_and_stays_inside() -> None:
    series = [ChartSeries(f'consensus-{k}', np.array([1.0]), np.array([k])) for k in range(8)]
    chart = scatter('k', 'T', ('x', 'y'), series)
    names = [t for t in chart.drawing.findall(f'{{{SVG}}}text') if 'consensus' in (t.text or '')]
    assert len(names) == 8
    assert len({t.get('y') for t in names}) >= 2
    assert max(float(t.get('x', '')) for t in names) < 500
    lowest = max(float(t.get('y', '')) for t in names)
    marks = [float(c.get('cy', '')) for c in circles(chart.drawing) if c.get('r') == '3.6']
    assert min(marks) > lowest
