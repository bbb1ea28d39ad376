"""Writing images on a grid that stays what it was: the subject's own, RAS+, or the template's."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

_ALIGNED_CODE = 4


def like(reference: Any, data: npt.NDArray[Any], dtype: npt.DTypeLike) -> nb.Nifti1Image:
    """Make an image on the grid of another, with its qform, sform and codes bit for bit.

    Parameters
    ----------
    reference : nibabel.Nifti1Image
        Gives shape, affines and units; its description, scaling and extensions are dropped.
    data : array (X, Y, Z)
        Values of the new image.
    dtype : dtype
        On-disk type; ``data`` is converted to it.
    """
    header = reference.header.copy()
    header.extensions.clear()
    for name in ('descrip', 'intent_name', 'aux_file', 'db_name'):
        if name in header:
            header[name] = b''
    header['cal_min'] = header['cal_max'] = 0
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    header.set_data_shape(data.shape)
    header.set_xyzt_units('mm')
    return type(reference)(np.asarray(data, dtype=dtype), None, header)


def on_template(data: npt.NDArray[Any], dtype: npt.DTypeLike) -> nb.Nifti1Image:
    """Make an image on the 1 mm grid of MNI152NLin6Asym, both codes 4 (MNI 152)."""
    from .template import TEMPLATE_AFFINE

    image = nb.Nifti1Image(np.asarray(data, dtype=dtype), TEMPLATE_AFFINE)
    image.header.set_data_dtype(dtype)
    image.header.set_xyzt_units('mm')
    image.set_qform(TEMPLATE_AFFINE, _ALIGNED_CODE)
    image.set_sform(TEMPLATE_AFFINE, _ALIGNED_CODE)
    return image


def to_ras(image: Any) -> nb.Nifti1Image:
    """Permute and flip the axes so that they run closest to right, anterior, superior."""
    turned = nb.as_closest_canonical(image)
    return nb.Nifti1Image(np.ascontiguousarray(turned.dataobj), turned.affine)


def from_ras(image: Any, original: Any) -> npt.NDArray[Any]:
    """Undo :func:`to_ras`: return the data of ``image`` in the axis order of ``original``."""
    here = nb.io_orientation(image.affine)
    there = nb.io_orientation(original.affine)
    turn = nb.orientations.ornt_transform(here, there)
    return np.ascontiguousarray(nb.orientations.apply_orientation(image.dataobj, turn))


def save(image: Any, path: Path) -> str:
    """Write an image and return its path as text, as Nipype wants it."""
    image.to_filename(path)
    return str(path)


def compressed(image: Any, level: int = 5) -> bytes:
    """Return ``.nii.gz`` whose gzip header has neither time nor name: same data, same bytes."""
    return gzip.compress(image.to_bytes(), compresslevel=level, mtime=0)


def describe_geometry(image: Any) -> str:
    """Return the grid in words, ``256 × 256 × 48 voxels of 0.94 × 0.94 × 3 mm``."""
    shape = ' × '.join(str(length) for length in image.shape[:3])
    zooms = ' × '.join(f'{zoom:.3g}' for zoom in image.header.get_zooms()[:3])
    return f'{shape} voxels of {zooms} mm'
