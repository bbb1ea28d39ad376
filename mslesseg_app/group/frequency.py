"""Where lesions are: the share of participants that have one at each location of the template."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from mslesseg_app.core.files import write_bytes, write_json
from mslesseg_app.group.thumbnails import Thumbnail, unpack
from mslesseg_app.reports.slices import bounding_box, grey_window, oriented, to_grey
from mslesseg_app.spatial.grids import compressed, on_template
from mslesseg_app.spatial.template import TEMPLATE_NAME, TEMPLATE_SHAPE, load_template

_SLICES_MM = (-46, -30, -14, 2, 14, 22, 30, 38, 46, 58)
_COLUMNS = 5
_BAR = 26
#: Colours from rare to frequent; light enough on grey, in order also without colour.
_COLOURS = np.array([[122, 4, 85], [200, 30, 60], [245, 120, 20], [255, 200, 40], [255, 255, 200]])


@dataclass(frozen=True)
class Frequency:
    """Map of one model.

    Attributes
    ----------
    share : float32 array, shape of the template
        Mean over participants of the share of their exams with a lesion there, 0 to 1.
    """

    model: str
    share: npt.NDArray[np.float32]
    participants: int
    exams: int

    @property
    def peak(self) -> tuple[float, tuple[int, int, int]]:
        """Largest share, and where: x, y, z in mm (RAS)."""
        place = np.unravel_index(int(self.share.argmax()), self.share.shape)
        affine = load_template().brain.affine
        x, y, z = np.rint(nb.affines.apply_affine(affine, np.array(place))).astype(int)
        return float(self.share.max()), (int(x), int(y), int(z))


class FrequencySum:
    """The lesions of all exams that have a mask on the template grid, added up by model.

    Each participant counts once, however many exams there are. Only the lesions of one
    participant are held at a time.
    """

    def __init__(self) -> None:
        self._totals: dict[str, npt.NDArray[np.float32]] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._subject = ''
        self._open: dict[str, list[bytes]] = {}

    def add(self, view: Thumbnail) -> None:
        """Add an exam; those of a participant follow each other."""
        if view.voxels is None:
            return
        if view.key.subject != self._subject:
            self._close()
            self._subject = view.key.subject
        self._open.setdefault(view.key.model, []).append(view.voxels)

    def _close(self) -> None:
        for model, exams in self._open.items():
            if model not in self._totals:
                self._totals[model] = np.zeros(int(np.prod(TEMPLATE_SHAPE)), dtype=np.float32)
            for voxels in exams:
                self._totals[model][unpack(voxels)] += np.float32(1 / len(exams))
            people, number = self._counts.get(model, (0, 0))
            self._counts[model] = people + 1, number + len(exams)
        self._open = {}

    def maps(self) -> list[Frequency]:
        """Return the map of each model, sorted by name."""
        self._close()
        return [
            Frequency(model, (total / np.float32(people)).reshape(TEMPLATE_SHAPE), people, number)
            for model, total in sorted(self._totals.items())
            for people, number in [self._counts[model]]
        ]


def write_frequency(found: Frequency, folder: Path) -> tuple[Path, Path]:
    """Write a map as NIfTI with its sidecar, and its figure.

    Returns
    -------
    image, figure : Path
        ``<model>.nii.gz`` and ``<model>.jpg``.
    """
    image, drawing = (folder / f'{found.model}.{end}' for end in ('nii.gz', 'jpg'))
    write_bytes(image, compressed(on_template(found.share, np.float32)))
    write_json(
        folder / f'{found.model}.json',
        {
            'Description': 'Share of participants with a lesion, 0 to 1; each participant counts '
            'once, with the mean of the exams.',
            'Model': found.model,
            'Participants': found.participants,
            'Exams': found.exams,
            'SpatialReference': TEMPLATE_NAME,
        },
    )
    write_bytes(drawing, draw(found))
    return image, drawing


def draw(found: Frequency) -> bytes:
    """Draw axial slices of the template with the map over them, as JPEG."""
    from PIL import Image, ImageDraw

    template = load_template()
    volume = oriented(template.brain)
    share = np.asarray(oriented(on_template(found.share, np.float32)).data)
    inside = np.asarray(oriented(template.mask).data) > 0
    box = bounding_box(inside, volume.spacing, 3.0)
    window = grey_window(volume.data, inside, (0.0, 99.9))
    top = max(float(share.max()), 1e-6)
    zero = round(-volume.affine[2, 3])
    tiles = [_tile(volume.data, share, box, zero + place, window, top) for place in _SLICES_MM]
    rows = [
        np.concatenate(tiles[k : k + _COLUMNS], axis=1) for k in range(0, len(tiles), _COLUMNS)
    ]
    sheet = np.concatenate([*rows, np.zeros((_BAR, rows[0].shape[1], 3), np.uint8)])
    image = Image.fromarray(sheet)
    pen = ImageDraw.Draw(image)
    height, width = tiles[0].shape[:2]
    for place, millimetres in enumerate(_SLICES_MM):
        corner = (place % _COLUMNS * width + 4, place // _COLUMNS * height + 2)
        pen.text(corner, f'z = {millimetres}', fill=(230, 230, 230))
    _draw_bar(image, pen, top)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=85, optimize=True)
    return buffer.getvalue()


def _tile(
    grey: npt.NDArray[Any],
    share: npt.NDArray[np.float32],
    box: tuple[slice, slice, slice],
    index: int,
    window: tuple[float, float],
    top: float,
) -> npt.NDArray[np.uint8]:
    from mslesseg_app.reports.slices import slice_plane

    drawn = np.repeat(to_grey(slice_plane(grey, 2, index, box), window)[:, :, None], 3, axis=2)
    values = np.asarray(slice_plane(share, 2, index, box))
    hit = values > 0
    drawn[hit] = colours(values[hit] / top)
    return drawn


def colours(values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Return colours (N, 3) of values from 0 to 1."""
    places = np.linspace(0, 1, len(_COLOURS))
    mixed = [np.interp(np.asarray(values), places, _COLOURS[:, k]) for k in range(3)]
    return np.stack(mixed, axis=-1).round().astype(np.uint8)


def _draw_bar(image: Any, pen: Any, top: float) -> None:
    from PIL import Image

    width, height = image.size
    bar = np.repeat(colours(np.linspace(0, 1, 200))[None], 12, axis=0)
    left = (width - 200) // 2
    image.paste(Image.fromarray(bar), (left, height - _BAR + 8))
    pen.text((left - 24, height - _BAR + 8), '0 %', fill=(230, 230, 230))
    pen.text((left + 208, height - _BAR + 8), f'{100 * top:.3g} %', fill=(230, 230, 230))
