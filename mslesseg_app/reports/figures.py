"""Images of one exam: lesions, brain mask and alignment.

Each function writes one SVG that needs no other file and returns a :class:`Figure` that says
how to read it.  :func:`svg.read_figure` gives the same from the file alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.filters import threshold_multiotsu

from mslesseg_app.core.errors import DataError
from mslesseg_app.reports import svg
from mslesseg_app.reports.colours import LESION_COLOUR
from mslesseg_app.reports.content import Figure
from mslesseg_app.reports.labels import Spot, place_labels
from mslesseg_app.reports.slices import (
    PLANES,
    WORLD_AXES,
    Box,
    OrientedVolume,
    bounding_box,
    demand_grid,
    foreground,
    grey_window,
    lesion_slices,
    oriented,
    oriented_like,
    outlines,
    pixel_size,
    sides,
    slice_plane,
    spread,
    to_grey,
)
from mslesseg_app.spatial.shapes import fill_holes
from mslesseg_app.spatial.template import TEMPLATE_NAME

#: Colours that stay apart for colour-blind eyes and on grey.
POSSIBLE_COLOUR = '#4dd2ff'
MASK_COLOUR = '#ff5c5c'
INNER_COLOUR = '#4dd2ff'

#: More lesion slices than this are thinned out.
MOST_SLICES = 60
_MARGIN_MM = 8.0
_CUTS = 7
_TILTED_DEGREES = 3.0
#: Fluid nearer to the edge of the brain than this is sulci, which say little about alignment.
_DEEP_MM = 18.0


@dataclass(frozen=True)
class Stage:
    """What all panels of a figure share."""

    volume: OrientedVolume
    box: Box
    window: tuple[float, float]

    def cut(self, data: NDArray[np.generic], axis: int, index: int) -> NDArray[np.generic]:
        """One slice of ``data`` as it is shown."""
        return slice_plane(data, axis, index, self.box)

    def grey(self, axis: int, index: int) -> NDArray[np.uint8]:
        """One slice of the image itself in grey."""
        return to_grey(self.cut(self.volume.data, axis, index), self.window)


def lesion_contours(
    flair: SpatialImage,
    labels: SpatialImage,
    out: str | PathLike[str],
    *,
    prob: SpatialImage | None = None,
    brain: SpatialImage | None = None,
    possible: float = 0.25,
    most_slices: int = MOST_SLICES,
) -> Figure:
    """Draw the outlines of all lesions on every slice of the FLAIR that has one.

    Slices are cut across the thick axis of the acquisition (axial for 3D images) and are those
    of the file: nothing is interpolated.  Where more than ``most_slices`` have lesions, every
    k-th is shown, and besides them the largest cut of each lesion that would be missed; the
    caption says so.  Without lesions, a few slices and the words ``no lesion detected``.

    Parameters
    ----------
    flair, labels : image (X, Y, Z)
        On one grid, in any orientation. ``labels`` holds 0 and the lesion ids.
    prob : image, optional
        Probability 0..1 on the same grid; where it reaches ``possible`` a thin line is drawn.
    brain : image, optional
        Brain mask on the same grid: sets the field of view and the grey scale.

    Raises
    ------
    DataError
        If an image is not 3D or the grids differ.
    """
    volume = oriented(flair)
    ids = np.asarray(oriented_like(labels, volume, 'The lesion map').data).astype(np.int32)
    soft = None if prob is None else oriented_like(prob, volume, 'The probability').data
    inside = _inside(volume, brain)
    stage = stage_of(volume, inside | (ids > 0), inside)
    axis = volume.thick_axis
    if not ids.any():
        return _no_lesion(stage, axis, Path(out))
    chosen, step = lesion_slices(ids, axis, most_slices)
    panels = [_lesion_panel(stage, axis, index, ids, soft, possible) for index in chosen]
    count = int(np.unique(ids[ids > 0]).size)
    total = int(np.count_nonzero((ids > 0).any(axis=_others(axis))))
    figure = Figure(
        kind='lesions',
        path=str(out),
        title='Lesions on the FLAIR',
        caption=_lesion_caption(
            stage, axis, (len(chosen), total, step), None if soft is None else possible
        ),
        alt=f'{len(chosen)} {PLANES[axis]} FLAIR slices with the outlines of {count} lesions.',
        modality='FLAIR',
    )
    svg.save(svg.mosaic(panels, columns=4), figure)
    return figure


def brain_mask_overlay(
    image: SpatialImage,
    mask: SpatialImage,
    out: str | PathLike[str],
    *,
    modality: str = '',
) -> Figure:
    """Draw the outline of the brain mask in seven slices of each of the three planes.

    Parameters
    ----------
    image, mask : image (X, Y, Z)
        On one grid, native or template. The field of view is that of the head.

    Raises
    ------
    DataError
        If an image is not 3D, the grids differ, or the mask is empty.
    """
    volume = oriented(image)
    brain = _filled(oriented_like(mask, volume, 'The brain mask'), 'brain mask')
    stage = stage_of(volume, foreground(volume.data) | brain, brain)
    panels = []
    for axis, index in _three_planes(brain):
        drawn, pixel = _open_panel(stage, axis, index)
        svg.place_image(drawn.element, stage.grey(axis, index), pixel)
        svg.contour(drawn.element, outlines(stage.cut(brain, axis, index), pixel), MASK_COLOUR)
        svg.mark_sides(drawn, sides(axis))
        panels.append(drawn)
    name = modality or 'image'
    figure = Figure(
        kind='brain',
        path=str(out),
        title=f'Brain mask on the {name}',
        caption=f'Red line: edge of the brain mask. {_SIDES}',
        alt=f'{len(panels)} axial, coronal and sagittal slices of the {name} with the outline '
        'of the brain mask.',
        modality=modality,
    )
    svg.save(svg.mosaic(panels, columns=_CUTS, panel_px=170), figure)
    return figure


def alignment_flicker(
    moving_on_template: SpatialImage,
    template_brain: SpatialImage,
    mask: SpatialImage,
    out: str | PathLike[str],
    *,
    modality: str = '',
) -> Figure:
    """Draw an aligned image that changes into the template while it is pointed at.

    Seven slices of each plane; the outlines of the template's brain and of its ventricles lie over
    both images.  Only CSS moves; print and simple viewers show the image.

    Parameters
    ----------
    moving_on_template, template_brain, mask : image (X, Y, Z)
        On the template grid; ``mask`` is the brain mask of the template.

    Raises
    ------
    DataError
        If an image is not 3D, the grids differ, or the mask is empty.
    """
    volume = oriented(moving_on_template)
    target, brain, fluid = _template_side(template_brain, mask)
    demand_grid(target, volume, 'The template')
    stage = stage_of(volume, brain, brain)
    other = stage_of(target, brain, brain)
    panels = [
        _flicker_panel(stage, other, axis, index, brain, fluid)
        for axis, index in _three_planes(brain)
    ]
    name = modality or 'image'
    figure = Figure(
        kind='alignment',
        path=str(out),
        title=f'Alignment of the {name} with the template',
        caption=f'The {name} on the template grid; pointing at it (or focus by keyboard) '
        f'changes between it and the template {TEMPLATE_NAME}. Red line: edge of the '
        f"template's brain; blue line: its ventricles, midline and deep cisterns. "
        f'{_SIDES}',
        alt=f'{len(panels)} axial, coronal and sagittal slices of the {name} with outlines of '
        f'the template {TEMPLATE_NAME}.',
        modality=modality,
    )
    svg.save(svg.mosaic(panels, columns=_CUTS, panel_px=170), figure, flicker=True)
    return figure


def _others(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _inside(volume: OrientedVolume, brain: SpatialImage | None) -> NDArray[np.bool_]:
    if brain is None:
        return foreground(volume.data)
    mask = np.asarray(oriented_like(brain, volume, 'The brain mask').data) > 0
    return mask if mask.any() else foreground(volume.data)


def _filled(mask: OrientedVolume, what: str) -> NDArray[np.bool_]:
    found = np.asarray(mask.data) > 0
    if not found.any():
        raise DataError(f'The {what} is empty.')
    return found


def stage_of(
    volume: OrientedVolume,
    shown: NDArray[np.bool_],
    inside: NDArray[np.bool_],
) -> Stage:
    """Frame what is ``shown``, in the grey scale of what is ``inside``."""
    box = bounding_box(shown, volume.spacing, _MARGIN_MM)
    return Stage(volume, box, grey_window(volume.data, inside))


def _three_planes(brain: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Axial, coronal and sagittal slices evenly through the bulk of the brain."""
    slices = []
    for axis in (2, 1, 0):
        mass = np.cumsum(brain.sum(axis=_others(axis)))
        first, last = np.searchsorted(mass, [0.02 * mass[-1], 0.98 * mass[-1]])
        slices += [(axis, index) for index in spread(int(first), int(last), _CUTS)]
    return slices


