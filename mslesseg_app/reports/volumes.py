"""Images made small enough to lie in a report: cropped, quantised, packed as text.

What comes out is meant for eyes, not for measuring.  Images keep their own voxels unless the
room is short; labels always keep them.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nb
import numpy as np
from numpy.typing import NDArray

from mslesseg_app.reports.slices import OrientedVolume, grey_window

#: Grey levels that are tried, and after them larger voxels.
_LEVELS = (128, 64)
_POOLING = (1, 2, 3, 4)
#: Percentiles of the brain that are first shown black and white.
_WINDOW = (1.0, 99.5)
#: Percentiles of all that is seen which are kept, so that the window can be widened.
_KEPT = (0.5, 99.95)
#: NIfTI intent of label images.
_LABEL_INTENT = 1002
#: Axes whose voxels are shorter than this many times the shortest are pooled together.
_LIKE = 1.6


@dataclass(frozen=True)
class Packed:
    """An image as a report carries it.

    Attributes
    ----------
    header : str
        Base64 of a NIfTI-1 header with its extension flag (352 bytes).
    data : str
        Base64 of the zlib stream of the voxels, first axis fastest.
    delta : bool
        Each byte is kept as its difference from the byte before, modulo 256.
    high : float
        The value that is first shown brightest.
    low : float
        The value that is first shown darkest.
    levels : int
        Grey levels that are kept.
    """

    header: str
    data: str
    delta: bool
    high: float
    low: float = 0.0
    levels: int = 0

    @property
    def size(self) -> int:
        """Bytes that it takes in the report."""
        return len(self.header) + len(self.data)

    def to_dict(self) -> dict[str, Any]:
        """Return what the script of the report reads."""
        return {
            'header': self.header,
            'data': self.data,
            'delta': self.delta,
            'high': self.high,
            'low': self.low,
        }


def pack_image(
    volume: OrientedVolume, inside: NDArray[np.bool_], brain: NDArray[np.bool_], room: int
) -> Packed | None:
    """Pack an image in grey levels; outside of ``inside`` it becomes black.

    Parameters
    ----------
    volume : OrientedVolume
    inside : bool array (X, Y, Z)
        What shall be seen, on the grid of ``volume``.
    brain : bool array (X, Y, Z)
        What sets the window that is shown first.
    room : int
        Bytes that it may take. Fewer grey levels are tried first, then larger voxels.

    Returns
    -------
    Packed or None
        None where it does not fit.
    """
    window = grey_window(volume.data, brain if brain.any() else inside, _WINDOW)
    widest = grey_window(volume.data, inside, _KEPT)
    low, high = min(widest[0], window[0]), max(widest[1], window[1])
    scaled = np.clip((np.nan_to_num(volume.data.astype(np.float32)) - low) / (high - low), 0, 1)
    shown = [(value - low) / (high - low) for value in window]
    for factor in _POOLING:
        grey, affine = pooled(scaled, volume, factor)
        seen, _ = pooled(inside.astype(np.float32), volume, factor)
        for levels in _LEVELS:
            # 1 is the darkest that is seen; 0 stays transparent
            shades = np.where(seen >= 0.5, 1 + np.round(grey * (levels - 2)), 0)
            packed = _pack(shades.astype(np.uint8), affine, delta=True, high=levels - 1)
            if packed.size <= room:
                black, white = (round(1 + share * (levels - 2), 1) for share in shown)
                return replace(packed, low=black, high=white, levels=levels)
    return None


def pack_map(
    volume: OrientedVolume, inside: NDArray[np.bool_], room: int, *, top: float
) -> Packed | None:
    """Pack a map of small numbers, such as probabilities, from 0 to ``top`` in 64 steps.

    Values keep their meaning: the header has the slope that gives them back.
    """
    share = np.clip(np.nan_to_num(volume.data.astype(np.float32)) / max(top, 1e-6), 0, 1)
    for factor in _POOLING:
        steps, affine = pooled(np.where(inside, share, 0), volume, factor)
        packed = _pack(
            np.round(63 * steps).astype(np.uint8), affine, delta=False, high=top, slope=top / 63
        )
        if packed.size <= room:
            return packed
    return None


def pack_labels(volume: OrientedVolume) -> Packed:
    """Pack a label image without any loss."""
    labels = np.asarray(volume.data)
    kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    return _pack(
        labels.astype(kind),
        volume.affine,
        delta=False,
        high=float(labels.max(initial=1)),
        intent=_LABEL_INTENT,
    )


def pooled(
    data: NDArray[np.floating], volume: OrientedVolume, factor: int
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Average blocks of voxels along the finely sampled axes.

    Returns
    -------
    data : float array
    affine : float array (4, 4)
        Voxel to RAS+ mm of the larger voxels.
    """
    if factor == 1:
        return data, volume.affine
    fine = volume.spacing < _LIKE * volume.spacing.min()
    steps = np.where(fine, factor, 1)
    shape = [-(-size // step) for size, step in zip(data.shape, steps, strict=True)]
    missing = [
        (0, n * step - size) for n, step, size in zip(shape, steps, data.shape, strict=True)
    ]
    blocks = np.pad(data, missing, mode='edge').reshape(
        [number for n, step in zip(shape, steps, strict=True) for number in (n, step)]
    )
    grow = np.diag([*steps.astype(float), 1.0])
    grow[:3, 3] = (steps - 1) / 2
    return blocks.mean(axis=(1, 3, 5)), volume.affine @ grow


def _pack(
    data: NDArray[np.unsignedinteger],
    affine: NDArray[np.float64],
    *,
    delta: bool,
    high: float,
    slope: float = 1.0,
    intent: int = 0,
) -> Packed:
    header = nb.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=0, strip_shears=True)
    header.set_zooms(nb.affines.voxel_sizes(affine))
    header.set_xyzt_units('mm')
    header['scl_slope'], header['scl_inter'] = slope, 0
    header['intent_code'] = intent
    header['vox_offset'], header['magic'] = 352, b'n+1'
    raw = np.frombuffer(data.astype(data.dtype.newbyteorder('<')).tobytes(order='F'), np.uint8)
    if delta:
        raw = np.diff(raw, prepend=np.uint8(0))  # wraps, as the report's running sum does
    return Packed(
        header=_base64(header.binaryblock + bytes(4)),
        data=_base64(zlib.compress(raw.tobytes(), 9)),
        delta=delta,
        high=high,
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode('ascii')
