"""Taking the face out of a head scan without touching the brain.

The face is a region of the template's space: what lies in front of and below a plane from the
forehead to the angles of the jaw, and the ears. An affine carries it to the image's own grid,
where the brain, as found in the image itself and with a rim around it, is left out of it. No
atlas of faces is needed, and the grid, the header and all other voxels stay as they are.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from scipy import ndimage as ndi

from mslesseg_app.core.errors import AlignmentError, DataError
from mslesseg_app.core.files import atomic_path
from mslesseg_app.spatial import quality
from mslesseg_app.spatial.affines import Affine, invert
from mslesseg_app.spatial.brain import brain_mask, looks_stripped
from mslesseg_app.spatial.exam_alignment import to_template
from mslesseg_app.spatial.resample import resample
from mslesseg_app.spatial.template import TEMPLATE_AFFINE, TEMPLATE_SHAPE, load_template

Bools = npt.NDArray[np.bool_]

#: Images with larger voxels (mm) in two directions are left alone: they show no face by which
#: anybody could be recognised, and cannot be aligned well. Thick slices alone do not matter.
COARSEST_MM = 2.2
TOO_COARSE = f'not defaced: its voxels are larger than {COARSEST_MM} mm in two directions'

#: Two points (y, z; mm) of the plane: on the forehead above the brows, behind the jaw's angles.
#: Nasion (0, 86, -48), eyes, cheeks, mouth and chin lie in front of it.
_FOREHEAD, _JAW = (75.0, 10.0), (10.0, -75.0)
#: Box (mm) of the ears, on both sides; the preauricular points are at (±86, -20, -48).
_EAR_X, _EAR_Y, _EAR_Z = 70.0, (-60.0, 8.0), (-85.0, -5.0)
#: Nothing within so much (mm) of the template's brain is face, or ear.
_FACE_FROM_BRAIN_MM, _EAR_FROM_BRAIN_MM = 5.0, 14.0
#: Rim (mm) around the brain of the image that stays too, as far as it is not farther than this
#: from the template's brain.
_RIM_MM, _RIM_REACH_MM = 5.0, 9.0
#: Grid of the region: wide enough for any head in the template's space (mm).
_REGION_MM = 2.0
_REGION_LOW, _REGION_HIGH = (-130.0, -170.0, -230.0), (130.0, 170.0, 130.0)


@dataclass(frozen=True)
class Face:
    """Where the face is in an image.

    Attributes
    ----------
    mask : ndarray of bool, shape of the image
        Voxels that must go.
    brain : ndarray of bool, same shape
        The brain; no voxel of it is in `mask`.
    remark : str
        Why the result should be reviewed; '' when there is no need.
    """

    mask: Bools
    brain: Bools
    remark: str


def why_not(img: Any) -> str:
    """Say why an image needs no defacing; '' if it needs it.

    Parameters
    ----------
    img : nibabel image, 3D
    """
    if sorted(nb.affines.voxel_sizes(img.affine))[1] > COARSEST_MM:
        return TOO_COARSE
    if looks_stripped(img):
        return 'not defaced: the image holds no more than the brain'
    return ''


def find_face(img: Any, *, seed: int = 1) -> Face:
    """Find the face in the image of a head.

    Parameters
    ----------
    img : nibabel image, 3D
        Any contrast.
    seed : int
        Of the sample points of the registration.

    Raises
    ------
    AlignmentError
        When the image cannot be aligned to the template in a way that can be trusted, so that
        it is not known where its face is.
    DataError
        When no brain is found.
    """
    moving_from_mni = to_template(img, seed).moving_from_reference
    judged = quality.check_alignment(img, moving_from_mni)
    if judged.status == 'fail':
        raise AlignmentError(
            'The face was not removed, because the image could not be aligned to the template '
            f'({judged.reason}).',
            'Check the image: is it a whole head, is its orientation right?',
        )
    protected, brain = _brains(img, moving_from_mni)
    mask = _carried(face_region(), img, moving_from_mni) & ~protected
    remark = f'defaced, check the result: {judged.reason}' if judged.reason else ''
    if not mask.any():
        remark = 'no face in the field of view'
    return Face(mask, brain, remark)


def deface_file(path: Path, out: Path, *, seed: int = 1) -> str:
    """Write an image without its face; all bytes but those of the face's voxels stay.

    Parameters
    ----------
    path : Path
        NIfTI file, ``.nii`` or ``.nii.gz``, of one volume.
    out : Path
        New file, or the same. Compressed, if its name says so, without name and time.
    seed : int
        See :func:`find_face`.

    Returns
    -------
    str
        What the user should know: why there was no need (``out`` is then a plain copy), or why
        the result should be reviewed; '' when there is nothing to say.

    Raises
    ------
    AlignmentError
        When the face cannot be found; ``out`` is not written.
    DataError
        When the file is damaged, holds several volumes, or no brain is found.
    """
    raw = _read_unpacked(path)
    img = _image(raw, path)
    remark = why_not(img)
    if not remark:
        face = find_face(img, seed=seed)
        raw, remark = _without(raw, face.mask), face.remark
    with atomic_path(out) as temporary:
        temporary.write_bytes(gzip.compress(raw, mtime=0) if out.suffix == '.gz' else raw)
    return remark


@cache
def face_region() -> Any:
    """Return the region of the face and the ears in the template's space (uint8 image)."""
    low, high = np.array(_REGION_LOW), np.array(_REGION_HIGH)
    shape = tuple(int(count) for count in (high - low) / _REGION_MM + 1)
    affine = np.diag([_REGION_MM, _REGION_MM, _REGION_MM, 1.0])
    affine[:3, 3] = low
    x, y, z = np.ogrid[tuple(slice(a, b + 1, _REGION_MM) for a, b in zip(low, high, strict=True))]
    far = _distance_from_brain(shape, affine)
    (front_y, front_z), (back_y, back_z) = _FOREHEAD, _JAW
    slope = (front_z - back_z) / (front_y - back_y)
    face = (z < front_z + slope * (y - front_y)) & (far > _FACE_FROM_BRAIN_MM)
    ears = (np.abs(x) > _EAR_X) & (far > _EAR_FROM_BRAIN_MM)
    for axis, (first, last) in ((y, _EAR_Y), (z, _EAR_Z)):
        ears &= (axis > first) & (axis < last)
    return nb.Nifti1Image((face | ears).astype(np.uint8), affine)


