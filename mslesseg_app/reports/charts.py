"""Charts as SVG that reads in light and dark: strips of points, scatter plots, rates by class.

A chart is its drawing and its data: both are written, so that every image can be made again.
Nothing here draws random numbers; the bytes depend on the content alone. Not drawn by matplotlib:
450 points of three classes take it 0.13 CPU seconds and 62 kB, and 0.80 s and 98 kB with a name
for each that can be pointed at; here they take 0.03 s and 58 kB, names included. Its colours stand
beside each point, and would have to be replaced for dark screens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from mslesseg_app.core.files import write_text
from mslesseg_app.reports.axes import Axis, span
from mslesseg_app.reports.chart_marks import (
    RADIUS,
    beeswarm,
    draw_line,
    draw_point,
    draw_rect,
    draw_text,
    horizontal_lines,
    vertical_lines,
)
from mslesseg_app.reports.svg import SVG, element, number
from mslesseg_app.reports.tabular import exact, write_tsv

Floats = npt.NDArray[np.float64]

#: Colours by class; `dark` holds for screens that ask for it. Chosen after Okabe and Ito.
_LIGHT = ('#0069ab', '#c24f00', '#00805f', '#a8477f', '#7a6a00', '#4a4fc4', '#5b6770', '#a3161a')
_DARK = ('#5db8f2', '#ff9b52', '#3fd0a4', '#ee9ac9', '#e0cc3d', '#a3a8ff', '#b4c0c9', '#ff8f8f')


def _variables(colours: Sequence[str], ink: str, soft: str, line: str, paper: str) -> str:
    series = ''.join(f'--s{place}:{colour};' for place, colour in enumerate(colours))
    return f'{series}--c-ink:{ink};--c-soft:{soft};--c-line:{line};--c-paper:{paper}'


#: Put once into a report, or into each file.
STYLE = (
    f'.msl-chart{{{_variables(_LIGHT, "#1c2530", "#53606e", "#d4dae1", "#fff")};'
    'font-family:system-ui,Helvetica,Arial,sans-serif;background:var(--c-paper)}\n'
    '@media (prefers-color-scheme:dark){.msl-chart{'
    f'{_variables(_DARK, "#e6ebf0", "#a5b1bd", "#3a4551", "#12171d")}}}}}\n'
    '@media print{.msl-chart{'
    f'{_variables(_LIGHT, "#1c2530", "#53606e", "#d4dae1", "#fff")}}}}}\n'
    '.msl-chart text{fill:var(--c-ink)}.msl-chart .soft{fill:var(--c-soft)}\n'
    '.msl-chart .grid{stroke:var(--c-line);stroke-width:1}'
    '.msl-chart .axis{stroke:var(--c-soft);stroke-width:1}\n'
    '.msl-chart .dash{stroke-dasharray:5 4}\n'
    + ''.join(
        f'.msl-chart .f{place}{{fill:var(--s{place})}}.msl-chart .l{place}'
        f'{{stroke:var(--s{place});fill:none}}\n'
        for place in range(len(_LIGHT))
    )
    + '.msl-chart .fi{fill:var(--c-ink)}.msl-chart .li{stroke:var(--c-ink);fill:none}'
)

_FONT = 13.0


@dataclass(frozen=True)
class Chart:
    """A drawing, the words around it and the numbers in it.

    Attributes
    ----------
    key : str
        Stem of its files.
    data : tuple
        Header and rows of the table beside it.
    """

    key: str
    title: str
    caption: str
    alt: str
    drawing: ET.Element
    data: tuple[list[str], list[list[str]]]

    def markup(self) -> str:
        """Return the drawing for a report that has `STYLE`."""
        return ET.tostring(self.drawing, encoding='unicode').replace(f' xmlns="{SVG}"', '', 1)

    def write(self, folder: Path) -> list[Path]:
        """Write ``<key>.svg``, which needs no other file, and ``<key>.tsv``."""
        alone = ET.fromstring(ET.tostring(self.drawing, encoding='unicode'))
        style = element(None, 'style', STYLE)
        alone.insert(0, element(None, 'title', self.title))
        alone.insert(1, style)
        paths = [folder / f'{self.key}.svg', folder / f'{self.key}.tsv']
        write_text(paths[0], ET.tostring(alone, encoding='unicode') + '\n')
        write_tsv(paths[1], *self.data)
        return paths


@dataclass(frozen=True)
class ChartSeries:
    """Points of one class.

    Attributes
    ----------
    labels : sequence of str
        What each point is; shown when it is pointed at.
    mean, low, high : float
        Mean and the ends of its interval, where it is to be drawn.
    """

    name: str
    x: Floats
    y: Floats = field(default_factory=lambda: np.zeros(0))
    labels: Sequence[str] = ()
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan


# ---------------------------------------------------------------------------- strips


def strips(
    key: str,
    title: str,
    label: str,
    series: Sequence[ChartSeries],
    *,
    caption: str = '',
    keep: tuple[float, ...] = (),
    marks: tuple[float, ...] = (),
    log: bool = False,
    colours: Sequence[int] | None = None,
) -> Chart:
    """Draw one row of points for each class: box of the quartiles, mean with its interval.

    Parameters
    ----------
    label : str
        Of the axis, with the unit.
    series : sequence of ChartSeries
        Their ``x`` are the values; NaN are left out.
    keep : tuple of float
        Values that the axis must reach, such as 0 and 1.
    marks : tuple of float
        Values with a dashed line, such as limits.
    """
    width, row = 560.0, 46.0
    left = 16.0 + 7.2 * max([len(_short(s.name)) for s in series] + [4])
    height = 14 + row * len(series) + 44
    ends = span([v for s in series for v in (*s.x, s.low, s.high, *marks)], log=log, keep=keep)
    axis = Axis(*ends, left, width - 18, label, log)
    root = _start(width, height, f'{title}: {_strip_words(series)}')
    vertical_lines(root, axis, 14, height - 44)
    for mark in marks:
        draw_line(root, axis.at(mark), 14, axis.at(mark), height - 44, 'li dash', 1.2)
    for place, one in enumerate(series):
        middle = 14 + row * (place + 0.5)
        colour = colours[place] if colours is not None else place
        draw_text(root, left - 8, middle + 4, _short(one.name), 'end')
        _strip(root, one, axis, middle, row, colour % len(_LIGHT))
    data = [
        [one.name, _label(one, place), exact(float(value))]
        for one in series
        for place, value in enumerate(one.x)
    ]
    return Chart(key, title, caption, root.get('aria-label', ''), root, (_STRIP_HEAD, data))


_STRIP_HEAD = ['series', 'point', 'value']


def _strip_words(series: Sequence[ChartSeries]) -> str:
    parts = []
    for one in series:
        known = one.x[np.isfinite(one.x)]
        middle = f'median {np.median(known):.3g}' if known.size else 'no value'
        parts.append(f'{one.name} {middle} of {known.size}')
    return '; '.join(parts)


def _strip(
    root: ET.Element, one: ChartSeries, axis: Axis, middle: float, row: float, colour: int
) -> None:
    known = np.isfinite(one.x) & ((one.x > 0) | (not axis.log))
    places = np.array([axis.at(float(v)) for v in one.x[known]])
    if not places.size:
        draw_text(root, axis.start + 6, middle + 4, 'not defined for any exam', css='soft')
        return
    if places.size >= 4:
        first, half, last = (
            axis.at(float(v)) for v in np.quantile(one.x[known], [0.25, 0.5, 0.75])
        )
        draw_rect(root, first, middle - 12, max(last - first, 1), 24, f'f{colour}', 0.16)
        draw_line(root, half, middle - 12, half, middle + 12, f'l{colour}', 2)
    offsets = beeswarm(places, 2 * RADIUS + 0.6, row / 2 - 6)
    names = [_label(one, int(place)) for place in np.flatnonzero(known)]
    for x, dy, name, value in zip(places, offsets, names, one.x[known], strict=True):
        draw_point(root, float(x), middle + float(dy), colour, f'{name}: {value:.4g}')
    if math.isfinite(one.mean):
        _mean(root, one, axis, middle)


def _mean(root: ET.Element, one: ChartSeries, axis: Axis, middle: float) -> None:
    x = axis.at(one.mean)
    words = f'mean {one.mean:.4g}'
    if math.isfinite(one.low):
        low, high = axis.at(one.low), axis.at(one.high)
        draw_line(root, low, middle, high, middle, 'li', 2)
        for end in (low, high):
            draw_line(root, end, middle - 5, end, middle + 5, 'li', 2)
        words += f', 95 % interval {one.low:.4g} to {one.high:.4g}'
    r = 5.5
    mark = element(
        root,
        'path',
        d=f'M{number(x - r)} {number(middle)}L{number(x)} {number(middle - r)}'
        f'L{number(x + r)} {number(middle)}L{number(x)} {number(middle + r)}Z',
        _class='fi',
    )
    element(mark, 'title', words)


# --------------------------------------------------------------------------- scatter


@dataclass(frozen=True)
class Line:
    """A straight line through a scatter plot, in values of the axes."""

    x: tuple[float, float]
    y: tuple[float, float]
    name: str
    colour: int | None = None
    dashed: bool = False


def scatter(
    key: str,
    title: str,
    labels: tuple[str, str],
    series: Sequence[ChartSeries],
    *,
    lines: Sequence[Line] = (),
    caption: str = '',
    log: tuple[bool, bool] = (False, False),
    square: bool = False,
    keep: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
    colours: Sequence[int] | None = None,
) -> Chart:
    """Draw points of one or more classes over two axes, with lines.

    Parameters
    ----------
    labels : tuple of str
        Of the two axes, with units.
    square : bool
        Both axes have the same ends.
    """
    width, height = 560.0, 400.0
    xs = [float(v) for s in series for v in s.x]
    ys = [float(v) for s in series for v in s.y]
    extra = [float(v) for item in lines for v in item.y]
    if square:
        xs = ys = xs + ys
    x_axis = Axis(*span(xs, log=log[0], keep=keep[0]), 66, width - 16, labels[0], log[0])
    y_ends = span(ys if square else ys + extra, log=log[1], keep=keep[1])
    top = _legend_height(series, x_axis.start, x_axis.stop)
    y_axis = Axis(*y_ends, height - 48, top, labels[1], log[1])
    root = _start(width, height, f'{title}: {len(xs)} points.')
    vertical_lines(root, x_axis, y_axis.stop, y_axis.start)
    horizontal_lines(root, y_axis, x_axis.start, x_axis.stop)
    for item in lines:
        _plot_line(root, item, x_axis, y_axis)
    data = []
    for place, one in enumerate(series):
        colour = (colours[place] if colours is not None else place) % len(_LIGHT)
        for index, (x, y) in enumerate(zip(one.x, one.y, strict=True)):
            data.append([one.name, _label(one, index), exact(float(x)), exact(float(y))])
            if _drawable(float(x), x_axis) and _drawable(float(y), y_axis):
                words = f'{_label(one, index)}: {x:.4g}, {y:.4g}'
                draw_point(root, x_axis.at(float(x)), y_axis.at(float(y)), colour, words, place)
    _legend(root, series, (x_axis.start, x_axis.stop), colours)
    head = ['series', 'point', 'x', 'y']
    words = f'{title}: {labels[1]} against {labels[0]}, {len(data)} points.'
    root.set('aria-label', words)
    return Chart(key, title, caption, words, root, (head, data))


def _drawable(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _plot_line(root: ET.Element, item: Line, x_axis: Axis, y_axis: Axis) -> None:
    """Draw a line within the axes; it is cut where it leaves them."""
    first, last = max(item.x[0], x_axis.low), min(item.x[1], x_axis.high)
    if first >= last:
        return
    samples = np.linspace(0, 1, 401)
    xs = first + samples * (last - first)
    if x_axis.log:
        xs = np.exp(np.log(first) + samples * (np.log(last) - np.log(first)))
    share = (xs - item.x[0]) / ((item.x[1] - item.x[0]) or 1.0)
    ys = item.y[0] + share * (item.y[1] - item.y[0])
    inside = (xs >= x_axis.low) & (xs <= x_axis.high) & (ys >= y_axis.low) & (ys <= y_axis.high)
    if not inside.any():
        return
    if not (x_axis.log or y_axis.log):  # straight: the two ends are enough
        xs, ys = xs[inside][[0, -1]], ys[inside][[0, -1]]
    else:
        xs, ys = xs[inside], ys[inside]
    points = [
        f'{number(x_axis.at(float(x)))} {number(y_axis.at(float(y)))}'
        for x, y in zip(xs, ys, strict=True)
    ]
    css = 'li' if item.colour is None else f'l{item.colour % len(_LIGHT)}'
    drawn = element(
        root,
        'path',
        d='M' + 'L'.join(points),
        _class=css + (' dash' if item.dashed else ''),
        stroke_width='1.6',
    )
    element(drawn, 'title', item.name)


# ----------------------------------------------------------------------------- rates


def rates(
    key: str,
    title: str,
    labels: tuple[str, str],
    classes: Sequence[str],
    series: Sequence[ChartSeries],
    *,
    lows: Sequence[Floats],
    highs: Sequence[Floats],
    caption: str = '',
    colours: Sequence[int] | None = None,
) -> Chart:
    """Draw a share from 0 to 1 for each class and series, with its interval.

    Parameters
    ----------
    classes : sequence of str
        Along the horizontal axis.
    series : sequence of ChartSeries
        Their ``y`` are the shares, one per class; ``labels`` say what each is of.
    """
    width, height = 560.0, 340.0
    left, right = 58.0, width - 12
    axis = Axis(0, 1, height - 62, _legend_height(series, left, right), labels[1])
    step = (right - left) / max(1, len(classes))
    root = _start(width, height, f'{title}: {labels[1]} by {labels[0]}.')
    horizontal_lines(root, axis, left, right)
    for place, name in enumerate(classes):
        draw_text(root, left + step * (place + 0.5), height - 42, name, 'middle')
    draw_text(root, (left + right) / 2, height - 12, labels[0], 'middle', 'soft')
    data = []
    for place, one in enumerate(series):
        colour = (colours[place] if colours is not None else place) % len(_LIGHT)
        shift = (place - (len(series) - 1) / 2) * min(16.0, step / (len(series) + 1))
        before: tuple[float, float] | None = None
        for index, name in enumerate(classes):
            y = float(one.y[index])
            low, high = float(lows[place][index]), float(highs[place][index])
            data.append([one.name, name, _label(one, index), exact(y), exact(low), exact(high)])
            if not math.isfinite(y):
                before = None
                continue
            here = (left + step * (index + 0.5) + shift, axis.at(y))
            if before:
                draw_line(root, *before, *here, f'l{colour}', 1.2)
            if math.isfinite(low):
                draw_line(root, here[0], axis.at(low), here[0], axis.at(high), f'l{colour}', 2)
            draw_point(root, *here, colour, f'{one.name}, {name}: {y:.3f}', place, 5.0)
            before = here
    _legend(root, series, (left, right), colours)
    head = ['series', 'class', 'of', 'share', 'low', 'high']
    return Chart(key, title, caption, root.get('aria-label', ''), root, (head, data))


# ---------------------------------------------------------------------------- pieces


def _start(width: float, height: float, alt: str) -> ET.Element:
    return element(
        None,
        'svg',
        _class='msl-chart',
        viewBox=f'0 0 {number(width)} {number(height)}',
        width=number(width),
        height=number(height),
        role='img',
        aria_label=alt,
        font_size=number(_FONT),
    )


def _legend_positions(
    names: Sequence[str], left: float, right: float
) -> list[tuple[float, float]]:
    """Return where each name of the legend stands, in as many rows as they need."""
    places: list[tuple[float, float]] = []
    x, y = left, 13.0
    for name in names:
        width = 32 + 7.2 * len(_short(name))
        if places and x + width > right:
            x, y = left, y + 20
        places.append((x, y))
        x += width
    return places


def _legend_height(series: Sequence[ChartSeries], left: float, right: float) -> float:
    """Return the room above the axes: enough for the legend, little without one."""
    if len(series) < 2:
        return 14.0
    return _legend_positions([one.name for one in series], left, right)[-1][1] + 20


def _legend(
    root: ET.Element,
    series: Sequence[ChartSeries],
    ends: tuple[float, float],
    colours: Sequence[int] | None,
) -> None:
    if len(series) < 2:
        return
    names = [one.name for one in series]
    for place, (x, y) in enumerate(_legend_positions(names, *ends)):
        colour = (colours[place] if colours is not None else place) % len(_LIGHT)
        draw_point(root, x + 5, y, colour, names[place], place, 5.0)
        draw_text(root, x + 15, y + 4, _short(names[place]))


def _label(one: ChartSeries, place: int) -> str:
    return one.labels[place] if len(one.labels) > place else str(place + 1)


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else name[: most - 1] + '…'
