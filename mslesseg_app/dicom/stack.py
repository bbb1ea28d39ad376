"""A DICOM series as a stack of slices in space, and which series an image was made from."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import InvalidDicomError
from scipy import ndimage

from mslesseg_app.core.errors import DataError, NoInputError
from mslesseg_app.dicom.geometry import order_slices

Floats = npt.NDArray[np.float64]

#: Corners of the two grids may lie this far apart (mm).
MAX_CORNER_MM = 0.1
#: Fine detail of an image and of the series that it came from correlates at least this much.
MIN_CORRELATION = 0.9
_SMOOTH_VOXELS = 2.0
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """The images of one series.

    Attributes
    ----------
    datasets : tuple
        One classic image a slice, or one multi-frame object, as read.
    slices : tuple of int
        Place in the stack of each image, or of each frame, in the order of `datasets`.
    shape : tuple of int
        Columns, rows, slices.
    affine : array (4, 4)
        Column, row and slice to RAS+ millimetres.
    """

    datasets: tuple[Any, ...]
    slices: tuple[int, ...]
    shape: tuple[int, int, int]
    affine: Floats

    @property
    def name(self) -> str:
        """Number, description and UID of the series, for messages."""
        head = self.datasets[0]
        text = f'{head.get("SeriesNumber", "")} {head.get("SeriesDescription", "")}'.strip()
        return f'{text or "without a name"} ({head.get("SeriesInstanceUID")})'

    def pixels(self) -> npt.NDArray[Any]:
        """Return the stored values, shape (columns, rows, slices).

        Raises
        ------
        DataError
            If they are packed in a way that nothing here can unpack.
        """
        try:
            frames = [np.asarray(dataset.pixel_array) for dataset in self.datasets]
        except (AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise DataError(f'The pixels of series {self.name} cannot be read: {error}') from error
        stored = frames[0] if frames[0].ndim == 3 else np.stack(frames)
        return stored[np.argsort(self.slices)].transpose(2, 1, 0)

    def frames(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array of this grid as frames (N, rows, columns) in order of `datasets`."""
        return np.ascontiguousarray(data.transpose(2, 1, 0)[list(self.slices)])


# ------------------------------------------------------------------------------ reading


def read_folder(folder: Path) -> dict[str, list[Any]]:
    """Read all images below a folder, by series UID.

    Raises
    ------
    NoInputError
        If the folder does not exist or holds no DICOM image.
    """
    if not folder.exists():
        raise NoInputError(f'{folder} does not exist.')
    series: dict[str, list[Any]] = {}
    for path in sorted(folder.rglob('*')) if folder.is_dir() else [folder]:
        dataset = _read_dataset(path) if path.is_file() else None
        if dataset is not None and 'PixelData' in dataset and 'SeriesInstanceUID' in dataset:
            series.setdefault(str(dataset.SeriesInstanceUID), []).append(dataset)
    if not series:
        raise NoInputError(
            f'{folder} holds no DICOM image.', 'Give the folder of the source FLAIR series.'
        )
    return series


def _read_dataset(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            return pydicom.dcmread(path)
        except (InvalidDicomError, OSError, ValueError, EOFError):
            return None


def make_stack(datasets: Sequence[Any]) -> Stack:
    """Put the images of one series in order.

    Raises
    ------
    DataError
        If they do not fill one regular grid: no geometry, two images at one place, slices
        missing, several orientations or sizes.
    """
    unique = {str(dataset.SOPInstanceUID): dataset for dataset in datasets}
    kept = tuple(unique.values())
    try:
        places = [place for dataset in kept for place in _frame_geometry(dataset)]
        sizes = {(int(d.Columns), int(d.Rows)) for d in kept}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f'it has no geometry ({error})') from error
    multi = [dataset for dataset in kept if int(dataset.get('NumberOfFrames') or 1) > 1]
    if len(sizes) > 1 or (multi and len(kept) > 1):
        raise DataError('it holds images of several sizes, or several multi-frame objects')
    return _stacked(kept, places, sizes.pop())


def _frame_geometry(dataset: Any) -> list[Floats]:
    """Return position, row and column direction, and pixel spacing of each frame (11 numbers)."""
    if int(dataset.get('NumberOfFrames') or 1) == 1 and 'ImagePositionPatient' in dataset:
        return [_numbers(dataset, dataset, dataset)]
    shared = dataset.SharedFunctionalGroupsSequence[0]
    found = []
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        position, orientation, measures = (
            (frame.get(f'{name}Sequence') or shared[f'{name}Sequence'].value)[0]
            for name in ('PlanePosition', 'PlaneOrientation', 'PixelMeasures')
        )
        found.append(_numbers(position, orientation, measures))
    return found


def _numbers(position: Any, orientation: Any, measures: Any) -> Floats:
    values = [
        *position.ImagePositionPatient,
        *orientation.ImageOrientationPatient,
        *measures.PixelSpacing,
    ]
    return np.array(values, dtype=np.float64)


