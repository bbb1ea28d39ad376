"""Small SVG documents: panels of a grey image with contours and marks over it.

A panel is measured in millimetres, so that pixels that are not square come out right without
resampling.  Images are embedded as JPEG; contours and text stay vectors.  The bytes depend on
nothing but the content.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mslesseg_app.core.errors import DataError
from mslesseg_app.core.files import write_text
from mslesseg_app.reports.content import Figure

SVG = 'http://www.w3.org/2000/svg'
ET.register_namespace('', SVG)

#: Root attribute by which a report knows a drawing that it can take apart.
MARK = 'data-figure'

#: Longest side of an embedded image in pixels.
_MOST_PIXELS = 512
_QUALITY = 88
_HALO = {'stroke': '#000', 'paint-order': 'stroke', 'stroke-linejoin': 'round'}

#: Switches between two images: while pointed at, or steadily where motion is not wanted.
FLICKER_STYLE = """\
.msl-b{opacity:0}
@keyframes msl-flicker{0%,40%{opacity:0}50%,90%{opacity:1}100%{opacity:0}}
.msl-flicker:hover .msl-b,.msl-flicker:focus .msl-b\
{animation:msl-flicker 2s linear infinite}
@media (prefers-reduced-motion:reduce){
.msl-flicker:hover .msl-b,.msl-flicker:focus .msl-b{animation:none;opacity:1}}
@media print{.msl-flicker .msl-b{animation:none!important;opacity:0!important}}
"""


@dataclass(frozen=True)
class Panel:
    """One nested drawing and its size in mm."""

    element: ET.Element
    width: float
    height: float


def number(value: float) -> str:
    """Write a coordinate with two decimals and no needless zeros."""
    text = f'{value:.2f}'.rstrip('0').rstrip('.')
    return '0' if text in ('-0', '') else text


def element(
    parent: ET.Element | None, tag: str, text: str | None = None, **attributes: Any
) -> ET.Element:
    """Add an SVG element; ``_`` in attribute names stands for ``-``, floats are shortened."""
    plain = {
        key.strip('_').replace('_', '-'): number(value) if isinstance(value, float) else str(value)
        for key, value in attributes.items()
    }
    name = f'{{{SVG}}}{tag}'
    made = ET.Element(name, plain) if parent is None else ET.SubElement(parent, name, plain)
    made.text = text
    return made


def jpeg_uri(grey: NDArray[np.uint8]) -> str:
    """Encode an image, grey (rows, columns) or RGB (rows, columns, 3), as a JPEG data URI."""
    image = Image.fromarray(np.ascontiguousarray(grey))
    if max(image.size) > _MOST_PIXELS:
        image.thumbnail((_MOST_PIXELS, _MOST_PIXELS), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format='JPEG', quality=_QUALITY, optimize=True)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode('ascii')


def panel(width: float, height: float, label: str, alt: str) -> Panel:
    """Start a black panel with a line of text over the image.

    Parameters
    ----------
    width, height : float
        Size of the image in mm; the text line comes on top of it.
    """
    strip = text_size(width) * 1.6
    drawing = element(
        None,
        'svg',
        _class='msl-panel',
        role='img',
        aria_label=alt,
        viewBox=f'0 {number(-strip)} {number(width)} {number(height + strip)}',
    )
    element(drawing, 'rect', y=-strip, width=width, height=height + strip, fill='#000')
    write(drawing, label, width / 2, -strip * 0.3, text_size(width), anchor='middle')
    return Panel(drawing, width, height + strip)


def text_size(width: float) -> float:
    """Height of letters in mm that is readable in a panel of this width."""
    return 0.055 * width


def write(
    parent: ET.Element,
    text: str,
    x: float,
    y: float,
    size: float,
    anchor: str = 'start',
    fill: str = '#fff',
    **attributes: Any,
) -> ET.Element:
    """Write white text with a dark edge, so that it is read on any grey."""
    return element(
        parent,
        'text',
        text,
        x=x,
        y=y,
        font_size=size,
        text_anchor=anchor,
        fill=fill,
        font_family='system-ui,Helvetica,Arial,sans-serif',
        stroke_width=0.22 * size,
        **_HALO,
        **attributes,
    )


def place_image(
    parent: ET.Element, grey: NDArray[np.uint8], pixel: tuple[float, float], **attributes: Any
) -> None:
    """Put a grey or coloured image at the upper left corner; pixels may be oblong."""
    rows, columns = grey.shape[:2]
    element(
        parent,
        'image',
        x=0,
        y=0,
        width=columns * pixel[0],
        height=rows * pixel[1],
        preserveAspectRatio='none',
        href=jpeg_uri(grey),
        **attributes,
    )


def mark_sides(drawn: Panel, letters: tuple[str, str]) -> None:
    """Write the letters of the two sides at half height."""
    size = text_size(drawn.width) * 1.15
    middle = (drawn.height - size * 1.4) / 2 + size / 3
    for letter, x, anchor in ((letters[0], 0.3, 'start'), (letters[1], -0.3, 'end')):
        at = x * size if x > 0 else drawn.width + x * size
        write(
            drawn.element, letter, at, middle, size, anchor, _class='msl-side', font_weight='bold'
        )


def contour(
    parent: ET.Element, lines: list[NDArray[np.float64]], colour: str, **attributes: Any
) -> None:
    """Draw outlines (x, y in mm) as one path; nothing where there are none."""
    if not lines:
        return
    steps = ['M' + 'L'.join(f'{number(x)} {number(y)}' for x, y in points) for points in lines]
    style: dict[str, Any] = {
        'd': ''.join(steps),
        'fill': 'none',
        'stroke': colour,
        'stroke_width': '1.4',
        'stroke_linejoin': 'round',
        'vector_effect': 'non-scaling-stroke',
    }
    element(parent, 'path', **(style | attributes))


def mosaic(panels: list[Panel], columns: int, panel_px: int = 260) -> ET.Element:
    """Set panels in rows of ``columns``, each row as high as its highest panel."""
    columns = min(columns, len(panels))
    width = max(drawn.width for drawn in panels)
    root = element(None, 'svg', _class='msl-mosaic')
    top, gap = 0.0, 0.02 * width
    for start in range(0, len(panels), columns):
        row = panels[start : start + columns]
        scaled = [drawn.height * width / drawn.width for drawn in row]
        for place, (drawn, height) in enumerate(zip(row, scaled, strict=True)):
            drawn.element.set('x', number(place * (width + gap)))
            drawn.element.set('y', number(top))
            drawn.element.set('width', number(width))
            drawn.element.set('height', number(height))
            root.append(drawn.element)
        top += max(scaled) + gap
    total = columns * (width + gap) - gap
    root.set('viewBox', f'0 0 {number(total)} {number(top - gap)}')
    root.set('width', str(columns * panel_px))
    root.set('height', number(columns * panel_px * (top - gap) / total))
    return root


def save(root: ET.Element, figure: Figure, flicker: bool = False) -> None:
    """Write the drawing with its words, so that :func:`load` finds them again."""
    root.set(MARK, figure.kind)
    root.set('data-modality', figure.modality)
    root.set('data-caption', figure.caption)
    root.set('role', 'group')
    root.set('aria-label', figure.alt)
    title = element(None, 'title', figure.title)
    root.insert(0, title)
    if flicker:
        root.set('class', root.get('class', '') + ' msl-flicker')
        root.set('tabindex', '0')
        root.insert(1, element(None, 'style', FLICKER_STYLE))
    write_text(Path(figure.path), ET.tostring(root, encoding='unicode') + '\n')


def load(path: Path) -> tuple[Figure, ET.Element] | None:
    """Read a drawing of :func:`save`; None for any other file.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    if path.suffix != '.svg':
        return None
    try:
        root = ET.fromstring(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, ET.ParseError) as error:
        raise DataError(f'The figure {path} cannot be read: {error}.') from error
    if root.get(MARK) is None:
        return None
    title = root.findtext(f'{{{SVG}}}title') or ''
    words = [root.get(key, '') for key in (MARK, 'data-caption', 'aria-label', 'data-modality')]
    kind, caption, alt, modality = words
    return Figure(kind, str(path), title, caption, alt, modality), root


def read_figure(path: str | Path) -> Figure:
    """Give back what the function that drew the file returned, with the present path.

    Raises
    ------
    DataError
        If the file is not one of ours.
    """
    found = load(Path(path))
    if found is None:
        raise DataError(f'{path} is not a figure that mslesseg has drawn.')
    return found[0]
