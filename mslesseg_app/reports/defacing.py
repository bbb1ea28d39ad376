"""A figure that shows what defacing took out of a head."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage as ndi

from mslesseg_app.core.files import atomic_path
from mslesseg_app.reports.slices import (
    OrientedVolume,
    foreground,
    grey_window,
    oriented,
    pixel_size,
    slice_plane,
    to_grey,
)
from mslesseg_app.spatial.deface import deface_file

#: Pixels of a millimetre, and of the space between the panels.
_ZOOM, _SPACE = 1.5, 6
_SAGITTAL, _CORONAL = 0, 1
#: Light comes from the front, above and the right.
_LIGHT = np.array([0.35, 0.45, 0.82])
_SMOOTH_MM = 1.5


def deface_with_figure(path: Path, out: Path, image_of_both: Path, **options: Any) -> str:
    """Deface a file, and draw a sagittal slice and the surface before (above) and after (below).

    The image shows the face: it is for the owner of the scan only, is made readable by
    nobody else, and must not be put into a dataset that is shared.

    Parameters
    ----------
    path, out : Path
        See :func:`mslesseg_app.spatial.deface.deface_file`, also for the errors raised.
    image_of_both : Path
        New PNG file. It is not written where there was no need to deface.
    **options
        Further arguments of ``deface_file``.

    Returns
    -------
    str
        What ``deface_file`` returns.
    """
    before = _load_oriented(path)
    remark = deface_file(path, out, **options)
    after = _load_oriented(out)
    if not np.array_equal(before.data, after.data):
        drawn = draw(before, after)
        with atomic_path(image_of_both) as temporary:
            Image.fromarray(drawn).save(temporary, format='PNG')
        os.chmod(image_of_both, 0o600)
    return remark


def draw(before: OrientedVolume, after: OrientedVolume) -> NDArray[np.uint8]:
    """Return the image (grey values, rows by columns) of two volumes on one grid."""
    head = foreground(before.data)
    window = grey_window(before.data, head)
    threshold = 0.5 * float(np.median(np.asarray(before.data, dtype=np.float32)[head]))
    rows = [
        np.hstack([_slice(volume, window), _space(volume), _surface(volume, threshold)])
        for volume in (before, after)
    ]
    return np.vstack([rows[0], np.zeros((_SPACE, rows[0].shape[1]), np.uint8), rows[1]])


def _load_oriented(path: Path) -> OrientedVolume:
    volume = oriented(nb.funcs.squeeze_image(nb.load(path)))
    return OrientedVolume(np.array(volume.data), volume.affine, volume.spacing)


def _slice(volume: OrientedVolume, window: tuple[float, float]) -> NDArray[np.uint8]:
    whole = (slice(None), slice(None), slice(None))
    middle = volume.data.shape[_SAGITTAL] // 2
    plane = slice_plane(volume.data, _SAGITTAL, middle, whole)
    return _scaled(to_grey(plane, window), pixel_size(volume, _SAGITTAL))


def _surface(volume: OrientedVolume, threshold: float) -> NDArray[np.uint8]:
    """View the head from the front: shade of the first voxel of the head on each ray."""
    values = np.nan_to_num(np.asarray(volume.data, dtype=np.float32))
    width, height = pixel_size(volume, _CORONAL)
    head = values > threshold
    labels, _ = ndi.label(head)
    head = labels == np.argmax(np.bincount(labels[head])) if head.any() else head
    depth = np.argmax(head[:, ::-1], axis=_CORONAL) * volume.spacing[_CORONAL]
    hit = head.any(axis=_CORONAL)
    smooth = ndi.gaussian_filter(depth, (_SMOOTH_MM / width, _SMOOTH_MM / height))
    slope_x, slope_z = np.gradient(smooth, width, height)
    normal = np.stack([slope_x, slope_z, np.ones_like(smooth)])
    normal /= np.linalg.norm(normal, axis=0)
    light = np.clip(np.tensordot(_LIGHT / np.linalg.norm(_LIGHT), normal, axes=1), 0.05, 1.0)
    shade = np.round(255 * light * hit).astype(np.uint8)
    return _scaled(shade.T[::-1, ::-1], (width, height))


def _space(volume: OrientedVolume) -> NDArray[np.uint8]:
    height = pixel_size(volume, _SAGITTAL)[1] * volume.data.shape[2]
    return np.zeros((round(height * _ZOOM), _SPACE), np.uint8)


def _scaled(plane: NDArray[np.uint8], size_mm: tuple[float, float]) -> NDArray[np.uint8]:
    rows, columns = plane.shape
    size = round(columns * size_mm[0] * _ZOOM), round(rows * size_mm[1] * _ZOOM)
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size))