def _open_panel(
    stage: Stage, axis: int, index: int, note: str = ''
) -> tuple[svg.Panel, tuple[float, float]]:
    """Start a panel of the right size, labelled with its position."""
    pixel = pixel_size(stage.volume, axis)
    rows, columns = stage.cut(stage.volume.data, axis, index).shape
    where = _where(stage.volume, axis, index)
    alt = f'{PLANES[axis]} slice at {where}' + (f', {note}' if note else '')
    return svg.panel(columns * pixel[0], rows * pixel[1], where, alt), pixel


def _where(volume: OrientedVolume, axis: int, index: int) -> str:
    position = volume.position(axis, index)
    sign = '+' if position >= 0.05 else ('−' if position <= -0.05 else '')
    return f'{WORLD_AXES[axis]} = {sign}{abs(position):.1f} mm'


_SIDES = "Radiological convention: the patient's left (L) is on the right of the image."


@lru_cache(maxsize=1)
def _template_side(
    template_brain: SpatialImage, mask: SpatialImage
) -> tuple[OrientedVolume, NDArray[np.bool_], NDArray[np.float32]]:
    """Template, its brain and its ventricles: the same for all images of a run."""
    target = oriented(template_brain)
    on_grid = oriented_like(mask, target, "The template's brain mask")
    brain = fill_holes(_filled(on_grid, "template's mask"))
    return target, brain, _ventricles(target, brain)


