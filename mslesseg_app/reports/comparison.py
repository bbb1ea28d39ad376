"""Figures that a report draws itself: modalities and sessions side by side, and a lesion map.

They show what the slice viewer shows, for print and for browsers that cannot draw it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from mslesseg_app.reports import svg
from mslesseg_app.reports.colours import COLOUR_WORDS, LESION_COLOUR, MODEL_COLOURS, STATUS_COLOURS
from mslesseg_app.reports.content import Figure
from mslesseg_app.reports.figures import Stage, stage_of
from mslesseg_app.reports.rendering import Viewpoint, make_scene, render
from mslesseg_app.reports.sections import Drawing
from mslesseg_app.reports.slices import (
    PLANES,
    WORLD_AXES,
    Box,
    OrientedVolume,
    oriented,
    oriented_like,
    outlines,
    pixel_size,
    sides,
)

#: Columns where there is only the FLAIR.
_COLUMNS = 3
#: Rows of panels; the largest lesions are shown.
MOST_ROWS = 6
#: Views of the lesion map, and the letters of their left and right edges.
_VIEWS = {
    'from the left': (Viewpoint(90, 5), ('A', 'P')),
    'from the right': (Viewpoint(-90, 5), ('P', 'A')),
    'from above': (Viewpoint(180, 89), ('L', 'R')),
}


def lesions_beside(
    images: Mapping[str, Any],
    brain: Any,
    labels: Any,
    coded: Any = None,
    most: int = MOST_ROWS,
) -> Drawing | None:
    """Draw the largest lesions on all modalities, one slice per row.

    Parameters
    ----------
    images : dict
        Modality to an image, all on one grid; the first is the FLAIR.
    brain, labels : image (X, Y, Z)
        On the same grid.
    coded : image (X, Y, Z), optional
        The same lesions with the codes of :data:`~.colours.STATUS_COLOURS`.

    Returns
    -------
    Drawing or None
        None where there is no lesion.

    Raises
    ------
    DataError
        If grids differ.
    """
    first = oriented(next(iter(images.values())))
    ids = np.asarray(oriented_like(labels, first, 'The lesion map').data).astype(np.int32)
    if not ids.any():
        return None
    axis = first.thick_axis
    chosen = _largest_cuts(ids, axis, most)
    stages = {name: _stage(image, first, brain, ids > 0) for name, image in images.items()}
    outlined, colours = ids, dict[int, str]()
    if coded is not None:
        outlined = np.asarray(oriented_like(coded, first, 'Outlines').data).astype(np.int32)
        colours = {code: colour for code, (_, colour) in STATUS_COLOURS.items()}
    panels = [
        _panel(stage, axis, index, name, outlined, colours)
        for index in chosen
        for name, stage in stages.items()
    ]
    names = ', '.join(images)
    figure = Figure(
        kind='beside',
        path='',
        title='Lesions on all images' if len(images) > 1 else 'The largest lesions',
        caption=f'{PLANES[axis].capitalize()} slices through the largest lesions: {names}'
        f'{_RESAMPLED if len(images) > 1 else ""}. '
        f'{"Lesion outlines" if coded is None else "Outlines"}: '
        f'{"orange" if coded is None else _key()}. Radiological convention.',
        alt=f'{len(chosen)} {PLANES[axis]} slices, each on {names}, with lesion outlines.',
        modality='',
    )
    columns = len(images) if len(images) > 1 else _COLUMNS
    return Drawing(figure, svg.mosaic(panels, columns=columns), columns)


def lesions_zoomed(
    images: Mapping[str, Any],
    brain: Any,
    labels: Any,
    own: tuple[Any, Any] | None = None,
    before: str = '',
    most: int = 3,
) -> Drawing | None:
    """Draw a few lesions enlarged: those that changed first, then the largest.

    Parameters
    ----------
    images : dict
        Column heading to an image, all on one grid; the first is the FLAIR.
    brain, labels : image (X, Y, Z)
        On the same grid.
    own : pair of images (X, Y, Z), optional
        Lesions of the previous and of this session with the codes of :data:`STATUS_COLOURS`.
    before : str
        Heading of the previous FLAIR among ``images``; it gets the lesions of its own mask.

    Returns
    -------
    Drawing or None
        None where there is no lesion.
    """
    first = oriented(next(iter(images.values())))
    ids = np.asarray(oriented_like(labels, first, 'The lesion map').data).astype(np.int32)
    codes = [
        np.asarray(oriented_like(one, first, 'Outlines').data).astype(np.int32)
        for one in own or ()
    ] or [(ids > 0).astype(np.int32)] * 2
    spots = _notable(ids, codes, most)
    if not spots:
        return None
    axis = first.thick_axis
    stages = {name: _stage(image, first, brain, ids > 0) for name, image in images.items()}
    colours = {code: colour for code, (_, colour) in STATUS_COLOURS.items()}
    panels = []
    for spot in spots:
        index, box = _around(spot, axis, first)
        for name, stage in stages.items():
            near = dataclasses.replace(stage, box=box)
            shown = codes[0] if name == before else codes[1]
            panels.append(_panel(near, axis, index, name, shown, colours))
    columns = len(stages) if len(stages) > 1 else _COLUMNS
    what = 'that changed, or the largest' if own else 'that are largest'
    figure = Figure(
        kind='overview',
        path='',
        title='Lesions in detail',
        caption=f'The {len(spots)} lesions {what}; {_ZOOM_MM:.0f} mm across. Radiological '
        'convention.' + (f' {_OWN}Outlines: {_key()}.' if own else ''),
        alt=f'{len(panels)} enlarged {PLANES[axis]} slices with lesion outlines.',
    )
    return Drawing(figure, svg.mosaic(panels, columns=columns), columns)


#: Width and height of an enlarged part of a slice, in mm.
_ZOOM_MM = 70.0


def _notable(
    ids: NDArray[np.int32], codes: list[NDArray[np.int32]], most: int
) -> list[NDArray[np.bool_]]:
    """Return masks of the lesions to show: new, enlarging, resolved, shrinking, then large."""
    earlier, later = codes
    found: list[NDArray[np.bool_]] = []
    changed = ((later, 2), (later, 3), (earlier, 5), (earlier, 4))
    whole = {id(image): _components(image) for image in codes}
    groups = [(whole[id(image)], image == code) for image, code in changed]
    for group, part in (*groups, (ids, ids > 0)):
        sizes = np.bincount(group[part], minlength=1)
        sizes[0] = 0
        for place in np.argsort(-sizes, kind='stable'):
            if len(found) == most or sizes[place] == 0:
                break
            spot = group == place
            if not any((one & spot).any() for one in found):
                found.append(spot)
    return found


def _around(spot: NDArray[np.bool_], axis: int, volume: OrientedVolume) -> tuple[int, Box]:
    """Return the slice with the largest cut of a lesion, and a box around it there."""
    others = tuple(other for other in range(3) if other != axis)
    index = int(np.argmax(spot.sum(axis=others)))
    inside = np.argwhere(np.take(spot, index, axis=axis))
    middle = (inside.min(axis=0) + inside.max(axis=0)) / 2
    box = [slice(None)] * 3
    for other, centre in zip(others, middle, strict=True):
        size, edge = spot.shape[other], volume.spacing[other]
        width = min(size, round(_ZOOM_MM / edge))
        start = int(np.clip(round(centre - width / 2), 0, size - width))
        box[other] = slice(start, start + width)
    return index, (box[0], box[1], box[2])


def _key() -> str:
    """Return the colours of the outlines in words."""
    parts = (f'{word} {COLOUR_WORDS[code]}' for code, (word, _) in STATUS_COLOURS.items())
    return ', '.join(parts)


def sessions_beside(
    before: Any,
    after: Any,
    brain: Any,
    change: Any,
    names: tuple[str, str],
    difference: Any = None,
    own: tuple[Any, Any] | None = None,
    most: int = MOST_ROWS,
) -> Drawing | None:
    """Draw the FLAIRs of two sessions side by side, where lesions changed most.

    Parameters
    ----------
    before, after, brain, change : image (X, Y, Z)
        On one grid; ``change`` holds the codes of :data:`STATUS_COLOURS`.
    names : (str, str)
        Sessions, earlier first.
    difference : image (X, Y, Z), optional
        Later less earlier FLAIR in standard deviations, on the same grid; drawn beside them,
        with ``change``.
    own : pair of images (X, Y, Z), optional
        Lesions of the earlier and of the later mask with the codes of ``change``; each is drawn
        on the image of its session. Without them both get ``change``.

    Returns
    -------
    Drawing or None
        None where no lesion changed.
    """
    first = oriented(after)
    codes = np.asarray(oriented_like(change, first, 'The change image').data).astype(np.int32)
    moved = np.where((codes > 1) & (codes < 6), codes, 0)
    if not moved.any():
        return None
    axis = first.thick_axis
    spots = _components(moved)
    chosen = _largest_cuts(spots, axis, most)
    colours = {code: colour for code, (_, colour) in STATUS_COLOURS.items()}
    stages = {
        names[0]: _stage(before, first, brain, codes > 0),
        names[1]: _stage(after, first, brain, codes > 0),
    }
    if difference is not None:
        stages['difference'] = _stage(_bounded(difference), first, brain, codes > 0)
    drawn = dict.fromkeys(stages, codes)
    for name, image in zip(names, own or (), strict=False):
        drawn[name] = np.asarray(oriented_like(image, first, 'Outlines').data).astype(np.int32)
    panels = [
        _panel(stage, axis, index, name, drawn[name], colours)
        for index in chosen
        for name, stage in stages.items()
    ]
    more = (_BESIDE if difference is not None else '', _OWN if own else '')
    figure = _figure_of_sessions(names, more, len(chosen), PLANES[axis])
    return Drawing(figure, svg.mosaic(panels, columns=len(stages)), len(stages))


_RESAMPLED = ', resampled to the grid of the FLAIR'
_OWN = 'Each session shows the outlines of its own mask. '
_BESIDE = ', and the difference of both after matching (bright: the FLAIR became brighter)'
#: Differences are drawn up to this many standard deviations.
_MOST_SD = 8.0


def _figure_of_sessions(
    names: tuple[str, str], more: tuple[str, str], count: int, plane: str
) -> Figure:
    return Figure(
        kind='change',
        path='',
        title=f'Lesions in {names[0]} and {names[1]}',
        caption=f'FLAIR of both sessions on the grid of {names[1]}, at the slices where the '
        f'largest changed lesions are largest{more[0]}. '
        f'{more[1]}Outlines: {_key()}. Radiological convention.',
        alt=f'{count} pairs of {plane} FLAIR slices of two sessions with outlines '
        'of stable and changed lesions.',
        modality='FLAIR',
    )


def _bounded(difference: Any) -> Any:
    data = np.clip(np.asanyarray(difference.dataobj), -_MOST_SD, _MOST_SD)
    return nb.Nifti1Image(data.astype(np.float32), difference.affine)


def lesion_map(image: Any, brain: Any, lesions: Any) -> Drawing | None:
    """Draw the lesions in three dimensions in a transparent brain, from three sides.

    Parameters
    ----------
    image, brain, lesions : image (X, Y, Z)
        On the template grid of 1 mm.

    Returns
    -------
    Drawing or None
        None where there is no lesion or no brain.
    """
    volume = oriented(image)
    mask = np.asarray(oriented_like(brain, volume, 'The brain mask').data) > 0
    spots = np.asarray(oriented_like(lesions, volume, 'The lesion mask').data) > 0
    if not mask.any() or not spots.any():
        return None
    scene = make_scene(np.asarray(volume.data), mask, spots)
    panels = []
    for words, (view, letters) in _VIEWS.items():
        rgb = render(scene, view)[1]
        panel = svg.panel(float(rgb.shape[1]), float(rgb.shape[0]), words, f'Lesions {words}')
        svg.place_image(panel.element, rgb, (1.0, 1.0))
        svg.mark_sides(panel, letters)
        panels.append(panel)
    figure = Figure(
        kind='map',
        path='',
        title='Lesion map',
        caption='All lesions (orange) in a transparent brain, MNI space. Seen from above with '
        "anterior at the top, the patient's left on the left.",
        alt='Three views of a transparent brain with all lesions.',
        modality='',
    )
    return Drawing(figure, svg.mosaic(panels, columns=len(panels)), len(panels))


def models_beside(
    flair: Any, brain: Any, masks: Mapping[str, Any], most: int = MOST_ROWS
) -> Drawing | None:
    """Draw the outline of each model's mask on the slices through the largest lesions.

    Parameters
    ----------
    flair, brain : image (X, Y, Z)
    masks : mapping of model to image (X, Y, Z)
        On the same grid, two or more.

    Returns
    -------
    Drawing or None
        None where no model marks a lesion.

    Raises
    ------
    DataError
        If grids differ.
    """
    first = oriented(flair)
    found = {
        name: np.asarray(oriented_like(mask, first, f'The mask of {name}').data) > 0
        for name, mask in masks.items()
    }
    union = np.logical_or.reduce(list(found.values()))
    if not union.any():
        return None
    axis = first.thick_axis
    stage = _stage(flair, first, brain, union)
    words = dict(zip(found, itertools.cycle(MODEL_COLOURS), strict=False))
    panels = []
    for index in _largest_cuts(_components(union.astype(np.int32)), axis, most):
        panel = _panel(stage, axis, index, 'FLAIR', np.zeros(union.shape, np.int32), {})
        for name, mask in found.items():
            lines = outlines(np.asarray(stage.cut(mask, axis, index)), pixel_size(first, axis))
            svg.contour(panel.element, lines, MODEL_COLOURS[words[name]], _class='msl-line')
        panels.append(panel)
    key = ', '.join(f'{name} {colour}' for name, colour in words.items())
    figure = Figure(
        kind='models',
        path='',
        title='Outlines by model',
        caption=f'{PLANES[axis].capitalize()} slices through the largest lesions that any model '
        f'marks. Outlines: {key}. Radiological convention.',
        alt=f'{len(panels)} {PLANES[axis]} FLAIR slices with one outline for each model.',
        modality='FLAIR',
    )
    return Drawing(figure, svg.mosaic(panels, columns=_COLUMNS), _COLUMNS)


def _stage(image: Any, grid: OrientedVolume, brain: Any, spots: NDArray[np.bool_]) -> Stage:
    volume = oriented_like(image, grid, 'An image')
    inside = np.asarray(oriented_like(brain, grid, 'The brain mask').data) > 0
    return stage_of(volume, inside | spots, inside if inside.any() else spots)


def _components(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    from scipy.ndimage import label

    spots: NDArray[np.int32] = label(codes > 0)[0]
    return spots


def _largest_cuts(ids: NDArray[np.int32], axis: int, most: int) -> list[int]:
    """Slices with the largest cut of each of the largest lesions, from below to above."""
    sizes = np.bincount(ids.ravel())[1:]
    others = tuple(other for other in range(3) if other != axis)
    chosen: set[int] = set()
    for place in np.argsort(-sizes, kind='stable'):
        if sizes[place] == 0 or len(chosen) == most:
            break
        cuts = (ids == place + 1).sum(axis=others)
        if not any(cuts[index] >= 0.8 * cuts.max() for index in chosen):
            chosen.add(int(np.argmax(cuts)))
    return sorted(chosen)


def _panel(
    stage: Stage,
    axis: int,
    index: int,
    name: str,
    ids: NDArray[np.int32],
    colours: Mapping[int, str],
) -> svg.Panel:
    pixel = pixel_size(stage.volume, axis)
    grey = stage.grey(axis, index)
    rows, columns = grey.shape
    where = f'{WORLD_AXES[axis]} = {stage.volume.position(axis, index):+.1f} mm'
    words = f'{name}, {where.replace("-", "−")}'
    drawn = svg.panel(columns * pixel[0], rows * pixel[1], words, f'{PLANES[axis]} slice, {words}')
    svg.place_image(drawn.element, grey, pixel)
    plane = np.asarray(stage.cut(ids, axis, index), dtype=np.int32)
    for value in np.unique(plane[plane > 0]):
        lines = outlines(plane == value, pixel)
        svg.contour(
            drawn.element, lines, colours.get(int(value), LESION_COLOUR), _class='msl-line'
        )
    svg.mark_sides(drawn, sides(axis))
    return drawn
