"""Multi-frame objects of several echoes, which dcm2niix does not always tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
from pydicom.encaps import encapsulate, generate_frames

from mslesseg_app.core.errors import DataError


def keep_echo(path: Path, echo: float) -> None:
    """Keep only the frames of one echo time in a multi-frame file.

    Parameters
    ----------
    path : Path
        The file; it is written anew.
    echo : float
        Echo time (ms).

    Raises
    ------
    DataError
        If the file has no such frames.
    """
    dataset = pydicom.dcmread(path)
    groups = list(dataset.get('PerFrameFunctionalGroupsSequence') or [])
    kept = [number for number, group in enumerate(groups) if abs(_echo(group) - echo) < 0.01]
    if not kept:
        raise DataError(f'it has no frames of the echo time {echo:g} ms')
    dataset.PixelData = _pixels(dataset, kept, len(groups))
    dataset.PerFrameFunctionalGroupsSequence = [groups[number] for number in kept]
    dataset.NumberOfFrames = len(kept)
    for gone in ('ExtendedOffsetTable', 'ExtendedOffsetTableLengths'):
        dataset.pop(gone, None)
    dataset.save_as(path)


def _echo(group: Any) -> float:
    items = group.get('MREchoSequence') or [{}]
    return float(items[0].get('EffectiveEchoTime') or -1)


def _pixels(dataset: Any, kept: list[int], frames: int) -> bytes:
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        packed = list(generate_frames(dataset.PixelData, number_of_frames=frames))
        whole: bytes = encapsulate([packed[number] for number in kept])
        return whole
    size = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    size *= int(dataset.get('SamplesPerPixel') or 1)
    return b''.join(dataset.PixelData[number * size : (number + 1) * size] for number in kept)
