"""What charts are drawn of: words, lines, points and the lines of an axis."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from mslesseg_app.reports.axes import Axis, tick_text
from mslesseg_app.reports.svg import element, number

Floats = npt.NDArray[np.float64]

RADIUS = 3.6


def draw_text(
    root: ET.Element, x: float, y: float, text: str, anchor: str = 'start', css: str = ''
) -> ET.Element:
    """Write a text."""
    classes = {'_class': css} if css else {}
    return element(root, 'text', text, x=float(x), y=float(y), text_anchor=anchor, **classes)


def draw_line(
    root: ET.Element, x1: float, y1: float, x2: float, y2: float, css: str, width: float = 1
) -> None:
    """Draw a line."""
    element(
        root,
        'line',
        x1=float(x1),
        y1=float(y1),
        x2=float(x2),
        y2=float(y2),
        _class=css,
        stroke_width=float(width),
    )


def draw_rect(
    root: ET.Element, x: float, y: float, width: float, height: float, css: str, opacity: float
) -> None:
    """Draw a rectangle."""
    element(
        root,
        'rect',
        x=float(x),
        y=float(y),
        width=float(width),
        height=float(height),
        _class=css,
        fill_opacity=float(opacity),
    )


def draw_point(
    root: ET.Element,
    x: float,
    y: float,
    colour: int,
    words: str,
    shape: int = 0,
    r: float = RADIUS,
) -> None:
    """Draw a mark whose shape differs from class to class, as its colour does."""
    paths = {
        1: f'M{number(x - r)} {number(y - r)}h{number(2 * r)}v{number(2 * r)}h{number(-2 * r)}Z',
        2: f'M{number(x)} {number(y - 1.25 * r)}L{number(x + 1.2 * r)} {number(y + r)}'
        f'H{number(x - 1.2 * r)}Z',
        3: f'M{number(x)} {number(y - 1.3 * r)}L{number(x + 1.3 * r)} {number(y)}'
        f'L{number(x)} {number(y + 1.3 * r)}L{number(x - 1.3 * r)} {number(y)}Z',
    }
    look: dict[str, Any] = {'_class': f'f{colour}', 'fill_opacity': '0.75'}
    if shape % 4 in paths:
        mark = element(root, 'path', d=paths[shape % 4], **look)
    else:
        mark = element(root, 'circle', cx=float(x), cy=float(y), r=float(r), **look)
    element(mark, 'title', words)


def vertical_lines(root: ET.Element, axis: Axis, top: float, bottom: float) -> None:
    for value in axis.ticks():
        x = axis.at(value)
        draw_line(root, x, top, x, bottom, 'grid')
        draw_text(root, x, bottom + 17, tick_text(value), 'middle', 'soft')
    draw_line(root, axis.start, bottom, axis.stop, bottom, 'axis')
    draw_text(root, (axis.start + axis.stop) / 2, bottom + 36, axis.label, 'middle')


def horizontal_lines(root: ET.Element, axis: Axis, left: float, right: float) -> None:
    for value in axis.ticks():
        y = axis.at(value)
        draw_line(root, left, y, right, y, 'grid')
        draw_text(root, left - 7, y + 4, tick_text(value), 'end', 'soft')
    draw_line(root, left, axis.start, left, axis.stop, 'axis')
    middle = (axis.start + axis.stop) / 2
    label = draw_text(root, 0, 0, axis.label, 'middle')
    label.set('transform', f'translate(15 {number(middle)}) rotate(-90)')
    del label.attrib['x'], label.attrib['y']


def beeswarm(places: Floats, apart: float, room: float) -> Floats:
    """Move points sideways so that they do not cover each other, as far as there is room."""
    offsets = np.zeros(places.size)
    done: list[int] = []
    for point in np.argsort(places, kind='stable'):
        near = [other for other in done if abs(places[other] - places[point]) < apart]
        taken = [offsets[other] for other in near]
        tries = [0.0] + [sign * k * apart / 2 for k in range(1, 40) for sign in (1.0, -1.0)]
        free = (
            t
            for t in tries
            if abs(t) <= room
            and all(
                (places[o] - places[point]) ** 2 + (y - t) ** 2 >= (apart - 0.5) ** 2
                for o, y in zip(near, taken, strict=True)
            )
        )
        offsets[point] = next(free, 0.0)
        done.append(int(point))
    return offsets