def _distance_from_brain(shape: tuple[int, ...], affine: Affine) -> npt.NDArray[np.float64]:
    """Return the distance (mm) of each point of a grid to the template's brain."""
    x, y, z = shape
    mask = resample(load_template().mask, (x, y, z), affine, np.eye(4), 'nearest')
    far: npt.NDArray[np.float64] = ndi.distance_transform_edt(
        np.asarray(mask.dataobj) == 0, sampling=_REGION_MM
    )
    return far


def _brains(img: Any, moving_from_mni: Affine) -> tuple[Bools, Bools]:
    """Return on the image's grid the brain with its rim, and the brain."""
    there = resample(img, TEMPLATE_SHAPE, TEMPLATE_AFFINE, moving_from_mni)
    brain = np.asarray(brain_mask({'image': there}).dataobj) > 0
    template_far = ndi.distance_transform_edt(np.asarray(load_template().mask.dataobj) == 0)
    rim = ndi.distance_transform_edt(~brain) <= _RIM_MM
    both = brain.astype(np.uint8)
    both[rim & (template_far <= _RIM_REACH_MM) & ~brain] = 2
    carried = _labels(nb.Nifti1Image(both, TEMPLATE_AFFINE), img, moving_from_mni)
    return carried > 0, carried == 1


def _carried(region: Any, img: Any, moving_from_mni: Affine) -> Bools:
    return _labels(region, img, moving_from_mni) > 0


def _labels(labels: Any, img: Any, moving_from_mni: Affine) -> npt.NDArray[np.uint8]:
    """Carry labels of the template's space to the grid of an image."""
    moved = resample(labels, img.shape[:3], img.affine, invert(moving_from_mni), 'nearest')
    found: npt.NDArray[np.uint8] = np.asarray(moved.dataobj)
    return found


# ------------------------------------------------------------------------------------- files

_NO_IMAGE = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    OSError,
    ValueError,
)


def _read_unpacked(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == '.gz' else raw
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f'{path} is damaged.', 'Is it complete? Copy it again.') from error


def _image(raw: bytes, path: Path) -> Any:
    """Return the image in the bytes of a file, of one volume."""
    try:
        img = nb.Nifti1Image.from_bytes(raw)
        img.dataobj.get_unscaled()
    except _NO_IMAGE as error:
        raise DataError(f'{path} is no NIfTI image, or a damaged one.') from error
    img = nb.funcs.squeeze_image(img)
    if len(img.shape) != 3:
        raise DataError(f'{path} has the shape {img.shape}, where a single volume is needed.')
    return img


def _without(raw: bytes, mask: Bools) -> bytes:
    """Return the bytes of a NIfTI file in which the voxels of a mask are zero."""
    header = nb.Nifti1Header(raw[:348], check=False)
    changed = bytearray(raw)
    stored: npt.NDArray[Any] = np.ndarray(
        mask.shape, header.get_data_dtype(), changed, int(header['vox_offset']), order='F'
    )
    slope, intercept = header.get_slope_inter()
    zero = -(intercept or 0.0) / (slope or 1.0)
    if stored.dtype.kind in 'iu':
        limits = np.iinfo(stored.dtype)
        zero = min(max(round(zero), limits.min), limits.max)
    stored[mask] = zero
    return bytes(changed)