def _ventricles(template: OrientedVolume, brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Smooth map of the dark spaces deep in a T1-weighted brain; above 0.5 inside them."""
    fluid = np.zeros(brain.shape, np.float32)
    box = bounding_box(brain, template.spacing, 1.0)
    inside = brain[box]
    smooth = gaussian_filter(np.asarray(template.data[box], dtype=np.float32), 0.7)
    deep = distance_transform_edt(inside, sampling=template.spacing) > _DEEP_MM
    if np.unique(smooth[deep]).size > 3:
        level = threshold_multiotsu(smooth[inside], classes=3)[0]
        fluid[box] = np.where(deep, np.clip(1.0 - smooth / (2 * level), 0.0, 1.0), 0.0)
    return fluid


def _flicker_panel(
    stage: Stage,
    other: Stage,
    axis: int,
    index: int,
    brain: NDArray[np.bool_],
    fluid: NDArray[np.float32],
) -> svg.Panel:
    drawn, pixel = _open_panel(stage, axis, index)
    svg.place_image(drawn.element, stage.grey(axis, index), pixel)
    svg.place_image(drawn.element, other.grey(axis, index), pixel, _class='msl-b')
    inner = outlines(stage.cut(fluid, axis, index), pixel)
    svg.contour(drawn.element, inner, INNER_COLOUR, stroke_width='0.7', _class='msl-line')
    edge = outlines(stage.cut(brain, axis, index), pixel)
    svg.contour(drawn.element, edge, MASK_COLOUR, stroke_width='1', _class='msl-line')
    svg.mark_sides(drawn, sides(axis))
    return drawn


def _lesion_panel(
    stage: Stage,
    axis: int,
    index: int,
    ids: NDArray[np.int32],
    soft: NDArray[np.generic] | None,
    possible: float,
) -> svg.Panel:
    plane = stage.cut(ids, axis, index)
    present = [int(value) for value in np.unique(plane) if value > 0]
    drawn, pixel = _open_panel(stage, axis, index, f'{_lesion_words(present)} outlined')
    svg.place_image(drawn.element, stage.grey(axis, index), pixel)
    if soft is not None:
        lines = outlines(stage.cut(soft, axis, index), pixel, possible)
        svg.contour(
            drawn.element,
            lines,
            POSSIBLE_COLOUR,
            stroke_width='0.8',
            stroke_dasharray='2 2',
            _class='msl-line',
        )
    _draw_lesions(drawn, {value: outlines(plane == value, pixel) for value in present})
    svg.mark_sides(drawn, sides(axis))
    return drawn


def _draw_lesions(drawn: svg.Panel, found: dict[int, list[NDArray[np.float64]]]) -> None:
    """Outline each lesion in a group of its own, with its id beside it."""
    size = svg.text_size(drawn.width)
    spots = [
        Spot(str(value), *np.concatenate(lines).min(axis=0), *np.concatenate(lines).max(axis=0))
        for value, lines in found.items()
    ]
    places = place_labels(spots, size, drawn.width, drawn.height - 1.6 * size)
    for (value, lines), (x, y) in zip(found.items(), places, strict=True):
        group = svg.element(drawn.element, 'g', _class='msl-lesion', data_lesion=value)
        svg.element(group, 'title', f'lesion {value}')
        svg.contour(group, lines, LESION_COLOUR, _class='msl-line')
        svg.write(group, str(value), x, y, size, fill=LESION_COLOUR)


def _lesion_words(values: list[int]) -> str:
    if not values:
        return 'no lesion'
    many = len(values) > 1
    return f'lesion{"s" if many else ""} {", ".join(str(value) for value in values)}'


def _no_lesion(stage: Stage, axis: int, out: Path) -> Figure:
    extent = stage.box[axis]
    panels = []
    for index in spread(extent.start, extent.stop - 1, 4):
        drawn, pixel = _open_panel(stage, axis, index)
        svg.place_image(drawn.element, stage.grey(axis, index), pixel)
        svg.mark_sides(drawn, sides(axis))
        size = svg.text_size(drawn.width)
        bottom = drawn.height - 1.6 * size - 0.5 * size
        svg.write(drawn.element, 'no lesion detected', drawn.width / 2, bottom, size, 'middle')
        panels.append(drawn)
    figure = Figure(
        kind='lesions',
        path=str(out),
        title='No lesion detected on the FLAIR',
        caption=f'No lesion detected: confirm. A few {PLANES[axis]} slices for orientation. '
        f'{_SIDES}',
        alt=f'{len(panels)} {PLANES[axis]} FLAIR slices without any outline: no lesion detected.',
        modality='FLAIR',
    )
    svg.save(svg.mosaic(panels, columns=4), figure)
    return figure


def _lesion_caption(
    stage: Stage, axis: int, shown: tuple[int, int, int], possible: float | None
) -> str:
    """Say what is shown, what is left out and how to read it."""
    count, total, step = shown
    if step == 1:
        many = (
            f'All {count} {PLANES[axis]} slices with lesions'
            if count > 1
            else (f'The one {PLANES[axis]} slice with lesions')
        )
    else:
        many = (
            f'{count} of {total} {PLANES[axis]} slices with lesions (one in {step}, and the '
            'largest cut of each lesion that these would miss)'
        )
    words = [
        f"{many}, on the FLAIR's own voxels.",
        'Orange line: outline of a lesion, with its number in the table.',
    ]
    if possible is not None:
        words.append(f'Dashed blue line: probability of {possible:g} and more.')
    words += [
        f'{WORLD_AXES[axis]}: position of the middle of the slice in scanner coordinates (RAS+).',
        _SIDES,
    ]
    if stage.volume.tilt > _TILTED_DEGREES:
        words.append(
            f'The slices are tilted by up to {stage.volume.tilt:.0f}° from the scanner axes.'
        )
    return ' '.join(words)
