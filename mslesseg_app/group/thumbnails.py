"""What is seen of each exam on the group report: a small image, and its lesions on the template.

Images are kept in ``group_figures/exams``, lesions in the work folder; both are made again only
when an image has changed.
"""

from __future__ import annotations

import io
import multiprocessing
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mslesseg_app.bids.exam import named_exam
from mslesseg_app.bids.names import output_path
from mslesseg_app.core.errors import DataError, DiskError
from mslesseg_app.core.files import write_bytes
from mslesseg_app.group.collect import Holdings, Key
from mslesseg_app.group.images import load_whole
from mslesseg_app.group.kept import read_kept, state_of, write_kept
from mslesseg_app.reports.slices import (
    OrientedVolume,
    bounding_box,
    foreground,
    grey_window,
    oriented,
    oriented_like,
    pixel_size,
    slice_plane,
    spread,
    to_grey,
)
from mslesseg_app.spatial.checks import UNREADABLE
from mslesseg_app.spatial.template import is_template_grid

#: Height of an image in pixels; three slices side by side.
HEIGHT = 112
_SLICES = 3
_GAP = 2
_QUALITY = 72
_LINE = (255, 196, 0)
_WORTH_EXAMS = 24


@dataclass(frozen=True)
class ViewTask:
    """Files of one exam.

    Attributes
    ----------
    image : Path
        Where the image is kept.
    mask, template_mask, flair, brain : Path or None
        Lesion mask on the native and on the template grid, FLAIR and brain mask.
    voxels : bytes or None
        Lesions on the template as they were found before, where the mask has not changed.
    """

    key: Key
    image: Path
    mask: Path | None
    template_mask: Path | None
    flair: Path | None
    brain: Path | None
    voxels: bytes | None = None

    @property
    def name(self) -> str:
        """What is kept of the exam is kept under this name."""
        return f'{self.key.exam}_desc-{self.key.model}'


@dataclass(frozen=True)
class Thumbnail:
    """What was made of an exam.

    Attributes
    ----------
    image : Path or None
        JPEG; None where there is nothing to show.
    voxels : bytes or None
        Lesion voxels on the template grid, see :func:`unpack`.
    problem : str
        Why something is missing.
    """

    key: Key
    image: Path | None = None
    voxels: bytes | None = None
    problem: str = ''


def shown_model(holdings: Holdings) -> str:
    """Return the model whose masks are shown: that of most exams, then the first by name."""
    counts = Counter(key.model for key in {*holdings.masks, *holdings.metrics})
    return min(counts, key=lambda name: (-counts[name], name)) if counts else ''


def view_tasks(holdings: Holdings, out: Path, folder: Path) -> list[ViewTask]:
    """List the exams and models that have a mask.

    Parameters
    ----------
    out : Path
        Output folder of the App.
    folder : Path
        Where images are kept.
    """
    tasks = []
    for key, masks in sorted(holdings.masks.items()):
        exam = named_exam(key.exam)
        flair = out / output_path(exam, 'preproc_native', suffix='FLAIR')
        brain = out / output_path(exam, 'brain_native')
        tasks.append(
            ViewTask(
                key=key,
                image=folder / f'{key.exam}_desc-{key.model}.jpg',
                mask=masks.get('orig'),
                template_mask=masks.get('MNI152NLin6Asym'),
                flair=flair if flair.is_file() else None,
                brain=brain if brain.is_file() else None,
            )
        )
    return tasks


def make_views(
    tasks: Sequence[ViewTask], nprocs: int, work: Path | None = None
) -> Iterator[Thumbnail]:
    """Process all exams, ``nprocs`` at a time where that is worth it.

    Parameters
    ----------
    work : Path, optional
        Work folder, which keeps the lesions for the next run.

    Yields
    ------
    View
        In the order of the tasks.

    Raises
    ------
    DiskError
        If a process was ended from outside, or an image cannot be written.
    """
    states = {task.name: state_of([task.template_mask] if task.template_mask else [])
              for task in tasks}  # fmt: skip
    before = read_kept(work, 'lesions') if work else {}
    known = [
        replace(task, voxels=before[task.name][1])
        if before.get(task.name, ('', b''))[0] == states[task.name]
        else task
        for task in tasks
    ]
    found: dict[str, tuple[str, bytes]] = {}
    for task, view in zip(known, _made(known, nprocs), strict=True):
        if view.voxels is not None:
            found[task.name] = (states[task.name], view.voxels)
        yield view
    if work and found != before:
        write_kept(work, 'lesions', found)


def _made(tasks: Sequence[ViewTask], nprocs: int) -> Iterator[Thumbnail]:
    fresh = sum(task.voxels is None or not _is_drawn(task) for task in tasks)
    if nprocs < 2 or fresh < _WORTH_EXAMS:
        yield from map(make_view, tasks)
        return
    context = multiprocessing.get_context('spawn')
    try:
        with ProcessPoolExecutor(min(nprocs, len(tasks)), mp_context=context) as pool:
            yield from pool.map(make_view, tasks, chunksize=4)
    except BrokenProcessPool as error:
        raise DiskError(
            'A process that draws exams was ended from outside.',
            'Probably the memory did not suffice; use fewer with --nprocs.',
        ) from error


def make_view(task: ViewTask) -> Thumbnail:
    """Draw one exam and read its lesions; what cannot be read is reported, not raised."""
    try:
        drawn = _drawn(task)
        return Thumbnail(task.key, drawn, task.voxels or _template_voxels(task.template_mask))
    except (*UNREADABLE, DataError) as error:
        return Thumbnail(task.key, problem=f'{task.key.exam} ({task.key.model}): {error}')


