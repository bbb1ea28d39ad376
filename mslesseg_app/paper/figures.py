"""Figures 1 to 4 of the MSLesSeg paper in kind, for one exam of an output folder.

1. the modalities on one slice, lesions boxed;
2. brain and lesions in three dimensions, whole and cut through the middle of each plane;
3. the mean mask of all models (and of the best five) over the reference: false positives green,
   false negatives red;
4. the FLAIR, the reference and every model side by side on one slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mslesseg_app.bids.exam import named_exam
from mslesseg_app.bids.names import files_by_model, output_path
from mslesseg_app.core.errors import DataError, MSLesSegError, NoInputError
from mslesseg_app.metrics.exam import voxel_agreement
from mslesseg_app.paper.panels import cut_through, fill, masks_in, panel, save, values
from mslesseg_app.reports import svg
from mslesseg_app.reports.content import Figure
from mslesseg_app.reports.rendering import VIEWS, make_scene, render
from mslesseg_app.reports.slices import (
    foreground,
    oriented,
    oriented_like,
)
from mslesseg_app.spatial.masks import read_image, read_mask
from mslesseg_app.spatial.template import is_template_grid, same_grid

NUMBERS = (1, 2, 3, 4)

TRUE_COLOUR = '#ffd23f'
FALSE_POSITIVE_COLOUR = '#29d96f'
FALSE_NEGATIVE_COLOUR = '#ff4d4d'
BOX_COLOUR = '#ffb000'

_SIDES = "The patient's left (L) is on the right of the image."
#: A box around a lesion stays this far from it, in mm; boxes that touch are joined.
_BOX_MM = 4.0
_BEST = 5


@dataclass(frozen=True)
class Wanted:
    """What is to be drawn.

    Attributes
    ----------
    out : Path
        Output folder of the App.
    exam : str
        ``sub-01`` or ``sub-01_ses-1``.
    models : tuple of str
        Empty: all models of which the exam has a mask.
    reference : Path or None
        Reference mask, on the native or on the template grid.
    output : Path
        Folder of the figures.
    """

    out: Path
    exam: str
    models: tuple[str, ...]
    reference: Path | None
    output: Path

    def file(self, key: str, **extra: str) -> Path:
        """Return a file of the exam by its kind, see `mslesseg_app.bids.names.output_path`."""
        return self.out / output_path(named_exam(self.exam), key, **extra)


def make_figures(
    which: Iterable[int], wanted: Wanted
) -> tuple[list[Path], dict[int, MSLesSegError]]:
    """Draw the figures that were asked for.

    Returns
    -------
    written : list of Path
        SVG files and, where a figure has numbers, TSV files beside them.
    missing : dict
        By number of figure, why it could not be made.
    """
    makers: dict[int, Callable[[Wanted], list[Path]]] = {
        1: _modalities,
        2: _rendering,
        3: _errors,
        4: _side_by_side,
    }
    written, missing = [], {}
    for number in which:
        try:
            written += makers[number](wanted)
        except MSLesSegError as error:
            missing[number] = error
    return written, missing


# -------------------------------------------------------------------------- figure 1


def boxed_modalities(
    images: Mapping[str, Any], lesions: Any, out: Path, *, source: str = 'lesions'
) -> Figure:
    """Draw one slice of each modality with a box around each lesion.

    Parameters
    ----------
    images : dict
        Image by modality, all on one grid.
    lesions : image
        Lesion mask on that grid; the slice with most of it is shown.
    source : str
        Whose mask it is, for the caption.
    """
    first = next(iter(images.values()))
    volume = oriented(first)
    mask = values(lesions, volume, 'The lesion mask') > 0
    cut = cut_through(volume, mask)
    boxes = _boxes(cut.of(mask), cut.pixel)
    inside = foreground(volume.data)
    panels = []
    for name, image in images.items():
        data = np.asarray(oriented_like(image, volume, f'The {name}').data)
        drawn = panel(cut, data, name, inside)
        for left, top, width, height in boxes:
            svg.element(
                drawn.element,
                'rect',
                x=left,
                y=top,
                width=width,
                height=height,
                fill='none',
                stroke=BOX_COLOUR,
                stroke_width='1.6',
                vector_effect='non-scaling-stroke',
            )
        panels.append(drawn)
    names = ', '.join(images)
    return save(
        panels,
        len(panels),
        out,
        'Modalities',
        f'{names}, {cut.words}; boxes around lesions ({source}). {_SIDES}',
        f'One slice of {names} with {len(boxes)} boxes around lesions.',
    )


def _boxes(plane: NDArray[np.bool_], pixel: tuple[float, float]) -> list[tuple[float, ...]]:
    """Return x, y, width and height in mm of boxes around regions; boxes that touch are one."""
    reach = [max(1, round(_BOX_MM / size)) for size in (pixel[1], pixel[0])]
    area = np.ones((2 * reach[0] + 1, 2 * reach[1] + 1), dtype=bool)
    labels, _ = ndimage.label(ndimage.binary_dilation(plane, area), np.ones((3, 3)))
    found: list[tuple[float, ...]] = []
    for rows, columns in ndimage.find_objects(labels):
        x, y = columns.start * pixel[0], rows.start * pixel[1]
        width = (columns.stop - columns.start) * pixel[0]
        found.append((x, y, width, (rows.stop - rows.start) * pixel[1]))
    return found


def _modalities(wanted: Wanted) -> list[Path]:
    images = {}
    for name in ('FLAIR', 'T1w', 'T2w'):
        path = wanted.file('preproc_mni', suffix=name)
        if path.is_file():
            images[name] = read_image(path)
    if not images:
        raise NoInputError(
            f'{wanted.exam} has no image on the template grid in {wanted.out}.',
            'Check --exam and --out.',
        )
    lesions, source = _template_lesions(wanted)
    out = wanted.output / 'figure-1.svg'
    boxed_modalities(images, lesions, out, source=source)
    return [out]


# -------------------------------------------------------------------------- figure 2


def brain_and_lesions(image: Any, brain: Any, lesions: Any, out: Path, source: str) -> Figure:
    """Render brain and lesions: whole, and cut through the middle of each plane.

    Parameters
    ----------
    image, brain, lesions : images
        On one grid of isotropic voxels of about 1 mm.
    """
    volume = oriented(image)
    if volume.spacing.max() > 1.2 * volume.spacing.min():
        raise DataError('A rendering needs voxels with edges of about the same length.')
    mask = values(brain, volume, 'The brain mask') > 0
    if not mask.any():
        raise DataError('The brain mask is empty.')
    spots = values(lesions, volume, 'The lesion mask') > 0
    scene = make_scene(np.asarray(volume.data), mask, spots)
    size = float(volume.spacing.mean())
    drawn = {name: render(scene, view) for name, view in VIEWS.items()}
    side = max(_extent(rgb) for pair in drawn.values() for rgb in pair)
    panels = []
    for place, what in enumerate(('brain', 'lesions')):
        for name, pair in drawn.items():
            rgb = _squared(pair[place], side)
            words = f'{what}, {name}'
            panel = svg.panel(side * size, side * size, words, words)
            svg.place_image(panel.element, rgb, (size, size))
            panels.append(panel)
    return save(
        panels,
        len(VIEWS),
        out,
        'Brain and lesions in three dimensions',
        'Above: the brain, whole and cut through its central axial, coronal and sagittal slice '
        f'(grey: the image; orange: lesions on the cut). Below: the lesions ({source}) through '
        'the faded brain. Parallel projection.',
        'Eight renderings of the brain and its lesions.',
    )


def _extent(rgb: NDArray[np.uint8], margin: int = 6) -> int:
    """Return the side of the square around the middle that holds all that is not white."""
    rows, columns = np.nonzero((rgb < 250).any(axis=2))
    middle = (rgb.shape[0] - 1) / 2, (rgb.shape[1] - 1) / 2
    far = max(float(np.abs(rows - middle[0]).max()), float(np.abs(columns - middle[1]).max()))
    return 2 * (int(far) + margin)


def _squared(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cut or fill an image to a square around its middle, so that all have one scale."""
    filled = np.pad(rgb, ((side, side), (side, side), (0, 0)), constant_values=255)
    first = [(size - side) // 2 for size in filled.shape[:2]]
    return filled[first[0] : first[0] + side, first[1] : first[1] + side]


def _rendering(wanted: Wanted) -> list[Path]:
    files = [wanted.file('preproc_mni', suffix=name) for name in ('T1w', 'FLAIR')]
    image = next((path for path in files if path.is_file()), files[-1])
    brain = wanted.file('brain_mni')
    lesions, source = _template_lesions(wanted)
    out = wanted.output / 'figure-2.svg'
    brain_and_lesions(read_image(image), read_mask(brain), lesions, out, source)
    return [out]


# -------------------------------------------------------------------------- figure 3


def mean_errors(
    flair: Any, reference: Any, masks: Mapping[str, Any], out: Path
) -> tuple[Figure, list[dict[str, Any]]]:
    """Draw the mean mask of all models, and of the best five, over the reference.

    Returns
    -------
    figure : Figure
    rows : list of dict
        What each mean mask holds: voxels true and false, Dice.
    """
    volume = oriented(flair)
    truth = values(reference, volume, 'The reference') > 0
    found = masks_in(masks, volume)
    ranked = sorted(found, key=lambda name: (-voxel_agreement(found[name], truth)['DSC'], name))
    means = {f'mean of all {len(found)} models': _mean_mask(found.values())}
    if len(found) > _BEST:
        means[f'mean of the best {_BEST}'] = _mean_mask(found[name] for name in ranked[:_BEST])
    cut = cut_through(volume, truth | np.logical_or.reduce(list(means.values())))
    data = np.asarray(volume.data)
    plain = panel(cut, data, 'FLAIR')
    known = panel(cut, data, 'reference')
    fill(known, cut, truth, TRUE_COLOUR)
    panels, rows = [plain, known], []
    for name, mask in means.items():
        drawn = panel(cut, data, name)
        fill(drawn, cut, truth & mask, TRUE_COLOUR)
        fill(drawn, cut, mask & ~truth, FALSE_POSITIVE_COLOUR)
        fill(drawn, cut, truth & ~mask, FALSE_NEGATIVE_COLOUR)
        panels.append(drawn)
        rows.append(
            {
                'mask': name,
                'true_positive_voxels': int((truth & mask).sum()),
                'false_positive_voxels': int((mask & ~truth).sum()),
                'false_negative_voxels': int((truth & ~mask).sum()),
                'DSC': voxel_agreement(mask, truth)['DSC'],
            }
        )
    figure = save(
        panels,
        len(panels),
        out,
        'Where the models err together',
        f'{cut.words.capitalize()}. Yellow: reference, found; green: false positives; red: false '
        f'negatives of the mean mask (half of the models or more). {_SIDES}',
        f'FLAIR, reference and errors of {len(means)} mean masks on one slice.',
    )
    return figure, rows


def _mean_mask(masks: Iterable[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.asarray(np.mean(np.stack(list(masks)), axis=0) >= 0.5)


def _errors(wanted: Wanted) -> list[Path]:
    from mslesseg_app.reports.tabular import write_records

    flair, reference, masks = _compared(wanted)
    if not masks:
        raise NoInputError(f'{wanted.exam} has no mask of any model on the grid of the reference.')
    out = wanted.output / 'figure-3.svg'
    _, rows = mean_errors(flair, reference, masks, out)
    columns = {name: {'Description': name.replace('_', ' ') + '.'} for name in rows[0]}
    write_records(out.with_suffix('.tsv'), rows, columns)
    return [out, out.with_suffix('.tsv')]


# -------------------------------------------------------------------------- figure 4


def models_side_by_side(
    flair: Any, reference: Any, masks: Mapping[str, Any], out: Path
) -> tuple[Figure, list[dict[str, Any]]]:
    """Draw the FLAIR, the reference and each model's mask on the slice with most lesion."""
    volume = oriented(flair)
    truth = values(reference, volume, 'The reference') > 0
    found = masks_in(masks, volume)
    chosen = truth if truth.any() else np.logical_or.reduce([truth, *found.values()])
    cut = cut_through(volume, chosen)
    data = np.asarray(volume.data)
    panels = [panel(cut, data, 'FLAIR')]
    rows = []
    for name, mask in {'reference': truth, **found}.items():
        score = voxel_agreement(mask, truth)['DSC']
        drawn = panel(cut, data, name if name == 'reference' else f'{name}, DSC {score:.2f}')
        fill(drawn, cut, mask, TRUE_COLOUR if name == 'reference' else '#ff8c1a')
        panels.append(drawn)
        rows.append({'mask': name, 'voxels': int(mask.sum()), 'DSC': score})
    figure = save(
        panels,
        min(len(panels), 6),
        out,
        'Models side by side',
        f'{cut.words.capitalize()}; DSC is that of the whole volume. {_SIDES}',
        f'FLAIR, reference and {len(found)} models on one slice.',
    )
    return figure, rows


def _side_by_side(wanted: Wanted) -> list[Path]:
    from mslesseg_app.reports.tabular import write_records

    flair, reference, masks = _compared(wanted)
    out = wanted.output / 'figure-4.svg'
    _, rows = models_side_by_side(flair, reference, masks, out)
    columns = {name: {'Description': name.replace('_', ' ') + '.'} for name in rows[0]}
    write_records(out.with_suffix('.tsv'), rows, columns)
    return [out, out.with_suffix('.tsv')]


# ---------------------------------------------------------------------------- inputs


def _models(wanted: Wanted, key: str) -> dict[str, Path]:
    """Return the masks of the models that are wanted, by name."""
    found = files_by_model(wanted.out, named_exam(wanted.exam), key)
    lacking = [name for name in wanted.models if name not in found]
    if lacking:
        raise NoInputError(
            f'{wanted.exam} has no mask of {", ".join(lacking)} in {wanted.out}.',
            f'It has: {", ".join(found) or "none"}.',
        )
    return {name: found[name] for name in wanted.models} if wanted.models else found


def _template_lesions(wanted: Wanted) -> tuple[Any, str]:
    """Return lesions on the template grid: the reference where it lies there, else a model's."""
    if wanted.reference is not None:
        image = read_mask(wanted.reference)
        if is_template_grid(image):
            return image, 'reference mask'
    masks = _models(wanted, 'lesion_mni')
    if not masks:
        raise NoInputError(
            f'{wanted.exam} has no lesion mask on the template grid in {wanted.out}.',
            'Check --exam and --out.',
        )
    name = next(iter(masks))
    return read_mask(masks[name]), f'model {name}'


def _compared(wanted: Wanted) -> tuple[Any, Any, dict[str, Any]]:
    """Return FLAIR, reference and masks on the grid of the reference."""
    if wanted.reference is None:
        raise NoInputError(
            'This figure compares masks with a reference.', 'Give --reference FILE.'
        )
    reference = read_mask(wanted.reference)
    native = wanted.file('preproc_native', suffix='FLAIR')
    on_template = is_template_grid(reference)
    path = wanted.file('preproc_mni', suffix='FLAIR') if on_template else native
    flair = read_image(path)
    if not same_grid(flair, reference.shape, reference.affine):
        raise DataError(
            f'{wanted.reference} lies neither on the grid of {native.name} nor on the template.',
            'Resample it to one of them first.',
        )
    key = 'lesion_mni' if on_template else 'lesion_native'
    masks = {name: read_mask(file) for name, file in _models(wanted, key).items()}
    return flair, reference, masks
