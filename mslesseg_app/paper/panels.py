"""Panels of the paper's figures: a slice in grey, and what is drawn over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from mslesseg_app.reports import svg
from mslesseg_app.reports.content import Figure
from mslesseg_app.reports.slices import (
    PLANES,
    WORLD_AXES,
    Box,
    OrientedVolume,
    bounding_box,
    foreground,
    grey_window,
    oriented_like,
    outlines,
    pixel_size,
    sides,
    slice_plane,
    to_grey,
)

_MARGIN_MM = 6.0


@dataclass(frozen=True)
class Cut:
    """One slice through an image, and how it is shown."""

    volume: OrientedVolume
    box: Box
    axis: int
    index: int

    def of(self, data: NDArray[Any]) -> NDArray[Any]:
        """Return the slice of an array as it is looked at."""
        return slice_plane(data, self.axis, self.index, self.box)

    @property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel in mm."""
        return pixel_size(self.volume, self.axis)

    @property
    def words(self) -> str:
        """``axial slice at z = 21.0 mm``."""
        place = self.volume.position(self.axis, self.index)
        return f'{PLANES[self.axis]} slice at {WORLD_AXES[self.axis]} = {place:.1f} mm'


def values(
    image: nb.spatialimages.SpatialImage, volume: OrientedVolume, what: str
) -> NDArray[Any]:
    """Return the values of an image as a volume is turned."""
    return np.asarray(oriented_like(image, volume, what).data)


def masks_in(images: Mapping[str, Any], volume: OrientedVolume) -> dict[str, NDArray[np.bool_]]:
    """Return the masks as a volume is turned."""
    return {
        name: values(image, volume, f'The mask of {name}') > 0 for name, image in images.items()
    }


def cut_through(volume: OrientedVolume, mask: NDArray[np.bool_]) -> Cut:
    """Choose the slice with most of the mask; the middle one where it is empty."""
    axis = volume.thick_axis
    inside = foreground(volume.data)
    box = bounding_box(inside | mask, volume.spacing, _MARGIN_MM)
    others = tuple(other for other in range(3) if other != axis)
    sums = mask.sum(axis=others)
    middle = (box[axis].start + box[axis].stop) // 2
    index = int(np.argmax(sums)) if sums.any() else middle
    return Cut(volume, box, axis, index)


def panel(
    cut: Cut, data: NDArray[Any], name: str, inside: NDArray[np.bool_] | None = None
) -> svg.Panel:
    """Start a panel with the slice in grey; ``inside`` are the voxels that set the scale."""
    plane = cut.of(data)
    rows, columns = plane.shape
    drawn = svg.panel(columns * cut.pixel[0], rows * cut.pixel[1], name, f'{name}, {cut.words}')
    window = grey_window(data, foreground(data) if inside is None else inside)
    svg.place_image(drawn.element, to_grey(plane, window), cut.pixel)
    svg.mark_sides(drawn, sides(cut.axis))
    return drawn


def fill(drawn: svg.Panel, cut: Cut, mask: NDArray[np.bool_], colour: str) -> None:
    """Fill a mask with a colour, and draw its outline."""
    svg.contour(
        drawn.element,
        outlines(cut.of(mask), cut.pixel),
        colour,
        fill=colour,
        fill_opacity='0.55',
        fill_rule='evenodd',
        stroke_width='0.8',
    )


def save(
    panels: list[svg.Panel], columns: int, out: Path, title: str, caption: str, alt: str
) -> Figure:
    """Write panels as one figure."""
    figure = Figure('other', str(out), title, caption, alt)
    svg.save(svg.mosaic(panels, columns=columns), figure)
    return figure