def _is_drawn(task: ViewTask) -> bool:
    """Return whether an image is there that is newer than all that it shows."""
    sources = [path for path in (task.mask, task.flair, task.brain) if path is not None]
    if task.mask is None or not task.image.is_file():
        return task.mask is None
    newest = max(path.stat().st_mtime_ns for path in sources)
    return task.image.stat().st_mtime_ns >= newest


def _drawn(task: ViewTask) -> Path | None:
    if task.mask is None:
        return None
    if not _is_drawn(task):
        task.image.unlink(missing_ok=True)
        write_bytes(task.image, _jpeg(_montage(task.mask, task.flair, task.brain)))
    return task.image


def _template_voxels(path: Path | None) -> bytes | None:
    if path is None:
        return None
    image = load_whole(path)
    if not is_template_grid(image):
        raise DataError(f'{path.name} does not lie on the template grid')
    lesion = np.asanyarray(image.dataobj) > 0
    # Files are in Fortran's order: looked through in that order, nothing is copied.
    places = np.unravel_index(np.flatnonzero(lesion.T), lesion.T.shape)
    return pack(np.ravel_multi_index(places[::-1], lesion.shape))


def pack(voxels: npt.NDArray[np.integer[Any]]) -> bytes:
    """Return flat indices (C order) of voxels in little room."""
    steps = np.diff(np.sort(voxels), prepend=0).astype('<i4')
    return zlib.compress(steps.tobytes(), 1)


def unpack(packed: bytes) -> npt.NDArray[np.int64]:
    """Return the flat indices that :func:`pack` was given, sorted."""
    return np.cumsum(np.frombuffer(zlib.decompress(packed), '<i4'), dtype=np.int64)


# ------------------------------------------------------------------------------ drawing


def _montage(
    mask_path: Path, flair_path: Path | None, brain_path: Path | None
) -> npt.NDArray[np.uint8]:
    """Draw three slices with the outlines of the lesions, shape (rows, columns, 3)."""
    lesions = oriented(load_whole(mask_path))
    mask = np.asarray(lesions.data) > 0
    axis = lesions.thick_axis
    if flair_path is None:
        grey, inside = np.zeros(mask.shape, np.float32), mask
    else:
        flair = oriented_like(load_whole(flair_path), lesions, flair_path.name)
        grey = np.asarray(flair.data, dtype=np.float32)
        inside = _inside(grey, brain_path, lesions)
    chosen = _chosen(mask, inside, axis)
    shown = tuple(chosen if each == axis else slice(None) for each in range(3))
    window = grey_window(grey[shown], inside[shown]) if flair_path else (0.0, 1.0)
    box = bounding_box(inside, lesions.spacing, 8.0)
    panels = []
    for index in chosen:
        plane, marked = (slice_plane(volume, axis, index, box) for volume in (grey, mask))
        panels.append(_panel(plane, marked, window, pixel_size(lesions, axis)))
        panels.append(np.zeros((HEIGHT, _GAP, 3), np.uint8))
    return np.concatenate(panels[:-1], axis=1)


def _inside(
    grey: npt.NDArray[np.float32], brain_path: Path | None, lesions: OrientedVolume
) -> npt.NDArray[np.bool_]:
    if brain_path is not None:
        brain = oriented_like(load_whole(brain_path), lesions, brain_path.name)
        if (inside := np.asarray(brain.data) > 0).any():
            return inside
    return foreground(grey)


def _chosen(mask: npt.NDArray[np.bool_], inside: npt.NDArray[np.bool_], axis: int) -> list[int]:
    """Choose slices at a sixth, a half and five sixths of the lesion volume."""
    others = tuple(one for one in range(3) if one != axis)
    areas = mask.sum(axis=others)
    if areas.any():
        share = np.cumsum(areas) / areas.sum()
        found = sorted({int(np.searchsorted(share, (2 * k + 1) / 6)) for k in range(_SLICES)})
        if len(found) == _SLICES:
            return found
    hit = np.flatnonzero(inside.any(axis=others))
    first, last = (int(hit[0]), int(hit[-1])) if hit.size else (0, mask.shape[axis] - 1)
    chosen = spread(first, last, _SLICES)
    if areas.any():
        best = int(areas.argmax())
        near = min(range(len(chosen)), key=lambda place: abs(chosen[place] - best))
        chosen[near] = best
    return chosen


def _panel(
    grey: npt.NDArray[Any],
    mask: npt.NDArray[Any],
    window: tuple[float, float],
    pixel: tuple[float, float],
) -> npt.NDArray[np.uint8]:
    from PIL import Image
    from scipy import ndimage

    rows, columns = grey.shape
    width = max(1, round(HEIGHT * columns * pixel[0] / (rows * pixel[1])))
    size = (width, HEIGHT)
    shown = Image.fromarray(to_grey(grey, window)).resize(size, Image.Resampling.BILINEAR)
    marked = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    drawn = np.repeat(np.asarray(shown)[:, :, None], 3, axis=2)
    lesion = np.asarray(marked) > 127
    drawn[ndimage.binary_dilation(lesion) & ~lesion] = _LINE
    return drawn


def _jpeg(drawn: npt.NDArray[np.uint8], quality: int = _QUALITY) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, 'JPEG', quality=quality, optimize=True)
    return buffer.getvalue()