def _stacked(kept: tuple[Any, ...], places: list[Floats], size: tuple[int, int]) -> Stack:
    table = np.array(places)
    if len(table) < 2 or not np.allclose(table[:, 3:], table[0, 3:], atol=1e-4):
        raise DataError('it is not one stack of parallel slices')
    row, column, spacing = table[0, 3:6], table[0, 6:9], table[0, 9:11]
    order, step = order_slices(table[:, :3], [*row, *column])
    affine = np.eye(4)
    affine[:3, 0] = row * spacing[1]
    affine[:3, 1] = column * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = table[order[0], :3]
    ranks = np.empty(len(table), dtype=int)
    ranks[order] = np.arange(len(table))
    return Stack(kept, tuple(map(int, ranks)), (*size, len(table)), _LPS_TO_RAS @ affine)


# ----------------------------------------------------------------------------- matching


def turned(data: npt.NDArray[Any], affine: Floats, stack: Stack) -> npt.NDArray[Any]:
    """Bring an array to the grid of a stack by turning and mirroring its axes alone.

    Parameters
    ----------
    data : array (X, Y, Z)
    affine : array (4, 4)
        Voxel indices to RAS+ millimetres.

    Returns
    -------
    array of the stack's shape

    Raises
    ------
    DataError
        If the grids differ: another shape, or corners more than `MAX_CORNER_MM` apart.
    """
    index = np.linalg.inv(stack.affine) @ affine
    turn = nb.orientations.io_orientation(index)
    moved = nb.orientations.apply_orientation(data, turn)
    if moved.shape != stack.shape:
        raise DataError(
            f'its grid is {_times(stack.shape)}, that of the mask {_times(data.shape)}'
        )
    place = index @ nb.orientations.inv_ornt_aff(turn, data.shape)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(stack.shape) - 1)
    points = np.c_[corners, np.ones(8)].T
    shift = np.linalg.norm((stack.affine @ (place @ points - points))[:3], axis=0).max()
    if shift > MAX_CORNER_MM:
        raise DataError(f'it lies elsewhere: corners of the two grids are {shift:.2f} mm apart')
    return np.asarray(moved)


def _times(shape: Iterable[int]) -> str:
    return ' × '.join(map(str, shape))


def detail_correlation(
    first: npt.NDArray[Any], second: npt.NDArray[Any], inside: npt.NDArray[np.bool_]
) -> float:
    """Return how the fine detail of two images of one grid correlates, -1 to 1.

    What is left of each after a Gaussian (2 voxels) is taken away hardly changes with bias
    correction or scaling, and changes with another contrast or another acquisition.
    """
    fine = []
    for image in (first, second):
        values = np.asarray(image, dtype=np.float32)
        fine.append((values - ndimage.gaussian_filter(values, _SMOOTH_VOXELS))[inside])
    if inside.sum() < 2 or any(part.std() == 0 for part in fine):
        return 0.0
    return float(np.corrcoef(*fine)[0, 1])


def find_source(
    series: dict[str, list[Any]],
    image: Any,
    flair: Any | None = None,
    brain: Any | None = None,
    uid: str = '',
) -> tuple[Stack, float | None]:
    """Find the series that an image was made from.

    Parameters
    ----------
    series : dict
        Of :func:`read_folder`.
    image : nibabel image
        The lesion mask.
    flair, brain : nibabel image, optional
        The FLAIR that the mask was drawn on and its brain mask, on the same grid: pixels are
        compared inside the brain.
    uid : str
        The series that is meant; otherwise all are tried.

    Returns
    -------
    stack : Stack
    correlation : float or None
        Of fine detail; None where no FLAIR was given.

    Raises
    ------
    DataError
        If no series fits, or several do.
    """
    fits, reasons = [], []
    for key, datasets in series.items():
        if uid and key != uid:
            continue
        try:
            stack = make_stack(datasets)
            fits.append((stack, _compare(stack, image, flair, brain)))
        except DataError as error:
            head = datasets[0]
            name = f'{head.get("SeriesNumber", "")} {head.get("SeriesDescription", "")}'.strip()
            reasons.append(f'series {name or key}: {error}')
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise DataError(
            f'The mask was not made from any of these series: {"; ".join(reasons) or "none"}.',
            'Give the folder of the very FLAIR series that was converted.',
        )
    names = ', '.join(stack.name for stack, _ in fits)
    raise DataError(f'Several series fit: {names}.', 'Name one with --series-uid.')


def _compare(stack: Stack, image: Any, flair: Any | None, brain: Any | None) -> float | None:
    turned(np.asanyarray(image.dataobj), image.affine, stack)
    if flair is None:
        return None
    inside = np.ones(stack.shape, dtype=bool)
    if brain is not None:
        inside = turned(np.asanyarray(brain.dataobj) > 0, brain.affine, stack)
    values = turned(np.asarray(flair.dataobj, dtype=np.float32), flair.affine, stack)
    found = detail_correlation(stack.pixels(), values, inside)
    if found < MIN_CORRELATION:
        raise DataError(
            f'its pixels are not those of the FLAIR (correlation of detail {found:.2f}, '
            f'at least {MIN_CORRELATION} is needed)'
        )
    return found
